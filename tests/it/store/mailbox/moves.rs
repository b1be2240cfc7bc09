//! What a recipient says about its mail: given back, given up, prolonged, acknowledged, and reported on in every state.
use std::sync::Arc;

use clawbroker::domain::agent::AgentFacts;
use clawbroker::domain::clock::Clock;
use clawbroker::domain::delivery::{DeliveryState, Outcome, reason};
use clawbroker::domain::error::ErrorCode;
use clawbroker::domain::ids::{DeliveryId, MessageId};
use clawbroker::store::deliveries::{self, Cancel, DeliveryOptions, FireDue, Redrive};
use clawbroker::store::mailbox::{
    Acknowledge, Acknowledged, Close, Extend, ExtendAll, Extended, Fail, HandOut, MailLimits, Nack, Prolonging,
    SendMessage,
};

use super::{LIMITS, UNTIL, hand_out, handed, mail, message, report, two};
use crate::harness::TestStore;
use crate::harness::test_store::{START_MS, roomy};

on_both_databases!(
    what_each_call_may_do_depends_on_the_state_and_the_number,
    what_was_never_handed_out_may_only_be_given_up,
    of_what_is_not_ones_own_nothing_is_told,
    what_is_given_back_comes_again_with_the_next_number,
    what_was_given_up_stays_dead,
    a_lease_is_prolonged_up_to_its_bound_and_never_shortened,
    a_long_job_leaves_a_readable_history,
    what_is_worked_on_is_prolonged_as_far_as_it_is_ones_own,
    replies_are_acknowledged_and_requests_are_not,
);

/// Ten minutes more, twelve hours in all.
const BY: Prolonging = Prolonging { lease_ms: 600_000, total_max_ms: 43_200_000 };

/// Where a request is that was handed out twice.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Waits,
    Leased,
    Reported,
    Failed,
    /// Its attempts are used up.
    Spent,
    Cancelled,
    Expired,
}

const STAGES: [Stage; 7] =
    [Stage::Waits, Stage::Leased, Stage::Reported, Stage::Failed, Stage::Spent, Stage::Cancelled, Stage::Expired];

#[derive(Clone, Copy, Debug)]
enum Call {
    Nack,
    Fail,
    Extend,
    /// With this result.
    Report(&'static str),
}

const CALLS: [Call; 5] = [Call::Nack, Call::Fail, Call::Extend, Call::Report("done"), Call::Report("other")];

fn nack(by: &AgentFacts, message_id: MessageId, attempt: Option<i32>) -> Nack {
    Nack { recipient: by.party_id, message_id, attempt, delay_ms: 0, reason: None }
}

fn fail(by: &AgentFacts, message_id: MessageId, attempt: Option<i32>, reason: &str) -> Fail {
    Fail { recipient: by.party_id, message_id, attempt, reason: reason.into() }
}

fn extend(by: &AgentFacts, message_id: MessageId, attempt: Option<i32>) -> Extend {
    Extend { recipient: by.party_id, message_id, attempt, by: BY }
}

/// Makes a call; returns what it said.
async fn called(
    store: &TestStore,
    call: Call,
    by: &Arc<AgentFacts>,
    id: MessageId,
    attempt: Option<i32>,
) -> Result<&'static str, ErrorCode> {
    let said = match call {
        Call::Nack => store.write(nack(by, id, attempt)).await.map(DeliveryState::as_str),
        Call::Fail => store.write(fail(by, id, attempt, "never")).await.map(DeliveryState::as_str),
        Call::Extend => store.write(extend(by, id, attempt)).await.map(|_| "extended"),
        Call::Report(result) => store.write(report(by, id, attempt, result)).await.map(|reported| {
            assert_eq!(reported.reply.is_none(), reported.repeated, "{reported:?}");
            if reported.repeated { "repeated" } else { "reported" }
        }),
    };
    said.map_err(|error| error.code())
}

async fn lease(store: &TestStore, to: &AgentFacts, id: DeliveryId) {
    let until = store.clock.now_ms() + 60_000;
    let out = store.write(HandOut { recipient: to.party_id, ids: vec![id], until }).await.expect("no failure");
    assert_eq!(out.len(), 1);
}

/// Has a request be handed out twice, and brings it to its stage.
async fn staged(
    store: &TestStore,
    ann: &Arc<AgentFacts>,
    ben: &Arc<AgentFacts>,
    stage: Stage,
) -> (MessageId, DeliveryId) {
    let expires_at = (stage == Stage::Expired).then(|| store.clock.now_ms() + 1_000);
    let attempts_max = if stage == Stage::Spent { 2 } else { 5 };
    let new = SendMessage {
        options: DeliveryOptions { expires_at, ..DeliveryOptions::default() },
        limits: MailLimits { attempts_max, ..LIMITS },
        ..message(ann, ben, "x")
    };
    let sent = store.write(new).await.expect("room").line.id;
    let id = mail(store, ben).await.into_iter().find(|d| d.message_id == sent).expect("its delivery").id;
    lease(store, ben, id).await;
    store.write(nack(ben, sent, Some(1))).await.expect("it is leased");
    lease(store, ben, id).await;
    match stage {
        Stage::Leased => {}
        Stage::Waits | Stage::Spent => {
            store.write(nack(ben, sent, None)).await.expect("it is leased");
        }
        Stage::Reported => {
            store.write(report(ben, sent, None, "done")).await.expect("it is leased");
        }
        Stage::Failed => {
            store.write(fail(ben, sent, None, "no")).await.expect("it is leased");
        }
        Stage::Cancelled => {
            store.write(Cancel { id, reason: None }).await.expect("it is open");
        }
        Stage::Expired => {
            store.write(nack(ben, sent, None)).await.expect("it is leased");
            store.clock.advance_ms(1_000);
            store.write(FireDue { ids: vec![id] }).await.expect("time moves it");
        }
    }
    (sent, id)
}

/// The table of the contract.
fn expected(call: Call, stage: Stage, attempt: Option<i32>) -> Result<&'static str, ErrorCode> {
    match (stage, call) {
        _ if attempt == Some(3) => Err(ErrorCode::ValidationError),
        (Stage::Waits, Call::Nack | Call::Extend) => Err(ErrorCode::NotLeased),
        (Stage::Waits | Stage::Leased, _) if attempt == Some(1) => Err(ErrorCode::StaleAttempt),
        // What was done all the same counts, unless it was handed out again since.
        (Stage::Spent, Call::Report(_)) if attempt == Some(1) => Err(ErrorCode::StaleAttempt),
        (Stage::Waits | Stage::Leased | Stage::Spent, Call::Report(_)) => Ok("reported"),
        // Whatever the number: what counts are the words.
        (Stage::Reported, Call::Report("done")) => Ok("repeated"),
        (Stage::Reported, Call::Report(_)) => Err(ErrorCode::ResultConflict),
        (Stage::Waits | Stage::Leased, Call::Fail) => Ok("dead"),
        (Stage::Leased, Call::Nack) => Ok("pending"),
        (Stage::Leased, Call::Extend) => Ok("extended"),
        _ => Err(ErrorCode::DeliveryEnded),
    }
}

async fn what_each_call_may_do_depends_on_the_state_and_the_number(store: TestStore) {
    let (ann, ben) = two(&store).await;
    for stage in STAGES {
        for call in CALLS {
            for last in [None, Some(2)] {
                let (message, id) = staged(&store, &ann, &ben, stage).await;
                let before = store.delivery(id).await.delivery;
                assert_eq!(before.attempt, 2, "{stage:?}");
                store.told();
                for attempt in [Some(1), Some(3), last] {
                    let wanted = expected(call, stage, attempt);
                    let said = called(&store, call, &ben, message, attempt).await;
                    assert_eq!(said, wanted, "{call:?} of {stage:?} with {attempt:?}");
                    let (after, told) = (store.delivery(id).await.delivery, store.told());
                    let changes_nothing = wanted.is_err() || wanted == Ok("repeated");
                    assert_eq!(
                        (after == before, told.is_empty()),
                        (changes_nothing, changes_nothing),
                        "{after:?} {told:?}"
                    );
                }
            }
        }
    }
}

async fn what_was_never_handed_out_may_only_be_given_up(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let message = store.write(message(&ann, &ben, "x")).await.unwrap().line.id;
    for call in [Call::Nack, Call::Extend] {
        assert_eq!(called(&store, call, &ben, message, None).await, Err(ErrorCode::NotLeased), "{call:?}");
    }
    for call in CALLS {
        assert_eq!(called(&store, call, &ben, message, Some(1)).await, Err(ErrorCode::ValidationError), "{call:?}");
    }
    assert_eq!(called(&store, Call::Fail, &ben, message, None).await, Ok("dead"));
    assert!(mail(&store, &ben).await.is_empty());
}

/// SEC-2.
async fn of_what_is_not_ones_own_nothing_is_told(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let (asked, id) = handed(&store, &ann, &ben, "x").await;
    let before = store.delivery(id).await.delivery;
    for strange in [asked, MessageId::new()] {
        for error in [
            store.write(nack(&ann, strange, Some(7))).await.unwrap_err(),
            store.write(fail(&ann, strange, None, "mine")).await.unwrap_err(),
            store.write(extend(&ann, strange, None)).await.unwrap_err(),
        ] {
            assert_eq!((error.code(), error.message()), (ErrorCode::NotFound, "Message not found"));
        }
        let working_on = vec![(strange, Some(7))];
        let told = store.write(ExtendAll { recipient: ann.party_id, working_on, by: BY }).await.unwrap();
        assert_eq!(told, Extended { extended: vec![], stale: vec![strange] });
        let ack = Acknowledge { recipient: ann.party_id, message_ids: vec![strange] };
        assert_eq!(store.write(ack).await.unwrap(), Acknowledged { acked: vec![], unknown: vec![strange] });
    }
    assert_eq!(store.delivery(id).await.delivery, before);
}

async fn what_is_given_back_comes_again_with_the_next_number(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let (message, id) = handed(&store, &ann, &ben, "x").await;
    store.told();
    let later = Nack { delay_ms: 5_000, reason: Some("no paper".into()), ..nack(&ben, message, Some(1)) };
    assert_eq!(store.write(later).await.unwrap(), DeliveryState::Pending);
    assert_eq!(store.told(), ["delivery leased -> pending"]);
    let waits = store.delivery(id).await;
    assert_eq!((waits.delivery.reason.as_deref(), waits.delivery.due_at()), (Some("no paper"), Some(START_MS + 5_000)));
    let entry = waits.events.last().unwrap();
    assert_eq!((entry.what.as_str(), entry.attempt, entry.reason.as_deref()), ("nacked", Some(1), Some("no paper")));
    store.clock.advance_ms(4_999);
    assert!(hand_out(&store, &ben, &[id]).await.is_empty(), "it waits");
    store.clock.advance_ms(1);
    assert_eq!(hand_out(&store, &ben, &[id]).await[0].attempt, 2);
    // Without a delay at once, until the attempts are used up.
    for attempt in 2..=5 {
        let state = store.write(nack(&ben, message, Some(attempt))).await.unwrap();
        let wanted = if attempt < 5 { DeliveryState::Pending } else { DeliveryState::Dead };
        assert_eq!(state, wanted, "{attempt}");
        let again = hand_out(&store, &ben, &[id]).await;
        assert_eq!(
            again.iter().map(|one| one.attempt).collect::<Vec<_>>(),
            if attempt < 5 { vec![attempt + 1] } else { vec![] }
        );
    }
    let dead = store.delivery(id).await.delivery;
    assert_eq!((dead.state, dead.reason.as_deref()), (DeliveryState::Dead, Some(reason::ATTEMPTS)));
    assert!(store.write(report(&ben, message, None, "after all")).await.unwrap().reply.is_some());
}

async fn what_was_given_up_stays_dead(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let (message, id) = handed(&store, &ann, &ben, "x").await;
    store.told();
    let its_end = ["delivery leased -> dead", "line 2", "delivery new -> pending"];
    for told in [&its_end[..], &[]] {
        assert_eq!(store.write(fail(&ben, message, Some(1), "no")).await.unwrap(), DeliveryState::Dead);
        assert_eq!(store.told(), told, "the same again changes nothing");
    }
    let refused = store.write(report(&ben, message, Some(1), "after all")).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::DeliveryEnded);
    store.clock.advance_ms(86_400_000);
    store.write(FireDue { ids: vec![id] }).await.unwrap();
    assert!(hand_out(&store, &ben, &[id]).await.is_empty());
    // An operator may start it afresh, and then it is as any other.
    store.write(Redrive { id }).await.unwrap();
    lease(&store, &ben, id).await;
    assert_eq!(called(&store, Call::Nack, &ben, message, Some(1)).await, Ok("pending"));
}

async fn a_lease_is_prolonged_up_to_its_bound_and_never_shortened(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let (message, id) = handed(&store, &ann, &ben, "x").await;
    let more = |lease_ms: i64, total_max_ms: i64| Extend {
        by: Prolonging { lease_ms, total_max_ms },
        ..extend(&ben, message, None)
    };
    store.told();
    assert_eq!(store.write(more(600_000, 900_000)).await.unwrap(), START_MS + 600_000);
    assert_eq!(store.told(), ["delivery leased -> leased"]);
    let due = store.read(|db| deliveries::due(db, 10)).await.unwrap();
    assert_eq!(due, [(START_MS + 600_000, id)], "the scheduler finds it there");
    // The old end is none any more.
    store.clock.advance_ms(60_000);
    store.write(FireDue { ids: vec![id] }).await.unwrap();
    for (lease_ms, total_max_ms) in [(10_000, 900_000), (600_000, 100_000)] {
        assert_eq!(store.write(more(lease_ms, total_max_ms)).await.unwrap(), START_MS + 600_000, "never shorter");
    }
    assert!(store.told().is_empty(), "what changes nothing is not written");
    store.clock.advance_ms(500_000);
    assert_eq!(store.write(more(600_000, 900_000)).await.unwrap(), START_MS + 900_000, "never longer in all");
    // It is over, and nobody has taken it away yet: within the bound it may go on.
    store.clock.advance_ms(340_000);
    let refused = store.write(more(600_000, 900_000)).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::NotLeased);
    assert_eq!(store.write(more(600_000, 1_800_000)).await.unwrap(), START_MS + 1_500_000);
    // Each hand-out has the whole time again.
    store.write(nack(&ben, message, None)).await.unwrap();
    lease(&store, &ben, id).await;
    assert_eq!(store.write(more(900_000, 900_000)).await.unwrap(), START_MS + 1_800_000);
}

/// T9 of the plan: a heartbeat each 30 s for twelve hours.
async fn a_long_job_leaves_a_readable_history(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let (message, id) = handed(&store, &ann, &ben, "x").await;
    let longer = |n: i64| Extend { by: Prolonging { lease_ms: 60_000 + n, ..BY }, ..extend(&ben, message, Some(1)) };
    let extended = futures_util::future::join_all((1..=1_439).map(|n| store.write(longer(n)))).await;
    assert!(extended.iter().all(Result::is_ok));
    store.clock.advance_ms(30_000);
    store.write(longer(0)).await.unwrap();
    store.write(nack(&ben, message, None)).await.unwrap();
    lease(&store, &ben, id).await;
    store.write(extend(&ben, message, Some(2))).await.unwrap();
    let events = store.delivery(id).await.events;
    let history: Vec<(&str, i64)> = events.iter().map(|entry| (entry.what.as_str(), entry.at - START_MS)).collect();
    let expected = [
        ("accepted", 0),
        ("leased", 0),
        ("extended", 30_000),
        ("nacked", 30_000),
        ("leased", 30_000),
        ("extended", 30_000),
    ];
    assert_eq!(history, expected);
}

async fn what_is_worked_on_is_prolonged_as_far_as_it_is_ones_own(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let mut ids = Vec::new();
    for stage in [Stage::Leased, Stage::Leased, Stage::Leased, Stage::Waits, Stage::Reported, Stage::Spent] {
        ids.push(staged(&store, &ann, &ben, stage).await);
    }
    let of = |index: usize| ids[index].0;
    let all = |working_on: Vec<(MessageId, Option<i32>)>| ExtendAll { recipient: ben.party_id, working_on, by: BY };
    store.told();
    // A number that was never given out is a mistake of the caller, and nothing is done.
    let wrong = store.write(all(vec![(of(0), Some(2)), (of(1), Some(3))])).await.unwrap_err();
    assert_eq!(wrong.code(), ErrorCode::ValidationError);
    assert!(store.told().is_empty());
    let strange = MessageId::new();
    let working_on = vec![
        (of(0), None),
        (of(1), Some(2)),
        (of(2), Some(1)),
        (of(3), None),
        (of(4), Some(1)),
        (of(5), Some(2)),
        (strange, Some(9)),
        (of(0), Some(2)),
    ];
    let told = store.write(all(working_on.clone())).await.unwrap();
    let (extended, stale) = (vec![of(0), of(1), of(0)], vec![of(2), of(3), of(4), of(5), strange]);
    assert_eq!(told, Extended { extended, stale });
    assert_eq!(store.told(), ["delivery leased -> leased"; 2], "what is named twice is prolonged once");
    let until = async |index: usize| store.delivery(ids[index].1).await.delivery.lease_until;
    let (short, long) = (Some(UNTIL), Some(START_MS + BY.lease_ms));
    assert_eq!((until(0).await, until(1).await, until(2).await), (long, long, short));
    // Whatever is remembered of it.
    let other = TestStore::with(store.database.clone(), roomy());
    other.clock.advance_ms(1_000);
    assert_eq!(other.write(all(working_on)).await.unwrap(), told);
    assert_eq!(until(1).await, Some(START_MS + BY.lease_ms + 1_000));
}

async fn replies_are_acknowledged_and_requests_are_not(store: TestStore) {
    let (ann, ben) = two(&store).await;
    for n in 0..6 {
        let (asked, _) = handed(&store, &ann, &ben, "x").await;
        store.write(report(&ben, asked, None, &n.to_string())).await.unwrap();
    }
    let (request, _) = handed(&store, &ben, &ann, "and you?").await;
    let replies: Vec<(MessageId, DeliveryId)> =
        mail(&store, &ann).await.iter().filter(|d| d.message_id != request).map(|d| (d.message_id, d.id)).collect();
    assert_eq!(replies.len(), 6);
    let deliveries: Vec<DeliveryId> = replies.iter().map(|(_, id)| *id).collect();
    assert_eq!(hand_out(&store, &ann, &deliveries[..5]).await.len(), 5);
    // Leased; handed out for good; given back; dead; cancelled; never handed out.
    let close = Close { recipient: ann.party_id, handed_out: vec![(deliveries[1], 1)], outcome: Outcome::HandedOut };
    assert_eq!(store.write(close).await.unwrap(), 1);
    store.write(nack(&ann, replies[2].0, None)).await.unwrap();
    store.write(fail(&ann, replies[3].0, None, "no")).await.unwrap();
    store.write(Cancel { id: deliveries[4], reason: None }).await.unwrap();
    store.told();
    let mut message_ids: Vec<MessageId> = replies.iter().map(|(id, _)| *id).collect();
    message_ids.extend([request, message_ids[0]]);
    let ack = || Acknowledge { recipient: ann.party_id, message_ids: message_ids.clone() };
    let told = store.write(ack()).await.unwrap();
    let of = |indexes: [usize; 4]| indexes.map(|index| message_ids[index]).to_vec();
    let mut acked = of([0, 1, 2, 5]);
    acked.push(message_ids[0]);
    assert_eq!(told, Acknowledged { acked, unknown: vec![replies[3].0, replies[4].0, request] });
    let moved = ["delivery leased -> completed", "delivery pending -> completed", "delivery pending -> completed"];
    assert_eq!(store.told(), moved);
    // Again, also by whom nothing is remembered.
    let other = TestStore::with(store.database.clone(), roomy());
    for store in [&store, &other] {
        assert_eq!(store.write(ack()).await.unwrap(), told);
        assert!(store.told().is_empty());
    }
    let mut outcomes = Vec::new();
    for id in deliveries {
        outcomes.push(store.delivery(id).await.delivery.outcome);
    }
    let (said, out) = (Some(Outcome::Acknowledged), Some(Outcome::HandedOut));
    assert_eq!(outcomes, [said, out, said, None, None, said]);
    assert_eq!(mail(&store, &ann).await.len(), 1, "the request waits for a report");
}
