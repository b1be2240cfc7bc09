//! Sessions that a gateway had before they were named here (SEC-2).
use clawbroker::domain::conversation::Conversation;
use clawbroker::domain::delivery::DeliveryState;
use clawbroker::domain::error::ErrorCode;
use clawbroker::domain::user::{Caller, Role};
use clawbroker::store::audit::Actor;
use clawbroker::store::claims::{ClaimSession, FOREIGN_SESSION};
use clawbroker::store::conversations::{self, DeleteConversation, SessionName};
use clawbroker::store::deliveries::Redrive;
use clawbroker::store::track::TrackSession;
use clawbroker::store::upstream::NoteContact;
use clawbroker::store::users::RemoveUser;

use crate::harness::TestStore;
use crate::harness::test_store::{answer, session_name};

on_both_databases!(
    a_session_that_is_refused_ends_before_anything_was_sent,
    operators_and_nobody_may_have_what_is_there,
    a_member_may_have_what_was_its_own_before,
    a_member_may_have_its_own_by_another_name_of_an_older_gateway,
    what_was_asked_already_is_not_refused,
);

const CANONICAL: &str = "agent:main:webchat-1";

async fn claim(store: &TestStore, conversation: &Conversation) -> bool {
    let name = SessionName::told("gw".parse().unwrap(), CANONICAL, None);
    store.write(ClaimSession { conversation_id: conversation.id, name }).await.unwrap()
}

/// Notes that a session was contacted under its gateway's own name.
async fn contacted(store: &TestStore, conversation: &Conversation) {
    let note = NoteContact {
        conversation_id: conversation.id,
        canonical_key: Some(CANONICAL.into()),
        session_id: None,
        boundary_seq: 0,
        import_below: None,
    };
    store.write(note).await.unwrap();
}

async fn used_and_deleted(store: &TestStore, caller: &Caller, key: &str) {
    let gateway = "gw".parse().unwrap();
    let conversation = store.session(caller, &gateway, key).await;
    contacted(store, &conversation).await;
    store.clock.advance_ms(1_000);
    store.write(DeleteConversation { id: conversation.id }).await.unwrap();
    store.clock.advance_ms(1_000);
}

async fn a_session_that_is_refused_ends_before_anything_was_sent(store: TestStore) {
    let (ann, conversation) = store.chat().await;
    let asked = store.ask(&ann, conversation.id, "who are you?").await.delivery.unwrap();
    store.told();
    assert!(!claim(&store, &conversation).await);
    assert_eq!(store.told(), ["refused", "delivery pending -> dead", "deleted 1..1"]);
    let dead = store.delivery(asked.id).await;
    assert_eq!(
        (dead.delivery.state, dead.delivery.reason.as_deref(), dead.started),
        (DeliveryState::Dead, Some(FOREIGN_SESSION), false)
    );
    let id = conversation.id;
    assert!(store.read(move |db| conversations::get(db, id)).await.unwrap().is_none());
    assert!(!claim(&store, &conversation).await, "a repeat changes nothing");
    assert!(store.told().is_empty());
    // Nobody is left who would hand it out.
    let again = store.write(Redrive { id: asked.id }).await.unwrap_err();
    assert_eq!(again.code(), ErrorCode::DeliveryEnded);
    // The name is free, and whoever may have it gets all that the gateway has of it.
    let operator = store.user("olga", Role::Operator).await;
    let gateway = conversation.gateway_id.clone().unwrap();
    let opened = store.session(&operator, &gateway, "webchat-1").await;
    assert_eq!(opened.upstream.not_before_ms, 0);
    assert!(claim(&store, &opened).await);
    let other = store.session(&ann, &gateway, "other").await;
    let told = || SessionName::told(gateway.clone(), "agent:main:other", None);
    assert!(!store.write(ClaimSession { conversation_id: other.id, name: told() }).await.unwrap());
    assert!(store.write(TrackSession { name: told() }).await.unwrap().is_some(), "nobody has deleted it");
}

async fn operators_and_nobody_may_have_what_is_there(store: TestStore) {
    let gateway = store.gateway("gw").await;
    for role in [Role::Operator, Role::Admin] {
        let caller = store.user(role.as_str(), role).await;
        let conversation = store.session(&caller, &gateway, role.as_str()).await;
        assert!(claim(&store, &conversation).await, "{role:?}");
    }
    let tracked = store.write(TrackSession { name: session_name(&gateway, "theirs") }).await.unwrap();
    let tracked = tracked.expect("nobody has deleted it");
    assert!(claim(&store, &tracked).await);
    let gone = store.user("gone", Role::Operator).await;
    let conversation = store.session(&gone, &gateway, "left behind").await;
    store.write(RemoveUser { id: gone.user_id, actor: Actor::system() }).await.unwrap();
    assert!(!claim(&store, &conversation).await);
}

async fn a_member_may_have_what_was_its_own_before(store: TestStore) {
    let gateway = store.gateway("gw").await;
    let (ann, ben) = (store.user("ann", Role::Member).await, store.user("ben", Role::Member).await);
    // Refused once and named again: that is no use of it.
    for _ in 0..2 {
        let conversation = store.session(&ann, &gateway, "webchat-1").await;
        assert!(!claim(&store, &conversation).await);
    }
    used_and_deleted(&store, &ann, "webchat-1").await;
    for (caller, key, may) in [
        (&ben, "webchat-1", false),
        (&ann, "webchat-1", true),
        // Under the gateway's own name it is the same.
        (&ben, CANONICAL, false),
        (&ann, CANONICAL, true),
        (&ann, "other", true),
    ] {
        let conversation = store.session(caller, &gateway, key).await;
        assert_eq!(claim(&store, &conversation).await, may, "{key}");
        if may {
            store.write(DeleteConversation { id: conversation.id }).await.unwrap();
        }
    }
    // The last one who used it counts.
    used_and_deleted(&store, &ben, "webchat-1").await;
    let conversation = store.session(&ann, &gateway, "webchat-1").await;
    assert!(!claim(&store, &conversation).await);
    // Two names of one session are one session here.
    let first = store.session(&ann, &gateway, "WebChat-1").await;
    contacted(&store, &first).await;
    let second = store.session(&ann, &gateway, "WEBCHAT-1").await;
    assert_eq!(second.id, first.id);
    assert!(claim(&store, &second).await);
    // Two that the gateway calls the same after all: whose the first is, may have the second.
    for (caller, key, may) in [(&ann, "agent:work:x", true), (&ben, "agent:work:y", false)] {
        let later = store.session(caller, &gateway, key).await;
        assert_eq!(claim(&store, &later).await, may, "{key}");
    }
}

/// An older gateway tells no names of its own: what the name would be counts.
async fn a_member_may_have_its_own_by_another_name_of_an_older_gateway(store: TestStore) {
    let (ann, conversation) = store.chat().await;
    let gateway = conversation.gateway_id.clone().unwrap();
    let untold = |id| NoteContact {
        conversation_id: id,
        canonical_key: None,
        session_id: None,
        boundary_seq: 0,
        import_below: None,
    };
    store.write(untold(conversation.id)).await.unwrap();
    store.write(DeleteConversation { id: conversation.id }).await.unwrap();
    let ben = store.user("ben", Role::Member).await;
    for (caller, key, may) in [(&ann, CANONICAL, true), (&ben, CANONICAL, false), (&ann, "WebChat-1", true)] {
        let named = store.session(caller, &gateway, key).await;
        let command = ClaimSession { conversation_id: named.id, name: session_name(&gateway, key) };
        assert_eq!(store.write(command).await.unwrap(), may, "{key}");
        if may {
            store.write(DeleteConversation { id: named.id }).await.unwrap();
        }
    }
}

async fn what_was_asked_already_is_not_refused(store: TestStore) {
    let (ann, conversation) = store.chat().await;
    // The gateway refused the session: nothing reached it.
    store.dead(&ann, conversation.id, false).await;
    assert!(!claim(&store, &conversation).await);
    let gateway = conversation.gateway_id.clone().unwrap();
    let conversation = store.session(&ann, &gateway, "webchat-1").await;
    let (_, turn_id) = store.begun(&ann, conversation.id, "hello").await;
    assert!(claim(&store, &conversation).await, "it may be on its way");
    store.write(answer(turn_id, "hi")).await.unwrap();
    assert!(claim(&store, &conversation).await);
    let other = store.session(&ann, &gateway, "other").await;
    contacted(&store, &other).await;
    assert!(claim(&store, &other).await, "decided before");
}
