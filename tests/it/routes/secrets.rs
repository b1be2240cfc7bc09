//! What goes in as a secret never comes out (SEC-1): not in an answer, not in a header, not in a metric.
use clawbroker::domain::user::Role;
use serde_json::json;

use super::TestNode;
use crate::harness::Kind;

on_both_databases!(no_answer_holds_a_secret);

const TOKEN: &str = "c4n4ry-gateway-token";
const PASSWORD: &str = "c4n4ry-gateway-password";
const USER_PASSWORD: &str = "c4n4ry-user-password";

async fn no_answer_holds_a_secret(node: TestNode) {
    let mut texts = Vec::new();
    let new = json!({ "id": "lab", "name": "Lab", "url": "ws://127.0.0.1:1", "token": TOKEN, "password": PASSWORD });
    for path in ["/api/gateways", "/api/admin/gateways"] {
        for key in ["k-1", "k-1", "k-2"] {
            let reply = node.post(path).header("idempotency-key", key).json(&new).by(Role::Admin).await;
            texts.push(format!("{:?} {}", reply.headers, reply.text));
        }
    }
    let wrong = json!({ "id": "lab 2", "name": "", "url": format!("ws://x:{PASSWORD}@y"), "token": [TOKEN], "password": { "x": PASSWORD } });
    texts.push(node.post("/api/admin/gateways").json(&wrong).by(Role::Admin).await.text);
    texts.push(
        node.patch("/api/admin/gateways/lab")
            .json(&json!({ "token": TOKEN, "url": "ws://z" }))
            .by(Role::Admin)
            .await
            .text,
    );
    let user = json!({ "name": "ann", "role": "member", "password": USER_PASSWORD });
    texts.push(node.post("/api/admin/users").json(&user).by(Role::Admin).await.expect_status(201).text);
    texts.push(node.post("/api/admin/users").json(&user).by(Role::Admin).await.text);
    let made = node
        .post("/api/admin/tokens")
        .json(&json!({ "name": "x", "user": "ann" }))
        .by(Role::Admin)
        .await
        .expect_status(201);
    let token = made.json["token"].as_str().unwrap().to_owned();
    let (agent, key) = node.agent("Ann").await;
    let keys = format!("/api/admin/agents/{agent}/keys");
    texts.push(node.post(&keys).json(&json!({ "label": [key], "api_key": key })).by(Role::Admin).await.text);
    for wrong in [key.as_str(), &key[..20]] {
        // Also where it is not looked for, and where it is nearly right.
        texts.push(node.post("/api/gateway/heartbeat").with_token(wrong).await.expect_status(401).text);
        let wrong = format!("{wrong}x");
        texts.push(node.post("/api/gateway/heartbeat").with_key(&wrong).await.expect_status(401).text);
    }
    let heard = node.post("/api/gateway/heartbeat").with_key(&key).await.expect_status(200);
    texts.push(format!("{:?} {}", heard.headers, heard.text));
    if node.database.kind() == Kind::Sqlite {
        texts.push(node.post("/api/admin/backup").by(Role::Admin).await.expect_status(201).text);
    }
    for path in [
        "/",
        "/health",
        "/ready",
        "/metrics",
        "/openapi.json",
        "/api/gateways",
        "/api/gateways/lab/status",
        "/api/admin/gateways",
        "/api/admin/gateways/lab",
        "/api/admin/users",
        "/api/admin/tokens",
        "/api/admin/agents",
        &format!("/api/admin/agents/{agent}"),
        &keys,
        "/api/admin/audit?limit=500",
        "/api/admin/stats",
        "/api/admin/actors",
        "/api/admin/conversations",
    ] {
        let reply = node.get(path).by(Role::Admin).await.expect_status(200);
        texts.push(format!("{:?} {}", reply.headers, reply.text));
    }
    texts.push(format!("{:?}", node.state.config));
    for text in &texts {
        let told = ["c4n4ry", "argon2", &token, &key].iter().any(|secret| text.contains(secret));
        assert!(!told, "{text}");
    }
}
