//! People who write to agents.
use clawbroker::domain::agent::{AgentFacts, AgentKind};
use clawbroker::domain::conversation::{Conversation, ConversationKind};
use clawbroker::domain::delivery::DeliveryState;
use clawbroker::domain::error::ErrorCode;
use clawbroker::domain::ids::{AgentId, UserId};
use clawbroker::domain::message::{MessageKind, MessageRole};
use clawbroker::domain::user::{Caller, Role};
use clawbroker::store::agents::RemoveAgent;
use clawbroker::store::audit::{self, Actor};
use clawbroker::store::conversations::DeleteConversation;
use clawbroker::store::mailbox::{Ask, MailLimits, OpenUserAgent};
use clawbroker::store::{messages, parties};

use super::mailbox::{LIMITS, agent, hand_out, mail, report};
use crate::harness::TestStore;

fn open(user: &Caller, agent: &AgentFacts) -> OpenUserAgent {
    OpenUserAgent { user_id: user.user_id, agent_id: agent.id, actor: Actor::system() }
}

/// Makes the conversation of a user with an agent, and forgets what was told of it.
async fn talk(store: &TestStore, user: &Caller, agent: &AgentFacts) -> Conversation {
    let (conversation, is_new) = store.write(open(user, agent)).await.expect("both are there");
    assert!(is_new);
    store.told();
    conversation
}

pub(super) fn ask(caller: &Caller, to: &Conversation, text: &str) -> Ask {
    Ask {
        conversation_id: to.id,
        caller: caller.clone(),
        from: None,
        text: text.into(),
        client_key: None,
        line_only: None,
        limits: LIMITS,
    }
}

async fn a_user_has_one_conversation_with_an_agent(store: TestStore) {
    let (uma, vic) = (store.user("uma", Role::Member).await, store.user("vic", Role::Viewer).await);
    let ben = agent(&store, "Ben", AgentKind::OpenClaw).await;
    let (first, is_new) = store.write(open(&uma, &ben)).await.unwrap();
    assert!(is_new);
    assert_eq!((first.kind, first.owner_id), (ConversationKind::UserAgent, Some(uma.user_id)));
    assert_eq!(first.key, format!("user_agent_{}_{}", uma.user_id, ben.id));
    assert_eq!((first.title.as_deref(), first.first_seq, first.last_seq), (Some("UMA ↔ Ben"), 1, 0));
    let id = first.id;
    let both = store.read(move |db| parties::of_conversation(db, id, 10)).await.unwrap();
    let mut both: Vec<_> = both.into_iter().map(|(party, _)| party.id).collect();
    both.sort_unstable();
    let mut expected = [uma.party_id, ben.party_id];
    expected.sort_unstable();
    assert_eq!(both, expected);
    store.write(ask(&uma, &first, "hello")).await.unwrap();
    let (again, is_new) = store.write(open(&uma, &ben)).await.unwrap();
    assert_eq!((again.id, again.last_seq, is_new), (first.id, 1, false));
    let filter = audit::Filter { target: Some(id.to_string()), ..audit::Filter::default() };
    let rows = store.read(move |db| audit::list(db, &filter, 10)).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.action.as_str()).collect::<Vec<_>>(), ["conversation.add"]);
    assert_ne!(store.write(open(&vic, &ben)).await.unwrap().0.id, first.id);
    // A new one after it was deleted.
    store.write(DeleteConversation { id }).await.unwrap();
    let (next, is_new) = store.write(open(&uma, &ben)).await.unwrap();
    assert!(is_new && next.id != first.id);
    // Nobody talks to nobody.
    let unknown = OpenUserAgent { user_id: UserId::new(), ..open(&uma, &ben) };
    assert_eq!(store.write(unknown).await.unwrap_err().code(), ErrorCode::NotFound);
    let unknown = OpenUserAgent { agent_id: AgentId::new(), ..open(&uma, &ben) };
    assert_eq!(store.write(unknown).await.unwrap_err().code(), ErrorCode::NotFound);
    store.write(RemoveAgent { id: ben.id, actor: Actor::system() }).await.unwrap();
    assert_eq!(store.write(open(&uma, &ben)).await.unwrap_err().code(), ErrorCode::NotFound);
}

async fn a_person_asks_and_the_agent_answers(store: TestStore) {
    let uma = store.user("uma", Role::Member).await;
    let ben = agent(&store, "Ben", AgentKind::OpenClaw).await;
    let talk = talk(&store, &uma, &ben).await;
    let asked = store.write(ask(&uma, &talk, "how far?")).await.unwrap();
    assert_eq!(store.told(), ["line 1", "delivery new -> pending"]);
    let line = asked.line.clone();
    assert_eq!((line.kind, line.role, line.hops), (Some(MessageKind::Request), MessageRole::User, 0));
    assert_eq!((line.sender_id, asked.sent, asked.repeated), (uma.party_id, false, false));
    let delivery = asked.delivery.expect("it is to be handled");
    assert_eq!((delivery.recipient_id, delivery.state), (ben.party_id, DeliveryState::Pending));
    assert_eq!(mail(&store, &ben).await, [delivery.clone()]);
    assert_eq!(hand_out(&store, &ben, &[delivery.id]).await.len(), 1);
    store.told();
    let reply = store.write(report(&ben, line.id, Some(1), "ten miles")).await.unwrap().reply.expect("an answer");
    // A person sees the line, and gets no delivery of it.
    assert_eq!(store.told(), ["delivery leased -> completed", "line 2"]);
    assert_eq!((reply.conversation_id, reply.kind), (talk.id, Some(MessageKind::Reply)));
    let (id, conversation) = (line.id, talk.id);
    let found = store.read(move |db| messages::reply_to(db, conversation, 1, id)).await.unwrap();
    assert_eq!(found, Some(reply));
    assert_eq!(store.number("SELECT count(*) AS value FROM deliveries").await, 1);
    assert!(store.write(report(&ben, line.id, Some(1), "ten miles")).await.unwrap().repeated);
}

async fn a_key_counts_once_for_its_sender_and_conversation(store: TestStore) {
    let (uma, vic) = (store.user("uma", Role::Operator).await, store.user("vic", Role::Member).await);
    let ben = agent(&store, "Ben", AgentKind::OpenClaw).await;
    let (of_uma, of_vic) = (talk(&store, &uma, &ben).await, talk(&store, &vic, &ben).await);
    let keyed = |to: &Conversation, text: &str| Ask { client_key: Some("k".into()), ..ask(&uma, to, text) };
    let first = store.write(keyed(&of_uma, "once")).await.unwrap();
    let again = store.write(keyed(&of_uma, "once")).await.unwrap();
    assert_eq!((again.line, again.delivery, again.repeated), (first.line.clone(), first.delivery, true));
    let conflict = |refused: Ask| store.write(refused);
    assert_eq!(conflict(keyed(&of_uma, "other")).await.unwrap_err().code(), ErrorCode::IdempotencyConflict);
    // A line that nobody handles is another message.
    let line_only = Ask { line_only: Some(MessageRole::User), ..keyed(&of_uma, "once") };
    assert_eq!(conflict(line_only).await.unwrap_err().code(), ErrorCode::IdempotencyConflict);
    assert!(!store.write(keyed(&of_vic, "once")).await.unwrap().repeated);
    let of_another = Ask { from: Some(vic.party_id), ..keyed(&of_uma, "once") };
    let said = store.write(of_another).await.unwrap();
    assert_eq!((said.repeated, said.line.sender_id), (false, vic.party_id));
    assert_eq!(mail(&store, &ben).await.len(), 3);
}

async fn what_nobody_would_answer_is_refused(store: TestStore) {
    let (uma, vic) = (store.user("uma", Role::Member).await, store.user("vic", Role::Member).await);
    let ben = agent(&store, "Ben", AgentKind::OpenClaw).await;
    let with_ben = talk(&store, &uma, &ben).await;
    let full = MailLimits { messages_max: 1, ..LIMITS };
    store.write(Ask { limits: full, ..ask(&uma, &with_ben, "1") }).await.unwrap();
    let gone = agent(&store, "Gone", AgentKind::OpenClaw).await;
    let with_gone = talk(&store, &uma, &gone).await;
    store.write(RemoveAgent { id: gone.id, actor: Actor::system() }).await.unwrap();
    let native = agent(&store, "Nat", AgentKind::Native).await;
    let with_native = talk(&store, &uma, &native).await;
    let (_, session) = store.chat().await;
    let by_operator = Caller { role: Role::Operator, ..uma.clone() };
    for (refused, code) in [
        (Ask { limits: full, ..ask(&uma, &with_ben, "2") }, ErrorCode::MailboxFull),
        (ask(&vic, &with_ben, "x"), ErrorCode::NotFound),
        (ask(&uma, &with_gone, "x"), ErrorCode::NotFound),
        (ask(&uma, &with_native, "x"), ErrorCode::InvalidRequest),
        (ask(&by_operator, &session, "x"), ErrorCode::InvalidRequest),
    ] {
        assert_eq!(store.write(refused).await.unwrap_err().code(), code);
    }
    assert_eq!(store.number("SELECT count(*) AS value FROM messages").await, 1);
    // What is to be answered by nobody is added all the same.
    for to in [&with_ben, &with_gone, &with_native] {
        let note = Ask { limits: full, line_only: Some(MessageRole::System), ..ask(&uma, to, "noted") };
        let added = store.write(note).await.unwrap();
        assert_eq!((added.line.kind, added.line.role), (None, MessageRole::System));
        assert!(added.delivery.is_none());
    }
    assert_eq!(store.number("SELECT count(*) AS value FROM deliveries").await, 1);
}

on_both_databases!(
    a_user_has_one_conversation_with_an_agent,
    a_person_asks_and_the_agent_answers,
    a_key_counts_once_for_its_sender_and_conversation,
    what_nobody_would_answer_is_refused,
);
