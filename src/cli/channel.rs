//! `channel`: sets channels to people up and tells how they are. Changing one is in `channel_change.rs`, who may write on
//! them in `sender.rs`.
use std::path::Path;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::client::{Client, Reach, escaped, reach};
use super::failure::Failure;
use super::named::chosen;
use super::offline::{self, Offline};
use super::output::{columns, complain, json as print_json, say, text};
use super::{Common, Format, agent, channel_change, secrets, sender};
use crate::channels::setup;
use crate::config::{Config, PublicUrl};
use crate::domain::channel::{Channel, ChannelKind};
use crate::domain::time::iso;
use crate::store::channels::{self, AddChannel, RemoveChannel, Secrets};

/// The API's bound.
const NAME_BYTES_MAX: usize = 128;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Set a channel up; its secrets come from files
    Add(Box<Add>),
    /// List the channels
    List(Format),
    /// Show a channel: its settings, which secrets are set, and where its provider calls
    Show(One),
    /// Change a channel; what is not named stays as it is
    Change(Box<channel_change::Change>),
    /// Ask a channel's provider who we are; exit status 1 if something is wrong
    Test(One),
    /// Remove a channel and its secrets; what waits for it is dead
    Remove(One),
    /// List who has written on a channel, and which person each of them is
    Senders(sender::Of),
    /// Let somebody who has written in, as this person: the lines are taken from now on
    Allow(sender::Allow),
    /// Take that back: the lines are refused from now on
    Forget(sender::Forget),
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
    /// The agent whose channel it is: its id, its slug, or its name
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    /// Where the provider is, if not at its usual place
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The channel: its id, or its name
    channel: String,
    #[command(flatten)]
    format: Format,
}

/// Reads `name=value`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be NAME=VALUE".to_owned()),
    }
}

/// Runs the command.
pub(super) async fn run(common: &Common, action: Action) -> Result<(), Failure> {
    let config = common.load_quietly()?;
    match action {
        Action::Add(add) => self::add(&config, &add).await,
        Action::List(format) => list(&config, &format).await,
        Action::Show(one) => show(&config, &one).await,
        Action::Change(change) => channel_change::change(&config, &change).await,
        Action::Test(one) => test(&config, &one).await,
        Action::Remove(one) => remove(&config, &one).await,
        Action::Senders(of) => sender::list(&config, &of).await,
        Action::Allow(allow) => sender::allow(&config, &allow).await,
        Action::Forget(forget) => sender::forget(&config, &forget).await,
    }
}

/// Refuses a name that the API would refuse, and returns it without the blanks around it.
pub(super) fn checked(name: &str) -> Result<String, Failure> {
    let name = name.trim();
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Failure::usage(format!(
            "the name must be 1 to {NAME_BYTES_MAX} bytes of text without control characters"
        )));
    }
    Ok(name.to_owned())
}

/// Reads settings as they were given.
pub(super) fn settings(given: &[(String, String)]) -> Map<String, Value> {
    let value = |(name, text): &(String, String)| {
        // The one setting that is a number.
        let number = text.parse::<u64>().ok().filter(|_| name == "port");
        (name.clone(), number.map_or_else(|| json!(text), Value::from))
    };
    given.iter().map(value).collect()
}

/// Reads secrets from their files.
pub(super) fn secrets_of(given: &[(String, String)]) -> Result<Secrets, Failure> {
    let mut all = Secrets::new();
    for (name, file) in given {
        all.insert(name.clone(), secrets::of_file(Path::new(file))?);
    }
    Ok(all)
}

async fn add(config: &Config, add: &Add) -> Result<(), Failure> {
    let (name, given) = (checked(&add.name)?, secrets_of(&add.secret_file)?);
    let view = match reach(config).await? {
        Reach::Server(server) => {
            let agent = match &add.agent {
                Some(named) => Some(agent::id_of(&server, named).await?),
                None => None,
            };
            let secret: Map<String, Value> =
                given.iter().map(|(name, secret)| (name.clone(), secret.reveal().into())).collect();
            let body = json!({
                "kind": add.kind, "name": name, "config": settings(&add.set), "secret": secret, "agent_id": agent,
                "base_url": add.base_url,
            });
            server.post("/api/admin/channels", Some(&body)).await?
        }
        Reach::Alone(alone) => {
            let added = add_alone(config, &alone, add, name, given).await;
            alone.close().await;
            added?
        }
    };
    if add.format.json {
        return print_json(&view);
    }
    let id = text(&view, "id");
    say(format_args!("Channel `{id}` is set up. Try it: clawbroker channel test {id}"));
    if receives(&view) {
        say(format_args!("Its provider calls at {}", hook(config, &view)));
    }
    Ok(())
}

async fn add_alone(
    config: &Config,
    alone: &Offline,
    add: &Add,
    name: String,
    secrets: Secrets,
) -> Result<Value, Failure> {
    let settings = settings(&add.set);
    check(add.kind, &settings, &secrets.keys().cloned().collect::<Vec<_>>(), add.base_url.as_deref())?;
    for (name, secret) in &secrets {
        setup::check_secret(name, secret).map_err(Failure::of_field)?;
    }
    let agent_id = match &add.agent {
        Some(named) => Some(agent::find_alone(alone, named).await?.id),
        None => None,
    };
    let command = AddChannel {
        kind: add.kind,
        name,
        agent_id,
        config: settings,
        secrets,
        base_url: add.base_url.clone(),
        enabled: true,
        actor: offline::actor(),
        vault: alone.vault.clone(),
        idem: None,
        channels_max: config.channels.channels_max,
    };
    Ok(view(&alone.store.write(command).await?))
}

/// Refuses settings that the API would refuse; `secrets` are the names of those that are set.
pub(super) fn check(
    kind: ChannelKind,
    config: &Map<String, Value>,
    secrets: &[String],
    base_url: Option<&str>,
) -> Result<(), Failure> {
    setup::check(kind, config, secrets, base_url).map_err(Failure::of_field)
}

/// Tells whether what people write there comes in by calls.
fn receives(view: &Value) -> bool {
    let is_asked = view.pointer("/config/receive").and_then(Value::as_str) == Some("poll");
    !is_asked && view.get("receives").and_then(Value::as_bool).unwrap_or(false)
}

/// Returns where the provider of a channel calls: all of the address, if this broker knows its own.
fn hook(config: &Config, view: &Value) -> String {
    let path = text(view, "hook");
    match config.app.public_url.as_ref().map(PublicUrl::as_str) {
        Some(address) => format!("{address}{path}"),
        None => format!("{path} on the broker's public address"),
    }
}

async fn list(config: &Config, format: &Format) -> Result<(), Failure> {
    let views = all(config).await?;
    if format.json {
        return print_json(&views);
    }
    if views.is_empty() {
        say("There is no channel yet; set one up: clawbroker channel add KIND NAME");
        return Ok(());
    }
    let mut rows = vec![["KIND", "NAME", "STATE", "WAITING", "ID"].map(str::to_owned).to_vec()];
    for view in &views {
        let [kind, name, id] = ["kind", "name", "id"].map(|field| text(view, field).to_owned());
        rows.push(vec![kind, name, state(view).to_owned(), waiting(view), id]);
    }
    columns("", &rows);
    Ok(())
}

/// Reads all channels, as the API shows them.
async fn all(config: &Config) -> Result<Vec<Value>, Failure> {
    offline::must_exist(config)?;
    match reach(config).await? {
        Reach::Server(server) => server.list("/api/admin/channels").await,
        Reach::Alone(alone) => {
            let known = alone.store.read(channels::list).await;
            alone.close().await;
            let views = known?.iter().map(view).collect();
            complain("No server runs, so nothing is sent.");
            Ok(views)
        }
    }
}

pub(super) fn state(view: &Value) -> &'static str {
    let is = |field: &str| view.get(field).and_then(Value::as_bool).unwrap_or(false);
    match (is("enabled"), is("paused")) {
        (false, _) => "disabled",
        (true, true) => "paused",
        (true, false) => "enabled",
    }
}

/// Says how many messages wait; without a server nobody counts them.
fn waiting(view: &Value) -> String {
    view.get("waiting").and_then(Value::as_u64).map_or("-".to_owned(), |count| count.to_string())
}

async fn show(config: &Config, one: &One) -> Result<(), Failure> {
    let view = pick(&one.channel, all(config).await?)?;
    if one.format.json {
        return print_json(&view);
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |field: &str, value: String| {
        let value = if value.is_empty() { "-".to_owned() } else { value };
        rows.push(vec![field.to_owned(), value]);
    };
    for field in ["id", "kind", "name"] {
        row(field, text(&view, field).to_owned());
    }
    row("state", state(&view).to_owned());
    row("waiting", waiting(&view));
    row("agent", text(&view, "agent_id").to_owned());
    for (name, value) in view.get("config").and_then(Value::as_object).into_iter().flatten() {
        row(name, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    row("secrets", names(&view).join(", "));
    row("base_url", text(&view, "base_url").to_owned());
    row("hook", if receives(&view) { hook(config, &view) } else { String::new() });
    columns("", &rows);
    Ok(())
}

/// Reads the names of the secrets that are set.
pub(super) fn names(view: &Value) -> Vec<&str> {
    let secrets = view.get("secrets").and_then(Value::as_array);
    secrets.into_iter().flatten().filter_map(Value::as_str).collect()
}

async fn test(config: &Config, one: &One) -> Result<(), Failure> {
    let server = match reach(config).await? {
        Reach::Server(server) => server,
        Reach::Alone(alone) => {
            alone.close().await;
            return Err(Failure::new("no server runs, so nothing can be tested: start one with `clawbroker serve`"));
        }
    };
    let channel = find(&server, &one.channel).await?;
    let id = text(&channel, "id");
    let tested = server.post(&format!("/api/admin/channels/{}/test", escaped(id)), None).await?;
    let ok = tested.get("ok").and_then(Value::as_bool).unwrap_or(false);
    if one.format.json {
        print_json(&tested)?;
    } else if ok {
        say(format!("Channel `{id}` works. {}", text(&tested, "message")).trim_end());
    }
    if ok { Ok(()) } else { Err(Failure::new(format!("channel `{id}`: {}", text(&tested, "message")))) }
}

async fn remove(config: &Config, one: &One) -> Result<(), Failure> {
    let id = match reach(config).await? {
        Reach::Server(server) => {
            let channel = find(&server, &one.channel).await?;
            server.delete(&format!("/api/admin/channels/{}", escaped(text(&channel, "id")))).await?;
            text(&channel, "id").to_owned()
        }
        Reach::Alone(alone) => {
            let removed = remove_alone(&alone, &one.channel).await;
            alone.close().await;
            removed?
        }
    };
    if one.format.json {
        return print_json(&json!({ "ok": true }));
    }
    say(format_args!("Channel `{id}` is removed; what was said on it stays."));
    Ok(())
}

async fn remove_alone(alone: &Offline, named: &str) -> Result<String, Failure> {
    let id = find_alone(alone, named).await?.id;
    alone.store.write(RemoveChannel { id, actor: offline::actor() }).await?;
    Ok(id.to_string())
}

/// Finds a channel of the server by id or name.
pub(super) async fn find(server: &Client, named: &str) -> Result<Value, Failure> {
    pick(named, server.list("/api/admin/channels").await?)
}

fn pick(named: &str, all: Vec<Value>) -> Result<Value, Failure> {
    chosen("channel", named, all, |view| (text(view, "id"), text(view, "name")))
}

/// Finds a channel of the database by id or name.
pub(super) async fn find_alone(alone: &Offline, named: &str) -> Result<Channel, Failure> {
    let all = alone.store.read(channels::list).await?;
    let all = all.into_iter().map(|channel| (channel.id.to_string(), channel)).collect();
    chosen("channel", named, all, |(id, channel)| (id.as_str(), channel.name.as_str())).map(|(_, channel)| channel)
}

/// A channel as the admin API shows it, but for what goes on there: without a server nothing does.
pub(super) fn view(channel: &Channel) -> Value {
    json!({
        "id": channel.id, "kind": channel.kind, "name": channel.name, "agent_id": channel.agent_id,
        "config": channel.config, "secrets": channel.secrets, "base_url": channel.base_url,
        "enabled": channel.enabled, "hook": format!("/hooks/{}", channel.id),
        "receives": setup::is_receiving(channel), "waiting": null, "paused": null,
        "created_at": iso(channel.created_at), "updated_at": iso(channel.updated_at),
    })
}
