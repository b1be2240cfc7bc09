//! The bounds of channels over the whole HTTP application: what is too much is refused, and taken later.
use clawbroker::channels::webhook;
use clawbroker::domain::clock::Clock;
use clawbroker::domain::secret::Secret;
use clawbroker::domain::user::Role;
use serde_json::{Value, json};

use crate::harness::Database;
use crate::harness::providers::hook;
use crate::routes::{Reply, TestNode};

on_both_databases!(
    a_call_that_is_too_large_is_refused,
    no_more_calls_are_worked_on_than_the_settings_allow,
    what_a_full_mailbox_does_not_take_comes_in_later,
    no_more_messages_wait_than_the_settings_allow,
);

const CHANNELS: &str = "/api/admin/channels";
const SEND: &str = "/api/gateway/send-message";

/// Makes what a path holds; returns its id.
pub(super) async fn make(node: &TestNode, path: &str, body: Value) -> String {
    let made = node.post(path).json(&body).by(Role::Admin).await.expect_status(201).json;
    made["id"].as_str().expect("an id").to_owned()
}

/// Sets a webhook up, which may be an agent's own; returns its id.
pub(super) async fn hook_channel(node: &TestNode, name: &str, agent: Option<&str>) -> String {
    let body = json!({ "kind": "webhook", "name": name, "agent_id": agent, "secret": { "secret": hook::SECRET } });
    make(node, CHANNELS, body).await
}

/// A signed call of a webhook.
pub(super) async fn call(node: &TestNode, channel: &str, line: &Value) -> Reply {
    let (time, body) = ((node.clock.now_ms() / 1_000).to_string(), line.to_string());
    let signature = webhook::signature(&Secret::new(hook::SECRET), &time, body.as_bytes());
    let call = node.post(&format!("/hooks/{channel}")).header(webhook::TIMESTAMP, &time);
    call.header(webhook::SIGNATURE, &signature).body("application/json", &body).send().await
}

fn line(id: &str) -> Value {
    json!({ "id": id, "text": format!("line {id}"), "from": "crm-7" })
}

/// A webhook of the agent, on which a person was let in; returns its id and the agent's key.
async fn heard(node: &TestNode) -> (String, String) {
    let (ann, key) = node.agent("ann").await;
    let channel = hook_channel(node, "CRM", Some(&ann)).await;
    let eve = make(node, "/api/admin/members", json!({ "name": "Eve" })).await;
    call(node, &channel, &line("0")).await.expect_status(200);
    let allow = node.post(&format!("{CHANNELS}/{channel}/senders/crm-7/allow"));
    allow.json(&json!({ "member_id": eve })).by(Role::Admin).await.expect_status(200);
    (channel, key)
}

/// Polls for messages.
async fn messages(node: &TestNode, key: &str) -> Vec<Value> {
    let polled = node.get("/api/gateway/poll").with_key(key).await.expect_status(200).json;
    polled["messages"].as_array().expect("a list").clone()
}

async fn a_call_that_is_too_large_is_refused(node: TestNode) {
    let (channel, key) = heard(&node).await;
    let bytes_max = node.state.config.limits.body_bytes_max;
    let mut long = line("1");
    long["text"] = json!("x".repeat(bytes_max));
    call(&node, &channel, &long).await.expect_error(413, "payload_too_large");
    // Also by what it says of itself.
    let declared = node.post(&format!("/hooks/{channel}")).header("content-length", &(bytes_max + 1).to_string());
    declared.send().await.expect_error(413, "payload_too_large");
    assert!(messages(&node, &key).await.is_empty());
    call(&node, &channel, &line("1")).await.expect_status(200);
    assert_eq!(messages(&node, &key).await.len(), 1);
}

async fn no_more_calls_are_worked_on_than_the_settings_allow(database: Database) {
    let node = TestNode::with(database, |config| config.channels.calls_max = 1);
    let (channel, key) = heard(&node).await;
    // A call that is worked on.
    let place = node.state.directory.channels().call(1);
    assert!(place.is_some());
    for _ in 0..2 {
        call(&node, &channel, &line("1")).await.expect_error(503, "store_busy");
    }
    assert!(messages(&node, &key).await.is_empty());
    drop(place);
    for _ in 0..2 {
        call(&node, &channel, &line("1")).await.expect_status(200);
    }
    assert_eq!(messages(&node, &key).await.len(), 1);
}

async fn what_a_full_mailbox_does_not_take_comes_in_later(database: Database) {
    let node = TestNode::with(database, |config| config.limits.mailbox_messages_max = 1);
    let (channel, key) = heard(&node).await;
    call(&node, &channel, &line("1")).await.expect_status(200);
    // The provider is to call again, whatever is full here.
    for _ in 0..2 {
        call(&node, &channel, &line("2")).await.expect_error(503, "store_busy");
    }
    let first = messages(&node, &key).await;
    assert_eq!((first.len(), &first[0]["content"]), (1, &json!("line 1")));
    call(&node, &channel, &line("2")).await.expect_error(503, "store_busy");
    let done = json!({ "message_id": first[0]["id"], "result": "done" });
    node.post("/api/gateway/report").json(&done).with_key(&key).await.expect_status(200);
    for _ in 0..2 {
        call(&node, &channel, &line("2")).await.expect_status(200);
    }
    let second = messages(&node, &key).await;
    assert_eq!((second.len(), &second[0]["content"]), (1, &json!("line 2")), "once, though it was sent often");
    let path = "/api/admin/conversations?kind=agent_member";
    let talks = node.get(path).by(Role::Operator).await.expect_status(200).json;
    let log = format!("/api/admin/conversations/{}/messages", talks["items"][0]["id"].as_str().expect("an id"));
    let log = node.get(&log).by(Role::Operator).await.expect_status(200).json;
    let said: Vec<&Value> =
        log["items"].as_array().expect("a list").iter().map(|line| &line["content"][0]["text"]).collect();
    assert_eq!(said, ["line 1", "done", "line 2"], "what was refused has left nothing behind");
}

async fn no_more_messages_wait_than_the_settings_allow(database: Database) {
    // Nothing goes out here: there is no supervisor.
    let node = TestNode::with(database, |config| {
        config.channels.queue_max = 2;
        config.channels.send_wait_ms = 0;
    });
    let (ann, key) = node.agent("ann").await;
    let eve = json!({ "name": "Eve", "telegram_chat_id": "7", "email": "eve@example.org" });
    let eve = make(&node, "/api/admin/members", eve).await;
    let knows = json!({ "member_id": eve, "relation": "boss" });
    make(&node, &format!("/api/admin/agents/{ann}/relationships"), knows).await;
    let bot = json!({ "kind": "telegram", "name": "Bot", "secret": { "bot_token": "1:x" } });
    make(&node, CHANNELS, bot).await;
    let send = async |key: &str, content: &str, named: &str| {
        let body = json!({ "target": "Eve", "content": content, "message_id": named });
        node.post(SEND).json(&body).with_key(key).await
    };
    let first = send(&key, "one", "k-1").await.expect_status(200).json;
    assert_eq!((&first["status"], &first["channel"]), (&json!("accepted"), &json!("telegram")), "{first}");
    send(&key, "two", "k-2").await.expect_status(200);
    let full = send(&key, "three", "k-3").await.expect_error(429, "mailbox_full");
    assert!(full.text.contains("Bot"), "{}", full.text);
    // What was accepted is answered as before, and a place that is free is taken.
    assert_eq!(send(&key, "one", "k-1").await.expect_status(200).json["message_id"], first["message_id"]);
    let list = node.get("/api/admin/deliveries?state=pending").by(Role::Operator).await.expect_status(200).json;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2), "{list}");
    let cancel = format!("/api/admin/deliveries/{}/cancel", list["items"][0]["id"].as_str().expect("an id"));
    node.post(&cancel).by(Role::Operator).await.expect_status(200);
    send(&key, "three", "k-3").await.expect_status(200);
    send(&key, "four", "k-4").await.expect_error(429, "mailbox_full");
}
