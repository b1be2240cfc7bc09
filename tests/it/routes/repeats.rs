//! Calls that come again with the same `Idempotency-Key` (D10).
use clawbroker::domain::user::Role;
use serde_json::{Value, json};

use super::TestNode;
use crate::harness::{Database, Kind};

on_both_databases!(
    another_secret_is_another_body,
    a_key_counts_also_when_there_is_no_room_for_more,
    an_agent_and_its_key_are_made_once,
    a_person_and_a_relationship_are_made_once,
    backups_are_made_one_by_one_and_once_for_each_key,
);

async fn another_secret_is_another_body(node: TestNode) {
    let gateway = |token: &str| json!({ "id": "lab", "name": "Lab", "url": "ws://127.0.0.1:1", "token": token });
    let user = |password: &str| json!({ "name": "ann", "role": "member", "password": password });
    for (path, first, other) in [
        ("/api/gateways", gateway("one"), gateway("two")),
        ("/api/admin/users", user("correct horse battery"), user("correct horse batteries")),
    ] {
        let send = |body: &Value| node.post(path).header("idempotency-key", "k").json(body).by(Role::Admin);
        let made = send(&first).await;
        assert!(made.status.is_success(), "{}", made.text);
        assert_eq!(send(&first).await.json, made.json);
        send(&other).await.expect_error(409, "idempotency_conflict");
    }
}

async fn a_key_counts_also_when_there_is_no_room_for_more(database: Database) {
    let node = TestNode::with(database, |config| config.limits.gateways_max = 1);
    for path in ["/api/gateways", "/api/admin/gateways"] {
        let new = json!({ "id": "lab", "name": "Lab", "url": "ws://127.0.0.1:1" });
        let send = |body: &Value| node.post(path).header("idempotency-key", "k").json(body).by(Role::Admin);
        let made = send(&new).await;
        assert!(made.status.is_success(), "{}", made.text);
        assert_eq!(send(&new).await.expect_status(made.status.as_u16()).json["id"], "lab");
        node.post(path).json(&new).by(Role::Admin).await.expect_error(400, "already_exists");
        for more in [json!({ "id": "more", "name": "x", "url": "ws://x" }), json!({ "name": "lab", "url": "ws://x" })] {
            let refused = node.post(path).json(&more).by(Role::Admin).await.expect_error(409, "invalid_request");
            assert!(refused.text.contains("gateways_max"), "{}", refused.text);
        }
        node.delete("/api/gateways/lab").by(Role::Admin).await.expect_status(200);
    }
}

async fn an_agent_and_its_key_are_made_once(database: Database) {
    let node = TestNode::with(database, |config| {
        config.limits.agents_max = 1;
        config.limits.keys_per_agent_max = 1;
    });
    let post =
        |path: &str, key: &str, body: &Value| node.post(path).header("idempotency-key", key).json(body).by(Role::Admin);
    let new = json!({ "name": "Ann", "labels": { "a": "1", "b": "2" } });
    let made = post("/api/admin/agents", "k", &new).await.expect_status(201).json;
    assert_eq!(post("/api/admin/agents", "k", &new).await.expect_status(201).json, made);
    let other = json!({ "name": "Ann" });
    post("/api/admin/agents", "k", &other).await.expect_error(409, "idempotency_conflict");
    let refused = post("/api/admin/agents", "k2", &other).await.expect_error(429, "rate_limited");
    assert!(refused.text.contains("agents_max"), "{}", refused.text);

    let id = made["id"].as_str().unwrap();
    let keys = format!("/api/admin/agents/{id}/keys");
    let key = post(&keys, "k", &json!({ "label": "a" })).await.expect_status(201).json;
    let again = post(&keys, "k", &json!({ "label": "a" })).await.expect_status(201).json;
    assert_eq!((&again["id"], &again["secret_shown"], again.get("api_key")), (&key["id"], &json!(true), None));
    post(&keys, "k", &json!({ "label": "b" })).await.expect_error(409, "idempotency_conflict");
    let refused = post(&keys, "k2", &json!({ "label": "b" })).await.expect_error(429, "rate_limited");
    assert!(refused.text.contains("keys_per_agent_max"), "{}", refused.text);
    node.post("/api/gateway/heartbeat").with_key(key["api_key"].as_str().unwrap()).await.expect_status(200);

    // On the ancestor's path as well.
    node.delete(&format!("{keys}/{}", key["id"].as_str().unwrap())).by(Role::Admin).await.expect_status(200);
    let path = format!("/api/gateway/agents/{id}/api-key");
    let call = || node.post(&path).header("idempotency-key", "k").by(Role::Operator);
    let first = call().await.expect_status(200).json;
    let again = call().await.expect_status(200).json;
    assert_eq!((again.get("api_key"), &again["secret_shown"]), (None, &json!(true)));
    node.post("/api/gateway/heartbeat").with_key(first["api_key"].as_str().unwrap()).await.expect_status(200);
    let list = node.get(&keys).by(Role::Admin).await;
    assert_eq!(list.header("x-total-count"), "2", "the one that was revoked, and this one");
}

async fn a_person_and_a_relationship_are_made_once(database: Database) {
    let node = TestNode::with(database, |config| config.limits.relationships_per_agent_max = 1);
    let post = |path: &str, key: &str, body: &Value| {
        node.post(path).header("idempotency-key", key).json(body).by(Role::Operator)
    };
    let members = "/api/admin/members";
    let new = json!({ "name": "Eve", "feishu": { "user_id": "u", "open_id": "o" } });
    let eve = post(members, "k", &new).await.expect_status(201).json;
    assert_eq!(post(members, "k", &new).await.expect_status(201).json, eve);
    post(members, "k", &json!({ "name": "Eve" })).await.expect_error(409, "idempotency_conflict");
    assert_eq!(node.get(members).by(Role::Operator).await.header("x-total-count"), "1");

    let (ann, _) = node.agent("ann").await;
    let (ben, _) = node.agent("ben").await;
    let path = |agent: &str| format!("/api/admin/agents/{agent}/relationships");
    let knows = json!({ "member_id": eve["id"], "relation": "boss" });
    let made = post(&path(&ann), "k", &knows).await.expect_status(201).json;
    // Also though there is no room for more, and though the agent knows it already.
    assert_eq!(post(&path(&ann), "k", &knows).await.expect_status(201).json, made);
    let other = json!({ "agent_id": ben, "relation": "peer" });
    post(&path(&ann), "k", &other).await.expect_error(409, "idempotency_conflict");
    let refused = post(&path(&ann), "k2", &other).await.expect_error(429, "rate_limited");
    assert!(refused.text.contains("relationships_per_agent_max"), "{}", refused.text);
    // It counts for one agent.
    let of_ben = post(&path(&ben), "k", &knows).await.expect_status(201).json;
    assert_ne!(of_ben["id"], made["id"]);
}

async fn backups_are_made_one_by_one_and_once_for_each_key(node: TestNode) {
    if node.database.kind() == Kind::Postgres {
        for _ in 0..2 {
            let keyed = node.post("/api/admin/backup").header("idempotency-key", "k").by(Role::Admin).await;
            keyed.expect_error(409, "invalid_request");
        }
        return;
    }
    // The clock stands still.
    let backup = || node.post("/api/admin/backup").by(Role::Admin);
    let (a, b, c) = futures_util::join!(backup(), backup(), backup());
    let mut names: Vec<String> =
        [a, b, c].map(|made| made.expect_status(201).json["name"].as_str().unwrap().to_owned()).to_vec();
    let keyed = || node.post("/api/admin/backup").header("idempotency-key", "k").by(Role::Admin);
    let (first, again) = futures_util::join!(keyed(), keyed());
    let first = first.expect_status(201).json;
    assert_eq!(again.expect_status(201).json, first);
    node.clock.advance_ms(60_000);
    assert_eq!(keyed().await.expect_status(201).json, first);
    names.push(first["name"].as_str().unwrap().to_owned());
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 4, "{names:?}");
    let folder = node.database.data_dir().join("backups");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 4, "nothing is left beside the copies");
    let audit = node.get("/api/admin/audit?action=backup.create").by(Role::Viewer).await;
    assert_eq!(audit.header("x-total-count"), "4");
    // It lives as long as its file, and another key is another copy.
    std::fs::remove_file(node.database.data_dir().join(first["name"].as_str().unwrap())).unwrap();
    assert_ne!(keyed().await.expect_status(201).json["created_at"], first["created_at"]);
    let other = node.post("/api/admin/backup").header("idempotency-key", "k2").by(Role::Admin).await;
    assert_ne!(other.expect_status(201).json["name"], first["name"]);
}
