//! What agents ask each other, and what comes back.
use std::sync::atomic::Ordering;

use clawbroker::domain::time::iso;
use clawbroker::domain::user::Role;
use clawbroker::store::deliveries::FireDue;
use serde_json::{Value, json};

use super::{POLL, REPORT, SEND, completed, deliveries, fire, messages, poll, report, send};
use crate::harness::Database;
use crate::harness::test_store::START_MS;
use crate::routes::TestNode;

on_both_databases!(
    a_question_is_asked_and_answered,
    the_ancestors_client_gets_each_message_once,
    a_message_comes_again_when_its_lease_is_over,
    a_report_counts_for_its_hand_out_only,
    an_explicit_ack_is_waited_for,
    nobody_reports_on_what_is_not_his,
    a_poll_takes_no_more_than_it_asked_for,
    each_message_comes_with_the_lines_before_it,
    nobody_reads_what_was_not_for_it,
    a_mailbox_is_read_again_after_it_has_left_memory,
    a_paused_agent_gets_nothing_until_it_runs_again,
    a_poll_for_the_head_alone_takes_nothing,
    polls_that_find_nothing_touch_no_disk,
);

const NOBODY: &str = "01890000-0000-7000-8000-000000000000";

async fn a_question_is_asked_and_answered(node: TestNode) {
    let (ann_id, ann) = node.agent("ann").await;
    let (ben_id, ben) = node.agent("ben").await;
    let body = json!({ "target": "ben", "content": "  How are you? ", "extra": true });
    let sent = node.post(SEND).json(&body).with_key(&ann).await.expect_status(200).json;
    let id = sent["message_id"].as_str().unwrap();
    let told = "Message sent to ben. Reply will appear in your next poll.";
    let accepted = json!({
        "status": "accepted", "target": "ben", "type": "openclaw_agent", "message": told, "message_id": id,
    });
    assert_eq!(sent, accepted);
    let polled = poll(&node, &ben, "").await;
    let question = &polled["messages"][0];
    let expected = json!({
        "id": id, "conversation_id": format!("gw_agent_{ann_id}_{ben_id}"), "sender_agent_name": "ann",
        "sender_user_name": null, "sender_user_id": null, "content": "How are you?", "created_at": iso(START_MS),
        "history": [], "delivery_attempt": 1, "lease_until": iso(START_MS + 3_600_000), "kind": "request",
        "in_reply_to": null, "hops": question["hops"],
    });
    assert_eq!(*question, expected);
    assert!(question["hops"].is_i64(), "{question}");
    let rest = json!({
        "messages": [expected], "relationships": [], "relationships_version": polled["relationships_version"],
        "remaining": 0, "paused": false,
    });
    assert_eq!(polled, rest);
    let done = node.post(REPORT).json(&json!({ "message_id": id, "result": "Fine" })).with_key(&ben).await;
    assert_eq!(done.expect_status(200).json, json!({ "status": "ok" }));
    let replies = messages(&node, &ann, "").await;
    let reply = &replies[0];
    assert_eq!((replies.len(), &reply["content"], &reply["kind"]), (1, &json!("Fine"), &json!("reply")));
    assert_eq!((&reply["sender_agent_name"], &reply["in_reply_to"]), (&json!("ben"), &json!(id)));
    assert_eq!(reply["conversation_id"], question["conversation_id"]);
    let before = json!([{
        "role": "user", "content": "How are you?", "sender_name": "ann", "created_at": iso(START_MS),
    }]);
    assert_eq!(reply["history"], before);
}

/// Word for word what an agent of the ancestor does: a poll each half hour, no query, no ack, no report on replies.
async fn the_ancestors_client_gets_each_message_once(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let later = async |minutes: u32| {
        node.clock.advance_ms(minutes * 60_000);
        fire(&node).await;
    };
    let texts = |polled: &[Value]| -> Vec<String> {
        polled.iter().map(|message| message["content"].as_str().unwrap().to_owned()).collect()
    };
    for text in ["one", "two", "three"] {
        send(&node, &ann, "ben", text).await;
    }
    let asked = messages(&node, &ben, "").await;
    assert_eq!(texts(&asked), ["one", "two", "three"]);
    // Its next poll comes while it still works: what it has is leased for an hour.
    later(30).await;
    for key in [&ann, &ben] {
        assert_eq!(messages(&node, key, "").await, [] as [Value; 0]);
    }
    send(&node, &ann, "ben", "four").await;
    later(1).await;
    for message in &asked {
        let result = format!("{} done", message["content"].as_str().unwrap());
        let body = json!({ "message_id": message["id"], "result": result });
        assert_eq!(report(&node, &ben, body.clone()).await.0, 200);
        // A repeat, as after a lost answer, sends nothing twice.
        assert_eq!(report(&node, &ben, body).await.0, 200);
    }
    later(29).await;
    assert_eq!(texts(&messages(&node, &ann, "").await), ["one done", "two done", "three done"]);
    let more = messages(&node, &ben, "").await;
    assert_eq!((texts(&more), &more[0]["delivery_attempt"]), (vec!["four".to_owned()], &json!(1)));
    completed(&node, 6).await;
    // The fourth takes longer: its report comes a minute before its lease is over.
    later(59).await;
    let body = json!({ "message_id": more[0]["id"], "result": "four done" });
    assert_eq!(report(&node, &ben, body).await.0, 200);
    later(1).await;
    assert_eq!(texts(&messages(&node, &ann, "").await), ["four done"]);
    completed(&node, 8).await;
    for _ in 0..6 {
        later(30).await;
        for key in [&ann, &ben] {
            assert_eq!(messages(&node, key, "").await, [] as [Value; 0]);
        }
    }
}

async fn a_message_comes_again_when_its_lease_is_over(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let id = send(&node, &ann, "ben", "hello").await;
    for attempt in 1..=5 {
        let polled = messages(&node, &ben, "?lease=10").await;
        assert_eq!((&polled[0]["id"], &polled[0]["delivery_attempt"]), (&json!(id), &json!(attempt)));
        let until = polled[0]["lease_until"].as_str().unwrap();
        assert_eq!(until, iso(START_MS + i64::from(attempt) * 10_000));
        node.clock.advance_ms(9_999);
        fire(&node).await;
        assert_eq!(messages(&node, &ben, "").await, [] as [Value; 0], "the lease still lasts");
        node.clock.advance_ms(1);
        fire(&node).await;
    }
    assert_eq!(messages(&node, &ben, "").await, [] as [Value; 0], "five hand-outs are enough");
    assert_eq!(deliveries(&node, "dead").await.len(), 1);
    // Whoever asked is told so.
    let told = messages(&node, &ann, "").await;
    let notice = &told[0];
    assert_eq!((told.len(), &notice["kind"], &notice["in_reply_to"]), (1, &json!("notice"), &json!(id)));
    assert_eq!(notice["content"], "Your request to ben was not handled: nobody reported on it (attempts: 5)");
    assert_eq!((&notice["sender_agent_name"], &notice["sender_user_name"]), (&Value::Null, &Value::Null));
    assert_eq!(notice["hops"], 1);
    // What was done all the same is not lost.
    let body = json!({ "message_id": id, "result": "late" });
    assert_eq!(report(&node, &ben, body).await.0, 200);
    assert_eq!(messages(&node, &ann, "").await[0]["content"], "late");
}

async fn a_report_counts_for_its_hand_out_only(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let id = send(&node, &ann, "ben", "hello").await;
    messages(&node, &ben, "?lease=10").await;
    node.clock.advance_ms(10_000);
    fire(&node).await;
    assert_eq!(messages(&node, &ben, "").await[0]["delivery_attempt"], 2);
    let body = |attempt: i32, result: &str| json!({ "message_id": id, "result": result, "delivery_attempt": attempt });
    let code = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(report(&node, &ben, body(1, "a")).await, code(409, "stale_attempt"));
    assert_eq!(report(&node, &ben, body(3, "a")).await, code(422, "validation_error"));
    assert_eq!(report(&node, &ben, body(2, "")).await, code(422, "validation_error"));
    let with_nul = node.post(REPORT).json(&body(2, "a\0b")).with_key(&ben).await;
    assert_eq!(with_nul.expect_error(422, "validation_error").fields(), ["result"]);
    let long = "x".repeat((256 << 10) + 1);
    assert_eq!(report(&node, &ben, body(2, &long)).await, code(413, "message_too_large"));
    assert_eq!(report(&node, &ben, body(2, "a")).await.0, 200);
    assert_eq!(report(&node, &ben, body(1, "a")).await.0, 200);
    assert_eq!(report(&node, &ben, body(2, "b")).await, code(409, "result_conflict"));
    assert_eq!(messages(&node, &ann, "").await.len(), 1);
}

async fn an_explicit_ack_is_waited_for(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let id = send(&node, &ann, "ben", "hello").await;
    assert_eq!(report(&node, &ben, json!({ "message_id": id, "result": "done" })).await.0, 200);
    assert_eq!(messages(&node, &ann, "?ack=explicit&lease=10").await.len(), 1);
    node.clock.advance_ms(10_000);
    fire(&node).await;
    let again = messages(&node, &ann, "").await;
    assert_eq!((again.len(), &again[0]["delivery_attempt"]), (1, &json!(2)));
    // Without it the reply is complete now.
    completed(&node, 2).await;
    node.get(&format!("{POLL}?ack=perhaps")).with_key(&ann).await.expect_error(422, "validation_error");
}

async fn nobody_reports_on_what_is_not_his(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let (_, eve) = node.agent("eve").await;
    let id = send(&node, &ann, "ben", "hello").await;
    for (key, id) in [(&eve, id.as_str()), (&ann, id.as_str()), (&ben, NOBODY)] {
        let body = json!({ "message_id": id, "result": "mine" });
        let refused = node.post(REPORT).json(&body).with_key(key).await.expect_error(404, "not_found");
        assert_eq!(refused.json["detail"], "Message not found");
    }
    let wrong = json!({ "message_id": "7", "result": "x" });
    assert_eq!(report(&node, &ben, wrong).await.0, 422);
    assert_eq!(messages(&node, &eve, "").await, [] as [Value; 0]);
    assert_eq!(messages(&node, &ben, "").await.len(), 1);
}

async fn a_poll_takes_no_more_than_it_asked_for(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    for _ in 0..25 {
        send(&node, &ann, "ben", &"x".repeat(600)).await;
    }
    let size = |polled: &Value| (polled["messages"].as_array().unwrap().len(), polled["remaining"].as_u64().unwrap());
    assert_eq!(size(&poll(&node, &ben, "?limit=3").await), (3, 22));
    assert_eq!(size(&poll(&node, &ben, "?max_bytes=1024").await), (1, 21), "two would be too long");
    assert_eq!(size(&poll(&node, &ben, "").await), (20, 1));
    let last = poll(&node, &ben, "").await;
    assert_eq!(size(&last), (1, 0));
    let history = last["messages"][0]["history"].as_array().unwrap();
    assert_eq!(history.len(), 10, "the lines before it, and no more");
    poll(&node, &ben, "?max_bytes=4194305").await;
    for wrong in ["?limit=0", "?limit=101", "?wait=61", "?lease=9", "?max_bytes=1"] {
        node.get(&format!("{POLL}{wrong}")).with_key(&ben).await.expect_error(422, "validation_error");
    }
}

async fn each_message_comes_with_the_lines_before_it(database: Database) {
    let node = TestNode::with(database, |config| config.mailbox.history_lines = 2);
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let (_, eve) = node.agent("eve").await;
    for text in ["1", "2", "3", "4", "5"] {
        send(&node, &ann, "ben", text).await;
    }
    // In another conversation.
    send(&node, &eve, "ben", "a").await;
    let said = |polled: &[Value]| -> Vec<(String, Vec<String>)> {
        let text = |line: &Value| line["content"].as_str().unwrap().to_owned();
        let before =
            |message: &Value| -> Vec<String> { message["history"].as_array().unwrap().iter().map(text).collect() };
        let mut said: Vec<_> = polled.iter().map(|message| (text(message), before(message))).collect();
        said.sort();
        said
    };
    let expected = |list: &[(&str, &[&str])]| -> Vec<(String, Vec<String>)> {
        let owned = |texts: &[&str]| -> Vec<String> { texts.iter().map(|text| (*text).to_owned()).collect() };
        list.iter().map(|&(text, before)| (text.to_owned(), owned(before))).collect()
    };
    let first = messages(&node, &ben, "?lease=10").await;
    let close: [(&str, &[&str]); 6] =
        [("1", &[]), ("2", &["1"]), ("3", &["1", "2"]), ("4", &["2", "3"]), ("5", &["3", "4"]), ("a", &[])];
    assert_eq!(said(&first), expected(&close));
    // Those that come again are far from each other.
    for message in first.iter().filter(|message| ["2", "3", "4"].contains(&message["content"].as_str().unwrap())) {
        let body = json!({ "message_id": message["id"], "result": "done" });
        assert_eq!(report(&node, &ben, body).await.0, 200);
    }
    node.clock.advance_ms(10_000);
    fire(&node).await;
    send(&node, &ann, "ben", "6").await;
    let far: [(&str, &[&str]); 4] = [("1", &[]), ("5", &["3", "4"]), ("6", &["done", "done"]), ("a", &[])];
    assert_eq!(said(&messages(&node, &ben, "").await), expected(&far));
}

async fn a_mailbox_is_read_again_after_it_has_left_memory(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    send(&node, &ann, "ben", "one").await;
    assert_eq!(messages(&node, &ben, "?limit=1").await[0]["content"], "one");
    send(&node, &ann, "ben", "two").await;
    node.state.directory.agents().cards().stop_all();
    send(&node, &ann, "ben", "three").await;
    let polled = messages(&node, &ben, "").await;
    let texts: Vec<&Value> = polled.iter().map(|message| &message["content"]).collect();
    assert_eq!(texts, ["two", "three"], "and what is leased stays so");
}

async fn a_paused_agent_gets_nothing_until_it_runs_again(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (id, ben) = node.agent("ben").await;
    let one = format!("/api/admin/agents/{id}");
    for status in ["paused", "stopped"] {
        node.patch(&one).json(&json!({ "status": status })).by(Role::Operator).await.expect_status(200);
        send(&node, &ann, "ben", status).await;
        let polled = poll(&node, &ben, "").await;
        assert_eq!((&polled["messages"], &polled["paused"]), (&json!([]), &json!(true)));
    }
    node.patch(&one).json(&json!({ "status": "running" })).by(Role::Operator).await.expect_status(200);
    let polled = poll(&node, &ben, "").await;
    assert_eq!((polled["messages"].as_array().unwrap().len(), &polled["paused"]), (2, &json!(false)));
}

async fn a_poll_for_the_head_alone_takes_nothing(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    send(&node, &ann, "ben", "hello").await;
    let head = node.call(actix_web::http::Method::HEAD, POLL).with_key(&ben).await;
    let refused = head.expect_status(405);
    assert_eq!(refused.header("allow"), "GET");
    assert_eq!(messages(&node, &ben, "").await[0]["delivery_attempt"], 1);
}

async fn polls_that_find_nothing_touch_no_disk(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    send(&node, &ann, "ben", "hello").await;
    assert_eq!(messages(&node, &ben, "").await.len(), 1);
    assert_eq!(messages(&node, &ann, "").await.len(), 0);
    let commits = || node.state.store.writer().stats().commits_total.load(Ordering::Relaxed);
    let before = commits();
    assert!(before > 0);
    // Nor do they read anything.
    let held = node.hold_readers().await;
    for _ in 0..500 {
        for key in [&ann, &ben] {
            assert_eq!(poll(&node, key, "").await["messages"], json!([]));
            node.post("/api/gateway/heartbeat").with_key(key).await.expect_status(200);
        }
    }
    assert_eq!(commits(), before);
    held.let_go().await;
    send(&node, &ann, "ben", "again").await;
    assert_eq!(messages(&node, &ben, "").await.len(), 1, "a quiet mailbox hears of what comes");
}

async fn nobody_reads_what_was_not_for_it(node: TestNode) {
    let (_, ann) = node.agent("ann").await;
    let (_, ben) = node.agent("ben").await;
    let ask = async |content: &str, options: Value| {
        let mut body = options;
        body["target"] = json!("ben");
        body["content"] = json!(content);
        node.post(SEND).json(&body).with_key(&ann).await.expect_status(200);
    };
    let history = |message: &Value| -> Vec<String> {
        let text = |line: &Value| line["content"].as_str().unwrap().to_owned();
        message["history"].as_array().unwrap().iter().map(text).collect()
    };
    ask("late", json!({ "ttl_seconds": 60 })).await;
    node.clock.advance_ms(60_000);
    let ids = vec![deliveries(&node, "pending").await[0]["id"].as_str().unwrap().parse().unwrap()];
    node.state.store.write(FireDue { ids }).await.expect("what is due moves");
    for text in ["wrong", "right"] {
        ask(text, json!({ "coalesce_key": "k" })).await;
    }
    // Neither what she took back, nor what came too late, nor what she was told of it.
    let asked = messages(&node, &ben, "").await;
    assert_eq!((asked.len(), &asked[0]["content"], history(&asked[0])), (1, &json!("right"), vec![]));
    assert_eq!(report(&node, &ben, json!({ "message_id": asked[0]["id"], "result": "done" })).await.0, 200);
    // It was her who said all of it, and who was told.
    let told = messages(&node, &ann, "").await;
    let kinds: Vec<&Value> = told.iter().map(|message| &message["kind"]).collect();
    assert_eq!(kinds, [&json!("notice"), &json!("reply")]);
    let notice = told[0]["content"].as_str().unwrap();
    assert_eq!(history(&told[1]), ["late", notice, "wrong", "right"]);
    ask("next", json!({})).await;
    let next = &messages(&node, &ben, "").await[0];
    assert_eq!(history(next), ["right", "done"]);
    report(&node, &ben, json!({ "message_id": next["id"], "result": "yes" })).await;
    // What is left out takes no line's place.
    for n in 0..=10 {
        ask(&n.to_string(), json!({ "coalesce_key": "k" })).await;
    }
    assert_eq!(history(&messages(&node, &ben, "").await[0]), ["right", "done", "next", "yes"]);
}
