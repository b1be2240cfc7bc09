//! How a sender wants its message handed out, over HTTP.
use clawbroker::domain::time::iso;
use clawbroker::domain::user::Role;
use clawbroker::store::deliveries::FireDue;
use serde_json::{Value, json};

use super::{SEND, deliveries, messages, poll, report, send};
use crate::harness::test_store::START_MS;
use crate::routes::TestNode;

on_both_databases!(
    a_message_goes_on_from_the_one_it_names,
    a_message_waits_for_its_time,
    a_message_has_a_time_to_live,
    the_highest_priority_goes_first,
    the_newest_of_a_key_is_left,
    options_have_bounds,
);

/// Sends a message with options; returns its id.
async fn send_with(node: &TestNode, key: &str, target: &str, content: &str, options: Value) -> String {
    let mut body = options;
    body["target"] = json!(target);
    body["content"] = json!(content);
    let sent = node.post(SEND).json(&body).with_key(key).await.expect_status(200).json;
    sent["message_id"].as_str().unwrap().to_owned()
}

fn texts(polled: &[Value]) -> Vec<&str> {
    polled.iter().map(|message| message["content"].as_str().unwrap()).collect()
}

async fn a_message_goes_on_from_the_one_it_names(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let (_, eve) = node.agent("eve").await;
    let first = send(&node, &ann, "ben", "one").await;
    assert_eq!(report(&node, &ben, json!({ "message_id": first, "result": "done" })).await.0, 200);
    let reply = messages(&node, &ann, "").await[0]["id"].clone();
    for named in [json!(first), reply] {
        send_with(&node, &ann, "ben", "two", json!({ "in_reply_to": named })).await;
        let asked = messages(&node, &ben, "").await;
        assert_eq!((&asked[0]["in_reply_to"], &asked[0]["hops"]), (&named, &json!(2)));
    }
    // What others said to each other is nothing to her.
    for (key, named) in [(&eve, first.as_str()), (&ann, "01890000-0000-7000-8000-000000000000")] {
        let body = json!({ "target": "ben", "content": "x", "in_reply_to": named });
        node.post(SEND).json(&body).with_key(key).await.expect_error(404, "not_found");
    }
}

async fn a_message_waits_for_its_time(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let (_, cat) = node.agent("cat").await;
    send_with(&node, &ann, "ben", "later", json!({ "deliver_at": iso(START_MS + 60_000) })).await;
    send_with(&node, &cat, "ben", "past", json!({ "deliver_at": START_MS - 60_000 })).await;
    assert_eq!(texts(&messages(&node, &ben, "").await), ["past"]);
    node.clock.advance_ms(60_000);
    send(&node, &cat, "ben", "now").await;
    assert_eq!(texts(&messages(&node, &ben, "").await), ["later", "now"]);
}

async fn a_message_has_a_time_to_live(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let id = send_with(&node, &ann, "ben", "quick", json!({ "ttl_seconds": 60 })).await;
    node.clock.advance_ms(60_000);
    let ids = vec![deliveries(&node, "pending").await[0]["id"].as_str().unwrap().parse().unwrap()];
    node.state.store.write(FireDue { ids }).await.expect("what is due moves");
    assert_eq!(poll(&node, &ben, "").await["messages"], json!([]));
    assert_eq!(deliveries(&node, "expired").await.len(), 1);
    let told = messages(&node, &ann, "").await;
    assert_eq!((told.len(), &told[0]["kind"], &told[0]["in_reply_to"]), (1, &json!("notice"), &json!(id)));
    let metrics = node.get("/metrics").by(Role::Viewer).await.expect_status(200).text;
    for kind in ["request", "reply", "notice"] {
        let line = format!("clawbroker_dead_total{{kind=\"{kind}\"}} 0");
        assert!(metrics.lines().any(|told| told == line), "{line}\n{metrics}");
    }
}

async fn the_highest_priority_goes_first(node: TestNode) {
    let (_, ben) = node.agent("ben").await;
    for (name, priority) in [("ann", 0), ("cat", 2), ("dan", 1), ("eve", 2)] {
        let (_, key) = node.agent(name).await;
        send_with(&node, &key, "ben", name, json!({ "priority": priority })).await;
    }
    assert_eq!(texts(&messages(&node, &ben, "").await), ["cat", "eve", "dan", "ann"]);
}

async fn the_newest_of_a_key_is_left(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    for text in ["one", "two", "three"] {
        send_with(&node, &ann, "ben", text, json!({ "coalesce_key": "weather" })).await;
    }
    assert_eq!(texts(&messages(&node, &ben, "").await), ["three"]);
    assert_eq!(deliveries(&node, "cancelled").await.len(), 2);
}

async fn options_have_bounds(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    node.agent("ben").await;
    for (field, value) in [
        ("in_reply_to", json!("7")),
        ("ttl_seconds", json!(0)),
        ("ttl_seconds", json!(31_536_001)),
        ("ttl_seconds", json!("60")),
        ("deliver_at", json!("tomorrow")),
        ("deliver_at", json!(START_MS + 31_536_000_001)),
        ("deliver_at", json!({})),
        ("priority", json!(3)),
        ("priority", json!(-1)),
        ("coalesce_key", json!("")),
        ("coalesce_key", json!("k".repeat(129))),
        ("coalesce_key", json!("a\u{0}b")),
    ] {
        let mut body = json!({ "target": "ben", "content": "x" });
        body[field] = value;
        let refused = node.post(SEND).json(&body).with_key(&ann).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), [field], "{}", refused.text);
    }
    assert_eq!(deliveries(&node, "pending").await.len(), 0);
    let nothing = json!({ "in_reply_to": null, "ttl_seconds": null, "deliver_at": null, "coalesce_key": null });
    send_with(&node, &ann, "ben", "x", nothing).await;
}
