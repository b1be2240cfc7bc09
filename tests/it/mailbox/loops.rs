//! Agents that answer each other without end come to one (RTE-1), over HTTP.
use clawbroker::domain::user::Role;
use serde_json::{Value, json};

use super::{REPORT, SEND, messages, report, send};
use crate::harness::Database;
use crate::routes::{Reply, TestNode};

on_both_databases!(
    two_eager_agents_come_to_an_end,
    a_pair_is_slowed_down,
    a_circle_of_three_that_names_what_led_to_it_ends_by_its_hops,
    a_circle_of_three_that_names_nothing_ends_by_the_rate_of_its_pairs,
    a_circle_of_three_that_reports_ends_by_its_hops,
);

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

/// Each of them writes to the next one.
const CIRCLE: [&str; 3] = ["ann", "ben", "cat"];

/// Registers the three; returns their keys.
async fn circle(node: &TestNode) -> [String; 3] {
    [node.agent(CIRCLE[0]).await.1, node.agent(CIRCLE[1]).await.1, node.agent(CIRCLE[2]).await.1]
}

/// Has the `n`th message of the circle be sent, counted from 0; with the message that led to it, if that is named.
async fn passed_on(node: &TestNode, keys: &[String; 3], n: usize, led_to_it: Option<&Value>) -> Reply {
    let mut body = json!({ "target": CIRCLE[(n + 1) % 3], "content": "go on" });
    if let Some(message) = led_to_it {
        body["in_reply_to"] = message["id"].clone();
    }
    node.post(SEND).json(&body).with_key(&keys[n % 3]).await
}

async fn a_circle_of_three_that_names_what_led_to_it_ends_by_its_hops(node: TestNode) {
    let keys = circle(&node).await;
    let mut last: Option<Value> = None;
    for n in 0..8 {
        passed_on(&node, &keys, n, last.as_ref()).await.expect_status(200);
        let got = messages(&node, &keys[(n + 1) % 3], "").await;
        assert_eq!((got.len(), &got[0]["hops"]), (1, &json!(n + 1)), "{got:?}");
        last = got.into_iter().next();
    }
    let refused = passed_on(&node, &keys, 8, last.as_ref()).await.expect_error(429, "hop_limit");
    assert_eq!(refused.header("retry-after"), "3600");
    for key in &keys {
        assert_eq!(messages(&node, key, "").await, [] as [Value; 0]);
    }
    assert_eq!(counted(&node, "clawbroker_hop_limit_total").await, 1);
    assert_eq!(counted(&node, "clawbroker_pair_rate_limited_total").await, 0);
}

/// What each of them holds is of another one than it writes to.
async fn a_circle_of_three_that_names_nothing_ends_by_the_rate_of_its_pairs(database: Database) {
    let node = TestNode::with(database, |config| {
        config.mailbox.pair_requests_max = 10;
        config.mailbox.pair_window_s = 60;
    });
    let keys = circle(&node).await;
    // More rounds than hops are allowed.
    for n in 0..30 {
        passed_on(&node, &keys, n, None).await.expect_status(200);
        let got = messages(&node, &keys[(n + 1) % 3], "").await;
        assert_eq!((got.len(), &got[0]["hops"]), (1, &json!(1)), "{got:?}");
    }
    let refused = passed_on(&node, &keys, 30, None).await.expect_error(429, "pair_rate_limited");
    assert_eq!(refused.header("retry-after"), "60");
    assert_eq!(messages(&node, &keys[1], "").await, [] as [Value; 0]);
    assert_eq!(counted(&node, "clawbroker_pair_rate_limited_total").await, 1);
    assert_eq!(counted(&node, "clawbroker_hop_limit_total").await, 0);
}

/// The replies tell each of them how far it is with the next one.
async fn a_circle_of_three_that_reports_ends_by_its_hops(node: TestNode) {
    let keys = circle(&node).await;
    for n in 0..24 {
        passed_on(&node, &keys, n, None).await.expect_status(200);
        let key = &keys[(n + 1) % 3];
        let mut got = messages(&node, key, "").await;
        got.retain(|message| message["kind"] == "request");
        assert_eq!((got.len(), &got[0]["hops"]), (1, &json!(n / 3 + 1)), "{got:?}");
        let done = json!({ "message_id": got[0]["id"], "result": "passed on" });
        assert_eq!(report(&node, key, done).await.0, 200);
    }
    let refused = passed_on(&node, &keys, 24, None).await.expect_error(429, "hop_limit");
    assert_eq!(refused.header("retry-after"), "3600");
}
