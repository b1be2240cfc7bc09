//! What the end of a message to an agent begets: a notice for a request that nobody handled, and nothing else (RTE-1).
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clawbroker::domain::agent::AgentFacts;
use clawbroker::domain::clock::Clock;
use clawbroker::domain::delivery::{Delivery, DeliveryState};
use clawbroker::domain::ids::{DeliveryId, MessageId};
use clawbroker::domain::message::{Line, MessageKind, MessageRole};
use clawbroker::domain::party::PartyKind;
use clawbroker::store::agents::RemoveAgent;
use clawbroker::store::audit::Actor;
use clawbroker::store::conversations::DeleteConversation;
use clawbroker::store::deliveries::{Cancel, DeliveryOptions, FireDue, Redrive};
use clawbroker::store::mailbox::{HandOut, MailLimits, Report, SendMessage};
use clawbroker::store::messages;

use super::mailbox::{LIMITS, handed, mail, message, report, two};
use crate::harness::TestStore;
use crate::harness::test_store::{START_MS, roomy};

on_both_databases!(
    whoever_asked_is_told_of_a_death,
    whoever_asked_is_told_that_time_ran_out,
    a_death_after_a_restart_is_told_all_the_same,
    of_what_dies_together_each_is_told,
    what_was_cancelled_is_not_told,
    the_death_of_a_reply_or_a_notice_is_only_counted,
    what_dies_again_is_told_again,
    a_notice_to_nobody_is_a_line_only,
);

/// What dies with its first hand-out.
const ONCE: MailLimits = MailLimits { attempts_max: 1, ..LIMITS };

type Facts = Arc<AgentFacts>;

/// Has a request sent and handed out that dies when its lease is over.
async fn doomed(store: &TestStore, from: &Facts, to: &Facts) -> (MessageId, DeliveryId) {
    let sent = store.write(SendMessage { limits: ONCE, ..message(from, to, "x") }).await.expect("room");
    let id = mail(store, to).await.into_iter().find(|one| one.message_id == sent.line.id).expect("its delivery").id;
    lease(store, to, id).await;
    (sent.line.id, id)
}

/// Leases a delivery for a minute from now.
async fn lease(store: &TestStore, to: &Facts, id: DeliveryId) {
    let until = store.clock.now_ms() + 60_000;
    let leased = store.write(HandOut { recipient: to.party_id, ids: vec![id], until }).await.expect("no failure");
    assert_eq!(leased.len(), 1);
}

/// Lets a minute pass.
async fn fire(store: &TestStore, id: DeliveryId) {
    store.clock.advance_ms(60_000);
    store.write(FireDue { ids: vec![id] }).await.expect("time moves it");
}

/// The notices that wait for an agent, with their deliveries.
async fn notices(store: &TestStore, of: &Facts) -> Vec<(Arc<Line>, Delivery)> {
    let mut found = Vec::new();
    for delivery in mail(store, of).await {
        let id = delivery.message_id;
        let line = store.read(move |db| messages::get(db, id)).await.expect("a read").expect("a line");
        if line.kind == Some(MessageKind::Notice) {
            found.push((line, delivery));
        }
    }
    found
}

/// How many requests, replies and notices died.
fn deaths(store: &TestStore) -> [u64; 3] {
    let stats = store.writer().stats();
    [&stats.dead_requests_total, &stats.dead_replies_total, &stats.dead_notices_total]
        .map(|total| total.load(Ordering::Relaxed))
}

async fn whoever_asked_is_told_of_a_death(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let (asked, id) = doomed(&store, &ann, &ben).await;
    store.told();
    fire(&store, id).await;
    assert_eq!(store.told(), ["delivery leased -> dead", "line 2", "delivery new -> pending"]);
    let told = notices(&store, &ann).await;
    assert_eq!(told.len(), 1);
    let (notice, delivery) = &told[0];
    assert_eq!(notice.text, "Your request to Ben was not handled: nobody reported on it (attempts: 1)");
    assert_eq!((notice.role, notice.in_reply_to, notice.hops), (MessageRole::System, Some(asked), 1));
    assert_eq!((notice.sender_kind, notice.sender.id.as_str()), (PartyKind::System, "clawbroker"));
    assert_eq!((delivery.state, delivery.attempts_max), (DeliveryState::Pending, 5));
    assert_eq!(notice.conversation_id, store.delivery(id).await.delivery.conversation_id);
    // Time that has passed moves it once.
    fire(&store, id).await;
    assert_eq!((notices(&store, &ann).await.len(), deaths(&store)), (1, [1, 0, 0]));
    let conversation = notice.conversation_id;
    let answer = async || store.read(move |db| messages::reply_to(db, conversation, 1, asked)).await.expect("a read");
    assert_eq!(answer().await, None, "a notice is no answer");
    // Its work was not in vain: she gets both.
    let reply = store.write(report(&ben, asked, Some(1), "late")).await.unwrap().reply.expect("a reply");
    assert_eq!(answer().await.as_ref(), Some(&reply));
    assert_eq!(mail(&store, &ann).await.iter().map(|one| one.message_id).collect::<Vec<_>>(), [notice.id, reply.id]);
    // A report on a notice ends it, and goes nowhere.
    assert!(store.write(report(&ann, notice.id, None, "what?")).await.unwrap().reply.is_none());
    assert!(mail(&store, &ben).await.is_empty());
    // Whoever dies next is told of by the same party.
    let (_, id) = doomed(&store, &ben, &ann).await;
    fire(&store, id).await;
    assert_eq!(notices(&store, &ben).await[0].0.sender_id, notice.sender_id);
}

async fn whoever_asked_is_told_that_time_ran_out(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let options = DeliveryOptions { expires_at: Some(START_MS + 60_000), ..DeliveryOptions::default() };
    store.write(SendMessage { options, ..message(&ann, &ben, "in a minute") }).await.unwrap();
    let id = mail(&store, &ben).await[0].id;
    store.clock.advance_ms(59_999);
    store.write(FireDue { ids: vec![id] }).await.unwrap();
    assert_eq!(notices(&store, &ann).await.len(), 0);
    store.clock.advance_ms(1);
    store.write(FireDue { ids: vec![id] }).await.unwrap();
    assert_eq!(store.delivery(id).await.delivery.state, DeliveryState::Expired);
    let told = notices(&store, &ann).await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0.text, "Your request to Ben was not handled: its time was over before anybody took it");
    assert_eq!(deaths(&store), [0; 3], "it did not die");
}

async fn a_death_after_a_restart_is_told_all_the_same(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let (asked, id) = doomed(&store, &ann, &ben).await;
    let again = TestStore::with(store.database.clone(), roomy());
    fire(&again, id).await;
    let told = notices(&again, &ann).await;
    assert_eq!((told.len(), told[0].0.in_reply_to), (1, Some(asked)));
    assert_eq!(deaths(&again), [1, 0, 0]);
}

async fn of_what_dies_together_each_is_told(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked.push(doomed(&store, &ann, &ben).await);
    }
    let (messages, ids): (Vec<MessageId>, Vec<DeliveryId>) = asked.into_iter().unzip();
    let again = TestStore::with(store.database.clone(), roomy());
    again.clock.advance_ms(60_000);
    assert!(again.write(FireDue { ids }).await.unwrap().ready.is_empty(), "all are dead");
    let told: Vec<Option<MessageId>> = notices(&again, &ann).await.iter().map(|(line, _)| line.in_reply_to).collect();
    assert_eq!(told, messages.into_iter().map(Some).collect::<Vec<_>>());
    assert_eq!(deaths(&again), [3, 0, 0]);
}

async fn what_was_cancelled_is_not_told(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let (_, cancelled) = handed(&store, &ann, &ben, "x").await;
    store.write(Cancel { id: cancelled, reason: Some("not now".into()) }).await.unwrap();
    let (_, deleted) = handed(&store, &ann, &ben, "y").await;
    let conversation = store.delivery(deleted).await.delivery.conversation_id;
    store.write(DeleteConversation { id: conversation }).await.unwrap();
    assert_eq!(store.delivery(deleted).await.delivery.state, DeliveryState::Cancelled);
    assert_eq!(store.number("SELECT count(*) AS value FROM messages WHERE kind = 3").await, 0);
}

async fn the_death_of_a_reply_or_a_notice_is_only_counted(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let (asked, _) = handed(&store, &ann, &ben, "x").await;
    store.write(Report { limits: ONCE, ..report(&ben, asked, None, "y") }).await.unwrap();
    let reply = mail(&store, &ann).await[0].id;
    lease(&store, &ann, reply).await;
    fire(&store, reply).await;
    assert_eq!((store.delivery(reply).await.delivery.state, deaths(&store)), (DeliveryState::Dead, [0, 1, 0]));
    let (_, id) = doomed(&store, &ann, &ben).await;
    fire(&store, id).await;
    let notice = notices(&store, &ann).await[0].1.id;
    for _ in 0..5 {
        lease(&store, &ann, notice).await;
        fire(&store, notice).await;
    }
    assert_eq!((store.delivery(notice).await.delivery.state, deaths(&store)), (DeliveryState::Dead, [1, 1, 1]));
    assert!(mail(&store, &ann).await.is_empty() && mail(&store, &ben).await.is_empty());
    assert_eq!(store.number("SELECT count(*) AS value FROM messages").await, 4, "two requests, a reply, a notice");
}

async fn what_dies_again_is_told_again(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let (asked, id) = doomed(&store, &ann, &ben).await;
    fire(&store, id).await;
    store.write(Redrive { id }).await.unwrap();
    lease(&store, &ben, id).await;
    fire(&store, id).await;
    let told = notices(&store, &ann).await;
    assert_eq!(told.iter().map(|(line, _)| line.in_reply_to).collect::<Vec<_>>(), [Some(asked); 2]);
    assert_eq!(deaths(&store), [2, 0, 0]);
}

async fn a_notice_to_nobody_is_a_line_only(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let (_, id) = doomed(&store, &ann, &ben).await;
    store.write(RemoveAgent { id: ann.id, actor: Actor::system() }).await.unwrap();
    fire(&store, id).await;
    assert_eq!(store.number("SELECT count(*) AS value FROM messages WHERE kind = 3").await, 1);
    assert!(mail(&store, &ann).await.is_empty());
}
