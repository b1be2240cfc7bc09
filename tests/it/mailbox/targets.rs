//! Whom a message is for, and what may be sent.
use clawbroker::domain::event::Event;
use clawbroker::domain::user::Role;
use serde_json::{Value, json};

use super::{SEND, messages, send};
use crate::harness::sql;
use crate::routes::{Reply, TestNode};

on_both_databases!(
    an_agent_is_found_by_id_slug_name_and_part,
    nobody_guesses_who_is_meant,
    what_cannot_be_sent_is_refused_by_name,
    a_message_with_a_key_is_sent_once,
    a_retry_is_answered_whomever_the_name_means_by_now,
    a_name_means_whoever_has_it_now,
    a_name_is_looked_up_while_it_is_not_known_what_was_committed,
);

async fn to(node: &TestNode, key: &str, target: &str) -> Reply {
    node.post(SEND).json(&json!({ "target": target, "content": "hello" })).with_key(key).await
}

async fn an_agent_is_found_by_id_slug_name_and_part(node: TestNode) {
    let (_, ann) = node.agent("Ann").await;
    let (id, ben) = node.agent("Ben's Ärger").await;
    node.agent("100% sure").await;
    node.agent("snake_case").await;
    for target in [id.as_str(), "ben-s-rger", "Ben's Ärger", " ben's ärger ", "ÄRGE", "BEN"] {
        let sent = to(&node, &ann, target).await.expect_status(200);
        assert_eq!(sent.json["target"], "Ben's Ärger", "{target}");
    }
    assert_eq!(messages(&node, &ben, "").await.len(), 6);
    // No character stands for others.
    for (target, name) in [("%", "100% sure"), ("_", "snake_case")] {
        assert_eq!(to(&node, &ann, target).await.expect_status(200).json["target"], name);
    }
}

async fn nobody_guesses_who_is_meant(node: TestNode) {
    let (id, ann) = node.agent("Ann").await;
    let (first, _) = node.agent("Ben one").await;
    let (second, _) = node.agent("Ben two").await;
    let refused = to(&node, &ann, "ben").await.expect_error(409, "ambiguous_target");
    let candidates = refused.json["error"]["details"]["candidates"].as_array().unwrap().clone();
    let mut ids: Vec<&str> = candidates.iter().map(|one| one["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    let mut expected = [first.as_str(), second.as_str()];
    expected.sort_unstable();
    assert_eq!(ids, expected);
    let one = candidates.iter().find(|one| one["id"] == first.as_str()).unwrap();
    assert_eq!(*one, json!({ "id": first, "slug": "ben-one", "name": "Ben one", "type": "openclaw" }));
    // Never itself, and never one that is gone.
    let path = format!("/api/admin/agents/{second}");
    node.delete(&path).by(Role::Operator).await.expect_status(200);
    for target in ["Ann", "ann", id.as_str(), second.as_str(), "ben-two", "s%e", &"x".repeat(10_000)] {
        let refused = to(&node, &ann, target).await.expect_error(404, "not_found");
        let shown: String = target.chars().take(128).collect();
        let detail = format!("Target '{shown}' not found. Check your relationships list.");
        assert_eq!(refused.json["detail"], detail.as_str());
    }
    assert_eq!(to(&node, &ann, "ben").await.expect_status(200).json["target"], "Ben one");
    // However many have the name in another case.
    for name in ["EVE"; 12] {
        node.agent(name).await;
    }
    node.agent("Eve").await;
    assert_eq!(to(&node, &ann, "Eve").await.expect_status(200).json["target"], "Eve");
}

async fn what_cannot_be_sent_is_refused_by_name(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let post = async |body: Value| node.post(SEND).json(&body).with_key(&ann).await;
    for (body, field) in [
        (json!({ "content": "x" }), "target"),
        (json!({ "target": "ben" }), "content"),
        (json!({ "target": " ", "content": "x" }), "target"),
        (json!({ "target": "ben", "content": " \n" }), "content"),
        (json!({ "target": "b\0", "content": "x" }), "target"),
        (json!({ "target": "ben", "content": "a\0" }), "content"),
        (json!({ "target": "ben", "content": "x", "message_id": "" }), "message_id"),
        (json!({ "target": "ben", "content": "x", "message_id": "a b" }), "message_id"),
    ] {
        let refused = post(body.clone()).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), [field], "{body}");
    }
    let long = "x".repeat(256 << 10);
    let body = json!({ "target": "ben", "content": format!("{long}x") });
    post(body).await.expect_error(413, "message_too_large");
    // The space around it does not count.
    post(json!({ "target": "ben", "content": format!(" {long} ") })).await.expect_status(200);
    assert_eq!(messages(&node, &ben, "").await[0]["content"], long.as_str());
    for (channel, status) in [("agent", 200), (" Agent ", 200), ("", 200), ("feishu", 404)] {
        let sent = post(json!({ "target": "ben", "content": "x", "channel": channel })).await;
        assert_eq!(sent.status.as_u16(), status, "{channel}: {}", sent.text);
    }
    let native = json!({ "name": "nat", "kind": "native" });
    node.post("/api/admin/agents").json(&native).by(Role::Operator).await.expect_status(201);
    to(&node, &ann, "nat").await.expect_error(400, "invalid_request");
}

async fn a_message_with_a_key_is_sent_once(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let body = json!({ "target": "ben", "content": "hello", "message_id": "k-1" });
    let post = |body: &Value| node.post(SEND).json(body);
    let first = post(&body).with_key(&ann).await.expect_status(200).json;
    assert_eq!(post(&body).with_key(&ann).await.expect_status(200).json, first);
    let same = post(&body).header("idempotency-key", "k-1").with_key(&ann).await.expect_status(200);
    assert_eq!(same.json, first);
    let bare = json!({ "target": "ben", "content": "hello" });
    let by_header = post(&bare).header("idempotency-key", "k-1").with_key(&ann).await.expect_status(200);
    assert_eq!(by_header.json, first, "the header alone says the same");
    let other = post(&body).header("idempotency-key", "k-2").with_key(&ann).await;
    assert_eq!(other.expect_error(422, "validation_error").fields(), ["message_id"]);
    let changed = json!({ "target": "ben", "content": "bye", "message_id": "k-1" });
    post(&changed).with_key(&ann).await.expect_error(409, "idempotency_conflict");
    // It is the sender's own.
    send(&node, &ben, "ann", "hi").await;
    let back = json!({ "target": "ann", "content": "hello", "message_id": "k-1" });
    post(&back).with_key(&ben).await.expect_status(200);
    assert_eq!(messages(&node, &ben, "").await.len(), 1);
    assert_eq!(messages(&node, &ann, "").await.len(), 2);
}

async fn a_retry_is_answered_whomever_the_name_means_by_now(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (id, ben) = node.agent("ben").await;
    let post = async |content: &str| {
        let body = json!({ "target": "ben", "content": content, "message_id": "k-1" });
        node.post(SEND).json(&body).with_key(&ann).await
    };
    let first = post("hello").await.expect_status(200).json;
    let one = format!("/api/admin/agents/{id}");
    let renamed = json!({ "name": "carl", "slug": "carl" });
    node.patch(&one).json(&renamed).by(Role::Operator).await.expect_status(200);
    let to_carl = json!({
        "status": "accepted", "target": "carl", "type": "openclaw_agent", "message_id": first["message_id"],
        "message": "Message sent to carl. Reply will appear in your next poll.",
    });
    assert_eq!(post("hello").await.expect_status(200).json, to_carl, "nobody is called so");
    let (_, other) = node.agent("Ben one").await;
    node.agent("Ben two").await;
    to(&node, &ann, "ben").await.expect_error(409, "ambiguous_target");
    assert_eq!(post("hello").await.expect_status(200).json, to_carl, "two are called so");
    post("bye").await.expect_error(409, "idempotency_conflict");
    assert_eq!(messages(&node, &ben, "").await.len(), 1);
    assert_eq!(messages(&node, &other, "").await.len(), 0);
    node.delete(&one).by(Role::Operator).await.expect_status(200);
    assert_eq!(post("hello").await.expect_status(200).json, to_carl, "it is gone");
}

async fn a_name_means_whoever_has_it_now(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (first, of_first) = node.agent("first").await;
    let (second, of_second) = node.agent("second").await;
    let rename = async |id: &str, name: &str| {
        let path = format!("/api/admin/agents/{id}");
        node.patch(&path).json(&json!({ "name": name })).by(Role::Operator).await.expect_status(200);
    };
    let names = async |key: &str| -> Vec<Value> {
        let messages = messages(&node, key, "").await;
        let history = messages.last().expect("it was sent one")["history"].as_array().unwrap().clone();
        history.iter().map(|line| line["sender_name"].clone()).collect()
    };
    rename(&first, "Ben").await;
    for _ in 0..2 {
        assert_eq!(to(&node, &ann, "Ben").await.expect_status(200).json["target"], "Ben");
    }
    assert_eq!(names(&of_first).await, ["ann"]);
    // Each change is heard of at once.
    rename(&first, "Old").await;
    to(&node, &ann, "Ben").await.expect_error(404, "not_found");
    rename(&second, "Ben").await;
    to(&node, &ann, "Ben").await.expect_status(200);
    assert_eq!((names(&of_second).await.len(), messages(&node, &of_first, "").await.len()), (0, 0));
    let path = format!("/api/admin/agents/{second}");
    node.delete(&path).by(Role::Operator).await.expect_status(200);
    to(&node, &ann, "Ben").await.expect_error(404, "not_found");
    // Nor are lines shown under a name that their sender has no more.
    let found = node.get("/api/admin/agents?limit=100").by(Role::Operator).await.expect_status(200);
    let asker = found.json["items"].as_array().unwrap().iter().find(|one| one["name"] == "ann").unwrap()["id"].clone();
    rename(asker.as_str().unwrap(), "Anna").await;
    to(&node, &ann, "Old").await.expect_status(200);
    assert_eq!(names(&of_first).await, ["Anna", "Anna"]);
}

async fn a_name_is_looked_up_while_it_is_not_known_what_was_committed(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    node.agent("ben").await;
    to(&node, &ann, "ben").await.expect_status(200);
    // Nobody is told of this.
    let renamed = "UPDATE agents SET name = 'carl', name_folded = 'carl', slug = 'carl' WHERE name = 'ben'";
    sql::run(&mut node.database.opener().writable().unwrap(), renamed);
    to(&node, &ann, "ben").await.expect_status(200);
    node.state.directory.on_event(&Event::OutcomeUnknown);
    to(&node, &ann, "ben").await.expect_error(404, "not_found");
}
