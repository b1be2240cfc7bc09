//! What each story ends with: the browser's frames and the stored lines against the recording.
use std::time::Duration;

use clawbroker::gateway::history::same_text;
use serde_json::{Value, json};

use super::{Question, Replay, Told, broker_of};
use crate::harness::{Broker, Browser, Database, is_terminal, sql};
use crate::real_gateway::check::{compare, exactly_one_end};

/// Longest wait for what the broker does by itself, for example dial again.
const LONG: Duration = Duration::from_secs(40);

/// A broker with a replay gateway above it, and a browser below.
pub(super) struct Stage {
    pub(super) replay: Replay,
    pub(super) broker: Broker,
    pub(super) browser: Browser,
    database: Database,
}

impl Stage {
    /// Connects a broker to a recording.
    pub(super) async fn of(database: Database, names: &[&str]) -> Self {
        Self::with(database, Replay::of(names).await).await
    }

    pub(super) async fn with(database: Database, replay: Replay) -> Self {
        let broker = broker_of(&database, &replay).await;
        broker.gateway_within("gw", "connected", LONG).await;
        let mut browser = broker.browser("/ws/chat/gw").await;
        browser.until_type("connected").await;
        Self { replay, broker, browser, database }
    }

    /// Asks the recorded question of this place.
    pub(super) async fn ask(&mut self, at: usize) -> Question {
        let question = self.replay.questions()[at].clone();
        let ack = self.browser.ask(&question.session, &question.text).await;
        assert_eq!(ack["sessionKey"], json!(question.session), "{ack}");
        question
    }

    /// Waits for the end of a question's run and compares it with how the recorded `run` ended.
    pub(super) async fn ends_as(&mut self, question: &Question, run: &str) -> Value {
        let told = self.replay.told(run);
        let of_session = |frame: &Value| is_terminal(frame) && frame["sessionKey"] == json!(question.session);
        let end = self.browser.until_within(LONG, "the end", of_session).await;
        assert_eq!(end["state"], json!(told.state), "{end}");
        assert_eq!(end["text"].as_str().unwrap_or_default(), told.text, "{end}");
        assert_eq!(end["error"].as_str(), told.error.as_deref(), "{end}");
        end
    }

    /// Asks the recorded question and compares its end.
    pub(super) async fn tell(&mut self, at: usize) -> Value {
        let question = self.ask(at).await;
        self.ends_as(&question, &question.key).await
    }

    /// Waits until so many handshakes were made and the last one held; whoever waits longer than a person would is told
    /// to dial now.
    pub(super) async fn connected_after(&self, handshakes: usize) {
        let began = tokio::time::Instant::now();
        while self.replay.seen().connects.len() < handshakes {
            assert!(began.elapsed() < LONG, "{:?}\n{}", self.replay.seen(), self.broker.log());
            self.broker.post("/api/admin/gateways/gw/test", json!({})).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.broker.gateway_is("gw", "connected").await;
    }

    /// Waits until the whole recording has been played.
    pub(super) async fn played(&self) {
        self.until("the recording has been played", || self.replay.is_done()).await;
    }

    pub(super) async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let began = tokio::time::Instant::now();
        while !holds() {
            assert!(began.elapsed() < LONG, "never: {what}; {:?}\n{}", self.replay.seen(), self.broker.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns the lines of a session as REST gives them.
    pub(super) async fn lines(&self, session: &str) -> Vec<Value> {
        let (status, lines) = self.broker.get(&format!("/api/gateways/gw/sessions/{session}/messages?limit=500")).await;
        assert_eq!(status, 200, "{lines}");
        lines.as_array().cloned().unwrap_or_default()
    }

    /// Checks a session at its end: every row is one line or step of ours, in the same order and with the same text;
    /// each question has one line, each run one end.
    pub(super) async fn agrees(&self, session: &str) {
        let rows = self.replay.rows(session);
        assert!(!rows.is_empty(), "{session} was played");
        let began = tokio::time::Instant::now();
        while let Err(fault) = compare(&self.database, &self.broker, &rows, "gw", session).await {
            assert!(began.elapsed() < LONG, "{session}: {fault}\n{:#?}\n{}", self.replay.seen(), self.broker.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.tells_each_once(session).await;
    }

    /// The same where the gateway's rows are not ours one by one, in text or order: each has one origin all the same.
    pub(super) async fn has_every_row(&self, session: &str) {
        self.has_rows(session, usize::MAX).await;
        self.tells_each_once(session).await;
    }

    /// Waits until the first `count` rows of a session have their places.
    pub(super) async fn has_rows(&self, session: &str, count: usize) {
        let rows = self.replay.rows(session);
        let places = |row: &Value| {
            let id = row["__openclaw"]["id"].as_str().expect("a row has an id");
            let sql = format!("SELECT count(*) AS value FROM message_origins WHERE row_id = '{id}'");
            sql::number(&mut self.database.connect(), &sql)
        };
        self.until("the rows have their places", || rows.iter().take(count).all(|row| places(row) == 1)).await;
    }

    async fn tells_each_once(&self, session: &str) {
        exactly_one_end(&self.browser, session);
        let seen = self.replay.seen();
        assert!(seen.faults.is_empty(), "{:?}", seen.faults);
        let lines = self.lines(session).await;
        for question in self.replay.questions().iter().filter(|question| question.session == session) {
            let is_it = |send: &&Value| {
                let session = send["sessionKey"].as_str().unwrap_or_default().trim_start_matches("agent:main:");
                session == question.session && send["message"] == json!(question.text)
            };
            let sends = seen.sends.iter().filter(is_it).count();
            assert!(sends <= 1, "{} was sent {sends} times", question.text);
            let line = lines.iter().filter(|line| line["role"] == "user" && same_text(&question.text, &text(line)));
            assert_eq!(line.count(), 1, "{}: {lines:#?}", question.text);
        }
    }

    /// Checks that a question's line is followed by the answer that was told.
    pub(super) async fn holds(&self, question: &Question, told: &Told) {
        let lines = self.lines(&question.session).await;
        let at = lines.iter().position(|line| line["role"] == "user" && same_text(&question.text, &text(line)));
        let answer = &lines[at.expect("the question is stored") + 1];
        assert_eq!(answer["role"], "assistant", "{answer}");
        let expected = if told.text.is_empty() { told.error.clone().unwrap_or_default() } else { told.text.clone() };
        assert_eq!(text(answer), expected, "{answer}");
        assert_eq!(answer["error"].as_str(), told.error.as_deref(), "{answer}");
    }
}

/// Returns the text of a line.
pub(super) fn text(line: &Value) -> String {
    let blocks = line["content"].as_array().into_iter().flatten();
    blocks.filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n\n")
}
