//! Keys of agents: which count, which do not any more, and what a call by one costs.
use std::sync::atomic::Ordering;
use std::time::Duration;

use clawbroker::domain::user::Role;
use clawbroker::http::auth::digest;
use serde_json::{Value, json};

use super::{POLL, REPORT, SEND, messages, send};
use crate::harness::{Broker, Database};
use crate::routes::{Reply, TestNode};

on_both_databases!(
    a_heartbeat_names_the_agent_and_touches_no_disk,
    a_call_without_a_right_key_is_refused_in_the_ancestors_words,
    guesses_are_limited_and_right_keys_are_not,
    keys_overlap_until_the_old_one_is_revoked,
    a_key_expires,
    a_paused_agent_may_call_and_a_removed_one_may_not,
    the_ancestors_path_makes_a_key,
    every_answer_can_be_traced,
    a_page_of_a_stranger_calls_nothing,
    keys_and_presence_outlive_the_process,
);

const HEARTBEAT: &str = "/api/gateway/heartbeat";
const NOBODY: &str = "01890000-0000-7000-8000-000000000000";

async fn a_heartbeat_names_the_agent_and_touches_no_disk(node: TestNode) {
    let (id, key) = node.agent("ann").await;
    let commits = || node.state.store.writer().stats().commits_total.load(Ordering::Relaxed);
    let before = commits();
    assert!(before > 0);
    for call in [
        node.post(HEARTBEAT),
        node.post(HEARTBEAT).json(&json!({})),
        node.post("/api/gateway/heartbeat/"),
        node.post(&format!("{HEARTBEAT}?extra=1")),
    ] {
        let heard = call.with_key(&key).await.expect_status(200);
        assert_eq!(heard.json, json!({ "status": "ok", "agent_id": id }));
    }
    for _ in 0..1_000 {
        node.post(HEARTBEAT).with_key(&key).await.expect_status(200);
    }
    assert_eq!(commits(), before);
    node.get(HEARTBEAT).with_key(&key).await.expect_error(405, "method_not_allowed");
    let refused = node.post(HEARTBEAT).header("accept", "text/html").with_key(&key).await;
    refused.expect_error(406, "not_acceptable");
}

async fn a_call_without_a_right_key_is_refused_in_the_ancestors_words(node: TestNode) {
    let (_, key) = node.agent("ann").await;
    let stored: String = digest(&key).iter().map(|byte| format!("{byte:02x}")).collect();
    let detail = |reply: Reply| reply.expect_error(401, "unauthenticated").json["detail"].clone();
    assert_eq!(detail(node.post(HEARTBEAT).send().await), "Missing X-Api-Key header");
    for call in [node.get(POLL), node.post(HEARTBEAT), node.post(SEND)] {
        assert_eq!(detail(call.with_key("").await), "Invalid API key");
    }
    for call in [node.get(POLL), node.post(SEND), node.post(REPORT)] {
        assert_eq!(detail(call.send().await), "Missing X-Api-Key header");
    }
    assert_eq!(detail(node.post(REPORT).with_key("").await), "Missing X-Api-Key header");
    // A token of a user is no key of an agent, nor is a stored digest, nor part of a key.
    let token = node.token("admin", Role::Admin).await;
    assert_eq!(detail(node.post(HEARTBEAT).by(Role::Admin).await), "Missing X-Api-Key header");
    for wrong in [token.as_str(), &stored, &key[..45], &key["oc-".len()..], &key.to_uppercase(), "oc-"] {
        assert_eq!(detail(node.post(HEARTBEAT).with_key(wrong).await), "Invalid API key", "{wrong}");
    }
    // A key of an agent is no token of a user.
    node.get("/api/gateways").with_token(&key).await.expect_error(401, "unauthenticated");
}

async fn guesses_are_limited_and_right_keys_are_not(node: TestNode) {
    let (_, key) = node.agent("ann").await;
    // Time goes on meanwhile, which gives back a guess now and then.
    let mut looked_at = 0;
    loop {
        let guess = node.post(HEARTBEAT).with_key("oc-guess").await;
        if guess.status.as_u16() == 429 {
            guess.expect_error(429, "rate_limited");
            break;
        }
        guess.expect_error(401, "unauthenticated");
        looked_at += 1;
        assert!(looked_at < 100, "nobody counts");
    }
    assert!(looked_at >= 20, "{looked_at}");
    node.post(HEARTBEAT).with_key(&key).await.expect_status(200);
    // Nothing was guessed, so there is nothing to count.
    node.post(HEARTBEAT).send().await.expect_error(401, "unauthenticated");
    node.post(HEARTBEAT).from("192.0.2.8:1").with_key("oc-guess").await.expect_error(401, "unauthenticated");
}

async fn keys_overlap_until_the_old_one_is_revoked(node: TestNode) {
    let (id, old) = node.agent("ann").await;
    let path = format!("/api/admin/agents/{id}/keys");
    // No body asks for nothing.
    let made = node.post(&path).by(Role::Admin).await.expect_status(201).json;
    assert_eq!((&made["label"], &made["expires_at"]), (&json!(""), &Value::Null), "{made}");
    let new = made["api_key"].as_str().unwrap().to_owned();
    node.post(&path).body("text/plain", "{}").by(Role::Admin).await.expect_error(415, "unsupported_media_type");
    for key in [&old, &new] {
        node.post(HEARTBEAT).with_key(key).await.expect_status(200);
    }
    let keys = node.get(&format!("/api/admin/agents/{id}/keys")).by(Role::Admin).await.expect_status(200).json;
    let oldest = keys["items"][1]["id"].as_str().unwrap();
    node.delete(&format!("/api/admin/agents/{id}/keys/{oldest}")).by(Role::Admin).await.expect_status(200);
    node.post(HEARTBEAT).with_key(&old).await.expect_error(401, "unauthenticated");
    node.post(HEARTBEAT).with_key(&new).await.expect_status(200);
}

async fn a_key_expires(node: TestNode) {
    let (id, lasting) = node.agent("ann").await;
    let at = clawbroker::domain::time::iso(crate::harness::test_store::START_MS + 1_000);
    let path = format!("/api/admin/agents/{id}/keys");
    let made = node.post(&path).json(&json!({ "expires_at": at })).by(Role::Admin).await.expect_status(201).json;
    let key = made["api_key"].as_str().unwrap();
    node.clock.advance_ms(999);
    node.post(HEARTBEAT).with_key(key).await.expect_status(200);
    node.clock.advance_ms(1);
    let refused = node.post(HEARTBEAT).with_key(key).await.expect_error(401, "unauthenticated");
    assert_eq!(refused.json["detail"], "Invalid API key");
    node.post(HEARTBEAT).with_key(&lasting).await.expect_status(200);
}

async fn a_paused_agent_may_call_and_a_removed_one_may_not(node: TestNode) {
    let (id, key) = node.agent("ann").await;
    let (_, other) = node.agent("ben").await;
    let one = format!("/api/admin/agents/{id}");
    for status in ["paused", "stopped", "running"] {
        node.patch(&one).json(&json!({ "status": status })).by(Role::Operator).await.expect_status(200);
        node.post(HEARTBEAT).with_key(&key).await.expect_status(200);
    }
    node.delete(&one).by(Role::Operator).await.expect_status(200);
    node.post(HEARTBEAT).with_key(&key).await.expect_error(401, "unauthenticated");
    node.post(HEARTBEAT).with_key(&other).await.expect_status(200);
    node.post(&format!("/api/gateway/agents/{id}/api-key")).by(Role::Admin).await.expect_error(404, "not_found");
}

async fn the_ancestors_path_makes_a_key(node: TestNode) {
    let (id, first) = node.agent("ann").await;
    let path = format!("/api/gateway/agents/{id}/api-key");
    let made = node.post(&path).by(Role::Operator).await.expect_status(200).json;
    let key = made["api_key"].as_str().unwrap();
    assert_eq!(made, json!({ "api_key": key, "message": "Save this key — it won't be shown again." }));
    assert!(key.starts_with("oc-") && key.len() == 46, "{key}");
    for key in [&first, key] {
        node.post(HEARTBEAT).with_key(key).await.expect_status(200);
    }
    // Nobody but an operator makes one, not even the agent itself.
    node.post(&path).send().await.expect_error(401, "unauthenticated");
    node.post(&path).with_key(key).await.expect_error(401, "unauthenticated");
    node.post(&path).by(Role::Member).await.expect_error(403, "forbidden");
    let unknown = node.post(&format!("/api/gateway/agents/{NOBODY}/api-key")).by(Role::Operator).await;
    assert_eq!(unknown.expect_error(404, "not_found").json["detail"], "OpenClaw agent not found");
    node.post("/api/gateway/agents/7/api-key").by(Role::Operator).await.expect_error(422, "validation_error");
    let elsewhere = node.post(&format!("/api/gateway/generate-key/{id}")).by(Role::Operator).await;
    let detail = elsewhere.expect_error(501, "invalid_request").json["detail"].clone();
    assert_eq!(detail, "Use the /agents/{id}/api-key endpoint instead");
    let list = node.get(&format!("/api/admin/agents/{id}/keys")).by(Role::Admin).await;
    assert_eq!(list.header("x-total-count"), "2");
}

async fn every_answer_can_be_traced(node: TestNode) {
    let (_, key) = node.agent("ann").await;
    let traced = node.post(HEARTBEAT).header("x-trace-id", "abc-1").with_key(&key).await.expect_status(200);
    assert_eq!(traced.header("x-trace-id"), "abc-1");
    let own = node.post(HEARTBEAT).with_key(&key).await.expect_status(200);
    assert!(own.header("x-trace-id").len() == 36 && own.header("x-trace-id") == own.header("x-request-id"));
    // Also where nothing was done, and not with what could break a line of a log.
    let refused = node.post(HEARTBEAT).header("x-trace-id", "a b").send().await.expect_error(401, "unauthenticated");
    assert_eq!(refused.header("x-trace-id"), refused.header("x-request-id"));
    let unknown = node.get("/api/gateway/nothing").send().await.expect_error(404, "not_found");
    assert!(!unknown.header("x-trace-id").is_empty());
    // It is this family's custom.
    let chat = node.get("/api/gateways").header("x-trace-id", "abc-1").by(Role::Viewer).await.expect_status(200);
    assert_eq!(chat.header("x-trace-id"), "");
}

async fn a_page_of_a_stranger_calls_nothing(node: TestNode) {
    let (_, key) = node.agent("ann").await;
    let call = |origin: &str| node.post(HEARTBEAT).header("host", "localhost:8000").header("origin", origin);
    call("http://evil.example").with_key(&key).await.expect_error(403, "forbidden");
    call("http://evil.example").send().await.expect_error(401, "unauthenticated");
    call("http://localhost:8000").with_key(&key).await.expect_status(200);
    // Not even a poll, which changes nothing by its method.
    let (_, other) = node.agent("ben").await;
    send(&node, &other, "ann", "hello").await;
    let stranger = node.get(POLL).header("host", "localhost:8000").header("origin", "http://evil.example");
    stranger.with_key(&key).await.expect_error(403, "forbidden");
    assert_eq!(messages(&node, &key, "").await[0]["delivery_attempt"], 1);
    let asked = node.call(actix_web::http::Method::OPTIONS, HEARTBEAT).header("origin", "http://localhost:3000");
    let asked = asked.header("access-control-request-method", "POST");
    let told = asked.header("access-control-request-headers", "x-api-key,x-trace-id").send().await.expect_status(200);
    for header in ["x-api-key", "x-trace-id"] {
        assert!(told.header("access-control-allow-headers").to_lowercase().contains(header), "{:?}", told.headers);
    }
    let told = call("http://localhost:3000").with_key(&key).await.expect_status(200);
    assert!(told.header("access-control-expose-headers").to_lowercase().contains("x-trace-id"), "{:?}", told.headers);
}

/// Calls the real binary by a key.
async fn heartbeat(broker: &Broker, key: &str) -> (u16, Value) {
    let request = awc::Client::new().post(format!("http://{}{HEARTBEAT}", broker.address));
    let request = request.timeout(Duration::from_secs(20)).insert_header(("X-Api-Key", key));
    let mut reply = request.send().await.expect("an answer");
    let status = reply.status().as_u16();
    (status, reply.json().await.expect("JSON"))
}

async fn keys_and_presence_outlive_the_process(database: Database) {
    let mut broker = Broker::start(&database, &[], &[("LOG_LEVEL", "trace")]).await;
    let (status, agent) = broker.post("/api/admin/agents", json!({ "name": "Ann" })).await;
    assert_eq!(status, 201, "{agent}");
    let id = agent["id"].as_str().unwrap();
    let keys = format!("/api/admin/agents/{id}/keys");
    let (_, revoked) = broker.post(&keys, json!({})).await;
    let (_, kept) = broker.post(&keys, json!({ "label": "kept" })).await;
    let (revoked_key, key) = (revoked["api_key"].as_str().unwrap(), kept["api_key"].as_str().unwrap());
    assert_eq!(heartbeat(&broker, revoked_key).await.0, 200);
    let path = format!("{keys}/{}", revoked["id"].as_str().unwrap());
    assert_eq!(broker.call("DELETE", &path, None).await.0, 200);
    assert_eq!(heartbeat(&broker, key).await, (200, json!({ "status": "ok", "agent_id": id })));
    // What was seen is written down at the latest when it stops.
    assert_eq!(broker.stop().await, Some(0));
    broker.start_again().await;
    let (_, shown) = broker.get(&format!("/api/admin/agents/{id}")).await;
    assert_eq!((&shown["presence"], shown["last_seen_at"].is_string()), (&json!("online"), true), "{shown}");
    let (_, list) = broker.get(&keys).await;
    let newest = &list["items"][0];
    assert_eq!((&newest["label"], newest["last_used_at"].is_string()), (&json!("kept"), true), "{list}");
    assert_eq!(heartbeat(&broker, key).await.0, 200);
    let (status, refused) = heartbeat(&broker, revoked_key).await;
    assert_eq!((status, &refused["detail"]), (401, &json!("Invalid API key")));
    let (status, refused) = heartbeat(&broker, &format!("{key}x")).await;
    assert_eq!((status, &refused["detail"]), (401, &json!("Invalid API key")));
    // A key is in no line of the log, whatever came of it (SEC-1).
    let log = broker.log();
    assert!(!log.contains(key) && !log.contains(revoked_key), "{log}");
}
