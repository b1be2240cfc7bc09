//! The admin API: conversations, messages, receipts, deliveries, audit.
use clawbroker::domain::clock::Clock;
use clawbroker::domain::delivery::DeliveryState;
use clawbroker::domain::ids::{ConversationId, DeliveryId, TurnId};
use clawbroker::domain::turn::TurnState;
use clawbroker::domain::user::Role;
use clawbroker::store::turns::{BeginTurn, DeliveryEnd, EndTurn};
use serde_json::{Value, json};

use super::TestNode;
use crate::harness::test_store::answer;
use crate::harness::{Database, sql};

on_both_databases!(
    conversations_are_listed_read_and_deleted,
    a_message_is_accepted_and_has_a_receipt,
    the_log_is_read_in_both_directions_and_exported,
    dead_deliveries_are_redriven_and_removed,
    many_dead_deliveries_are_redriven_in_several_calls,
    the_audit_log_tells_who_did_what,
    a_fault_of_our_own_tells_nothing_of_itself,
    questions_wait_in_a_bounded_queue,
);

/// Makes a session and returns its conversation.
async fn session(node: &TestNode, key: &str) -> String {
    let made = node.post("/api/gateways/lab/sessions").json(&json!({ "session_key": key })).by(Role::Member).await;
    made.expect_status(200).json["id"].as_str().unwrap().to_owned()
}

async fn say(node: &TestNode, conversation: &str, text: &str) -> Value {
    let path = format!("/api/admin/conversations/{conversation}/messages");
    node.post(&path).json(&json!({ "content": text })).by(Role::Operator).await.expect_status(201).json
}

/// Hands a message's delivery to its gateway, which refuses it.
async fn refuse(node: &TestNode, accepted: &Value, started: bool) {
    let delivery_id: DeliveryId = accepted["deliveries"][0]["id"].as_str().unwrap().parse().unwrap();
    let turn_id = TurnId::new();
    node.state.store.write(BeginTurn { turn_id, delivery_id }).await.unwrap();
    let delivery = DeliveryEnd::Dead { reason: "refused".into(), started };
    let end = EndTurn { delivery, state: TurnState::Error, error: Some("refused".into()), ..answer(turn_id, "") };
    node.state.store.write(end).await.unwrap();
}

async fn conversations_are_listed_read_and_deleted(node: TestNode) {
    node.gateway("lab").await;
    node.gateway("other").await;
    let mut ids = Vec::new();
    for key in ["a", "b", "c"] {
        node.clock.advance_ms(1_000);
        ids.push(session(&node, key).await);
    }
    let first = node
        .get("/api/admin/conversations?limit=2&kind=session&gateway_id=lab")
        .by(Role::Viewer)
        .await
        .expect_status(200);
    assert_eq!(first.header("x-total-count"), "3");
    let next = first.json["next"].as_str().unwrap();
    let rest = node
        .get(&format!("/api/admin/conversations?limit=2&kind=session&gateway_id=lab&cursor={next}"))
        .by(Role::Viewer)
        .await;
    let rest = rest.expect_status(200).json;
    assert_eq!((&rest["items"][0]["id"], &rest["next"]), (&json!(ids[0]), &Value::Null));
    let none = node.get("/api/admin/conversations?gateway_id=other").by(Role::Viewer).await.expect_status(200).json;
    assert_eq!(none, json!({ "items": [], "next": null }));
    for (query, field) in [
        ("kind=x", "kind"),
        ("gateway_id=a%2Fb", "gateway_id"),
        ("owner_id=1", "owner_id"),
        ("limit=0", "limit"),
        ("x=1", "x"),
    ] {
        let refused = node
            .get(&format!("/api/admin/conversations?{query}"))
            .by(Role::Viewer)
            .await
            .expect_error(422, "validation_error");
        assert_eq!((refused.fields(), &refused.json["detail"][0]["loc"][0]), (vec![field], &json!("query")));
    }
    let one = format!("/api/admin/conversations/{}", ids[0]);
    let read = node.get(&one).by(Role::Viewer).await.expect_status(200).json;
    assert_eq!((&read["key"], &read["kind"], &read["messages"]), (&json!("a"), &json!("session"), &json!(0)));
    assert_eq!(read["parties"][0]["name"], "MEMBER");
    let gateway = json!({ "kind": "gateway", "id": "lab", "name": "Gateway lab", "read_seq": null });
    assert_eq!(read["parties"][1], gateway, "who answers takes part");
    say(&node, &ids[0], "hello").await;
    node.delete(&one).by(Role::Operator).await.expect_status(200);
    node.delete(&one).by(Role::Operator).await.expect_error(404, "not_found");
    node.get(&one).by(Role::Viewer).await.expect_error(404, "not_found");
    node.get(&format!("{one}/export")).by(Role::Operator).await.expect_error(404, "not_found");
    node.get(&format!("{one}/messages")).by(Role::Viewer).await.expect_error(404, "not_found");
    let cancelled = node.get("/api/admin/deliveries?state=cancelled").by(Role::Operator).await.expect_status(200).json;
    assert_eq!(cancelled["items"][0]["reason"], "conversation_deleted");
    let agents = node
        .post("/api/admin/conversations")
        .json(&json!({ "agent_id": "x", "user_id": null }))
        .by(Role::Operator)
        .await;
    assert_eq!(agents.expect_error(422, "validation_error").fields(), ["agent_id"]);
}

async fn a_message_is_accepted_and_has_a_receipt(node: TestNode) {
    node.gateway("lab").await;
    let conversation = session(&node, "a").await;
    let path = format!("/api/admin/conversations/{conversation}/messages");
    let send =
        |key: &'static str, body: Value| node.post(&path).header("idempotency-key", key).json(&body).by(Role::Operator);
    let accepted =
        send("m-1", json!({ "content": [{ "type": "text", "text": "hello" }] })).await.expect_status(201).json;
    assert_eq!(accepted["message"]["content"], json!([{ "type": "text", "text": "hello" }]));
    let delivery = &accepted["deliveries"][0];
    assert_eq!(
        (&delivery["state"], &delivery["recipient"]["kind"], &delivery["recipient"]["id"]),
        (&json!("pending"), &json!("gateway"), &json!("lab"))
    );
    assert_eq!(send("m-1", json!({ "content": "hello" })).await.expect_status(201).json, accepted);
    send("m-1", json!({ "content": "other" })).await.expect_error(409, "idempotency_conflict");
    let line =
        send("m-2", json!({ "content": "noted", "role": "system", "deliver": false })).await.expect_status(201).json;
    assert_eq!((&line["message"]["role"], &line["deliveries"]), (&json!("system"), &json!([])));
    for (wrong, field) in [
        (json!({}), "content"),
        (json!({ "content": "" }), "content"),
        (json!({ "content": 1 }), "content"),
        (json!({ "content": [{ "type": "video" }] }), "content"),
        (json!({ "content": "x", "role": "system" }), "role"),
        (json!({ "content": "x", "role": "marker", "deliver": false }), "role"),
        (json!({ "content": "x", "deliver": "yes" }), "deliver"),
        (json!({ "content": "x", "from": "ann" }), "from"),
    ] {
        let refused = node.post(&path).json(&wrong).by(Role::Operator).await.expect_error(422, "validation_error");
        assert_eq!(refused.fields(), [field], "{wrong}");
    }
    node.post(&path)
        .json(&json!({ "content": "x".repeat(300_000) }))
        .by(Role::Operator)
        .await
        .expect_error(413, "message_too_large");

    let id = accepted["message"]["id"].as_str().unwrap();
    let receipt =
        async || node.get(&format!("/api/admin/messages/{id}")).by(Role::Viewer).await.expect_status(200).json;
    let before = receipt().await;
    assert_eq!(
        (&before["durability"], &before["deliveries"][0]["events"][0]["what"]),
        (&json!("full"), &json!("accepted"))
    );
    let delivery_id: DeliveryId = delivery["id"].as_str().unwrap().parse().unwrap();
    let turn_id = TurnId::new();
    node.state.store.write(BeginTurn { turn_id, delivery_id }).await.unwrap();
    let sent_at = Some(node.clock.now_ms());
    node.state.store.write(EndTurn { sent_at, ..answer(turn_id, "hi there") }).await.unwrap();
    let after = receipt().await;
    let events: Vec<&str> = after["deliveries"][0]["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["what"].as_str().unwrap())
        .collect();
    assert_eq!(events, ["accepted", "stored", "leased", "sent", "completed"]);
    assert_eq!(
        (&after["deliveries"][0]["outcome"], &after["reply"]["content"][0]["text"]),
        (&json!("answered"), &json!("hi there"))
    );
    let unknown = "/api/admin/messages/01890000-0000-7000-8000-000000000000";
    node.get(unknown).by(Role::Viewer).await.expect_error(404, "not_found");
}

async fn the_log_is_read_in_both_directions_and_exported(node: TestNode) {
    node.gateway("lab").await;
    let conversation = session(&node, "a").await;
    for index in 1..=5 {
        say(&node, &conversation, &index.to_string()).await;
    }
    let base = format!("/api/admin/conversations/{conversation}/messages");
    let page = async |query: &str| node.get(&format!("{base}?{query}")).by(Role::Viewer).await;
    let seqs =
        |page: &Value| page["items"].as_array().unwrap().iter().map(|m| m["seq"].as_i64().unwrap()).collect::<Vec<_>>();
    let newest = page("limit=2").await.expect_status(200);
    assert_eq!((seqs(&newest.json), newest.header("x-total-count")), (vec![4, 5], "5"));
    let older = page(&format!("limit=2&before={}", newest.json["next"].as_str().unwrap())).await.expect_status(200);
    assert_eq!(seqs(&older.json), [2, 3]);
    let forward = page("limit=2&after=0").await.expect_status(200);
    assert_eq!(seqs(&forward.json), [1, 2]);
    let more = page(&format!("limit=3&after={}", forward.json["next"].as_str().unwrap())).await.expect_status(200).json;
    assert_eq!((seqs(&more), &more["next"]), (vec![3, 4, 5], &Value::Null));
    page("after=1&before=3").await.expect_error(422, "validation_error");
    page("after=x").await.expect_error(422, "validation_error");
    page("before=01890000-0000-7000-8000-000000000000").await.expect_error(404, "not_found");
    let export = node
        .get(&format!("/api/admin/conversations/{conversation}/export"))
        .by(Role::Operator)
        .await
        .expect_status(200);
    assert_eq!(export.header("content-type"), "application/x-ndjson");
    let lines: Vec<Value> = export.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["seq"].as_i64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let wrong = node
        .get(&format!("/api/admin/conversations/{conversation}/export"))
        .header("accept", "application/json")
        .by(Role::Operator)
        .await;
    wrong.expect_error(406, "not_acceptable");
}

async fn dead_deliveries_are_redriven_and_removed(node: TestNode) {
    node.gateway("lab").await;
    let conversation = session(&node, "a").await;
    let mut accepted = Vec::new();
    for (index, started) in [false, false, true, false].into_iter().enumerate() {
        let one = say(&node, &conversation, &index.to_string()).await;
        refuse(&node, &one, started).await;
        accepted.push(one);
    }
    let dead = node
        .get("/api/admin/deliveries?state=dead&recipient=gateway:lab&limit=3")
        .by(Role::Operator)
        .await
        .expect_status(200);
    assert_eq!((dead.json["items"].as_array().unwrap().len(), dead.header("x-total-count")), (3, "4"));
    assert_eq!(dead.json["items"][0]["reason"], "refused");
    let next = dead.json["next"].as_str().unwrap();
    let rest = node
        .get(&format!("/api/admin/deliveries?state=dead&cursor={next}"))
        .by(Role::Operator)
        .await
        .expect_status(200)
        .json;
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next"]), (1, &Value::Null));
    let none =
        node.get("/api/admin/deliveries?recipient=agent:nobody").by(Role::Operator).await.expect_status(200).json;
    assert_eq!(none["items"], json!([]));
    for query in ["state=x", "recipient=lab", "recipient=robot:lab", "older_than=soon"] {
        node.get(&format!("/api/admin/deliveries?{query}"))
            .by(Role::Operator)
            .await
            .expect_error(422, "validation_error");
    }
    let of = |index: usize| accepted[index]["deliveries"][0]["id"].as_str().unwrap();
    // One that never reached its gateway goes again; one that did could ask twice.
    let redriven =
        node.post(&format!("/api/admin/deliveries/{}/redrive", of(0))).by(Role::Operator).await.expect_status(200).json;
    assert_eq!((&redriven["state"], &redriven["attempt"]), (&json!("pending"), &json!(0)));
    node.post(&format!("/api/admin/deliveries/{}/redrive", of(0)))
        .by(Role::Operator)
        .await
        .expect_error(409, "not_leased");
    node.post(&format!("/api/admin/deliveries/{}/redrive", of(2)))
        .by(Role::Operator)
        .await
        .expect_error(409, "delivery_ended");
    let cancelled =
        node.post(&format!("/api/admin/deliveries/{}/cancel", of(0))).by(Role::Operator).await.expect_status(200).json;
    assert_eq!((&cancelled["state"], &cancelled["reason"]), (&json!("cancelled"), &json!("operator")));
    let unknown = "/api/admin/deliveries/01890000-0000-7000-8000-000000000000";
    node.post(&format!("{unknown}/cancel")).by(Role::Operator).await.expect_error(404, "not_found");
    node.post(&format!("{unknown}/redrive")).by(Role::Operator).await.expect_error(404, "not_found");
    let many =
        node.post("/api/admin/deliveries/redrive").json(&json!({ "older_than": "long ago" })).by(Role::Operator).await;
    many.expect_error(422, "validation_error");
    let many = node
        .post("/api/admin/deliveries/redrive")
        .json(&json!({ "older_than": "2000-01-01T00:00:00Z" }))
        .by(Role::Operator)
        .await;
    assert_eq!(many.expect_status(200).json, json!({ "redriven": 0, "refused": 0, "failed": 0, "more": false }));
    let many = node
        .post("/api/admin/deliveries/redrive")
        .json(&json!({ "recipient": "gateway:lab" }))
        .by(Role::Operator)
        .await;
    assert_eq!(many.expect_status(200).json, json!({ "redriven": 2, "refused": 1, "failed": 0, "more": false }));
    let counted = node.delete("/api/admin/deliveries?dry_run=true").by(Role::Operator).await.expect_status(200).json;
    assert_eq!(counted, json!({ "matching": 1, "removed": 0 }));
    node.delete("/api/admin/deliveries?state=pending").by(Role::Operator).await.expect_error(422, "validation_error");
    let removed = node.delete("/api/admin/deliveries?state=dead").by(Role::Operator).await.expect_status(200).json;
    assert_eq!(removed, json!({ "matching": 1, "removed": 1 }));
    // The message keeps how it ended.
    let id = accepted[2]["message"]["id"].as_str().unwrap();
    let receipt = node.get(&format!("/api/admin/messages/{id}")).by(Role::Viewer).await.expect_status(200).json;
    assert_eq!(
        (&receipt["deliveries"], &receipt["ended"]["state"], &receipt["ended"]["reason"]),
        (&json!([]), &json!(DeliveryState::Dead.as_str()), &json!("refused"))
    );
}

/// A call takes 500; the one after it takes the rest.
async fn many_dead_deliveries_are_redriven_in_several_calls(node: TestNode) {
    node.gateway("lab").await;
    let conversation = session(&node, "a").await;
    let one = say(&node, &conversation, "x").await;
    refuse(&node, &one, false).await;
    for _ in 0..502 {
        let one = say(&node, &conversation, "x").await;
        let id = one["deliveries"][0]["id"].as_str().unwrap();
        node.post(&format!("/api/admin/deliveries/{id}/cancel")).by(Role::Operator).await.expect_status(200);
    }
    let mut db = node.database.connect();
    sql::run(&mut db, "UPDATE deliveries SET state = 3, reason = 'refused', attempt = 1 WHERE state = 5");
    let redrive = async || {
        let many = node.post("/api/admin/deliveries/redrive").json(&json!({})).by(Role::Operator).await;
        many.expect_status(200).json
    };
    assert_eq!(redrive().await, json!({ "redriven": 500, "refused": 0, "failed": 0, "more": true }));
    assert_eq!(redrive().await, json!({ "redriven": 3, "refused": 0, "failed": 0, "more": false }));
    assert_eq!(redrive().await, json!({ "redriven": 0, "refused": 0, "failed": 0, "more": false }));
}

async fn the_audit_log_tells_who_did_what(node: TestNode) {
    node.gateway("lab").await;
    let conversation: ConversationId = session(&node, "a").await.parse().unwrap();
    let path = format!("/api/admin/conversations/{conversation}");
    let reply = node.delete(&path).header("x-request-id", "req-7").by(Role::Operator).await.expect_status(200);
    assert_eq!(reply.header("x-request-id"), "req-7");
    let rows =
        node.get(&format!("/api/admin/audit?target={conversation}")).by(Role::Viewer).await.expect_status(200).json;
    let row = &rows["items"][0];
    assert_eq!(
        (&row["actor"], &row["action"], &row["request_id"]),
        (&json!("operator"), &json!("conversation.delete"), &json!("req-7"))
    );
    assert_eq!(
        (&row["address"], &row["target_kind"], &row["after"]["key"]),
        (&json!("192.0.2.7"), &json!("conversation"), &json!("a"))
    );
    let mut seen = 0;
    let mut path = "/api/admin/audit?limit=2".to_owned();
    loop {
        let page = node.get(&path).by(Role::Viewer).await.expect_status(200).json;
        seen += page["items"].as_array().unwrap().len();
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/admin/audit?limit=2&cursor={next}");
    }
    let all = node.get("/api/admin/audit?limit=500").by(Role::Viewer).await.expect_status(200).json;
    assert_eq!(all["items"].as_array().unwrap().len(), seen);
    node.get("/api/admin/audit?cursor=x").by(Role::Viewer).await.expect_error(422, "validation_error");
}

async fn a_fault_of_our_own_tells_nothing_of_itself(node: TestNode) {
    node.gateway("lab").await;
    let conversation = session(&node, "a").await;
    say(&node, &conversation, "hello").await;
    sql::run(&mut node.database.opener().writable().unwrap(), "UPDATE messages SET blocks = '{\"c4n4ry'");
    let path = format!("/api/admin/conversations/{conversation}/messages");
    let broken = node.get(&path).by(Role::Viewer).await.expect_error(500, "internal");
    assert!(!broken.text.contains("c4n4ry") && !broken.text.contains("blocks"), "{}", broken.text);
    assert_eq!(broken.json["detail"], broken.json["error"]["message"]);
    node.get(&format!("/api/admin/conversations/{conversation}")).by(Role::Viewer).await.expect_status(200);
}

async fn questions_wait_in_a_bounded_queue(database: Database) {
    let node = TestNode::with(database, |config| config.limits.queued_per_session_max = 1);
    node.gateway("lab").await;
    let conversation = session(&node, "a").await;
    say(&node, &conversation, "first").await;
    let path = format!("/api/admin/conversations/{conversation}/messages");
    let send = |body: Value| node.post(&path).json(&body).by(Role::Operator);
    send(json!({ "content": "second" })).await.expect_error(429, "mailbox_full");
    send(json!({ "content": "only a line", "deliver": false })).await.expect_status(201);
}
