//! What no route takes: NUL characters, which PostgreSQL cannot store, and fields where none are known; and how a wrong
//! id is named.
use clawbroker::domain::user::Role;
use serde_json::{Value, json};

use super::TestNode;
use super::access::{method, routes};
use super::order::Known;

on_both_databases!(
    a_nul_is_refused_in_every_query_field,
    a_nul_is_refused_in_a_body,
    a_list_is_no_object_and_an_object_is_no_word,
    a_sender_with_a_nul_is_one_that_nobody_knows,
    a_route_that_takes_no_body_refuses_its_fields,
    a_wrong_id_in_a_path_is_named_as_it_is_described,
);

async fn a_nul_is_refused_in_every_query_field(node: TestNode) {
    let known = Known::make(&node).await;
    let api = node.get("/openapi.json").send().await.expect_status(200).json;
    let mut tried = 0;
    // A socket's handshake is checked before its query.
    for (name, path) in routes().into_iter().filter(|(_, path)| path.starts_with("/api/")) {
        for parameter in api["paths"][&path][&name]["parameters"].as_array().into_iter().flatten() {
            if parameter["in"] != "query" {
                continue;
            }
            let field = parameter["name"].as_str().unwrap();
            for value in ["%00", "gateway:%00", "a%00b"] {
                let path = format!("{}?{field}={value}", known.filled(&path));
                let call = node.call(method(&name), &path).header("x-api-key", &known.agent_key);
                let refused = call.by(Role::Admin).await;
                assert_eq!(refused.expect_error(422, "validation_error").fields(), [field], "{name} {path}");
            }
            tried += 1;
        }
    }
    assert!(tried >= 25, "{tried}");
    node.get("/api/gateways?extra=%00").by(Role::Viewer).await.expect_status(200);
}

async fn a_nul_is_refused_in_a_body(node: TestNode) {
    let known = Known::make(&node).await;
    let messages = format!("/api/admin/conversations/{}/messages", known.conversation);
    let relationships = known.filled("/api/admin/agents/{id}/relationships");
    for (path, body, field) in [
        ("/api/admin/tokens", json!({ "name": "x", "user": "a\0" }), "user"),
        ("/api/admin/deliveries/redrive", json!({ "recipient": "gateway:\0" }), "recipient"),
        ("/api/gateways/lab/sessions", json!({ "session_key": "x", "title": "a\0" }), "title"),
        ("/api/admin/conversations", json!({ "agent_id": "\0" }), "agent_id"),
        ("/api/admin/agents", json!({ "name": "a\0" }), "name"),
        ("/api/admin/agents", json!({ "name": "a", "labels": { "a": "\0" } }), "labels"),
        ("/api/admin/members", json!({ "name": "a", "feishu": { "user_id": "\0" } }), "feishu"),
        (&relationships, json!({ "agent_id": known.delivery, "relation": "\0" }), "relation"),
        (&messages, json!({ "content": "a\0b" }), "content"),
        (&messages, json!({ "content": [{ "type": "text", "text": "a\0b" }] }), "content"),
        (&messages, json!({ "content": "a", "from": "gateway:\0" }), "from"),
    ] {
        let refused = node.post(path).json(&body).by(Role::Admin).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), [field], "{path}");
    }
    let extra = json!({ "session_key": "y", "extra": "\0" });
    node.post("/api/gateways/lab/sessions").json(&extra).by(Role::Admin).await.expect_status(200);
}

/// Serde would take the fields of a struct from a list, and a word from the name of an object's only field.
async fn a_list_is_no_object_and_an_object_is_no_word(node: TestNode) {
    let known = Known::make(&node).await;
    let messages = format!("/api/admin/conversations/{}/messages", known.conversation);
    let track = json!({ "name": "x", "url": "ws://127.0.0.1:9", "track": { "all": null } });
    for (path, body, field) in [
        ("/api/admin/users", json!({ "name": "x", "role": { "viewer": null } }), "role"),
        ("/api/admin/gateways", track, "track"),
        ("/api/admin/members", json!({ "name": "x", "feishu": ["u1", "o1"] }), "feishu"),
        ("/api/admin/members", json!({ "name": "x", "feishu": [] }), "feishu"),
        (&messages, json!({ "content": [["text", "hello"]] }), "content"),
        (&messages, json!({ "content": [1] }), "content"),
        (&messages, json!({ "content": "a", "role": { "user": null } }), "role"),
        (&messages, json!({ "content": "a", "from": ["agent", known.conversation, "n"] }), "from"),
    ] {
        let refused = node.post(path).json(&body).by(Role::Admin).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), [field], "{path} {body}");
        for word in ["struct", "enum", "sequence", "map,"] {
            assert!(!refused.text.contains(word), "{path} {body}: {}", refused.text);
        }
    }
    let made = node.post("/api/admin/members").json(&json!({ "name": "Eve" })).by(Role::Admin).await;
    let one = format!("/api/admin/members/{}", made.expect_status(201).json["id"].as_str().unwrap());
    let refused = node.patch(&one).json(&json!({ "feishu": [] })).by(Role::Admin).await;
    assert_eq!(refused.expect_error(422, "validation_error").fields(), ["feishu"]);
    let beat = json!({ "working_on": [[known.delivery, 1]] });
    let refused = node.post("/api/gateway/heartbeat").json(&beat).with_key(&known.agent_key).await;
    assert_eq!(refused.expect_error(422, "validation_error").fields(), ["working_on"]);
}

async fn a_sender_with_a_nul_is_one_that_nobody_knows(node: TestNode) {
    let known = Known::make(&node).await;
    let one = known.filled("/api/admin/channels/{id}/senders/%00");
    let person = json!({ "member_id": known.delivery });
    for call in [node.delete(&one), node.post(&format!("{one}/allow")).json(&person)] {
        let refused = call.by(Role::Admin).await.expect_error(404, "not_found");
        let message = refused.json["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("sender `"), "the channel is there: {message}");
    }
}

async fn a_route_that_takes_no_body_refuses_its_fields(node: TestNode) {
    let known = Known::make(&node).await;
    let one = known.filled("/api/admin/deliveries/{id}");
    let paths = [
        "/api/admin/gateways/lab/test".to_owned(),
        format!("{one}/redrive"),
        format!("{one}/cancel"),
        "/api/admin/backup".to_owned(),
    ];
    for path in &paths {
        let send = |body: Value| node.post(path).json(&body).by(Role::Admin);
        let refused = send(json!({ "force": true })).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), ["force"], "{path}");
        send(json!([1])).await.expect_error(422, "validation_error");
        node.post(path).body("text/plain", "x").by(Role::Admin).await.expect_error(415, "unsupported_media_type");
        for fine in [send(json!({})).await, node.post(path).body("text/plain", "").by(Role::Admin).await] {
            assert!(!matches!(fine.status.as_u16(), 415 | 422 | 500..), "{path}: {}", fine.text);
        }
    }
}

async fn a_wrong_id_in_a_path_is_named_as_it_is_described(node: TestNode) {
    let (id, key) = node.agent("ann").await;
    let at = |refused: Value| refused["detail"][0]["loc"].clone();
    for path in ["/api/gateway/messages/abc", "/api/gateway/setup-guide/abc"] {
        let refused = node.get(path).with_key(&key).await.expect_error(422, "validation_error");
        assert_eq!(at(refused.json), json!(["path", "id"]), "{path}");
    }
    for (path, name) in [
        ("/api/admin/users/abc".to_owned(), "id"),
        ("/api/admin/agents/abc".to_owned(), "id"),
        (format!("/api/admin/agents/abc/keys/{id}"), "id"),
        (format!("/api/admin/agents/{id}/keys/abc"), "key_id"),
        (format!("/api/admin/agents/{id}/relationships/abc"), "rel_id"),
    ] {
        let refused = node.delete(&path).by(Role::Admin).await.expect_error(422, "validation_error");
        assert_eq!(at(refused.json), json!(["path", name]), "{path}");
    }
}
