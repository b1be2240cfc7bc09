//! The life of a question, stage by stage.
use super::*;

#[test]
fn question_is_sent_answered_and_told() {
    let mut bench = Bench::sending();
    bench.ack(SendStatus::Started);
    bench.own(ChatState::Delta, Some("one"));
    bench.own(ChatState::Delta, Some("one two"));
    assert_eq!(bench.said, ["tell one", "tell one two"]);
    bench.said.clear();
    bench.own(ChatState::Final, Some("one two three"));
    assert_eq!(bench.said, ["end answered: one two three", "history tail"]);
    assert_eq!(bench.ends[0].state, TurnState::Final);
}

/// What the checkpoints of a tick take to the receipt.
fn kept_by_tick(bench: &mut Bench, ms: i64) -> Vec<Option<i64>> {
    bench.now += ms;
    let effects = bench.session.on_tick(bench.now);
    effects
        .into_iter()
        .filter_map(|effect| if let Effect::Checkpoint(kept) = effect { Some(kept.sent_at) } else { None })
        .collect()
}

#[test]
fn receipt_learns_with_the_end_when_the_question_was_taken() {
    let mut bench = Bench::sending();
    bench.now += 5;
    bench.ack(SendStatus::Started);
    bench.now += 5;
    bench.own(ChatState::Final, Some("a"));
    assert_eq!(bench.ends[0].sent_at, Some(START_MS + 5));
    // The answer may overtake the acknowledgement.
    let mut bench = Bench::sending();
    bench.own(ChatState::Final, Some("a"));
    assert_eq!(bench.ends[0].sent_at, Some(START_MS));
    // What the gateway refused, it has not taken.
    let mut bench = Bench::sending();
    bench.sent(RequestError::Refused(refusal("INVALID_REQUEST", false)));
    assert_eq!(bench.ends[0].sent_at, None);
}

#[test]
fn receipt_of_a_long_run_learns_it_with_one_checkpoint() {
    let mut bench = Bench::answering();
    assert_eq!(kept_by_tick(&mut bench, 500), []);
    assert_eq!(kept_by_tick(&mut bench, 2_000), [Some(START_MS)], "also without a text");
    assert_eq!(kept_by_tick(&mut bench, 2_000), []);
    // Nobody asked for somebody else's run.
    let mut bench = Bench::ready();
    bench.event("other", ChatState::Delta, Some("hm"));
    assert_eq!(kept_by_tick(&mut bench, 2_000), [None]);
}

#[test]
fn receipt_learns_from_the_log_what_no_answer_told() {
    let mut bench = cut_in("sending");
    let key = bench.key(0);
    bench.now += 100;
    bench.looked(idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "done")]));
    assert_eq!(bench.ends[0].sent_at, Some(bench.now));
}

#[test]
fn second_question_waits_for_the_end_of_the_first() {
    let mut bench = Bench::answering();
    bench.ask();
    bench.ask();
    assert_eq!((bench.said(), bench.session.queued()), (vec![], 2));
    bench.own(ChatState::Final, Some("a"));
    assert_eq!(bench.said(), ["end answered: a", "send 1"]);
    let key = bench.key(1);
    bench.event(&key, ChatState::Error, None);
    assert_eq!(bench.said(), ["end error: ", "send 2"]);
    assert_eq!(bench.ends[1].error.as_deref(), Some("it failed"));
}

#[test]
fn end_may_come_before_the_ack_and_twice() {
    let mut bench = Bench::sending();
    bench.own(ChatState::Error, None);
    bench.ack(SendStatus::Started);
    bench.own(ChatState::Error, None);
    bench.own(ChatState::Delta, Some("late"));
    assert_eq!(bench.said(), ["end error: "]);
    assert!(bench.session.run_id().is_none());
}

#[test]
fn question_told_twice_is_one() {
    let mut bench = Bench::answering();
    let again = Question { delivery_id: bench.keys[0], ..question(0) };
    let effects = bench.session.on_question(again, bench.now);
    assert!(effects.is_empty() && bench.session.queued() == 0);
}

#[test]
fn questions_go_in_order_of_their_lines() {
    let mut bench = Bench::of(conversation(true));
    for seq in [3, 1, 2] {
        let question = question(seq);
        bench.keys.push(question.delivery_id);
        assert!(bench.session.on_question(question, bench.now).is_empty(), "the link is down");
    }
    bench.up();
    bench.tail(idle(Vec::new()));
    for index in [1, 2, 0] {
        assert_eq!(bench.said(), [format!("send {index}")]);
        let key = bench.key(index);
        bench.event(&key, ChatState::Final, Some("an answer"));
        bench.said.remove(0);
    }
}

// ---- the store ---------------------------------------------------------------------------------------------------------

#[test]
fn busy_store_is_asked_again_for_begin_and_end() {
    let mut bench = Bench::ready();
    bench.fail = vec![ErrorCode::StorageFull, ErrorCode::StoreBusy];
    bench.ask();
    assert_eq!(bench.said(), Vec::<String>::new(), "nothing is sent before the lease is on disk");
    bench.pass(2_000);
    assert_eq!(bench.said(), ["send 0"]);
    bench.fail = vec![ErrorCode::StoreBusy];
    bench.own(ChatState::Final, Some("a"));
    assert_eq!(bench.said(), Vec::<String>::new());
    bench.pass(1_000);
    assert_eq!(bench.said(), ["end answered: a"]);
}

#[test]
fn store_is_asked_again_though_the_link_is_down() {
    let mut bench = Bench::answering();
    bench.fail = vec![ErrorCode::StoreBusy, ErrorCode::StoreBusy];
    bench.own(ChatState::Final, Some("a"));
    bench.down();
    bench.pass(2_000);
    assert_eq!(bench.said(), ["end answered: a"]);
}

#[test]
fn question_that_ended_meanwhile_is_dropped() {
    let mut bench = Bench::ready();
    bench.fail = vec![ErrorCode::DeliveryEnded];
    bench.ask();
    assert_eq!(bench.said(), Vec::<String>::new());
    bench.ask();
    assert_eq!(bench.said(), ["send 1"]);
}

// ---- what the gateway answers ------------------------------------------------------------------------------------------

#[test]
fn refused_question_dies_and_the_next_one_goes() {
    let mut bench = Bench::sending();
    bench.ask();
    bench.sent(RequestError::Refused(refusal("INVALID_REQUEST", false)));
    assert_eq!(bench.said(), ["end dead upstream_refused false: ", "send 1"]);
}

#[test]
fn refused_question_that_is_redriven_is_heard_again() {
    let mut bench = Bench::sending();
    bench.sent(RequestError::Refused(refusal("INVALID_REQUEST", false)));
    bench.said();
    bench.ask_again();
    assert_eq!(bench.said(), ["send 0"]);
    bench.ack(SendStatus::Started);
    bench.own(ChatState::Delta, Some("one"));
    assert_eq!(bench.said, ["tell one"]);
    bench.own(ChatState::Final, Some("one two"));
    assert_eq!(bench.said(), ["end answered: one two"]);
}

/// The redrive may be heard of before the end that it follows.
#[test]
fn question_that_is_redriven_while_its_end_is_being_written_goes_next() {
    let mut bench = Bench::sending();
    bench.fail = vec![ErrorCode::StoreBusy];
    bench.sent(RequestError::Refused(refusal("INVALID_REQUEST", false)));
    bench.ask_again();
    assert_eq!(bench.said(), Vec::<String>::new());
    bench.pass(500);
    assert_eq!(bench.said(), ["end dead upstream_refused false: ", "send 0"]);
}

#[test]
fn busy_gateway_is_asked_again_with_the_same_key_once() {
    let mut bench = Bench::sending();
    bench.sent(RequestError::Refused(refusal("UNAVAILABLE", true)));
    assert_eq!(bench.said(), Vec::<String>::new());
    bench.pass(1_000);
    assert_eq!(bench.said(), ["send 0"]);
    bench.sent(RequestError::Refused(refusal("UNAVAILABLE", true)));
    bench.down();
    bench.up();
    assert_eq!(bench.said(), ["history reconcile"]);
    bench.looked(idle(Vec::new()));
    assert_eq!(bench.said(), ["send 0"]);
    bench.pass(5_000);
    assert_eq!(bench.said(), Vec::<String>::new(), "the old timer does not send it again");
}

#[test]
fn send_without_an_answer_is_looked_for() {
    for result in [RequestError::TimedOut, RequestError::Unreadable("x".to_owned())] {
        let mut bench = Bench::sending();
        bench.sent(result);
        assert_eq!(bench.said(), ["history reconcile"]);
        let key = bench.key(0);
        bench.looked(running(vec![asked_row(1, &key, "question 0")], &key, "so far"));
        bench.own(ChatState::Final, Some("so far, so good"));
        assert_eq!(bench.said(), ["end answered: so far, so good"]);
    }
}

#[test]
fn key_that_is_over_upstream_is_read_from_the_log() {
    let mut bench = Bench::sending();
    bench.ack(SendStatus::Ok);
    assert_eq!(bench.said(), ["history reconcile"]);
    let key = bench.key(0);
    bench.looked(idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "done")]));
    assert_eq!(bench.said(), ["end answered: done"]);
}

// ---- the link goes down in each stage ----------------------------------------------------------------------------------

#[test]
fn after_a_gap_the_log_tells_what_became_of_the_question() {
    for stage in ["sending", "held", "running", "resuming"] {
        let mut bench = cut_in(stage);
        if stage != "resuming" {
            bench.looked(idle(Vec::new()));
            assert_eq!(bench.said(), ["send 0"], "{stage}: not started");
        }

        let mut bench = cut_in(stage);
        let key = bench.key(0);
        bench.looked(idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "so it is")]));
        assert_eq!(bench.said(), ["end answered: so it is"], "{stage}: answered");

        let mut bench = cut_in(stage);
        bench.looked(running(vec![asked_row(1, &key, "question 0")], &bench.key(0), "so far"));
        assert_eq!(bench.said, ["tell so far"], "{stage}: running");
        bench.own(ChatState::Final, Some("so far"));
        assert_eq!(bench.said()[0], "end answered: so far", "{stage}: running");

        let mut bench = cut_in(stage);
        let key = bench.key(0);
        bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
        assert_eq!(bench.said(), Vec::<String>::new(), "{stage}: waiting");
        bench.pass(5_000);
        assert_eq!(bench.said(), ["history reconcile"], "{stage}: looked for again");
    }
}

#[test]
fn question_begun_while_the_link_went_is_sent_after_it_came_back() {
    let mut bench = Bench::ready();
    bench.fail = vec![ErrorCode::StoreBusy];
    bench.ask();
    bench.down();
    bench.pass(1_000);
    assert_eq!(bench.said(), Vec::<String>::new());
    bench.up();
    assert_eq!(bench.said(), ["history reconcile"]);
    bench.looked(idle(Vec::new()));
    assert_eq!(bench.said(), ["send 0"]);

    let mut bench = Bench::ready();
    bench.fail = vec![ErrorCode::StoreBusy];
    bench.ask();
    bench.down();
    bench.up();
    bench.pass(1_000);
    assert_eq!(bench.said(), ["history reconcile"], "somebody else's run may have begun");
}

#[test]
fn key_once_seen_in_the_log_is_never_sent_again() {
    let mut bench = Bench::answering();
    let key = bench.key(0);
    bench.down();
    bench.up();
    bench.tail(idle(vec![asked_row(1, &key, "question 0")]));
    // This page is older, or the log was reset.
    bench.looked(idle(Vec::new()));
    bench.pass(60_000);
    assert!(!bench.said().contains(&"send 0".to_owned()));
}

#[test]
fn what_finds_no_room_is_asked_again() {
    let mut bench = Bench::of(conversation(false));
    bench.ask();
    bench.up();
    bench.unread(Purpose::Contact, RequestError::Busy);
    bench.pass(1_000);
    assert_eq!(bench.said(), ["history contact", "history contact"]);
    bench.history(Purpose::Contact, idle(Vec::new()));
    assert_eq!(bench.said(), ["contact 0", "send 0"]);
    bench.sent(RequestError::Busy);
    bench.pass(1_000);
    assert_eq!(bench.said(), ["send 0"]);
    bench.ack(SendStatus::Started);
    bench.down();
    bench.up();
    bench.not_looked(RequestError::Busy);
    bench.pass(5_000);
    assert_eq!(bench.said(), ["history reconcile", "history reconcile"]);

    let mut bench = Bench::ready();
    bench.up();
    bench.ask();
    bench.unread(Purpose::Tail, RequestError::Busy);
    assert_eq!(bench.said(), Vec::<String>::new(), "the log is read before anything is sent");
    bench.pass(5_000);
    bench.tail(idle(Vec::new()));
    assert_eq!(bench.said(), ["send 0"]);

    let mut bench = Bench::sending();
    bench.abort(false);
    bench.sent(RequestError::Busy);
    assert_eq!(bench.said(), ["end aborted: "], "what is not wanted any more is not sent again");
}
