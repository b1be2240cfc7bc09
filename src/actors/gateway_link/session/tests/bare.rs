//! Runs whose last event has no text, on protocol 4.
use super::*;

fn reply(bench: &mut Bench, run_id: &str, text: Option<&str>) {
    let reply = TerminalReply {
        run_id: run_id.to_owned(),
        session_key: "agent:main:s".to_owned(),
        text: text.map(str::to_owned),
    };
    let effects = bench.session.on_reply(reply);
    bench.perform(effects);
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
fn an_answer_that_was_taken_back_is_the_one_that_the_gateway_names() {
    let mut bench = taken_back();
    let key = bench.key(0);
    reply(&mut bench, "other", Some("not ours"));
    reply(&mut bench, &key, Some("two"));
    assert_eq!(bench.said(), Vec::<String>::new(), "its last event may have more");
    bench.own(ChatState::Final, None);
    assert_eq!(bench.said(), ["end answered: two"]);
    // Its word may come behind its end as well.
    let mut bench = taken_back();
    let key = bench.key(0);
    bench.own(ChatState::Final, None);
    assert_eq!(bench.said(), Vec::<String>::new());
    bench.own(ChatState::Final, Some("⚠️ a tool failed"));
    assert_eq!(bench.said(), Vec::<String>::new(), "the first terminal event counts");
    reply(&mut bench, &key, Some("two"));
    assert_eq!(bench.said(), ["end answered: two"]);
}

#[test]
fn what_was_streamed_and_what_the_last_event_says_come_first() {
    let mut bench = Bench::answering();
    let key = bench.key(0);
    bench.own(ChatState::Delta, Some("one, two"));
    reply(&mut bench, &key, Some("two"));
    bench.own(ChatState::Final, None);
    assert_eq!(bench.said(), ["end answered: one, two"]);
    let mut bench = Bench::answering();
    let key = bench.key(0);
    reply(&mut bench, &key, Some("two"));
    bench.own(ChatState::Final, Some("one\n\ntwo"));
    assert_eq!(bench.said(), ["end answered: one\n\ntwo"]);
}

#[test]
fn an_answer_that_no_event_names_is_read_in_the_log() {
    let mut bench = taken_back();
    let key = bench.key(0);
    bench.own(ChatState::Final, None);
    bench.pass(500);
    bench.looked(running(vec![asked_row(1, &key, "question 0")], &key, "two"));
    assert_eq!(bench.said(), ["history reconcile"], "for a moment the log tells that the run goes on");
    bench.pass(500);
    bench.looked(idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "two")]));
    assert_eq!(bench.said(), ["history reconcile", "end answered: two"]);
}

#[test]
fn an_agent_that_says_nothing_has_answered() {
    let mut bench = Bench::answering();
    let key = bench.key(0);
    bench.ask();
    bench.own(ChatState::Final, None);
    reply(&mut bench, &key, None);
    assert_eq!(bench.said(), ["end answered: ", "send 1"], "by its own word at once");
    // Without a word it has some time.
    let mut bench = Bench::answering();
    let key = bench.key(0);
    bench.ask();
    bench.own(ChatState::Final, None);
    for _ in 0..4 {
        bench.pass(500);
        bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
    }
    let said = bench.said();
    assert_eq!(said.iter().filter(|word| *word == "history reconcile").count(), 4, "{said:?}");
    assert_eq!(said[said.len() - 2..], ["end answered: ", "send 1"]);
}

#[test]
fn a_log_that_cannot_be_read_holds_nothing_up() {
    let mut bench = taken_back();
    bench.ask();
    bench.own(ChatState::Final, None);
    bench.pass(500);
    bench.unread(Purpose::Reconcile, RequestError::Refused(refusal("INVALID_REQUEST", false)));
    bench.pass(5_000);
    bench.unread(Purpose::Reconcile, RequestError::TimedOut);
    assert_eq!(bench.said(), ["history reconcile", "history reconcile", "end answered: ", "send 1"]);
}

#[test]
fn a_run_that_is_over_is_not_sent_again_when_the_link_goes() {
    let mut bench = taken_back();
    let key = bench.key(0);
    bench.own(ChatState::Final, None);
    bench.down();
    bench.pass(5_000);
    bench.up();
    bench.looked(idle(Vec::new()));
    assert_eq!(bench.said(), ["history reconcile"], "its rows are still being written");
    bench.pass(500);
    bench.looked(idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "two")]));
    assert_eq!(bench.said(), ["history reconcile", "end answered: two"]);
}

#[test]
fn a_run_of_others_has_its_answer_as_well() {
    let mut bench = Bench::ready();
    bench.event("other", ChatState::Status, None);
    bench.event("other", ChatState::Final, None);
    reply(&mut bench, "other", Some("theirs"));
    assert_eq!(bench.said(), ["end answered: theirs"]);
}

#[test]
fn a_question_that_another_run_has_taken_in_ends_with_it() {
    let mut bench = Bench::answering();
    let key = bench.key(0);
    bench.own(ChatState::Final, None);
    bench.pass(500);
    let mut steered = asked_row(2, &key, "question 0");
    steered["__openclaw"]["steerTargetRunId"] = json!("theirs");
    bench.looked(running(vec![asked_row(1, "theirs", "x"), steered], "theirs", "so far"));
    bench.event("theirs", ChatState::Delta, Some("so far, so good"));
    bench.event("theirs", ChatState::Final, Some("so far, so good"));
    assert_eq!(bench.said(), ["history reconcile", "end answered: so far, so good"]);
}
