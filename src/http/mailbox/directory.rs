//! The directory: whom an agent may write to.
use std::collections::HashSet;

use actix_web::{HttpResponse, get, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::key::KeyCall;
use super::people;
use crate::config::Reach;
use crate::domain::agent::{Agent, fold};
use crate::domain::error::Error;
use crate::domain::ids::AgentId;
use crate::domain::member::{Member, Relationship};
use crate::http::error::ErrorBody;
use crate::http::page;
use crate::http::presence::Presence;
use crate::http::state::AppState;
use crate::store::relationships::{self, Called};
use crate::store::{Db, agents};

/// Rows of each of the two lists, by default and at most.
const ROWS_DEFAULT: usize = 50;
const ROWS_MAX: usize = 100;
/// Longest text that is looked for, in characters.
const CHARS_MAX: usize = 128;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Only those who have this in their name, in any case.
    #[param(max_length = 128)]
    q: Option<String>,
    /// Agents at most, and people at most; 50 by default.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

/// Whom an agent may write to.
#[derive(Serialize, ToSchema)]
#[schema(as = AgentDirectory)]
pub(super) struct Answer {
    /// Those whom it has a relationship to first.
    agents: Vec<AgentView>,
    people: Vec<PersonView>,
    /// There are more agents than are listed: a longer part of the name finds them.
    more_agents: bool,
    /// The same of people.
    more_people: bool,
}

/// Another agent.
#[derive(Serialize, ToSchema)]
#[schema(as = DirectoryAgent)]
pub(super) struct AgentView {
    id: String,
    slug: String,
    name: String,
    /// `openclaw` or `native`.
    #[serde(rename = "type")]
    kind: &'static str,
    role_description: String,
    /// It called in the last five minutes.
    online: bool,
    /// The caller has a relationship to it.
    related: bool,
}

impl AgentView {
    fn of(agent: Agent, related: bool, state: &AppState) -> Self {
        Self {
            online: Presence::of(&agent, state).is_online,
            id: agent.id.to_string(),
            slug: agent.slug,
            name: agent.name,
            kind: agent.kind.as_str(),
            role_description: agent.role_description,
            related,
        }
    }
}

/// A person whom the caller has a relationship to.
#[derive(Serialize, ToSchema)]
#[schema(as = DirectoryPerson)]
pub(super) struct PersonView {
    name: String,
    /// What it is to the caller.
    role: String,
    description: Option<String>,
    /// By what it can be reached now.
    channels: Vec<&'static str>,
}

impl PersonView {
    fn of((known, person): (Relationship, Member), state: &AppState) -> Self {
        Self {
            name: person.name,
            role: known.relation,
            description: known.description,
            channels: people::channels(state, &person.addresses),
        }
    }
}

/// What is looked for.
struct Search {
    caller: AgentId,
    reach: Reach,
    /// Folded, as the names; nothing: everybody.
    part: Option<String>,
    rows: usize,
}

/// Those who were found.
struct Found {
    /// Each with whether the caller knows it.
    agents: Vec<(Agent, bool)>,
    people: Vec<(Relationship, Member)>,
    more_agents: bool,
    more_people: bool,
}

/// Find out whom you may write to.
#[utoipa::path(
    tag = "mailbox",
    operation_id = "agentDirectory",
    security(("agentKey" = [])),
    params(Asked),
    responses((status = 200, body = Answer), (status = "default", body = ErrorBody))
)]
#[get("/api/gateway/directory")]
pub(super) async fn directory(call: KeyCall<Asked>, state: web::Data<AppState>) -> Result<HttpResponse, Error> {
    let search = Search {
        caller: call.key.agent.id,
        reach: state.config.mailbox.reach,
        part: part(call.query.q.as_deref())?,
        rows: page::rows(call.query.limit, ROWS_DEFAULT, ROWS_MAX)?,
    };
    let found = state.store.read(move |db| search.run(db)).await?;
    let answer = Answer {
        agents: found.agents.into_iter().map(|(agent, related)| AgentView::of(agent, related, &state)).collect(),
        people: found.people.into_iter().map(|one| PersonView::of(one, &state)).collect(),
        more_agents: found.more_agents,
        more_people: found.more_people,
    };
    Ok(HttpResponse::Ok().json(answer))
}

fn part(q: Option<&str>) -> Result<Option<String>, Error> {
    let Some(text) = q.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    if text.chars().count() > CHARS_MAX {
        let message = format!("`q` must not be longer than {CHARS_MAX} characters");
        return Err(Error::invalid_at("query", "q", message, "value_error"));
    }
    Ok(Some(fold(text)))
}

impl Search {
    fn run(&self, db: &mut Db) -> Result<Found, Error> {
        let called = self.part.as_deref().map_or(Called::Anyhow, Called::Part);
        let rows = self.rows as i64;
        let mut people = relationships::people(db, self.caller, called, rows + 1)?;
        let more_people = page::cut(&mut people, self.rows);
        let known = relationships::agents(db, self.caller, called, rows + 1)?;
        let mut agents: Vec<(Agent, bool)> = known.into_iter().map(|(_, agent)| (agent, true)).collect();
        let mut more_agents = page::cut(&mut agents, self.rows);
        if !more_agents && self.reach == Reach::All {
            // All that it knows were found: so many more, and itself, may be among those that are read. One more tells
            // whether somebody is left out.
            let not_again: HashSet<AgentId> = agents.iter().map(|(agent, _)| agent.id).chain([self.caller]).collect();
            let more = rows + 2;
            let others = match &self.part {
                Some(part) => agents::part_of_name(db, part, more)?,
                None => agents::page(db, None, more)?,
            };
            let others = others.into_iter().filter(|agent| !not_again.contains(&agent.id));
            agents.extend(others.map(|agent| (agent, false)));
            more_agents = page::cut(&mut agents, self.rows);
        }
        Ok(Found { agents, people, more_agents, more_people })
    }
}
