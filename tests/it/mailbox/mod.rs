//! The mailbox family as agents use it.
mod broken_off;
pub(crate) mod client;
mod directory;
mod examples;
mod guide;
mod idle;
mod keys;
mod loops;
mod moves;
mod options;
mod people;
mod race;
mod receipts;
mod removal;
mod retention;
pub(crate) mod skill;
mod socket;
mod socket_under_fire;
mod stories;
mod targets;
mod users;
mod waiting;

use clawbroker::domain::user::Role;
use clawbroker::store::deliveries::FireDue;
use serde_json::{Value, json};

use crate::routes::TestNode;

const POLL: &str = "/api/gateway/poll";
const REPORT: &str = "/api/gateway/report";
const SEND: &str = "/api/gateway/send-message";

/// Sends a message; returns its id.
async fn send(node: &TestNode, key: &str, target: &str, content: &str) -> String {
    let body = json!({ "target": target, "content": content });
    let sent = node.post(SEND).json(&body).with_key(key).await.expect_status(200).json;
    sent["message_id"].as_str().unwrap().to_owned()
}

/// Polls, with this query if it is not empty; returns the answer.
async fn poll(node: &TestNode, key: &str, query: &str) -> Value {
    node.get(&format!("{POLL}{query}")).with_key(key).await.expect_status(200).json
}

/// Polls for messages.
async fn messages(node: &TestNode, key: &str, query: &str) -> Vec<Value> {
    poll(node, key, query).await["messages"].as_array().unwrap().clone()
}

/// Reports on a message; returns the status and the code of a refusal.
async fn report(node: &TestNode, key: &str, body: Value) -> (u16, String) {
    let reply = node.post(REPORT).json(&body).with_key(key).await;
    (reply.status.as_u16(), reply.code().to_owned())
}

/// Returns the deliveries in a state.
async fn deliveries(node: &TestNode, state: &str) -> Vec<Value> {
    let path = format!("/api/admin/deliveries?state={state}");
    let list = node.get(&path).by(Role::Operator).await.expect_status(200).json;
    list["items"].as_array().unwrap().clone()
}

/// Does what the scheduler would do with all that is leased.
async fn fire(node: &TestNode) {
    let leased = deliveries(node, "leased").await;
    let ids = leased.iter().map(|one| one["id"].as_str().unwrap().parse().unwrap()).collect();
    node.state.store.write(FireDue { ids }).await.expect("what is due moves");
}

/// Keeps a person; returns its id.
async fn member(node: &TestNode, body: Value) -> String {
    let made = node.post("/api/admin/members").json(&body).by(Role::Operator).await.expect_status(201).json;
    made["id"].as_str().unwrap().to_owned()
}

/// Lets an agent know a person (`member_id`) or another agent (`agent_id`); returns the relationship's id.
async fn relate(node: &TestNode, agent: &str, (field, id): (&str, &str), relation: &str) -> String {
    let path = format!("/api/admin/agents/{agent}/relationships");
    let body = json!({ field: id, "relation": relation });
    let made = node.post(&path).json(&body).by(Role::Operator).await.expect_status(201).json;
    made["id"].as_str().unwrap().to_owned()
}

/// Waits until so many deliveries are complete: what was handed out is closed a moment later.
async fn completed(node: &TestNode, count: usize) {
    let began = tokio::time::Instant::now();
    while deliveries(node, "completed").await.len() != count {
        assert!(began.elapsed().as_secs() < 30, "{:?}", deliveries(node, "completed").await);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
