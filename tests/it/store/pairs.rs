//! Agents that answer each other without end come to one (RTE-1): by the hops of their requests, and by the rate of a
//! pair.
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clawbroker::domain::agent::{AgentFacts, AgentKind};
use clawbroker::domain::error::{Error, ErrorCode};
use clawbroker::domain::ids::{DeliveryId, MessageId};
use clawbroker::store::deliveries::FireDue;
use clawbroker::store::mailbox::{Fail, LoopGuards, SendMessage, Sent};
use clawbroker::store::{Command, Lane, Tx};

use super::mailbox::{agent, hand_out, mail, message, report, two};
use crate::harness::TestStore;
use crate::harness::test_store::roomy;

on_both_databases!(
    two_agents_that_ask_again_at_each_reply_come_to_an_end,
    two_agents_that_ask_back_come_to_an_end,
    an_agent_that_asks_again_at_each_notice_comes_to_an_end,
    a_sender_may_name_what_led_to_its_request,
    a_triangle_is_ended_by_the_rate_of_its_pairs,
    what_is_refused_does_not_count,
    a_restart_in_the_middle_counts_on,
    what_was_handed_out_before_a_restart_is_given_up_after_it,
    a_failed_neighbour_changes_no_count,
    without_bounds_nothing_is_refused,
);

const GUARDS: LoopGuards = LoopGuards { hops_max: 8, pair_requests_max: 100, pair_window_ms: 600_000 };

type Facts = Arc<AgentFacts>;

fn request(from: &Facts, to: &Facts, guards: LoopGuards) -> SendMessage {
    SendMessage { guards, ..message(from, to, "go on") }
}

async fn send(store: &TestStore, from: &Facts, to: &Facts) -> Result<Sent, Error> {
    store.write(request(from, to, GUARDS)).await
}

/// Has one agent ask and the other one answer, without a word about what led to it.
async fn round(store: &TestStore, from: &Facts, to: &Facts) -> Result<i32, Error> {
    let line = send(store, from, to).await?.line;
    store.write(report(to, line.id, None, "and you?")).await.expect("an answer");
    Ok(line.hops)
}

/// Has a request sent and handed out; returns its hops, message and delivery.
async fn held(store: &TestStore, from: &Facts, to: &Facts) -> (i32, MessageId, DeliveryId) {
    let line = send(store, from, to).await.expect("no bound is met").line;
    let id = mail(store, to).await.into_iter().find(|one| one.message_id == line.id).expect("its delivery").id;
    assert_eq!(hand_out(store, to, &[id]).await.len(), 1);
    (line.hops, line.id, id)
}

#[track_caller]
fn refusal<T: std::fmt::Debug>(refused: Result<T, Error>) -> (ErrorCode, Option<u32>) {
    let error = refused.expect_err("one too many");
    (error.code(), error.retry_after_s())
}

fn refused_totals(store: &TestStore) -> (u64, u64) {
    let stats = store.writer().stats();
    (stats.hop_limit_total.load(Ordering::Relaxed), stats.pair_rate_limited_total.load(Ordering::Relaxed))
}

async fn two_agents_that_ask_again_at_each_reply_come_to_an_end(store: TestStore) {
    let (ann, ben) = two(&store).await;
    for number in 1..=8 {
        assert_eq!(round(&store, &ann, &ben).await.unwrap(), number);
    }
    assert_eq!(refusal(round(&store, &ann, &ben).await), (ErrorCode::HopLimit, Some(3_600)));
    assert_eq!(store.number("SELECT count(*) AS value FROM messages").await, 16);
    assert_eq!(refused_totals(&store), (1, 0));
    // Of other pairs and of the other direction nothing is known.
    let cat = agent(&store, "Cat", AgentKind::OpenClaw).await;
    for (from, to) in [(&ann, &cat), (&cat, &ben), (&ben, &ann)] {
        assert_eq!(send(&store, from, to).await.unwrap().line.hops, 1);
    }
    // Replies lead to something for an hour.
    store.clock.advance_ms(3_599_999);
    assert_eq!(refusal(round(&store, &ann, &ben).await), (ErrorCode::HopLimit, Some(1)));
    store.clock.advance_ms(1);
    assert_eq!(round(&store, &ann, &ben).await.unwrap(), 1);
}

async fn two_agents_that_ask_back_come_to_an_end(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let mut asked = Vec::new();
    for number in 1..=8 {
        let (from, to) = if number % 2 == 1 { (&ann, &ben) } else { (&ben, &ann) };
        let (hops, message, _) = held(&store, from, to).await;
        assert_eq!(hops, number);
        asked.push(message);
    }
    assert_eq!(refusal(send(&store, &ann, &ben).await), (ErrorCode::HopLimit, Some(3_600)));
    // What she does not hold any more does not count: the highest that is left is the sixth.
    store.write(report(&ann, asked[7], Some(1), "enough")).await.unwrap();
    assert_eq!(send(&store, &ann, &ben).await.unwrap().line.hops, 7);
    for message in [asked[5], asked[3], asked[1]] {
        store.write(report(&ann, message, Some(1), "enough")).await.unwrap();
    }
    assert_eq!(send(&store, &ann, &ben).await.unwrap().line.hops, 1, "she holds nothing");
}

/// Whoever is asked gives up each time.
async fn an_agent_that_asks_again_at_each_notice_comes_to_an_end(store: TestStore) {
    let (ann, ben) = two(&store).await;
    for number in 1..=8 {
        let (hops, message_id, _) = held(&store, &ann, &ben).await;
        assert_eq!(hops, number);
        let fail = Fail { recipient: ben.party_id, message_id, attempt: None, reason: "never".into() };
        store.write(fail).await.expect("it is his");
    }
    assert_eq!(refusal(send(&store, &ann, &ben).await), (ErrorCode::HopLimit, Some(3_600)));
    // Also when nothing is remembered.
    let again = TestStore::with(store.database.clone(), roomy());
    assert_eq!(refusal(send(&again, &ann, &ben).await).0, ErrorCode::HopLimit);
    again.clock.advance_ms(3_600_000);
    assert_eq!(send(&again, &ann, &ben).await.unwrap().line.hops, 1);
}

async fn a_sender_may_name_what_led_to_its_request(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let first = send(&store, &ann, &ben).await.unwrap().line;
    let reply = store.write(report(&ben, first.id, None, "one")).await.unwrap().reply.expect("a reply");
    for _ in 0..7 {
        round(&store, &ann, &ben).await.unwrap();
    }
    let newest = mail(&store, &ann).await.last().expect("replies").message_id;
    let after = |id: MessageId| SendMessage { in_reply_to: Some(id), ..request(&ann, &ben, GUARDS) };
    // Her own, and what she was sent.
    for id in [first.id, reply.id] {
        let line = store.write(after(id)).await.unwrap().line;
        assert_eq!((line.hops, line.in_reply_to), (2, Some(id)));
    }
    assert_eq!(refusal(store.write(after(newest)).await).0, ErrorCode::HopLimit, "it was the eighth");
    // Also when nothing is remembered of them.
    let other = TestStore::with(store.database.clone(), roomy());
    for id in [first.id, reply.id] {
        assert_eq!(other.write(after(id)).await.unwrap().line.hops, 2);
    }
    let cat = agent(&store, "Cat", AgentKind::OpenClaw).await;
    let strange = SendMessage { in_reply_to: Some(first.id), ..request(&cat, &ben, GUARDS) };
    assert_eq!(refusal(store.write(strange).await).0, ErrorCode::NotFound);
}

/// Nobody holds a request of whom it writes to, so hops see nothing.
async fn a_triangle_is_ended_by_the_rate_of_its_pairs(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let cat = agent(&store, "Cat", AgentKind::OpenClaw).await;
    let guards = LoopGuards { pair_requests_max: 3, ..GUARDS };
    let ways = [(&ann, &ben), (&ben, &cat), (&cat, &ann)];
    let mut sent = 0;
    let refused = loop {
        let (from, to) = ways[sent % 3];
        match store.write(request(from, to, guards)).await {
            Ok(accepted) => assert_eq!(accepted.line.hops, 1),
            Err(error) => break error,
        }
        let ids: Vec<DeliveryId> = mail(&store, to).await.iter().map(|delivery| delivery.id).collect();
        assert_eq!(hand_out(&store, to, &ids).await.len(), 1);
        store.clock.advance_ms(1_000);
        sent += 1;
    };
    assert_eq!(sent, 9, "three of each pair");
    // Nine seconds have passed since the first one.
    assert_eq!((refused.code(), refused.retry_after_s()), (ErrorCode::PairRateLimited, Some(591)));
    assert_eq!(refused_totals(&store), (0, 1));
    store.clock.advance_ms(590_999);
    let again = store.write(request(&ann, &ben, guards)).await;
    assert_eq!(refusal(again), (ErrorCode::PairRateLimited, Some(1)));
    store.clock.advance_ms(1);
    store.write(request(&ann, &ben, guards)).await.expect("the first one is ten minutes old");
}

async fn what_is_refused_does_not_count(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let guards = LoopGuards { pair_requests_max: 2, ..GUARDS };
    for _ in 0..2 {
        store.write(request(&ann, &ben, guards)).await.unwrap();
    }
    store.clock.advance_ms(300_000);
    let nothing = SendMessage { in_reply_to: Some(MessageId::new()), ..request(&ann, &ben, guards) };
    assert_eq!(refusal(store.write(nothing).await).0, ErrorCode::NotFound);
    for _ in 0..5 {
        let refused = store.write(request(&ann, &ben, guards)).await;
        assert_eq!(refusal(refused), (ErrorCode::PairRateLimited, Some(300)));
    }
    store.clock.advance_ms(300_000);
    for _ in 0..2 {
        store.write(request(&ann, &ben, guards)).await.expect("two in ten minutes");
    }
    assert_eq!(refusal(store.write(request(&ann, &ben, guards)).await).0, ErrorCode::PairRateLimited);
    assert_eq!(refused_totals(&store), (0, 6));
}

async fn a_restart_in_the_middle_counts_on(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let (cat, dan) = (agent(&store, "Cat", AgentKind::OpenClaw).await, agent(&store, "Dan", AgentKind::OpenClaw).await);
    let guards = LoopGuards { pair_requests_max: 3, ..GUARDS };
    for number in 1..=5 {
        assert_eq!(round(&store, &ann, &ben).await.unwrap(), number);
    }
    assert_eq!(held(&store, &cat, &dan).await.0, 1);
    for _ in 0..2 {
        store.write(request(&cat, &dan, guards)).await.unwrap();
    }
    let again = TestStore::with(store.database.clone(), roomy());
    again.clock.advance_ms(60_000);
    // By replies, by what is held, and by the rate.
    for number in 6..=8 {
        assert_eq!(round(&again, &ann, &ben).await.unwrap(), number);
    }
    assert_eq!(refusal(round(&again, &ann, &ben).await).0, ErrorCode::HopLimit);
    assert_eq!(send(&again, &dan, &cat).await.unwrap().line.hops, 2);
    let refused = again.write(request(&cat, &dan, guards)).await;
    assert_eq!(refusal(refused), (ErrorCode::PairRateLimited, Some(540)));
    again.clock.advance_ms(540_000);
    again.write(request(&cat, &dan, guards)).await.expect("they are ten minutes old");
}

async fn what_was_handed_out_before_a_restart_is_given_up_after_it(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let (_, _, leased) = held(&store, &ann, &ben).await;
    let again = TestStore::with(store.database.clone(), roomy());
    assert_eq!(send(&again, &ben, &ann).await.unwrap().line.hops, 2, "he holds one of hers");
    // The lease ends: nobody told the writer whose it was.
    again.clock.advance_ms(60_000);
    assert_eq!(again.write(FireDue { ids: vec![leased] }).await.unwrap().ready.len(), 1);
    assert_eq!(send(&again, &ben, &ann).await.unwrap().line.hops, 1);
}

/// A command that has second thoughts after it has written.
struct Failing(SendMessage);

impl Command for Failing {
    type Output = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        self.0.apply(tx)?;
        Err(Error::new(ErrorCode::InvalidRequest, "second thoughts"))
    }
}

/// A batch that is rolled back and repeated counts what it stored, once.
async fn a_failed_neighbour_changes_no_count(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let guards = LoopGuards { pair_requests_max: 3, ..GUARDS };
    let submitted = || store.writer().submit(Lane::Interactive, request(&ann, &ben, guards)).unwrap();
    let mut held = store.events.hold();
    let running = submitted();
    held.arrived().await;
    let before = submitted();
    let failing = store.writer().submit(Lane::Interactive, Failing(request(&ann, &ben, guards))).unwrap();
    let (after, over) = (submitted(), submitted());
    drop(held);
    for accepted in [running, before, after] {
        accepted.await.unwrap().expect("there were three");
    }
    assert_eq!(refusal(failing.await.unwrap()).0, ErrorCode::InvalidRequest);
    assert_eq!(refusal(over.await.unwrap()), (ErrorCode::PairRateLimited, Some(600)));
    assert_eq!(store.writer().stats().replays_total.load(Ordering::Relaxed), 1);
    assert_eq!(refused_totals(&store), (0, 1), "though it was refused twice");
    assert_eq!(store.number("SELECT count(*) AS value FROM messages").await, 3);
}

async fn without_bounds_nothing_is_refused(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let guards = LoopGuards { hops_max: 0, pair_requests_max: 0, pair_window_ms: 600_000 };
    for number in 1..=20 {
        let line = store.write(request(&ann, &ben, guards)).await.unwrap().line;
        assert_eq!(line.hops, number, "they are counted all the same");
        store.write(report(&ben, line.id, None, "and you?")).await.unwrap();
    }
    assert_eq!(refused_totals(&store), (0, 0));
    // What was before a start is not read for it, but where there are bounds again.
    let again = TestStore::with(store.database.clone(), roomy());
    assert_eq!(again.write(request(&ann, &ben, guards)).await.unwrap().line.hops, 1);
    assert_eq!(refusal(send(&again, &ann, &ben).await), (ErrorCode::HopLimit, Some(3_600)));
}
