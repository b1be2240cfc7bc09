//! `channel`: sets channels to people up and tells how they are. A running server does it: it tries them at once.
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::client::{Client, Reach, escaped, reach};
use super::failure::Failure;
use super::output::{columns, json as print_json, say, text};
use super::{Common, Format, secrets};
use crate::config::Config;
use crate::domain::channel::ChannelKind;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Set a channel up; its secrets come from files
    Add(Box<Add>),
    /// List the channels
    List(Format),
    /// Ask a channel's provider who we are; exit status 1 if something is wrong
    Test(One),
    /// Remove a channel and its secrets; what waits for it is dead
    Remove(One),
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// `feishu`, `telegram`, `whatsapp`, `email` or `webhook`
    kind: ChannelKind,
    /// Its name for people
    name: String,
    /// A setting, for example `app_id=cli_1`; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// A secret and the file that holds it, for example `bot_token=token.txt`; may be given several times
    #[arg(long, value_name = "NAME=FILE", value_parser = pair)]
    secret_file: Vec<(String, String)>,
    /// The id of the agent whose channel it is
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Where the provider is, if not at its usual place
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The channel's id
    id: String,
    #[command(flatten)]
    format: Format,
}

/// Reads `name=value`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be NAME=VALUE".to_owned()),
    }
}

/// Runs the command.
pub(super) async fn run(common: &Common, action: Action) -> Result<(), Failure> {
    let config = common.load_quietly()?;
    match action {
        Action::Add(add) => self::add(&config, *add).await,
        Action::List(format) => list(&config, &format).await,
        Action::Test(one) => test(&config, &one).await,
        Action::Remove(one) => remove(&config, &one).await,
    }
}

/// Finds the running server.
pub(super) async fn server(config: &Config) -> Result<Client, Failure> {
    match reach(config).await? {
        Reach::Server(server) => Ok(server),
        Reach::Alone(alone) => {
            alone.close().await;
            Err(Failure::new("no server runs: start one with `clawbroker serve`"))
        }
    }
}

async fn add(config: &Config, add: Add) -> Result<(), Failure> {
    let mut settings = Map::new();
    for (name, value) in add.set {
        // The one setting that is a number.
        let value = if name == "port" { value.parse::<u64>().map_or(json!(value), Value::from) } else { json!(value) };
        settings.insert(name, value);
    }
    let mut secret = Map::new();
    for (name, file) in add.secret_file {
        secret.insert(name, secrets::of_file(&PathBuf::from(file))?.reveal().into());
    }
    let body = json!({
        "kind": add.kind, "name": add.name, "config": settings, "secret": secret, "agent_id": add.agent,
        "base_url": add.base_url,
    });
    let view = server(config).await?.post("/api/admin/channels", Some(&body)).await?;
    if add.format.json {
        return print_json(&view);
    }
    let id = text(&view, "id");
    say(format_args!("Channel `{id}` is set up. Try it: clawbroker channel test {id}"));
    say(format_args!("Its provider calls at {}", text(&view, "hook")));
    Ok(())
}

async fn list(config: &Config, format: &Format) -> Result<(), Failure> {
    let views = server(config).await?.list("/api/admin/channels").await?;
    if format.json {
        return print_json(&views);
    }
    if views.is_empty() {
        say("There is no channel yet; set one up: clawbroker channel add KIND NAME");
        return Ok(());
    }
    let mut rows = vec![["KIND", "NAME", "STATE", "WAITING", "ID"].map(str::to_owned).to_vec()];
    for view in &views {
        let is = |field: &str| view.get(field).and_then(Value::as_bool).unwrap_or(false);
        let state = match (is("enabled"), is("paused")) {
            (false, _) => "disabled",
            (true, true) => "paused",
            (true, false) => "enabled",
        };
        let waiting = view.get("waiting").and_then(Value::as_u64).unwrap_or(0);
        let [kind, name, id] = ["kind", "name", "id"].map(|field| text(view, field).to_owned());
        rows.push(vec![kind, name, state.to_owned(), waiting.to_string(), id]);
    }
    columns("", &rows);
    Ok(())
}

async fn test(config: &Config, one: &One) -> Result<(), Failure> {
    let path = format!("/api/admin/channels/{}/test", escaped(&one.id));
    let tested = server(config).await?.post(&path, None).await?;
    let ok = tested.get("ok").and_then(Value::as_bool).unwrap_or(false);
    if one.format.json {
        print_json(&tested)?;
    } else if ok {
        say(format_args!("Channel `{}` works. {}", one.id, text(&tested, "message")));
    }
    if ok { Ok(()) } else { Err(Failure::new(format!("channel `{}`: {}", one.id, text(&tested, "message")))) }
}

async fn remove(config: &Config, one: &One) -> Result<(), Failure> {
    server(config).await?.delete(&format!("/api/admin/channels/{}", escaped(&one.id))).await?;
    if one.format.json {
        return print_json(&json!({ "ok": true }));
    }
    say(format_args!("Channel `{}` is removed; what was said on it stays.", one.id));
    Ok(())
}
