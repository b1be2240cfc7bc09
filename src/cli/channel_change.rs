//! `channel change`: changes a channel, and leaves what is not named as it is.
use clap::Args;
use serde_json::{Map, Value, json};

use super::channel::{check, checked, find, find_alone, names, pair, secrets_of, settings, state, view};
use super::client::{Reach, escaped, reach};
use super::failure::Failure;
use super::offline::{self, Offline};
use super::output::{json as print_json, say, text};
use super::{Format, agent};
use crate::channels::setup;
use crate::config::Config;
use crate::domain::ids::AgentId;
use crate::store::channels::{ChangeChannel, Changes};

#[derive(Debug, Args)]
pub(super) struct Change {
    /// The channel: its id, or its name
    channel: String,
    /// What it is called from now on
    #[arg(long)]
    name: Option<String>,
    /// A setting, for example `receive=poll`; may be given several times, and the others stay
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// A secret and the file that holds it; may be given several times, and the others stay
    #[arg(long, value_name = "NAME=FILE", value_parser = pair)]
    secret_file: Vec<(String, String)>,
    /// The agent whose channel it is from now on
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    /// Where the provider is from now on
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// What is taken away: a setting, a secret, `agent` or `base_url`; may be given several times
    #[arg(long, value_name = "NAME")]
    unset: Vec<String>,
    /// Let it work again
    #[arg(long, conflicts_with = "disable")]
    enable: bool,
    /// Have it send nothing and take nothing in; what waits for it waits
    #[arg(long)]
    disable: bool,
    #[command(flatten)]
    format: Format,
}

/// Changes a channel.
pub(super) async fn change(config: &Config, change: &Change) -> Result<(), Failure> {
    let view = match reach(config).await? {
        Reach::Server(server) => {
            let before = find(&server, &change.channel).await?;
            let agent = match &change.agent {
                Some(named) => Some(agent::id_of(&server, named).await?),
                None => None,
            };
            let changes = change.to_be_made(&before, agent)?;
            server.patch(&format!("/api/admin/channels/{}", escaped(text(&before, "id"))), &body(&changes)).await?
        }
        Reach::Alone(alone) => {
            let changed = change_alone(&alone, change).await;
            alone.close().await;
            changed?
        }
    };
    if change.format.json {
        return print_json(&view);
    }
    say(format_args!("Channel `{}` is changed; it is {}.", text(&view, "id"), state(&view)));
    Ok(())
}

impl Change {
    /// Returns what changes of a channel as the API shows it.
    fn to_be_made(&self, before: &Value, agent: Option<AgentId>) -> Result<Changes, Failure> {
        let mut config = before.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut changes = Changes {
            name: self.name.as_deref().map(checked).transpose()?,
            agent_id: agent.map(Some),
            base_url: self.base_url.clone().map(Some),
            enabled: (self.enable || self.disable).then_some(self.enable),
            ..Changes::default()
        };
        for name in &self.unset {
            match name.as_str() {
                "agent" => changes.agent_id = Some(None),
                "base_url" => changes.base_url = Some(None),
                name if config.contains_key(name) => drop(config.remove(name)),
                name if names(before).contains(&name) => drop(changes.secrets.insert(name.to_owned(), None)),
                name => return Err(Failure::usage(format!("the channel has no `{name}` that could be taken away"))),
            }
        }
        config.extend(settings(&self.set));
        for (name, secret) in secrets_of(&self.secret_file)? {
            changes.secrets.insert(name, Some(secret));
        }
        changes.config = (before.get("config").and_then(Value::as_object) != Some(&config)).then_some(config);
        Ok(changes)
    }
}

/// Changes as the API takes them.
fn body(changes: &Changes) -> Value {
    let mut body = Map::new();
    let mut field = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    field("name", changes.name.as_ref().map(|name| json!(name)));
    field("agent_id", changes.agent_id.as_ref().map(|id| json!(id)));
    field("config", changes.config.as_ref().map(|config| json!(config)));
    field("base_url", changes.base_url.as_ref().map(|url| json!(url)));
    field("enabled", changes.enabled.map(Value::from));
    let secrets = changes.secrets.iter();
    let secrets: Map<String, Value> = secrets
        .map(|(name, secret)| (name.clone(), secret.as_ref().map_or(Value::Null, |secret| secret.reveal().into())))
        .collect();
    field("secret", (!secrets.is_empty()).then_some(Value::Object(secrets)));
    Value::Object(body)
}

async fn change_alone(alone: &Offline, change: &Change) -> Result<Value, Failure> {
    let before = find_alone(alone, &change.channel).await?;
    let agent = match &change.agent {
        Some(named) => Some(agent::find_alone(alone, named).await?.id),
        None => None,
    };
    let changes = change.to_be_made(&view(&before), agent)?;
    let mut names: Vec<String> =
        before.secrets.iter().filter(|name| !changes.secrets.contains_key(*name)).cloned().collect();
    for (name, secret) in &changes.secrets {
        if let Some(secret) = secret {
            setup::check_secret(name, secret).map_err(Failure::of_field)?;
            names.push(name.clone());
        }
    }
    let url = changes.base_url.as_ref().map_or(before.base_url.as_deref(), Option::as_deref);
    let after = changes.config.as_ref().unwrap_or(&before.config);
    check(before.kind, after, &names, url)?;
    setup::check_move(&before, after, url, &changes.secrets).map_err(Failure::of_field)?;
    let command = ChangeChannel { id: before.id, changes, actor: offline::actor(), vault: alone.vault.clone() };
    Ok(view(&alone.store.write(command).await?))
}
