use clawbroker::domain::delivery::DeliveryState;
use clawbroker::domain::error::ErrorCode;
use clawbroker::domain::event::{AckTo, Event};
use clawbroker::domain::ids::SocketId;
use clawbroker::domain::message::MessageRole;
use clawbroker::domain::user::Role;
use clawbroker::store::chat::AcceptChat;

use crate::harness::{TestStore, question};

/// STO-2: line, delivery and their events are one commit.
async fn a_question_is_one_commit(store: TestStore) {
    let caller = store.user("ann", Role::Member).await;
    let gateway = store.gateway("gw").await;
    let conversation = store.session(&caller, &gateway, "new").await;
    store.told();
    let before = store.writer().stats().commits_total.load(std::sync::atomic::Ordering::Relaxed);
    let socket_id = SocketId::new();
    let asked = store
        .write(AcceptChat {
            socket_id: Some(socket_id),
            client_key: Some("k".into()),
            ..question(&caller, conversation.id, "hello")
        })
        .await
        .unwrap();
    let after = store.writer().stats().commits_total.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(after - before, 1);
    assert!(asked.sent && !asked.repeated);
    assert_eq!((asked.line.seq, asked.line.text.as_str(), asked.line.role), (1, "hello", MessageRole::User));
    let delivery = asked.delivery.unwrap();
    assert_eq!((delivery.state, delivery.message_id, delivery.seq), (DeliveryState::Pending, asked.line.id, 1));
    let events = store.events.take();
    let [Event::Line { line, ack_to, topic, end: None }, Event::Delivery { delivery: told, from: None, .. }] =
        events.as_slice()
    else {
        panic!("{events:?}");
    };
    assert_eq!((line.id, told.id), (asked.line.id, delivery.id));
    assert_eq!(*ack_to, Some(AckTo { socket_id, client_key: Some("k".into()), sent: true }));
    assert_eq!((&*topic.key, &topic.gateway_id), ("new", &Some(gateway)));
}

async fn a_repeated_key_gives_the_first_answer(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let with_key = |text: &str| AcceptChat { client_key: Some("k".into()), ..question(&caller, conversation.id, text) };
    let first = store.write(with_key("hello")).await.unwrap();
    store.told();
    let again = store.write(with_key("hello")).await.unwrap();
    assert!(again.repeated);
    assert_eq!((again.line.id, again.delivery.unwrap().id), (first.line.id, first.delivery.unwrap().id));
    assert!(store.told().is_empty(), "nothing new happened");
    // Also where the queue has no room any more: it is not a new question.
    let full = AcceptChat { queued_max: 0, ..with_key("hello") };
    assert!(store.write(full).await.unwrap().repeated);
    let other = store.write(with_key("something else")).await.unwrap_err();
    assert_eq!(other.code(), ErrorCode::IdempotencyConflict);
    assert_eq!(store.log(conversation.id).await, [(1, "hello".to_owned())]);
}

async fn a_key_counts_for_its_user_and_session_only(store: TestStore) {
    let (ann, conversation) = store.chat().await;
    let olga = store.user("olga", Role::Operator).await;
    let gateway = conversation.gateway_id.clone().unwrap();
    let elsewhere = store.session(&ann, &gateway, "webchat-2").await;
    for (caller, id) in [(&ann, conversation.id), (&olga, conversation.id), (&ann, elsewhere.id)] {
        let asked = AcceptChat { client_key: Some("k".into()), ..question(caller, id, "hello") };
        assert!(!store.write(asked).await.unwrap().repeated);
    }
}

async fn whoever_does_not_want_to_wait_is_told_why_not(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let to = || conversation.id;
    let impatient = |gateway_up| AcceptChat { no_queue: true, gateway_up, ..question(&caller, to(), "now") };
    assert_eq!(store.write(impatient(false)).await.unwrap_err().code(), ErrorCode::GatewayUnavailable);
    assert!(store.write(impatient(true)).await.unwrap().sent);
    assert_eq!(store.write(impatient(true)).await.unwrap_err().code(), ErrorCode::SessionBusy);
    let patient = store.ask(&caller, conversation.id, "later").await;
    assert!(!patient.sent, "a question is before it");
    let down = AcceptChat { gateway_up: false, ..question(&caller, to(), "much later") };
    assert!(!store.write(down).await.unwrap().sent);
}

/// LIM-1: the queue of a session is bounded.
async fn a_full_session_refuses_the_next_question(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let asked = || AcceptChat { queued_max: 2, ..question(&caller, conversation.id, "one more") };
    store.write(asked()).await.unwrap();
    store.write(asked()).await.unwrap();
    assert_eq!(store.write(asked()).await.unwrap_err().code(), ErrorCode::MailboxFull);
    // A line that nobody is to handle takes no place in the queue.
    let note = AcceptChat { line_only: Some(MessageRole::System), ..asked() };
    let accepted = store.write(note).await.unwrap();
    assert!(accepted.delivery.is_none());
    assert_eq!(accepted.line.role, MessageRole::System);
}

on_both_databases!(
    a_question_is_one_commit,
    a_repeated_key_gives_the_first_answer,
    a_key_counts_for_its_user_and_session_only,
    whoever_does_not_want_to_wait_is_told_why_not,
    a_full_session_refuses_the_next_question,
);
