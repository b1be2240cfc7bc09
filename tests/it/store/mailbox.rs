//! The cycle of a message between agents: sent, handed out, reported on, given back.
mod moves;

use std::sync::Arc;

use clawbroker::domain::agent::{AgentFacts, AgentKind};
use clawbroker::domain::delivery::{Delivery, DeliveryState, Outcome, reason};
use clawbroker::domain::error::{Error, ErrorCode};
use clawbroker::domain::ids::{DeliveryId, MessageId};
use clawbroker::domain::message::{MessageKind, MessageRole};
use clawbroker::store::agents::RemoveAgent;
use clawbroker::store::audit::Actor;
use clawbroker::store::conversations::DeleteConversation;
use clawbroker::store::deliveries::{self, DeliveryOptions, FireDue, Purge};
use clawbroker::store::mailbox::{
    Close, GiveBack, HandOut, HandedOut, LoopGuards, MailLimits, Report, Reported, SendMessage, Sent,
};
use clawbroker::store::messages::{self, Idem, Span};

use crate::harness::TestStore;
use crate::harness::test_store::{START_MS, roomy};

pub(super) const LIMITS: MailLimits = MailLimits { messages_max: 100, attempts_max: 5 };
/// A lease of a minute.
const UNTIL: i64 = START_MS + 60_000;

pub(super) async fn agent(store: &TestStore, name: &str, kind: AgentKind) -> Arc<AgentFacts> {
    Arc::new(store.agent(name, kind).await.facts())
}

/// Ann asks, Ben answers.
pub(super) async fn two(store: &TestStore) -> (Arc<AgentFacts>, Arc<AgentFacts>) {
    let pair = (agent(store, "Ann", AgentKind::OpenClaw).await, agent(store, "Ben", AgentKind::OpenClaw).await);
    store.told();
    pair
}

pub(super) fn message(from: &Arc<AgentFacts>, to: &AgentFacts, text: &str) -> SendMessage {
    SendMessage {
        from: from.clone(),
        to: to.id,
        text: text.into(),
        idem: None,
        in_reply_to: None,
        options: DeliveryOptions::default(),
        limits: LIMITS,
        guards: LoopGuards::default(),
    }
}

pub(super) fn report(by: &Arc<AgentFacts>, message_id: MessageId, attempt: Option<i32>, result: &str) -> Report {
    Report { reporter: by.clone(), message_id, attempt, result: result.into(), limits: LIMITS }
}

fn idem(key: &str, hash: u8) -> Option<Idem> {
    Some(Idem { key: key.into(), hash: [hash; 32] })
}

/// What lies open for an agent, oldest first.
pub(super) async fn mail(store: &TestStore, of: &AgentFacts) -> Vec<Delivery> {
    let party = of.party_id;
    let found = store.read(move |db| deliveries::open_of_recipient(db, party, 0, 1_000)).await.expect("a read");
    found.into_iter().map(|stored| stored.delivery).collect()
}

pub(super) async fn hand_out(store: &TestStore, to: &AgentFacts, ids: &[DeliveryId]) -> Vec<HandedOut> {
    store.write(HandOut { recipient: to.party_id, ids: ids.to_vec(), until: UNTIL }).await.expect("no failure")
}

/// Has a message sent and handed out; returns it with its delivery.
pub(super) async fn handed(
    store: &TestStore,
    from: &Arc<AgentFacts>,
    to: &AgentFacts,
    text: &str,
) -> (MessageId, DeliveryId) {
    let sent: Sent = store.write(message(from, to, text)).await.expect("room");
    let id = mail(store, to).await.into_iter().find(|d| d.message_id == sent.line.id).expect("its delivery").id;
    assert_eq!(hand_out(store, to, &[id]).await.len(), 1);
    (sent.line.id, id)
}

/// Lets the minute of a lease pass.
async fn over(store: &TestStore, id: DeliveryId) {
    store.clock.advance_ms(60_000);
    store.write(FireDue { ids: vec![id] }).await.expect("time moves it");
}

fn code(result: Result<Reported, Error>) -> Option<ErrorCode> {
    result.err().map(|error| error.code())
}

async fn a_request_is_answered_and_its_reply_delivered(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let sent = store.write(message(&ann, &ben, "how far?")).await.unwrap();
    assert_eq!((sent.line.kind, sent.line.role, sent.line.hops), (Some(MessageKind::Request), MessageRole::User, 1));
    assert_eq!((sent.line.sender.name.as_str(), sent.repeated, sent.target.as_str()), ("Ann", false, "Ben"));
    assert_eq!(store.told(), ["line 1", "delivery new -> pending"]);
    let id = mail(&store, &ben).await[0].id;
    let out = hand_out(&store, &ben, &[id]).await;
    assert_eq!(out, [HandedOut { delivery: id, attempt: 1, lease_until: UNTIL }]);
    assert_eq!(store.told(), ["delivery pending -> leased"]);

    let reported = store.write(report(&ben, sent.line.id, Some(1), "ten miles")).await.unwrap();
    let reply = reported.reply.expect("an answer");
    assert_eq!(
        (reply.kind, reply.role, reply.in_reply_to),
        (Some(MessageKind::Reply), MessageRole::Assistant, Some(sent.line.id))
    );
    assert_eq!((reply.sender.name.as_str(), reply.seq, reply.hops), ("Ben", 2, 1));
    assert_eq!(store.told(), ["delivery leased -> completed", "line 2", "delivery new -> pending"]);
    let asked = store.delivery(id).await.delivery;
    assert_eq!((asked.state, asked.outcome), (DeliveryState::Completed, Some(Outcome::Reported)));
    assert!(mail(&store, &ben).await.is_empty());
    let back = mail(&store, &ann).await;
    assert_eq!(back.iter().map(|d| d.message_id).collect::<Vec<_>>(), [reply.id]);

    // The other direction is another conversation (D-6), and what was said is read as it was stored.
    let back = store.write(message(&ben, &ann, "and you?")).await.unwrap();
    assert_ne!(back.line.conversation_id, reply.conversation_id);
    let conversation = reply.conversation_id;
    let lines = store.read(move |db| messages::page(db, conversation, Span::Newest, 10, 1 << 20)).await.unwrap();
    assert_eq!(lines, [sent.line, reply]);
}

async fn what_a_report_may_do_is_in_the_table(store: TestStore) {
    let (ann, ben) = two(&store).await;
    // Leased for the second time.
    for (attempt, refused) in [(None, None), (Some(2), None), (Some(1), Some(ErrorCode::StaleAttempt))] {
        let (message, id) = handed(&store, &ann, &ben, "twice").await;
        over(&store, id).await;
        let until = START_MS + 10_000_000;
        store.write(HandOut { recipient: ben.party_id, ids: vec![id], until }).await.unwrap();
        assert_eq!(code(store.write(report(&ben, message, attempt, "x")).await), refused, "{attempt:?}");
        if refused.is_some() {
            store.write(report(&ben, message, None, "x")).await.unwrap();
        }
    }
    // Pending: its lease is over, or it never had one.
    let (message, id) = handed_later(&store, &ann, &ben).await;
    store.clock.advance_ms(10_000_000);
    store.write(FireDue { ids: vec![id] }).await.unwrap();
    assert_eq!(store.delivery(id).await.delivery.state, DeliveryState::Pending);
    assert_eq!(code(store.write(report(&ben, message, Some(1), "late")).await), None);
    let never = store.write(self::message(&ann, &ben, "never leased")).await.unwrap().line.id;
    assert_eq!(code(store.write(report(&ben, never, Some(1), "x")).await), Some(ErrorCode::ValidationError));
    assert_eq!(code(store.write(report(&ben, never, None, "x")).await), None);
    // Completed.
    for (attempt, result, refused) in [
        (None, "late", None),
        (Some(1), "late", None),
        (Some(0), "late", None),
        (Some(2), "late", Some(ErrorCode::ValidationError)),
        (None, "other", Some(ErrorCode::ResultConflict)),
        (Some(1), "other", Some(ErrorCode::ResultConflict)),
    ] {
        assert_eq!(code(store.write(report(&ben, message, attempt, result)).await), refused, "{attempt:?} {result}");
    }
    let replies = store.number("SELECT count(*) AS value FROM messages WHERE kind = 2").await;
    assert_eq!(replies, 5, "one reply for each request");
    // Somebody else's, and none at all.
    for strange in [message, MessageId::new()] {
        let error = store.write(report(&ann, strange, None, "x")).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (ErrorCode::NotFound, "Message not found"));
    }
}

/// Has a message sent and handed out after the clock has moved.
async fn handed_later(store: &TestStore, from: &Arc<AgentFacts>, to: &AgentFacts) -> (MessageId, DeliveryId) {
    let sent = store.write(message(from, to, "later")).await.unwrap().line.id;
    let id = mail(store, to).await.into_iter().find(|d| d.message_id == sent).unwrap().id;
    let until = START_MS + 9_000_000;
    assert_eq!(store.write(HandOut { recipient: to.party_id, ids: vec![id], until }).await.unwrap().len(), 1);
    (sent, id)
}

async fn a_lease_that_is_over_comes_again_at_once_until_the_attempts_are_used_up(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let (message, id) = handed(&store, &ann, &ben, "x").await;
    for attempt in 2..=5 {
        store.clock.advance_ms(60_000);
        let now = START_MS + i64::from(attempt - 1) * 60_000;
        let fired = store.write(FireDue { ids: vec![id] }).await.unwrap();
        assert_eq!(fired.ready.len(), 1, "for an agent the lease was the wait");
        let out = store.write(HandOut { recipient: ben.party_id, ids: vec![id], until: now + 60_000 }).await.unwrap();
        assert_eq!(out.iter().map(|one| one.attempt).collect::<Vec<_>>(), [attempt]);
    }
    over(&store, id).await;
    let dead = store.delivery(id).await.delivery;
    assert_eq!((dead.state, dead.reason.as_deref()), (DeliveryState::Dead, Some(reason::ATTEMPTS)));
    assert!(hand_out(&store, &ben, &[id]).await.is_empty());
    assert_eq!(mail(&store, &ann).await.len(), 1, "she is told");
    // Its work was not in vain.
    assert!(store.write(report(&ben, message, Some(5), "done")).await.unwrap().reply.is_some());
    assert_eq!(mail(&store, &ann).await.len(), 2);
}

async fn a_message_is_handed_out_to_one_caller_at_a_time(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let mut ids = Vec::new();
    for text in ["a", "b", "c"] {
        store.write(message(&ann, &ben, text)).await.unwrap();
    }
    ids.extend(mail(&store, &ben).await.iter().map(|delivery| delivery.id));
    assert!(hand_out(&store, &ann, &ids).await.is_empty(), "they are not hers");
    assert_eq!(hand_out(&store, &ben, &ids[..2]).await.len(), 2);
    let rest: Vec<DeliveryId> = hand_out(&store, &ben, &ids).await.iter().map(|one| one.delivery).collect();
    assert_eq!(rest, ids[2..], "what is leased is left out");
    // Two writers that know nothing of each other: the row decides.
    let other = TestStore::with(store.database.clone(), roomy());
    assert!(hand_out(&other, &ben, &ids).await.is_empty());
    let given_back =
        GiveBack { recipient: ben.party_id, handed_out: vec![(ids[0], Some(1)), (ids[1], None), (ids[2], Some(9))] };
    assert_eq!(store.write(given_back).await.unwrap(), 2, "a number that was never given out gives nothing back");
    let again = hand_out(&store, &ben, &ids).await;
    assert_eq!(again.iter().map(|one| (one.delivery, one.attempt)).collect::<Vec<_>>(), [(ids[0], 2), (ids[1], 2)]);
}

/// RTE-1.
async fn a_reply_begets_nothing(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let (asked, _) = handed(&store, &ann, &ben, "x").await;
    store.write(report(&ben, asked, None, "y")).await.unwrap();
    let reply = mail(&store, &ann).await[0].clone();
    assert_eq!(hand_out(&store, &ann, &[reply.id]).await.len(), 1);
    let close =
        |attempt| Close { recipient: ann.party_id, handed_out: vec![(reply.id, attempt)], outcome: Outcome::HandedOut };
    assert_eq!(store.write(close(2)).await.unwrap(), 0);
    assert_eq!(store.write(close(1)).await.unwrap(), 1);
    for words in ["thanks", "and more"] {
        let reported = store.write(report(&ann, reply.message_id, Some(1), words)).await.unwrap();
        assert!(reported.repeated && reported.reply.is_none());
    }
    let never = store.write(report(&ann, reply.message_id, Some(2), "x")).await;
    assert_eq!(code(never), Some(ErrorCode::ValidationError), "it was handed out once");
    assert!(mail(&store, &ben).await.is_empty() && mail(&store, &ann).await.is_empty());
    assert_eq!(store.number("SELECT count(*) AS value FROM messages").await, 2);
}

async fn a_key_sends_once(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let with_key = |hash: u8| SendMessage { idem: idem("k", hash), ..message(&ann, &ben, "once") };
    let first = store.write(with_key(1)).await.unwrap();
    let again = store.write(with_key(1)).await.unwrap();
    assert_eq!((again.line, again.repeated), (first.line.clone(), true));
    assert_eq!(store.write(with_key(2)).await.unwrap_err().code(), ErrorCode::IdempotencyConflict);
    // Other senders have keys of their own, and the answer outlives its delivery (D10).
    let of_ben = SendMessage { idem: idem("k", 1), ..message(&ben, &ann, "once") };
    assert!(!store.write(of_ben).await.unwrap().repeated);
    let id = mail(&store, &ben).await[0].id;
    store.write(deliveries::Cancel { id, reason: None }).await.unwrap();
    store.write(Purge { ids: vec![id] }).await.unwrap();
    let other = TestStore::with(store.database.clone(), roomy());
    assert_eq!(other.write(with_key(1)).await.unwrap().line, first.line);
    // Also when its recipient is gone.
    store.write(RemoveAgent { id: ben.id, actor: Actor::system() }).await.unwrap();
    let again = store.write(with_key(1)).await.unwrap();
    assert_eq!((again.line, again.target.as_str(), again.repeated), (first.line, "Ben", true));
    assert_eq!(store.write(with_key(2)).await.unwrap_err().code(), ErrorCode::IdempotencyConflict);
}

async fn what_cannot_be_sent_leaves_nothing(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let native = agent(&store, "Nat", AgentKind::Native).await;
    let gone = agent(&store, "Gone", AgentKind::OpenClaw).await;
    store.write(RemoveAgent { id: gone.id, actor: Actor::system() }).await.unwrap();
    let limits = MailLimits { messages_max: 1, ..LIMITS };
    let sent = store.write(SendMessage { limits, ..message(&ann, &ben, "1") }).await.unwrap();
    let to_third_party = SendMessage { in_reply_to: Some(sent.line.id), ..message(&native, &ben, "x") };
    for (refused, expected) in [
        (SendMessage { limits, ..message(&ann, &ben, "2") }, ErrorCode::MailboxFull),
        (message(&ann, &native, "x"), ErrorCode::InvalidRequest),
        (message(&ann, &gone, "x"), ErrorCode::NotFound),
        (message(&gone, &ben, "x"), ErrorCode::Unauthenticated),
        (SendMessage { in_reply_to: Some(MessageId::new()), ..message(&ann, &ben, "x") }, ErrorCode::NotFound),
        (to_third_party, ErrorCode::NotFound),
    ] {
        assert_eq!(store.write(refused).await.unwrap_err().code(), expected);
    }
    assert_eq!(store.number("SELECT count(*) AS value FROM messages").await, 1);
    // Room comes back when one has ended.
    store.write(report(&ben, sent.line.id, None, "ok")).await.unwrap();
    let next = SendMessage { limits, in_reply_to: Some(sent.line.id), ..message(&ann, &ben, "3") };
    assert_eq!(store.write(next).await.unwrap().line.hops, 2);
}

async fn a_deleted_conversation_takes_its_mail_along_and_a_new_one_begins(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let (asked, id) = handed(&store, &ann, &ben, "x").await;
    let conversation = store.delivery(id).await.delivery.conversation_id;
    store.write(DeleteConversation { id: conversation }).await.unwrap();
    assert_eq!(code(store.write(report(&ben, asked, None, "y")).await), Some(ErrorCode::DeliveryEnded));
    let next = store.write(message(&ann, &ben, "z")).await.unwrap();
    assert_ne!(next.line.conversation_id, conversation);
    assert_eq!(next.line.seq, 1);
}

/// A request whose asker was removed is answered into its log.
async fn a_reply_to_nobody_is_a_line_only(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let (asked, _) = handed(&store, &ann, &ben, "x").await;
    store.write(RemoveAgent { id: ann.id, actor: Actor::system() }).await.unwrap();
    assert!(store.write(report(&ben, asked, None, "y")).await.unwrap().reply.is_some());
    assert!(mail(&store, &ann).await.is_empty());
}

/// Many commands of one batch leave the same rows as one after the other.
async fn a_batch_of_cycles_is_stored_whole(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let send = |n: usize| store.write(message(&ann, &ben, &format!("message {n}")));
    let sent = futures_util::future::join_all((0..32).map(send)).await;
    let seqs: Vec<i64> = sent.iter().map(|sent| sent.as_ref().expect("room").line.seq).collect();
    assert_eq!(seqs, (1..=32).collect::<Vec<i64>>());
    let ids: Vec<DeliveryId> = mail(&store, &ben).await.iter().map(|delivery| delivery.id).collect();
    let out =
        futures_util::future::join_all(ids.iter().map(|id| hand_out(&store, &ben, std::slice::from_ref(id)))).await;
    assert!(out.iter().all(|one| one.len() == 1));
    let told = |sent: &Result<Sent, Error>| sent.as_ref().expect("room").line.id;
    let done = sent.iter().map(|sent| store.write(report(&ben, told(sent), Some(1), "done")));
    assert!(futures_util::future::join_all(done).await.iter().all(|reported| reported.is_ok()));
    assert!(mail(&store, &ben).await.is_empty());
    let replies: Vec<Delivery> = mail(&store, &ann).await;
    assert_eq!(replies.len(), 32);
    for id in ids {
        let stored = store.delivery(id).await;
        assert_eq!((stored.delivery.attempt, stored.delivery.outcome), (1, Some(Outcome::Reported)));
        assert_eq!(
            stored.events.iter().map(|entry| entry.what.as_str()).collect::<Vec<_>>(),
            ["accepted", "leased", "completed"]
        );
    }
}

on_both_databases!(
    a_request_is_answered_and_its_reply_delivered,
    what_a_report_may_do_is_in_the_table,
    a_lease_that_is_over_comes_again_at_once_until_the_attempts_are_used_up,
    a_message_is_handed_out_to_one_caller_at_a_time,
    a_reply_begets_nothing,
    a_key_sends_once,
    what_cannot_be_sent_leaves_nothing,
    a_deleted_conversation_takes_its_mail_along_and_a_new_one_begins,
    a_reply_to_nobody_is_a_line_only,
    a_batch_of_cycles_is_stored_whole,
);
