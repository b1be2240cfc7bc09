//! Abort in each stage.
use super::*;

#[test]
fn abort_before_anything_was_sent_ends_at_once() {
    let mut bench = Bench::ready();
    bench.fail = vec![ErrorCode::StoreBusy];
    bench.ask();
    bench.abort(false);
    bench.pass(1_000);
    assert_eq!(bench.said(), ["end aborted: "], "beginning");

    let mut bench = Bench::sending();
    bench.sent(RequestError::Refused(refusal("UNAVAILABLE", true)));
    bench.abort(false);
    assert_eq!(bench.said(), ["end aborted: "], "held");
    bench.pass(5_000);
    assert_eq!(bench.said(), Vec::<String>::new());

    let mut bench = Bench::sending();
    bench.abort(false);
    bench.sent(RequestError::Refused(refusal("UNAVAILABLE", true)));
    assert_eq!(bench.said(), ["end aborted: "], "refused while it was sent");
}

#[test]
fn abort_goes_to_the_gateway_as_soon_as_something_runs() {
    let mut bench = Bench::answering();
    bench.abort(false);
    assert_eq!(bench.said(), ["abort"]);
    bench.own(ChatState::Aborted, Some("half"));
    assert_eq!(bench.said(), ["end aborted: half"]);

    let mut bench = Bench::sending();
    bench.abort(false);
    assert_eq!(bench.said(), Vec::<String>::new());
    bench.ack(SendStatus::Started);
    assert_eq!(bench.said(), ["abort"], "after the ack");

    let mut bench = Bench::sending();
    bench.abort(false);
    bench.own(ChatState::Delta, Some("a"));
    assert_eq!(bench.said(), ["abort"], "after an event that came before the ack");
    bench.ack(SendStatus::Started);
    bench.own(ChatState::Delta, Some("ab"));
    assert_eq!(bench.said(), Vec::<String>::new(), "once is enough");
}

#[test]
fn abort_while_the_link_is_down_is_not_forgotten() {
    for (verdict, expected) in
        [("not started", "end aborted: so"), ("running", "abort"), ("waiting", "end aborted: so")]
    {
        let mut bench = Bench::answering();
        bench.own(ChatState::Delta, Some("so"));
        bench.down();
        bench.abort(false);
        bench.up();
        bench.said.clear();
        let key = bench.key(0);
        let rows = vec![asked_row(1, &key, "question 0")];
        bench.looked(match verdict {
            "not started" => idle(Vec::new()),
            "running" => running(rows, &key, "so"),
            _ => idle(rows),
        });
        assert_eq!(bench.said(), [expected], "{verdict}");
    }
}

#[test]
fn abort_while_waiting_to_be_taken_up_ends_at_once() {
    let mut bench = cut_in("resuming");
    let key = bench.key(0);
    bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
    bench.abort(false);
    assert_eq!(bench.said(), ["end aborted: "]);
}

#[test]
fn abort_that_the_gateway_does_not_answer_ends_by_the_log() {
    let mut bench = Bench::answering();
    let key = bench.key(0);
    bench.own(ChatState::Delta, Some("so"));
    bench.abort(false);
    bench.pass(5_000);
    assert_eq!(bench.said(), ["abort", "abort", "history reconcile"], "nobody may have had time for the first");
    bench.looked(running(vec![asked_row(1, &key, "question 0")], &key, "so"));
    bench.pass(5_000);
    assert_eq!(bench.said(), ["abort", "history reconcile"], "until it ends");
    bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
    assert_eq!(bench.said(), ["end aborted: so"]);
}

#[test]
fn abort_of_what_waits_cancels_it() {
    let mut bench = Bench::answering();
    bench.ask();
    bench.ask();
    bench.abort(true);
    assert_eq!(bench.said(), ["cancel 1,2", "abort"]);
    assert_eq!(bench.session.queued(), 0);
    bench.own(ChatState::Aborted, None);
    assert_eq!(bench.said(), ["end aborted: "]);
}

#[test]
fn cancelled_question_is_not_sent_and_a_running_one_is_aborted() {
    let mut bench = Bench::answering();
    bench.ask();
    let (running, waiting) = (bench.keys[0], bench.keys[1]);
    let effects = bench.session.on_ended_elsewhere(waiting);
    bench.perform(effects);
    let effects = bench.session.on_ended_elsewhere(running);
    bench.perform(effects);
    assert_eq!(bench.said(), ["abort"]);
    bench.own(ChatState::Aborted, None);
    assert_eq!(bench.said(), ["end aborted: "]);
}

#[test]
fn abort_of_a_named_turn_leaves_every_other_alone() {
    let mut bench = Bench::answering();
    bench.ask();
    bench.ask();
    let first = bench.turn_id();
    bench.abort_named(TurnId::new(), true);
    assert_eq!(bench.said(), Vec::<String>::new(), "another one runs");
    bench.own(ChatState::Final, Some("one"));
    assert_eq!(bench.said(), ["end answered: one", "send 1"]);
    bench.abort_named(first, true);
    bench.ack(SendStatus::Started);
    assert_eq!(bench.said(), Vec::<String>::new(), "the end of the named one came first");
    let second = bench.turn_id();
    bench.abort_named(second, true);
    assert_eq!(bench.said(), ["cancel 2", "abort"]);
    let key = bench.key(1);
    bench.event(&key, ChatState::Aborted, None);
    assert_eq!(bench.said(), ["end aborted: "]);
    bench.abort_named(second, false);
    assert_eq!(bench.said(), Vec::<String>::new(), "nothing runs");
}

#[test]
fn abort_of_a_named_turn_that_is_ending_changes_nothing() {
    let mut bench = Bench::answering();
    bench.ask();
    let first = bench.turn_id();
    bench.fail = vec![ErrorCode::StoreBusy];
    bench.own(ChatState::Final, Some("one"));
    bench.abort_named(first, false);
    bench.pass(1_000);
    assert_eq!(bench.said(), ["end answered: one", "send 1"]);
}

/// A link that ends does not try again: it is told what the store has not taken yet.
#[test]
fn what_the_store_has_refused_is_left_over() {
    let mut bench = Bench::answering();
    assert!(matches!(bench.session.left_over(), (None, None)), "what runs is read by the next link");
    bench.fail = vec![ErrorCode::StoreBusy];
    bench.own(ChatState::Aborted, Some("half"));
    let (end, unsent) = bench.session.left_over();
    assert_eq!(end.map(|end| (end.state, end.text)), Some((TurnState::Aborted, "half".to_owned())));
    assert_eq!(unsent, None);

    let mut bench = Bench::ready();
    bench.fail = vec![ErrorCode::StoreBusy];
    bench.ask();
    assert!(matches!(bench.session.left_over(), (None, None)), "it is asked by the next link");
    bench.abort(false);
    let (end, unsent) = bench.session.left_over();
    // Whether it has begun is not known after every failure.
    assert_eq!((end.map(|end| end.state), unsent), (Some(TurnState::Aborted), Some(bench.keys[0])));
}
