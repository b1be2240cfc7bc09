use clawbroker::domain::conversation::ConversationKind;
use clawbroker::domain::delivery::{DeliveryState, reason};
use clawbroker::domain::error::ErrorCode;
use clawbroker::domain::ids::ConversationId;
use clawbroker::domain::search::Search;
use clawbroker::domain::turn::TurnState;
use clawbroker::domain::user::Role;
use clawbroker::store::conversations::{
    self, DeleteConversation, Filter, Listed, MarkRead, NewSession, OpenSession, SessionName,
};
use clawbroker::store::sessions::PatchSession;
use clawbroker::store::turns::{self, BeginForeignTurn};
use clawbroker::store::upstream::NoteContact;

use crate::harness::test_store::START_MS;
use crate::harness::{TestStore, question, session_name};

async fn list(store: &TestStore, filter: Filter, reader: clawbroker::domain::ids::PartyId) -> Vec<Listed> {
    store.read(move |db| conversations::list(db, &filter, reader, 100)).await.unwrap()
}

fn keys(listed: &[Listed]) -> Vec<&str> {
    listed.iter().map(|l| l.conversation.key.as_str()).collect()
}

fn contact(id: ConversationId, canonical: &str) -> NoteContact {
    NoteContact {
        conversation_id: id,
        canonical_key: Some(canonical.into()),
        session_id: Some("s-1".into()),
        boundary_seq: 0,
        import_below: None,
    }
}

async fn a_session_is_found_by_either_name(store: TestStore) {
    let (_, conversation) = store.chat().await;
    let gateway = conversation.gateway_id.clone().unwrap();
    // Before the first contact by what the gateway will call it, after it by what it has called it.
    for canonical in [None, Some("agent:main:webchat-1")] {
        for name in ["webchat-1", "WebChat-1", "agent:main:webchat-1", "Agent:Main:webchat-1"] {
            let name = session_name(&gateway, name);
            let found = store.read(move |db| conversations::find(db, &name)).await.unwrap().unwrap();
            assert_eq!((found.id, found.canonical_key.as_deref()), (conversation.id, canonical));
        }
        store.write(contact(conversation.id, "agent:main:webchat-1")).await.unwrap();
    }
    // An older gateway tells no canonical key: what is expected is known here and never sent.
    let old = store.session(&store.user("old", Role::Member).await, &gateway, "old").await;
    store.write(NoteContact { canonical_key: None, ..contact(old.id, "") }).await.unwrap();
    let again = session_name(&gateway, "OLD");
    let found = store.read(move |db| conversations::find(db, &again)).await.unwrap().unwrap();
    assert_eq!((found.id, found.canonical_key), (old.id, None));
    // The gateway has the last word about its default agent.
    let other = store.session(&store.user("ops", Role::Operator).await, &gateway, "here").await;
    store.write(contact(other.id, "agent:work:here")).await.unwrap();
    let named = SessionName::new(gateway.clone(), &"HERE".parse().unwrap(), Some("work"));
    let found = store.read(move |db| conversations::find(db, &named)).await.unwrap().unwrap();
    assert_eq!((found.id, found.canonical_key.as_deref()), (other.id, Some("agent:work:here")));
    let free = session_name(&gateway, "HERE");
    assert!(store.read(move |db| conversations::find(db, &free)).await.unwrap().is_none());
    // Whose agent's it is, is not guessed: the gateway may not have told its default agent yet.
    let early = store.session(&store.user("early", Role::Operator).await, &gateway, "Early").await;
    for (canonical, found) in [("agent:ops:early", Some(early.id)), ("agent:main:early", None)] {
        let told = SessionName::told(gateway.clone(), canonical, Some("ops"));
        let there = store.read(move |db| conversations::find(db, &told)).await.unwrap();
        assert_eq!(there.map(|conversation| conversation.id), found, "{canonical}");
    }
    // Named in full first and not contacted yet, then called by its short name.
    let caller = store.user("ben", Role::Member).await;
    let long = store.session(&caller, &gateway, "agent:main:two").await;
    let short = session_name(&gateway, "two");
    let found = store.read(move |db| conversations::find(db, &short)).await.unwrap().unwrap();
    assert_eq!(found.id, long.id);
}

async fn opening_twice_is_one_session_unless_it_must_be_new(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let gateway = conversation.gateway_id.clone().unwrap();
    assert_eq!(store.session(&caller, &gateway, "webchat-1").await.id, conversation.id);
    let refused = store
        .write(OpenSession {
            name: session_name(&gateway, "webchat-1"),
            caller,
            new: NewSession::default(),
            must_be_new: true,
        })
        .await
        .unwrap_err();
    assert_eq!((refused.code(), refused.http_status()), (ErrorCode::AlreadyExists, 400));
}

async fn somebody_elses_session_is_refused(store: TestStore) {
    let (_, conversation) = store.chat().await;
    let gateway = conversation.gateway_id.clone().unwrap();
    let ben = store.user("ben", Role::Member).await;
    let open = OpenSession {
        name: session_name(&gateway, "webchat-1"),
        caller: ben.clone(),
        new: NewSession::default(),
        must_be_new: false,
    };
    let refused = store.write(open).await.unwrap_err();
    assert_eq!((refused.code(), refused.http_status()), (ErrorCode::AlreadyExists, 409));
    // SEC-2: a full queue is nothing that a stranger learns of.
    let mut asked = question(&ben, conversation.id, "psst");
    asked.queued_max = 0;
    assert_eq!(store.write(asked).await.unwrap_err().code(), ErrorCode::NotFound);
    // An operator may.
    let operator = store.user("olga", Role::Operator).await;
    assert_eq!(store.session(&operator, &gateway, "webchat-1").await.id, conversation.id);
}

async fn deleting_ends_what_is_open_and_tells_of_it(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let (running, turn_id) = store.begun(&caller, conversation.id, "one").await;
    let waiting = store.ask(&caller, conversation.id, "two").await;
    store.told();
    store.write(DeleteConversation { id: conversation.id }).await.unwrap();
    assert_eq!(
        store.told(),
        ["delivery leased -> cancelled", "delivery pending -> cancelled", "turn aborted", "deleted 1..2"],
    );
    for asked in [running, waiting] {
        let stored = store.delivery(asked.delivery.unwrap().id).await.delivery;
        assert_eq!(stored.state, DeliveryState::Cancelled);
        assert_eq!(stored.reason.as_deref(), Some(reason::CONVERSATION_DELETED));
    }
    let turn = store.read(move |db| turns::get(db, turn_id)).await.unwrap().unwrap();
    assert_eq!(turn.state, TurnState::Aborted);
    assert!(store.read(move |db| conversations::get(db, conversation.id)).await.unwrap().is_none());
    // A tombstone takes nothing any more.
    let again = store.write(DeleteConversation { id: conversation.id }).await.unwrap_err();
    let asked = store.write(question(&caller, conversation.id, "three")).await.unwrap_err();
    let read = store.write(MarkRead { id: conversation.id, party: caller.party_id, seq: 1 }).await.unwrap_err();
    let foreign = BeginForeignTurn {
        turn_id: clawbroker::domain::ids::TurnId::new(),
        conversation_id: conversation.id,
        run_id: "r".into(),
    };
    let foreign = store.write(foreign).await.unwrap_err();
    for error in [again, asked, read, foreign] {
        assert_eq!(error.code(), ErrorCode::NotFound);
    }
}

async fn a_deleted_name_is_a_new_conversation(store: TestStore) {
    let (caller, old) = store.chat().await;
    let gateway = old.gateway_id.clone().unwrap();
    store.ask(&caller, old.id, "one").await;
    store.write(contact(old.id, "agent:main:webchat-1")).await.unwrap();
    store.clock.advance_ms(1_000);
    store.write(DeleteConversation { id: old.id }).await.unwrap();
    store.clock.advance_ms(1_000);
    let new = store.session(&caller, &gateway, "webchat-1").await;
    assert_ne!(new.id, old.id);
    assert_eq!(new.upstream.not_before_ms, START_MS + 1_000, "what was said before belongs to the deleted one");
    assert_eq!(store.ask(&caller, new.id, "one").await.line.seq, 1);
    // The gateway's own name is free again as well.
    store.write(contact(new.id, "agent:main:webchat-1")).await.unwrap();
    let found = store.read(move |db| conversations::get(db, new.id)).await.unwrap().unwrap();
    assert_eq!(found.canonical_key.as_deref(), Some("agent:main:webchat-1"));
    // Called by the other name it is the same predecessor.
    store.write(DeleteConversation { id: new.id }).await.unwrap();
    let third = store.session(&caller, &gateway, "agent:main:webchat-1").await;
    assert_eq!(third.upstream.not_before_ms, START_MS + 2_000);
}

async fn lists_filter_search_and_page(store: TestStore) {
    let ann = store.user("ann", Role::Member).await;
    let ben = store.user("ben", Role::Member).await;
    let (one, two) = (store.gateway("one").await, store.gateway("two").await);
    let mut made = Vec::new();
    for (caller, gateway, key) in [(&ann, &one, "Alpha"), (&ben, &one, "be%ta"), (&ann, &two, "gamma")] {
        store.clock.advance_ms(10);
        made.push(store.session(caller, gateway, key).await);
    }
    let all = Filter::default();
    assert_eq!(keys(&list(&store, all.clone(), ann.party_id).await), ["gamma", "be%ta", "Alpha"]);
    store.clock.advance_ms(10);
    store.ask(&ann, made[0].id, "newest").await;
    assert_eq!(keys(&list(&store, all.clone(), ann.party_id).await), ["Alpha", "gamma", "be%ta"]);
    let with = |change: fn(&mut Filter)| {
        let mut filter = Filter::default();
        change(&mut filter);
        filter
    };
    let on_one = Filter { gateway_id: Some(one), ..Filter::default() };
    assert_eq!(keys(&list(&store, on_one, ann.party_id).await), ["Alpha", "be%ta"]);
    let of_ann = Filter { owner_id: Some(ann.user_id), ..Filter::default() };
    assert_eq!(keys(&list(&store, of_ann, ann.party_id).await), ["Alpha", "gamma"]);
    let of_kind = with(|f| f.kind = Some(ConversationKind::Task));
    assert!(list(&store, of_kind, ann.party_id).await.is_empty());
    let patch = PatchSession { id: made[2].id, title: Some(Some("Öl ALPHAbet".into())), archived: Some(true) };
    store.write(patch).await.unwrap();
    assert_eq!(keys(&list(&store, with(|f| f.archived = Some(true)), ann.party_id).await), ["gamma"]);
    assert_eq!(keys(&list(&store, with(|f| f.archived = Some(false)), ann.party_id).await), ["Alpha", "be%ta"]);
    let search = |text: &str| Filter { search: Some(Search::new(text)), ..Filter::default() };
    assert_eq!(
        keys(&list(&store, search("aLPHa"), ann.party_id).await),
        ["Alpha", "gamma"],
        "keys and titles, any case"
    );
    assert_eq!(keys(&list(&store, search("Öl A"), ann.party_id).await), ["gamma"], "letters of all alphabets");
    assert_eq!(keys(&list(&store, search("%"), ann.party_id).await), ["be%ta"], "wildcards are letters here");
    assert!(list(&store, search("a_p"), ann.party_id).await.is_empty());
    // Page by page each appears once.
    let mut seen = Vec::new();
    let mut filter = Filter::default();
    loop {
        let asked = filter.clone();
        let page = store.read(move |db| conversations::list(db, &asked, ann.party_id, 1)).await.unwrap();
        let Some(last) = page.into_iter().next() else { break };
        filter.after = Some((last.conversation.updated_at, last.conversation.id));
        seen.push(last.conversation.key);
    }
    assert_eq!(seen, ["Alpha", "gamma", "be%ta"]);
}

async fn unread_counts_what_came_after_the_last_look(store: TestStore) {
    let (ann, conversation) = store.chat().await;
    let ben = store.user("ben", Role::Operator).await;
    for text in ["one", "two", "three"] {
        store.ask(&ann, conversation.id, text).await;
    }
    let unread = async |reader| list(&store, Filter::default(), reader).await[0].unread;
    assert_eq!(unread(ben.party_id).await, 3, "never looked");
    store.write(MarkRead { id: conversation.id, party: ben.party_id, seq: 2 }).await.unwrap();
    assert_eq!(unread(ben.party_id).await, 1);
    store.write(MarkRead { id: conversation.id, party: ben.party_id, seq: 1 }).await.unwrap();
    assert_eq!(unread(ben.party_id).await, 1, "marks do not go back");
    store.write(MarkRead { id: conversation.id, party: ben.party_id, seq: 99 }).await.unwrap();
    assert_eq!(unread(ben.party_id).await, 0);
    store.ask(&ann, conversation.id, "four").await;
    assert_eq!(unread(ben.party_id).await, 1, "a mark does not run ahead of the log");
    assert_eq!(unread(ann.party_id).await, 0, "one's own lines are read");
    store.ask(&ben, conversation.id, "five").await;
    assert_eq!((unread(ben.party_id).await, unread(ann.party_id).await), (0, 1), "who speaks has read what was before");
}

on_both_databases!(
    a_session_is_found_by_either_name,
    opening_twice_is_one_session_unless_it_must_be_new,
    somebody_elses_session_is_refused,
    deleting_ends_what_is_open_and_tells_of_it,
    a_deleted_name_is_a_new_conversation,
    lists_filter_search_and_page,
    unread_counts_what_came_after_the_last_look,
);
