//! What became of a message, for its sender and its recipient.
use clawbroker::domain::time::iso;
use clawbroker::domain::user::Role;
use serde_json::{Value, json};

use super::{completed, deliveries, fire, messages, report, send};
use crate::harness::test_store::START_MS;
use crate::routes::{Reply, TestNode};

on_both_databases!(
    a_sender_sees_what_becomes_of_a_request,
    a_reply_is_complete_when_it_was_handed_out,
    a_reply_that_was_acknowledged_is_told_from_one_that_was_handed_out,
    another_end_is_told_by_its_events,
    nobody_sees_what_is_not_his,
    what_was_said_to_nobody_is_complete,
);

async fn read(node: &TestNode, key: &str, id: &str) -> Reply {
    node.get(&format!("/api/gateway/messages/{id}")).with_key(key).await
}

async fn receipt(node: &TestNode, key: &str, id: &str) -> Value {
    read(node, key, id).await.expect_status(200).json
}

/// What happened, in words, with the numbers of hand-outs.
fn words(receipt: &Value) -> String {
    let word = |event: &Value| match event["attempt"].as_i64() {
        Some(attempt) => format!("{}:{attempt}", event["what"].as_str().unwrap()),
        None => event["what"].as_str().unwrap().to_owned(),
    };
    receipt["events"].as_array().unwrap().iter().map(word).collect::<Vec<_>>().join(" ")
}

async fn a_sender_sees_what_becomes_of_a_request(node: TestNode) {
    let (ann_id, ann) = node.agent("ann").await;
    let (ben_id, ben) = node.agent("ben").await;
    let id = send(&node, &ann, "ben", "hello").await;
    let first = receipt(&node, &ann, &id).await;
    let expected = json!({
        "message": first["message"], "status": "pending", "durability": "full",
        "events": [{ "at": iso(START_MS), "what": "accepted" }, { "at": iso(START_MS), "what": "stored" }],
        "deliveries": [{
            "id": first["deliveries"][0]["id"], "message_id": id,
            "recipient": { "kind": "agent", "id": ben_id, "name": "ben" },
            "state": "pending", "attempt": 0, "attempts_max": 5,
            "available_at": iso(START_MS), "created_at": iso(START_MS), "events": first["events"],
        }],
    });
    assert_eq!(first, expected);
    let message = &first["message"];
    assert_eq!((&message["id"], &message["kind"], &message["role"]), (&json!(id), &json!("request"), &json!("user")));
    assert_eq!(message["sender"], json!({ "kind": "agent", "id": ann_id, "name": "ann" }));
    assert_eq!(message["session_id"], format!("gw_agent_{ann_id}_{ben_id}"));
    assert_eq!(message["content"], json!([{ "type": "text", "text": "hello" }]));
    messages(&node, &ben, "?lease=10").await;
    let leased = receipt(&node, &ann, &id).await;
    assert_eq!((leased["status"].as_str(), words(&leased).as_str()), (Some("delivered"), "accepted stored leased:1"));
    // Until when it is leased is told to whoever has it.
    let mut told = leased["deliveries"][0].clone();
    assert_eq!((&told["state"], &told["attempt"], told.get("lease_until")), (&json!("leased"), &json!(1), None));
    told["lease_until"] = json!(iso(START_MS + 10_000));
    assert_eq!(receipt(&node, &ben, &id).await["deliveries"], json!([told]));
    node.clock.advance_ms(10_000);
    fire(&node).await;
    let over = receipt(&node, &ann, &id).await;
    let told = "accepted stored leased:1 lease_over:1";
    assert_eq!((over["status"].as_str(), words(&over).as_str()), (Some("pending"), told));
    assert_eq!(report(&node, &ben, json!({ "message_id": id, "result": "Fine" })).await.0, 200);
    for key in [&ann, &ben] {
        let done = receipt(&node, key, &id).await;
        let told = "accepted stored leased:1 lease_over:1 completed";
        assert_eq!((done["status"].as_str(), words(&done).as_str()), (Some("completed"), told));
        let delivery = &done["deliveries"][0];
        assert_eq!((&delivery["outcome"], &delivery["ended_at"]), (&json!("reported"), &json!(iso(START_MS + 10_000))));
        let reply = &done["reply"];
        let expected = json!({
            "message_id": reply["message_id"], "content": "Fine", "created_at": iso(START_MS + 10_000),
        });
        assert_eq!(*reply, expected);
    }
}

async fn a_reply_is_complete_when_it_was_handed_out(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let id = send(&node, &ann, "ben", "hello").await;
    assert_eq!(report(&node, &ben, json!({ "message_id": id, "result": "Fine" })).await.0, 200);
    let reply = receipt(&node, &ben, &id).await["reply"]["message_id"].as_str().unwrap().to_owned();
    let waiting = receipt(&node, &ben, &reply).await;
    assert_eq!((waiting["status"].as_str(), words(&waiting).as_str()), (Some("pending"), "accepted stored"));
    assert_eq!(waiting["message"]["in_reply_to"], id.as_str());
    assert_eq!(messages(&node, &ann, "").await.len(), 1);
    completed(&node, 2).await;
    for key in [&ann, &ben] {
        let got = receipt(&node, key, &reply).await;
        let told = "accepted stored leased:1 completed";
        assert_eq!((got["status"].as_str(), words(&got).as_str(), got.get("reply")), (Some("completed"), told, None));
        assert_eq!(got["deliveries"][0]["outcome"], "handed_out", "nobody said that it has come: {got}");
    }
}

async fn a_reply_that_was_acknowledged_is_told_from_one_that_was_handed_out(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let id = send(&node, &ann, "ben", "hello").await;
    assert_eq!(report(&node, &ben, json!({ "message_id": id, "result": "Fine" })).await.0, 200);
    let got = messages(&node, &ann, "?ack=explicit").await;
    let reply = got[0]["id"].as_str().unwrap();
    let held = receipt(&node, &ben, reply).await;
    assert_eq!((&held["status"], &held["deliveries"][0]["state"]), (&json!("delivered"), &json!("leased")));
    let ack = json!({ "message_ids": [reply] });
    node.post("/api/gateway/ack").json(&ack).with_key(&ann).await.expect_status(200);
    let done = receipt(&node, &ben, reply).await;
    assert_eq!((&done["status"], &done["deliveries"][0]["outcome"]), (&json!("completed"), &json!("acknowledged")));
}

async fn another_end_is_told_by_its_events(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let cancelled = send(&node, &ann, "ben", "one").await;
    let pending = deliveries(&node, "pending").await;
    let path = format!("/api/admin/deliveries/{}/cancel", pending[0]["id"].as_str().unwrap());
    node.post(&path).by(Role::Operator).await.expect_status(200);
    let told = receipt(&node, &ann, &cancelled).await;
    assert_eq!((told["status"].as_str(), words(&told).as_str()), (Some("pending"), "accepted stored cancelled"));
    let dead = send(&node, &ann, "ben", "two").await;
    for _ in 0..5 {
        assert_eq!(messages(&node, &ben, "?lease=10").await.len(), 1);
        node.clock.advance_ms(10_000);
        fire(&node).await;
    }
    let told = receipt(&node, &ann, &dead).await;
    let last = told["events"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&told["deliveries"][0]["state"], &told["deliveries"][0]["reason"]), (&json!("dead"), &last["reason"]));
    assert_eq!((told["status"].as_str(), &last["what"]), (Some("delivered"), &json!("dead")));
    assert_eq!(last["reason"], "attempts");
    // The delivery is removed; how it ended is known to both still, and to nobody else.
    node.delete("/api/admin/deliveries?state=dead").by(Role::Operator).await.expect_status(200);
    for key in [&ann, &ben] {
        let told = receipt(&node, key, &dead).await;
        assert_eq!((told["status"].as_str(), words(&told).as_str()), (Some("delivered"), "accepted stored dead"));
        assert_eq!((&told["events"][2]["reason"], &told["deliveries"]), (&json!("attempts"), &json!([])));
    }
    let (_, eve) = node.agent("eve").await;
    read(&node, &eve, &dead).await.expect_error(404, "not_found");
}

async fn nobody_sees_what_is_not_his(node: TestNode) {
    let (ann_id, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let (_, eve) = node.agent("eve").await;
    let id = send(&node, &ann, "ben", "hello").await;
    for (key, id) in [(&eve, id.as_str()), (&ann, "01890000-0000-7000-8000-000000000000"), (&ann, ann_id.as_str())] {
        let refused = read(&node, key, id).await.expect_error(404, "not_found");
        assert_eq!(refused.json["detail"], format!("message `{id}` does not exist"));
    }
    assert_eq!(read(&node, &ann, "7").await.expect_error(422, "validation_error").json["detail"][0]["loc"][0], "path");
    receipt(&node, &ben, &id).await;
    // A deleted conversation takes its messages out of sight.
    let talks = node.get("/api/admin/conversations").by(Role::Operator).await.expect_status(200).json;
    let talk = format!("/api/admin/conversations/{}", talks["items"][0]["id"].as_str().unwrap());
    node.delete(&talk).by(Role::Operator).await.expect_status(200);
    for key in [&ann, &ben] {
        read(&node, key, &id).await.expect_error(404, "not_found");
    }
}

async fn what_was_said_to_nobody_is_complete(node: TestNode) {
    let (ann_id, ann) = node.agent("ann").await;
    node.gateway("lab").await;
    let session = node.post("/api/gateways/lab/sessions").json(&json!({ "session_key": "a" })).by(Role::Admin).await;
    let path = format!("/api/admin/conversations/{}/messages", session.json["id"].as_str().unwrap());
    let noted = json!({ "content": "noted", "from": format!("agent:{ann_id}"), "deliver": false });
    let said = node.post(&path).json(&noted).by(Role::Admin).await.expect_status(201).json;
    let told = receipt(&node, &ann, said["message"]["id"].as_str().unwrap()).await;
    assert_eq!((told["status"].as_str(), words(&told).as_str()), (Some("completed"), "accepted stored"));
}
