use serde_json::json;

use super::super::fixtures;
use super::super::frames::decode;
use super::*;

fn pages(name: &str) -> Vec<HistoryPage> {
    let answers = fixtures::answers(name, "chat.history");
    answers.into_iter().map(|answer| decode(&answer.expect("a page")).expect("a page")).collect()
}

fn row(message: Value) -> HistoryRow {
    HistoryRow::from_value(&message)
}

#[test]
fn pages_of_protocol_4_tell_where_they_stand() {
    let pages = pages("history");
    let [whole, last_two, never, short] = pages.as_slice() else { panic!("four pages") };
    assert_eq!((whole.rows.len(), whole.has_more, whole.total), (6, false, Some(6)));
    assert_eq!((last_two.rows.len(), last_two.has_more, last_two.next_offset), (2, true, Some(2)));
    assert_eq!(last_two.rows.as_slice(), &whole.rows[4..], "rows are the same in every page");
    assert_eq!((&never.session_id, never.rows.len(), never.is_idle()), (&None, 0, true));
    assert_eq!(short.canonical_key.as_deref(), Some("agent:main:fx-hist"), "asked for as `fx-hist`");
    assert!(whole.is_idle() && whole.active_run_ids == Some(Vec::new()));

    let question = whole.question("fx-hist-2").expect("our question");
    assert_eq!((question.role, question.text.as_str(), question.seq), (RowRole::User, "say: answer 2", Some(3)));
    assert_eq!(question.id, "96335101-8b2d-4e6f-b4da-e6f55940fbab");
    assert!(!question.is_answer() && whole.question("fx-hist").is_none());
    let answer = &whole.rows[3];
    assert_eq!((answer.run_id.as_deref(), answer.text.as_str()), (Some("fx-hist-2"), "answer 2"));
    assert_eq!(answer.blocks, [Block::text("answer 2")]);
    assert!(answer.is_answer() && answer.delivery_key().is_none() && !answer.is_injected);
}

#[test]
fn page_of_protocol_3_has_rows_only() {
    let page = pages("protocol-3-connect-chat-stream-final").remove(0);
    assert_eq!((page.has_active_run, &page.active_run_ids, &page.canonical_key), (None, &None, &None));
    assert!(!page.is_idle(), "it does not say so");
    let [question, answer] = page.rows.as_slice() else { panic!("two rows") };
    assert_eq!((question.id.as_str(), question.role, question.delivery_key()), ("2dfa8855", RowRole::User, None));
    assert!(same_text("say[chunks=8,ms=150]: The quick brown fox jumps over the lazy dog. ", &question.text));
    assert_eq!((answer.run_id.as_deref(), answer.is_answer(), answer.seq), (None, true, Some(2)));
}

#[test]
fn run_in_flight_is_seen_with_its_text() {
    let page = pages("history-inflight").remove(0);
    let run = page.in_flight.as_ref().expect("a run");
    assert_eq!((run.run_id.as_str(), run.text.as_str()), ("fx-infl-1", "history taken in t"));
    assert_eq!((run.started_at, page.has_active_run), (Some(1_795_189_337_356), Some(true)));
    assert!(!page.is_idle() && page.active_run_ids.is_none());
}

#[test]
fn resumed_run_is_found_by_id_then_by_its_question() {
    let pages = pages("gateway-sigkill-midstream");
    let resuming = "17d7a18d-b550-4fd2-a512-061ce705d6ea";
    assert_eq!((pages[0].rows.len(), &pages[0].in_flight), (1, &None), "at first nothing but an id");
    assert_eq!(pages[0].active_run_ids.as_deref(), Some([resuming.to_owned()].as_slice()));
    assert!(!pages[0].is_idle());

    let question = pages[1].rows.last().expect("rows");
    assert!(question.is_recovery && question.text.starts_with("[System]"));
    assert_eq!(question.delivery_key(), Some(resuming));
    assert_eq!(pages[1].in_flight.as_ref().expect("a run").run_id, resuming);
    assert!(!pages[1].rows[0].is_recovery);
    assert!(row(json!({"role": "user", "content": "[System] Your previous turn was interrupted by…"})).is_recovery);
}

#[test]
fn tool_rows_become_blocks_and_injected_rows_are_no_answers() {
    let page = pages("chat-tool-call").remove(0);
    let [_, call, result, answer, warning] = page.rows.as_slice() else { panic!("five rows") };
    assert!(matches!(&call.blocks[..], [Block::ToolCall { id, name, arguments }]
        if id == "call_scripted_1" && name == "session_status" && arguments == &json!({})));
    assert!(!call.is_answer());
    assert_eq!((result.role, result.text.as_str()), (RowRole::ToolResult, "Tool session_status not found"));
    assert!(matches!(&result.blocks[..], [Block::ToolResult { id, name, is_error: true, .. }]
        if id == "call_scripted_1" && name == "session_status"));
    assert!(answer.is_answer() && !answer.is_injected);
    assert!(warning.is_injected && !warning.is_answer());
    assert_eq!((warning.run_id.as_deref(), warning.idempotency_key.as_deref()), (None, Some("hx-tool-1")));
}

#[test]
fn aborted_answer_is_the_runs_own() {
    let page = pages("chat-abort-midstream").remove(0);
    let answer = &page.rows[1];
    assert!(answer.is_answer() && answer.is_aborted && !answer.is_injected);
    assert_eq!((answer.run_id.as_deref(), answer.text.as_str()), (Some("fx-abort-1"), "alpha beta gamma del"));
    let page = pages("chat-abort-before-first-delta").remove(0);
    assert_eq!((page.rows.len(), page.is_idle()), (1, true), "without text there is no row");
}

#[test]
fn failed_run_leaves_a_sentence() {
    for name in
        ["model-error-401", "model-error-429", "model-error-500", "model-error-midstream", "model-connection-cut"]
    {
        let page = pages(name).remove(0);
        let answer = page.rows.last().expect("rows");
        assert!(answer.is_answer() && answer.is_failure(), "{name}");
        assert!(answer.text.starts_with("⚠️ LLM request failed"), "{name}");
        let key = format!("{}:terminal-error", answer.run_id.as_deref().expect("a run"));
        assert_eq!(answer.idempotency_key.as_ref(), Some(&key), "{name}");
    }
}

#[test]
fn steered_run_has_two_answers() {
    let page = pages("chat-second-send-while-running").remove(0);
    let answers: Vec<_> = page.rows.iter().filter(|row| row.is_answer()).collect();
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|row| row.run_id.as_deref() == Some("gx-q-1")));
    assert!(page.question("gx-q-2").is_some() && page.question("gx-q-3").is_some());
}

#[test]
fn waiting_question_is_seen_though_it_has_no_row() {
    let pages = pages("history-pending-input");
    let waiting = &pages[0].pending_inputs;
    let first = waiting.first().expect("one waits");
    assert_eq!((waiting.len(), first.run_id.as_deref(), first.state.as_str()), (1, Some("ix-pend-2"), "queued"));
    assert!(pages[0].question("ix-pend-2").is_none());
    let run = pages[0].in_flight.as_ref().expect("a run");
    assert_eq!((run.run_id.as_str(), run.text.as_str()), ("ix-pend-2", ""), "not the run that is being answered");
    assert!(pages[1].pending_inputs.is_empty());
    let question = pages[1].question("ix-pend-2").expect("a row by now");
    assert_eq!(question.steered_into.as_deref(), Some("ix-pend-1"));
}

#[test]
fn reset_begins_the_log_again_and_compaction_does_not() {
    let pages = pages("history-markers");
    let [before, reset, after] = pages.as_slice() else { panic!("three pages") };
    let [_, _, injected, compacted] = before.rows.as_slice() else { panic!("four rows") };
    assert!(injected.is_injected && !injected.is_answer() && injected.run_id.is_none());
    assert_eq!((compacted.marker, compacted.seq, compacted.role), (Some(Marker::Compaction), Some(4), RowRole::System));
    assert_eq!((reset.rows.len(), reset.rows[0].marker, reset.rows[0].seq), (1, Some(Marker::Reset), Some(1)));
    assert_eq!(before.session_id, after.session_id);
    assert_eq!(after.rows[0], reset.rows[0]);
    assert_eq!((after.rows.len(), after.question("ix-mark-2").and_then(|row| row.seq)), (3, Some(2)));
}

#[test]
fn question_right_after_a_final_is_put_off_on_protocol_3() {
    let pages = pages("protocol-3-send-right-after-final");
    assert_eq!((pages[0].rows.len(), pages[1].rows.len()), (2, 4));
    let events: Vec<super::super::frames::ChatEvent> = fixtures::events("protocol-3-send-right-after-final", "chat");
    let bare = events.iter().find(|event| event.run_id == "ix-v3-2").expect("an end");
    assert!(bare.state.is_terminal() && bare.text.is_none());
    let last = events.last().expect("events");
    assert_eq!(last.text.as_deref(), Some("two"));
    assert!(!last.run_id.starts_with("ix-v3"), "the gateway's own id");
}

#[test]
fn attachment_is_told_of_beside_the_text() {
    let page = pages("chat-attachment-image").remove(0);
    assert_eq!(page.rows[0].text, "say: a picture");
    assert_eq!(page.rows[0].blocks[1], Block::text("[image a.png, 70 bytes: kept by the gateway]"));
}

#[test]
fn recorded_questions_are_recognised_by_their_text() {
    for name in ["chat-text-cleaned", "protocol-3-text-cleaned"] {
        let page = pages(name).remove(0);
        let rows: Vec<&HistoryRow> = page.rows.iter().filter(|row| row.role == RowRole::User).collect();
        let sent: Vec<String> = fixtures::frames(name)
            .iter()
            .filter_map(|recorded| serde_json::from_str::<Value>(&recorded.frame).ok())
            .filter_map(|frame| frame.pointer("/params/message").and_then(text_at))
            .collect();
        assert_eq!((sent.len(), rows.len()), (4, 4), "{name}");
        for (index, text) in sent.iter().enumerate() {
            for (other, row) in rows.iter().enumerate() {
                assert_eq!(same_text(text, &row.text), index == other, "{name}: {text:?} and {:?}", row.text);
            }
        }
    }
}

#[test]
fn every_recorded_row_has_an_id_and_a_place() {
    for name in fixtures::names() {
        for page in pages(&name) {
            let mut ids: Vec<&str> = page.rows.iter().map(|row| row.id.as_str()).collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), page.rows.len(), "{name}");
            assert!(page.rows.is_sorted_by_key(|row| row.seq), "{name}");
            assert!(page.rows.iter().all(|row| row.timestamp_ms.is_some() && row.role != RowRole::Other), "{name}");
            assert!(page.rows.iter().all(|row| !row.is_truncated), "{name}");
            assert!(page.session_id.is_some() || page.rows.is_empty(), "{name}");
        }
    }
}

#[test]
fn rows_of_one_record_and_rows_without_id_are_told_apart() {
    let lost = json!({"role": "assistant", "timestamp": 5,
        "content": [{"type": "text", "text": "[chat.history omitted: message too large]"}],
        "__openclaw": {"truncated": true, "reason": "oversized"}});
    let part = |text: &str| json!({"role": "assistant", "content": text, "__openclaw": {"id": "a", "seq": 2}});
    let read = |messages: Vec<Value>| {
        let payload = serde_json::value::to_raw_value(&json!({"messages": messages})).expect("JSON");
        decode::<HistoryPage>(&payload).expect("a page").rows
    };
    let rows = read(vec![part("one"), part("two"), lost.clone(), lost.clone()]);
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    assert_eq!((ids[0], ids[1]), ("a", "a#2"));
    assert!(ids[2].starts_with("digest:") && ids[3] == format!("{}#2", ids[2]));
    assert!(rows[2].is_truncated);
    assert_eq!(read(vec![lost])[0].id, ids[2], "the same in another page");
}

#[test]
fn strange_content_is_kept_as_text() {
    let odd = row(json!({"role": "assistant", "content": [
        {"type": "thinking", "thinking": "hm"}, {"type": "widget", "x": 1}, "plain", {"type": "text", "text": ""},
        {"type": "redacted_thinking", "data": "xx"}, {"type": "tool_use", "id": "t", "name": "n", "input": {"a": 1}},
        {"type": "toolCall", "id": "u", "name": "n", "arguments": "{\"a\":1}"},
        {"type": "image", "mimeType": "image/png", "omitted": true, "bytes": 7},
    ]}));
    assert_eq!(
        odd.blocks,
        [
            Block::Thinking { text: "hm".to_owned() },
            Block::text(r#"{"type":"widget","x":1}"#),
            Block::text("plain"),
            Block::ToolCall { id: "t".to_owned(), name: "n".to_owned(), arguments: json!({"a": 1}) },
            Block::ToolCall { id: "u".to_owned(), name: "n".to_owned(), arguments: json!({"a": 1}) },
            Block::text("[image image/png, 7 bytes: kept by the gateway]"),
        ]
    );
    let picture = row(json!({"role": "user", "content": [{"type": "image", "data": "AAEC", "mimeType": "image/png"}]}));
    assert_eq!((picture.images.len(), picture.images[0].bytes.as_slice()), (1, [0, 1, 2].as_slice()));
    assert!(matches!(&picture.blocks[..], [Block::Image { sha256, .. }] if *sha256 == picture.images[0].sha256));
    let huge = row(json!({"role": "user", "content": [{"type": "file", "data": "ä".repeat(9_000)}]}));
    assert!(huge.text.len() < 4_200 && huge.text.ends_with('…'));
    assert_eq!(row(json!("nonsense")).text, "\"nonsense\"");
    assert_eq!((row(json!({})).role, row(json!({})).blocks.len()), (RowRole::Other, 0));
    assert!(row(json!({"role": "assistant", "content": "a\n...(truncated)..."})).is_truncated);
    let reset = row(json!({"role": "system", "content": "Reset", "__openclaw": {"kind": "reset", "id": "r"}}));
    assert_eq!((reset.role, reset.marker), (RowRole::System, Some(Marker::Reset)));
    let nested = row(json!({"role": "tool", "tool_call_id": "c", "content": [
        {"type": "tool_result", "tool_use_id": "d", "is_error": true, "content": [{"type": "text", "text": "no"}]}]}));
    assert_eq!((nested.role, nested.text.as_str()), (RowRole::ToolResult, "no"));
}

#[test]
fn no_row_can_do_harm() {
    let mut read = 0;
    for name in ["chat-tool-call", "chat-abort-midstream", "chat-attachment-image", "history-markers"] {
        for answer in fixtures::answers(name, "chat.history") {
            let page: Value = serde_json::from_str(answer.expect("a page").get()).expect("JSON");
            for message in page["messages"].as_array().expect("rows") {
                for variant in fixtures::spoiled(message) {
                    assert!(!row(variant).id.is_empty());
                    read += 1;
                }
            }
        }
    }
    assert!(read > 1_000, "{read}");
}
