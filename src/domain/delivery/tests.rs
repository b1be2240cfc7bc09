use proptest::prelude::*;

use super::*;

fn fresh(attempts_max: i32, expires_at: Option<i64>) -> Delivery {
    Delivery {
        id: DeliveryId::new(),
        n: 1,
        message_id: MessageId::new(),
        conversation_id: ConversationId::new(),
        recipient_id: PartyId::new(),
        channel_id: None,
        seq: 1,
        priority: 0,
        state: DeliveryState::Pending,
        outcome: None,
        reason: None,
        attempt: 0,
        attempts_max,
        available_at: 0,
        lease_until: None,
        leased_at: None,
        expires_at,
        result_hash: None,
        created_at: 0,
        ended_at: None,
    }
}

fn report(result: u8, attempt: Option<i32>) -> Move {
    Move::Complete { outcome: Outcome::Reported, attempt, result_hash: Some([result; 32]) }
}

#[test]
fn the_report_table_of_the_contract_holds() {
    let lease = Move::Lease { until: Some(10) };
    let over = Move::LeaseOver { retry_at: 10 };
    // Leased: without a number and with the newest one it completes, with an older one it is stale.
    for (attempt, fine) in [(None, true), (Some(2), true), (Some(1), false)] {
        let mut delivery = fresh(5, None);
        delivery.apply(&lease, 0).expect("first hand-out");
        delivery.apply(&over, 10).expect("lease over");
        delivery.apply(&lease, 10).expect("second hand-out");
        assert_eq!(delivery.apply(&report(1, attempt), 11).is_ok(), fine, "{attempt:?}");
    }
    // Pending again, and never leased at all.
    let mut delivery = fresh(5, None);
    delivery.apply(&lease, 0).expect("hand-out");
    delivery.apply(&over, 10).expect("lease over");
    assert_eq!(delivery.apply(&report(1, Some(1)), 11).expect("late report"), Applied::Changed);
    assert_eq!(fresh(5, None).apply(&report(1, None), 0).expect("never leased"), Applied::Changed);
    // Completed: the same result is a repeat whatever the number, another one a conflict.
    for attempt in [None, Some(0), Some(1)] {
        assert_eq!(delivery.apply(&report(1, attempt), 12).expect("same result"), Applied::Repeated, "{attempt:?}");
        let refused = delivery.apply(&report(2, attempt), 12).expect_err("other");
        assert_eq!(refused.code(), ErrorCode::ResultConflict, "{attempt:?}");
    }
    // Dead by attempts: the late report still counts, but none on an older hand-out. Dead for another reason, expired or
    // cancelled: it does not.
    let mut delivery = fresh(2, None);
    for number in 1..=2 {
        delivery.apply(&lease, 0).expect("hand-out");
        delivery.apply(&over, 10).unwrap_or_else(|error| panic!("lease {number} over: {error}"));
    }
    assert_eq!((delivery.state, delivery.reason.as_deref()), (DeliveryState::Dead, Some(reason::ATTEMPTS)));
    assert_eq!(delivery.apply(&report(1, Some(1)), 11).expect_err("older").code(), ErrorCode::StaleAttempt);
    assert_eq!(delivery.apply(&report(1, Some(2)), 11).expect("after all"), Applied::Changed);
    for end in [Move::Expire, Move::Cancel { reason: None }] {
        let mut delivery = fresh(5, Some(10));
        delivery.apply(&end, 10).expect("it ends");
        let refused = delivery.apply(&report(1, None), 11).expect_err("ended");
        assert_eq!(refused.code(), ErrorCode::DeliveryEnded, "{end:?}");
    }
    let mut delivery = fresh(5, None);
    delivery.apply(&Move::Fail { attempt: None, reason: "no".into() }, 0).expect("fail of a pending one");
    assert_eq!(delivery.apply(&report(1, None), 1).expect_err("ended").code(), ErrorCode::DeliveryEnded);
    // A number that was never given out is the caller's mistake, whatever has become of the delivery.
    let mut delivery = fresh(5, None);
    assert_eq!(delivery.apply(&report(1, Some(3)), 0).expect_err("too new").code(), ErrorCode::ValidationError);
    delivery.apply(&report(1, None), 0).expect("completes");
    assert_eq!(delivery.apply(&report(1, Some(3)), 1).expect_err("too new").code(), ErrorCode::ValidationError);
}

#[test]
fn only_what_is_dead_starts_afresh() {
    let mut delivery = fresh(5, None);
    let refused = delivery.apply(&Move::Redrive, 0).expect_err("it waits");
    assert_eq!(refused.code(), ErrorCode::NotLeased);
    delivery.apply(&Move::Lease { until: Some(10) }, 0).expect("hand-out");
    assert_eq!(delivery.apply(&Move::Redrive, 1).expect_err("leased").code(), ErrorCode::NotLeased);
    delivery.apply(&Move::Cancel { reason: None }, 1).expect("cancelled");
    assert_eq!(delivery.apply(&Move::Redrive, 1).expect_err("ended").code(), ErrorCode::DeliveryEnded);
}

#[test]
fn a_ttl_acts_on_pending_only() {
    let mut delivery = fresh(5, Some(10));
    delivery.apply(&Move::Lease { until: Some(100) }, 5).expect("in time");
    assert_eq!(delivery.due_move(50, 0), None, "leased ones do not expire");
    delivery.apply(&Move::Nack { attempt: None, retry_at: 60, reason: None }, 50).expect("nack");
    assert_eq!(delivery.due_move(60, 0), Some(Move::Expire));
    delivery.apply(&Move::Expire, 60).expect("expires");
    assert_eq!(delivery.state, DeliveryState::Expired);
}

#[test]
fn a_clock_that_is_set_back_holds_nothing_back_that_never_had_to_wait() {
    let mut delivery = Delivery { created_at: 1_000, available_at: 1_000, ..fresh(5, None) };
    delivery.apply(&Move::Lease { until: None }, 400).expect("it does not wait");
    delivery.apply(&Move::Nack { attempt: None, retry_at: 2_000, reason: None }, 500).expect("nack");
    assert_eq!(delivery.due_at(), Some(2_000));
    delivery.apply(&Move::Lease { until: None }, 1_999).expect_err("it waits");
    delivery.end_wait(2_000);
    assert_eq!(delivery.due_at(), None);
    delivery.apply(&Move::Lease { until: None }, 1_500).expect("its wait was over once");
}

#[test]
fn backoff_grows_and_stops_growing() {
    assert_eq!(backoff_ms(1), 5_000);
    assert_eq!(backoff_ms(2), 10_000);
    assert_eq!(backoff_ms(99), 900_000);
}

/// The allowed moves between states, written down once more and differently: a table.
fn model(from: DeliveryState, reason: Option<&str>, action: &Move) -> &'static [DeliveryState] {
    use DeliveryState::{Cancelled, Completed, Dead, Expired, Leased, Pending};
    match (from, action) {
        (Pending, Move::Lease { .. }) | (Leased, Move::Extend { .. }) => &[Leased],
        (Pending | Leased, Move::Complete { .. }) => &[Completed],
        (Dead, Move::Complete { .. }) if reason == Some(reason::ATTEMPTS) => &[Completed],
        (Leased, Move::Nack { .. } | Move::LeaseOver { .. }) => &[Pending, Dead],
        (Pending | Leased, Move::Fail { .. }) => &[Dead],
        (Pending, Move::Expire) => &[Expired],
        (Pending | Leased, Move::Cancel { .. }) => &[Cancelled],
        (Dead, Move::Redrive) => &[Pending],
        _ => &[],
    }
}

fn any_move() -> impl Strategy<Value = Move> {
    let attempt = prop_oneof![Just(None), (0..4i32).prop_map(Some)];
    prop_oneof![
        3 => prop_oneof![Just(None), (0..200i64).prop_map(Some)].prop_map(|until| Move::Lease { until }),
        2 => (attempt.clone(), 0..2u8).prop_map(|(attempt, result)| report(result, attempt)),
        1 => (attempt.clone(), 0..200i64).prop_map(|(attempt, retry_at)| Move::Nack { attempt, retry_at, reason: None }),
        2 => (0..200i64).prop_map(|retry_at| Move::LeaseOver { retry_at }),
        1 => (attempt.clone(), 0..200i64).prop_map(|(attempt, until)| Move::Extend { attempt, until }),
        1 => attempt.prop_map(|attempt| Move::Fail { attempt, reason: "broken".into() }),
        1 => Just(Move::Expire),
        1 => Just(Move::Cancel { reason: None }),
        1 => Just(Move::Redrive),
    ]
}

proptest! {
    #[test]
    fn every_history_of_moves_follows_the_model(
        attempts_max in 1..4i32,
        ttl in prop_oneof![Just(None), (0..150i64).prop_map(Some)],
        moves in proptest::collection::vec((any_move(), 0..20i64), 1..40),
    ) {
        let mut delivery = fresh(attempts_max, ttl);
        let mut now_ms = 0;
        let mut attempts_seen = 0;
        for (action, passes_ms) in moves {
            now_ms += passes_ms;
            let before = delivery.clone();
            match delivery.apply(&action, now_ms) {
                Ok(Applied::Changed) => {
                    let allowed = model(before.state, before.reason.as_deref(), &action);
                    prop_assert!(allowed.contains(&delivery.state), "{before:?} {action:?} -> {delivery:?}");
                    // DLV-1: each hand-out has a number of its own; only a redrive starts the count afresh.
                    match action {
                        Move::Lease { .. } => { attempts_seen += 1; prop_assert_eq!(delivery.attempt, attempts_seen); }
                        Move::Redrive => { attempts_seen = 0; prop_assert_eq!(delivery.attempt, 0); }
                        _ => prop_assert_eq!(delivery.attempt, before.attempt),
                    }
                    prop_assert!(delivery.attempt <= attempts_max.max(before.attempt), "never more hand-outs than allowed");
                    // DLV-2: open states have no end time and dead ones a reason.
                    prop_assert_eq!(delivery.state.is_open(), delivery.ended_at.is_none());
                    if delivery.state == DeliveryState::Dead { prop_assert!(delivery.reason.is_some()); }
                    if delivery.state == DeliveryState::Pending {
                        let waits = delivery.must_wait(now_ms);
                        prop_assert_eq!(delivery.due_at().is_some(), waits || delivery.expires_at.is_some());
                    }
                    prop_assert_eq!(delivery.outcome.is_some(), delivery.state == DeliveryState::Completed);
                    if delivery.state != DeliveryState::Leased { prop_assert!(delivery.lease_until.is_none()); }
                }
                Ok(Applied::Repeated) | Err(_) => prop_assert_eq!(&before, &delivery, "nothing changes"),
            }
            // What is due by time alone is always a legal move.
            if let Some(due) = delivery.due_move(now_ms, now_ms) {
                let mut moved = delivery.clone();
                prop_assert_eq!(moved.apply(&due, now_ms).expect("a due move is legal"), Applied::Changed);
            }
        }
    }
}
