//! The mixed load that all of these tests run under: browsers that chat, a reader that resumes, and over REST one who writes
//! notes and one who makes users; where the settings allow it, agents that write to each other as well.
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use super::agents::{Agents, Correspondence, MailJournal};
use super::load::{self, Added, Broker as Target, Journal, Written};
use super::{check, mail, number_from};
use crate::harness::{Broker, Database, Seeded};

/// How long the clients may take to get their last answers, once nothing is broken any more.
const END_MAX: Duration = Duration::from_secs(60);

/// How many clients there are, and how long they rest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    /// Browsers that chat, each in sessions of its own.
    pub(crate) chats: usize,
    /// Longest pause between two notes; users are made five times more rarely.
    pub(crate) pause_ms: u64,
    /// They need [`settings_for_agents`](super::settings_for_agents).
    pub(crate) agents: Option<Agents>,
}

impl Mix {
    const USUAL: Self = Self { chats: 4, pause_ms: 20, agents: None };
}

/// Clients at work.
pub(crate) struct Pressure {
    pub(crate) target: Target,
    chats: Vec<tokio::task::JoinHandle<Vec<Journal>>>,
    writer: tokio::task::JoinHandle<Vec<Written>>,
    admin: tokio::task::JoinHandle<Vec<Added>>,
    reader: tokio::task::JoinHandle<usize>,
    agents: Option<Correspondence>,
}

impl Pressure {
    /// Sets the clients on a broker whose gateway `gw` is registered.
    pub(crate) async fn on(broker: &Broker, target: Target, random: &mut Seeded) -> Self {
        Self::of(Mix::USUAL, broker, target, random).await
    }

    /// The same with agents, on a broker that has [`settings_for_agents`](super::settings_for_agents).
    pub(crate) async fn with_agents(broker: &Broker, target: Target, random: &mut Seeded) -> Self {
        let asked = number_from("CLAWBROKER_TEST_AGENTS", 12) as usize;
        let agents = Some(Agents { askers: 4, workers: 3, asked });
        Self::of(Mix { agents, ..Mix::USUAL }, broker, target, random).await
    }

    /// The same with a mix of the test's own.
    pub(crate) async fn of(mix: Mix, broker: &Broker, target: Target, random: &mut Seeded) -> Self {
        broker.gateway_is("gw", "connected").await;
        let (status, notes) = broker.post("/api/gateways/gw/sessions", json!({ "session_key": "notes" })).await;
        assert_eq!(status, 200, "{notes}");
        let notes = notes["id"].as_str().unwrap().to_owned();
        target.up(broker);
        let chats = (0..mix.chats)
            .map(|n| actix::spawn(load::chat(target.clone(), format!("chat-{n}"), random.part())))
            .collect();
        let writer = actix::spawn(load::write(target.clone(), notes, mix.pause_ms, random.part()));
        let admin = actix::spawn(load::add_users(target.clone(), 5 * mix.pause_ms, random.part()));
        let reader = actix::spawn(load::resume_again_and_again(target.clone(), mix.chats, random.part()));
        let agents = match mix.agents {
            Some(agents) => Some(Correspondence::on(agents, broker, &target, random).await),
            None => None,
        };
        Self { target, chats, writer, admin, reader, agents }
    }

    /// Has the clients end, each with its last answer, and returns what they were told.
    pub(crate) async fn end(self, broker: &Broker) -> Told {
        let Self { target, chats, writer, admin, reader, agents } = self;
        target.finish();
        let mail = async {
            match agents {
                Some(agents) => agents.end().await,
                None => MailJournal::default(),
            }
        };
        let ends = async { (join_all(chats).await, writer.await, admin.await, reader.await, mail.await) };
        let (chats, writer, admin, reader, mail) = tokio::time::timeout(END_MAX, ends)
            .await
            .unwrap_or_else(|_| panic!("somebody waits for ever:\n{}", broker.log()));
        let journals: Vec<Journal> = chats.into_iter().flat_map(|chat| chat.expect("a chat does not panic")).collect();
        let written = writer.expect("the writer does not panic");
        let added = admin.expect("the admin does not panic");
        let resumes = reader.expect("the reader does not panic");
        let told = Told { journals, written, added, mail };
        let (notes, users) = (told.written.len(), told.added.len());
        println!("{} questions, {notes} notes, {users} users, {resumes} resumes", told.asked());
        told
    }
}

/// What the clients were told.
pub(crate) struct Told {
    journals: Vec<Journal>,
    written: Vec<Written>,
    added: Vec<Added>,
    mail: MailJournal,
}

impl Told {
    pub(crate) fn asked(&self) -> usize {
        self.journals.iter().map(|journal| journal.asked.len()).sum()
    }

    /// Compares it with what a broker has.
    pub(crate) async fn check(&self, broker: &Broker) {
        check::logs(broker, &self.journals, &self.written).await;
        check::users(broker, &self.added).await;
    }

    /// Compares what agents were told with what is in a database that no broker has open.
    pub(crate) fn check_mail(&self, database: &Database) {
        mail::mail(database, &self.mail);
    }
}
