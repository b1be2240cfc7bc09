//! A gateway or a session that is disabled, removed or deleted while it is in use.
use std::time::Duration;

use serde_json::json;

use crate::harness::{Broker, Browser, Database};
use crate::ws::{connected, register, sample_gateway};

on_both_databases!(
    a_disabled_gateway_is_told_with_its_state_and_keeps_its_lists,
    a_removed_gateway_is_told_as_removed,
    what_waits_on_a_disabled_gateway_can_be_aborted,
    the_part_that_came_is_told_when_its_session_is_deleted,
    a_deleted_session_of_a_gateway_that_is_tracked_whole_stays_deleted,
    a_gateway_that_cannot_be_reached_is_shown_with_a_remedy,
);

async fn disable(broker: &Broker) {
    let (status, changed) = broker.call("PATCH", "/api/admin/gateways/gw", Some(json!({ "enabled": false }))).await;
    assert_eq!(status, 200, "{changed}");
    broker.gateway_is("gw", "disabled").await;
}

async fn a_disabled_gateway_is_told_with_its_state_and_keeps_its_lists(database: Database) {
    let (broker, _gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    let before = browser.until_type("connected").await;
    assert!(before["agents"].as_array().is_some_and(|agents| !agents.is_empty()), "{before}");
    disable(&broker).await;
    let told = browser.until_type("disconnected").await;
    assert_eq!((&told["reason"], &told["gateway"]["state"]), (&json!("the gateway was disabled"), &json!("disabled")));
    let mut later = broker.browser("/ws/chat/gw").await;
    let known = later.until_type("connected").await;
    assert_eq!(known["gateway"]["state"], "disabled");
    for list in ["agents", "models", "defaultModel"] {
        assert_eq!(known[list], before[list], "{list}");
    }
    // By another address it is another gateway.
    let url = json!({ "url": "ws://127.0.0.1:1" });
    assert_eq!(broker.call("PATCH", "/api/admin/gateways/gw", Some(url)).await.0, 200);
    broker.gateway_is("gw", "disabled").await;
    let shown = broker.get("/api/gateways/gw/status").await.1;
    assert_eq!(shown["agents"], json!([]), "{shown}");
}

async fn a_removed_gateway_is_told_as_removed(database: Database) {
    let (broker, _gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/federated").await;
    browser.until_type("connected").await;
    assert_eq!(broker.call("DELETE", "/api/gateways/gw", None).await.0, 200);
    let told = browser.until_type("disconnected").await;
    assert_eq!((&told["reason"], &told["gateway"]["state"]), (&json!("the gateway was removed"), &json!("disabled")));
}

async fn what_waits_on_a_disabled_gateway_can_be_aborted(database: Database) {
    let (broker, _gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("a", "gate g: first half, second half").await;
    let run_id = browser.until("a delta", |frame| frame["state"] == "delta").await["runId"].clone();
    let waiting = browser.ask("a", "say: never").await["messageId"].clone();
    disable(&broker).await;
    let abort = json!({ "type": "abort", "sessionKey": "a", "queued": true });
    browser.send(abort.clone()).await;
    let (mut ended, mut cancelled) = (false, false);
    while !(ended && cancelled) {
        let frame = browser.next().await.expect("the socket stays open");
        ended |= frame["state"] == "aborted" && frame["runId"] == run_id;
        cancelled |= frame["type"] == "delivery" && frame["messageId"] == waiting && frame["state"] == "cancelled";
        if frame["type"] == "error" {
            // The link was just being started anew, which is told.
            assert_eq!(frame["code"], "gateway_unavailable", "{frame}");
            // No more frames a second than are taken.
            tokio::time::sleep(Duration::from_millis(50)).await;
            browser.send(abort.clone()).await;
        }
    }
}

async fn the_part_that_came_is_told_when_its_session_is_deleted(database: Database) {
    let (broker, _gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("a", "gate g: first half, second half").await;
    let delta = browser.until("a delta", |frame| frame["state"] == "delta").await;
    assert_eq!(broker.call("DELETE", "/api/gateways/gw/sessions/a", None).await.0, 200);
    let end = browser.until_terminal().await;
    assert_eq!(end["state"], "aborted", "{end}");
    let part = end["text"].as_str().expect("a text");
    assert!(delta["text"].as_str().is_some_and(|first| !first.is_empty() && part.starts_with(first)), "{end}");
}

async fn a_deleted_session_of_a_gateway_that_is_tracked_whole_stays_deleted(database: Database) {
    let gateway = sample_gateway(|_| {});
    let broker = Broker::start(&database, &[], &[]).await;
    let body = json!({ "id": "gw", "name": "Sample", "url": gateway.url, "token": "sample-token", "track": "all" });
    assert_eq!(broker.post("/api/gateways", body).await.0, 200);
    broker.gateway_is("gw", "connected").await;
    let (_, user) = broker.post("/api/admin/users", json!({ "name": "ann", "role": "member" })).await;
    let (_, made) = broker.post("/api/admin/tokens", json!({ "name": "t", "user": user["name"] })).await;
    let token = made["token"].as_str().expect("told once");
    let mut ann = Browser::open(&broker.address, "/ws/chat/gw", Some(token)).await;
    ann.ask("a", "gate g: first half, second half").await;
    ann.until("a delta", |frame| frame["state"] == "delta").await;
    assert_eq!(broker.call("DELETE", "/api/gateways/gw/sessions/a", None).await.0, 200);
    ann.until_type("reset").await;
    // The run's end and what others say afterwards belong to nobody; what they say elsewhere is tracked as ever.
    gateway.idle().await;
    gateway.foreign_send("a", "say: still here").expect("it is taken");
    gateway.idle().await;
    gateway.foreign_send("b", "say: elsewhere").expect("it is taken");
    let began = tokio::time::Instant::now();
    loop {
        let (_, sessions) = broker.get("/api/gateways/gw/sessions").await;
        let tracked = sessions.as_array().into_iter().flatten().filter(|session| session["tracked"] == true);
        let keys: Vec<_> = tracked.map(|session| session["session_key"].clone()).collect();
        assert!(!keys.iter().any(|key| key == "a" || key == "agent:main:a"), "{sessions}");
        if keys.iter().any(|key| key == "agent:main:b") {
            break;
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "{sessions}\n{}", broker.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    ann.ask("a", "say: mine again").await;
    assert_eq!(ann.until_terminal().await["text"], "mine again");
}

async fn a_gateway_that_cannot_be_reached_is_shown_with_a_remedy(database: Database) {
    let gateway = sample_gateway(|_| {});
    gateway.stop_listening().await;
    let broker = Broker::start(&database, &[], &[]).await;
    register(&broker, &gateway).await;
    let shown = broker.gateway_is("gw", "waiting").await;
    assert_eq!(shown["problem"]["code"], "unreachable", "{shown}");
    assert!(shown["problem"]["remedy"].as_str().is_some_and(|remedy| remedy.contains("runs")), "{shown}");
}
