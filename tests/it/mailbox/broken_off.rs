//! What becomes of a hand-out when its client breaks off in the middle of it, with the real binary.
use std::time::Duration;

use awc::http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{POLL, REPORT, SEND};
use crate::harness::{Broker, Database};
use crate::hostile::raw::Raw;

on_both_databases!(replies_come_again_if_their_client_breaks_off);

const LONG: Duration = Duration::from_secs(30);
/// Together they are more than the system takes for a client that reads nothing, and fit in one poll.
const REPLIES: usize = 15;
const REPLY_BYTES: usize = 250 << 10;

/// Registers an agent; returns a key of it.
pub(super) async fn agent(broker: &Broker, name: &str) -> String {
    let (_, agent) = broker.post("/api/admin/agents", json!({ "name": name })).await;
    let path = format!("/api/admin/agents/{}/keys", agent["id"].as_str().unwrap());
    let (_, made) = broker.post(&path, json!({})).await;
    made["api_key"].as_str().unwrap().to_owned()
}

/// Calls by the key of an agent.
pub(super) async fn call(broker: &Broker, key: &str, method: Method, path: &str, body: Option<Value>) -> Value {
    let url = format!("http://{}{path}", broker.address);
    let request = awc::Client::new().request(method, url).timeout(2 * LONG);
    let request = request.insert_header(("X-Api-Key", key.to_owned()));
    let sent = match body {
        Some(body) => request.send_json(&body).await,
        None => request.send().await,
    };
    let mut answer = sent.expect("an answer");
    let bytes = answer.body().limit(64 << 20).await.expect("a whole answer");
    assert_eq!(answer.status().as_u16(), 200, "{}", String::from_utf8_lossy(&bytes));
    serde_json::from_slice(&bytes).expect("JSON")
}

/// Polls for messages.
async fn messages(broker: &Broker, key: &str, query: &str) -> Vec<Value> {
    let polled = call(broker, key, Method::GET, &format!("{POLL}{query}"), None).await;
    polled["messages"].as_array().unwrap().clone()
}

/// Returns how many deliveries are in a state.
pub(super) async fn count(broker: &Broker, state: &str) -> usize {
    let (status, list) = broker.get(&format!("/api/admin/deliveries?state={state}&limit=50")).await;
    assert_eq!(status, 200, "{list}");
    list["items"].as_array().unwrap().len()
}

async fn replies_come_again_if_their_client_breaks_off(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let (ann, ben) = (agent(&broker, "ann").await, agent(&broker, "ben").await);
    for number in 0..REPLIES {
        let body = json!({ "target": "ben", "content": format!("question {number}") });
        call(&broker, &ann, Method::POST, SEND, Some(body)).await;
    }
    for question in messages(&broker, &ben, "").await {
        let body = json!({ "message_id": question["id"], "result": "x".repeat(REPLY_BYTES) });
        call(&broker, &ben, Method::POST, REPORT, Some(body)).await;
    }
    assert_eq!(count(&broker, "completed").await, REPLIES, "all questions are answered");
    let mut gone = Raw::connect_narrow(&broker).await;
    let request = format!("GET {POLL} HTTP/1.1\r\nhost: {}\r\nx-api-key: {ann}\r\n\r\n", broker.address);
    gone.write(request.as_bytes()).await;
    let head = gone.head().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!((count(&broker, "leased").await, count(&broker, "completed").await), (REPLIES, REPLIES));
    gone.reset();
    let mut again = Vec::new();
    while again.len() < REPLIES {
        let came = messages(&broker, &ann, "?wait=30").await;
        assert!(!came.is_empty(), "{} of {REPLIES} came again", again.len());
        again.extend(came);
    }
    assert!(again.iter().all(|reply| reply["delivery_attempt"] == 2 && reply["kind"] == "reply"));
    // Now they were read to the end, and nothing more is asked of anybody.
    let began = Instant::now();
    while count(&broker, "completed").await != 2 * REPLIES {
        assert!(began.elapsed() < LONG, "{} are complete", count(&broker, "completed").await);
        sleep(Duration::from_millis(20)).await;
    }
}
