//! Chat through the broker: order, tabs, queues, idempotency, thinking, what a browser hears and what it does not.
use std::time::Duration;

use serde_json::{Value, json};

use super::connected;
use crate::harness::{Database, is_terminal};

on_both_databases!(
    two_tabs_agree_and_a_neighbour_hears_nothing,
    questions_are_answered_one_at_a_time_and_in_order,
    a_receipt_tells_that_the_gateway_took_the_question,
    a_repeated_key_gets_the_first_acknowledgement,
    an_answer_behind_a_tool_is_whole,
    thinking_is_removed_from_deltas_and_from_the_answer,
    increments_add_up_to_the_answer,
    questions_wait_for_a_gateway_that_is_away,
    a_question_that_must_not_wait_is_refused_and_not_stored,
    foreign_runs_are_shown_and_kept,
    what_was_said_before_us_is_imported_above,
    wrong_frames_are_answered_and_the_socket_lives,
    a_wrong_frame_keeps_its_names_on_a_federated_socket,
    deleting_a_session_ends_everything_in_it,
    a_lost_gateway_connection_is_told_and_loses_nothing,
    an_abort_that_comes_too_late_leaves_the_next_question_alone,
);

async fn two_tabs_agree_and_a_neighbour_hears_nothing(database: Database) {
    let (broker, _gateway) = connected(&database).await;
    let mut tab = broker.browser("/ws/chat/gw").await;
    let mut other_tab = broker.browser("/ws/chat/gw").await;
    let mut neighbour = broker.browser("/ws/chat/gw").await;
    other_tab.send(json!({ "type": "subscribe", "sessionKey": "a" })).await;
    other_tab.until_type("subscribed").await;
    neighbour.send(json!({ "type": "subscribe", "sessionKey": "b" })).await;
    neighbour.until_type("subscribed").await;
    let ack = tab.ask("a", "say[chunks=6,ms=5]: the same for both").await;
    assert_eq!((&ack["state"], &ack["seq"]), (&json!("sent"), &json!(1)), "{ack}");
    let end = tab.until_terminal().await;
    let message = other_tab.until_type("message").await;
    assert_eq!((&message["message"]["id"], &message["message"]["seq"]), (&ack["messageId"], &json!(1)));
    let other_end = other_tab.until_terminal().await;
    for field in ["text", "messageId", "seq", "runId"] {
        assert_eq!(end[field], other_end[field], "{field}");
    }
    assert_eq!(end["seq"], 2);
    neighbour.send(json!({ "type": "ping" })).await;
    neighbour.until_type("pong").await;
    let heard: Vec<&Value> = neighbour.seen.iter().filter(|frame| frame["sessionKey"] == "a").collect();
    assert!(heard.is_empty(), "{heard:?}");
}

async fn questions_are_answered_one_at_a_time_and_in_order(database: Database) {
    let (broker, gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    for index in 0..5 {
        // The first is not answered before all have been taken.
        let command = if index == 0 { "gate g" } else { "say[chunks=2,ms=5]" };
        let message = format!("{command}: answer {index}");
        browser.send(json!({ "type": "chat", "sessionKey": "a", "message": message })).await;
    }
    for _ in 0..5 {
        browser.until_type("ack").await;
    }
    gateway.release("g");
    let mut ends = Vec::new();
    while ends.len() < 5 {
        ends.push(browser.until_terminal().await["text"].clone());
    }
    assert_eq!(ends, (0..5).map(|index| json!(format!("answer {index}"))).collect::<Vec<_>>());
    let acks: Vec<&Value> = browser.seen.iter().filter(|frame| frame["type"] == "ack").collect();
    assert_eq!(acks.len(), 5);
    assert_eq!(acks[0]["state"], "sent");
    assert!(acks[1..].iter().all(|ack| ack["state"] == "queued"), "{acks:?}");
    // Each that waited is told when it went out.
    let sent = browser.seen.iter().filter(|frame| frame["type"] == "delivery" && frame["state"] == "sent").count();
    assert_eq!(sent, 4);
    // The gateway never had two questions of one session at a time: its answers were not merged.
    let answers: Vec<Value> = gateway.rows("a").into_iter().filter(|row| row["role"] == "assistant").collect();
    assert_eq!(answers.len(), 5, "{answers:?}");
}

async fn a_receipt_tells_that_the_gateway_took_the_question(database: Database) {
    let (broker, gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    let ack = browser.ask("a", "gate g: one two").await;
    let path = format!("/api/admin/messages/{}", ack["messageId"].as_str().expect("an id"));
    let receipt = async || {
        let (_, receipt) = broker.get(&path).await;
        let events = receipt["deliveries"][0]["events"].as_array().cloned().unwrap_or_default();
        let what: Vec<String> = events.iter().filter_map(|event| event["what"].as_str()).map(str::to_owned).collect();
        (what, events.into_iter().find(|event| event["what"] == "sent"))
    };
    // While the answer is under way already.
    let began = tokio::time::Instant::now();
    let sent = loop {
        let (what, sent) = receipt().await;
        if let Some(sent) = sent {
            break sent;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the receipt does not tell of `sent`: {what:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((&sent["attempt"], sent["at"].is_string()), (&json!(1), true), "{sent}");
    gateway.release("g");
    browser.until_terminal().await;
    let (what, again) = receipt().await;
    assert_eq!((what.join(" ").as_str(), again), ("accepted stored leased sent completed", Some(sent)));
    // A short answer brings it along.
    let ack = browser.ask("a", "say: short").await;
    browser.until_terminal().await;
    let (_, receipt) = broker.get(&format!("/api/admin/messages/{}", ack["messageId"].as_str().expect("an id"))).await;
    assert_eq!(receipt["deliveries"][0]["events"][3]["what"], "sent", "{receipt}");
}

async fn a_repeated_key_gets_the_first_acknowledgement(database: Database) {
    let (broker, gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    let frame = json!({ "type": "chat", "sessionKey": "a", "message": "say: once", "idempotencyKey": "k1" });
    browser.send(frame.clone()).await;
    let first = browser.until_type("ack").await;
    assert_eq!(first["idempotencyKey"], "k1");
    browser.until_terminal().await;
    browser.send(frame).await;
    let second = browser.until_type("ack").await;
    assert_eq!(first["messageId"], second["messageId"]);
    browser.send(json!({ "type": "chat", "sessionKey": "a", "message": "say: other", "idempotencyKey": "k1" })).await;
    let refused = browser.until_type("error").await;
    assert_eq!((&refused["code"], &refused["idempotencyKey"]), (&json!("idempotency_conflict"), &json!("k1")));
    assert_eq!(gateway.sends().len(), 1, "upstream it was asked once");
    // Also while the gateway is away, and by somebody who does not want to wait.
    gateway.stop_listening().await;
    gateway.kill();
    browser.until_type("disconnected").await;
    let mut again = broker.browser("/ws/chat/gw").await;
    let mut chat = async |session: &str, key: &str| {
        let frame = json!({ "type": "chat", "sessionKey": session, "message": "say: once", "idempotencyKey": key,
            "queue": false });
        again.send(frame).await;
        again.until("an answer", |frame| frame["type"] == "ack" || frame["type"] == "error").await
    };
    assert_eq!(chat("a", "k1").await["messageId"], first["messageId"]);
    assert_eq!(chat("a", "k2").await["code"], "gateway_unavailable");
    assert_eq!(chat("b", "k1").await["code"], "gateway_unavailable");
    let (_, sessions) = broker.get("/api/gateways/gw/sessions").await;
    assert_eq!(sessions.as_array().map(Vec::len), Some(1), "what is refused makes no session: {sessions}");
}

async fn an_answer_behind_a_tool_is_whole(database: Database) {
    let (broker, _gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    // The gateway takes back what it has streamed, and its last event repeats no more than 4,096 characters.
    for length in [1, 9_000] {
        let arguments = json!({ "at": "x".repeat(length) });
        browser.ask("a", &format!("tool look {arguments}")).await;
        let end = browser.until_terminal().await;
        let answer = format!("tool result: sample result of look with {arguments}");
        assert_eq!((&end["state"], &end["text"]), (&json!("final"), &json!(answer)));
    }
    browser.ask("a", "empty").await;
    assert_eq!(browser.until_terminal().await["text"], "");
    let (status, lines) = broker.get("/api/gateways/gw/sessions/a/messages?limit=50").await;
    assert_eq!(status, 200, "{lines}");
    let is_answer = |line: &&Value| line["role"] == "assistant" && line.to_string().contains("tool result: sample");
    assert_eq!(lines.as_array().expect("a list").iter().filter(is_answer).count(), 2, "each once: {lines}");
}

async fn thinking_is_removed_from_deltas_and_from_the_answer(database: Database) {
    let (broker, _gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("a", "think: the visible answer").await;
    let end = browser.until_terminal().await;
    assert_eq!(end["text"], "the visible answer");
    let leaked = browser
        .seen
        .iter()
        .filter(|frame| frame["type"] == "stream")
        .any(|frame| frame["text"].as_str().is_some_and(|text| text.contains("think") || text.contains("about:")));
    assert!(!leaked, "{}", browser.transcript());
    browser.send(json!({ "type": "history", "sessionKey": "a" })).await;
    let history = browser.until_type("history").await;
    assert_eq!(history["messages"][1]["content"], json!([{ "type": "text", "text": "the visible answer" }]));
}

async fn increments_add_up_to_the_answer(database: Database) {
    let (broker, _gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw?deltas=increment").await;
    browser.ask("a", "say[chunks=12,ms=5]: grüße 👨‍👩‍👧 und mehr, in vielen kleinen Stücken").await;
    let end = browser.until_terminal().await;
    let mut text = String::new();
    for frame in browser.seen.iter().filter(|frame| frame["type"] == "stream") {
        match frame["state"].as_str() {
            Some("delta") => {
                let at = text.encode_utf16().count();
                assert_eq!(frame["at"], json!(at), "{frame}");
                text.push_str(frame["text"].as_str().expect("a text"));
            }
            Some("snapshot") => text = frame["text"].as_str().expect("a text").to_owned(),
            _ => {}
        }
    }
    assert_eq!(json!(text), end["text"]);
    let numbers: Vec<i64> =
        browser.seen.iter().filter(|frame| frame["type"] == "stream").filter_map(|frame| frame["n"].as_i64()).collect();
    assert_eq!(numbers, (1..=numbers.len() as i64).collect::<Vec<_>>(), "n counts the run's frames on this socket");
}

async fn questions_wait_for_a_gateway_that_is_away(database: Database) {
    let (broker, gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.until_type("connected").await;
    gateway.stop_listening().await;
    gateway.kill();
    browser.until_type("disconnected").await;
    let ack = browser.ask("a", "say: later").await;
    assert_eq!(ack["state"], "queued");
    gateway.listen_again().await.expect("the port is free again");
    browser.until_type("reconnected").await;
    let end = browser.until_terminal().await;
    assert_eq!(end["text"], "later");
    assert!(
        browser
            .seen
            .iter()
            .any(|f| f["type"] == "delivery" && f["state"] == "sent" && f["messageId"] == ack["messageId"])
    );
}

async fn a_question_that_must_not_wait_is_refused_and_not_stored(database: Database) {
    let (broker, gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("a", "gate g: first").await;
    browser.send(json!({ "type": "chat", "sessionKey": "a", "message": "second", "queue": false })).await;
    assert_eq!(browser.until_type("error").await["code"], "session_busy");
    gateway.release("g");
    browser.until_terminal().await;
    gateway.stop_listening().await;
    gateway.kill();
    browser.until_type("disconnected").await;
    browser.send(json!({ "type": "chat", "sessionKey": "a", "message": "third", "queue": false })).await;
    assert_eq!(browser.until_type("error").await["code"], "gateway_unavailable");
    let (_, messages) = broker.get("/api/gateways/gw/sessions/a/messages").await;
    assert_eq!(messages.as_array().map(Vec::len), Some(2), "{messages}");
}

async fn foreign_runs_are_shown_and_kept(database: Database) {
    let (broker, gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("a", "say: ours").await;
    browser.until_terminal().await;
    gateway.foreign_send("a", "say[chunks=3,ms=20]: theirs").expect("the session exists");
    let end = browser.until("the foreign answer", |frame| is_terminal(frame) && frame["text"] == "theirs").await;
    // The question of the other one is found in the gateway's log and kept as well.
    let question = browser.seen.iter().find(|f| f["type"] == "message" && f["message"]["role"] == "user");
    let question = match question {
        Some(found) => found.clone(),
        None => browser.until("their question", |f| f["type"] == "message" && f["message"]["role"] == "user").await,
    };
    assert_eq!(question["message"]["content"][0]["text"], "say[chunks=3,ms=20]: theirs");
    assert!(end["messageId"].is_string());
    let (_, messages) = broker.get("/api/gateways/gw/sessions/a/messages").await;
    assert_eq!(messages.as_array().map(Vec::len), Some(4), "{messages}");
}

async fn what_was_said_before_us_is_imported_above(database: Database) {
    let (broker, gateway) = connected(&database).await;
    gateway.foreign_send("old", "say: before us").expect("a new session");
    gateway.idle().await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.send(json!({ "type": "history", "sessionKey": "old" })).await;
    let history = browser.until_type("history").await;
    let texts: Vec<&Value> =
        history["messages"].as_array().expect("a list").iter().map(|m| &m["content"][0]["text"]).collect();
    assert_eq!(texts, [&json!("say: before us"), &json!("before us")]);
    assert_eq!((&history["firstSeq"], &history["lastSeq"]), (&json!(-1), &json!(0)), "{history}");
    let ack = browser.ask("old", "say: now us").await;
    assert_eq!(ack["seq"], 1);
}

fn chat_with_key(key: &str) -> String {
    json!({ "type": "chat", "sessionKey": "a", "message": "x", "idempotencyKey": key }).to_string()
}

async fn wrong_frames_are_answered_and_the_socket_lives(database: Database) {
    let (broker, _gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.until_type("connected").await;
    let wrong = [
        ("nonsense".to_owned(), "bad_frame"),
        (json!({ "type": "dance" }).to_string(), "bad_frame"),
        (json!({ "type": "chat", "message": "no session" }).to_string(), "bad_frame"),
        (json!({ "type": "chat", "sessionKey": "a" }).to_string(), "bad_frame"),
        (json!({ "type": "chat", "sessionKey": "a", "message": "x".repeat(300_000) }).to_string(), "message_too_large"),
        (
            json!({ "type": "chat", "sessionKey": "a", "message": "x", "idempotencyKey": "\u{0}" }).to_string(),
            "bad_frame",
        ),
        (json!({ "type": "history", "sessionKey": "a", "limit": 0 }).to_string(), "validation_error"),
        (json!({ "type": "history", "sessionKey": "a", "before": "zzz" }).to_string(), "not_found"),
        (json!({ "type": "resume", "sessionKey": "a" }).to_string(), "bad_frame"),
        (json!({ "type": "chat", "sessionKey": "a\0b", "message": "x" }).to_string(), "bad_frame"),
        (json!({ "type": "chat", "sessionKey": "a", "message": "x\0y" }).to_string(), "bad_frame"),
        (chat_with_key("k\0y"), "bad_frame"),
        (chat_with_key("k\n"), "bad_frame"),
        (json!({ "type": "chat", "sessionKey": "a", "gatewayId": "g\0w", "message": "x" }).to_string(), "bad_frame"),
        (json!({ "type": "history", "sessionKey": "a", "before": "\0" }).to_string(), "bad_frame"),
        (json!({ "type": "abort", "sessionKey": "a", "runId": "\0" }).to_string(), "bad_frame"),
        (json!({ "type": "approval", "id": "x", "decision": "allow" }).to_string(), "upstream_refused"),
    ];
    for (frame, code) in wrong {
        browser.send_text(frame.clone()).await;
        let error = browser.until_type("error").await;
        assert_eq!(error["code"], code, "{} -> {error}", frame.chars().take(80).collect::<String>());
        assert!(error["error"].as_str().is_some_and(|sentence| !sentence.is_empty()));
    }
    browser.send(json!({ "type": "ping" })).await;
    browser.until_type("pong").await;
    let mut lost = broker.browser("/ws/chat/nowhere").await;
    let error = lost.next().await.expect("an error first");
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("gateway_not_found")));
    assert!(lost.next().await.is_none());
    assert_eq!(lost.closed, Some(4404));
}

async fn a_wrong_frame_keeps_its_names_on_a_federated_socket(database: Database) {
    let (broker, _gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/federated").await;
    let frame = json!({ "type": "chat", "sessionKey": "a", "message": 5, "idempotencyKey": "k", "gatewayId": "gw" });
    browser.send(frame).await;
    let mut error = browser.until_type("error").await;
    assert_eq!(error["error"].take(), "`message` of the frame `chat` must be a text");
    let rest = json!({ "type": "error", "error": null, "code": "bad_frame", "sessionKey": "a", "idempotencyKey": "k",
        "gatewayId": "gw" });
    assert_eq!(error, rest);
    for id in ["", "a b", "federated", "nowhere", &"x".repeat(65)] {
        browser.send(json!({ "type": "subscribe", "sessionKey": "a", "gatewayId": id })).await;
        let error = browser.until_type("error").await;
        assert_eq!((&error["code"], &error["gatewayId"]), (&json!("gateway_not_found"), &json!(id)), "{error}");
    }
}

async fn deleting_a_session_ends_everything_in_it(database: Database) {
    let (broker, gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("a", "gate g: running").await;
    browser.until("a delta", |frame| frame["state"] == "delta").await;
    browser.ask("a", "say: waiting").await;
    let (status, _) = broker.call("DELETE", "/api/gateways/gw/sessions/a", None).await;
    assert_eq!(status, 200);
    let reset = browser.until_type("reset").await;
    assert_eq!(reset["reason"], "deleted");
    // The run upstream was told to stop.
    gateway.idle().await;
    let (_, messages) = broker.get("/api/gateways/gw/sessions/a/messages").await;
    assert_eq!(messages, json!([]));
    // The name is free again, and what was said before the deletion does not come back.
    let ack = browser.ask("a", "say: afresh").await;
    assert_eq!(ack["seq"], 1);
    assert_eq!(browser.until_terminal().await["text"], "afresh");
    let (_, messages) = broker.get("/api/gateways/gw/sessions/a/messages").await;
    assert_eq!(messages.as_array().map(Vec::len), Some(2), "{messages}");
}

async fn a_lost_gateway_connection_is_told_and_loses_nothing(database: Database) {
    let (broker, gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("a", "gate g: first part and second part").await;
    browser.until("a delta", |frame| frame["state"] == "delta").await;
    gateway.kill();
    browser.until_type("disconnected").await;
    browser.until_type("reconnected").await;
    gateway.release("g");
    let end = browser.until_terminal().await;
    assert_eq!(end["text"], "first part and second part");
    browser.drain(Duration::from_millis(300)).await;
    assert_eq!(browser.seen.iter().filter(|frame| is_terminal(frame)).count(), 1, "{}", browser.transcript());
    assert_eq!(gateway.sends().len(), 1);
}

/// The next question is on its way, and nothing of it is to be seen yet.
async fn an_abort_that_comes_too_late_leaves_the_next_question_alone(database: Database) {
    let (broker, gateway) = connected(&database).await;
    let mut browser = broker.browser("/ws/chat/gw").await;
    browser.ask("a", "say: one").await;
    let first = browser.until_terminal().await["runId"].clone();
    gateway.hold_starting(true);
    browser.ask("a", "gate g: two").await;
    gateway.sent(2).await;
    browser.send(json!({ "type": "abort", "sessionKey": "a", "runId": first, "queued": true })).await;
    browser.send(json!({ "type": "abort", "sessionKey": "a", "runId": "not one of ours" })).await;
    gateway.hold_starting(false);
    let second = browser.until("the second answer", |frame| frame["state"] == "delta").await["runId"].clone();
    browser.send(json!({ "type": "abort", "sessionKey": "a", "runId": first })).await;
    // A frame is handled when the one before it is.
    browser.send(json!({ "type": "ping" })).await;
    browser.until_type("pong").await;
    browser.ask("a", "say: three").await;
    browser.send(json!({ "type": "abort", "sessionKey": "a", "runId": second })).await;
    let end = browser.until_terminal().await;
    assert_eq!((&end["state"], &end["runId"]), (&json!("aborted"), &second));
    let end = browser.until_terminal().await;
    assert_eq!((&end["state"], &end["text"]), (&json!("final"), &json!("three")));
}
