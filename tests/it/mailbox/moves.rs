//! What an agent says about a message that it has, short of a report.
use std::sync::atomic::Ordering;
use std::time::Duration;

use clawbroker::domain::time::iso;
use clawbroker::domain::user::Role;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::waiting::parked;
use super::{POLL, completed, deliveries, fire, messages, poll, report, send};
use crate::harness::Database;
use crate::harness::test_store::START_MS;
use crate::routes::{Reply, TestNode};

on_both_databases!(
    a_worker_keeps_what_it_works_on,
    what_is_given_back_comes_to_the_next_poll_at_once,
    what_is_given_back_with_a_delay_waits_for_its_time,
    a_poll_that_waits_gets_what_was_given_back_when_its_time_has_come,
    what_is_given_back_too_often_is_dead,
    what_is_given_up_is_dead_and_says_why,
    a_lease_is_extended_up_to_its_bound,
    replies_are_acknowledged,
    each_call_names_what_it_refuses,
    nobody_but_its_recipient_moves_a_message,
    a_heartbeat_takes_any_body,
    a_heartbeat_names_what_is_wrong_with_its_work,
);

const NACK: &str = "/api/gateway/nack";
const FAIL: &str = "/api/gateway/fail";
const EXTEND: &str = "/api/gateway/extend";
const ACK: &str = "/api/gateway/ack";
const HEARTBEAT: &str = "/api/gateway/heartbeat";
const NOBODY: &str = "01890000-0000-7000-8000-000000000000";
const LONG: Duration = Duration::from_secs(30);

async fn post(node: &TestNode, key: &str, path: &str, body: Value) -> Reply {
    node.post(path).json(&body).with_key(key).await
}

/// Makes a call that is fine; returns the answer.
async fn said(node: &TestNode, key: &str, path: &str, body: Value) -> Value {
    post(node, key, path, body).await.expect_status(200).json
}

fn commits(node: &TestNode) -> u64 {
    node.state.store.writer().stats().commits_total.load(Ordering::Relaxed)
}

async fn a_worker_keeps_what_it_works_on(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (id, ben) = node.agent("ben").await;
    let registered = json!({ "lease_seconds": 10 });
    node.patch(&format!("/api/admin/agents/{id}")).json(&registered).by(Role::Operator).await.expect_status(200);
    let message = send(&node, &ann, "ben", "a long job").await;
    assert_eq!(messages(&node, &ben, "").await[0]["delivery_attempt"], 1);
    let beat = async |entry: Value| said(&node, &ben, HEARTBEAT, json!({ "working_on": [entry] })).await;
    let mine = json!({ "status": "ok", "agent_id": id, "extended": [message], "stale": [] });
    let not_mine = json!({ "status": "ok", "agent_id": id, "extended": [], "stale": [message] });
    for n in 0..20 {
        node.clock.advance_ms(9_000);
        let entry = if n % 2 == 0 { json!(message) } else { json!({ "message_id": message, "delivery_attempt": 1 }) };
        assert_eq!(beat(entry).await, mine, "{n}");
        fire(&node).await;
        assert_eq!(messages(&node, &ben, "").await, [] as [Value; 0], "{n}");
    }
    // It is lost for a while, and another one takes its place.
    node.clock.advance_ms(10_000);
    fire(&node).await;
    assert_eq!(beat(json!(message)).await, not_mine, "it waits");
    assert_eq!(messages(&node, &ben, "").await[0]["delivery_attempt"], 2);
    assert_eq!(beat(json!({ "message_id": message, "delivery_attempt": 1 })).await, not_mine);
    assert_eq!(beat(json!({ "message_id": message, "delivery_attempt": 2 })).await, mine);
    let never = json!({ "working_on": [{ "message_id": message, "delivery_attempt": 3 }] });
    post(&node, &ben, HEARTBEAT, never).await.expect_error(422, "validation_error");
    let done = |attempt: i32| json!({ "message_id": message, "result": "done", "delivery_attempt": attempt });
    assert_eq!(report(&node, &ben, done(1)).await, (409, "stale_attempt".to_owned()));
    assert_eq!(report(&node, &ben, done(2)).await.0, 200);
    assert_eq!(beat(json!(message)).await, not_mine, "it is done");
    assert_eq!(messages(&node, &ann, "").await[0]["content"], "done");
}

async fn what_is_given_back_comes_to_the_next_poll_at_once(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let first = parked(&node, &ben, 1).await;
    let second = parked(&node, &ben, 2).await;
    let message = send(&node, &ann, "ben", "hello").await;
    let got = timeout(LONG, first).await.expect("an answer").expect_status(200).json;
    assert_eq!(got["messages"][0]["delivery_attempt"], 1, "{got}");
    let body = json!({ "message_id": message, "reason": "not my kind of work", "delivery_attempt": 1 });
    assert_eq!(said(&node, &ben, NACK, body.clone()).await, json!({ "status": "ok", "state": "pending" }));
    let got = timeout(LONG, second).await.expect("an answer").expect_status(200).json;
    assert_eq!((&got["messages"][0]["id"], &got["messages"][0]["delivery_attempt"]), (&json!(message), &json!(2)));
    // Whoever gave it back has no say any more.
    post(&node, &ben, NACK, body).await.expect_error(409, "stale_attempt");
    // And a poll that does not wait finds what is given back, too.
    said(&node, &ben, NACK, json!({ "message_id": message })).await;
    assert_eq!(messages(&node, &ben, "").await[0]["delivery_attempt"], 3);
}

async fn what_is_given_back_with_a_delay_waits_for_its_time(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let message = send(&node, &ann, "ben", "hello").await;
    messages(&node, &ben, "").await;
    said(&node, &ben, NACK, json!({ "message_id": message, "delay_seconds": 43_200 })).await;
    // It holds nothing else back.
    send(&node, &ann, "ben", "and this").await;
    assert_eq!(messages(&node, &ben, "").await[0]["content"], "and this");
    node.clock.advance_ms(43_199_999);
    assert_eq!(messages(&node, &ben, "?wait=1").await, [] as [Value; 0]);
    node.clock.advance_ms(1);
    let again = messages(&node, &ben, "?wait=30").await;
    assert_eq!((&again[0]["id"], &again[0]["delivery_attempt"]), (&json!(message), &json!(2)));
}

async fn a_poll_that_waits_gets_what_was_given_back_when_its_time_has_come(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let message = send(&node, &ann, "ben", "hello").await;
    messages(&node, &ben, "").await;
    let waits = parked(&node, &ben, 1).await;
    said(&node, &ben, NACK, json!({ "message_id": message, "delay_seconds": 1 })).await;
    node.clock.advance_ms(1_000);
    let got = timeout(LONG, waits).await.expect("an answer").expect_status(200).json;
    assert_eq!((&got["messages"][0]["id"], &got["messages"][0]["delivery_attempt"]), (&json!(message), &json!(2)));
}

async fn what_is_given_back_too_often_is_dead(database: Database) {
    let node = TestNode::with(database, |config| config.mailbox.attempts_max = 2);
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let message = send(&node, &ann, "ben", "hello").await;
    for state in ["pending", "dead"] {
        assert_eq!(messages(&node, &ben, "").await.len(), 1);
        let given_back = said(&node, &ben, NACK, json!({ "message_id": message, "reason": "no paper" })).await;
        assert_eq!(given_back, json!({ "status": "ok", "state": state }));
    }
    assert_eq!(messages(&node, &ben, "").await, [] as [Value; 0]);
    assert_eq!(deliveries(&node, "dead").await[0]["reason"], "attempts");
    post(&node, &ben, NACK, json!({ "message_id": message })).await.expect_error(409, "delivery_ended");
    let late = json!({ "message_id": message, "result": "done after all" });
    assert_eq!(report(&node, &ben, late).await.0, 200);
}

async fn what_is_given_up_is_dead_and_says_why(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let dead = json!({ "status": "ok", "state": "dead" });
    // One that waits, and one that is leased.
    for polled in [false, true] {
        let message = send(&node, &ann, "ben", "hello").await;
        if polled {
            assert_eq!(messages(&node, &ben, "").await.len(), 1);
        }
        let body = |reason: &str| json!({ "message_id": message, "reason": reason });
        assert_eq!(said(&node, &ben, FAIL, body(" I cannot read it \n")).await, dead);
        assert_eq!(said(&node, &ben, FAIL, body("I cannot read it")).await, dead, "a retry");
        post(&node, &ben, FAIL, body("I may not read it")).await.expect_error(409, "delivery_ended");
        let late = json!({ "message_id": message, "result": "read" });
        assert_eq!(report(&node, &ben, late).await, (409, "delivery_ended".to_owned()));
        assert_eq!(messages(&node, &ben, "").await, [] as [Value; 0]);
    }
    let reasons: Vec<Value> = deliveries(&node, "dead").await.iter().map(|one| one["reason"].clone()).collect();
    assert_eq!(reasons, ["I cannot read it", "I cannot read it"]);
}

async fn a_lease_is_extended_up_to_its_bound(database: Database) {
    let node = TestNode::with(database, |config| {
        config.mailbox.lease_s = 60;
        config.mailbox.lease_total_max_s = 600;
    });
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let message = send(&node, &ann, "ben", "hello").await;
    post(&node, &ben, EXTEND, json!({ "message_id": message })).await.expect_error(409, "not_leased");
    let polled = messages(&node, &ben, "?lease=10").await;
    assert_eq!(polled[0]["lease_until"], iso(START_MS + 10_000));
    let until = async |lease: Option<u32>| {
        let body = json!({ "message_id": message, "lease": lease, "delivery_attempt": 1 });
        let said = said(&node, &ben, EXTEND, body).await;
        assert_eq!(said["status"], "ok");
        said["lease_until"].as_str().unwrap().to_owned()
    };
    assert_eq!(until(None).await, iso(START_MS + 60_000), "as the settings have it");
    assert_eq!(until(Some(10)).await, iso(START_MS + 60_000), "never shorter");
    assert_eq!(until(Some(300)).await, iso(START_MS + 300_000));
    node.clock.advance_ms(200_000);
    assert_eq!(until(Some(43_200)).await, iso(START_MS + 600_000), "never longer in all");
    node.clock.advance_ms(400_000);
    post(&node, &ben, EXTEND, json!({ "message_id": message })).await.expect_error(409, "not_leased");
    fire(&node).await;
    assert_eq!(messages(&node, &ben, "").await[0]["delivery_attempt"], 2);
    let old = json!({ "message_id": message, "delivery_attempt": 1 });
    let refused = post(&node, &ben, EXTEND, old).await.expect_error(409, "stale_attempt");
    let told = refused.json["detail"].as_str().unwrap();
    assert!(told.starts_with(&format!("message `{message}` ")), "it says which one: {told}");
    // A poll cannot have it for longer either.
    said(&node, &ben, NACK, json!({ "message_id": message })).await;
    let polled = messages(&node, &ben, "?lease=43200").await;
    assert_eq!(polled[0]["lease_until"], iso(START_MS + 600_000 + 600_000));
}

async fn replies_are_acknowledged(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let (_, eve) = node.agent("eve").await;
    let asked = send(&node, &ann, "ben", "hello").await;
    messages(&node, &ben, "").await;
    assert_eq!(report(&node, &ben, json!({ "message_id": asked, "result": "done" })).await.0, 200);
    let request = send(&node, &ben, "ann", "and you?").await;
    let polled = messages(&node, &ann, "?ack=explicit&lease=10").await;
    assert_eq!(polled.len(), 2);
    let reply = polled.iter().find(|message| message["kind"] == "reply").unwrap()["id"].as_str().unwrap().to_owned();
    let both = json!({ "message_ids": [reply, request] });
    let nothing = json!({ "status": "ok", "acked": [], "unknown": [reply, request] });
    assert_eq!(said(&node, &eve, ACK, both.clone()).await, nothing);
    for _ in 0..2 {
        let told = json!({ "status": "ok", "acked": [reply], "unknown": [request] });
        assert_eq!(said(&node, &ann, ACK, both.clone()).await, told);
    }
    node.clock.advance_ms(10_000);
    fire(&node).await;
    let again = messages(&node, &ann, "").await;
    assert_eq!((again.len(), &again[0]["id"]), (1, &json!(request)), "the request comes again");
    // Without `ack=explicit` it is complete when it is out, and may be acknowledged all the same.
    assert_eq!(report(&node, &ann, json!({ "message_id": request, "result": "fine" })).await.0, 200);
    let out = messages(&node, &ben, "").await;
    completed(&node, 4).await;
    let told = said(&node, &ben, ACK, json!({ "message_ids": [out[0]["id"], NOBODY] })).await;
    assert_eq!(told, json!({ "status": "ok", "acked": [out[0]["id"]], "unknown": [NOBODY] }));
}

async fn each_call_names_what_it_refuses(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let message = send(&node, &ann, "ben", "hello").await;
    messages(&node, &ben, "").await;
    let (long, fine) = ("x".repeat(501), "ä".repeat(500));
    let many: Vec<&str> = vec![NOBODY; 101];
    let before = commits(&node);
    for (path, body, field) in [
        (NACK, json!({}), "message_id"),
        (NACK, json!({ "message_id": "7" }), "message_id"),
        (NACK, json!({ "message_id": message, "reason": "" }), "reason"),
        (NACK, json!({ "message_id": message, "reason": long }), "reason"),
        (NACK, json!({ "message_id": message, "reason": "a\nb" }), "reason"),
        (NACK, json!({ "message_id": message, "delay_seconds": 43_201 }), "delay_seconds"),
        (NACK, json!({ "message_id": message, "delay_seconds": -1 }), "delay_seconds"),
        (NACK, json!({ "message_id": message, "delivery_attempt": "1" }), "delivery_attempt"),
        (NACK, json!({ "message_id": message, "delivery_attempt": 2 }), "delivery_attempt"),
        (FAIL, json!({ "reason": "no" }), "message_id"),
        (FAIL, json!({ "message_id": message }), "reason"),
        (FAIL, json!({ "message_id": message, "reason": null }), "reason"),
        (FAIL, json!({ "message_id": message, "reason": "  " }), "reason"),
        (FAIL, json!({ "message_id": message, "reason": long }), "reason"),
        (FAIL, json!({ "message_id": message, "reason": "a\tb" }), "reason"),
        (FAIL, json!({ "message_id": message, "reason": "attempts" }), "reason"),
        (FAIL, json!({ "message_id": message, "reason": " recipient_removed" }), "reason"),
        (FAIL, json!({ "message_id": message, "reason": "channel_removed" }), "reason"),
        (FAIL, json!({ "message_id": message, "reason": "no", "delivery_attempt": 2 }), "delivery_attempt"),
        (EXTEND, json!({ "lease": 60 }), "message_id"),
        (EXTEND, json!({ "message_id": message, "lease": 9 }), "lease"),
        (EXTEND, json!({ "message_id": message, "lease": 43_201 }), "lease"),
        (EXTEND, json!({ "message_id": message, "delivery_attempt": 2 }), "delivery_attempt"),
        (ACK, json!({}), "message_ids"),
        (ACK, json!({ "message_ids": [] }), "message_ids"),
        (ACK, json!({ "message_ids": many }), "message_ids"),
        (ACK, json!({ "message_ids": message }), "message_ids"),
        (ACK, json!({ "message_ids": ["7"] }), "message_ids"),
    ] {
        let refused = post(&node, &ben, path, body.clone()).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), [field], "{path} {body}");
    }
    for (path, body) in [
        (NACK, json!({ "message_id": NOBODY })),
        (FAIL, json!({ "message_id": NOBODY, "reason": "no" })),
        (EXTEND, json!({ "message_id": NOBODY })),
    ] {
        let refused = post(&node, &ben, path, body).await.expect_error(404, "not_found");
        assert_eq!(refused.json["detail"], "Message not found");
    }
    assert_eq!(deliveries(&node, "leased").await.len(), 1, "nothing was done");
    said(&node, &ben, EXTEND, json!({ "message_id": message, "lease": 43_200, "extra": true })).await;
    assert!(commits(&node) > before);
    let body = json!({ "message_id": message, "delay_seconds": 0, "reason": fine });
    assert_eq!(said(&node, &ben, NACK, body).await["state"], "pending");
}

/// Neither its sender nor a third one: to them it is like one that is not there (SEC-2).
async fn nobody_but_its_recipient_moves_a_message(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let (_, eve) = node.agent("eve").await;
    let message = send(&node, &ann, "ben", "hello").await;
    assert_eq!(messages(&node, &ben, "").await[0]["delivery_attempt"], 1);
    let before = deliveries(&node, "leased").await;
    assert_eq!(before.len(), 1);
    for key in [&ann, &eve] {
        for (path, body) in [
            (NACK, json!({ "message_id": message, "delivery_attempt": 1 })),
            (FAIL, json!({ "message_id": message, "reason": "no" })),
            (EXTEND, json!({ "message_id": message, "lease": 43_200 })),
        ] {
            let refused = post(&node, key, path, body).await.expect_error(404, "not_found");
            assert_eq!(refused.json["detail"], "Message not found", "{path}");
        }
        let told = said(&node, key, ACK, json!({ "message_ids": [message] })).await;
        assert_eq!(told, json!({ "status": "ok", "acked": [], "unknown": [message] }));
    }
    assert_eq!(deliveries(&node, "leased").await, before, "nothing was done");
    // The same with a reply, which its recipient may acknowledge.
    assert_eq!(report(&node, &ben, json!({ "message_id": message, "result": "done" })).await.0, 200);
    let reply = messages(&node, &ann, "?ack=explicit").await[0]["id"].clone();
    let (none, all) = (json!([]), json!([reply]));
    for (key, acked, unknown) in [(&ben, &none, &all), (&eve, &none, &all), (&ann, &all, &none)] {
        let told = said(&node, key, ACK, json!({ "message_ids": all })).await;
        assert_eq!(told, json!({ "status": "ok", "acked": acked, "unknown": unknown }));
    }
}

async fn a_heartbeat_takes_any_body(node: TestNode) {
    let (id, ben) = node.agent("ben").await;
    let before = commits(&node);
    let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    for (kind, text) in [
        ("application/json", ""),
        ("application/json", "{}"),
        ("application/json", "null"),
        ("application/json", "[\"working_on\"]"),
        ("application/json", "{\"working_on\": "),
        ("application/json", "{\"working_on\": null, \"extra\": \"\\u0000\"}"),
        ("application/json", deep.as_str()),
        ("text/plain", "I am here"),
        ("application/x-www-form-urlencoded", "status=ok"),
    ] {
        let heard = node.post(HEARTBEAT).body(kind, text).with_key(&ben).await.expect_status(200);
        assert_eq!(heard.json, json!({ "status": "ok", "agent_id": id }), "{kind} {text}");
    }
    let packed = node.post(HEARTBEAT).header("content-encoding", "gzip").body("application/json", "\u{1f}");
    packed.with_key(&ben).await.expect_status(200);
    let idle = said(&node, &ben, HEARTBEAT, json!({ "working_on": [] })).await;
    assert_eq!(idle, json!({ "status": "ok", "agent_id": id, "extended": [], "stale": [] }));
    assert_eq!(commits(&node), before);
}

async fn a_heartbeat_names_what_is_wrong_with_its_work(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (id, ben) = node.agent("ben").await;
    let message = send(&node, &ann, "ben", "hello").await;
    let polled = poll(&node, &ben, "?lease=10").await;
    assert_eq!(polled["messages"].as_array().unwrap().len(), 1);
    let of = |work: Value| json!({ "working_on": work });
    for work in [
        json!(message),
        json!({}),
        json!(7),
        json!([7]),
        json!(["7"]),
        json!([null]),
        json!([{}]),
        json!([message, { "message_id": "7" }]),
        json!([message, { "message_id": message, "delivery_attempt": "1" }]),
        json!(["\0"]),
        json!(vec![NOBODY; 101]),
    ] {
        let refused = post(&node, &ben, HEARTBEAT, of(work.clone())).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), ["working_on"], "{work}");
    }
    assert_eq!(deliveries(&node, "leased").await.len(), 1);
    // Whatever the body is said to be: what an agent forgets to say must not cost it its lease.
    let text = of(json!(vec![message.as_str(); 100])).to_string();
    let heard = node.post(HEARTBEAT).body("application/x-www-form-urlencoded", &text).with_key(&ben).await;
    let heard = heard.expect_status(200).json;
    assert_eq!((heard["extended"].as_array().unwrap().len(), &heard["agent_id"]), (100, &json!(id)));
    node.clock.advance_ms(10_000);
    fire(&node).await;
    node.get(POLL).with_key(&ben).await.expect_status(200);
    assert_eq!(deliveries(&node, "leased").await.len(), 1, "it is leased for longer");
    assert_eq!(messages(&node, &ben, "").await, [] as [Value; 0]);
}
