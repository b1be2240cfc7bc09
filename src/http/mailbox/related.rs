//! Whom an agent knows, as its polls tell it.
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::{asking, people};
use crate::actors::agent_mailbox::Related;
use crate::domain::agent::AgentFacts;
use crate::domain::error::Error;
use crate::domain::ids::AgentId;
use crate::domain::member::{HUMAN, Relationship};
use crate::http::state::AppState;
use crate::store::Db;
use crate::store::relationships::{self, Called};

/// Relationships that are told; the settings allow no more.
const ROWS_MAX: i64 = 10_000;

/// A person or an agent that an agent knows.
#[derive(Serialize, ToSchema)]
#[schema(as = KnownToAgent)]
pub(super) struct View {
    name: String,
    /// `human` or `agent`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// What it is to the agent, for example `collaborator`.
    role: String,
    description: Option<String>,
    /// By what it can be reached now: an agent by `agent`.
    channels: Vec<&'static str>,
}

impl View {
    fn of(relationship: Relationship, kind: &'static str, name: String, channels: Vec<&'static str>) -> Self {
        Self { name, kind, role: relationship.relation, description: relationship.description, channels }
    }
}

/// Returns whom an agent knows, people first. It is read when the mailbox was just opened or something has changed.
pub(super) async fn of(state: &AppState, agent: &Arc<AgentFacts>) -> Result<Arc<Related>, Error> {
    let card = asking::card(state, agent).await?;
    card.related(read(state, agent.id)).await
}

async fn read(state: &AppState, id: AgentId) -> Result<Related, Error> {
    let read = move |db: &mut Db| {
        let people = relationships::people(db, id, Called::Anyhow, ROWS_MAX)?;
        Ok::<_, Error>((people, relationships::agents(db, id, Called::Anyhow, ROWS_MAX)?))
    };
    let (people, agents) = state.store.read(read).await?;
    let people = people
        .into_iter()
        .map(|(known, person)| View::of(known, HUMAN, person.name, people::channels(state, &person.addresses)));
    let agents = agents.into_iter().map(|(known, agent)| View::of(known, "agent", agent.name, vec!["agent"]));
    let all: Vec<View> = people.chain(agents).collect();
    Related::of(&all)
}
