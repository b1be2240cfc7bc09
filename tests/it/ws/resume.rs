//! Coming back: after a lost socket, a restarted broker, a kill in mid-stream.
use std::rc::Rc;

use serde_json::{Value, json};

use super::connected;
use crate::harness::{Database, is_terminal};

on_both_databases!(
    resume_brings_every_missed_line_in_order,
    lines_that_come_during_a_resume_stand_behind_it,
    a_position_we_never_had_is_reset,
    joining_a_running_answer_shows_it_so_far,
    a_killed_broker_comes_back_and_finishes_the_answer,
    a_graceful_stop_sends_browsers_away_to_come_back,
    a_gateway_crash_in_mid_stream_is_recovered,
    a_long_absence_is_made_up_for_in_portions,
);

async fn resume_brings_every_missed_line_in_order(database: Database) {
    let (broker, _gateway) = connected(&database).await;
    let mut first = broker.browser("/ws/chat/gw").await;
    first.ask("a", "say: one").await;
    let seen = first.until_terminal().await["seq"].as_i64().expect("a number");
    drop(first);
    let mut other = broker.browser("/ws/chat/gw").await;
    for text in ["two", "three"] {
        other.ask("a", &format!("say: {text}")).await;
        other.until_terminal().await;
    }
    let mut back = broker.browser("/ws/chat/gw").await;
    back.send(json!({ "type": "resume", "sessionKey": "a", "after": seen })).await;
    let resumed = back.until_type("resumed").await;
    assert_eq!(resumed["lastSeq"], 6);
    let mut seqs = Vec::new();
    while seqs.len() < 4 {
        let message = back.until_type("message").await;
        seqs.push(message["message"]["seq"].as_i64().expect("a number"));
    }
    assert_eq!(seqs, [3, 4, 5, 6]);
    // And then live.
    other.ask("a", "say: four").await;
    assert_eq!(back.until_type("message").await["message"]["seq"], 7);
    assert_eq!(back.until_terminal().await["seq"], 8);
}

/// CNV-1: whatever is said while a browser comes back, it sees each line once, in order, from the one after its own.
async fn lines_that_come_during_a_resume_stand_behind_it(database: Database) {
    const RESUMES: usize = 40;
    let (broker, _gateway) = connected(&database).await;
    let (_, session) = broker.post("/api/gateways/gw/sessions", json!({ "session_key": "notes" })).await;
    let path = format!("/api/admin/conversations/{}/messages", session["id"].as_str().expect("an id"));
    let broker = Rc::new(broker);
    let writer = actix::spawn({
        let broker = broker.clone();
        async move {
            loop {
                let (status, answer) = broker.post(&path, json!({ "content": "more", "deliver": false })).await;
                assert_eq!(status, 201, "{answer}");
            }
        }
    });
    let mut last = 0;
    for _ in 0..RESUMES {
        let mut tab = broker.browser("/ws/chat/gw").await;
        tab.send(json!({ "type": "resume", "sessionKey": "notes", "after": last })).await;
        assert_eq!(tab.until_type("resumed").await["sessionKey"], "notes");
        let early = tab.seen.iter().find(|frame| frame["type"] == "message");
        assert!(early.is_none(), "before `resumed`: {early:?}");
        for _ in 0..3 {
            last += 1;
            assert_eq!(tab.until_type("message").await["message"]["seq"], last, "{}", tab.transcript());
        }
        assert!(!writer.is_finished(), "somebody writes");
    }
    writer.abort();
}

async fn a_position_we_never_had_is_reset(database: Database) {
    let (broker, _gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("a", "say: one").await;
    browser.until_terminal().await;
    for after in [99, -50] {
        browser.send(json!({ "type": "resume", "sessionKey": "a", "after": after })).await;
        let reset = browser.until_type("reset").await;
        assert_eq!((&reset["firstSeq"], &reset["lastSeq"]), (&json!(1), &json!(2)), "{reset}");
    }
    browser.send(json!({ "type": "resume", "sessionKey": "never", "after": 0 })).await;
    assert_eq!(browser.until_type("error").await["code"], "not_found");
}

async fn joining_a_running_answer_shows_it_so_far(database: Database) {
    let (broker, gateway) = connected(&database).await;
    let mut first = broker.browser("/ws/chat/gw").await;
    let ack = first.ask("a", "gate g: first half, second half").await;
    let is_whole = |text: &Value| text.as_str().is_some_and(|text| text.trim_end() == "first half,");
    let delta = first.until("all before the gate", |frame| frame["state"] == "delta" && is_whole(&frame["text"])).await;
    let mut late = broker.browser("/ws/chat/gw").await;
    late.send(json!({ "type": "subscribe", "sessionKey": "a" })).await;
    let subscribed = late.until_type("subscribed").await;
    assert_eq!(subscribed["activeRun"]["runId"], delta["runId"]);
    assert_eq!(subscribed["activeRun"]["messageId"], ack["messageId"]);
    let snapshot = late.until("a snapshot", |frame| frame["state"] == "snapshot").await;
    assert_eq!(snapshot["text"], delta["text"]);
    gateway.release("g");
    let (end, late_end) = (first.until_terminal().await, late.until_terminal().await);
    assert_eq!(end["text"], late_end["text"]);
}

async fn a_killed_broker_comes_back_and_finishes_the_answer(database: Database) {
    let (mut broker, gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("a", "gate g: before the kill, after the kill").await;
    browser.until("a delta", |frame| frame["state"] == "delta").await;
    browser.ask("a", "say: the waiting one").await;
    broker.kill();
    // What was on its way still comes.
    while browser.next().await.is_some() {}
    broker.start_again().await;
    let mut back = broker.browser("/ws/chat/gw").await;
    back.send(json!({ "type": "resume", "sessionKey": "a", "after": 2 })).await;
    back.until_type("resumed").await;
    gateway.release("g");
    let first = back.until("the first answer", |f| is_terminal(f) || f["type"] == "message").await;
    assert!(first.to_string().contains("before the kill, after the kill"), "{first}");
    let second = back.until_terminal().await;
    assert_eq!(second["text"], "the waiting one");
    let (_, messages) = broker.get("/api/gateways/gw/sessions/a/messages").await;
    let seqs: Vec<i64> = messages.as_array().expect("a list").iter().filter_map(|m| m["seq"].as_i64()).collect();
    assert_eq!(seqs, [1, 2, 3, 4], "{messages}");
    assert_eq!(gateway.rows("a").iter().filter(|row| row["role"] == "user").count(), 2, "nothing was asked twice");
}

async fn a_graceful_stop_sends_browsers_away_to_come_back(database: Database) {
    let (mut broker, _gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.until_type("connected").await;
    let (code, ()) = tokio::join!(broker.stop(), async { while browser.next().await.is_some() {} });
    assert_eq!(browser.closed, Some(1012));
    assert_eq!(code, Some(0), "{}", broker.log());
}

async fn a_gateway_crash_in_mid_stream_is_recovered(database: Database) {
    let (broker, gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("a", "say[chunks=20,ms=40]: one two three four five six seven eight nine ten").await;
    let run = browser.until("a delta", |frame| frame["state"] == "delta").await["runId"].clone();
    gateway.crash().await;
    browser.until_type("disconnected").await;
    gateway.recover("boot-2").await.expect("the port is free again");
    browser.until_type("reconnected").await;
    let end = browser.until_terminal().await;
    assert_eq!((&end["state"], &end["runId"]), (&json!("final"), &run), "the run keeps our id");
    assert_eq!(end["text"], "one two three four five six seven eight nine ten");
    assert_eq!(gateway.sends().len(), 1, "a key seen in history is never sent again");
    let is_note = |frame: &Value| frame["type"] == "message" && frame["message"]["role"] == "system";
    let system = match browser.seen.iter().find(|frame| is_note(frame)) {
        Some(found) => found.clone(),
        None => browser.until("the gateway's own note", is_note).await,
    };
    let text = system["message"]["content"][0]["text"].as_str().unwrap_or_default();
    assert!(text.starts_with("[System]"), "{system}");
    let ends: Vec<&Value> = browser.seen.iter().filter(|frame| is_terminal(frame)).collect();
    assert_eq!(ends.len(), 1, "{ends:?}");
}

async fn a_long_absence_is_made_up_for_in_portions(database: Database) {
    let (broker, _gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("a", "say: first").await;
    browser.until_terminal().await;
    let (_, session) = broker.get("/api/gateways/gw/sessions/a").await;
    let path = format!("/api/admin/conversations/{}/messages", session["id"].as_str().expect("an id"));
    // More than the outbox holds in bytes.
    let text = "x".repeat(100_000);
    for _ in 0..30 {
        let (status, answer) = broker.post(&path, json!({ "content": text, "deliver": false })).await;
        assert!((200..300).contains(&status), "{answer}");
    }
    let mut back = broker.browser("/ws/chat/gw").await;
    back.send(json!({ "type": "resume", "sessionKey": "a", "after": 0 })).await;
    back.until_type("resumed").await;
    for seq in 1..=32 {
        assert_eq!(back.until_type("message").await["message"]["seq"], seq);
    }
    // And then live, in order.
    browser.ask("a", "say: after").await;
    assert_eq!(back.until_type("message").await["message"]["seq"], 33);
    assert_eq!(back.until_terminal().await["seq"], 34);
}
