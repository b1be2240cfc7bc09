//! A turn that was open when the broker stopped: seen at once, and ended once, in each of the ways that D4 gives.
use super::*;

/// A session with question 0 half answered, its gateway away.
fn half_answered() -> Bench {
    let mut bench = Bench::of(conversation(true));
    let question = question(0);
    bench.keys.push(question.delivery_id);
    let key = bench.key(0);
    let kept = Turn { text: "so".to_owned(), ..bench.turn(TurnId::new(), Some(question.delivery_id), key) };
    let live = live_of(&kept);
    assert_eq!((live.turn_id, &*live.text), (kept.id, "so"));
    bench.session.restore(kept, Some(question), bench.now);
    bench.pass(60_000);
    assert_eq!(bench.said(), Vec::<String>::new(), "nothing is known of it while the gateway is away");
    bench
}

fn back() -> (Bench, String) {
    let mut bench = half_answered();
    bench.up();
    assert_eq!(bench.said(), ["history reconcile"]);
    let key = bench.key(0);
    (bench, key)
}

#[test]
fn it_goes_on_where_it_was() {
    let (mut bench, key) = back();
    bench.looked(running(vec![asked_row(1, &key, "question 0")], &key, "so far"));
    assert_eq!(bench.said, ["tell so far"]);
    let effects = bench.session.on_event(chat(&key, ChatState::Delta, Some("so far so")), bench.now);
    let Some(Effect::Tell(live)) = effects.first() else { panic!("told") };
    assert!(live.rev > u64::try_from(START_MS).expect("a time"), "sockets that saw the turn before go on from there");
    bench.said.clear();
    bench.own(ChatState::Final, Some("so far so good"));
    bench.own(ChatState::Final, None);
    assert_eq!(bench.said(), ["end answered: so far so good"]);
}

#[test]
fn it_was_answered_meanwhile() {
    let (mut bench, key) = back();
    bench.looked(idle(vec![asked_row(1, &key, "question 0"), answer_row(2, &key, "so it is")]));
    bench.own(ChatState::Final, Some("so it is"));
    assert_eq!(bench.said(), ["end answered: so it is"]);
}

#[test]
fn it_failed_meanwhile() {
    let (mut bench, key) = back();
    let mut row = answer_row(2, &key, "⚠️ the model broke");
    row["stopReason"] = json!("error");
    bench.looked(idle(vec![asked_row(1, &key, "question 0"), row]));
    assert_eq!(bench.said(), ["end error: so"], "what was shown stays");
    assert_eq!(bench.ends[0].error.as_deref(), Some("⚠️ the model broke"));
}

#[test]
fn it_is_asked_again_of_a_gateway_that_has_never_seen_it() {
    let (mut bench, _) = back();
    bench.looked(idle(Vec::new()));
    assert_eq!(bench.said(), ["send 0"]);
    bench.ack(SendStatus::Started);
    bench.own(ChatState::Delta, Some("af"));
    assert_eq!(bench.said.last().map(String::as_str), Some("tell af"), "the half answer is void");
    bench.said.clear();
    bench.own(ChatState::Final, Some("afresh"));
    assert_eq!(bench.said(), ["end answered: afresh"]);
}

#[test]
fn it_is_taken_up_under_another_id() {
    let (mut bench, key) = back();
    bench.looked(running(vec![asked_row(1, &key, "question 0"), recovery_row(2, "new")], "new", "afre"));
    assert_eq!(bench.session.run_id(), Some("new"));
    bench.event("new", ChatState::Final, Some("afresh"));
    bench.own(ChatState::Final, None);
    assert_eq!(bench.said(), ["end answered: afresh"]);
}

#[test]
fn it_was_lost() {
    let (mut bench, key) = back();
    bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
    bench.pass(90_000);
    for _ in 0..20 {
        bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
        bench.pass(5_000);
    }
    assert_eq!(bench.said().last().map(String::as_str), Some("end dead outcome_unknown true: so"));
    assert_eq!(bench.ends.len(), 1);
}

#[test]
fn it_is_aborted_while_the_gateway_is_away() {
    let mut bench = half_answered();
    let turn = bench.turn_id();
    bench.abort_named(turn, false);
    assert_eq!(bench.said(), Vec::<String>::new());
    bench.up();
    let key = bench.key(0);
    bench.looked(running(vec![asked_row(1, &key, "question 0")], &key, "so"));
    assert_eq!(bench.said(), ["history reconcile", "abort"]);
    bench.own(ChatState::Aborted, Some("so"));
    assert_eq!(bench.said(), ["end aborted: so"]);
}
