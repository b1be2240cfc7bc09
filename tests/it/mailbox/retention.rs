//! What agents hear of messages whose deliveries are gone.
use clawbroker::domain::clock::{Clock, SystemClock};
use clawbroker::store::retention::{Kept, RetainStep, Walk};
use serde_json::{Value, json};

use super::broken_off::agent;
use super::{SEND, completed, deliveries, fire, messages, report, send};
use crate::harness::{Broker, Database, sql};
use crate::routes::TestNode;

on_both_databases!(
    a_report_on_what_is_gone_is_answered_as_before,
    a_repeated_send_is_answered_whatever_is_gone,
    what_was_withdrawn_stays_unread,
    the_broker_looks_for_what_is_old_by_itself,
    the_log_and_the_steps_of_runs_go_as_well,
);

const DAY_MS: u32 = 24 * 3_600 * 1_000;

/// Lets thirty days pass, and removes what is old enough then.
async fn a_month_later(node: &TestNode) {
    node.clock.advance_ms(30 * DAY_MS + 1);
    for walk in Walk::all(Kept::Deliveries) {
        let step = RetainStep { walk, keep_ms: 30 * i64::from(DAY_MS) };
        assert_eq!(node.state.store.write_bulk(step).await.expect("a step").next, None);
    }
}

async fn what_was_withdrawn_stays_unread(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    for text in ["wrong", "right"] {
        let body = json!({ "target": "ben", "content": text, "coalesce_key": "k" });
        node.post(SEND).json(&body).with_key(&ann).await.expect_status(200);
    }
    a_month_later(&node).await;
    assert_eq!(deliveries(&node, "cancelled").await, [] as [Value; 0]);
    let asked = messages(&node, &ben, "").await;
    assert_eq!((&asked[0]["content"], &asked[0]["history"]), (&json!("right"), &json!([])));
}

/// The one that a message was sent to hears what the table of the contract says; others hear nothing.
async fn a_report_on_what_is_gone_is_answered_as_before(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let (_, eve) = node.agent("eve").await;
    let done = send(&node, &ann, "ben", "done").await;
    let given_up = send(&node, &ann, "ben", "given up").await;
    let word = |id: &Value, result: &str| json!({ "message_id": id, "result": result });
    assert_eq!(messages(&node, &ben, "?limit=1").await[0]["id"], json!(done));
    assert_eq!(report(&node, &ben, word(&json!(done), "Fine")).await.0, 200);
    for _ in 0..5 {
        assert_eq!(messages(&node, &ben, "?lease=10").await[0]["id"], json!(given_up));
        node.clock.advance_ms(10_000);
        fire(&node).await;
    }
    assert_eq!(deliveries(&node, "dead").await.len(), 1);
    let heard = messages(&node, &ann, "").await;
    let reply = heard[0]["id"].clone();
    assert_eq!(heard[0]["kind"], "reply");
    completed(&node, 1 + heard.len()).await;
    let open = send(&node, &ann, "ben", "open").await;

    a_month_later(&node).await;
    for state in ["completed", "dead"] {
        assert_eq!(deliveries(&node, state).await, [] as [Value; 0], "{state}");
    }
    assert_eq!(report(&node, &ben, word(&json!(done), "Fine")).await.0, 200);
    let other = report(&node, &ben, word(&json!(done), "Bad")).await;
    assert_eq!(other, (409, "result_conflict".to_owned()));
    let late = report(&node, &ben, word(&json!(given_up), "late")).await;
    assert_eq!(late, (409, "delivery_ended".to_owned()));
    assert_eq!(report(&node, &ann, word(&reply, "thanks")).await.0, 200, "a reply asks for no report");
    // Neither its sender, nor a third one.
    for (key, id) in [(&ann, json!(done)), (&eve, json!(done)), (&ben, reply.clone()), (&eve, reply.clone())] {
        assert_eq!(report(&node, key, word(&id, "Fine")).await, (404, "not_found".to_owned()));
    }
    // It is known as what led to a request, and as acknowledged: to those two only.
    let request = |target: &str, led: &Value| json!({ "target": target, "content": "on", "in_reply_to": led });
    for (key, to, led) in [(&ann, "ben", &reply), (&ben, "ann", &json!(done)), (&ann, "ben", &json!(done))] {
        node.post(SEND).json(&request(to, led)).with_key(key).await.expect_status(200);
    }
    for (key, to, led) in [(&eve, "ben", &reply), (&eve, "ben", &json!(done)), (&eve, "ann", &json!(given_up))] {
        node.post(SEND).json(&request(to, led)).with_key(key).await.expect_error(404, "not_found");
    }
    let all = json!({ "message_ids": [reply, done] });
    for (key, acked) in [(&ann, json!([reply])), (&ben, json!([])), (&eve, json!([]))] {
        let told = node.post("/api/gateway/ack").json(&all).with_key(key).await.expect_status(200).json;
        assert_eq!(told["acked"], acked, "{told}");
    }
    // What was open all the time is as open as before.
    assert_eq!(messages(&node, &ben, "").await[0]["id"], json!(open));
    assert_eq!(report(&node, &ben, word(&json!(open), "at last")).await.0, 200);
    assert_eq!(messages(&node, &ann, "").await.iter().filter(|one| one["kind"] == "reply").count(), 1);
}

/// D10: years later the first answer.
async fn a_repeated_send_is_answered_whatever_is_gone(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let body = json!({ "target": "ben", "content": "once", "message_id": "my-1" });
    let first = node.post(SEND).json(&body).with_key(&ann).await.expect_status(200).json;
    let asked = messages(&node, &ben, "").await;
    let word = json!({ "message_id": asked[0]["id"], "result": "Fine" });
    assert_eq!(report(&node, &ben, word).await.0, 200);
    a_month_later(&node).await;
    assert_eq!(deliveries(&node, "completed").await, [] as [Value; 0]);
    assert_eq!(node.post(SEND).json(&body).with_key(&ann).await.expect_status(200).json, first);
    assert_eq!(messages(&node, &ben, "").await, [] as [Value; 0], "nothing was sent twice");
    let other = json!({ "target": "ben", "content": "twice", "message_id": "my-1" });
    node.post(SEND).json(&other).with_key(&ann).await.expect_error(409, "idempotency_conflict");
}

/// The real binary at its start, by the settings: what it removed is counted.
async fn the_broker_looks_for_what_is_old_by_itself(database: Database) {
    let settings = database.data_dir().join("settings.toml");
    std::fs::write(&settings, "[retention]\ndeliveries_days = 2\naudit_days = 0\n").expect("a file");
    let mut broker = Broker::start(&database, &[], &[("CLAWBROKER_CONFIG", &settings.to_string_lossy())]).await;
    let mut keys = Vec::new();
    for name in ["ann", "ben"] {
        let (_, agent) = broker.post("/api/admin/agents", json!({ "name": name })).await;
        let path = format!("/api/admin/agents/{}/keys", agent["id"].as_str().expect("an id"));
        let (_, key) = broker.post(&path, json!({})).await;
        keys.push(key["api_key"].as_str().expect("a key").to_owned());
    }
    let sent = call(&broker, SEND, &keys[0], &json!({ "target": "ben", "content": "hello" })).await;
    let report = json!({ "message_id": sent["message_id"], "result": "Fine" });
    assert_eq!(call(&broker, super::REPORT, &keys[1], &report).await["status"], "ok");
    assert_eq!(broker.stop().await, Some(0));
    // Three days ago, but for the reply, which is open; the rows of the log are as old.
    let old = 3 * i64::from(DAY_MS);
    sql::run(
        &mut database.connect(),
        &format!(
            "UPDATE deliveries SET created_at = created_at - {old}, ended_at = ended_at - {old} WHERE state = 2; \
             UPDATE audit SET \"at\" = \"at\" - {old}"
        ),
    );
    let rows = sql::number(&mut database.connect(), "SELECT count(*) AS value FROM audit");
    broker.start_again().await;
    let text = until_removed(&broker, "deliveries", 1).await;
    assert!(text.contains(&removed("audit", 0)), "{text}");
    assert_eq!(call(&broker, super::REPORT, &keys[1], &report).await["status"], "ok");
    assert_eq!(broker.stop().await, Some(0));
    let mut db = database.connect();
    assert_eq!(sql::number(&mut db, "SELECT count(*) AS value FROM deliveries"), 1, "the reply is open");
    assert!(sql::number(&mut db, "SELECT count(*) AS value FROM audit") >= rows, "0 days are for ever");
}

/// The same for rows of the audit log, and for what a run did on its way.
async fn the_log_and_the_steps_of_runs_go_as_well(database: Database) {
    let settings = database.data_dir().join("settings.toml");
    std::fs::write(&settings, "[retention]\ndeliveries_days = 0\naudit_days = 2\nruns_days = 2\n").expect("a file");
    let mut broker = Broker::start(&database, &[], &[("CLAWBROKER_CONFIG", &settings.to_string_lossy())]).await;
    let (ann, _) = (agent(&broker, "ann").await, agent(&broker, "ben").await);
    // It is as young as it looks: the clock can be trusted.
    call(&broker, SEND, &ann, &json!({ "target": "ben", "content": "hello" })).await;
    assert_eq!(broker.stop().await, Some(0));
    let old = SystemClock.now_ms() - 3 * i64::from(DAY_MS);
    let mut db = database.connect();
    let [turn, first, second] =
        [b"0500000000000001", b"1000000000000001", b"1000000000000002"].map(|id| sql::bytes(&db, id));
    sql::run(
        &mut db,
        &format!(
            "INSERT INTO turns (id, conversation_id, upstream_run_id, state, text, started_at, ended_at) \
             SELECT {turn}, id, 'run', 5, '', {old}, {old} FROM conversations WHERE kind = 2; \
             INSERT INTO steps (id, turn_id, n, kind, text, said_at, created_at) \
             VALUES ({first}, {turn}, 1, 1, 'ls', {old}, {old}), ({second}, {turn}, 2, 2, 'a file', {old}, {old}); \
             UPDATE audit SET \"at\" = {old}"
        ),
    );
    let rows = sql::number(&mut db, "SELECT count(*) AS value FROM audit");
    assert!(rows > 0);
    drop(db);
    broker.start_again().await;
    until_removed(&broker, "audit", rows).await;
    let text = until_removed(&broker, "steps", 2).await;
    assert!(text.contains(&removed("deliveries", 0)), "{text}");
    assert_eq!(broker.stop().await, Some(0));
    let mut db = database.connect();
    let rows_of_then = format!("audit WHERE \"at\" <= {old}");
    for (rows, left) in [(rows_of_then.as_str(), 0), ("steps", 0), ("turns", 1), ("deliveries", 1)] {
        assert_eq!(sql::number(&mut db, &format!("SELECT count(*) AS value FROM {rows}")), left, "{rows}");
    }
}

/// How `/metrics` says that so many rows of a kind were removed.
fn removed(rows: &str, count: i64) -> String {
    format!("clawbroker_retention_rows_removed_total{{rows=\"{rows}\"}} {count}\n")
}

/// Waits until so many rows of a kind were removed; returns all metrics of that time.
async fn until_removed(broker: &Broker, rows: &str, count: i64) -> String {
    let began = tokio::time::Instant::now();
    loop {
        let (_, text) = broker.get("/metrics").await;
        let text = text.as_str().expect("a text");
        if text.contains(&removed(rows, count)) {
            return text.to_owned();
        }
        assert!(began.elapsed().as_secs() < 30, "{text}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Calls the real binary by an agent's key.
async fn call(broker: &Broker, path: &str, key: &str, body: &Value) -> Value {
    let request = awc::Client::new().post(format!("http://{}{path}", broker.address));
    let request = request.timeout(std::time::Duration::from_secs(20)).insert_header(("X-Api-Key", key));
    let mut answer = request.send_json(body).await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200, "{path}");
    answer.json().await.expect("JSON")
}
