//! A newer message takes the place of one that waits, if both have the same sender, recipient and key.
use std::sync::Arc;

use clawbroker::domain::agent::{AgentFacts, AgentKind};
use clawbroker::domain::delivery::{DeliveryState, reason};
use clawbroker::domain::error::ErrorCode;
use clawbroker::domain::ids::{DeliveryId, MessageId};
use clawbroker::store::deliveries::DeliveryOptions;
use clawbroker::store::mailbox::{GiveBack, MailLimits, SendMessage};

use super::mailbox::{LIMITS, agent, hand_out, mail, message, two};
use crate::harness::TestStore;
use crate::harness::test_store::roomy;

on_both_databases!(
    a_newer_one_takes_the_place_of_what_waits,
    what_is_leased_stays,
    the_newest_of_a_batch_is_left,
    a_full_mailbox_takes_what_makes_room,
);

fn news(from: &Arc<AgentFacts>, to: &AgentFacts, key: &str) -> SendMessage {
    let options = DeliveryOptions { coalesce_key: Some(key.into()), ..DeliveryOptions::default() };
    SendMessage { options, ..message(from, to, "news") }
}

/// Sends a message with a key; returns its id.
async fn send(store: &TestStore, from: &Arc<AgentFacts>, to: &AgentFacts, key: &str) -> MessageId {
    store.write(news(from, to, key)).await.expect("room").line.id
}

/// The messages that lie open for an agent, and their deliveries.
async fn open(store: &TestStore, of: &AgentFacts) -> (Vec<MessageId>, Vec<DeliveryId>) {
    mail(store, of).await.into_iter().map(|delivery| (delivery.message_id, delivery.id)).unzip()
}

async fn a_newer_one_takes_the_place_of_what_waits(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let cat = agent(&store, "Cat", AgentKind::OpenClaw).await;
    send(&store, &ann, &ben, "weather").await;
    let old = open(&store, &ben).await.1[0];
    let others = [
        send(&store, &ann, &ben, "sports").await,
        send(&store, &cat, &ben, "weather").await,
        store.write(message(&ann, &ben, "without a key")).await.unwrap().line.id,
    ];
    send(&store, &ann, &cat, "weather").await;
    store.told();
    let newer = send(&store, &ann, &ben, "weather").await;
    assert_eq!(store.told(), ["delivery pending -> cancelled", "line 4", "delivery new -> pending"]);
    let mut left = others.to_vec();
    left.push(newer);
    assert_eq!(open(&store, &ben).await.0, left);
    assert_eq!(open(&store, &cat).await.0.len(), 1, "another recipient");
    let ended = store.delivery(old).await.delivery;
    assert_eq!((ended.state, ended.reason.as_deref()), (DeliveryState::Cancelled, Some(reason::COALESCED)));
    // Also when nothing is remembered; and nobody is told of it as of a loss.
    let again = TestStore::with(store.database.clone(), roomy());
    let newest = send(&again, &ann, &ben, "weather").await;
    assert_eq!(open(&again, &ben).await.0.last(), Some(&newest));
    assert!(!open(&again, &ben).await.0.contains(&newer));
    assert_eq!(again.number("SELECT count(*) AS value FROM messages WHERE kind = 3").await, 0);
}

async fn what_is_leased_stays(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let first = send(&store, &ann, &ben, "k").await;
    let leased = open(&store, &ben).await.1;
    assert_eq!(hand_out(&store, &ben, &leased).await.len(), 1);
    let second = send(&store, &ann, &ben, "k").await;
    assert_eq!(open(&store, &ben).await.0, [first, second], "somebody works on the first one");
    // It waits again: the next one takes the place of both.
    let back = GiveBack { recipient: ben.party_id, handed_out: vec![(leased[0], Some(1))] };
    assert_eq!(store.write(back).await.unwrap(), 1);
    let third = send(&store, &ann, &ben, "k").await;
    assert_eq!(open(&store, &ben).await.0, [third]);
}

async fn the_newest_of_a_batch_is_left(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let sent = futures_util::future::join_all((0..8).map(|_| store.write(news(&ann, &ben, "k")))).await;
    let last = sent.last().expect("eight").as_ref().expect("room").line.id;
    assert_eq!(open(&store, &ben).await.0, [last]);
    let cancelled = "SELECT count(*) AS value FROM deliveries WHERE state = 5 AND reason = 'coalesced'";
    assert_eq!(store.number(cancelled).await, 7);
}

async fn a_full_mailbox_takes_what_makes_room(store: TestStore) {
    let (ann, ben) = two(&store).await;
    let limits = MailLimits { messages_max: 1, ..LIMITS };
    store.write(SendMessage { limits, ..news(&ann, &ben, "k") }).await.unwrap();
    for refused in [news(&ann, &ben, "other"), message(&ann, &ben, "x")] {
        let refused = store.write(SendMessage { limits, ..refused }).await;
        assert_eq!(refused.unwrap_err().code(), ErrorCode::MailboxFull);
    }
    let newer = store.write(SendMessage { limits, ..news(&ann, &ben, "k") }).await.unwrap().line.id;
    assert_eq!(open(&store, &ben).await.0, [newer]);
}
