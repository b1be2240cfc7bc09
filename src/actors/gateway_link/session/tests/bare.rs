//! Runs whose last event has no text, on protocol 4.
use super::*;

fn reply(bench: &mut Bench, run_id: &str, text: Option<&str>) {
    let reply = TerminalReply {
        run_id: run_id.to_owned(),
        session_key: "agent:main:s".to_owned(),
        text: text.map(str::to_owned),
    };
    bench.session.on_reply(reply, bench.now);
}

/// A run whose text came and was taken back, as it is done behind a tool.
fn taken_back() -> Bench {
    let mut bench = Bench::answering();
    bench.own(ChatState::Delta, Some("two"));
    let key = bench.key(0);
    let void = ChatEvent { delta_text: Some(String::new()), replace: true, ..chat(&key, ChatState::Delta, Some("")) };
    let effects = bench.session.on_event(void, bench.now);
    bench.perform(effects);
    bench.said.clear();
    bench
}

#[test]
fn an_answer_that_was_taken_back_is_read_in_the_log() {
    let mut bench = taken_back();
    let key = bench.key(0);
    bench.own(ChatState::Final, None);
    assert_eq!(bench.said(), ["history reconcile"]);
    bench.looked(running(vec![asked_row(1, &key, "question 0")], &key, "two"));
    assert_eq!(bench.said(), Vec::<String>::new(), "for a moment the log tells that the run goes on");
    bench.own(ChatState::Final, Some("⚠️ a tool failed"));
    assert_eq!(bench.said(), Vec::<String>::new(), "the first terminal event counts");
    bench.pass(500);
    bench.looked(idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "one, two")]));
    assert_eq!(bench.said(), ["history reconcile", "end answered: one, two"]);
}

#[test]
fn what_it_took_is_told_by_the_end_without_a_text() {
    let usage = json!({"input": 3, "output": 5});
    for has_row in [true, false] {
        let mut bench = taken_back();
        let key = bench.key(0);
        let last = ChatEvent { usage: Some(usage.clone()), ..chat(&key, ChatState::Final, None) };
        let effects = bench.session.on_event(last, bench.now);
        bench.perform(effects);
        let mut rows = vec![asked_row(1, &key, "question 0")];
        rows.extend(has_row.then(|| answer_row(2, &key, "two")));
        bench.looked(idle(rows));
        bench.pass(4_000);
        assert_eq!(bench.ends[0].usage, Some(usage.clone()));
    }
}

#[test]
fn a_text_that_came_before_the_end_may_be_void() {
    let mut bench = Bench::answering();
    let key = bench.key(0);
    bench.own(ChatState::Delta, Some("I look"));
    bench.own(ChatState::Final, None);
    bench.looked(idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "two")]));
    assert_eq!(bench.said(), ["history reconcile", "end answered: two"], "its taking back was missed");
}

#[test]
fn what_the_gateway_says_of_the_answer_is_taken_where_the_log_has_nothing() {
    let long = format!("{}…", "x".repeat(4_095));
    for (said, known) in [("two", "two"), (long.as_str(), "")] {
        for is_before in [true, false] {
            let mut bench = taken_back();
            let key = bench.key(0);
            reply(&mut bench, "other", Some("not ours"));
            if is_before {
                reply(&mut bench, &key, Some(said));
            }
            bench.own(ChatState::Final, None);
            if !is_before {
                reply(&mut bench, &key, Some(said));
            }
            for _ in 0..4 {
                bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
                assert_eq!(bench.said(), ["history reconcile"]);
                bench.pass(500);
            }
            bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
            // One that was cut comes whole as a late line.
            assert_eq!(bench.said(), ["history reconcile".to_owned(), format!("end answered: {known}")]);
        }
    }
}

#[test]
fn what_was_streamed_and_what_the_last_event_says_come_first() {
    let mut bench = Bench::answering();
    let key = bench.key(0);
    bench.own(ChatState::Delta, Some("one, two"));
    reply(&mut bench, &key, Some("two"));
    bench.own(ChatState::Final, None);
    for _ in 0..5 {
        bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
        bench.pass(500);
    }
    assert_eq!(bench.said().last().map(String::as_str), Some("end answered: one, two"));
    let mut bench = Bench::answering();
    let key = bench.key(0);
    reply(&mut bench, &key, Some("two"));
    bench.own(ChatState::Final, Some("one\n\ntwo"));
    assert_eq!(bench.said(), ["end answered: one\n\ntwo"]);
}

#[test]
fn an_agent_that_says_nothing_has_answered() {
    for is_before in [true, false] {
        let mut bench = Bench::answering();
        let key = bench.key(0);
        bench.ask();
        if is_before {
            reply(&mut bench, &key, None);
        }
        bench.own(ChatState::Final, None);
        if !is_before {
            reply(&mut bench, &key, None);
        }
        bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
        let said = ["history reconcile", "end answered: ", "send 1"];
        assert_eq!(bench.said(), said, "by its own word with the first page");
    }
    // Without a word it has some time.
    let mut bench = Bench::answering();
    let key = bench.key(0);
    bench.ask();
    bench.own(ChatState::Final, None);
    for _ in 0..5 {
        bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
        bench.pass(500);
    }
    let said = bench.said();
    assert_eq!(said.iter().filter(|word| *word == "history reconcile").count(), 5, "{said:?}");
    assert_eq!(said[said.len() - 2..], ["end answered: ", "send 1"]);
}

#[test]
fn an_attempt_that_said_nothing_does_not_count_for_the_next_one() {
    let mut bench = Bench::answering();
    let key = bench.key(0);
    reply(&mut bench, &key, None);
    bench.own(ChatState::Status, None);
    bench.own(ChatState::Final, None);
    bench.looked(idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "two")]));
    assert_eq!(bench.said(), ["history reconcile", "end answered: two"]);
}

#[test]
fn what_is_said_of_a_run_that_is_being_written_down_is_newer_than_its_first_events() {
    let mut bench = Bench::ready();
    bench.fail = vec![ErrorCode::StoreBusy];
    bench.event("other", ChatState::Status, None);
    reply(&mut bench, "other", None);
    bench.event("other", ChatState::Final, None);
    bench.pass(1_000);
    bench.looked(idle(vec![asked_row(1, "other", "theirs")]));
    assert_eq!(bench.said(), ["history reconcile", "end answered: "], "by its own word with the first page");
}

#[test]
fn a_log_that_cannot_be_read_holds_nothing_up() {
    for link_goes in [false, true] {
        let mut bench = taken_back();
        let key = bench.key(0);
        reply(&mut bench, &key, Some("two"));
        bench.own(ChatState::Final, None);
        if link_goes {
            bench.down();
            bench.pass(5_000);
            bench.up();
        }
        for _ in 0..9 {
            bench.not_looked(RequestError::Refused(refusal("INVALID_REQUEST", false)));
            bench.pass(500);
        }
        assert_eq!(bench.said().last().map(String::as_str), Some("end answered: two"));
    }
    // Nor does one that does not answer.
    let mut bench = taken_back();
    bench.own(ChatState::Final, None);
    bench.pass(4_000);
    assert_eq!(bench.said(), ["history reconcile", "end answered: "]);
}

#[test]
fn a_run_that_is_over_is_not_sent_again_when_the_link_goes() {
    let mut bench = taken_back();
    let key = bench.key(0);
    bench.own(ChatState::Final, None);
    bench.down();
    bench.pass(5_000);
    bench.said.clear();
    bench.up();
    bench.looked(idle(Vec::new()));
    assert_eq!(bench.said(), ["history reconcile"], "its rows are still being written");
    bench.pass(500);
    bench.looked(idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "two")]));
    assert_eq!(bench.said(), ["history reconcile", "end answered: two"]);
}

#[test]
fn a_run_that_is_over_and_silent_ends_with_its_link() {
    let mut bench = taken_back();
    let key = bench.key(0);
    reply(&mut bench, &key, None);
    bench.own(ChatState::Final, None);
    let (end, unsent) = bench.session.left_over();
    assert_eq!((end.expect("an end").text.as_str(), unsent), ("", None));
    // What is not known for sure the next link reads: the gateway tells of the last part only.
    for text in [Some("two"), None] {
        let mut bench = taken_back();
        let key = bench.key(0);
        if let Some(text) = text {
            reply(&mut bench, &key, Some(text));
        }
        bench.own(ChatState::Final, None);
        assert!(bench.session.left_over().0.is_none());
    }
}

#[test]
fn a_run_that_is_over_is_not_aborted() {
    let mut bench = taken_back();
    let key = bench.key(0);
    bench.own(ChatState::Final, None);
    bench.abort(false);
    assert_eq!(bench.said(), ["history reconcile"]);
    bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
    bench.pass(500);
    bench.looked(idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "two")]));
    assert_eq!(bench.said(), ["history reconcile", "end answered: two"]);
}

#[test]
fn a_delta_that_is_told_late_takes_no_word_back() {
    let mut bench = taken_back();
    let key = bench.key(0);
    reply(&mut bench, &key, None);
    bench.own(ChatState::Delta, Some(" "));
    bench.own(ChatState::Final, None);
    bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
    assert!(bench.said().last().is_some_and(|said| said.starts_with("end answered:")), "with the first page");
}

#[test]
fn a_page_from_before_the_end_says_nothing() {
    let mut bench = taken_back();
    let key = bench.key(0);
    bench.pass(180_000);
    assert_eq!(bench.said(), ["history reconcile"], "it was silent for long");
    let before = bench.look.expect("a look");
    bench.own(ChatState::Final, None);
    assert_eq!(bench.said(), ["history reconcile"], "nor is it waited for");
    bench.pass(2_500);
    bench.history(Purpose::Reconcile(before), idle(vec![asked_row(1, &key, "question 0")]));
    assert_eq!(bench.said(), Vec::<String>::new());
    bench.looked(idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "two")]));
    assert_eq!(bench.said(), ["end answered: two"]);
}

#[test]
fn a_look_that_hangs_holds_up_no_other_run() {
    let mut bench = taken_back();
    bench.ask();
    bench.own(ChatState::Final, None);
    let hangs = bench.look.expect("a look");
    bench.pass(4_000);
    assert_eq!(bench.said(), ["history reconcile", "end answered: ", "send 1"]);
    bench.ack(SendStatus::Started);
    let key = bench.key(1);
    bench.event(&key, ChatState::Final, None);
    assert_eq!(bench.said(), ["history reconcile"]);
    bench.history(Purpose::Reconcile(hangs), idle(Vec::new()));
    bench.unread(Purpose::Reconcile(hangs), RequestError::TimedOut);
    assert_eq!(bench.said(), Vec::<String>::new(), "it was for the run before");
    bench.looked(idle(vec![asked_row(3, &key, "question 1"), answer_row(4, &key, "three")]));
    assert_eq!(bench.said(), ["end answered: three"]);
}

#[test]
fn the_question_may_stand_further_up_than_the_answer() {
    let mut bench = taken_back();
    let key = bench.key(0);
    bench.own(ChatState::Final, None);
    let mut newest = idle(vec![answer_row(400, &key, "two")]);
    newest["hasMore"] = json!(true);
    bench.looked(newest);
    assert_eq!(bench.said(), ["history reconcile", "end answered: two"]);
}

#[test]
fn another_run_does_not_hold_up_an_answer_that_stands_in_the_log() {
    let mut bench = taken_back();
    let key = bench.key(0);
    bench.own(ChatState::Final, None);
    let mut busy = idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "two")]);
    // Older releases do not name the runs.
    busy["sessionInfo"] = json!({"key": "agent:main:s", "hasActiveRun": true});
    bench.looked(busy);
    assert_eq!(bench.said(), ["history reconcile", "end answered: two"]);
}

#[test]
fn a_gateway_of_another_protocol_means_something_else() {
    let mut bench = Bench::answering();
    bench.session.on_link_down();
    let effects = bench.session.on_link_up(3, bench.now);
    bench.perform(effects);
    let key = bench.key(0);
    bench.looked(page_of_protocol_3(&key));
    bench.own(ChatState::Final, None);
    bench.down();
    bench.up();
    bench.said.clear();
    bench.looked(running(vec![asked_row(1, &key, "question 0")], &key, "so"));
    bench.own(ChatState::Delta, Some("so far"));
    bench.own(ChatState::Final, Some("so far, so good"));
    assert_eq!(bench.said(), ["end answered: so far, so good"]);
}

fn page_of_protocol_3(key: &str) -> Value {
    json!({"sessionId": "log", "messages": [asked_row(1, key, "question 0")]})
}

#[test]
fn a_run_of_others_has_its_answer_as_well() {
    let mut bench = Bench::ready();
    bench.event("other", ChatState::Status, None);
    bench.event("other", ChatState::Final, None);
    bench.looked(idle(vec![asked_row(1, "other", "theirs")]));
    assert_eq!(bench.said(), ["history reconcile"], "its row is still being written");
    bench.pass(500);
    bench.looked(idle(vec![asked_row(1, "other", "theirs"), answer_row(2, "other", "yours")]));
    assert_eq!(bench.said(), ["history reconcile", "end answered: yours"]);
}

#[test]
fn a_run_of_others_that_ended_before_its_turn_was_written_is_looked_for_when_the_link_is_back() {
    let mut bench = Bench::ready();
    bench.fail = vec![ErrorCode::StoreBusy];
    bench.event("other", ChatState::Status, None);
    bench.event("other", ChatState::Final, None);
    bench.down();
    bench.pass(5_000);
    bench.up();
    bench.looked(idle(vec![asked_row(1, "other", "theirs")]));
    assert_eq!(bench.said(), ["history reconcile"], "its row is still being written");
    bench.pass(500);
    bench.looked(idle(vec![asked_row(1, "other", "theirs"), answer_row(2, "other", "yours")]));
    assert_eq!(bench.said(), ["history reconcile", "end answered: yours"]);
}

#[test]
fn a_question_that_another_run_has_taken_in_ends_with_it() {
    let mut bench = Bench::answering();
    let key = bench.key(0);
    bench.own(ChatState::Final, None);
    let mut steered = asked_row(2, &key, "question 0");
    steered["__openclaw"]["steerTargetRunId"] = json!("theirs");
    bench.looked(running(vec![asked_row(1, "theirs", "x"), steered], "theirs", "so far"));
    bench.event("theirs", ChatState::Delta, Some("so far, so good"));
    bench.event("theirs", ChatState::Final, Some("so far, so good"));
    assert_eq!(bench.said(), ["history reconcile", "end answered: so far, so good"]);
}

#[test]
fn rows_are_not_mapped_while_the_answer_is_looked_for() {
    let mut bench = taken_back();
    bench.own(ChatState::Final, None);
    let mapped = bench.mapped;
    bench.event("theirs", ChatState::Final, Some("theirs"));
    bench.tail(idle(Vec::new()));
    assert_eq!(bench.mapped, mapped, "they would be taken for lines of others");
    bench.pass(4_000);
    bench.tail(idle(Vec::new()));
    assert!(bench.mapped > mapped, "they are when the turn has ended");
}
