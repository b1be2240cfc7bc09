//! Mailboxes that nobody calls: they leave memory by themselves, and nothing is lost by it.
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::waiting::parked;
use super::{messages, send};
use crate::harness::Database;
use crate::routes::TestNode;

on_both_databases!(a_mailbox_that_nobody_calls_leaves_memory);

const LONG: Duration = Duration::from_secs(30);
/// How long something else may happen before it is looked again.
const LOOK: Duration = Duration::from_millis(20);
/// The shortest that the settings allow.
const IDLE: Duration = Duration::from_secs(1);

async fn a_mailbox_that_nobody_calls_leaves_memory(database: Database) {
    let node = TestNode::with(database, |config| config.mailbox.idle_s = IDLE.as_secs());
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let cards = node.state.directory.agents().cards();
    for text in ["one", "two"] {
        send(&node, &ann, "ben", text).await;
    }
    assert_eq!(messages(&node, &ben, "?limit=1").await[0]["content"], "one");
    assert_eq!(cards.len(), 1);
    // A poll that waits keeps the mailbox of its agent, and only that.
    let waits = parked(&node, &ann, 1).await;
    let began = Instant::now();
    while cards.len() != 1 {
        assert!(began.elapsed() < LONG, "{} are open", cards.len());
        sleep(LOOK).await;
    }
    sleep(3 * IDLE).await;
    assert_eq!((cards.len(), cards.waiting()), (1, 1), "hers is open");
    // What is leased stays so, and what came meanwhile is there.
    send(&node, &ann, "ben", "three").await;
    let polled = messages(&node, &ben, "").await;
    let texts: Vec<&Value> = polled.iter().map(|message| &message["content"]).collect();
    assert_eq!(texts, ["two", "three"]);
    send(&node, &ben, "ann", "hello").await;
    let got = timeout(LONG, waits).await.expect("an answer").expect_status(200).json;
    assert_eq!(got["messages"][0]["content"], "hello", "{got}");
}
