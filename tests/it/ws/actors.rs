//! What the actors of a running broker tell of themselves, and what the upkeep among them does.
use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::connected;
use crate::harness::{Broker, Database};

on_both_databases!(every_actor_tells_of_itself, what_was_said_is_found_by_its_words);

/// How long a test waits for what comes by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// The actors of a broker with a gateway and browsers.
const ACTORS: [&str; 8] =
    ["browser_session", "gateway_link", "hub", "scheduler", "store_writer", "supervisor", "upkeep", "ws_transport"];

/// Reads what the actors tell; a supervisor that is too busy to ask them, or to answer at all, is asked again.
async fn reports(broker: &Broker, query: &str) -> Value {
    let began = Instant::now();
    loop {
        let (status, list) = broker.get(&format!("/api/admin/actors{query}")).await;
        if status == 200 {
            return list;
        }
        assert!(matches!(status, 0 | 503) && began.elapsed() < PATIENCE, "{status}: {list}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Checks that one look shows every actor, at once as page by page; the error says what is missing.
async fn all_are_told(broker: &Broker) -> Result<(), String> {
    let all = reports(broker, "").await;
    let items = all["items"].as_array().unwrap();
    let roles: BTreeSet<&str> = items.iter().map(|item| item["actor"].as_str().unwrap()).collect();
    if roles != BTreeSet::from(ACTORS) {
        return Err(format!("{all}"));
    }
    let sessions = reports(broker, "?actor=browser_session").await;
    let sessions = sessions["items"].as_array().unwrap();
    if sessions.len() != 2 {
        return Err(format!("{sessions:?}"));
    }
    for session in sessions {
        let state = &session["state"];
        assert_eq!((&state["gateway_id"], &state["watching"]), (&json!("gw"), &json!(1)), "{session}");
        // The transport goes by the id of its session.
        if !items.iter().any(|item| item["actor"] == "ws_transport" && item["id"] == session["id"]) {
            return Err(format!("{session} in {all}"));
        }
    }
    // Page by page each appears once.
    let (mut seen, mut query) = (Vec::new(), "?limit=3".to_owned());
    loop {
        let page = reports(broker, &query).await;
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| (item["actor"].clone(), item["id"].clone())));
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?limit=3&cursor={next}");
    }
    let whole: Vec<_> = items.iter().map(|item| (item["actor"].clone(), item["id"].clone())).collect();
    if seen == whole { Ok(()) } else { Err(format!("page by page {seen:?}, at once {whole:?}")) }
}

async fn every_actor_tells_of_itself(database: Database) {
    let (broker, _gateway) = connected(&database).await;
    let mut tabs = Vec::new();
    for session in ["a", "b"] {
        let mut tab = broker.browser("/ws/chat/gw").await;
        tab.send(json!({ "type": "subscribe", "sessionKey": session })).await;
        tab.until_type("subscribed").await;
        tabs.push(tab);
    }
    // Who does not answer within two seconds is left out of a look, and not of all.
    let began = Instant::now();
    while let Err(missing) = all_are_told(&broker).await {
        assert!(began.elapsed() < PATIENCE, "{missing}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A browser that has gone is not asked any more.
    drop(tabs.pop());
    let began = Instant::now();
    loop {
        let left = reports(&broker, "?actor=browser_session").await;
        if left["items"].as_array().unwrap().len() == 1 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "one browser is left: {left}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(broker.get("/api/admin/actors?role=hub").await.0, 422, "unknown fields are refused");
}

async fn what_was_said_is_found_by_its_words(database: Database) {
    let (mut broker, _gateway) = connected(&database).await;
    let mut tab = broker.browser("/ws/chat/gw").await;
    tab.ask("zoo", "say: a Zebra crosses").await;
    tab.until_terminal().await;
    tab.ask("elsewhere", "say: nothing of that kind").await;
    tab.until_terminal().await;
    let found = async |broker: &Broker, path: &str, key: &str| -> Vec<String> {
        let (status, list) = broker.get(path).await;
        assert_eq!(status, 200, "{list}");
        let items = list.get("items").unwrap_or(&list).as_array().unwrap();
        items.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
    };
    let both = async |broker: &Broker, when: &str| {
        assert_eq!(found(broker, "/api/admin/conversations?q=zebra%20cross", "key").await, ["zoo"], "{when}");
        assert_eq!(found(broker, "/api/gateways/gw/sessions?q=zebra", "session_key").await, ["zoo"], "{when}");
        assert_eq!(found(broker, "/api/admin/conversations?q=giraffe", "key").await, [""; 0], "{when}");
    };
    both(&broker, "at once").await;
    until_indexed(&broker).await;
    both(&broker, "from the index").await;
    broker.kill();
    broker.start_again().await;
    both(&broker, "after a restart").await;
    let long = "x".repeat(257);
    let (status, refused) = broker.get(&format!("/api/admin/conversations?q={long}")).await;
    assert_eq!((status, &refused["detail"][0]["loc"]), (422, &json!(["query", "q"])), "{refused}");
}

async fn until_indexed(broker: &Broker) {
    let began = Instant::now();
    loop {
        let report = reports(broker, "?actor=upkeep").await;
        let state = &report["items"][0]["state"];
        if state["conversations_to_index"] == 0 {
            return;
        }
        assert_eq!(state["last_error"], Value::Null, "{state}");
        assert!(began.elapsed() < PATIENCE, "not all is indexed: {report}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
