//! The admin API: agents and their keys.
use clawbroker::domain::user::Role;
use serde_json::{Value, json};

use super::TestNode;
use super::node::Reply;

on_both_databases!(
    an_agent_is_registered_changed_and_removed,
    what_is_done_is_not_denied_because_nobody_can_read,
    what_is_said_of_an_agent_has_bounds,
    agents_are_listed_by_name,
    an_agent_is_online_for_five_minutes,
    a_key_is_told_once,
    a_key_is_found_at_its_own_agent_only,
    a_native_agent_has_no_keys,
);

const AGENTS: &str = "/api/admin/agents";
const NOBODY: &str = "01890000-0000-7000-8000-000000000000";

async fn create(node: &TestNode, body: Value) -> Reply {
    node.post(AGENTS).json(&body).by(Role::Operator).await
}

async fn an_agent_is_registered_changed_and_removed(node: TestNode) {
    let made = create(&node, json!({ "name": " Ann's Lab " })).await.expect_status(201).json;
    let operator = node.user("operator", Role::Operator).await.user_id;
    let expected = json!({
        "id": made["id"], "slug": "ann-s-lab", "name": "Ann's Lab", "kind": "openclaw", "status": "running",
        "presence": "offline", "last_seen_at": null, "role_description": "", "creator_id": operator, "labels": {},
        "lease_seconds": null, "max_attempts": null, "model": null,
        "mailbox": { "pending": 0, "leased": 0, "dead": 0 },
        "created_at": made["created_at"], "updated_at": made["created_at"],
    });
    assert_eq!(made, expected);
    let one = format!("{AGENTS}/{}", made["id"].as_str().unwrap());
    assert_eq!(node.get(&one).by(Role::Operator).await.expect_status(200).json, made);
    node.clock.advance_ms(1_000);
    let patch = |body: Value| node.patch(&one).json(&body).by(Role::Operator);
    let change = json!({
        "name": "Anna", "slug": "anna", "status": "paused", "role_description": "helps\nout", "labels": { "team": "ops" },
        "lease_seconds": 10, "max_attempts": 100, "model": "m", "creator_id": null,
    });
    let changed = patch(change.clone()).await.expect_status(200).json;
    for (field, value) in change.as_object().unwrap() {
        assert_eq!(&changed[field], value, "{field}");
    }
    assert_ne!(changed["updated_at"], made["updated_at"]);
    let cleared = patch(json!({ "lease_seconds": null, "max_attempts": null, "model": null })).await.expect_status(200);
    assert_eq!(
        (&cleared.json["lease_seconds"], &cleared.json["model"], &cleared.json["status"]),
        (&Value::Null, &Value::Null, &json!("paused"))
    );
    // Where it runs is decided once.
    assert_eq!(patch(json!({ "kind": "native" })).await.expect_error(422, "validation_error").fields(), ["kind"]);
    create(&node, json!({ "name": "x", "slug": "anna" })).await.expect_error(409, "already_exists");
    node.delete(&one).by(Role::Operator).await.expect_status(200);
    node.delete(&one).by(Role::Operator).await.expect_error(404, "not_found");
    patch(json!({})).await.expect_error(404, "not_found");
    node.get(&one).by(Role::Operator).await.expect_error(404, "not_found");
    let again = create(&node, json!({ "name": "x", "slug": "anna" })).await.expect_status(201).json;
    assert_ne!(again["id"], made["id"]);
    let target = made["id"].as_str().unwrap();
    let audit = node.get(&format!("/api/admin/audit?target={target}")).by(Role::Viewer).await.expect_status(200).json;
    let actions: Vec<&str> =
        audit["items"].as_array().unwrap().iter().map(|row| row["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["agent.remove", "agent.change", "agent.change", "agent.add"]);
}

async fn what_is_done_is_not_denied_because_nobody_can_read(node: TestNode) {
    node.token("operator", Role::Operator).await;
    let held = node.hold_readers().await;
    let made = create(&node, json!({ "name": "ann" })).await.expect_status(201).json;
    let one = format!("{AGENTS}/{}", made["id"].as_str().unwrap());
    held.let_go().await;
    assert_eq!(node.get(&one).by(Role::Operator).await.expect_status(200).json, made);
    // A change counts first.
    let (_, ben) = node.agent("ben").await;
    let sent = node.post("/api/gateway/send-message").json(&json!({ "target": "ann", "content": "x" })).with_key(&ben);
    sent.await.expect_status(200);
    let changed = node.patch(&one).json(&json!({ "model": "m" })).by(Role::Operator).await.expect_status(200).json;
    assert_eq!(changed["mailbox"], json!({ "pending": 1, "leased": 0, "dead": 0 }));
}

async fn what_is_said_of_an_agent_has_bounds(node: TestNode) {
    let many: serde_json::Map<String, Value> = (0..33).map(|n| (format!("label-{n}"), json!("x"))).collect();
    for (wrong, field) in [
        (json!({}), "name"),
        (json!({ "name": " " }), "name"),
        (json!({ "name": "ä".repeat(101) }), "name"),
        (json!({ "name": "a\nb" }), "name"),
        (json!({ "name": "a", "slug": "A" }), "slug"),
        (json!({ "name": "a", "slug": "" }), "slug"),
        (json!({ "name": "a", "slug": NOBODY }), "slug"),
        (json!({ "name": "a", "kind": "robot" }), "kind"),
        (json!({ "name": "a", "status": "idle" }), "status"),
        (json!({ "name": "a", "role_description": "x".repeat(4_001) }), "role_description"),
        (json!({ "name": "a", "creator_id": NOBODY }), "creator_id"),
        (json!({ "name": "a", "creator_id": "7" }), "creator_id"),
        (json!({ "name": "a", "labels": { "": "x" } }), "labels"),
        (json!({ "name": "a", "labels": { "x": 1 } }), "labels"),
        (json!({ "name": "a", "labels": ["x"] }), "labels"),
        (json!({ "name": "a", "labels": many }), "labels"),
        (json!({ "name": "a", "lease_seconds": 9 }), "lease_seconds"),
        (json!({ "name": "a", "lease_seconds": 43_201 }), "lease_seconds"),
        (json!({ "name": "a", "max_attempts": 0 }), "max_attempts"),
        (json!({ "name": "a", "max_attempts": 101 }), "max_attempts"),
        (json!({ "name": "a", "model": "x".repeat(201) }), "model"),
        (json!({ "name": "a", "api_key": "x" }), "api_key"),
    ] {
        let refused = create(&node, wrong.clone()).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), [field], "{wrong}");
    }
    let longest = json!({ "name": "ä".repeat(100), "slug": "x".repeat(64), "lease_seconds": 43_200, "kind": "native" });
    create(&node, longest).await.expect_status(201);
    let list = node.get(AGENTS).by(Role::Operator).await;
    assert_eq!(list.header("x-total-count"), "1", "nothing else was made");
}

async fn agents_are_listed_by_name(node: TestNode) {
    for name in ["bob", "Ärger", "ann", "Bob", "a/b"] {
        create(&node, json!({ "name": name })).await.expect_status(201);
    }
    let (mut names, mut path) = (Vec::new(), format!("{AGENTS}?limit=2"));
    loop {
        let page = node.get(&path).by(Role::Operator).await.expect_status(200);
        assert_eq!(page.header("x-total-count"), "5");
        names.extend(page.json["items"].as_array().unwrap().iter().map(|agent| agent["name"].clone()));
        let Some(next) = page.json["next"].as_str() else { break };
        path = format!("{AGENTS}?limit=2&cursor={next}");
    }
    // Where a letter stands in the order is the database's matter; that each agent comes once is ours.
    let place = |name: &str| names.iter().position(|known| known == name).unwrap();
    assert_eq!(names.len(), 5, "{names:?}");
    assert!(place("ann") < place("bob") && place("Bob") == place("bob") + 1, "{names:?}");
    assert!(names.contains(&json!("Ärger")) && names.contains(&json!("a/b")), "{names:?}");
    node.get(&format!("{AGENTS}?cursor=xyz")).by(Role::Operator).await.expect_error(422, "validation_error");
}

async fn an_agent_is_online_for_five_minutes(node: TestNode) {
    let (id, key) = node.agent("ann").await;
    let presence = async || {
        let shown = node.get(&format!("{AGENTS}/{id}")).by(Role::Operator).await.expect_status(200).json;
        (shown["presence"].as_str().unwrap().to_owned(), shown["last_seen_at"].clone())
    };
    assert_eq!(presence().await, ("offline".to_owned(), Value::Null));
    node.post("/api/gateway/heartbeat").with_key(&key).await.expect_status(200);
    let (online, seen_at) = presence().await;
    assert!(online == "online" && seen_at.is_string(), "{online} {seen_at}");
    node.clock.advance_ms(299_999);
    assert_eq!(presence().await, ("online".to_owned(), seen_at.clone()));
    node.clock.advance_ms(1);
    assert_eq!(presence().await, ("offline".to_owned(), seen_at));
}

async fn a_key_is_told_once(node: TestNode) {
    let agent = create(&node, json!({ "name": "ann" })).await.expect_status(201).json;
    let path = format!("{AGENTS}/{}/keys", agent["id"].as_str().unwrap());
    let new = json!({ "label": "laptop", "expires_at": "2099-01-01T00:00:00Z" });
    let made = node.post(&path).json(&new).by(Role::Admin).await.expect_status(201).json;
    let key = made["api_key"].as_str().unwrap();
    assert!(key.starts_with("oc-") && key.starts_with(made["prefix"].as_str().unwrap()) && key.len() == 46, "{made}");
    assert!(key["oc-".len()..].bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{made}");
    assert_eq!(
        (&made["label"], &made["secret_shown"], &made["expires_at"]),
        (&json!("laptop"), &json!(false), &json!("2099-01-01T00:00:00.000Z"))
    );
    let second = node.post(&path).json(&json!({})).by(Role::Admin).await.expect_status(201).json;
    assert_eq!((&second["label"], &second["expires_at"]), (&json!(""), &Value::Null));
    let first = node.get(&format!("{path}?limit=1")).by(Role::Admin).await.expect_status(200);
    assert!(!first.text.contains(key));
    assert_eq!((first.header("x-total-count"), &first.json["items"][0]["id"]), ("2", &second["id"]));
    let next = first.json["next"].as_str().unwrap();
    let rest = node.get(&format!("{path}?limit=1&cursor={next}")).by(Role::Admin).await.expect_status(200).json;
    assert_eq!((&rest["items"][0]["id"], &rest["next"]), (&made["id"], &Value::Null));
    for (wrong, field) in [
        (json!({ "label": "" }), "label"),
        (json!({ "expires_at": "1999-01-01T00:00:00Z" }), "expires_at"),
        (json!({ "expires_at": "soon" }), "expires_at"),
        (json!({ "name": "x" }), "name"),
    ] {
        let refused = node.post(&path).json(&wrong).by(Role::Admin).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), [field], "{wrong}");
    }
    node.post(&path).json(&new).by(Role::Operator).await.expect_error(403, "forbidden");
}

async fn a_key_is_found_at_its_own_agent_only(node: TestNode) {
    let (ann, key) = node.agent("ann").await;
    let (ben, _) = node.agent("ben").await;
    let list = node.get(&format!("{AGENTS}/{ann}/keys")).by(Role::Admin).await.expect_status(200).json;
    let id = list["items"][0]["id"].as_str().unwrap();
    for path in [format!("{AGENTS}/{ben}/keys/{id}"), format!("{AGENTS}/{ann}/keys/{NOBODY}")] {
        node.delete(&path).by(Role::Admin).await.expect_error(404, "not_found");
    }
    node.post("/api/gateway/heartbeat").with_key(&key).await.expect_status(200);
    for _ in 0..2 {
        node.delete(&format!("{AGENTS}/{ann}/keys/{id}")).by(Role::Admin).await.expect_status(200);
    }
    node.post("/api/gateway/heartbeat").with_key(&key).await.expect_error(401, "unauthenticated");
    let list = node.get(&format!("{AGENTS}/{ann}/keys")).by(Role::Admin).await.expect_status(200).json;
    assert!(list["items"][0]["revoked_at"].is_string(), "{list}");
    let audit = node.get(&format!("/api/admin/audit?target={id}")).by(Role::Viewer).await.json;
    assert_eq!(audit["items"][0]["action"], "agent_key.revoke");
    assert_eq!(audit["items"].as_array().unwrap().len(), 2, "the second time nothing ended");
}

async fn a_native_agent_has_no_keys(node: TestNode) {
    let agent = create(&node, json!({ "name": "ann", "kind": "native" })).await.expect_status(201).json;
    let id = agent["id"].as_str().unwrap();
    let admins = node.post(&format!("{AGENTS}/{id}/keys")).json(&json!({})).by(Role::Admin).await;
    admins.expect_error(409, "invalid_request");
    let ancestors = node.post(&format!("/api/gateway/agents/{id}/api-key")).by(Role::Operator).await;
    assert_eq!(ancestors.expect_error(404, "not_found").json["detail"], "OpenClaw agent not found");
    assert_eq!(node.state.directory.agents().keys(), 0);
}
