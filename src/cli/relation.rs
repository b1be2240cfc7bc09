//! `agent know`, `known` and `forget`: which people and which other agents an agent knows.
use std::collections::HashMap;

use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, Reach, escaped, reach};
use super::failure::Failure;
use super::offline::{self, Offline};
use super::output::{columns, json as print_json, say, text};
use super::{Format, agent};
use crate::config::Config;
use crate::domain::error::Error;
use crate::domain::member::{HUMAN, Known, Relationship};
use crate::domain::time::iso;
use crate::store::relationships::{self, AddRelationship, RemoveRelationship};
use crate::store::{agents, members};

/// The API's bounds.
const RELATION_CHARS_MAX: usize = 50;
const DESCRIPTION_CHARS_MAX: usize = 1_000;

#[derive(Debug, Args)]
pub(super) struct Know {
    /// The agent: its id, its slug, or its name
    agent: String,
    /// Whom it is to know: the id or the name of a person, or of another agent, or its slug
    whom: String,
    /// What this one is to the agent, for example `boss`
    relation: String,
    /// What else there is to say of it; the agent reads it
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Of {
    /// The agent: its id, its slug, or its name
    agent: String,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Forget {
    /// The agent: its id, its slug, or its name
    agent: String,
    /// Whom it is not to know any more: the id or the name of a person, or of another agent, or its slug
    whom: String,
    #[command(flatten)]
    format: Format,
}

/// A person or an agent.
struct Somebody {
    known: Known,
    /// A person has none.
    slug: Option<String>,
    name: String,
}

impl Somebody {
    fn id(&self) -> String {
        match self.known {
            Known::Member(id) => id.to_string(),
            Known::Agent(id) => id.to_string(),
        }
    }

    fn is_called(&self, named: &str) -> bool {
        self.name == named || self.slug.as_deref() == Some(named)
    }
}

/// Chooses among all that there are.
fn chosen(named: &str, all: Vec<Somebody>) -> Result<Somebody, Failure> {
    only(named, all)?.ok_or_else(|| {
        Failure::new(format!(
            "nobody is called `{named}`; `clawbroker member list` and `clawbroker agent list` show who there is"
        ))
    })
}

/// Finds the one of this id, else the only one that is called so.
fn only(named: &str, mut all: Vec<Somebody>) -> Result<Option<Somebody>, Failure> {
    if let Some(place) = all.iter().position(|one| one.id() == named) {
        return Ok(Some(all.swap_remove(place)));
    }
    all.retain(|one| one.is_called(named));
    let Some(first) = all.pop() else { return Ok(None) };
    if all.is_empty() {
        return Ok(Some(first));
    }
    let mut ids: Vec<String> = all.iter().map(Somebody::id).collect();
    ids.push(first.id());
    ids.sort_unstable();
    Err(Failure::new(format!("several are called `{named}`: name one by its id: {}", ids.join(", "))))
}

/// Lets an agent know somebody.
pub(super) async fn know(config: &Config, know: &Know) -> Result<(), Failure> {
    let relation = know.relation.trim();
    let chars = relation.chars().count();
    if !(1..=RELATION_CHARS_MAX).contains(&chars) || relation.chars().any(char::is_control) {
        return Err(Failure::usage(format!(
            "the relation must be 1 to {RELATION_CHARS_MAX} characters without control characters"
        )));
    }
    let description = know.description.as_deref().filter(|text| !text.trim().is_empty());
    if description.is_some_and(|text| text.chars().count() > DESCRIPTION_CHARS_MAX || text.contains('\0')) {
        return Err(Failure::usage(format!(
            "the description must not be longer than {DESCRIPTION_CHARS_MAX} characters"
        )));
    }
    let view = match reach(config).await? {
        Reach::Server(server) => {
            let agent = agent::id_of(&server, &know.agent).await?;
            let whom = chosen(&know.whom, everybody(&server).await?)?;
            let field = match whom.known {
                Known::Member(_) => "member_id",
                Known::Agent(_) => "agent_id",
            };
            let body = json!({ (field): whom.id(), "relation": relation, "description": description });
            server.post(&format!("/api/admin/agents/{agent}/relationships"), Some(&body)).await?
        }
        Reach::Alone(alone) => {
            let known = know_alone(config, &alone, know, relation, description).await;
            alone.close().await;
            known?
        }
    };
    if know.format.json {
        return print_json(&view);
    }
    say(format_args!("Agent `{}` knows {} now.", know.agent, text(&view, "name")));
    Ok(())
}

async fn know_alone(
    config: &Config,
    alone: &Offline,
    know: &Know,
    relation: &str,
    description: Option<&str>,
) -> Result<Value, Failure> {
    let command = AddRelationship {
        agent_id: agent::find_alone(alone, &know.agent).await?.id,
        known: chosen(&know.whom, everybody_alone(alone).await?)?.known,
        relation: relation.to_owned(),
        description: description.map(str::to_owned),
        actor: offline::actor(),
        idem: None,
        relationships_max: config.limits.relationships_per_agent_max,
    };
    let (relationship, name) = alone.store.write(command).await?;
    Ok(view(&relationship, &name))
}

/// Reads all people and agents of the server.
async fn everybody(server: &Client) -> Result<Vec<Somebody>, Failure> {
    let mut all = Vec::new();
    for view in server.list("/api/admin/members").await? {
        let known = Known::Member(text(&view, "id").parse()?);
        all.push(Somebody { known, slug: None, name: text(&view, "name").to_owned() });
    }
    for view in server.list("/api/admin/agents").await? {
        let known = Known::Agent(text(&view, "id").parse()?);
        let (slug, name) = (text(&view, "slug").to_owned(), text(&view, "name").to_owned());
        all.push(Somebody { known, slug: Some(slug), name });
    }
    Ok(all)
}

/// Reads all people and agents of the database.
async fn everybody_alone(alone: &Offline) -> Result<Vec<Somebody>, Failure> {
    let read =
        alone.store.read(|db| Ok::<_, Error>((members::page(db, None, i64::MAX)?, agents::page(db, None, i64::MAX)?)));
    let (members, agents) = read.await?;
    let people = members.into_iter().map(|one| Somebody { known: Known::Member(one.id), slug: None, name: one.name });
    let agents =
        agents.into_iter().map(|one| Somebody { known: Known::Agent(one.id), slug: Some(one.slug), name: one.name });
    Ok(people.chain(agents).collect())
}

/// Lists whom an agent knows.
pub(super) async fn list(config: &Config, of: &Of) -> Result<(), Failure> {
    offline::must_exist(config)?;
    let views = match reach(config).await? {
        Reach::Server(server) => {
            let agent = agent::id_of(&server, &of.agent).await?;
            server.list(&format!("/api/admin/agents/{agent}/relationships")).await?
        }
        Reach::Alone(alone) => {
            let listed = list_alone(&alone, &of.agent).await;
            alone.close().await;
            listed?
        }
    };
    if of.format.json {
        return print_json(&views);
    }
    if views.is_empty() {
        say("It knows nobody yet; let it know somebody: clawbroker agent know AGENT WHOM RELATION");
        return Ok(());
    }
    let mut rows = vec![["NAME", "TYPE", "RELATION", "ID"].map(str::to_owned).to_vec()];
    for view in &views {
        let mut row = ["name", "type", "relation"].map(|field| text(view, field).to_owned()).to_vec();
        row.push(id_in(view).to_owned());
        rows.push(row);
    }
    columns("", &rows);
    Ok(())
}

async fn list_alone(alone: &Offline, named: &str) -> Result<Vec<Value>, Failure> {
    let agent = agent::find_alone(alone, named).await?.id;
    let read = alone.store.read(move |db| {
        let known = relationships::page(db, agent, None, i64::MAX)?;
        let names = relationships::names(db, &known)?;
        Ok::<_, Error>((known, names))
    });
    let (known, names) = read.await?;
    Ok(known.iter().map(|one| view(one, names.get(&one.id).map_or("", String::as_str))).collect())
}

/// Returns the id of the one that a relationship is to.
fn id_in(view: &Value) -> &str {
    let member = text(view, "member_id");
    if member.is_empty() { text(view, "agent_id") } else { member }
}

/// Ends that an agent knows somebody.
pub(super) async fn forget(config: &Config, forget: &Forget) -> Result<(), Failure> {
    let name = match reach(config).await? {
        Reach::Server(server) => {
            let agent = agent::id_of(&server, &forget.agent).await?;
            let path = format!("/api/admin/agents/{agent}/relationships");
            let (whom, id) = of_known(forget, server.list(&path).await?, everybody(&server).await?)?;
            server.delete(&format!("{path}/{}", escaped(&id))).await?;
            whom
        }
        Reach::Alone(alone) => {
            let forgotten = forget_alone(&alone, forget).await;
            alone.close().await;
            forgotten?
        }
    };
    if forget.format.json {
        return print_json(&json!({ "ok": true }));
    }
    say(format_args!("Agent `{}` does not know {name} any more.", forget.agent));
    Ok(())
}

async fn forget_alone(alone: &Offline, forget: &Forget) -> Result<String, Failure> {
    let known = list_alone(alone, &forget.agent).await?;
    let (whom, id) = of_known(forget, known, everybody_alone(alone).await?)?;
    alone.store.write(RemoveRelationship { id: id.parse()?, actor: offline::actor() }).await?;
    Ok(whom)
}

/// Chooses among those that an agent knows; returns what it is called, and the id of the relationship.
fn of_known(forget: &Forget, known: Vec<Value>, mut all: Vec<Somebody>) -> Result<(String, String), Failure> {
    let of = |view: &Value| (id_in(view).to_owned(), text(view, "id").to_owned());
    let relationships: HashMap<String, String> = known.iter().map(of).collect();
    all.retain(|one| relationships.contains_key(&one.id()));
    let Forget { agent, whom, .. } = forget;
    let whom = only(whom, all)?.ok_or_else(|| {
        Failure::new(format!(
            "agent `{agent}` knows nobody called `{whom}`; `clawbroker agent known {agent}` shows whom it knows"
        ))
    })?;
    let id = relationships.get(&whom.id()).cloned().unwrap_or_default();
    Ok((whom.name, id))
}

/// A relationship as the admin API shows it.
fn view(relationship: &Relationship, name: &str) -> Value {
    let (kind, member_id, agent_id) = match relationship.known {
        Known::Member(id) => (HUMAN, Some(id), None),
        Known::Agent(id) => ("agent", None, Some(id)),
    };
    json!({
        "id": relationship.id, "type": kind, "member_id": member_id, "agent_id": agent_id, "name": name,
        "relation": relationship.relation, "description": relationship.description,
        "created_at": iso(relationship.created_at),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{AgentId, MemberId};

    #[test]
    fn whoever_is_called_so_must_be_the_only_one() {
        let (eve, sam, ben) = (MemberId::new(), MemberId::new(), AgentId::new());
        let all = || {
            let person = |id, name: &str| Somebody { known: Known::Member(id), slug: None, name: name.to_owned() };
            let agent = Somebody { known: Known::Agent(ben), slug: Some("sam".to_owned()), name: "Ben".to_owned() };
            vec![person(eve, "Eve"), person(sam, "sam"), agent]
        };
        let chosen = |named: &str| chosen(named, all()).map(|one| one.known);
        for (named, expected) in [
            ("Eve".to_owned(), Known::Member(eve)),
            ("Ben".to_owned(), Known::Agent(ben)),
            (sam.to_string(), Known::Member(sam)),
            (ben.to_string(), Known::Agent(ben)),
        ] {
            assert_eq!(chosen(&named).expect("one"), expected, "{named}");
        }
        assert!(chosen("eve").expect_err("none").to_string().starts_with("nobody is called `eve`"));
        let several = chosen("sam").expect_err("two").to_string();
        assert!(several.contains(&sam.to_string()) && several.contains(&ben.to_string()), "{several}");
    }
}
