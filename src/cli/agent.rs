//! `agent`: registers agents; their keys are in `agent_key.rs`, what one of them does itself is in `mail.rs`.
use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, Reach, escaped, reach};
use super::failure::Failure;
use super::offline::{self, Offline};
use super::output::{columns, date, json as print_json, say, text};
use super::{Common, Format, agent_key, mail, relation};
use crate::config::Config;
use crate::domain::agent::{ATTEMPTS, Agent, AgentKind, AgentState, LEASE_S, Slug};
use crate::domain::error::Error;
use crate::domain::ids::AgentId;
use crate::domain::time::iso;
use crate::store::agents::{self, AddAgent, RemoveAgent};

/// The API's bounds.
const NAME_CHARS_MAX: usize = 100;
const ROLE_CHARS_MAX: usize = 4_000;
/// Agents of one name that are read: one more tells that there are several.
const NAMED_MAX: i64 = 2;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Register an agent
    Add(Add),
    /// List the agents by name, with what waits for them
    List(Format),
    /// Make a key of an agent and print it, this once; keys that it has go on
    Key(agent_key::New),
    /// List the keys of an agent, newest first
    Keys(agent_key::Of),
    /// Revoke a key of an agent: it ends at once
    Revoke(agent_key::Revoke),
    /// Remove an agent: its keys end, its lines stay
    Remove(Remove),
    /// Let an agent know a person or another agent: it may write to it, and its polls tell of it
    Know(Box<relation::Know>),
    /// List whom an agent knows
    Known(relation::Of),
    /// End that an agent knows somebody; what was said stays
    Forget(relation::Forget),
    /// As an agent: get messages
    Poll(Box<mail::Poll>),
    /// As an agent: say that a message is done, with the answer to it
    Report(Box<mail::Report>),
    /// As an agent: say that replies and notices have arrived
    Ack(Box<mail::Ack>),
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// Its name for people and for other agents
    name: String,
    /// Its name for commands: lower-case letters, digits and hyphens [default: made from the name]
    #[arg(long)]
    slug: Option<Slug>,
    /// What it is there for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    role_description: String,
    /// How long it keeps what it polls [default: as the settings have it]
    #[arg(long, value_name = "SECONDS", value_parser = within(&LEASE_S))]
    lease: Option<i32>,
    /// Hand-outs before a message to it is dead [default: as the settings have it]
    #[arg(long, value_name = "COUNT", value_parser = within(&ATTEMPTS))]
    max_attempts: Option<i32>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    /// The agent: its id, its slug, or its name
    agent: String,
    #[command(flatten)]
    format: Format,
}

fn within(allowed: &std::ops::RangeInclusive<u32>) -> clap::builder::RangedI64ValueParser<i32> {
    clap::value_parser!(i32).range(i64::from(*allowed.start())..=i64::from(*allowed.end()))
}

/// Runs the command.
pub(super) async fn run(common: &Common, action: Action) -> Result<(), Failure> {
    match action {
        Action::Add(add) => self::add(&common.load_quietly()?, add).await,
        Action::List(format) => list(&common.load_quietly()?, &format).await,
        Action::Key(new) => agent_key::make(&common.load_quietly()?, new).await,
        Action::Keys(of) => agent_key::list(&common.load_quietly()?, &of).await,
        Action::Revoke(revoke) => agent_key::revoke(&common.load_quietly()?, &revoke).await,
        Action::Remove(remove) => self::remove(&common.load_quietly()?, &remove).await,
        Action::Know(know) => relation::know(&common.load_quietly()?, &know).await,
        Action::Known(of) => relation::list(&common.load_quietly()?, &of).await,
        Action::Forget(forget) => relation::forget(&common.load_quietly()?, &forget).await,
        // These need no settings of a server: they may run anywhere.
        Action::Poll(poll) => mail::poll(common, &poll).await,
        Action::Report(report) => mail::report(common, &report).await,
        Action::Ack(ack) => mail::ack(common, &ack).await,
    }
}

async fn add(config: &Config, add: Add) -> Result<(), Failure> {
    let name = add.name.trim().to_owned();
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(Failure::usage(format!(
            "the name must be 1 to {NAME_CHARS_MAX} characters without control characters"
        )));
    }
    if add.role_description.chars().count() > ROLE_CHARS_MAX {
        return Err(Failure::usage(format!(
            "the description of the role must not be longer than {ROLE_CHARS_MAX} characters"
        )));
    }
    let view = match reach(config).await? {
        Reach::Server(server) => {
            let body = json!({
                "name": name, "slug": add.slug.as_ref().map(Slug::as_str), "role_description": add.role_description,
                "lease_seconds": add.lease, "max_attempts": add.max_attempts,
            });
            server.post("/api/admin/agents", Some(&body)).await?
        }
        Reach::Alone(alone) => {
            let command = AddAgent {
                name,
                slug: add.slug,
                kind: AgentKind::default(),
                state: AgentState::default(),
                role_description: add.role_description,
                creator_id: None,
                labels: BTreeMap::new(),
                lease_seconds: add.lease,
                attempts_max: add.max_attempts,
                model: None,
                actor: offline::actor(),
                idem: None,
                agents_max: config.limits.agents_max,
            };
            let added = alone.store.write(command).await;
            alone.close().await;
            view(&added?)
        }
    };
    if add.format.json {
        return print_json(&view);
    }
    let slug = text(&view, "slug");
    say(format_args!("Agent `{slug}` is registered. Make a key of it: clawbroker agent key {slug}"));
    Ok(())
}

async fn list(config: &Config, format: &Format) -> Result<(), Failure> {
    offline::must_exist(config)?;
    let views = match reach(config).await? {
        Reach::Server(server) => server.list("/api/admin/agents").await?,
        Reach::Alone(alone) => {
            let known = alone.store.read(|db| agents::page(db, None, i64::MAX)).await;
            alone.close().await;
            known?.iter().map(view).collect()
        }
    };
    if format.json {
        return print_json(&views);
    }
    if views.is_empty() {
        say("There is no agent yet; register one: clawbroker agent add NAME");
        return Ok(());
    }
    let heads = ["SLUG", "NAME", "STATUS", "PRESENCE", "SEEN", "WAITING", "ID"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for view in &views {
        let mut row = ["slug", "name", "status", "presence"].map(|field| or_dash(text(view, field))).to_vec();
        row.push(date(text(view, "last_seen_at")));
        row.push(waiting(view).map_or_else(|| or_dash(""), |count| count.to_string()));
        row.push(text(view, "id").to_owned());
        rows.push(row);
    }
    columns("", &rows);
    Ok(())
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// Counts the messages that are not done yet; without a server nobody does.
fn waiting(view: &Value) -> Option<i64> {
    let mailbox = view.get("mailbox")?;
    Some(mailbox.get("pending")?.as_i64()? + mailbox.get("leased")?.as_i64()?)
}

async fn remove(config: &Config, remove: &Remove) -> Result<(), Failure> {
    let slug = match reach(config).await? {
        Reach::Server(server) => {
            let agent = find(&server, &remove.agent).await?;
            server.delete(&format!("/api/admin/agents/{}", escaped(text(&agent, "id")))).await?;
            text(&agent, "slug").to_owned()
        }
        Reach::Alone(alone) => {
            let removed = remove_alone(&alone, &remove.agent).await;
            alone.close().await;
            removed?
        }
    };
    if remove.format.json {
        return print_json(&json!({ "ok": true }));
    }
    say(format_args!("Agent `{slug}` is removed: its keys have ended, its lines stay."));
    Ok(())
}

async fn remove_alone(alone: &Offline, named: &str) -> Result<String, Failure> {
    let agent = find_alone(alone, named).await?;
    alone.store.write(RemoveAgent { id: agent.id, actor: offline::actor() }).await?;
    Ok(agent.slug)
}

/// Finds the id of an agent of the server.
pub(super) async fn id_of(server: &Client, named: &str) -> Result<AgentId, Failure> {
    Ok(text(&find(server, named).await?, "id").parse()?)
}

/// Finds an agent of the server by id, slug or name.
pub(super) async fn find(server: &Client, named: &str) -> Result<Value, Failure> {
    if named.parse::<AgentId>().is_ok() {
        return server.get(&format!("/api/admin/agents/{}", escaped(named))).await;
    }
    let all = server.list("/api/admin/agents").await?;
    chosen(named, all, |view| (text(view, "slug"), text(view, "name")))
}

/// Finds an agent of the database by id, slug or name.
pub(super) async fn find_alone(alone: &Offline, named: &str) -> Result<Agent, Failure> {
    let wanted = named.to_owned();
    let found = alone.store.read(move |db| {
        let mut found = Vec::new();
        match wanted.parse::<AgentId>() {
            Ok(id) => found.extend(agents::get(db, id)?),
            Err(_) => match agents::by_slug(db, &wanted)? {
                Some(agent) => found.push(agent),
                None => found = agents::by_name(db, &wanted, NAMED_MAX)?,
            },
        }
        Ok::<_, Error>(found)
    });
    let mut found = found.await?;
    if named.parse::<AgentId>().is_ok() {
        return found.pop().ok_or_else(|| nobody(named));
    }
    chosen(named, found, |agent| (agent.slug.as_str(), agent.name.as_str()))
}

/// Chooses the agent of this slug, else the only one of this name.
fn chosen<T>(named: &str, mut all: Vec<T>, names: impl Fn(&T) -> (&str, &str)) -> Result<T, Failure> {
    if let Some(place) = all.iter().position(|agent| names(agent).0 == named) {
        return Ok(all.swap_remove(place));
    }
    all.retain(|agent| names(agent).1 == named);
    let first = all.pop().ok_or_else(|| nobody(named))?;
    if all.is_empty() {
        return Ok(first);
    }
    Err(Failure::new(format!(
        "several agents are called `{named}`: name one by its slug or its id, which `clawbroker agent list` shows"
    )))
}

fn nobody(named: &str) -> Failure {
    Failure::new(format!("there is no agent `{named}`; `clawbroker agent list` shows those that are registered"))
}

/// An agent as the admin API shows it, but for its presence and what waits for it: without a server nobody knows.
fn view(agent: &Agent) -> Value {
    json!({
        "id": agent.id, "slug": agent.slug, "name": agent.name, "kind": agent.kind, "status": agent.state,
        "presence": null, "last_seen_at": agent.last_seen_at.map(iso), "role_description": agent.role_description,
        "creator_id": agent.creator_id, "labels": agent.labels, "lease_seconds": agent.lease_seconds,
        "max_attempts": agent.attempts_max, "model": agent.model, "mailbox": null,
        "created_at": iso(agent.created_at), "updated_at": iso(agent.updated_at),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_goes_before_a_name_and_a_name_must_be_the_only_one() {
        let all = || vec![("ann", "Ben"), ("ben", "Ann"), ("ben-2", "Ann"), ("eve", "ben")];
        let chosen = |named: &str| chosen(named, all(), |agent| *agent).map(|agent| agent.0);
        for (named, slug) in [("ann", "ann"), ("ben", "ben"), ("ben-2", "ben-2"), ("Ben", "ann")] {
            assert_eq!(chosen(named).expect(named), slug);
        }
        assert!(chosen("Ann").expect_err("two").to_string().starts_with("several agents are called `Ann`"));
        assert!(chosen("an").expect_err("none").to_string().starts_with("there is no agent `an`"));
    }
}
