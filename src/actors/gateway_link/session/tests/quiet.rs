//! Silence, dropped events, protocol 3, and what a restart finds.
use super::*;

#[test]
fn silent_run_is_looked_for() {
    let mut bench = Bench::answering();
    let key = bench.key(0);
    bench.pass(180_000);
    assert_eq!(bench.said(), ["history reconcile"]);
    bench.looked(running(vec![asked_row(1, &key, "question 0")], &key, ""));
    bench.pass(180_000);
    assert_eq!(bench.said(), ["history reconcile"]);
    bench.looked(idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "done")]));
    assert_eq!(bench.said(), ["end answered: done"]);
}

#[test]
fn page_that_is_older_than_an_event_does_not_count() {
    let mut bench = cut_in("running");
    let key = bench.key(0);
    bench.own(ChatState::Delta, Some("so far"));
    bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
    bench.pass(100_000);
    assert_eq!(bench.said(), Vec::<String>::new(), "it runs");
}

#[test]
fn dropped_events_are_made_up_for_without_disturbing_what_is_sent() {
    let mut bench = Bench::sending();
    bench.up();
    assert_eq!(bench.said(), Vec::<String>::new(), "its answer is on the way");
    bench.ack(SendStatus::Started);
    bench.up();
    assert_eq!(bench.said(), ["history reconcile"]);
    let key = bench.key(0);
    bench.looked(idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "done")]));
    assert_eq!(bench.said(), ["end answered: done"]);
}

#[test]
fn repeated_connections_do_not_double_passes_over_the_tail() {
    let mut bench = Bench::ready();
    for _ in 0..5 {
        bench.up();
    }
    assert_eq!(bench.said, ["history tail"], "one is on its way");
    bench.down();
    bench.said.clear();
    bench.up();
    assert_eq!(bench.said, ["history tail"]);
}

fn protocol_3(rows: &[(&str, &str)]) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .enumerate()
        .map(|(index, (role, text))| {
            json!({"role": role, "content": [{"type": "text", "text": text}], "stopReason": "stop",
                "timestamp": START_MS + 1, "__openclaw": {"id": format!("row-{index}"), "seq": index + 1}})
        })
        .collect();
    json!({"sessionId": "log", "messages": rows})
}

fn old() -> Bench {
    let mut bench = Bench::of(conversation(true));
    let effects = bench.session.on_link_up(3, bench.now);
    bench.perform(effects);
    bench.tail(protocol_3(&[]));
    bench.ask();
    bench.ack(SendStatus::Started);
    bench.said.clear();
    bench
}

#[test]
fn protocol_3_answers_a_bare_final_under_another_id() {
    let mut bench = old();
    bench.own(ChatState::Final, None);
    assert_eq!(bench.said(), Vec::<String>::new(), "the answer comes later");
    bench.event("new", ChatState::Delta, Some("tw"));
    bench.event("new", ChatState::Final, Some("two"));
    assert_eq!(bench.said(), ["end answered: two"]);
}

#[test]
fn protocol_3_question_that_is_put_off_for_long_is_not_sent_again() {
    let mut bench = old();
    bench.own(ChatState::Final, None);
    for _ in 0..3 {
        bench.pass(5_000);
        bench.looked(protocol_3(&[]));
        assert_eq!(bench.said(), ["history reconcile"], "the log does not have it yet");
    }
    bench.event("new", ChatState::Final, Some("two"));
    assert_eq!(bench.said(), ["end answered: two"]);
}

#[test]
fn protocol_3_question_that_is_put_off_while_the_link_goes_is_sent_once_more() {
    let mut bench = old();
    bench.own(ChatState::Final, None);
    bench.down();
    let effects = bench.session.on_link_up(3, bench.now);
    bench.perform(effects);
    bench.looked(protocol_3(&[]));
    assert_eq!(bench.said(), ["history reconcile", "send 0"], "the gateway may have been started anew");
    bench.ack(SendStatus::Ok);
    for _ in 0..3 {
        assert_eq!(bench.said(), ["history reconcile"], "it was not");
        bench.looked(protocol_3(&[]));
        bench.pass(5_000);
    }
    bench.event("new", ChatState::Final, Some("two"));
    assert_eq!(bench.said(), ["history reconcile", "end answered: two"]);
}

#[test]
fn key_that_is_over_upstream_and_not_in_the_log_is_not_sent_for_ever() {
    let mut bench = Bench::sending();
    bench.ack(SendStatus::Ok);
    for _ in 0..18 {
        assert_eq!(bench.said(), ["history reconcile"]);
        bench.looked(idle(Vec::new()));
        bench.pass(5_000);
    }
    bench.looked(idle(Vec::new()));
    assert_eq!(bench.said(), ["history reconcile", "end dead outcome_unknown true: "]);
}

#[test]
fn protocol_3_bare_final_without_an_answer_is_an_empty_answer() {
    let mut bench = old();
    bench.own(ChatState::Final, None);
    for _ in 0..19 {
        bench.pass(5_000);
        bench.looked(protocol_3(&[("user", "question 0")]));
    }
    assert!(bench.said().contains(&"end answered: ".to_owned()));
}

#[test]
fn protocol_3_pauses_before_the_next_question() {
    let mut bench = old();
    bench.ask();
    bench.own(ChatState::Final, Some("one"));
    assert_eq!(bench.said(), ["end answered: one"]);
    bench.pass(1_000);
    assert_eq!(bench.said(), ["send 1"]);
}

#[test]
fn protocol_3_finds_its_question_by_text_and_not_an_older_one() {
    let mut bench = old();
    bench.down();
    let effects = bench.session.on_link_up(3, bench.now);
    bench.perform(effects);
    bench.looked(protocol_3(&[("user", "question 0"), ("assistant", "found")]));
    assert_eq!(bench.said(), ["history reconcile", "end answered: found"]);

    // The same words again, which had been answered before they were asked now.
    let log = protocol_3(&[("user", "question 1"), ("assistant", "long ago")]);
    bench.tail(log.clone());
    bench.pass(10_000);
    bench.ask();
    bench.said.clear();
    bench.down();
    let effects = bench.session.on_link_up(3, bench.now);
    bench.perform(effects);
    bench.looked(log);
    assert_eq!(bench.said(), ["history reconcile", "send 1"]);
}

#[test]
fn protocol_3_silent_run_ends_by_its_row_only() {
    let mut bench = old();
    bench.pass(180_000);
    bench.looked(protocol_3(&[("user", "question 0")]));
    assert_eq!(bench.said(), ["history reconcile"], "it may be busy with a tool");
    bench.pass(180_000);
    bench.looked(protocol_3(&[("user", "question 0"), ("assistant", "done")]));
    assert_eq!(bench.said(), ["history reconcile", "end answered: done"]);
}

#[test]
fn answer_that_the_log_has_cut_does_not_shorten_what_came() {
    let mut bench = Bench::answering();
    let key = bench.key(0);
    bench.own(ChatState::Delta, Some("a very long answer"));
    bench.down();
    bench.up();
    bench.looked(idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "a very\n...(truncated)...")]));
    assert_eq!(bench.said(), ["history reconcile", "end answered: a very\n...(truncated)..."], "cut, but longer");
    let mut bench = Bench::answering();
    let key = bench.key(0);
    let long = "a very long answer ".repeat(10);
    bench.own(ChatState::Delta, Some(&long));
    bench.down();
    bench.up();
    bench.looked(idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "a very\n...(truncated)...")]));
    assert_eq!(bench.said(), ["history reconcile".to_owned(), format!("end answered: {long}")]);
}

#[test]
fn outcomes_complete_the_delivery() {
    for (state, outcome) in [
        (ChatState::Final, Outcome::Answered),
        (ChatState::Aborted, Outcome::Aborted),
        (ChatState::Error, Outcome::Error),
    ] {
        let mut bench = Bench::answering();
        bench.own(state, Some("text"));
        assert_eq!(bench.ends[0].delivery, DeliveryEnd::Completed(outcome));
        assert_eq!(bench.ends[0].text, "text");
    }
}
