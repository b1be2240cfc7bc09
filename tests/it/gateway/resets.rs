//! Sessions that were started afresh on the gateway before they were known here.
use serde_json::{Value, json};

use crate::harness::{Broker, Browser, Database, sql};
use crate::ws::connected;
use clawbroker::sample_gateway::Running;

on_both_databases!(
    a_reset_before_a_deletion_brings_nothing_back,
    a_reset_that_is_news_is_a_line_with_what_came_after_it,
);

/// Others use the session, start it afresh, and use it again.
async fn used_by_others(gateway: &Running) {
    gateway.foreign_send("a", "say: before").expect("it is taken");
    gateway.idle().await;
    assert!(gateway.reset("a"));
    gateway.foreign_send("a", "say: since then").expect("it is taken");
    gateway.idle().await;
}

/// Asks a question and waits until the gateway's log has been read behind its answer; returns the texts of all lines.
async fn texts_after(database: &Database, broker: &Broker, gateway: &Running, browser: &mut Browser) -> Vec<String> {
    browser.ask("a", "say: mine").await;
    assert_eq!(browser.until_terminal().await["text"], "mine");
    let newest = gateway.rows("a").last().expect("the answer")["__openclaw"]["id"].clone();
    let newest = newest.as_str().expect("an id");
    let sql = format!("SELECT count(*) AS value FROM message_origins WHERE row_id = '{newest}'");
    let began = tokio::time::Instant::now();
    while sql::number(&mut database.connect(), &sql) == 0 {
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "the log was not read:\n{}", broker.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let (_, lines) = broker.get("/api/gateways/gw/sessions/a/messages").await;
    let lines: Vec<Value> = lines.as_array().cloned().unwrap_or_default();
    lines.iter().map(|line| line["content"][0]["text"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn a_reset_before_a_deletion_brings_nothing_back(database: Database) {
    let (broker, gateway) = connected(&database).await;
    // Named and deleted while the gateway is away: nobody here has seen its log.
    gateway.stop_listening().await;
    broker.gateway_is("gw", "waiting").await;
    let (status, session) = broker.post("/api/gateways/gw/sessions", json!({ "session_key": "a" })).await;
    assert_eq!(status, 200, "{session}");
    used_by_others(&gateway).await;
    let (status, _) = broker.call("DELETE", "/api/gateways/gw/sessions/a", None).await;
    assert_eq!(status, 200);
    gateway.listen_again().await.expect("the port is free again");
    broker.gateway_is("gw", "connected").await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    assert_eq!(texts_after(&database, &broker, &gateway, &mut browser).await, ["say: mine", "mine"]);
}

async fn a_reset_that_is_news_is_a_line_with_what_came_after_it(database: Database) {
    let (broker, gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("a", "say: first").await;
    browser.until_terminal().await;
    gateway.stop_listening().await;
    broker.gateway_is("gw", "waiting").await;
    assert!(gateway.reset("a"));
    gateway.foreign_send("a", "say: since then").expect("it is taken");
    gateway.idle().await;
    gateway.listen_again().await.expect("the port is free again");
    broker.gateway_is("gw", "connected").await;
    let texts = texts_after(&database, &broker, &gateway, &mut browser).await;
    let expected = ["say: first", "first", "say: mine", "mine", "Reset", "say: since then", "since then"];
    let mut sorted = texts.clone();
    sorted.sort_unstable();
    let mut all = expected.to_vec();
    all.sort_unstable();
    assert_eq!(sorted, all, "each once");
    let place = |text: &str| texts.iter().position(|line| line == text);
    assert!(place("Reset") < place("say: since then") && place("say: since then") < place("since then"), "{texts:?}");
}
