//! A gateway that answers by script: the other side of `clawbroker demo`, and of tests that need an upstream to misbehave.
//!
//! It speaks the OpenClaw gateway protocol (4, or 3 if told so) as far as a chat client sees it, over real sockets on the
//! loopback interface, and knows nothing of the broker: production code does not use it, and it uses none but the clock.
//! What a message makes it do, `script.rs` tells; the message `help` lists it. Faults are played with [`Running`]'s methods.
//!
//! Not played: subscriptions, approvals, attachments (accepted, ignored), the merging of events for a slow reader (who is
//! cut instead), and the real one's minutes of retries before an `error`.
use std::io;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::{Arbiter, System};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::domain::clock::Clock;

mod connect;
mod connection;
mod devices;
mod frames;
mod gateway;
mod methods;
mod peers;
mod port;
mod run;
mod script;
mod server;
mod session;
#[cfg(test)]
mod tests;

use gateway::{Incoming, Phase};
use port::Port;
use server::{Core, Shared};
use session::{canonical, fresh_id};

/// The largest frame that is taken, and the largest message in fragments.
const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// How long a restart waits for what runs. What still runs then is interrupted, and resumed afterwards.
const DRAIN_WAIT: Duration = Duration::from_secs(20);
/// How long a stop waits for the other sides' close frames.
const GOODBYE_WAIT: Duration = Duration::from_secs(1);
/// How often, and how far apart, we try to open the port again.
const OPEN_ATTEMPTS: u32 = 1_500;
const OPEN_PAUSE: Duration = Duration::from_millis(20);
/// How long a test waits for what it wants to see.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the sample gateway behaves.
#[derive(Clone)]
pub struct Options {
    pub clock: Arc<dyn Clock>,
    /// 0 takes a free one.
    pub port: u16,
    /// 4, or 3 for an old gateway.
    pub protocol: u8,
    /// The shared secret. Without token and password everybody is let in.
    pub token: Option<String>,
    /// Counts if there is no token.
    pub password: Option<String>,
    /// Grants at most these scopes, whatever is asked for.
    pub grant_scopes: Option<Vec<String>>,
    /// Treats every client as a remote one: scopes only for a device that [`Running::approve`] has approved.
    pub pairing: bool,
    /// The pause between two deltas.
    pub delta_ms: u64,
    pub tick_ms: u64,
    /// Tells this process of the gateway from the next.
    pub boot_id: String,
}

impl Options {
    /// Returns the options of a gateway of protocol 4 on a free port, with the token `sample-token`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            port: 0,
            protocol: 4,
            token: Some("sample-token".to_owned()),
            password: None,
            grant_scopes: None,
            pairing: false,
            delta_ms: 60,
            tick_ms: 30_000,
            boot_id: fresh_id(),
        }
    }
}

/// Starts a sample gateway. Needs a running actix `System`; the gateway works on threads of its own.
///
/// It ends with [`Running::stop`], or at once when the returned value is dropped.
pub fn start(options: Options) -> io::Result<Running> {
    if System::try_current().is_none() {
        return Err(io::Error::other("the sample gateway needs a running actix system"));
    }
    let port = Port::take(options.port)?;
    let listener = port.open()?;
    let arbiter = Arbiter::try_new()?;
    let shared = Shared::new(options, arbiter.handle());
    shared.listen(listener)?;
    let (owner, owned) = oneshot::channel();
    shared.spawn(server::end_with(Arc::clone(&shared), owned));
    Ok(Running { url: format!("ws://127.0.0.1:{}", port.number()), port, shared, _owner: owner })
}

/// A sample gateway at work; dropping it ends it.
pub struct Running {
    pub url: String,
    port: Port,
    shared: Arc<Shared>,
    /// Its end is the sign for the gateway's thread to end.
    _owner: oneshot::Sender<()>,
}

/// What a test asks for and looks at.
impl Running {
    /// Approves a device's request; tells whether there was one.
    pub fn approve(&self, request_id: &str) -> bool {
        self.shared.change(|core, _, _| core.devices.approve(request_id))
    }

    /// Returns the ids of the pairing requests that wait for approval.
    pub fn pending_pairings(&self) -> Vec<String> {
        self.shared.lock().devices.pending()
    }

    /// Opens the gate of this name, for good.
    pub fn release(&self, gate: &str) {
        self.shared.change(|core, _, _| core.gateway.release(gate));
    }

    /// Adds a row that no run has produced, and reports it. Returns the row's id; `None` if the session key is refused.
    pub fn inject(&self, session: &str, text: &str) -> Option<String> {
        self.shared.change(|core, now, out| core.gateway.inject(session, text, now, out)).ok()
    }

    /// Starts a session afresh, as `sessions.reset` does. Tells whether the session key was taken.
    pub fn reset(&self, session: &str) -> bool {
        self.shared.change(|core, now, out| {
            canonical(session).and_then(|key| core.gateway.reset(&key, now, out).map(drop)).is_ok()
        })
    }

    /// Sends a message as some other client would. Returns the run's id; `None` if the message is refused.
    pub fn foreign_send(&self, session: &str, text: &str) -> Option<String> {
        let run_id = fresh_id();
        let message = Incoming { session_key: session, idempotency_key: &run_id, text };
        let acknowledged = self.shared.change(|core, now, out| core.gateway.send(None, &message, now, out));
        acknowledged.is_ok().then_some(run_id)
    }

    /// Returns the history of a session, oldest row first, texts uncut.
    pub fn rows(&self, session: &str) -> Vec<Value> {
        let core = self.shared.lock();
        let session = canonical(session).ok().and_then(|key| core.gateway.sessions.get(&key));
        session.map(|session| session.rows().cloned().collect()).unwrap_or_default()
    }

    /// Returns the parameters of every `chat.send` that has come in, refused and repeated ones too; the last 10,000.
    pub fn sends(&self) -> Vec<Value> {
        self.shared.lock().gateway.sends.iter().cloned().collect()
    }

    /// Counts the connections that have finished the handshake.
    pub fn connections(&self) -> usize {
        self.shared.lock().peers.open_count()
    }

    /// Waits until exactly so many connections have finished the handshake. Panics after a minute.
    pub async fn connected(&self, count: usize) {
        self.wait(&format!("{count} open connections"), |core| core.peers.open_count() == count).await;
    }

    /// Waits until at least so many `chat.send` have come in. Panics after a minute.
    pub async fn sent(&self, count: usize) {
        self.wait(&format!("{count} messages"), |core| core.gateway.sends.len() >= count).await;
    }

    /// Waits until nothing runs. Panics after a minute.
    pub async fn idle(&self) {
        self.wait("the end of all runs", |core| core.gateway.runs.is_empty()).await;
    }

    /// Waits until the state is as wanted. A test that waits in vain must end.
    async fn wait(&self, awaited: &str, wanted: impl Fn(&Core) -> bool) {
        let came = timeout(PATIENCE, self.shared.until(wanted)).await.is_ok();
        assert!(came, "the sample gateway waited in vain for {awaited}: {}", self.in_short());
    }

    fn in_short(&self) -> String {
        let core = self.shared.lock();
        let (connections, messages) = (core.peers.open_count(), core.gateway.sends.len());
        format!("{connections} open connections, {messages} messages, {} runs", core.gateway.runs.len())
    }
}

/// The faults, and the orderly ends.
impl Running {
    /// Cuts all connections at once, without close frames. The port stays open, runs go on.
    pub fn kill(&self) {
        self.shared.change(|core, _, _| core.peers.cut_all());
    }

    /// Closes the port and cuts all connections; runs go on. A network that is down. The port remains the gateway's.
    pub async fn stop_listening(&self) {
        self.shared.close_port().await;
    }

    /// Opens the same port again.
    pub async fn listen_again(&self) -> io::Result<()> {
        let mut attempts_left = OPEN_ATTEMPTS;
        loop {
            match self.port.open() {
                Ok(listener) => return self.shared.listen(listener),
                Err(error) if attempts_left == 0 => return Err(error),
                Err(_) => attempts_left -= 1,
            }
            sleep(OPEN_PAUSE).await;
        }
    }

    /// Answers every `connect` with `UNAVAILABLE` while set, as a gateway does that is still starting.
    pub fn hold_starting(&self, starting: bool) {
        let phase = if starting { Phase::Starting } else { Phase::Up };
        self.shared.change(|core, _, _| core.gateway.phase = phase);
    }

    /// Restarts as the real gateway does: lets runs finish, says `shutdown`, closes with 1012, and comes back on the same
    /// port with another boot id and the old sessions. What still runs after 20 s is interrupted, as by a crash.
    pub async fn restart(&self, boot_id: &str) -> io::Result<()> {
        self.shared.change(|core, _, _| core.gateway.phase = Phase::Draining);
        if timeout(DRAIN_WAIT, self.idle()).await.is_err() {
            log::info!("sample gateway restarts while something runs");
        }
        self.say_goodbye(json!({ "reason": "gateway restarting", "restartExpectedMs": 1_500 })).await;
        self.crash().await;
        self.recover(boot_id).await
    }

    /// Ends like a killed process: port and connections go without a word, what runs is lost. The sessions are kept.
    pub async fn crash(&self) {
        self.shared.change(|core, _, _| {
            core.peers.cut_all();
            core.gateway.crash();
        });
        self.shared.close_port().await;
    }

    /// Starts again after [`Running::crash`]: what ran then is answered under new run ids.
    pub async fn recover(&self, boot_id: &str) -> io::Result<()> {
        self.shared.change(|core, now, out| core.gateway.boot(boot_id, now, out));
        self.listen_again().await
    }

    /// Ends in good order: `shutdown`, close 1012, then the port. What runs is not waited for.
    pub async fn stop(self) {
        self.shared.change(|core, _, _| {
            core.gateway.phase = Phase::Draining;
            core.gateway.crash();
        });
        self.say_goodbye(json!({ "reason": "gateway stopping" })).await;
        self.shared.close_port().await;
    }

    async fn say_goodbye(&self, shutdown: Value) {
        self.shared.change(|core, _, _| {
            core.peers.broadcast("shutdown", &shutdown, None);
            core.peers.close_all(1012, "service restart");
        });
        if timeout(GOODBYE_WAIT, self.shared.until(|core| core.peers.len() == 0)).await.is_err() {
            log::debug!("sample gateway closes the port under a client that has not said goodbye");
        }
    }
}
