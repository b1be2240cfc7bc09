//! Agents that answer each other without end come to one (RTE-1), over HTTP.
use clawbroker::domain::user::Role;
use serde_json::{Value, json};

use super::{REPORT, SEND, messages, report, send};
use crate::harness::Database;
use crate::routes::TestNode;

on_both_databases!(two_eager_agents_come_to_an_end, a_pair_is_slowed_down);

/// Has a message refused; returns the code and after how many seconds to try again.
async fn refused(node: &TestNode, key: &str, target: &str) -> (String, String) {
    let body = json!({ "target": target, "content": "go on" });
    let reply = node.post(SEND).json(&body).with_key(key).await.expect_status(429);
    (reply.code().to_owned(), reply.header("retry-after").to_owned())
}

fn refusal(code: &str, retry_after: &str) -> (String, String) {
    (code.to_owned(), retry_after.to_owned())
}

/// Reads a counter.
async fn counted(node: &TestNode, name: &str) -> u64 {
    let metrics = node.get("/metrics").by(Role::Viewer).await.expect_status(200).text;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect("the counter");
    line.parse().expect("a whole number")
}

/// As nobody's model is stopped by being told that a reply is only a reply.
async fn two_eager_agents_come_to_an_end(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    for round in 1..=8 {
        send(&node, &ann, "ben", "go on").await;
        let asked = messages(&node, &ben, "").await;
        assert_eq!((asked.len(), &asked[0]["hops"]), (1, &json!(round)), "{asked:?}");
        let done = json!({ "message_id": asked[0]["id"], "result": "and you?" });
        assert_eq!(report(&node, &ben, done).await.0, 200);
        let replies = messages(&node, &ann, "").await;
        assert_eq!((replies.len(), &replies[0]["kind"]), (1, &json!("reply")));
        // What she says about a reply goes nowhere.
        let thanks = json!({ "message_id": replies[0]["id"], "result": "thanks" });
        node.post(REPORT).json(&thanks).with_key(&ann).await.expect_status(200);
    }
    assert_eq!(refused(&node, &ann, "ben").await, refusal("hop_limit", "3600"));
    assert_eq!(messages(&node, &ben, "").await, [] as [Value; 0]);
    assert_eq!(counted(&node, "clawbroker_hop_limit_total").await, 1);
    // A reply counts for an hour.
    node.clock.advance_ms(3_600_000);
    send(&node, &ann, "ben", "another day").await;
    assert_eq!(messages(&node, &ben, "").await[0]["hops"], 1);
}

async fn a_pair_is_slowed_down(database: Database) {
    let node = TestNode::with(database, |config| {
        config.mailbox.pair_requests_max = 3;
        config.mailbox.pair_window_s = 60;
    });
    let (_, ann) = node.agent("ann").await;
    node.agent("ben").await;
    node.agent("cat").await;
    for _ in 0..3 {
        send(&node, &ann, "ben", "hello").await;
        node.clock.advance_ms(10_000);
    }
    assert_eq!(refused(&node, &ann, "ben").await, refusal("pair_rate_limited", "30"));
    assert_eq!(counted(&node, "clawbroker_pair_rate_limited_total").await, 1);
    send(&node, &ann, "cat", "hello").await;
    node.clock.advance_ms(30_000);
    send(&node, &ann, "ben", "hello").await;
    assert_eq!(refused(&node, &ann, "ben").await, refusal("pair_rate_limited", "10"));
}
