//! Handshakes of every kind against the sample gateway: what went wrong is shown, with what to do about it.
use std::time::Duration;

use serde_json::json;

use crate::harness::{Broker, Database};
use crate::ws::{register, sample_gateway};

on_both_databases!(
    a_wrong_token_is_shown_and_the_gateway_is_left_alone,
    a_changed_token_connects_at_once,
    pairing_is_shown_and_after_the_approval_it_connects,
    missing_scopes_are_a_state_of_their_own,
    protocol_3_streams_as_well,
    a_restarted_gateway_is_found_again,
    a_gateway_that_restarts_often_is_found_soon_each_time,
    a_disabled_gateway_is_not_dialled,
    a_question_goes_to_its_own_gateway_and_to_no_other,
    what_finds_no_room_among_the_requests_is_asked_later,
);

async fn a_wrong_token_is_shown_and_the_gateway_is_left_alone(database: Database) {
    let gateway = sample_gateway(|options| options.token = Some("another-token".into()));
    let broker = Broker::start(&database, &[], &[]).await;
    register(&broker, &gateway).await;
    let shown = broker.gateway_is("gw", "refused").await;
    assert_eq!(shown["problem"]["code"], "AUTH_TOKEN_MISMATCH", "{shown}");
    assert!(shown["problem"]["remedy"].as_str().is_some_and(|remedy| remedy.contains("token")), "{shown}");
    assert!(!shown.to_string().contains("sample-token"), "{shown}");
    let reports = broker.get("/api/admin/actors").await.1.to_string();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(gateway.connections(), 0);
    let later = broker.get("/api/admin/gateways/gw").await.1;
    assert_eq!(
        (&later["state"], &later["since"]),
        (&shown["state"], &shown["since"]),
        "it is not asked again: {reports}"
    );
}

async fn a_changed_token_connects_at_once(database: Database) {
    let gateway = sample_gateway(|options| options.token = Some("another-token".into()));
    let broker = Broker::start(&database, &[], &[]).await;
    register(&broker, &gateway).await;
    broker.gateway_is("gw", "refused").await;
    let (status, changed) =
        broker.call("PATCH", "/api/admin/gateways/gw", Some(json!({ "token": "another-token" }))).await;
    assert_eq!(status, 200, "{changed}");
    broker.gateway_is("gw", "connected").await;
}

async fn pairing_is_shown_and_after_the_approval_it_connects(database: Database) {
    let gateway = sample_gateway(|options| options.pairing = true);
    let broker = Broker::start(&database, &[], &[]).await;
    register(&broker, &gateway).await;
    let shown = broker.gateway_is("gw", "pairing_required").await;
    let request = shown["problem"]["request_id"].as_str().expect("the exact request").to_owned();
    assert_eq!(gateway.pending_pairings(), [request.as_str()]);
    let remedy = shown["problem"]["remedy"].as_str().expect("what to run");
    assert!(remedy.contains(&format!("openclaw devices approve {request}")), "{remedy}");
    assert!(gateway.approve(&request));
    // An operator who has approved it need not wait for the next look.
    let (status, _) = broker.post("/api/admin/gateways/gw/test", json!({})).await;
    assert!(status < 500, "{status}");
    broker.gateway_within("gw", "connected", Duration::from_secs(40)).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("a", "say: paired").await;
    assert_eq!(browser.until_terminal().await["text"], "paired");
}

async fn missing_scopes_are_a_state_of_their_own(database: Database) {
    let gateway = sample_gateway(|options| options.grant_scopes = Some(vec!["operator.read".into()]));
    let broker = Broker::start(&database, &[], &[]).await;
    register(&broker, &gateway).await;
    let shown = broker.gateway_is("gw", "not_authorised").await;
    assert!(shown["scopes_missing"].to_string().contains("operator.write"), "{shown}");
    let mut browser = broker.browser("/ws/chat/gw").await;
    assert_eq!(browser.until_type("connected").await["gateway"]["state"], "not_authorised");
    assert_eq!(browser.ask("a", "hello?").await["state"], "queued");
}

async fn protocol_3_streams_as_well(database: Database) {
    let gateway = sample_gateway(|options| options.protocol = 3);
    let broker = Broker::start(&database, &[], &[]).await;
    register(&broker, &gateway).await;
    let shown = broker.gateway_is("gw", "connected").await;
    assert_eq!(shown["protocol"], 3, "{shown}");
    let mut browser = broker.browser("/ws/chat/gw").await;
    for text in ["the first answer", "the second answer"] {
        browser.ask("a", &format!("say[chunks=4,ms=10]: {text}")).await;
        let end = browser.until_terminal().await;
        assert_eq!(end["text"], text);
    }
    let (_, messages) = broker.get("/api/gateways/gw/sessions/a/messages").await;
    assert_eq!(messages.as_array().map(Vec::len), Some(4), "each row belongs to one line: {messages}");
}

async fn a_restarted_gateway_is_found_again(database: Database) {
    let gateway = sample_gateway(|_| {});
    let broker = Broker::start(&database, &[], &[]).await;
    register(&broker, &gateway).await;
    broker.gateway_is("gw", "connected").await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.until_type("connected").await;
    gateway.restart("boot-2").await.expect("the port is free again");
    let gone = browser.until_type("disconnected").await;
    assert!(gone["reason"].is_string(), "{gone}");
    browser.until_type("reconnected").await;
    browser.ask("a", "say: again").await;
    assert_eq!(browser.until_terminal().await["text"], "again");
    assert_eq!(broker.get("/api/admin/gateways/gw").await.1["reconnects"], 1);
}

/// Each hello starts the waits afresh, however soon the gateway goes again.
async fn a_gateway_that_restarts_often_is_found_soon_each_time(database: Database) {
    let gateway = sample_gateway(|_| {});
    let broker = Broker::start(&database, &[], &[]).await;
    register(&broker, &gateway).await;
    broker.gateway_is("gw", "connected").await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.until_type("connected").await;
    for boot in 2..10 {
        gateway.restart(&format!("boot-{boot}")).await.expect("the port is free again");
        let gone = browser.until_type("disconnected").await;
        assert!(gone["retryInMs"].as_u64().is_some_and(|ms| ms <= 1_000), "{gone}");
        browser.until_type("reconnected").await;
    }
}

async fn a_disabled_gateway_is_not_dialled(database: Database) {
    let gateway = sample_gateway(|_| {});
    let broker = Broker::start(&database, &[], &[]).await;
    register(&broker, &gateway).await;
    broker.gateway_is("gw", "connected").await;
    let (status, _) = broker.call("PATCH", "/api/admin/gateways/gw", Some(json!({ "enabled": false }))).await;
    assert_eq!(status, 200);
    broker.gateway_is("gw", "disabled").await;
    gateway.connected(0).await;
    broker.call("PATCH", "/api/admin/gateways/gw", Some(json!({ "enabled": true }))).await;
    broker.gateway_is("gw", "connected").await;
}

async fn a_question_goes_to_its_own_gateway_and_to_no_other(database: Database) {
    let (away, there) = (sample_gateway(|_| {}), sample_gateway(|_| {}));
    let mut broker = Broker::start(&database, &[], &[]).await;
    register(&broker, &away).await;
    let body = json!({ "id": "other", "name": "Other", "url": there.url, "token": "sample-token" });
    assert_eq!(broker.post("/api/gateways", body).await.0, 200);
    broker.gateway_is("gw", "connected").await;
    broker.gateway_is("other", "connected").await;
    away.stop_listening().await;
    away.kill();
    broker.gateway_is("gw", "waiting").await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    assert_eq!(browser.ask("a", "say: for the one that is away").await["state"], "queued");
    // At the start everything that waits is looked at.
    broker.kill();
    broker.start_again().await;
    broker.gateway_is("other", "connected").await;
    let mut browser = broker.browser("/ws/chat/other").await;
    browser.ask("a", "say: for the one that is there").await;
    assert_eq!(browser.until_terminal().await["text"], "for the one that is there");
    assert_eq!(there.sends().len(), 1, "{:?}", there.sends());
    away.listen_again().await.expect("the port is free again");
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.send(json!({ "type": "resume", "sessionKey": "a", "after": 1 })).await;
    let end = browser
        .until("the answer", |f| f.to_string().contains("for the one that is away") && f["type"] != "resumed")
        .await;
    assert!(end["type"] == "stream" || end["type"] == "message", "{end}");
}

/// When the gateway is there again each session wants to know its log at once.
async fn what_finds_no_room_among_the_requests_is_asked_later(database: Database) {
    let settings = database.data_dir().join("small.toml");
    std::fs::write(&settings, "[gateway]\nrequests_in_flight_max = 1\nrequests_waiting_max = 1\n").expect("written");
    let gateway = sample_gateway(|_| {});
    gateway.stop_listening().await;
    let broker = Broker::start(&database, &[], &[("CLAWBROKER_CONFIG", &settings.to_string_lossy())]).await;
    register(&broker, &gateway).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    for session in 0..5 {
        browser.ask(&session.to_string(), &format!("say: answer {session}")).await;
    }
    gateway.listen_again().await.expect("the port is free again");
    let mut answers = Vec::new();
    while answers.len() < 5 {
        answers.push(browser.until_terminal().await["text"].as_str().expect("a text").to_owned());
    }
    answers.sort_unstable();
    assert_eq!(answers, (0..5).map(|session| format!("answer {session}")).collect::<Vec<_>>());
    let (_, reports) = broker.get("/api/admin/actors").await;
    let link = reports["items"].as_array().into_iter().flatten().find(|report| report["actor"] == "gateway_link");
    let refused = link.and_then(|link| link["state"]["requests_refused_total"].as_u64());
    assert!(refused.is_some_and(|refused| refused >= 4), "{reports}");
}
