//! `agent key`, `keys` and `revoke`: makes the keys that agents call with, lists and ends them.
use clap::Args;
use serde_json::{Value, json};

use super::client::{Reach, escaped, reach};
use super::failure::Failure;
use super::offline::{self, Offline};
use super::output::{columns, complain, date, json as print_json, say, text};
use super::{Format, agent, token};
use crate::actors::bootstrap::{digest, new_agent_key, prefix};
use crate::config::Config;
use crate::domain::clock::{Clock, SystemClock};
use crate::domain::error::Error;
use crate::domain::ids::AgentKeyId;
use crate::domain::time::iso;
use crate::store::agent_keys::{self, AddAgentKey, AgentKey, RevokeAgentKey};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// The API's bound.
const LABEL_BYTES_MAX: usize = 128;

#[derive(Debug, Args)]
pub(super) struct New {
    /// The agent: its id, its slug, or its name
    agent: String,
    /// What the key is for
    #[arg(long, value_name = "TEXT", default_value = "command line")]
    label: String,
    /// When it ends; without it the key lasts until it is revoked
    #[arg(long, visible_alias = "expires", value_name = "DAYS")]
    #[arg(value_parser = clap::value_parser!(i64).range(1..=3_650))]
    expires_in_days: Option<i64>,
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
pub(super) struct Revoke {
    /// The agent: its id, its slug, or its name
    agent: String,
    /// The key's id, as `agent keys` shows it
    #[arg(value_name = "KEY_ID")]
    key: AgentKeyId,
    #[command(flatten)]
    format: Format,
}

/// Makes a key.
pub(super) async fn make(config: &Config, new: New) -> Result<(), Failure> {
    let label = new.label.trim();
    if label.is_empty() || label.len() > LABEL_BYTES_MAX || label.chars().any(char::is_control) {
        return Err(Failure::usage(format!(
            "the label must be 1 to {LABEL_BYTES_MAX} bytes of text without control characters"
        )));
    }
    let expires_at = new.expires_in_days.map(|days| SystemClock.now_ms() + days * DAY_MS);
    let (slug, made) = match reach(config).await? {
        Reach::Server(server) => {
            let agent = agent::find(&server, &new.agent).await?;
            let body = json!({ "label": label, "expires_at": expires_at.map(iso) });
            let path = format!("/api/admin/agents/{}/keys", escaped(text(&agent, "id")));
            (text(&agent, "slug").to_owned(), server.post(&path, Some(&body)).await?)
        }
        Reach::Alone(alone) => {
            let made = make_alone(config, &alone, &new.agent, label, expires_at).await;
            alone.close().await;
            made?
        }
    };
    if new.format.json {
        return print_json(&made);
    }
    say(text(&made, "api_key"));
    let until = match text(&made, "expires_at") {
        "" => "until it is revoked".to_owned(),
        at => format!("until {} UTC", date(at)),
    };
    complain(format_args!("This key of the agent `{slug}` is valid {until}; it is shown this once."));
    Ok(())
}

/// Makes the key in the database; returns the agent's slug with it.
async fn make_alone(
    config: &Config,
    alone: &Offline,
    named: &str,
    label: &str,
    expires_at: Option<i64>,
) -> Result<(String, Value), Failure> {
    let agent = agent::find_alone(alone, named).await?;
    let secret = new_agent_key()?;
    let command = AddAgentKey {
        agent_id: agent.id,
        label: label.to_owned(),
        prefix: prefix(secret.reveal()),
        digest: digest(secret.reveal()),
        expires_at,
        actor: offline::actor(),
        idem: None,
        keys_max: config.limits.keys_per_agent_max,
    };
    let (key, _) = alone.store.write(command).await?;
    let mut made = view(&key);
    if let Some(fields) = made.as_object_mut() {
        fields.insert("api_key".to_owned(), secret.reveal().into());
        fields.insert("secret_shown".to_owned(), false.into());
    }
    Ok((agent.slug, made))
}

/// Lists the keys of an agent.
pub(super) async fn list(config: &Config, of: &Of) -> Result<(), Failure> {
    offline::must_exist(config)?;
    let views = match reach(config).await? {
        Reach::Server(server) => {
            let agent = agent::id_of(&server, &of.agent).await?;
            server.list(&format!("/api/admin/agents/{agent}/keys")).await?
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
        say(format_args!("It has no key yet; make one: clawbroker agent key {}", of.agent));
        return Ok(());
    }
    let mut rows = vec![["ID", "LABEL", "BEGINS WITH", "MADE", "USED", "STATE"].map(str::to_owned).to_vec()];
    let now_ms = SystemClock.now_ms();
    for view in &views {
        let mut row = ["id", "label", "prefix"].map(|field| text(view, field).to_owned()).to_vec();
        row.extend(["created_at", "last_used_at"].map(|field| date(text(view, field))));
        row.push(token::state(view, now_ms));
        rows.push(row);
    }
    columns("", &rows);
    Ok(())
}

async fn list_alone(alone: &Offline, named: &str) -> Result<Vec<Value>, Failure> {
    let agent = agent::find_alone(alone, named).await?.id;
    let keys = alone.store.read(move |db| agent_keys::of(db, agent, None, i64::MAX)).await?;
    Ok(keys.iter().map(view).collect())
}

/// Ends a key.
pub(super) async fn revoke(config: &Config, revoke: &Revoke) -> Result<(), Failure> {
    let slug = match reach(config).await? {
        Reach::Server(server) => {
            let agent = agent::find(&server, &revoke.agent).await?;
            server.delete(&format!("/api/admin/agents/{}/keys/{}", escaped(text(&agent, "id")), revoke.key)).await?;
            text(&agent, "slug").to_owned()
        }
        Reach::Alone(alone) => {
            let revoked = revoke_alone(&alone, revoke).await;
            alone.close().await;
            revoked?
        }
    };
    if revoke.format.json {
        return print_json(&json!({ "ok": true }));
    }
    say(format_args!("Key {} of the agent `{slug}` is revoked.", revoke.key));
    Ok(())
}

async fn revoke_alone(alone: &Offline, revoke: &Revoke) -> Result<String, Failure> {
    let agent = agent::find_alone(alone, &revoke.agent).await?;
    let id = revoke.key;
    let key = alone.store.read(move |db| agent_keys::get(db, id)).await?;
    if key.is_none_or(|key| key.agent_id != agent.id) {
        return Err(Error::not_found("agent key", id).into());
    }
    alone.store.write(RevokeAgentKey { id, actor: offline::actor() }).await?;
    Ok(agent.slug)
}

/// A key as the admin API shows it.
fn view(key: &AgentKey) -> Value {
    json!({
        "id": key.id, "label": key.label, "prefix": key.prefix, "created_at": iso(key.created_at),
        "last_used_at": key.last_used_at.map(iso), "expires_at": key.expires_at.map(iso),
        "revoked_at": key.revoked_at.map(iso),
    })
}
