//! Runs that somebody else started.
use super::*;

#[test]
fn run_of_somebody_else_is_followed_and_waited_for() {
    let mut bench = Bench::ready();
    bench.fail = vec![ErrorCode::StoreBusy];
    bench.event("other", ChatState::Delta, Some("on"));
    bench.event("other", ChatState::Delta, Some("one"));
    bench.ask();
    bench.pass(1_000);
    assert_eq!(bench.said, ["history tail", "tell on", "tell one"], "early events are told in order");
    bench.said.clear();
    bench.event("other", ChatState::Final, Some("one more"));
    assert_eq!(bench.said(), ["end answered: one more", "send 0"]);
}

/// While the store does not know the turn, its rows would be taken for lines of nobody.
#[test]
fn log_is_not_mapped_while_a_turn_is_on_its_way_to_the_disk() {
    let mut bench = Bench::ready();
    let before = bench.mapped;
    bench.fail = vec![ErrorCode::StoreBusy];
    bench.event("other", ChatState::Delta, Some("on"));
    assert_eq!(bench.said(), Vec::<String>::new());
    bench.tail(idle(vec![asked_row(1, "other", "?"), answer_row(2, "other", "one")]));
    assert_eq!(bench.mapped, before);
    bench.said.clear();
    bench.pass(1_000);
    assert!(bench.said.contains(&"history tail".to_owned()), "{:?}", bench.said);
    bench.tail(idle(vec![asked_row(1, "other", "?")]));
    assert_eq!(bench.mapped, before + 1);
    // The same at its end.
    bench.fail = vec![ErrorCode::StoreBusy];
    bench.event("other", ChatState::Final, Some("one"));
    bench.event("third", ChatState::Final, Some("two"));
    bench.tail(idle(vec![answer_row(2, "other", "one")]));
    assert_eq!(bench.mapped, before + 1);
    bench.said.clear();
    bench.pass(1_000);
    assert_eq!(bench.said, ["end answered: one", "history tail"]);
}

/// Protocol 3 does not tell which runs are active: of one whose end was lost, only the answer in the log tells.
#[test]
fn silent_run_of_others_on_protocol_3_is_over_when_its_answer_stands() {
    let mut bench = Bench::ready();
    bench.session.on_link_up(3, bench.now);
    bench.event("other", ChatState::Delta, Some("on"));
    let row = |role: &str, text: &str| {
        json!({"role": role, "content": text, "stopReason": "stop", "timestamp": bench.now,
            "__openclaw": {"id": text, "seq": 1}})
    };
    let (asked, answered) = (row("user", "?"), row("assistant", "one"));
    let page = |rows: Vec<Value>| json!({"sessionId": "log", "messages": rows});
    bench.now += 200_000;
    let effects = bench.session.on_tick(bench.now);
    bench.perform(effects);
    bench.looked(page(vec![asked.clone()]));
    assert_eq!(bench.session.run_id(), Some("other"), "it may well be thinking");
    bench.now += 200_000;
    let effects = bench.session.on_tick(bench.now);
    bench.perform(effects);
    bench.looked(page(vec![asked.clone(), answered.clone()]));
    for _ in 0..20 {
        bench.pass(5_000);
        bench.looked(page(vec![asked.clone(), answered.clone()]));
    }
    assert_eq!(bench.session.run_id(), None);
}

#[test]
fn run_of_somebody_else_that_ended_early_is_ended() {
    let mut bench = Bench::ready();
    bench.fail = vec![ErrorCode::StoreBusy];
    bench.event("other", ChatState::Delta, Some("on"));
    bench.event("other", ChatState::Final, Some("one"));
    bench.pass(1_000);
    assert_eq!(bench.said(), ["end answered: one"]);
}

#[test]
fn events_that_wait_for_the_store_are_bounded() {
    let mut bench = Bench::ready();
    bench.fail = vec![ErrorCode::StoreBusy];
    for n in 0..2_100 {
        bench.event("other", ChatState::Delta, Some(&"x".repeat(n + 1)));
    }
    for _ in 0..100 {
        bench.event("other", ChatState::Final, Some("one"));
    }
    assert_eq!(bench.session.run.as_ref().map(|run| run.early.len()), Some(2_001));
    bench.pass(1_000);
    assert_eq!(bench.said(), ["end answered: one"]);
}

#[test]
fn run_that_the_store_knows_as_ended_is_not_begun_again() {
    let mut bench = Bench::ready();
    bench.known_state = TurnState::Final;
    bench.event("other", ChatState::Delta, Some("on"));
    assert!(bench.session.run_id().is_none());
    bench.event("other", ChatState::Delta, Some("one"));
    assert_eq!(bench.said(), Vec::<String>::new());
}

#[test]
fn run_of_somebody_else_behind_ours_is_waited_for() {
    let mut bench = Bench::answering();
    bench.ask();
    bench.event("other", ChatState::Status, None);
    bench.own(ChatState::Final, Some("a"));
    assert_eq!(bench.said(), ["end answered: a"]);
    assert_eq!(bench.session.run_id(), Some("other"));
    bench.event("other", ChatState::Final, Some("b"));
    assert_eq!(bench.said(), ["end answered: b", "send 1"]);
}

#[test]
fn run_of_somebody_else_that_began_while_we_were_away_is_waited_for() {
    let mut bench = Bench::ready();
    bench.down();
    bench.ask();
    bench.up();
    assert_eq!(bench.said(), Vec::<String>::new(), "not before the log was read");
    bench.tail(running(vec![asked_row(1, "other", "?")], "other", "on"));
    assert_eq!((bench.said(), bench.session.run_id()), (vec![], Some("other")));
    bench.event("other", ChatState::Final, Some("one"));
    assert_eq!(bench.said(), ["end answered: one", "send 0"]);
}

#[test]
fn question_that_was_not_taken_waits_for_a_run_of_somebody_else() {
    let mut bench = cut_in("sending");
    bench.looked(running(vec![asked_row(1, "other", "?")], "other", "on"));
    assert_eq!(bench.said(), Vec::<String>::new());
    bench.pass(5_000);
    assert_eq!(bench.said(), ["history reconcile"]);
    bench.looked(idle(vec![asked_row(1, "other", "?"), answer_row(2, "other", "one")]));
    assert_eq!(bench.said(), ["send 0"]);
}

#[test]
fn run_of_somebody_else_that_got_lost_does_not_hold_us_up() {
    let mut bench = Bench::ready();
    bench.event("other", ChatState::Delta, Some("on"));
    bench.ask();
    bench.down();
    bench.up();
    bench.said.clear();
    bench.looked(idle(vec![asked_row(1, "other", "?")]));
    bench.tail(idle(vec![asked_row(1, "other", "?")]));
    assert_eq!(bench.said(), ["end dead outcome_unknown true: on", "send 0"]);
}

#[test]
fn log_that_does_not_name_the_active_run_is_read_again() {
    let mut bench = Bench::ready();
    bench.down();
    bench.ask();
    bench.up();
    let mut busy = idle(Vec::new());
    busy["sessionInfo"] = json!({"hasActiveRun": true});
    bench.tail(busy);
    bench.said.clear();
    bench.pass(1_000);
    assert_eq!(bench.said, ["history tail"]);
    bench.tail(idle(Vec::new()));
    assert_eq!(bench.said(), ["send 0"]);
}
