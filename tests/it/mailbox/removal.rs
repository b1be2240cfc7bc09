//! Agents that are removed while messages wait for them.
use std::time::Duration;

use actix::prelude::*;
use clawbroker::actors::messages::Stop;
use clawbroker::actors::supervisor::ChildStopped;
use clawbroker::actors::upkeep::Upkeep;
use clawbroker::domain::user::Role;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{POLL, SEND, deliveries, messages, send};
use crate::harness::{Broker, Database, sql};
use crate::routes::TestNode;

on_both_databases!(
    a_removed_agent_is_gone_at_once_and_its_mail_dies,
    a_poll_of_a_removed_agent_waits_no_more,
    what_a_stopped_server_left_open_ends_after_its_next_start,
);

const LONG: Duration = Duration::from_secs(30);
/// How long something else may happen before it is looked again.
const LOOK: Duration = Duration::from_millis(20);

/// Whom the upkeep tells that it has ended.
struct Parent;

impl Actor for Parent {
    type Context = Context<Self>;
}

impl Handler<ChildStopped> for Parent {
    type Result = ();

    fn handle(&mut self, _: ChildStopped, _: &mut Context<Self>) {}
}

async fn remove(node: &TestNode, id: &str) {
    node.delete(&format!("/api/admin/agents/{id}")).by(Role::Operator).await.expect_status(200);
}

async fn a_removed_agent_is_gone_at_once_and_its_mail_dies(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (id, ben) = node.agent("ben").await;
    let asked = send(&node, &ann, "ben", "leased").await;
    assert_eq!(messages(&node, &ben, "").await[0]["id"], asked.as_str());
    send(&node, &ann, "ben", "waits").await;
    remove(&node, &id).await;
    node.get(POLL).with_key(&ben).await.expect_error(401, "unauthenticated");
    let body = json!({ "target": id, "content": "x" });
    node.post(SEND).json(&body).with_key(&ann).await.expect_error(404, "not_found");
    let open = async || (deliveries(&node, "leased").await.len(), deliveries(&node, "pending").await.len());
    assert_eq!(open().await, (1, 1), "nobody has ended anything yet");

    // As after a start: it was told of nothing.
    let upkeep = Upkeep::new(node.state.store.clone(), Parent.start().recipient()).start();
    let mine = |list: Vec<Value>| -> Vec<Value> {
        list.into_iter().filter(|one| one["recipient"]["id"] == id.as_str()).collect()
    };
    let began = Instant::now();
    while mine(deliveries(&node, "dead").await).len() != 2 {
        assert!(began.elapsed() < LONG, "{:?}", open().await);
        sleep(LOOK).await;
    }
    let dead = mine(deliveries(&node, "dead").await);
    assert!(dead.iter().all(|one| one["reason"] == "recipient_removed"), "{dead:?}");
    let receipt = node.get(&format!("/api/admin/messages/{asked}")).by(Role::Viewer).await.expect_status(200).json;
    let end = receipt["deliveries"][0]["events"].as_array().unwrap().last().unwrap();
    assert_eq!((&end["what"], &end["reason"]), (&json!("dead"), &json!("recipient_removed")));
    // Nobody is left to start it afresh for.
    let path = format!("/api/admin/deliveries/{}/redrive", dead[0]["id"].as_str().unwrap());
    node.post(&path).by(Role::Operator).await.expect_error(409, "delivery_ended");
    let all = node.post("/api/admin/deliveries/redrive").json(&json!({ "recipient": format!("agent:{id}") }));
    let all = all.by(Role::Operator).await.expect_status(200).json;
    assert_eq!(all, json!({ "redriven": 0, "refused": 2, "failed": 0, "more": false }));
    upkeep.do_send(Stop);
}

async fn a_poll_of_a_removed_agent_waits_no_more(node: TestNode) {
    let (id, ben) = node.agent("ben").await;
    let path = format!("{POLL}?wait=60");
    let mut poll = Box::pin(node.get(&path).with_key(&ben));
    let began = Instant::now();
    while node.state.directory.agents().cards().waiting() != 1 {
        assert!(timeout(LOOK, &mut poll).await.is_err(), "it waits");
        assert!(began.elapsed() < LONG);
    }
    remove(&node, &id).await;
    timeout(LONG, poll).await.expect("an answer").expect_error(401, "unauthenticated");
    assert!(node.state.directory.agents().cards().is_empty(), "its mailbox is closed");
}

/// Waits until so many deliveries have died with their agents.
async fn died(broker: &Broker, count: usize) {
    let began = Instant::now();
    loop {
        let (_, list) = broker.get("/api/admin/deliveries?state=dead").await;
        let of_removed = |one: &&Value| one["reason"] == "recipient_removed";
        if list["items"].as_array().is_some_and(|items| items.iter().filter(of_removed).count() == count) {
            return;
        }
        assert!(began.elapsed() < LONG, "{list}");
        sleep(LOOK).await;
    }
}

async fn what_a_stopped_server_left_open_ends_after_its_next_start(database: Database) {
    let mut broker = Broker::start(&database, &[], &[]).await;
    let mut ids = Vec::new();
    for name in ["ben", "carl"] {
        let (status, agent) = broker.post("/api/admin/agents", json!({ "name": name })).await;
        assert_eq!(status, 201, "{agent}");
        let (status, talk) = broker.post("/api/admin/conversations", json!({ "agent_id": agent["id"] })).await;
        assert_eq!(status, 201, "{talk}");
        let path = format!("/api/admin/conversations/{}/messages", talk["id"].as_str().unwrap());
        let (status, said) = broker.post(&path, json!({ "content": "hello" })).await;
        assert_eq!(status, 201, "{said}");
        ids.push(agent["id"].as_str().unwrap().to_owned());
    }
    let (status, done) = broker.call("DELETE", &format!("/api/admin/agents/{}", ids[0]), None).await;
    assert_eq!(status, 200, "{done}");
    died(&broker, 1).await;
    assert_eq!(broker.stop().await, Some(0));
    // As if it had been stopped between the removal and its first step.
    let removed = "UPDATE agents SET deleted_at = created_at, ending = TRUE WHERE name = 'carl'";
    sql::run(&mut database.connect(), removed);
    broker.start_again().await;
    died(&broker, 2).await;
}
