//! `serve`: runs the broker until it is told to stop.
use super::failure::Failure;
use super::output::{columns, say};
use super::{Common, Listening, block_on, logging, running};
use crate::actors::bootstrap::{ADMIN_TOKEN_FILE, Bootstrapped};
use crate::actors::directory::GatewayCard;
use crate::config::LocalClients;
use crate::node::Node;

/// Runs the command.
pub(super) fn run(common: &Common, listening: &Listening) -> Result<(), Failure> {
    let loaded = common.load_for(listening)?;
    logging::start(&loaded.config.log.level);
    loaded.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    raise_file_limit();
    block_on(running::run(loaded.config, introduce))
}

/// Says where to click, with which token, and how the gateways are.
async fn introduce(node: &Node, address: &str, bootstrapped: Bootstrapped) -> Result<(), Failure> {
    let config = &node.state.config;
    let open = config.app.public_url.as_ref().map_or(address, |url| url.as_str());
    let token_file = config.app.data_dir.join(ADMIN_TOKEN_FILE);
    say(format_args!("clawbroker {} is ready.\n", env!("CARGO_PKG_VERSION")));
    let mut rows = vec![row("Open", format!("{open}/")), row("API", format!("{open}/docs"))];
    if let Some(token) = bootstrapped.first_start.then(|| std::fs::read_to_string(&token_file)).and_then(Result::ok) {
        rows.push(row("Token", format!("{} (of the user `admin`; told this once)", token.trim())));
        rows.push(row("", format!("kept in {}", token_file.display())));
    } else {
        rows.push(row("Token", format!("in {}", token_file.display())));
    }
    if config.auth.local_clients == LocalClients::Trusted {
        rows.push(row("", "not needed by clients on this machine"));
    }
    rows.push(row("Data", config.store.url.to_string()));
    columns("  ", &rows);
    running::settled(&node.state.directory).await;
    tell_gateways(&node.state.directory.gateways());
    columns("  ", &[row("Stop", "Ctrl-C")]);
    say("");
    Ok(())
}

/// Width of the first column, so that all parts stand under each other.
const LABEL_CHARS: usize = 8;

fn row(label: &str, text: impl Into<String>) -> Vec<String> {
    vec![format!("{label:<LABEL_CHARS$}"), text.into()]
}

fn tell_gateways(cards: &[GatewayCard]) {
    if cards.is_empty() {
        columns("  ", &[row("Gateways", "none yet; register one: clawbroker gateway add ID URL")]);
    }
    for (index, card) in cards.iter().enumerate() {
        let label = if index == 0 { "Gateways" } else { "" };
        let mut text = format!("{} is {} ({})", card.gateway.id, card.status.state.as_str(), card.gateway.url);
        if let Some(problem) = &card.status.problem {
            text.push_str(": ");
            text.push_str(&problem.message);
        }
        let mut rows = vec![row(label, text)];
        rows.extend(card.status.problem.iter().filter_map(|problem| problem.remedy.as_ref()).map(|text| row("", text)));
        columns("  ", &rows);
    }
}

/// Allows as many open files as the system lets us: each browser takes two.
pub(super) fn raise_file_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        if limit.current != limit.maximum
            && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        {
            log::warn!("the number of open files stays at {:?}: {error}", limit.current);
        }
    }
}
