//! Two pollers of one agent: what one gets the other does not, however many messages there are.
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clawbroker::domain::agent::{AgentFacts, AgentKind};
use clawbroker::store::deliveries::DeliveryOptions;
use clawbroker::store::mailbox::{LoopGuards, MailLimits, SendMessage};
use serde_json::json;
use tokio::time::Instant;

use super::POLL;
use super::client::Agent;
use crate::crash::settings_for_agents;
use crate::harness::test_store::roomy;
use crate::harness::{Broker, Database, TestStore, sql};

on_both_databases!(two_pollers_share_ten_thousand_messages);

const MESSAGES: usize = 10_000;
/// Messages that are handed to the store at once.
const AT_ONCE: usize = 1_000;
/// How long a race may take before a test gives up; the messages are leased for much longer.
const RACE_MAX_S: u64 = 120;

async fn agent(store: &TestStore, name: &str) -> Arc<AgentFacts> {
    Arc::new(store.agent(name, AgentKind::OpenClaw).await.facts())
}

/// Has the store accept all messages, before a broker comes; returns them and who is to get them.
async fn filled(database: Arc<Database>) -> (BTreeSet<String>, Arc<AgentFacts>) {
    let store = TestStore::with(database, roomy());
    let (ann, ben) = (agent(&store, "ann").await, agent(&store, "ben").await);
    let new = |n: usize| SendMessage {
        from: ann.clone(),
        to: ben.id,
        text: format!("message {n}"),
        idem: None,
        in_reply_to: None,
        options: DeliveryOptions::default(),
        limits: MailLimits { messages_max: MESSAGES, attempts_max: 5 },
        guards: LoopGuards::default(),
    };
    let mut ids = BTreeSet::new();
    for first in (0..MESSAGES).step_by(AT_ONCE) {
        let sent = futures_util::future::join_all((first..first + AT_ONCE).map(|n| store.write(new(n)))).await;
        ids.extend(sent.into_iter().map(|sent| sent.expect("room").line.id.to_string()));
    }
    assert_eq!(ids.len(), MESSAGES);
    (ids, ben)
}

/// Has two clients poll at the same time until they have all messages between them; returns how many each of them got.
async fn race(broker: &Broker, agent: &Agent, all: &BTreeSet<String>, attempt: i64) -> [usize; 2] {
    let began = Instant::now();
    let taken = RefCell::new(BTreeSet::new());
    let poller = async || {
        let mut count = 0;
        while taken.borrow().len() < all.len() {
            assert!(began.elapsed().as_secs() < RACE_MAX_S, "{} are out\n{}", taken.borrow().len(), broker.log());
            let (status, polled) = agent.call(broker, "GET", &format!("{POLL}?limit=100&wait=1"), None).await;
            if status == 503 {
                // Where other tests take the machine a store may be busy: an agent comes again.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            assert_eq!(status, 200, "{polled}");
            let messages = polled["messages"].as_array().expect("a list");
            assert!(messages.len() <= 100, "{} at once", messages.len());
            for message in messages {
                let id = message["id"].as_str().expect("an id").to_owned();
                assert_eq!(message["delivery_attempt"], attempt, "{message}");
                assert!(all.contains(&id), "{message}");
                assert!(taken.borrow_mut().insert(id), "it was handed out twice: {message}");
                count += 1;
            }
        }
        count
    };
    let (one, other) = futures_util::join!(poller(), poller());
    println!("{one} and {other} messages in {:?}", began.elapsed());
    [one, other]
}

/// Has the leases of all messages be over while no broker is there.
fn end_leases(database: &Database) {
    let mut db = database.connect();
    let leased = sql::number(&mut db, "SELECT count(*) AS value FROM deliveries WHERE state = 1");
    assert_eq!(leased, MESSAGES as i64);
    sql::run(&mut db, "UPDATE deliveries SET lease_until = 1, due_at = 1 WHERE state = 1");
}

async fn two_pollers_share_ten_thousand_messages(database: Database) {
    let database = Arc::new(database);
    let (all, ben) = filled(database.clone()).await;
    // What was said before has nothing to do with it, and reading it takes time.
    let settings = settings_for_agents("history_lines = 0\n");
    let settings = settings.path().to_string_lossy();
    let mut broker = Broker::start(&database, &[], &[("CLAWBROKER_CONFIG", &*settings)]).await;
    let (status, made) = broker.post(&format!("/api/admin/agents/{}/keys", ben.id), json!({})).await;
    assert_eq!(status, 201, "{made}");
    let ben = Agent { id: ben.id.to_string(), key: made["api_key"].as_str().expect("a key").to_owned() };
    for attempt in 1..=2 {
        if attempt > 1 {
            broker.kill();
            end_leases(&database);
            broker.start_again().await;
        }
        let counts = race(&broker, &ben, &all, attempt).await;
        assert_eq!(counts.iter().sum::<usize>(), MESSAGES);
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        // Nothing is left for anybody until the leases are over.
        let (status, polled) = ben.call(&broker, "GET", POLL, None).await;
        assert_eq!((status, &polled["messages"], &polled["remaining"]), (200, &json!([]), &json!(0)), "{polled}");
    }
}
