//! `gateway`: registers upstream gateways and tells how they are.
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::client::{Client, Reach, escaped, no_gateway, reach};
use super::failure::Failure;
use super::offline::{self, Offline};
use super::output::{columns, complain, date, json as print_json, say, text};
use super::{Common, Format, secrets};
use crate::config::{Config, GatewayConfig, Section};
use crate::domain::error::ErrorCode;
use crate::domain::gateway::{Gateway, Track};
use crate::domain::ids::GatewayId;
use crate::domain::time::iso;
use crate::store::gateways::{self, AddGateway, RemoveGateway};
use crate::store::purge::PurgeStep;

/// How long a new gateway has to connect before its state is told.
const SETTLE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Register a gateway; its token comes from a file, from standard input or from OPENCLAW_GATEWAY_TOKEN
    Add(Box<Add>),
    /// List the gateways with the state of their connections
    List(Format),
    /// Connect to a gateway now and tell how it went; exit status 1 if it does not answer
    Test(One),
    /// Remove a gateway and its secrets; its conversations stay readable
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// Its id in paths: 1 to 64 of letters, digits, dot, underscore and hyphen
    id: GatewayId,
    /// `ws://` or `wss://`, without credentials
    url: String,
    /// Its name for people [default: the id]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    secrets: secrets::Given,
    /// Which sessions to keep
    #[arg(long, value_enum, default_value = "used")]
    track: Tracked,
    /// Ask for the scope `operator.admin` as well
    #[arg(long)]
    admin: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Tracked {
    /// Those that are opened or written to through us
    Used,
    /// All that the gateway tells of
    All,
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The id, as `gateway list` shows it
    id: GatewayId,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    /// The id, as `gateway list` shows it
    id: GatewayId,
    /// Remove its conversations for good, too
    #[arg(long)]
    purge: bool,
    #[command(flatten)]
    format: Format,
}

/// Runs the command.
pub(super) async fn run(common: &Common, action: Action) -> Result<(), Failure> {
    let config = common.load_quietly()?;
    match action {
        Action::Add(add) => self::add(&config, *add).await,
        Action::List(format) => list(&config, &format).await,
        Action::Test(one) => test(&config, &one).await,
        Action::Remove(remove) => self::remove(&config, &remove).await,
    }
}

async fn add(config: &Config, add: Add) -> Result<(), Failure> {
    check_url(&add.url)?;
    let (token, password) = add.secrets.read()?;
    let name = add.name.unwrap_or_else(|| add.id.to_string());
    let track = match add.track {
        Tracked::Used => Track::Used,
        Tracked::All => Track::All,
    };
    let view = match reach(config).await? {
        Reach::Server(server) => {
            let mut body = json!({ "id": add.id, "name": name, "url": add.url, "track": track, "admin": add.admin });
            for (field, secret) in [("token", &token), ("password", &password)] {
                if let (Some(secret), Some(fields)) = (secret, body.as_object_mut()) {
                    fields.insert(field.to_owned(), secret.reveal().into());
                }
            }
            server.post("/api/admin/gateways", Some(&body)).await?;
            settled(&server, &add.id).await?
        }
        Reach::Alone(alone) => {
            let vault = alone.vault.clone();
            let (id, url, admin, actor) = (add.id, add.url, add.admin, offline::actor());
            let gateways_max = config.limits.gateways_max;
            let command =
                AddGateway { id, name, url, token, password, track, admin, actor, vault, idem: None, gateways_max };
            let added = alone.store.write(command).await;
            alone.close().await;
            view(&added?)
        }
    };
    if add.format.json {
        return print_json(&view);
    }
    say(format_args!("Gateway `{}` is registered.", text(&view, "id")));
    if view.get("state").is_none_or(Value::is_null) {
        say("No server runs; the gateway is connected to when one starts.");
    } else {
        tell(std::slice::from_ref(&view));
    }
    Ok(())
}

/// Refuses what could not be connected to, before a server or the database is asked.
fn check_url(url: &str) -> Result<(), Failure> {
    let config = GatewayConfig { url: Some(url.to_owned()), ..GatewayConfig::default() };
    // The value may hold a password, so it is not repeated.
    config.validate().map_err(|_| {
        Failure::usage(
            "the URL must be a `ws://` or `wss://` address without credentials, for example ws://127.0.0.1:18789",
        )
    })
}

/// Waits until the gateway has connected or said why not.
async fn settled(server: &Client, id: &GatewayId) -> Result<Value, Failure> {
    let until = Instant::now() + SETTLE;
    loop {
        let view = server.get(&format!("/api/admin/gateways/{}", escaped(id.as_str()))).await?;
        if text(&view, "state") != "connecting" || Instant::now() >= until {
            return Ok(view);
        }
        sleep(LOOK).await;
    }
}

async fn list(config: &Config, format: &Format) -> Result<(), Failure> {
    offline::must_exist(config)?;
    let views = match reach(config).await? {
        Reach::Server(server) => server.list("/api/admin/gateways").await?,
        Reach::Alone(alone) => {
            let known = alone.store.read(gateways::list).await;
            alone.close().await;
            let views = known?.iter().map(view).collect();
            complain("No server runs, so nothing is connected.");
            views
        }
    };
    if format.json {
        return print_json(&views);
    }
    if views.is_empty() {
        say("There is no gateway yet; register one: clawbroker gateway add ID URL");
    }
    tell(&views);
    Ok(())
}

async fn test(config: &Config, one: &One) -> Result<(), Failure> {
    let server = match reach(config).await? {
        Reach::Server(server) => server,
        Reach::Alone(alone) => {
            alone.close().await;
            return Err(Failure::new("no server runs, so nothing can be tested: start one with `clawbroker serve`"));
        }
    };
    let tested = server.post(&format!("/api/admin/gateways/{}/test", escaped(one.id.as_str())), None).await?;
    let ok = tested.get("ok").and_then(Value::as_bool).unwrap_or(false);
    if one.format.json {
        print_json(&tested)?;
    } else {
        tell(tested.get("gateway").map(std::slice::from_ref).unwrap_or_default());
        if let Some(latency) = tested.get("latency_ms").and_then(Value::as_u64) {
            say(format_args!("Gateway `{}` answered in {latency} ms.", one.id));
        }
    }
    if ok { Ok(()) } else { Err(Failure::new(format!("gateway `{}`: {}", one.id, text(&tested, "message")))) }
}

async fn remove(config: &Config, remove: &Remove) -> Result<(), Failure> {
    match reach(config).await? {
        Reach::Server(server) => {
            let purge = remove.purge;
            server.delete(&format!("/api/admin/gateways/{}?purge={purge}", escaped(remove.id.as_str()))).await?;
        }
        Reach::Alone(alone) => remove_alone(alone, remove).await?,
    }
    if remove.format.json {
        return print_json(&json!({ "ok": true }));
    }
    let rest = if remove.purge { "with its conversations" } else { "its conversations stay readable" };
    say(format_args!("Gateway `{}` is removed; {rest}.", remove.id));
    Ok(())
}

async fn remove_alone(alone: Offline, remove: &Remove) -> Result<(), Failure> {
    let command = RemoveGateway { id: remove.id.clone(), purge: remove.purge, actor: offline::actor() };
    let removed = alone.store.write(command).await;
    // What is left over after an interruption goes with the next start of a server.
    while removed.is_ok() && remove.purge && alone.store.write(PurgeStep::default()).await? {}
    alone.close().await;
    match removed {
        Err(error) if error.code() == ErrorCode::GatewayNotFound => Err(no_gateway(remove.id.as_str())),
        removed => Ok(removed.map(drop)?),
    }
}

/// A gateway as the admin API shows it, but for its connection: without a server there is none.
fn view(gateway: &Gateway) -> Value {
    json!({
        "id": gateway.id, "name": gateway.name, "url": gateway.url, "track": gateway.track, "admin": gateway.admin,
        "enabled": gateway.enabled, "token_set": gateway.has_token, "password_set": gateway.has_password,
        "created_at": iso(gateway.created_at), "updated_at": iso(gateway.updated_at), "state": null,
    })
}

/// Prints gateways as a table, and under it what is wrong with each and what to do.
pub(super) fn tell(views: &[Value]) {
    if views.is_empty() {
        return;
    }
    let mut rows = vec![["ID", "STATE", "SINCE", "LATENCY", "URL"].map(str::to_owned).to_vec()];
    for view in views {
        let latency = view.get("latency_ms").and_then(Value::as_u64).map_or("-".to_owned(), |ms| format!("{ms} ms"));
        let state = text(view, "state");
        let state = if state.is_empty() { "-" } else { state };
        rows.push(vec![
            text(view, "id").to_owned(),
            state.to_owned(),
            date(text(view, "since")),
            latency,
            text(view, "url").to_owned(),
        ]);
    }
    columns("", &rows);
    for view in views {
        let Some(problem) = view.get("problem").filter(|problem| !problem.is_null()) else { continue };
        say(format_args!("\n{}: {}", text(view, "id"), text(problem, "message")));
        for remedy in text(problem, "remedy").lines() {
            say(format_args!("  {remedy}"));
        }
    }
}
