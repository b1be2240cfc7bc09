//! What goes in as a secret never comes out (SEC-1): not in an answer, not in a header, not in a metric.
use clawbroker::domain::user::Role;
use serde_json::json;

use super::TestNode;
use crate::harness::Kind;

on_both_databases!(no_answer_holds_a_secret);

const TOKEN: &str = "c4n4ry-gateway-token";
const PASSWORD: &str = "c4n4ry-gateway-password";
const USER_PASSWORD: &str = "c4n4ry-user-password";
const WEBHOOK: &str = "c4n4ry-webhook";
const CHANNEL: &str = "c4n4ry-of-a-channel";

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
    texts.extend(of_a_webhook(&node, &agent, &key).await);
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
        "/api/admin/channels",
        "/api/admin/audit?limit=500",
        "/api/admin/stats",
        "/api/admin/actors",
        "/api/admin/conversations",
    ] {
        let reply = node.get(path).by(Role::Admin).await.expect_status(200);
        texts.push(format!("{:?} {}", reply.headers, reply.text));
    }
    texts.extend(of_a_channel(&node).await);
    texts.push(format!("{:?}", node.state.config));
    for text in &texts {
        let told = ["c4n4ry", "argon2", &token, &key].iter().any(|secret| text.contains(secret));
        assert!(!told, "{text}");
    }
}

/// What a channel's provider is asked with: also where the provider cannot be reached, and its URL holds the secret.
async fn of_a_channel(node: &TestNode) -> Vec<String> {
    let channels = "/api/admin/channels";
    let new = json!({
        "kind": "telegram", "name": "Bot", "base_url": "http://127.0.0.1:1",
        "secret": { "bot_token": CHANNEL, "secret_token": CHANNEL },
    });
    let post = |body: &serde_json::Value| node.post(channels).header("idempotency-key", "c").json(body).by(Role::Admin);
    let made = post(&new).await.expect_status(201);
    let one = format!("{channels}/{}", made.json["id"].as_str().unwrap());
    let mut texts = vec![made.text, post(&new).await.text];
    texts.push(post(&json!({ "kind": "telegram", "name": "x", "secret": { "bot_token": CHANNEL } })).await.text);
    for wrong in [json!(CHANNEL), json!([CHANNEL]), json!({ "bot_token": [CHANNEL] }), json!({ "x": CHANNEL })] {
        let body = json!({ "kind": "telegram", "name": "x", "secret": wrong });
        texts.push(node.post(channels).json(&body).by(Role::Admin).await.expect_error(422, "validation_error").text);
    }
    let change = json!({ "secret": { "secret_token": format!("{CHANNEL}-2") } });
    texts.push(node.patch(&one).json(&change).by(Role::Admin).await.expect_status(200).text);
    let tested = node.post(&format!("{one}/test")).by(Role::Admin).await.expect_status(200);
    assert_eq!(tested.json["ok"], false);
    texts.push(tested.text);
    for (secret, status) in [(CHANNEL, 401), ("", 401)] {
        let hook = made.json["hook"].as_str().unwrap();
        let call = node.post(hook).header("x-telegram-bot-api-secret-token", secret).json(&json!({ "update_id": 1 }));
        texts.push(call.send().await.expect_status(status).text);
    }
    let live = node.state.directory.channels().all();
    assert_eq!(live.len(), 1);
    texts.push(format!("{live:?}"));
    texts
}

/// Where a person's messages are posted, which operators see and nobody else: what is said of it elsewhere.
async fn of_a_webhook(node: &TestNode, agent: &str, key: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let members = "/api/admin/members";
    for wrong in [
        json!(format!("ftp://example.com/{WEBHOOK}")),
        json!(format!("https://ann:{WEBHOOK}@example.com")),
        json!([WEBHOOK]),
        json!({ "x": WEBHOOK }),
    ] {
        let body = json!({ "name": "Eve", "webhook_url": wrong });
        texts.push(node.post(members).json(&body).by(Role::Operator).await.expect_error(422, "validation_error").text);
    }
    let url = format!("https://example.com/{WEBHOOK}?key={WEBHOOK}");
    let body = json!({ "name": "Eve", "webhook_url": url });
    let made = node.post(members).json(&body).by(Role::Operator).await.expect_status(201).json;
    assert_eq!(made["webhook_url"], url.as_str());
    let knows = json!({ "member_id": made["id"], "relation": "boss" });
    let relationships = format!("/api/admin/agents/{agent}/relationships");
    texts.push(node.post(&relationships).json(&knows).by(Role::Operator).await.expect_status(201).text);
    texts.push(node.get(&relationships).by(Role::Operator).await.expect_status(200).text);
    for path in ["/api/gateway/poll", "/api/gateway/directory"] {
        texts.push(node.get(path).with_key(key).await.expect_status(200).text);
    }
    let to_eve = json!({ "target": "Eve", "content": "hello" });
    let sent = node.post("/api/gateway/send-message").json(&to_eve).with_key(key).await;
    texts.push(sent.expect_error(400, "invalid_request").text);
    let one = format!("{members}/{}", made["id"].as_str().unwrap());
    let moved = json!({ "webhook_url": format!("{url}&more=1") });
    node.patch(&one).json(&moved).by(Role::Operator).await.expect_status(200);
    // The audit log, which is looked at behind this, tells of all three changes.
    texts.push(node.delete(&one).by(Role::Operator).await.expect_status(200).text);
    texts
}
