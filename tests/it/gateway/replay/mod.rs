//! A gateway made of recordings: it says what a real one said, whenever the broker does what the recorded client did.
//!
//! A recording is played with its pauses cut short, its times moved to today, its closes and kills where they were, and
//! the recorded keys replaced by the broker's. What the broker asks beyond it is answered from a log of what was played.
mod check;
mod handshakes;
mod log;
mod names;
mod outages;
mod protocol_3;
mod recording;
mod script;
mod server;
mod stories;

use std::cell::RefCell;
use std::rc::Rc;

use clawbroker::domain::clock::{Clock, SystemClock};
use serde_json::{Value, json};
use tokio::sync::Notify;

use self::recording::Recording;
pub(crate) use self::recording::{Question, Told};
use self::script::{Script, Seen};
use crate::harness::{Broker, Database};

/// A replay gateway at work; it ends with the test.
pub(crate) struct Replay {
    pub(crate) url: String,
    recording: Recording,
    script: Rc<RefCell<Script>>,
    /// Rings when the script may go on by itself.
    wake: Rc<Notify>,
}

impl Replay {
    /// Plays recordings, one behind the other.
    pub(crate) async fn of(names: &[&str]) -> Self {
        Self::with(names, &[], |_| {}).await
    }

    /// The same; the questions with these recorded keys are asked by somebody else.
    pub(crate) async fn with_others(names: &[&str], others: &[&str]) -> Self {
        Self::with(names, others, |_| {}).await
    }

    /// Plays a recording that does not go on before each recorded look at history was made here, too.
    pub(crate) async fn look_by_look(name: &str) -> Self {
        Self::with(&[name], &[], |script| script.waits_for_looks = true).await
    }

    /// Plays no more than the handshake of a recording: what it tells has happened before.
    pub(crate) async fn afterwards(name: &str) -> Self {
        Self::with(&[name], &[], |script| script.skip()).await
    }

    async fn with(names: &[&str], others: &[&str], prepare: impl FnOnce(&mut Script)) -> Self {
        let recording = Recording::read(names, SystemClock.now_ms());
        let mut script = Script::new(recording.clone(), others);
        prepare(&mut script);
        let script = Rc::new(RefCell::new(script));
        let wake = Rc::new(Notify::new());
        let address = server::serve(script.clone(), wake.clone()).await;
        Self { url: format!("ws://{address}"), recording, script, wake }
    }

    /// Plays the first `count` connections only; the last of them is repeated until [`Replay::go_on`].
    pub(crate) fn stop_behind(&self, count: usize) {
        self.script.borrow_mut().may_reach = count;
    }

    /// Plays the rest, too; a connection that the recorded client left is cut.
    pub(crate) fn go_on(&self) {
        self.script.borrow_mut().may_reach = usize::MAX;
        self.wake.notify_waiters();
    }

    /// Returns the recorded questions.
    pub(crate) fn questions(&self) -> Vec<Question> {
        self.recording.questions()
    }

    /// Returns how a recorded run ended.
    pub(crate) fn told(&self, run: &str) -> Told {
        self.recording.told(run)
    }

    /// Returns a session's log as it is in the end.
    pub(crate) fn rows(&self, session: &str) -> Vec<Value> {
        self.script.borrow().rows(session)
    }

    /// Returns the run that ended with this text.
    pub(crate) fn run_answering(&self, text: &str) -> String {
        self.recording.run_answering(text)
    }

    /// Returns the run by which the gateway took a session's question up again.
    pub(crate) fn run_resuming(&self, session: &str) -> String {
        self.recording.run_resuming(session)
    }

    /// Counts the connections of the recording.
    pub(crate) fn connections(&self) -> usize {
        self.recording.connections.len()
    }

    pub(crate) fn seen(&self) -> Seen {
        self.script.borrow().seen.clone()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.script.borrow().is_done()
    }
}

/// Starts a broker with the replay gateway as `gw`.
pub(crate) async fn broker_of(database: &Database, replay: &Replay) -> Broker {
    let broker = Broker::start(database, &[], &[]).await;
    let body = json!({ "id": "gw", "name": "Replay", "url": replay.url, "token": "replay-token" });
    let (status, answer) = broker.post("/api/gateways", body).await;
    assert_eq!(status, 200, "{answer}");
    broker
}
