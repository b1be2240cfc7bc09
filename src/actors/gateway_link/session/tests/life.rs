//! The life of a question, stage by stage.
use super::*;

fn ids(rows: Vec<Value>, active: &[&str]) -> Value {
    let mut page = idle(rows);
    page["sessionInfo"] = json!({"key": "agent:main:s", "hasActiveRun": true, "activeRunIds": active});
    page
}

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
        bench.event(&key, ChatState::Final, None);
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

/// Brings question 0 to a stage, cuts the link there, and comes back.
fn cut_in(stage: &str) -> Bench {
    let mut bench = match stage {
        "sending" => Bench::sending(),
        "held" => {
            let mut bench = Bench::sending();
            bench.sent(RequestError::Refused(refusal("UNAVAILABLE", true)));
            bench
        }
        "resuming" => {
            let mut bench = Bench::answering();
            bench.down();
            bench.up();
            let key = bench.key(0);
            bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
            bench
        }
        _ => {
            let mut bench = Bench::answering();
            bench.own(ChatState::Delta, Some("so"));
            bench
        }
    };
    bench.down();
    bench.said.clear();
    bench.pass(1_000);
    bench.up();
    assert_eq!(bench.said(), ["history reconcile"], "{stage}");
    bench
}

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
        bench.own(ChatState::Final, None);
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
fn question_in_a_long_log_is_looked_for_further_up() {
    let mut bench = cut_in("running");
    let rows: Vec<Value> = (0..3).map(|n| answer_row(1_000 + n, "other", "x")).collect();
    let mut short = idle(rows.clone());
    short["hasMore"] = json!(true);
    bench.looked(short.clone());
    assert_eq!(bench.said(), ["history reconcile wide"]);
    bench.looked(short);
    assert_eq!(bench.said(), Vec::<String>::new(), "not seen, not sent: it waits");
    bench.pass(100_000);
    for _ in 0..30 {
        bench.looked({
            let mut page = idle(rows.clone());
            page["hasMore"] = json!(true);
            page
        });
        bench.pass(5_000);
    }
    assert!(bench.said().contains(&"end dead outcome_unknown true: so".to_owned()), "the text so far is kept");
}

// ---- taken up again, given up -----------------------------------------------------------------------------------------

#[test]
fn question_is_taken_up_again_under_another_id() {
    let mut bench = cut_in("running");
    let key = bench.key(0);
    let log = vec![asked_row(1, &key, "question 0")];
    bench.looked(ids(log.clone(), &["new"]));
    assert_eq!(bench.said(), Vec::<String>::new(), "an id alone may be anybody's");
    bench.event("new", ChatState::Delta, Some("af"));
    assert_eq!(bench.said(), ["history reconcile"], "maybe it is ours");
    bench.event("new", ChatState::Delta, Some("afresh"));
    let mut rows = log;
    rows.push(recovery_row(2, "new"));
    bench.looked(running(rows, "new", "afre"));
    bench.event("new", ChatState::Delta, Some("afresh, and"));
    assert_eq!(bench.session.run_id(), Some("new"));
    bench.said.clear();
    bench.event("new", ChatState::Final, Some("afresh, and done"));
    assert_eq!(bench.said()[0], "end answered: afresh, and done");
    bench.own(ChatState::Final, None);
    bench.event("new", ChatState::Final, None);
    assert_eq!(bench.ends.len(), 1);
}

#[test]
fn run_that_resumed_and_ended_before_it_was_known_is_found() {
    let mut bench = cut_in("running");
    let key = bench.key(0);
    let log = vec![asked_row(1, &key, "question 0")];
    bench.event("new", ChatState::Final, Some("afresh"));
    bench.looked(idle(log.clone()));
    assert_eq!(bench.said(), ["history reconcile"], "the end came while the page was on its way");
    let mut rows = log;
    rows.extend([recovery_row(2, "new"), answer_row(3, "new", "afresh")]);
    bench.looked(idle(rows));
    assert_eq!(bench.said(), ["end answered: afresh"]);
}

#[test]
fn lost_question_is_given_up_after_the_wait_with_its_text() {
    let mut bench = cut_in("running");
    let key = bench.key(0);
    bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
    for _ in 0..17 {
        bench.pass(5_000);
        assert_eq!(bench.said(), ["history reconcile"]);
        bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
    }
    bench.pass(5_000);
    bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
    assert_eq!(bench.said(), ["history reconcile", "end dead outcome_unknown true: so"]);
    assert_eq!(bench.ends[0].state, TurnState::Interrupted);
}

#[test]
fn strangers_do_not_make_a_storm_of_looks() {
    let mut bench = cut_in("running");
    let key = bench.key(0);
    bench.looked(idle(vec![asked_row(1, &key, "question 0")]));
    bench.said.clear();
    let mut looks = 0;
    for n in 0..800 {
        bench.event("stranger", ChatState::Delta, Some(&"x".repeat(n + 1)));
        bench.pass(100);
        let asked = bench.said().iter().filter(|word| *word == "history reconcile").count();
        looks += asked;
        for _ in 0..asked {
            bench.looked(running(
                vec![asked_row(1, &key, "question 0"), asked_row(2, "stranger", "?")],
                "stranger",
                "x",
            ));
        }
    }
    assert!(looks <= 18, "{looks} looks in 80 seconds");
}

// ---- abort ---------------------------------------------------------------------------------------------------------------

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
    assert_eq!(bench.said(), ["abort", "history reconcile"]);
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

// ---- runs of others ----------------------------------------------------------------------------------------------------

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

// ---- silence, protocol 3, restart ---------------------------------------------------------------------------------------

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
fn turn_that_was_open_at_a_restart_is_looked_for() {
    let mut bench = Bench::of(conversation(true));
    let question = question(1);
    bench.keys.push(question.delivery_id);
    let key = bench.key(0);
    let turn = Turn { text: "so".to_owned(), ..bench.turn(TurnId::new(), Some(question.delivery_id), key.clone()) };
    bench.session.restore(turn, Some(question), bench.now);
    bench.up();
    assert_eq!(bench.said(), ["history reconcile"]);
    bench.looked(running(vec![asked_row(1, &key, "question 1")], &key, "so far"));
    assert_eq!(bench.said, ["tell so far"]);
    let effects = bench.session.on_event(chat(&key, ChatState::Delta, Some("so far so")), bench.now);
    let Some(Effect::Tell(live)) = effects.first() else { panic!("told") };
    assert!(live.rev > u64::try_from(START_MS).expect("a time"), "sockets that saw the turn before go on from there");
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
