//! The ancestor's README, line by line: its REST calls and frames work as they are, without a token, for local clients.
use serde_json::{Value, json};

use super::sample_gateway;
use crate::harness::{Broker, Browser, Database};

on_both_databases!(the_ancestors_readme_works_unchanged);

async fn the_ancestors_readme_works_unchanged(database: Database) {
    let gateway = sample_gateway(|_| {});
    let mut broker = Broker::start(&database, &["--trust-local"], &[]).await;
    // Its clients know of no tokens.
    broker.token = String::new();

    // POST /api/gateways - Add new gateway
    let body = json!({ "id": "desk", "name": "Desk", "url": gateway.url, "token": "sample-token" });
    let (status, added) = broker.post("/api/gateways", body.clone()).await;
    assert_eq!(status, 200, "{added}");
    assert!(!added.to_string().contains("sample-token"), "{added}");
    let (status, twice) = broker.post("/api/gateways", body).await;
    assert_eq!((status, twice["detail"].is_string()), (400, true), "{twice}");

    // GET /api/gateways - List all gateways (tokens omitted)
    gateway.connected(1).await;
    let began = tokio::time::Instant::now();
    let list = loop {
        let (status, list) = broker.get("/api/gateways").await;
        assert_eq!(status, 200);
        if list[0]["connected"] == true {
            break list;
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "the gateway is not connected: {list}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(list, json!([{ "id": "desk", "name": "Desk", "url": gateway.url, "connected": true }]));

    // GET /api/gateways/{id}/status - Connection status + agents + models
    let (status, told) = broker.get("/api/gateways/desk/status").await;
    assert_eq!(status, 200, "{told}");
    assert_eq!(told["connected"], true);
    assert!(told["agents"].is_array() && told["models"].is_array() && told["default_model"].is_string(), "{told}");
    let (status, missing) = broker.get("/api/gateways/nowhere/status").await;
    assert_eq!((status, &missing["detail"]), (404, &json!("Gateway not found")));

    // POST and GET sessions
    let (status, session) =
        broker.post("/api/gateways/desk/sessions", json!({ "session_key": "webchat-123", "title": "First" })).await;
    assert_eq!(status, 200, "{session}");
    let (status, _) = broker.post("/api/gateways/desk/sessions", json!({ "session_key": "webchat-123" })).await;
    assert_eq!(status, 400);
    let (status, session) = broker.get("/api/gateways/desk/sessions/webchat-123").await;
    assert_eq!(
        (status, &session["session_key"], &session["title"]),
        (200, &json!("webchat-123"), &json!("First")),
        "{session}"
    );

    // WS /ws/chat/{gw_id}
    let mut browser = Browser::open(&broker.address, "/ws/chat/desk", None).await;
    let hello = browser.next().await.expect("the first frame");
    assert_eq!(hello["type"], "connected");
    assert!(hello["agents"].is_array() && hello["models"].is_array() && hello["defaultModel"].is_string(), "{hello}");
    browser
        .send(
            json!({ "type": "chat", "sessionKey": "webchat-123", "message": "say[chunks=4,ms=5]: complete response" }),
        )
        .await;
    let end = browser.until_terminal().await;
    assert_eq!((&end["state"], &end["text"]), (&json!("final"), &json!("complete response")));
    // Deltas hold the text so far, which its clients put in the place of what they show.
    let deltas: Vec<&str> = browser
        .seen
        .iter()
        .filter(|frame| frame["state"] == "delta")
        .filter_map(|frame| frame["text"].as_str())
        .collect();
    assert!(!deltas.is_empty() && deltas.iter().all(|text| "complete response".starts_with(text)), "{deltas:?}");
    browser.send(json!({ "type": "history", "sessionKey": "webchat-123", "limit": 50 })).await;
    let history = browser.until_type("history").await;
    let messages = history["messages"].as_array().expect("a list");
    let said: Vec<(&Value, &Value)> = messages.iter().map(|m| (&m["role"], &m["content"][0]["text"])).collect();
    assert_eq!(
        said,
        [
            (&json!("user"), &json!("say[chunks=4,ms=5]: complete response")),
            (&json!("assistant"), &json!("complete response"))
        ]
    );
    assert!(messages.iter().all(|message| message["timestamp"].is_i64()), "{history}");

    // {"type": "stream", "state": "error", "error": "message"}
    browser.send(json!({ "type": "chat", "sessionKey": "webchat-123", "message": "fail" })).await;
    let error = browser.until_terminal().await;
    assert_eq!(error["state"], "error");
    assert!(
        error["error"].as_str().is_some_and(|sentence| sentence != "Unknown error" && !sentence.is_empty()),
        "{error}"
    );

    // {"type": "abort", "sessionKey": "webchat-123"}
    browser.send(json!({ "type": "chat", "sessionKey": "webchat-123", "message": "gate never: one two" })).await;
    browser.until("a delta", |frame| frame["state"] == "delta").await;
    browser.send(json!({ "type": "abort", "sessionKey": "webchat-123" })).await;
    assert_eq!(browser.until_terminal().await["state"], "aborted");
    browser.send(json!({ "type": "ping" })).await;
    browser.until_type("pong").await;

    // GET …/messages?limit=50&before=ID
    let (status, messages) = broker.get("/api/gateways/desk/sessions/webchat-123/messages?limit=50").await;
    let messages = messages.as_array().cloned().unwrap_or_default();
    assert_eq!(status, 200);
    assert!(messages.len() >= 5, "{messages:?}");
    let before = messages[2]["id"].as_str().expect("an id");
    let (status, older) =
        broker.get(&format!("/api/gateways/desk/sessions/webchat-123/messages?before={before}")).await;
    assert_eq!((status, older.as_array().map(Vec::len)), (200, Some(2)), "{older}");
    let (status, none) = broker.get("/api/gateways/desk/sessions/unknown/messages").await;
    assert_eq!((status, none), (200, json!([])));

    // DELETE
    assert_eq!(
        broker.call("DELETE", "/api/gateways/desk/sessions/webchat-123", None).await,
        (200, json!({ "ok": true }))
    );
    assert_eq!(broker.get("/api/gateways/desk/sessions/webchat-123").await.0, 404);
    assert_eq!(broker.call("DELETE", "/api/gateways/desk", None).await, (200, json!({ "ok": true })));
    let (status, health) = broker.get("/health").await;
    assert_eq!((status, &health["status"]), (200, &json!("healthy")));
}
