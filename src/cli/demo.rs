//! `demo`: a broker with a gateway of its own that answers by script, so that a newcomer sees a chat within a minute.
//!
//! It takes nothing from the environment, from `.env` or from a config file that was not named: what stands there is
//! meant for the real thing, and a demo must not touch that.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::failure::Failure;
use super::output::say;
use super::{Common, block_on, logging, running, serve};
use crate::config::{Config, ListenAddress, Loaded, Overrides, Sources};
use crate::domain::clock::SystemClock;
use crate::domain::error::Error;
use crate::domain::ids::{ConversationId, GatewayId};
use crate::domain::secret::Secret;
use crate::http::state::AppState;
use crate::node::{self, Node};
use crate::sample_gateway;
use crate::store::audit::Actor;
use crate::store::conversations::{NewSession, OpenSession, SessionName};
use crate::store::gateways::{self, AddGateway, ChangeGateway, Changes};

/// The sample gateway's id.
const GATEWAY: &str = "demo";
/// The session that the printed lines talk in.
const SESSION: &str = "hello";
/// What the sample gateway and the broker know each other by. No secret: both are this process, on loopback.
const SAMPLE_TOKEN: &str = "sample-token";

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Loopback address to listen on [default: 127.0.0.1:8000, or a free port if that is taken]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Vec<String>,
}

/// Runs the command.
pub(super) fn run(common: &Common, demo: &Demo) -> Result<(), Failure> {
    let loaded = load(common, demo)?;
    logging::start(&loaded.config.log.level);
    loaded.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    serve::raise_file_limit();
    let mut config = loaded.config;
    if demo.listen.is_empty() && config.server.listen.iter().any(|address| node::check_port(address).is_err()) {
        config.server.listen = vec![any_port()?];
    }
    block_on(async move {
        let options = sample_gateway::Options::new(Arc::new(SystemClock));
        let gateway =
            sample_gateway::start(sample_gateway::Options { token: Some(SAMPLE_TOKEN.to_owned()), ..options })
                .map_err(|error| Failure::new(format!("the sample gateway could not be started: {error}")))?;
        let url = gateway.url.clone();
        running::run(config, async |node: &Node, address: &str, _| introduce(node, address, &url).await).await
    })
}

fn load(common: &Common, demo: &Demo) -> Result<Loaded, Failure> {
    let open = |text: &&String| text.parse().is_ok_and(|address: ListenAddress| !address.is_loopback());
    if let Some(open) = demo.listen.iter().find(open) {
        return Err(Failure::usage(format!(
            "the demo lets programs in without a token, so it listens on this machine only, and not on `{open}`"
        )));
    }
    let process = Sources::from_process()?;
    let absolute = |path: &PathBuf| process.working_dir.join(path);
    let data_dir = match &common.data_dir {
        Some(path) => absolute(path),
        None => process.working_dir.join("data").join("demo"),
    };
    let overrides = Overrides {
        config: common.config.as_ref().map(absolute),
        data_dir: Some(data_dir.clone()),
        listen: demo.listen.clone(),
        trust_local: true,
        ..common.overrides()
    };
    let log_level = process.env.get_key_value("LOG_LEVEL").map(|(name, value)| (name.clone(), value.clone()));
    // In the data directory there is neither a `.env` nor a `config/clawbroker.toml`.
    let sources = Sources { env: BTreeMap::from_iter(log_level), working_dir: data_dir };
    Ok(Config::load(&overrides, &sources)?)
}

fn any_port() -> Result<ListenAddress, Failure> {
    "127.0.0.1:0".parse().map_err(Failure::new)
}

/// Registers the sample gateway, waits for it, and prints lines that can be pasted.
async fn introduce(node: &Node, address: &str, gateway_url: &str) -> Result<(), Failure> {
    let id: GatewayId = GATEWAY.parse()?;
    register(&node.state, &id, gateway_url).await?;
    let conversation = open_session(&node.state, &id).await?;
    running::until(|| node.state.directory.is_connected(&id)).await;
    say(format_args!(
        "clawbroker {version} demo is ready: {address}/\n\
         Its gateway `{GATEWAY}` is built in and answers by script; programs on this machine need no token.\n\
         \n\
         Send a line, then read the talk:\n\
         \n  \
         curl -sS {address}/api/admin/conversations/{conversation}/messages -H 'Content-Type: application/json' -d '{{\"content\":\"hello\"}}'\n  \
         curl -sS {address}/api/gateways/{GATEWAY}/sessions/{SESSION}/messages\n\
         \n\
         Or see it stream, with websocat:\n\
         \n  \
         echo '{{\"type\":\"chat\",\"sessionKey\":\"{SESSION}\",\"message\":\"hello\"}}' | websocat -n {ws}/ws/chat/{GATEWAY}\n\
         \n\
         The message `help` lists what the sample gateway can do. Data: {data}\n\
         Stop with Ctrl-C.\n",
        version = env!("CARGO_PKG_VERSION"),
        ws = address.replacen("http", "ws", 1),
        data = node.state.config.app.data_dir.display(),
    ));
    Ok(())
}

/// Registers the sample gateway, or tells where it is this time.
async fn register(state: &AppState, id: &GatewayId, url: &str) -> Result<(), Error> {
    let wanted = id.clone();
    let known = state.store.read(move |db| gateways::get(db, &wanted)).await?;
    let token = Some(Secret::new(SAMPLE_TOKEN));
    if known.is_some() {
        let changes = Changes { url: Some(url.to_owned()), token: Some(token), ..Changes::default() };
        let change = ChangeGateway { id: id.clone(), changes, actor: Actor::system(), vault: state.vault.clone() };
        return state.store.write(change).await.map(drop);
    }
    let add = AddGateway::by_system(id.clone(), "Sample gateway", url, token, state.vault.clone());
    state.store.write(add).await.map(drop)
}

/// Opens the session that the printed lines talk in.
async fn open_session(state: &AppState, gateway_id: &GatewayId) -> Result<ConversationId, Failure> {
    let caller = state.directory.trusted().ok_or_else(|| Failure::new("local clients are not trusted"))?;
    let name = SessionName::new(gateway_id.clone(), &SESSION.parse()?, None);
    let open = OpenSession {
        name,
        caller: (*caller).clone(),
        new: NewSession { title: Some("Hello".to_owned()), ..NewSession::default() },
        must_be_new: false,
    };
    Ok(state.store.write(open).await?.id)
}
