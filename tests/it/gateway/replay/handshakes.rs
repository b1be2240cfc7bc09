//! Handshakes that a gateway refuses, or answers with less than is needed: what an admin sees, and what is tried again.
use serde_json::{Value, json};

use super::{Replay, broker_of};
use crate::harness::{Broker, Database};

on_both_databases!(
    a_wrong_token_is_shown_and_not_tried_again,
    missing_credentials_are_shown_and_not_tried_again,
    a_missing_scope_is_a_state_of_its_own,
    a_proxy_that_takes_the_scopes_is_a_state_of_its_own,
    too_many_wrong_tokens_are_waited_out,
    pairing_is_waited_for_and_then_connects,
    pairing_behind_a_proxy_is_waited_for,
    a_changed_device_is_waited_for,
    more_scopes_than_approved_are_done_without,
    a_device_token_stands_in_for_a_wrong_token,
    a_worthless_device_token_is_shown,
    a_missing_device_is_shown_and_not_tried_again,
    other_protocols_are_shown_and_not_tried_again,
    a_range_of_protocols_that_misses_is_shown_and_not_tried_again,
    a_device_that_is_approved_silently_connects,
    a_foreign_origin_is_shown_and_not_tried_again,
);

/// Connects to a recording and waits for a state; nothing of the broker's own callers is forwarded.
async fn state_of(database: &Database, replay: &Replay, state: &str) -> (Broker, Value) {
    let broker = broker_of(database, replay).await;
    let shown = broker.gateway_is("gw", state).await;
    assert!(!shown.to_string().contains("replay-token"), "{shown}");
    for head in replay.seen().upgrades {
        let head = head.to_ascii_lowercase();
        assert!(!head.contains("\r\norigin:") && !head.contains("forwarded"), "{head}");
    }
    (broker, shown)
}

/// Refused for good: with this code, after one dial.
async fn refused(database: Database, name: &str, code: &str) {
    let replay = Replay::of(&[name]).await;
    let (broker, shown) = state_of(&database, &replay, "refused").await;
    assert_eq!(shown["problem"]["code"], code, "{shown}");
    assert!(shown["problem"]["remedy"].is_string(), "{shown}");
    assert_eq!(shown["retry_at"], Value::Null, "{shown}");
    let mut browser = broker.browser("/ws/chat/gw").await;
    assert_eq!(browser.until_type("connected").await["gateway"]["state"], "refused");
    assert_eq!(browser.ask("a", "are you there?").await["state"], "queued");
    assert_eq!(replay.seen().connects.len(), 1);
}

async fn a_wrong_token_is_shown_and_not_tried_again(database: Database) {
    refused(database, "auth-wrong-token", "AUTH_TOKEN_MISMATCH").await;
}

async fn missing_credentials_are_shown_and_not_tried_again(database: Database) {
    refused(database, "auth-missing-token-with-device", "AUTH_TOKEN_MISSING").await;
}

async fn a_missing_scope_is_a_state_of_its_own(database: Database) {
    not_authorised(database, "auth-missing-scope").await;
}

async fn a_proxy_that_takes_the_scopes_is_a_state_of_its_own(database: Database) {
    not_authorised(database, "backend-via-proxy-no-device").await;
}

async fn not_authorised(database: Database, name: &str) {
    let replay = Replay::of(&[name]).await;
    let (broker, shown) = state_of(&database, &replay, "not_authorised").await;
    assert!(shown["scopes_missing"].to_string().contains("operator.write"), "{shown}");
    let mut browser = broker.browser("/ws/chat/gw").await;
    assert_eq!(browser.ask("a", "are you there?").await["state"], "queued");
    assert!(replay.seen().sends.is_empty());
}

async fn too_many_wrong_tokens_are_waited_out(database: Database) {
    let replay = Replay::of(&["auth-rate-limited"]).await;
    let (_broker, shown) = state_of(&database, &replay, "waiting").await;
    assert_eq!(shown["problem"]["code"], "AUTH_RATE_LIMITED", "{shown}");
    assert_eq!(replay.seen().connects.len(), 1, "the gateway asked for five minutes");
}

async fn pairing_is_waited_for_and_then_connects(database: Database) {
    let replay = Replay::of(&["device-pairing-required", "device-pairing-approved"]).await;
    replay.stop_behind(1);
    let (broker, shown) = state_of(&database, &replay, "pairing_required").await;
    let request = shown["problem"]["request_id"].as_str().expect("the exact request").to_owned();
    assert_eq!(request, "e5e16603-cb56-4efa-9833-5538d85d602c");
    assert!(shown["problem"]["remedy"].to_string().contains(&format!("openclaw devices approve {request}")), "{shown}");
    // The same request is shown as long as nobody approves it.
    broker.post("/api/admin/gateways/gw/test", json!({})).await;
    let again = broker.gateway_is("gw", "pairing_required").await;
    assert_eq!(again["problem"]["request_id"], json!(request));
    replay.go_on();
    broker.post("/api/admin/gateways/gw/test", json!({})).await;
    broker.gateway_is("gw", "connected").await;
}

async fn pairing_behind_a_proxy_is_waited_for(database: Database) {
    let replay = Replay::of(&["device-via-proxy-pairing-required"]).await;
    let (_broker, shown) = state_of(&database, &replay, "pairing_required").await;
    assert_eq!(shown["problem"]["request_id"], "d5bdb13e-e341-45e0-8ed8-3a3782c583f8", "{shown}");
}

async fn a_changed_device_is_waited_for(database: Database) {
    let replay = Replay::of(&["device-metadata-change"]).await;
    let (_broker, shown) = state_of(&database, &replay, "pairing_required").await;
    assert_eq!(shown["problem"]["request_id"], "ca621d6d-4913-457b-9b08-b1dc8873762f", "{shown}");
}

async fn more_scopes_than_approved_are_done_without(database: Database) {
    let replay = Replay::of(&["device-scope-upgrade-required", "device-pairing-approved"]).await;
    let (_broker, shown) = state_of(&database, &replay, "connected").await;
    let scopes: Vec<_> = replay.seen().connects.iter().map(|params| params["scopes"].clone()).collect();
    assert_eq!(scopes.len(), 2, "{scopes:?}");
    assert!(scopes[0].as_array().map(Vec::len) > scopes[1].as_array().map(Vec::len), "{scopes:?}");
    assert_eq!(scopes[1], json!(["operator.read", "operator.write"]));
    assert!(shown["scopes_missing"].to_string().contains("operator.approvals"), "{shown}");
}

async fn a_device_token_stands_in_for_a_wrong_token(database: Database) {
    let recordings =
        ["device-pairing-approved", "auth-wrong-token-known-device", "auth-wrong-token-right-device-token"];
    let replay = Replay::of(&recordings).await;
    replay.stop_behind(1);
    let (broker, _) = state_of(&database, &replay, "connected").await;
    replay.go_on();
    let began = tokio::time::Instant::now();
    while replay.seen().connects.len() < 3 {
        assert!(began.elapsed().as_secs() < 30, "{:?}\n{}", replay.seen(), broker.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    broker.gateway_is("gw", "connected").await;
    let auths: Vec<_> = replay.seen().connects.iter().map(|params| params["auth"].clone()).collect();
    assert_eq!(auths[0]["token"], "replay-token", "{auths:?}");
    assert_eq!(auths[1]["token"], "replay-token", "{auths:?}");
    assert!(auths[2]["deviceToken"].is_string() && auths[2]["token"].is_null(), "{auths:?}");
}

async fn a_worthless_device_token_is_shown(database: Database) {
    refused(database, "auth-device-token-mismatch", "AUTH_DEVICE_TOKEN_MISMATCH").await;
}

async fn other_protocols_are_shown_and_not_tried_again(database: Database) {
    refused(database, "protocol-mismatch-new-client", "PROTOCOL_MISMATCH").await;
}

async fn a_range_of_protocols_that_misses_is_shown_and_not_tried_again(database: Database) {
    refused(database, "protocol-mismatch-old-client", "PROTOCOL_MISMATCH").await;
}

async fn a_missing_device_is_shown_and_not_tried_again(database: Database) {
    refused(database, "auth-missing-token", "DEVICE_IDENTITY_REQUIRED").await;
}

async fn a_device_that_is_approved_silently_connects(database: Database) {
    let replay = Replay::of(&["device-auto-approved-loopback"]).await;
    let (_broker, shown) = state_of(&database, &replay, "connected").await;
    assert_eq!(shown["scopes"], json!(["operator.read", "operator.write"]), "{shown}");
}

async fn a_foreign_origin_is_shown_and_not_tried_again(database: Database) {
    refused(database, "origin-not-allowed", "CONTROL_UI_ORIGIN_NOT_ALLOWED").await;
}
