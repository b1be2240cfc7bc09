//! The mixed load that all of these tests run under: browsers that chat, a writer over REST, a reader that resumes.
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use super::check;
use super::load::{self, Broker as Target, Journal, Written};
use crate::harness::{Broker, Seeded};

/// Browsers that chat, each in a session of its own.
const CHATS: usize = 4;
/// How long the clients may take to get their last answers, once nothing is broken any more.
const END_MAX: Duration = Duration::from_secs(60);

/// Clients at work.
pub(crate) struct Pressure {
    pub(crate) target: Target,
    chats: Vec<tokio::task::JoinHandle<Journal>>,
    writer: tokio::task::JoinHandle<Vec<Written>>,
    reader: tokio::task::JoinHandle<usize>,
}

impl Pressure {
    /// Sets the clients on a broker whose gateway `gw` is registered.
    pub(crate) async fn on(broker: &Broker, target: Target, random: &mut Seeded) -> Self {
        broker.gateway_is("gw", "connected").await;
        let (status, notes) = broker.post("/api/gateways/gw/sessions", json!({ "session_key": "notes" })).await;
        assert_eq!(status, 200, "{notes}");
        let notes = notes["id"].as_str().unwrap().to_owned();
        target.up(broker);
        let chats =
            (0..CHATS).map(|n| actix::spawn(load::chat(target.clone(), format!("chat-{n}"), random.part()))).collect();
        let writer = actix::spawn(load::write(target.clone(), notes, random.part()));
        let reader = actix::spawn(load::resume_again_and_again(target.clone(), CHATS, random.part()));
        Self { target, chats, writer, reader }
    }

    /// Has the clients end, each with its last answer, and returns what they were told.
    pub(crate) async fn end(self, broker: &Broker) -> Told {
        self.target.finish();
        let ends = async { (join_all(self.chats).await, self.writer.await, self.reader.await) };
        let (chats, writer, reader) = tokio::time::timeout(END_MAX, ends)
            .await
            .unwrap_or_else(|_| panic!("somebody waits for ever:\n{}", broker.log()));
        let journals: Vec<Journal> = chats.into_iter().map(|chat| chat.expect("a chat does not panic")).collect();
        let written = writer.expect("the writer does not panic");
        let resumes = reader.expect("the reader does not panic");
        let told = Told { journals, written };
        println!("{} questions, {} notes, {resumes} resumes", told.asked(), told.written.len());
        told
    }
}

/// What the clients were told.
pub(crate) struct Told {
    journals: Vec<Journal>,
    written: Vec<Written>,
}

impl Told {
    pub(crate) fn asked(&self) -> usize {
        self.journals.iter().map(|journal| journal.asked.len()).sum()
    }

    /// Compares it with what a broker has.
    pub(crate) async fn check(&self, broker: &Broker) {
        check::logs(broker, &self.journals, &self.written).await;
    }
}
