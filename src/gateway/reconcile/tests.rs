use serde_json::{Value, json};

use super::super::fixtures;
use super::super::frames::decode;
use super::super::history::HistoryRow;
use super::*;

mod mapping;

const ASKED_MS: i64 = 1_800_000_000_000;

fn pages(name: &str) -> Vec<HistoryPage> {
    let answers = fixtures::answers(name, "chat.history");
    answers.into_iter().map(|answer| decode(&answer.expect("a page")).expect("a page")).collect()
}

fn page(value: Value) -> HistoryPage {
    decode(&serde_json::value::to_raw_value(&value).expect("JSON")).expect("a page")
}

fn asked(key: &str) -> Asked<'_> {
    Asked { key: Some(key), run_id: key, text: "?", since_ms: ASKED_MS, after_seq: 0, protocol: 4 }
}

fn foreign(run_id: &str) -> Asked<'_> {
    Asked { key: None, ..asked(run_id) }
}

/// Whoever asked something on protocol 3.
fn asked_3(text: &str, since_ms: i64) -> Asked<'_> {
    Asked { key: Some("ours"), run_id: "ours", text, since_ms, after_seq: 0, protocol: 3 }
}

fn user(seq: i64, key: &str) -> Value {
    json!({"role": "user", "content": format!("question {key}"), "idempotencyKey": format!("{key}:user"),
        "timestamp": ASKED_MS + seq, "__openclaw": {"id": format!("row-{seq}"), "seq": seq}})
}

fn steered(seq: i64, key: &str, into: &str) -> Value {
    let mut row = user(seq, key);
    row["__openclaw"]["steerTargetRunId"] = json!(into);
    row
}

fn recovery(seq: i64, run_id: &str) -> Value {
    let mut row = user(seq, run_id);
    row["provenance"] = json!({"sourceTool": "main_session_restart_recovery"});
    row
}

fn said(seq: i64, run_id: &str, text: &str) -> Value {
    json!({"role": "assistant", "content": [{"type": "text", "text": text}], "stopReason": "stop",
        "timestamp": ASKED_MS + seq, "__openclaw": {"id": format!("row-{seq}"), "seq": seq, "runId": run_id}})
}

fn failed(seq: i64, run_id: &str) -> Value {
    let mut row = said(seq, run_id, "⚠️ it failed");
    row["stopReason"] = json!("error");
    row
}

fn used_tool(seq: i64, run_id: &str) -> Value {
    let mut row = said(seq, run_id, "let me see");
    let call = json!({"type": "toolCall", "id": "t", "name": "look", "arguments": {}});
    row["content"].as_array_mut().expect("blocks").push(call);
    row["stopReason"] = json!("toolUse");
    row
}

fn result(seq: i64, run_id: &str) -> Value {
    json!({"role": "toolResult", "toolCallId": "t", "toolName": "look", "content": [{"type": "text", "text": "seen"}],
        "timestamp": ASKED_MS + seq, "__openclaw": {"id": format!("row-{seq}"), "seq": seq, "runId": run_id}})
}

fn injected(seq: i64) -> Value {
    let mut row = said(seq, "x", "by the way");
    row["model"] = json!("gateway-injected");
    row["__openclaw"].as_object_mut().expect("an object").remove("runId");
    row
}

fn reset(seq: i64) -> Value {
    json!({"role": "system", "content": "Reset", "timestamp": ASKED_MS + seq,
        "__openclaw": {"kind": "reset", "id": format!("row-{seq}"), "seq": seq}})
}

fn idle(rows: Vec<Value>) -> Value {
    json!({"sessionId": "log", "messages": rows, "hasMore": false,
        "sessionInfo": {"hasActiveRun": false, "activeRunIds": []}})
}

/// A page on which something is active: in flight, and the ids that are told.
fn busy(rows: Vec<Value>, in_flight: Option<&str>, ids: Option<&[&str]>) -> Value {
    let mut page = idle(rows);
    page["sessionInfo"] = json!({"hasActiveRun": true});
    if let Some(ids) = ids {
        page["sessionInfo"]["activeRunIds"] = json!(ids);
    }
    if let Some(run) = in_flight {
        page["inFlightRun"] = json!({"runId": run, "text": "so far"});
    }
    page
}

/// A verdict in a few words.
fn verdict(value: &HistoryPage, asked: &Asked<'_>) -> String {
    match judge(value, asked) {
        Verdict::NotStarted => "not started".to_owned(),
        Verdict::Answered(rows) => {
            let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
            format!("answered {}", texts.join(" | "))
        }
        Verdict::Running { run_id, text } => format!("running {run_id} {}", text.unwrap_or("-")),
        Verdict::Waiting => "waiting".to_owned(),
        Verdict::LookFurther => "further".to_owned(),
    }
}

#[test]
fn recorded_questions_get_their_verdicts() {
    let rows: &[(&str, usize, &str, &str)] = &[
        ("history", 0, "fx-hist-2", "answered answer 2"),
        ("history", 0, "never-sent", "not started"),
        ("history", 2, "never-sent", "not started"),
        ("history-inflight", 0, "fx-infl-1", "running fx-infl-1 history taken in t"),
        ("history-pending-input", 0, "ix-pend-1", "waiting"),
        ("history-pending-input", 0, "ix-pend-2", "running ix-pend-2 "),
        ("history-pending-input", 1, "ix-pend-1", "answered the first question is being answered | second"),
        ("history-pending-input", 1, "ix-pend-2", "answered second"),
        ("chat-abort-midstream", 0, "fx-abort-1", "answered alpha beta gamma del"),
        ("gateway-sigkill-midstream", 0, "gateway-sigkill-midstream-1", "waiting"),
        (
            "chat-second-send-while-running",
            0,
            "gx-q-1",
            "answered first message is being answered slowly | third answer",
        ),
        ("chat-second-send-while-running", 0, "gx-q-3", "answered third answer"),
        ("chat-tool-call", 0, "hx-tool-1", "answered tool result: Tool session_status not found"),
        ("history-markers", 2, "ix-mark-2", "answered after"),
    ];
    for (name, index, key, expected) in rows {
        let page = &pages(name)[*index];
        let mut asked = asked(key);
        // The recordings are older than the questions here.
        asked.since_ms = page.rows.first().and_then(|row| row.timestamp_ms).unwrap_or(0);
        assert_eq!(verdict(page, &asked), *expected, "{name} {index} {key}");
    }
    let page = &pages("gateway-sigkill-midstream")[1];
    let found = verdict(page, &asked("gateway-sigkill-midstream-1"));
    assert!(found.starts_with("running 17d7a18d-b550-4fd2-a512-061ce705d6ea one two three"), "{found}");
    for name in
        ["model-error-401", "model-error-429", "model-error-500", "model-error-midstream", "model-connection-cut"]
    {
        let page = &pages(name)[0];
        let key = page.rows[0].delivery_key().expect("a key");
        assert!(verdict(page, &asked(key)).starts_with("answered ⚠️ LLM request failed"), "{name}");
    }
    let page = &pages("chat-abort-before-first-delta")[0];
    assert_eq!(verdict(page, &asked(page.rows[0].delivery_key().expect("a key"))), "waiting", "it left no row");
}

#[test]
fn recorded_questions_of_protocol_3_are_found_by_their_text() {
    let page = &pages("protocol-3-connect-chat-stream-final")[0];
    let at = page.rows[0].timestamp_ms.expect("a time");
    let text = "say[chunks=8,ms=150]: The quick brown fox jumps over the lazy dog. ";
    assert!(verdict(page, &asked_3(text, at)).starts_with("answered The quick brown fox"));
    assert_eq!(verdict(page, &asked_3("something else", at)), "not started");
    assert_eq!(verdict(page, &asked_3(text, at + SKEW_MS + 1)), "not started", "it was said long before");
    let known = Asked { after_seq: 2, ..asked_3(text, at) };
    assert_eq!(verdict(page, &known), "not started", "it was there before we asked");
    let went_back = Asked { after_seq: 9, ..asked_3(text, at) };
    assert!(verdict(page, &went_back).starts_with("answered"), "in a log that began afresh numbers tell nothing");
    let pages = pages("protocol-3-send-right-after-final");
    let at = pages[1].rows[2].timestamp_ms.expect("a time");
    assert_eq!(verdict(&pages[0], &asked_3("say: two", at)), "not started");
    assert_eq!(verdict(&pages[1], &asked_3("say: two", at)), "answered two");
    assert_eq!(verdict(&pages[1], &asked_3("say: one", at)), "answered one");
}

#[test]
fn question_is_judged_by_what_stands_behind_it() {
    let q = || user(1, "q");
    let old = |seq: i64| {
        let mut row = said(seq, "old", "x");
        row["timestamp"] = json!(ASKED_MS - SKEW_MS - 1);
        row
    };
    let more = |rows: Vec<Value>| {
        let mut page = idle(rows);
        page["hasMore"] = json!(true);
        page
    };
    let pending = |state: &str| {
        let mut page = idle(vec![]);
        page["pendingInputs"] = json!({"items": [{"runId": "q", "state": state}]});
        page
    };
    let rows: Vec<(&str, Value, &str)> = vec![
        ("never seen", idle(vec![]), "not started"),
        ("never seen, others were", idle(vec![user(1, "p"), said(2, "p", "x")]), "not started"),
        ("beyond the page", more(vec![said(5, "p", "x")]), "further"),
        ("the page reaches back far enough", more(vec![old(4), said(5, "p", "x")]), "not started"),
        ("accepted only", pending("queued"), "waiting"),
        ("accepted and cancelled", pending("cancelled"), "waiting"),
        ("begins, without a row", busy(vec![], None, Some(&["q"])), "running q -"),
        ("in flight, without a row", busy(vec![], Some("q"), None), "running q so far"),
        ("others are active", busy(vec![], Some("p"), Some(&["p"])), "not started"),
        ("the log was reset after it", idle(vec![reset(1)]), "waiting"),
        ("asked only", idle(vec![q()]), "waiting"),
        ("asked, in flight", busy(vec![q()], Some("q"), None), "running q so far"),
        ("asked, its id is active", busy(vec![q()], None, Some(&["p", "q"])), "running q -"),
        ("asked, some id is active", busy(vec![q()], None, Some(&["p"])), "waiting"),
        ("asked, something is in flight", busy(vec![q()], Some("p"), None), "waiting"),
        ("asked, something is active", busy(vec![q()], None, None), "waiting"),
        ("answered", idle(vec![q(), said(2, "q", "a")]), "answered a"),
        (
            "answered without a run id",
            idle(vec![q(), {
                let mut row = said(2, "q", "a");
                row["__openclaw"].as_object_mut().expect("an object").remove("runId");
                row
            }]),
            "answered a",
        ),
        ("failed", idle(vec![q(), failed(2, "q")]), "answered ⚠️ it failed"),
        ("failed, then answered", idle(vec![q(), failed(2, "q"), said(3, "q", "a")]), "answered a"),
        ("with tools", idle(vec![q(), used_tool(2, "q"), result(3, "q"), said(4, "q", "a")]), "answered a"),
        ("only tools so far", idle(vec![q(), used_tool(2, "q"), result(3, "q")]), "waiting"),
        ("injected is no answer", idle(vec![q(), injected(2)]), "waiting"),
        ("somebody else's answer", idle(vec![q(), said(2, "p", "b")]), "waiting"),
        ("the next question's answer", idle(vec![q(), user(2, "p"), said(3, "p", "b")]), "waiting"),
        ("answered before the next", idle(vec![q(), said(2, "q", "a"), user(3, "p"), said(4, "p", "b")]), "answered a"),
        (
            "answered, and it still says it is active",
            busy(vec![q(), said(2, "q", "a")], Some("q"), None),
            "running q so far",
        ),
        ("answered, others are active", busy(vec![q(), said(2, "q", "a")], None, Some(&["p"])), "answered a"),
        (
            "answered, somebody asked after it",
            busy(vec![q(), said(2, "q", "a"), user(3, "p")], Some("p"), None),
            "answered a",
        ),
        ("answered, who is active is not told", busy(vec![q(), said(2, "q", "a")], Some("p"), None), "waiting"),
        ("resumed", busy(vec![q(), recovery(2, "r")], Some("r"), None), "running r so far"),
        ("resumed, by its id", busy(vec![q(), recovery(2, "r")], None, Some(&["r"])), "running r -"),
        ("resumed and answered", idle(vec![q(), recovery(2, "r"), said(3, "r", "a")]), "answered a"),
        ("resumed twice", busy(vec![q(), recovery(2, "r"), recovery(3, "s")], Some("s"), None), "running s so far"),
        ("resumed, and lost again", idle(vec![q(), recovery(2, "r")]), "waiting"),
        ("another's was resumed", busy(vec![q(), said(2, "q", "a"), recovery(3, "r")], Some("r"), None), "answered a"),
        (
            "another's was resumed and answered",
            idle(vec![q(), said(2, "q", "a"), recovery(3, "r"), said(4, "r", "b")]),
            "answered a",
        ),
        ("somebody else asked between", busy(vec![q(), user(2, "p"), recovery(3, "r")], Some("r"), None), "waiting"),
        (
            "steered into ours, which goes on",
            busy(vec![q(), said(2, "q", "a"), steered(3, "p", "q")], Some("p"), None),
            "waiting",
        ),
        (
            "steered into ours",
            idle(vec![q(), said(2, "q", "a"), steered(3, "p", "q"), said(4, "q", "b")]),
            "answered a | b",
        ),
        ("ours was steered", idle(vec![user(0, "p"), steered(1, "q", "p"), said(2, "p", "a")]), "answered a"),
        (
            "ours was steered, and goes on",
            busy(vec![user(0, "p"), steered(1, "q", "p")], None, Some(&["p"])),
            "running p -",
        ),
    ];
    for (name, value, expected) in rows {
        assert_eq!(verdict(&page(value), &asked("q")), expected, "{name}");
    }
}

#[test]
fn run_that_went_by_another_id_is_known_by_it() {
    let taken_up = Asked { run_id: "r", ..asked("q") };
    let judged = |value: Value| verdict(&page(value), &taken_up);
    assert_eq!(judged(busy(vec![], Some("r"), None)), "running r so far");
    assert_eq!(judged(idle(vec![])), "waiting", "it had been seen: never again");
    assert_eq!(judged(idle(vec![user(1, "q"), said(2, "r", "a")])), "answered a");
}

#[test]
fn foreign_run_is_known_by_its_id_only() {
    let judged = |value: Value| verdict(&page(value), &foreign("f"));
    assert_eq!(judged(idle(vec![])), "waiting");
    assert_eq!(judged(busy(vec![], Some("f"), None)), "running f so far");
    assert_eq!(judged(busy(vec![], None, Some(&["f"]))), "running f -");
    assert_eq!(judged(idle(vec![user(1, "f"), said(2, "f", "a"), said(3, "g", "b")])), "answered a");
    assert_eq!(judged(idle(vec![user(1, "f"), used_tool(2, "f"), injected(3)])), "waiting");
    assert_eq!(judged(busy(vec![user(1, "f"), said(2, "f", "a")], Some("g"), None)), "waiting", "it may go on");
    assert_eq!(judged(busy(vec![user(1, "f"), said(2, "f", "a")], None, Some(&["g"]))), "answered a");
    let so_far = page(busy(vec![user(1, "f"), said(2, "f", "a")], Some("g"), None));
    assert_eq!(answer_so_far(&so_far, &foreign("f")).len(), 1);
}

#[test]
fn answer_so_far_is_there_when_waiting_is_over() {
    let value = page(busy(vec![user(1, "q"), said(2, "q", "a")], Some("p"), None));
    assert_eq!(verdict(&value, &asked("q")), "waiting");
    let rows = answer_so_far(&value, &asked("q"));
    assert_eq!(rows.iter().map(|row| row.text.as_str()).collect::<Vec<_>>(), ["a"]);
    assert!(answer_so_far(&page(idle(vec![])), &asked("q")).is_empty());
}
