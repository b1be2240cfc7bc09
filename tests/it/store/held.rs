//! Rows that the writer holds back to write many at once: nobody misses them, and one that does not fit fails alone.
use std::sync::atomic::Ordering;

use clawbroker::domain::conversation::Conversation;
use clawbroker::domain::error::{Error, ErrorCode};
use clawbroker::domain::user::{Caller, Role};
use clawbroker::store::audit::Actor;
use clawbroker::store::chat::{AcceptChat, Accepted};
use clawbroker::store::conversations::{self, DeleteConversation, MarkRead};
use clawbroker::store::gateways::RemoveGateway;
use clawbroker::store::users::ChangeUser;
use clawbroker::store::{Command, Lane};
use tokio::sync::oneshot::Receiver;

use crate::harness::{Kind, TestStore, question, sql};

type Answer<C> = Receiver<Result<<C as Command>::Output, Error>>;

/// Has the writer wait, so that what is submitted meanwhile is one batch.
async fn in_one_batch<T>(store: &TestStore, caller: &Caller, id: Conversation, submit: impl FnOnce() -> T) -> T {
    let mut gate = store.events.hold();
    let first = submitted(store, question(caller, id.id, "first"));
    gate.arrived().await;
    let answers = submit();
    drop(gate);
    first.await.unwrap().unwrap();
    answers
}

fn submitted<C: Command>(store: &TestStore, command: C) -> Answer<C> {
    store.writer().submit(Lane::Interactive, command).unwrap()
}

async fn sessions(store: &TestStore, caller: &Caller, count: usize) -> Vec<Conversation> {
    let gateway = store.gateway("gw").await;
    let mut made = Vec::new();
    for n in 0..count {
        made.push(store.session(caller, &gateway, &format!("s{n}")).await);
    }
    made
}

async fn rows_of_a_batch_are_all_there(store: TestStore) {
    let caller = store.user("ann", Role::Member).await;
    let sessions = sessions(&store, &caller, 5).await;
    let answers = in_one_batch(&store, &caller, sessions[0].clone(), || {
        let ask = |n: usize| {
            let key = n.is_multiple_of(2).then(|| format!("key-{n}"));
            submitted(&store, AcceptChat { client_key: key, ..question(&caller, sessions[n % 5].id, &n.to_string()) })
        };
        (0..20).map(ask).collect::<Vec<_>>()
    })
    .await;
    let mut accepted: Vec<Accepted> = Vec::new();
    for answer in answers {
        accepted.push(answer.await.unwrap().unwrap());
    }
    for (index, session) in sessions.iter().enumerate() {
        let log = store.log(session.id).await;
        let before = usize::from(index == 0);
        assert_eq!(log.len(), 4 + before);
        assert!(log.iter().zip(1..).all(|((seq, _), expected)| *seq == expected));
        let texts: Vec<_> = log.iter().skip(before).map(|(_, text)| text.clone()).collect();
        assert_eq!(texts, [index, index + 5, index + 10, index + 15].map(|n| n.to_string()));
        // The end, the time and what its owner has read of it went along.
        let (id, party) = (session.id, caller.party_id);
        let found = store.read(move |db| conversations::get(db, id)).await.unwrap().unwrap();
        assert_eq!((found.last_seq, found.updated_at >= session.updated_at), (log.len() as i64, true));
        let listed = store.read(move |db| conversations::with_unread(db, vec![found], party)).await.unwrap();
        assert_eq!(listed[0].unread, 0);
    }
    for accepted in accepted {
        let delivery = accepted.delivery.unwrap();
        let stored = store.delivery(delivery.id).await;
        assert_eq!(stored.delivery, delivery);
        assert_eq!(stored.events[0].what, "accepted");
        let repeated = accepted.line.text.parse::<usize>().unwrap();
        if repeated.is_multiple_of(2) {
            let again = AcceptChat {
                client_key: Some(format!("key-{repeated}")),
                ..question(&caller, accepted.topic.conversation_id, &accepted.line.text)
            };
            assert_eq!(store.write(again).await.unwrap().line.id, accepted.line.id);
        }
    }
}

async fn a_batch_reads_what_it_holds_back(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let asked = |text: &str, key: &str, queued_max| AcceptChat {
        client_key: Some(key.into()),
        queued_max,
        ..question(&caller, conversation.id, text)
    };
    let (first, again, other, full, read, deleted, late) = in_one_batch(&store, &caller, conversation.clone(), || {
        (
            submitted(&store, asked("one", "k", 10)),
            submitted(&store, asked("one", "k", 10)),
            submitted(&store, asked("two", "k", 10)),
            // The one before the batch and "one" wait.
            submitted(&store, asked("three", "l", 2)),
            submitted(&store, MarkRead { id: conversation.id, party: caller.party_id, seq: 2 }),
            submitted(&store, DeleteConversation { id: conversation.id }),
            submitted(&store, asked("four", "m", 10)),
        )
    })
    .await;
    let first = first.await.unwrap().unwrap();
    let again = again.await.unwrap().unwrap();
    assert!(
        again.repeated && again.line.id == first.line.id && again.delivery.unwrap().id == first.delivery.unwrap().id
    );
    assert_eq!(other.await.unwrap().unwrap_err().code(), ErrorCode::IdempotencyConflict);
    assert_eq!(full.await.unwrap().unwrap_err().code(), ErrorCode::MailboxFull);
    read.await.unwrap().unwrap();
    deleted.await.unwrap().unwrap();
    assert_eq!(late.await.unwrap().unwrap_err().code(), ErrorCode::NotFound);
    let open = store.number("SELECT count(*) AS value FROM deliveries WHERE state < 2").await;
    assert_eq!(open, 0, "what was held back was cancelled as well");
}

/// The database refuses a row only when the batch is written.
async fn a_row_that_does_not_fit_fails_alone(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    refuse_the_text(&store, "bad");
    let answers = in_one_batch(&store, &caller, conversation.clone(), || {
        ["one", "two", "bad", "three", "four"].map(|text| submitted(&store, question(&caller, conversation.id, text)))
    })
    .await;
    let mut refused = Vec::new();
    for answer in answers {
        refused.push(answer.await.unwrap().err().map(|error| error.code()));
    }
    assert_eq!(refused, [None, None, Some(ErrorCode::Internal), None, None]);
    let log = store.log(conversation.id).await;
    assert!(log.iter().zip(1..).all(|((seq, _), expected)| *seq == expected), "{log:?}");
    assert_eq!(log.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), ["first", "one", "two", "three", "four"]);
    assert_eq!(store.writer().stats().replays_total.load(Ordering::Relaxed), 1);
}

fn refuse_the_text(store: &TestStore, text: &str) {
    let db = &mut store.database.connect();
    match store.database.kind() {
        Kind::Sqlite => sql::run(
            db,
            &format!(
                "CREATE TRIGGER refused BEFORE INSERT ON messages WHEN NEW.text = '{text}' \
                 BEGIN SELECT RAISE(ABORT, 'refused'); END"
            ),
        ),
        Kind::Postgres => {
            sql::run(
                db,
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$",
            );
            sql::run(
                db,
                &format!(
                    "CREATE TRIGGER refused BEFORE INSERT ON messages FOR EACH ROW WHEN (NEW.text = '{text}') \
                     EXECUTE FUNCTION refuse()"
                ),
            );
        }
    }
}

/// What the writer remembers of a user, a gateway and a conversation follows their changes.
async fn what_is_remembered_follows_its_changes(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    assert_eq!(store.ask(&caller, conversation.id, "one").await.line.sender.name, "ANN");
    let renamed = ChangeUser {
        id: caller.user_id,
        name: None,
        display_name: Some("Anna".into()),
        role: None,
        password_hash: None,
        actor: Actor::system(),
    };
    store.write(renamed).await.unwrap();
    let told = store.ask(&caller, conversation.id, "two").await.line;
    assert_eq!(told.sender.name, "Anna");
    let gateway = conversation.gateway_id.clone().unwrap();
    let remove = RemoveGateway { id: gateway.clone(), purge: false, actor: Actor::system() };
    store.write(remove).await.unwrap();
    let refused = store.write(question(&caller, conversation.id, "three")).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::GatewayNotFound);
    store.gateway(gateway.as_str()).await;
    store.ask(&caller, conversation.id, "four").await;
    let stranger = store.user("ben", Role::Member).await;
    let refused = store.write(question(&stranger, conversation.id, "five")).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::NotFound);
    let kept = store.number("SELECT count(*) AS value FROM messages").await;
    assert_eq!(kept, 3);
}

on_both_databases!(
    rows_of_a_batch_are_all_there,
    a_batch_reads_what_it_holds_back,
    a_row_that_does_not_fit_fails_alone,
    what_is_remembered_follows_its_changes,
);
