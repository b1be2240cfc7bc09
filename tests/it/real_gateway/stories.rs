//! The stories. Each starts its own broker; the gateway is started once for each of the stories that change it.
use std::time::Duration;

use serde_json::{Value, json};

use super::check::check;
use crate::harness::{Broker, Browser, Database, Peer};

on_both_databases!(
    #[ignore = "takes minutes and a real gateway: ./test --real-gateway"]
    three_browsers_in_two_sessions,
    errors_aborts_and_history,
    a_wrong_token_is_shown,
    pairing_required_then_approved,
    the_gateway_is_stopped_in_mid_stream,
    the_gateway_is_killed_in_mid_stream,
    the_broker_is_killed_in_mid_stream,
    protocol_3,
);

/// Longest wait for what a gateway does by itself, for example take a question up again.
const LONG: Duration = Duration::from_secs(180);

pub(super) async fn connected(database: &Database, peer: &Peer) -> Broker {
    let broker = Broker::start(database, &[], &[]).await;
    let body = json!({ "id": "gw", "name": "Real", "url": peer.url, "token": peer.token });
    let (status, answer) = broker.post("/api/gateways", body).await;
    assert_eq!(status, 200, "{answer}");
    broker.gateway_within("gw", "connected", LONG).await;
    broker
}

pub(super) async fn until_end(browser: &mut Browser) -> Value {
    browser.until_within(LONG, "a terminal frame", crate::harness::is_terminal).await
}

async fn three_browsers_in_two_sessions(database: Database) {
    let peer = Peer::start(&[]).await;
    let broker = connected(&database, &peer).await;
    let mut first = broker.browser("/ws/chat/gw").await;
    let mut second = broker.browser("/ws/chat/gw?deltas=increment").await;
    let mut other = broker.browser("/ws/chat/gw").await;
    second.send(json!({ "type": "subscribe", "sessionKey": "red" })).await;
    second.until_type("subscribed").await;
    for round in 0..3 {
        first.ask("red", &format!("say[chunks=8,ms=60]: red answer number {round}")).await;
        other.ask("blue", &format!("say[chunks=8,ms=60]: blue answer number {round}")).await;
        let (a, b, c) = (until_end(&mut first).await, until_end(&mut second).await, until_end(&mut other).await);
        assert_eq!(a["text"], json!(format!("red answer number {round}")));
        assert_eq!((&a["messageId"], &a["seq"]), (&b["messageId"], &b["seq"]));
        assert_eq!(c["text"], json!(format!("blue answer number {round}")));
    }
    for (browser, foreign) in [(&first, "blue"), (&second, "blue"), (&other, "red")] {
        assert!(!browser.seen.iter().any(|frame| frame["sessionKey"] == foreign), "{}", browser.transcript());
    }
    check(&database, &broker, &peer, "gw", "red", &[&first, &second]).await;
    check(&database, &broker, &peer, "gw", "blue", &[&other]).await;
}

async fn errors_aborts_and_history(database: Database) {
    let peer = Peer::start(&[]).await;
    let broker = connected(&database, &peer).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("s", "unicode").await;
    until_end(&mut browser).await;
    browser.ask("s", "tool session_status {}").await;
    until_end(&mut browser).await;
    browser.ask("s", "say[chunks=40,ms=200]: alpha beta gamma delta epsilon zeta eta theta iota kappa").await;
    browser.until("a delta", |frame| frame["state"] == "delta").await;
    browser.send(json!({ "type": "abort", "sessionKey": "s" })).await;
    assert_eq!(until_end(&mut browser).await["state"], "aborted");
    browser.ask("s", "hang").await;
    browser.until("the model at work", |f| f["phase"] == "starting_model").await;
    browser.send(json!({ "type": "abort", "sessionKey": "s" })).await;
    assert_eq!(until_end(&mut browser).await["state"], "aborted");
    browser.ask("s", "fail 401").await;
    let error = until_end(&mut browser).await;
    assert_eq!(error["state"], "error");
    assert!(error["error"].as_str().is_some_and(|sentence| sentence.contains("401")), "{error}");
    browser.send(json!({ "type": "history", "sessionKey": "s", "limit": 50 })).await;
    let history = browser.until_type("history").await;
    assert!(history["messages"].as_array().is_some_and(|messages| messages.len() >= 8), "{history}");
    check(&database, &broker, &peer, "gw", "s", &[&browser]).await;
}

async fn a_wrong_token_is_shown(database: Database) {
    let peer = Peer::start(&[]).await;
    let broker = Broker::start(&database, &[], &[]).await;
    broker
        .post("/api/gateways", json!({ "id": "gw", "name": "Real", "url": peer.url, "token": "not the token" }))
        .await;
    let shown = broker.gateway_is("gw", "refused").await;
    assert_eq!(shown["problem"]["code"], "AUTH_TOKEN_MISMATCH", "{shown}");
}

async fn pairing_required_then_approved(database: Database) {
    // Behind a trusted proxy a client looks remote, so its device must be approved.
    let config = tempfile::NamedTempFile::new().expect("a temporary file");
    let settings = json!({ "gateway": { "trustedProxies": ["127.0.0.1"] } });
    std::fs::write(config.path(), settings.to_string()).expect("it is written");
    let path = config.path().to_string_lossy().into_owned();
    let peer = Peer::start(&[("PEER_LOCAL_APPROVE", "0"), ("PEER_CONFIG", &path)]).await;
    let proxy = crate::harness::proxy::forwarding(&peer.url, "203.0.113.7").await;
    let broker = Broker::start(&database, &[], &[]).await;
    broker.post("/api/gateways", json!({ "id": "gw", "name": "Real", "url": proxy, "token": peer.token })).await;
    let shown = broker.gateway_within("gw", "pairing_required", LONG).await;
    let request = shown["problem"]["request_id"].as_str().expect("the exact request").to_owned();
    let approved = peer.cli(&["devices", "approve", &request]).await;
    broker.post("/api/admin/gateways/gw/test", json!({})).await;
    broker.gateway_within("gw", "connected", LONG).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("paired", "say: hello").await;
    assert_eq!(until_end(&mut browser).await["text"], "hello", "{approved}");
    check(&database, &broker, &peer, "gw", "paired", &[&browser]).await;
}

async fn the_gateway_is_stopped_in_mid_stream(database: Database) {
    let mut peer = Peer::start(&[]).await;
    let broker = connected(&database, &peer).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("term", "say[chunks=12,ms=250]: one two three four five six seven eight nine ten").await;
    browser.until_within(LONG, "a delta", |frame| frame["state"] == "delta").await;
    peer.stop().await;
    peer.start_again().await;
    broker.gateway_within("gw", "connected", LONG).await;
    let end = match browser.seen.iter().find(|frame| crate::harness::is_terminal(frame)) {
        Some(end) => end.clone(),
        None => until_end(&mut browser).await,
    };
    assert_eq!(end["text"], "one two three four five six seven eight nine ten", "{end}");
    browser.ask("term", "say: afterwards").await;
    until_end(&mut browser).await;
    check(&database, &broker, &peer, "gw", "term", &[&browser]).await;
}

async fn the_gateway_is_killed_in_mid_stream(database: Database) {
    let mut peer = Peer::start(&[]).await;
    let broker = connected(&database, &peer).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("kill", "say[chunks=20,ms=250]: one two three four five six seven eight nine ten").await;
    browser.until_within(LONG, "a delta", |frame| frame["state"] == "delta").await;
    peer.kill().await;
    peer.start_again().await;
    broker.gateway_within("gw", "connected", LONG).await;
    let end = until_end(&mut browser).await;
    assert_eq!(
        (&end["state"], &end["text"]),
        (&json!("final"), &json!("one two three four five six seven eight nine ten"))
    );
    browser.ask("kill", "say: afterwards").await;
    until_end(&mut browser).await;
    check(&database, &broker, &peer, "gw", "kill", &[&browser]).await;
}

async fn the_broker_is_killed_in_mid_stream(database: Database) {
    let peer = Peer::start(&[]).await;
    let mut broker = connected(&database, &peer).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("crash", "gate g1: first half and second half").await;
    browser.until_within(LONG, "a delta", |frame| frame["state"] == "delta").await;
    broker.kill();
    broker.start_again().await;
    broker.gateway_within("gw", "connected", LONG).await;
    let mut back = broker.browser("/ws/chat/gw").await;
    back.send(json!({ "type": "resume", "sessionKey": "crash", "after": 1 })).await;
    back.until_type("resumed").await;
    peer.release("g1").await;
    until_end(&mut back).await;
    // And once more, while the answer ends with nobody there.
    back.ask("crash", "gate g2: third half and fourth half").await;
    back.until_within(LONG, "a delta", |frame| frame["state"] == "delta").await;
    broker.kill();
    peer.release("g2").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    broker.start_again().await;
    broker.gateway_within("gw", "connected", LONG).await;
    let mut last = broker.browser("/ws/chat/gw").await;
    last.send(json!({ "type": "resume", "sessionKey": "crash", "after": 3 })).await;
    last.until_type("resumed").await;
    last.until_within(LONG, "the answer", |frame| {
        frame.to_string().contains("third half and fourth half")
            && (frame["type"] == "message" || crate::harness::is_terminal(frame))
    })
    .await;
    check(&database, &broker, &peer, "gw", "crash", &[&back, &last]).await;
}

async fn protocol_3(database: Database) {
    let peer = Peer::start(&[("PEER_VERSION", "2026.4.27")]).await;
    let broker = connected(&database, &peer).await;
    assert_eq!(broker.get("/api/admin/gateways/gw").await.1["protocol"], 3);
    let mut browser = broker.browser("/ws/chat/gw").await;
    for round in 0..3 {
        browser.ask("v3", &format!("say[chunks=8,ms=150]: answer number {round} of the old one")).await;
        // The first turn of this release fetches packages, which takes minutes.
        let end = browser.until_within(Duration::from_secs(400), "a terminal frame", crate::harness::is_terminal).await;
        assert_eq!(end["text"], json!(format!("answer number {round} of the old one")));
    }
    check(&database, &broker, &peer, "gw", "v3", &[&browser]).await;
}
