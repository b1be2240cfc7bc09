//! Gateways and browsers that break the rules: the broker lives, nobody else notices, and nothing is lost or told twice.
//!
//! `CLAWBROKER_TEST_SEED` repeats a run, `CLAWBROKER_TEST_ROUNDS` says how often each step of a gateway's protocol is broken
//! (1; six rounds break each step in each way), `CLAWBROKER_TEST_DISCONNECTS` how often browsers go away in the middle of
//! something (60).

mod browser;
pub(crate) mod gateway;
mod limits;
pub(crate) mod middle;
pub(crate) mod raw;
mod reader;
mod silence;
mod words;

use std::time::Duration;

use clawbroker::sample_gateway::Running;
use serde_json::{Value, json};

use self::middle::Middle;
use crate::harness::{Broker, Browser, Database, is_terminal};
use crate::ws::sample_gateway;

/// Longest wait for what the broker does by itself.
const LONG: Duration = Duration::from_secs(30);
/// When a connection that was cut is still there, it is cut again: it may not have been passed on yet.
const CUT_AGAIN: Duration = Duration::from_secs(2);

/// A broker below two gateways: one behind [`Middle`], and one whose people must not notice anything.
struct Stage {
    broker: Broker,
    middle: Middle,
    /// What is behind the middle.
    gateway: Running,
    bystander: Bystander,
}

impl Stage {
    /// Starts it with lines of a configuration file.
    async fn on(database: &Database, settings: &str) -> Self {
        Self::below(sample_gateway(|options| options.tick_ms = 200), database, settings).await
    }

    async fn below(gateway: Running, database: &Database, settings: &str) -> Self {
        let broker = broker_with(database, settings).await;
        let bystander = Bystander::beside(&broker).await;
        let middle = Middle::before(&gateway.url).await;
        let body = json!({ "id": "gw", "name": "Hostile", "url": middle.url, "token": "sample-token" });
        let (status, answer) = broker.post("/api/gateways", body).await;
        assert_eq!(status, 200, "{answer}");
        broker.gateway_is("gw", "connected").await;
        Self { broker, middle, gateway, bystander }
    }

    /// Opens a browser's socket to the hostile gateway.
    async fn browser(&self) -> Browser {
        let mut browser = self.broker.browser("/ws/chat/gw").await;
        browser.until_type("connected").await;
        browser
    }

    /// Waits until so many faults have been played; a link that would wait longer than a person is told to dial now.
    async fn played(&self, faults: usize) {
        let began = tokio::time::Instant::now();
        while self.middle.played() < faults {
            assert!(began.elapsed() < LONG, "a fault was not met: {}\n{}", self.middle.plan(), self.broker.log());
            self.hurry().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Cuts the connection, so that the steps of the next one are come to, and waits until so many faults have been played.
    async fn cut_until_played(&self, faults: usize) {
        let began = tokio::time::Instant::now();
        self.middle.cut();
        while tokio::time::timeout(CUT_AGAIN, self.played(faults)).await.is_err() {
            assert!(began.elapsed() < LONG, "a fault was not met: {}\n{}", self.middle.plan(), self.broker.log());
            if self.state().await == "connected" {
                self.middle.cut();
            }
        }
    }

    /// Waits until the hostile gateway is connected again.
    async fn connected(&self) {
        let began = tokio::time::Instant::now();
        while self.state().await != "connected" {
            assert!(began.elapsed() < LONG, "it did not connect again:\n{}", self.broker.log());
            self.hurry().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the broker holds nothing but the connection at hand, though the other side never ends one.
    async fn left(&self) {
        let began = tokio::time::Instant::now();
        while self.middle.silent() > 0 || self.middle.held() > 1 {
            let (silent, held) = (self.middle.silent(), self.middle.held());
            assert!(began.elapsed() < LONG, "{silent} silent ones were not ended, {held} held:\n{}", self.broker.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Has a link that waits dial now.
    async fn hurry(&self) {
        if self.state().await == "waiting" {
            self.broker.post("/api/admin/gateways/gw/test", json!({})).await;
        }
    }

    async fn state(&self) -> Value {
        self.broker.get("/api/admin/gateways/gw").await.1["state"].clone()
    }

    /// Checks a session of one question: asked once, answered once, and told once to a browser that saw all of it.
    async fn is_answered_once(&self, session: &str, browser: &Browser, answer: &str) {
        let ends: Vec<&Value> =
            browser.seen.iter().filter(|frame| is_terminal(frame) && frame["sessionKey"] == session).collect();
        assert_eq!(ends.len(), 1, "{ends:?}");
        assert_eq!((&ends[0]["state"], &ends[0]["text"]), (&json!("final"), &json!(answer)));
        let told = browser.seen.iter().filter(|frame| frame["message"]["id"] == ends[0]["messageId"]).count();
        assert_eq!(told, 0, "a line that was told as the end is not told again: {}", browser.transcript());
        self.is_stored_once(session, answer).await;
    }

    /// Checks a session of one question in the log of the broker and in that of the gateway.
    async fn is_stored_once(&self, session: &str, answer: &str) {
        let (status, lines) = self.broker.get(&format!("/api/gateways/gw/sessions/{session}/messages")).await;
        let lines = lines.as_array().unwrap_or_else(|| panic!("{status}: {lines}"));
        let roles: Vec<(&Value, &Value)> = lines.iter().map(|line| (&line["seq"], &line["role"])).collect();
        assert_eq!(roles, [(&json!(1), &json!("user")), (&json!(2), &json!("assistant"))], "{session}");
        assert_eq!(lines[1]["content"][0]["text"], answer, "{session}");
        let rows = self.gateway.rows(session);
        let rows: Vec<&Value> = rows.iter().map(|row| &row["role"]).collect();
        assert_eq!(rows, [&json!("user"), &json!("assistant")], "{session}: a question was asked twice");
    }

    /// Checks that nothing is under way any more, that nobody noticed, and that no part of the broker has failed.
    async fn is_at_rest(&mut self) {
        let began = tokio::time::Instant::now();
        loop {
            let link = link_report(&self.broker, "gw").await;
            let state = &link["state"];
            let busy = ["sessions_busy", "questions_waiting", "requests_in_flight", "requests_waiting"];
            if busy.iter().all(|name| state[*name] == 0) {
                break;
            }
            assert!(began.elapsed() < LONG, "something is under way for ever: {link}\n{}", self.broker.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.bystander.is_served().await;
        self.bystander.noticed_nothing();
        is_sound(&self.broker).await;
    }
}

/// Starts a broker with lines of a configuration file.
async fn broker_with(database: &Database, settings: &str) -> Broker {
    let file = database.data_dir().join("hostile.toml");
    std::fs::write(&file, settings).expect("written");
    Broker::start(database, &[], &[("CLAWBROKER_CONFIG", &file.to_string_lossy())]).await
}

/// Returns what a gateway's link tells of itself; one that is too busy to do so in time is asked again.
async fn link_report(broker: &Broker, id: &str) -> Value {
    let began = tokio::time::Instant::now();
    loop {
        let (_, reports) = broker.get("/api/admin/actors?actor=gateway_link").await;
        if let Some(report) = reports["items"].as_array().into_iter().flatten().find(|report| report["id"] == id) {
            return report.clone();
        }
        assert!(began.elapsed() < LONG, "{id} does not tell of itself: {reports}\n{}", broker.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Checks that no part of the broker has failed.
async fn is_sound(broker: &Broker) {
    let (status, health) = broker.get("/health").await;
    assert_eq!(status, 200, "{health}");
    let log = broker.log();
    for word in ["panicked", "ended unexpectedly", "ended too often", "unreadable record", "unknown outcome"] {
        assert!(!log.contains(word), "the log says `{word}`:\n{log}");
    }
}

/// Returns what the broker has in memory, in KiB, and begins to watch its peak.
fn memory_before(broker: &Broker) -> u64 {
    broker.forget_peak();
    broker.peak_kib()
}

/// Checks that the broker was at no time larger than `before` by more than this.
fn has_not_grown(broker: &Broker, before: u64, by_kib: u64) {
    let peak = broker.peak_kib();
    assert!(peak < before + by_kib, "it grew from {before} KiB to {peak} KiB, {by_kib} KiB are allowed");
}

/// Waits until no socket but the bystander's is known to the broker, and no other connection is held.
async fn nothing_is_held(broker: &Broker) {
    let began = tokio::time::Instant::now();
    loop {
        let (_, reports) = broker.get("/api/admin/actors?actor=browser_session").await;
        let sessions = reports["items"].as_array().map_or(0, Vec::len);
        if sessions == 1 {
            break;
        }
        assert!(began.elapsed() < LONG, "{sessions} sockets are known: {reports}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It is not asked any more, because the broker may hold the connection of a question for a while.
    let began = tokio::time::Instant::now();
    loop {
        let connections = broker.connections();
        if connections == 1 {
            break;
        }
        assert!(began.elapsed() < LONG, "{connections} connections are held:\n{}", broker.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Somebody who talks to a gateway of their own, over one socket, while others misbehave.
struct Bystander {
    browser: Browser,
    /// Ends with this value.
    _gateway: Running,
    asked: usize,
}

impl Bystander {
    async fn beside(broker: &Broker) -> Self {
        let gateway = sample_gateway(|_| {});
        let body = json!({ "id": "calm", "name": "Calm", "url": gateway.url, "token": "sample-token" });
        let (status, answer) = broker.post("/api/gateways", body).await;
        assert_eq!(status, 200, "{answer}");
        broker.gateway_is("calm", "connected").await;
        let mut browser = broker.browser("/ws/chat/calm").await;
        browser.until_type("connected").await;
        Self { browser, _gateway: gateway, asked: 0 }
    }

    /// Asks, and gets its answer.
    async fn is_served(&mut self) {
        self.asked += 1;
        let answer = format!("calm {}", self.asked);
        self.browser.ask("calm", &format!("say[chunks=2,ms=1]: {answer}")).await;
        let end = self.browser.until_terminal().await;
        assert_eq!((&end["state"], &end["text"]), (&json!("final"), &json!(answer)), "{end}");
    }

    /// Reads what has come, so that the broker does not take it for gone.
    async fn hears(&mut self) {
        self.browser.drain(Duration::from_millis(1)).await;
    }

    /// Comes again to a broker that was started again.
    async fn is_back(&mut self, broker: &Broker) {
        broker.gateway_is("calm", "connected").await;
        self.browser = broker.browser("/ws/chat/calm").await;
        self.browser.until_type("connected").await;
        self.asked = 0;
    }

    /// Nothing came but the answers.
    fn noticed_nothing(&self) {
        let kinds = ["connected", "imported", "ack", "stream", "delivery"];
        let odd = |frame: &&Value| !kinds.iter().any(|kind| frame["type"] == *kind);
        assert_eq!(self.browser.seen.iter().find(odd), None);
        assert_eq!(self.browser.seen.iter().filter(|frame| is_terminal(frame)).count(), self.asked);
    }
}
