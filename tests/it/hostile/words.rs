//! A gateway that says odd things: events twice, not at all or with wrong numbers, texts that change and that are long, and
//! what is no frame.
use std::time::Duration;

use clawbroker::domain::message::{CUT_MARKER, TEXT_BYTES_MAX};
use serde_json::{Value, json};

use super::middle::{How, Step};
use super::{Stage, has_not_grown, memory_before};
use crate::harness::{Browser, Database, Kind, is_terminal};

on_both_databases!(
    what_missing_events_told_is_found_in_the_log,
    absurd_numbers_and_names_are_lived_with,
    an_answer_of_many_bytes_is_told_and_kept,
);
on_sqlite!(
    repeated_events_change_nothing,
    a_text_that_is_replaced_nine_times_ends_as_the_last,
    what_is_no_frame_is_passed_over,
    a_frame_costs_what_it_brings_and_not_what_it_declares,
);

/// Puts together what a socket with increments was told of its last run; each part says where it belongs.
fn shown(browser: &Browser) -> String {
    let mut text = String::new();
    for frame in browser.seen.iter().filter(|frame| frame["type"] == "stream") {
        match frame["state"].as_str() {
            Some("status") => text.clear(),
            Some("delta") => {
                assert_eq!(frame["at"], json!(text.encode_utf16().count()), "{frame}");
                text.push_str(frame["text"].as_str().expect("a text"));
            }
            Some("snapshot") => frame["text"].as_str().expect("a text").clone_into(&mut text),
            _ => {}
        }
    }
    text
}

fn is_chat(frame: &Value, state: &str) -> bool {
    frame["event"] == "chat" && frame["payload"]["state"] == state
}

/// Opens a socket that takes increments, and listens to a session.
async fn increments(stage: &Stage, session: &str) -> Browser {
    let mut browser = stage.broker.browser("/ws/chat/gw?deltas=increment").await;
    browser.send(json!({ "type": "subscribe", "sessionKey": session })).await;
    browser.until_type("subscribed").await;
    browser
}

async fn repeated_events_change_nothing(database: Database) {
    let mut stage = Stage::on(&database, "").await;
    let mut browser = stage.browser().await;
    let mut parts = increments(&stage, "again").await;
    // At once, and the whole run once more with its first number, behind its end.
    let mut told = Vec::new();
    stage.middle.edit(move |frame| {
        if frame["seq"].is_null() {
            return vec![frame];
        }
        told.push(frame.clone());
        let again = if is_chat(&frame, "final") { told.clone() } else { vec![frame.clone()] };
        [vec![frame], again].concat()
    });
    browser.ask("again", "say[chunks=8,ms=3]: said once, however often it is told").await;
    parts.until_terminal().await;
    browser.until_terminal().await;
    for tab in [&mut browser, &mut parts] {
        tab.drain(Duration::from_millis(300)).await;
        tab.catch_up().await;
        stage.is_answered_once("again", tab, "said once, however often it is told").await;
    }
    assert_eq!(shown(&parts), "said once, however often it is told");
    stage.is_at_rest().await;
}

async fn what_missing_events_told_is_found_in_the_log(database: Database) {
    let mut stage = Stage::on(&database, "[gateway]\nrun_silence_s = 1\n").await;
    let mut browser = stage.browser().await;
    type Lost = fn(&Value, usize) -> bool;
    let losses: [(&str, Lost); 4] = [
        ("every-second", |frame, n| is_chat(frame, "delta") && n % 2 == 0),
        ("the-end", |frame, _| is_chat(frame, "final")),
        ("the-beginning", |frame, n| frame["event"] == "chat" && n < 6),
        ("everything", |frame, _| frame["event"] == "chat"),
    ];
    for (name, is_lost) in losses {
        for is_numbered in [true, false] {
            let session = format!("{name}-{is_numbered}");
            let answer = format!("complete without {name}");
            let mut parts = increments(&stage, &session).await;
            let (mut said, mut lost) = (0, 0);
            stage.middle.edit(move |mut frame| {
                said += usize::from(frame["event"] == "chat");
                if is_lost(&frame, said) {
                    lost += 1;
                    return Vec::new();
                }
                // Without a hole in the numbers only time tells that something is missing.
                if let (Some(seq), false) = (frame["seq"].as_u64(), is_numbered) {
                    frame["seq"] = json!(seq - lost);
                }
                vec![frame]
            });
            browser.ask(&session, &format!("say[chunks=8,ms=3]: {answer}")).await;
            browser.until_end_of(&session).await;
            parts.until_terminal().await;
            for tab in [&mut browser, &mut parts] {
                tab.drain(Duration::from_millis(50)).await;
                tab.catch_up().await;
                stage.is_answered_once(&session, tab, &answer).await;
            }
            assert!(answer.starts_with(&shown(&parts)), "{}", parts.transcript());
            stage.bystander.is_served().await;
        }
    }
    let holes = super::link_report(&stage.broker, "gw").await["state"]["event_holes_total"].as_u64();
    assert!(holes.is_some_and(|holes| holes >= 4), "{holes:?}");
    assert_eq!(stage.middle.dialled(), 1, "the connection was good");
    stage.is_at_rest().await;
}

async fn a_text_that_is_replaced_nine_times_ends_as_the_last(database: Database) {
    let mut stage = Stage::on(&database, "").await;
    let mut browser = stage.browser().await;
    let mut parts = increments(&stage, "drafts").await;
    // Behind the last word before the gate.
    stage.middle.edit(|frame| {
        let mut frames = vec![frame.clone()];
        if is_chat(&frame, "delta") && frame["payload"]["message"]["content"][0]["text"] == "the tenth" {
            for n in 1..=9 {
                let mut other = frame.clone();
                let text = if n == 5 { String::new() } else { format!("draft {n}") };
                other["payload"]["replace"] = json!(true);
                other["payload"]["deltaText"] = json!(text);
                other["payload"]["message"]["content"] = json!([{ "type": "text", "text": text }]);
                frames.push(other);
            }
        }
        frames
    });
    browser.ask("drafts", "gate drafts: the tenth is right").await;
    // The run is held until the last draft is in view on both sockets.
    for (tab, state) in [(&mut browser, "delta"), (&mut parts, "snapshot")] {
        let draft = tab.until("the ninth draft", |frame| frame["text"] == "draft 9").await;
        assert_eq!((&draft["type"], &draft["state"]), (&json!("stream"), &json!(state)), "{draft}");
    }
    assert_eq!(shown(&parts), "draft 9");
    stage.gateway.release("drafts");
    browser.until_terminal().await;
    parts.until_terminal().await;
    for tab in [&mut browser, &mut parts] {
        tab.drain(Duration::from_millis(100)).await;
        tab.catch_up().await;
        stage.is_answered_once("drafts", tab, "the tenth is right").await;
    }
    assert!("the tenth is right".starts_with(&shown(&parts)), "{}", parts.transcript());
    stage.is_at_rest().await;
}

async fn what_is_no_frame_is_passed_over(database: Database) {
    let mut stage = Stage::on(&database, "").await;
    let mut browser = stage.browser().await;
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let garbage = [
        "",
        "{",
        "[]",
        "null",
        "5",
        "\u{0}",
        "{\"type\":5}",
        "{\"type\":\"res\"}",
        "{\"type\":\"res\",\"id\":\"c999\",\"ok\":true,\"payload\":{}}",
        "{\"type\":\"res\",\"id\":\"\",\"ok\":\"yes\"}",
        "{\"type\":\"event\"}",
        "{\"type\":\"event\",\"event\":\"chat\"}",
        "{\"type\":\"event\",\"event\":\"chat\",\"payload\":{\"runId\":5}}",
        "{\"type\":\"event\",\"event\":\"shutdown\",\"payload\":[]}",
        "{\"type\":\"event\",\"event\":\"dance\",\"payload\":{},\"seq\":\"x\"}",
        "{\"type\":\"req\",\"id\":\"1\",\"method\":\"connect\",\"params\":{}}",
    ];
    stage.middle.edit(move |frame| {
        let mut frames: Vec<Value> = garbage.iter().map(|text| json!(text)).collect();
        frames.push(json!(format!("{{\"type\":\"event\",\"event\":\"chat\",\"payload\":{deep}}}")));
        frames.push(json!(deep));
        frames.push(frame.clone());
        // An answer that comes twice is the answer to nothing, and one challenge is enough.
        if frame["type"] == "res" || frame["event"] == "connect.challenge" {
            frames.push(frame);
        }
        frames
    });
    for session in ["x", "y"] {
        browser.ask(session, "say[chunks=4,ms=3]: among garbage").await;
        browser.until_terminal().await;
        // Also through a handshake.
        stage.middle.cut();
        browser.until_type("disconnected").await;
        stage.connected().await;
        browser.until_type("reconnected").await;
    }
    for session in ["x", "y"] {
        stage.is_answered_once(session, &browser, "among garbage").await;
    }
    stage.is_at_rest().await;
}

/// Puts another value in the place of each that goes by one of these names, at whatever depth.
fn change(value: &mut Value, changes: &[(&str, Value)]) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                match changes.iter().find(|(changed, _)| changed == name) {
                    Some((_, other)) => field.clone_from(other),
                    None => change(field, changes),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| change(item, changes)),
        _ => {}
    }
}

async fn absurd_numbers_and_names_are_lived_with(database: Database) {
    let mut stage = Stage::on(&database, "[gateway]\nrun_silence_s = 1\nrequest_timeout_ms = 1000\n").await;
    let mut browser = stage.browser().await;
    let numbers = [json!(i64::MAX), json!(i64::MIN), json!(u64::MAX), json!(1e300), json!(-1), json!(0), json!("x\0y")];
    let names = [
        "seq",
        "timestamp",
        "tickIntervalMs",
        "updatedAt",
        "startedAt",
        "totalMessages",
        "nextOffset",
        "recordTimestampMs",
        "restartExpectedMs",
        "maxPayload",
        "contextWindow",
    ];
    for (index, number) in numbers.iter().enumerate() {
        let session = format!("n{index}");
        let changes: Vec<(&str, Value)> = names.iter().map(|name| (*name, number.clone())).collect();
        stage.middle.edit(move |mut frame| {
            change(&mut frame, &changes);
            vec![frame]
        });
        stage.middle.cut();
        browser.until_type("disconnected").await;
        stage.connected().await;
        browser.ask(&session, &format!("say[chunks=4,ms=3]: with {number}")).await;
        browser.until_end_of(&session).await;
        // Another run of the same session reads its log again.
        browser.ask(&session, "say: and once more").await;
        browser.until_end_of(&session).await;
        super::is_sound(&stage.broker).await;
        stage.bystander.is_served().await;
        // Numbers that go back mean that the session was started afresh, which is told by a line of its own.
        let (_, lines) = stage.broker.get(&format!("/api/gateways/gw/sessions/{session}/messages")).await;
        let lines = lines.as_array().unwrap_or_else(|| panic!("{lines}"));
        let said: Vec<&Value> = lines.iter().map(|line| &line["role"]).filter(|role| *role != "marker").collect();
        assert_eq!(said, ["user", "assistant", "user", "assistant"], "{number}: {lines:?}");
    }
    // What was stored is read again.
    stage.broker.kill();
    stage.broker.start_again().await;
    stage.bystander.is_back(&stage.broker).await;
    stage.middle.edit(|frame| vec![frame]);
    stage.connected().await;
    let mut browser = stage.browser().await;
    for index in 0..numbers.len() {
        let session = format!("n{index}");
        browser.ask(&session, "say: after a restart").await;
        assert_eq!(browser.until_end_of(&session).await["text"], "after a restart");
    }
    // A run by others whose names no database takes.
    browser.ask("names", "say: mine").await;
    browser.until_end_of("names").await;
    for (index, name) in ["a\0b".to_owned(), String::new(), "ü".repeat(100_000)].into_iter().enumerate() {
        let named = name.clone();
        stage.middle.edit(move |mut frame| {
            if frame["payload"]["state"].is_string() {
                frame["payload"]["runId"] = json!(named);
                frame["payload"]["phase"] = json!(named);
            }
            vec![frame]
        });
        let theirs = format!("theirs {index}");
        stage.gateway.foreign_send("names", &format!("say[chunks=2,ms=3]: {theirs}")).expect("it is taken");
        stage.gateway.idle().await;
        stage.middle.edit(|frame| vec![frame]);
        browser.ask("names", &format!("say: mine again {index}")).await;
        let mine = |frame: &Value| is_terminal(frame) && frame["text"] == json!(format!("mine again {index}"));
        let brief: String = name.chars().take(9).collect();
        browser.until(&format!("our answer behind a run named {brief:?}"), mine).await;
        // What others said is found in the log.
        let is_theirs = |frame: &Value| frame["sessionKey"] == "names" && frame.to_string().contains(&theirs);
        browser.since(0, "what others said", is_theirs).await;
        stage.bystander.is_served().await;
    }
    stage.is_at_rest().await;
}

async fn an_answer_of_many_bytes_is_told_and_kept(database: Database) {
    let mut stage = Stage::on(&database, "").await;
    let mut browser = stage.browser().await;
    // The second one is cut. A debug build takes long over it, perhaps longer than a lease of PostgreSQL's holds.
    let sizes = [("BIG", 1_500_000), ("HUGE", TEXT_BYTES_MAX + 1_000)];
    for (name, bytes) in sizes.into_iter().take(if database.kind() == Kind::Sqlite { 2 } else { 1 }) {
        let mut parts = increments(&stage, name).await;
        let text = "0123456789 ümläut! ".repeat(bytes / 22 + 1);
        let told = text.clone();
        // The sample gateway says a short word for it.
        let change = move |value: &mut Value| {
            if let Value::String(said) = value
                && said.as_str() == name
            {
                said.clone_from(&told);
            }
        };
        stage.middle.edit(move |mut frame| {
            let messages = frame["payload"]["messages"].as_array_mut().into_iter().flatten();
            messages.filter_map(|message| message.pointer_mut("/content/0/text")).for_each(&change);
            for place in ["/payload/deltaText", "/payload/message/content/0/text"] {
                frame.pointer_mut(place).into_iter().for_each(&change);
            }
            vec![frame]
        });
        browser.ask(name, &format!("say[chunks=1]: {name}")).await;
        let end = browser.until_end_of(name).await;
        let kept = end["text"].as_str().expect("a text").to_owned();
        assert!(kept.len() <= TEXT_BYTES_MAX);
        if text.len() <= TEXT_BYTES_MAX {
            assert!(kept == text, "{} of {} bytes", kept.len(), text.len());
        } else {
            assert!(kept.strip_suffix(CUT_MARKER).is_some_and(|start| text.starts_with(start)), "{}", kept.len());
        }
        let end = parts.until_terminal().await;
        assert!(end["text"] == json!(kept), "both tabs have it");
        // Who comes later has it, too.
        let mut late = stage.browser().await;
        late.send(json!({ "type": "resume", "sessionKey": name, "after": 1 })).await;
        let message = late.until_type("message").await;
        assert!(message["message"]["content"][0]["text"] == json!(kept), "by resume");
        late.send(json!({ "type": "history", "sessionKey": name })).await;
        let history = late.until_type("history").await;
        let last = history["messages"].as_array().and_then(|lines| lines.last()).expect("a line");
        assert!(last["content"][0]["text"] == json!(kept), "by history");
        for tab in [&mut browser, &mut parts] {
            tab.drain(Duration::from_millis(100)).await;
            tab.catch_up().await;
            let ends = tab.seen.iter().filter(|frame| is_terminal(frame) && frame["sessionKey"] == name).count();
            assert_eq!(ends, 1);
        }
        stage.bystander.is_served().await;
    }
    stage.middle.edit(|frame| vec![frame]);
    stage.is_at_rest().await;
}

async fn a_frame_costs_what_it_brings_and_not_what_it_declares(database: Database) {
    let mut stage = Stage::on(&database, "").await;
    let mut browser = stage.browser().await;
    stage.bystander.is_served().await;
    let before = memory_before(&stage.broker);
    let mut played = 0;
    for (index, declared) in [1 << 36, i64::MAX as u64, u64::MAX, 33_554_433].into_iter().enumerate() {
        for step in [Step::Upgraded, Step::Answered("connect"), Step::Streaming(2)] {
            stage.middle.breaks(step, How::Declares(declared));
            played += 1;
            if step != Step::Streaming(2) {
                stage.cut_until_played(played).await;
            }
            let session = format!("d{played}");
            browser.ask(&session, &format!("say[chunks=4,ms=3]: behind {index}")).await;
            stage.played(played).await;
            stage.connected().await;
            browser.until_end_of(&session).await;
            stage.is_answered_once(&session, &browser, &format!("behind {index}")).await;
            stage.bystander.is_served().await;
        }
        // Behind each header come 64 MiB, as far as they are taken.
        has_not_grown(&stage.broker, before, 32 << 10);
    }
    stage.is_at_rest().await;
}
