//! Polls that wait: who gets a message, and what becomes of it if he has gone.
use std::pin::Pin;
use std::time::Duration;

use clawbroker::actors::agent_mailbox::{Answer, Ask, OpenMailbox, Poll};
use clawbroker::domain::event::{Event, Publish};
use clawbroker::domain::time::iso;
use clawbroker::domain::user::Role;
use clawbroker::http::auth::digest;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::{POLL, messages, poll, send};
use crate::harness::test_store::START_MS;
use crate::harness::{Broker, Database};
use crate::routes::{Reply, TestNode};

on_both_databases!(
    one_message_wakes_one_of_five_hundred,
    whoever_has_gone_is_passed_over,
    a_hand_out_that_nobody_takes_comes_again,
    a_hand_out_of_a_mailbox_that_has_gone_comes_again,
    a_wait_ends_without_a_message,
    a_wait_is_no_slow_answer,
    a_revoked_key_waits_no_more,
    an_expired_key_gets_no_mail,
    a_mailbox_that_cannot_be_read_is_not_empty,
    only_so_many_may_wait,
    a_paused_agent_may_wait_until_it_runs,
    a_connection_that_was_closed_waits_no_more,
    what_is_handed_out_is_counted,
);

const LONG: Duration = Duration::from_secs(30);
/// How long something else may happen before it is looked again.
const LOOK: Duration = Duration::from_millis(20);

fn waiting(node: &TestNode) -> usize {
    node.state.directory.agents().cards().waiting()
}

/// Starts a poll and returns it when it waits as the `count`th.
pub(super) async fn parked<'a>(
    node: &'a TestNode,
    key: &'a str,
    count: usize,
) -> Pin<Box<dyn Future<Output = Reply> + 'a>> {
    let call = node.get(&format!("{POLL}?wait=60"));
    let mut poll: Pin<Box<dyn Future<Output = Reply> + 'a>> = Box::pin(call.with_key(key));
    let began = Instant::now();
    while waiting(node) != count {
        if let Ok(reply) = timeout(LOOK, &mut poll).await {
            panic!("it did not wait: {}", reply.text);
        }
        assert!(began.elapsed() < LONG, "{} wait", waiting(node));
    }
    poll
}

async fn one_message_wakes_one_of_five_hundred(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let path = format!("{POLL}?wait=60");
    let mut polls: FuturesUnordered<_> = (0..500).map(|_| node.get(&path).with_key(&ben)).collect();
    let began = Instant::now();
    while waiting(&node) != 500 {
        assert!(timeout(LOOK, polls.next()).await.is_err(), "nobody is answered before something comes");
        assert!(began.elapsed() < LONG, "{} wait", waiting(&node));
    }
    let id = send(&node, &ann, "ben", "hello").await;
    let first = timeout(LONG, polls.next()).await.expect("an answer").unwrap().expect_status(200);
    assert_eq!(first.json["messages"][0]["id"], id.as_str());
    // The others are answered when the node goes away, and none of them has got it.
    node.state.directory.set_stopping();
    node.state.hubs.publish(vec![Event::SteppedDown]);
    let mut others = 0;
    while let Some(reply) = timeout(LONG, polls.next()).await.expect("an answer") {
        reply.expect_error(503, "shutting_down");
        others += 1;
    }
    assert_eq!((others, waiting(&node)), (499, 0));
}

async fn whoever_has_gone_is_passed_over(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let gone = parked(&node, &ben, 1).await;
    let there = parked(&node, &ben, 2).await;
    drop(gone);
    send(&node, &ann, "ben", "hello").await;
    let got = timeout(LONG, there).await.expect("an answer").expect_status(200).json;
    assert_eq!(got["messages"][0]["delivery_attempt"], 1, "{got}");
    assert_eq!(messages(&node, &ben, "").await, [] as [Value; 0]);
}

/// Asks the mailbox of the agent with this key as a poll does.
async fn ask(node: &TestNode, key: &str) -> Answer {
    let key = node.state.directory.agents().key(&digest(key), 0).expect("a key");
    let card = node.state.mailboxes.send(OpenMailbox(key.agent.clone())).await.expect("an answer").expect("it opens");
    let key_id = key.key_id;
    let ask = Ask { key_id, rows: 10, bytes: 1_024, lease_ms: 60_000, waits: true, explicit_ack: false };
    let (reply, answer) = oneshot::channel();
    card.poll(Poll { ask, reply }).expect("there is room");
    timeout(LONG, answer).await.expect("in time").expect("the mailbox is there").expect("nothing failed")
}

async fn a_hand_out_that_nobody_takes_comes_again(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    send(&node, &ann, "ben", "hello").await;
    // Before the writer has said anything about it.
    drop(ask(&node, &ben).await);
    // While the answer is made, or on the way.
    let mut ticket = ask(&node, &ben).await.ticket.expect("it is there again");
    let leased = ticket.leased().await.expect("it is leased");
    assert_eq!(leased.len(), 1);
    let before = leased[0].attempt;
    drop(ticket);
    let again = poll(&node, &ben, "?wait=30").await;
    assert_eq!(again["messages"][0]["delivery_attempt"], before + 1, "each hand-out counts");
    assert_eq!(messages(&node, &ben, "").await, [] as [Value; 0]);
}

/// As after a commit of unknown outcome (D12): neither the poll nor its mailbox is left.
async fn a_hand_out_of_a_mailbox_that_has_gone_comes_again(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    for number in 1..=2 {
        let id = send(&node, &ann, "ben", &format!("hello {number}")).await;
        let on_its_way = ask(&node, &ben).await;
        node.state.directory.agents().cards().stop_all();
        drop(on_its_way);
        // The clock stands still: no lease ends.
        let again = messages(&node, &ben, "?wait=30").await;
        assert_eq!(again.len(), 1, "{again:?}");
        assert_eq!((&again[0]["id"], &again[0]["delivery_attempt"]), (&json!(id), &json!(2)));
    }
}

async fn a_wait_ends_without_a_message(node: TestNode) {
    let (_, ben) = node.agent("ben").await;
    let polled = poll(&node, &ben, "?wait=1").await;
    assert_eq!((&polled["messages"], &polled["paused"]), (&json!([]), &json!(false)));
    assert_eq!(waiting(&node), 0);
}

async fn a_wait_is_no_slow_answer(node: TestNode) {
    let (_, ben) = node.agent("ben").await;
    let counted = async || {
        let metrics = node.get("/metrics").by(Role::Viewer).await.expect_status(200).text;
        let mut lines = metrics.lines();
        let line = lines.find(|line| line.starts_with("clawbroker_request_seconds_count{family=\"mailbox\"}"));
        line.expect("it is counted").to_owned()
    };
    poll(&node, &ben, "").await;
    let before = counted().await;
    poll(&node, &ben, "?wait=1").await;
    assert_eq!(counted().await, before);
    poll(&node, &ben, "").await;
    assert_ne!(counted().await, before);
}

async fn a_revoked_key_waits_no_more(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (id, old) = node.agent("ben").await;
    let new = node.agent_key(&id).await;
    let of_old = parked(&node, &old, 1).await;
    let of_new = parked(&node, &new, 2).await;
    let keys = format!("/api/admin/agents/{id}/keys");
    let list = node.get(&keys).by(Role::Admin).await.expect_status(200).json;
    let oldest = list["items"][1]["id"].as_str().unwrap();
    node.delete(&format!("{keys}/{oldest}")).by(Role::Admin).await.expect_status(200);
    let refused = timeout(LONG, of_old).await.expect("an answer").expect_error(401, "unauthenticated");
    assert_eq!(refused.json["detail"], "Invalid API key");
    send(&node, &ann, "ben", "hello").await;
    let got = timeout(LONG, of_new).await.expect("an answer").expect_status(200).json;
    assert_eq!(got["messages"][0]["delivery_attempt"], 1, "{got}");
}

async fn an_expired_key_gets_no_mail(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (id, lasting) = node.agent("ben").await;
    let body = json!({ "expires_at": iso(START_MS + 1_000) });
    let path = format!("/api/admin/agents/{id}/keys");
    let made = node.post(&path).json(&body).by(Role::Admin).await.expect_status(201).json;
    let waits = parked(&node, made["api_key"].as_str().unwrap(), 1).await;
    node.clock.advance_ms(1_000);
    send(&node, &ann, "ben", "hello").await;
    timeout(LONG, waits).await.expect("an answer").expect_error(401, "unauthenticated");
    assert_eq!(messages(&node, &lasting, "").await[0]["delivery_attempt"], 1);
}

async fn a_mailbox_that_cannot_be_read_is_not_empty(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    send(&node, &ann, "ben", "hello").await;
    let held = node.hold_readers().await;
    for query in ["?wait=1", ""] {
        node.get(&format!("{POLL}{query}")).with_key(&ben).await.expect_error(503, "store_busy");
    }
    held.let_go().await;
    // Those who have gone meanwhile cost no attempt.
    assert_eq!(poll(&node, &ben, "?wait=30").await["messages"][0]["delivery_attempt"], 1);
}

async fn only_so_many_may_wait(database: Database) {
    let node = TestNode::with(database, |config| {
        config.limits.waiting_polls_per_agent_max = 1;
        config.limits.waiting_polls_max = 2;
    });
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let (_, eve) = node.agent("eve").await;
    let path = format!("{POLL}?wait=60");
    let of_ann = parked(&node, &ann, 1).await;
    node.get(&path).with_key(&ann).await.expect_error(429, "rate_limited");
    let of_ben = parked(&node, &ben, 2).await;
    node.get(&path).with_key(&eve).await.expect_error(429, "rate_limited");
    poll(&node, &eve, "").await;
    drop(of_ann);
    let of_eve = parked(&node, &eve, 2).await;
    drop((of_ben, of_eve));
    assert_eq!(waiting(&node), 0);
}

async fn a_paused_agent_may_wait_until_it_runs(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (id, ben) = node.agent("ben").await;
    let set = async |status: &str| {
        let body = json!({ "status": status });
        node.patch(&format!("/api/admin/agents/{id}")).json(&body).by(Role::Operator).await.expect_status(200);
    };
    set("paused").await;
    let waits = parked(&node, &ben, 1).await;
    send(&node, &ann, "ben", "hello").await;
    set("running").await;
    let got = timeout(LONG, waits).await.expect("an answer").expect_status(200).json;
    assert_eq!((got["messages"].as_array().unwrap().len(), &got["paused"]), (1, &json!(false)));
}

/// Waits until the real binary says that so many polls wait.
async fn told_waiting(broker: &Broker, count: u64) {
    let began = Instant::now();
    loop {
        let (_, actors) = broker.get("/api/admin/actors?actor=supervisor").await;
        let text = actors.to_string();
        if text.contains(&format!("\"polls_waiting\":{count}")) {
            return;
        }
        assert!(began.elapsed() < LONG, "{text}");
        sleep(LOOK).await;
    }
}

async fn a_connection_that_was_closed_waits_no_more(database: Database) {
    let broker = Broker::start(&database, &[], &[]).await;
    let mut keys = Vec::new();
    for name in ["ann", "ben"] {
        let (_, agent) = broker.post("/api/admin/agents", json!({ "name": name })).await;
        let path = format!("/api/admin/agents/{}/keys", agent["id"].as_str().unwrap());
        let (_, made) = broker.post(&path, json!({})).await;
        keys.push(made["api_key"].as_str().unwrap().to_owned());
    }
    let mut gone = tokio::net::TcpStream::connect(&broker.address).await.expect("it listens");
    let head = format!("GET {POLL}?wait=60 HTTP/1.1\r\nhost: {}\r\nx-api-key: {}\r\n\r\n", broker.address, keys[1]);
    gone.write_all(head.as_bytes()).await.expect("it reads");
    told_waiting(&broker, 1).await;
    drop(gone);
    told_waiting(&broker, 0).await;
    let call = |method, path: &str, key: &str| {
        let url = format!("http://{}{path}", broker.address);
        awc::Client::new().request(method, url).timeout(LONG).insert_header(("X-Api-Key", key.to_owned()))
    };
    let sent = call(awc::http::Method::POST, "/api/gateway/send-message", &keys[0]);
    let sent = sent.send_json(&json!({ "target": "ben", "content": "hello" })).await.expect("an answer");
    assert_eq!(sent.status().as_u16(), 200);
    let mut polled = call(awc::http::Method::GET, POLL, &keys[1]).send().await.expect("an answer");
    let polled: Value = polled.json().await.expect("JSON");
    assert_eq!(polled["messages"][0]["delivery_attempt"], 1, "{polled}");
}

/// Reads what the metrics tell of mailboxes: open ones, waiting polls, agents online, hand-outs, those given back.
async fn metrics(node: &TestNode) -> [u64; 5] {
    let told = node.get("/metrics").by(Role::Viewer).await.expect_status(200).text;
    ["mailboxes_active", "polls_waiting", "agents_online", "handed_out_total", "given_back_total"].map(|name| {
        let head = format!("clawbroker_{name} ");
        let value = told.lines().find_map(|line| line.strip_prefix(&head)).unwrap_or_else(|| panic!("{name}: {told}"));
        value.parse().expect("a number")
    })
}

async fn what_is_handed_out_is_counted(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    assert_eq!(metrics(&node).await, [0, 0, 0, 0, 0]);
    let waits = parked(&node, &ben, 1).await;
    assert_eq!(metrics(&node).await, [1, 1, 1, 0, 0]);
    send(&node, &ann, "ben", "hello").await;
    let got = timeout(LONG, waits).await.expect("an answer").expect_status(200).json;
    assert_eq!(got["messages"][0]["delivery_attempt"], 1, "{got}");
    assert_eq!(metrics(&node).await, [1, 0, 2, 1, 0]);
    // One that nobody takes comes again.
    send(&node, &ann, "ben", "and again").await;
    drop(ask(&node, &ben).await);
    let path = format!("{POLL}?wait=60");
    let again = timeout(LONG, node.get(&path).with_key(&ben)).await.expect("an answer").expect_status(200).json;
    assert_eq!(again["messages"][0]["delivery_attempt"], 2, "{again}");
    assert_eq!(metrics(&node).await, [1, 0, 2, 3, 1]);
    node.clock.advance_ms(300_000);
    assert_eq!(metrics(&node).await[2], 0, "nobody has called for five minutes");
}
