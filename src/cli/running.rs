//! A broker's life in the foreground: start, introduction, signals, stop. Shared by `serve` and `demo`.
use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::failure::Failure;
use super::output::say;
use super::server_file::ServerFile;
use crate::actors::bootstrap::Bootstrapped;
use crate::actors::directory::Directory;
use crate::config::Config;
use crate::domain::gateway::LinkState;
use crate::node::Node;

/// How long it may take to become the active node before that is said.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the gateways have to connect before their state is told.
const SETTLE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);
/// What a shell shows of a program that Ctrl-C has ended.
const STOPPED_AT_ONCE: i32 = 130;

/// Runs a broker until a signal ends it; `introduce` says to people where it is, once it is the active node.
pub(super) async fn run(
    config: Config,
    introduce: impl AsyncFnOnce(&Node, &str, Bootstrapped) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let data_dir = config.app.data_dir.clone();
    let mut node = Node::start(config).await?;
    let outcome = tokio::select! {
        outcome = live(&mut node, introduce) => outcome,
        () = signals.next() => Ok(()),
    };
    say("Stopping; once more to stop at once.");
    tokio::select! {
        _ = node.stop() => {}
        () = signals.next() => std::process::exit(STOPPED_AT_ONCE),
    }
    ServerFile::remove(&data_dir);
    outcome
}

/// Ends only when something failed.
async fn live(
    node: &mut Node,
    introduce: impl AsyncFnOnce(&Node, &str, Bootstrapped) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let file = ServerFile::write(&node.state.config.app.data_dir, &node.addresses, node.state.started_at)?;
    let bootstrapped = match timeout(PATIENCE, node.ready()).await {
        Ok(bootstrapped) => bootstrapped,
        Err(_) => {
            say(format_args!(
                "clawbroker listens on {} and stands by: another node is active on this database, or it does not \
                 answer (the log tells).",
                file.address
            ));
            node.ready().await
        }
    };
    if let Some(bootstrapped) = bootstrapped {
        introduce(node, &file.address, bootstrapped).await?;
    }
    node.ended().await?;
    Err(Failure::new("the HTTP server has ended by itself; the log tells more"))
}

/// Waits until every gateway has connected or said why not, for a moment at most.
pub(super) async fn settled(directory: &Directory) {
    until(|| directory.gateways().iter().all(|card| card.status.state != LinkState::Connecting)).await;
}

/// Waits until something about the gateways holds, for a moment at most.
pub(super) async fn until(holds: impl Fn() -> bool) {
    let end = Instant::now() + SETTLE;
    while !holds() && Instant::now() < end {
        sleep(LOOK).await;
    }
}

/// The signals that stop a server.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn listen() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let terminate = signal(SignalKind::terminate())
            .map_err(|error| Failure::new(format!("signals cannot be received: {error}")))?;
        // A limit on the size of files must not end the process: once heard, the signal only makes the write fail.
        let _ = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))
            .map_err(|error| Failure::new(format!("signals cannot be received: {error}")))?;
        Ok(Self { terminate })
    }

    #[cfg(not(unix))]
    fn listen() -> Result<Self, Failure> {
        Ok(Self {})
    }

    /// Waits for the next signal to stop.
    async fn next(&mut self) {
        #[cfg(unix)]
        let terminated = self.terminate.recv();
        #[cfg(not(unix))]
        let terminated = pending::<Option<()>>();
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => {
                if let Err(error) = interrupted {
                    log::warn!("Ctrl-C cannot be received: {error}");
                    pending::<()>().await;
                }
                log::info!("stopping, as Ctrl-C says");
            }
            _ = terminated => log::info!("stopping, as SIGTERM says"),
        }
    }
}
