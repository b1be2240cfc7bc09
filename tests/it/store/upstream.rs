use clawbroker::domain::conversation::Conversation;
use clawbroker::domain::message::{Block, MessageRole};
use clawbroker::domain::turn::StepKind;
use clawbroker::store::conversations::{self, DeleteConversation};
use clawbroker::store::messages::{self, Span};
use clawbroker::store::turns::{self, NewStep};
use clawbroker::store::upstream::{
    ImportRows, MapRows, MappedRow, Meaning, NoteContact, NoteReset, RowLine, Source, known_rows,
};

use crate::harness::TestStore;
use crate::harness::test_store::answer;

fn source(conversation: &Conversation) -> Source {
    Source {
        conversation_id: conversation.id,
        gateway_id: conversation.gateway_id.clone().unwrap(),
        upstream_session: "s-1".into(),
    }
}

fn row(text: &str) -> RowLine {
    RowLine { run: None, role: MessageRole::Assistant, blocks: vec![Block::text(text)], said_at: 1_000, error: None }
}

fn mapped(row_id: &str, meaning: Meaning) -> MappedRow {
    MappedRow { row_id: row_id.into(), meaning }
}

async fn read(store: &TestStore, conversation: &Conversation) -> Conversation {
    let id = conversation.id;
    store.read(move |db| conversations::get(db, id)).await.unwrap().unwrap()
}

fn contact(conversation: &Conversation, canonical: &str, import_below: Option<i64>) -> NoteContact {
    NoteContact {
        conversation_id: conversation.id,
        canonical_key: Some(canonical.into()),
        session_id: Some("s-1".into()),
        boundary_seq: 7,
        import_below,
    }
}

async fn the_first_contact_is_noted_once(store: TestStore) {
    let (_, conversation) = store.chat().await;
    store.told();
    store.write(contact(&conversation, "agent:main:webchat-1", Some(8))).await.unwrap();
    assert!(store.told().is_empty(), "the import will tell");
    let known = read(&store, &conversation).await;
    assert_eq!(known.canonical_key.as_deref(), Some("agent:main:webchat-1"));
    assert!(known.upstream.contacted);
    assert_eq!((known.upstream.mapped_seq, known.upstream.import_below), (7, Some(8)));
    store.write(contact(&conversation, "another", None)).await.unwrap();
    assert_eq!(read(&store, &conversation).await, known, "the second contact changes nothing");
}

async fn nothing_to_import_is_told_at_once(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    store.told();
    store.write(contact(&conversation, "agent:main:webchat-1", None)).await.unwrap();
    assert_eq!(store.told(), ["imported 1 true"]);
    // A second session that the gateway calls by the same name does not take it away.
    let gateway = conversation.gateway_id.clone().unwrap();
    let second = store.session(&caller, &gateway, "another").await;
    store.write(contact(&second, "agent:main:webchat-1", None)).await.unwrap();
    assert_eq!(read(&store, &second).await.canonical_key, None);
    assert!(read(&store, &second).await.upstream.contacted);
}

/// SEC-2: a member who names a session that others used on the gateway does not get to read what they said.
async fn a_member_does_not_get_what_others_said_before(store: TestStore) {
    let (_, conversation) = store.chat().await;
    let rows = vec![("row-1".to_owned(), row("said by others"))];
    let import = ImportRows { source: source(&conversation), rows, resets: vec!["row-0".into()], import_below: None };
    assert_eq!(store.write(import).await.unwrap(), 0);
    assert!(store.log(conversation.id).await.is_empty());
    let (asked, ids) = (source(&conversation), vec!["row-0".to_owned(), "row-1".to_owned()]);
    let known = store.read(move |db| known_rows(db, &asked, &ids)).await.unwrap();
    assert_eq!(known.into_iter().collect::<Vec<_>>(), ["row-0"], "an old reset is no news");
}

/// D1: pages may overlap, the origin decides; imported lines go down from 0, newest first.
async fn overlapping_pages_are_imported_once(store: TestStore) {
    let (caller, conversation) = store.operators_chat().await;
    store.ask(&caller, conversation.id, "mine").await;
    let before = read(&store, &conversation).await.updated_at;
    store.clock.advance_ms(1_000);
    store.told();
    let import = |ids: &[i64], import_below| ImportRows {
        source: source(&conversation),
        rows: ids.iter().map(|id| (format!("row-{id}"), row(&format!("old {id}")))).collect(),
        resets: ids.iter().map(|id| format!("row-{id}")).collect(),
        import_below,
    };
    assert_eq!(store.write_bulk(import(&[9, 8, 7], Some(7))).await.unwrap(), 3);
    assert_eq!(store.write_bulk(import(&[8, 7, 6, 6, 5], None)).await.unwrap(), 2, "also twice within a page");
    assert_eq!(store.told(), ["imported -2 false", "imported -4 true"]);
    let texts: Vec<String> = store.log(conversation.id).await.into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["old 5", "old 6", "old 7", "old 8", "old 9", "mine"]);
    let now = read(&store, &conversation).await;
    assert_eq!((now.first_seq, now.last_seq, now.upstream.import_below), (-4, 1, None));
    assert_eq!(now.updated_at, before, "old lines are no activity");
    let asked = source(&conversation);
    let ids = vec!["row-5".to_owned(), "row-4".to_owned()];
    let known = store.read(move |db| known_rows(db, &asked, &ids)).await.unwrap();
    assert_eq!(known.into_iter().collect::<Vec<_>>(), ["row-5"]);
}

/// D1: each row of the gateway's log is one line or one step, however often it is seen.
async fn rows_of_every_meaning_are_mapped_once(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let (first, answered) = store.begun(&caller, conversation.id, "one").await;
    let line = store.write(answer(answered, "the answer")).await.unwrap().unwrap();
    let (second, silent) = store.begun(&caller, conversation.id, "two").await;
    store.write(answer(silent, "")).await.unwrap();
    store.told();
    let step = NewStep {
        kind: StepKind::ToolCall,
        text: "ls".into(),
        blocks: vec![Block::ToolCall {
            id: "c".into(),
            name: "sh".into(),
            arguments: serde_json::json!({"cmd": "ls"}),
        }],
        said_at: 1_000,
    };
    let map = || MapRows {
        source: source(&conversation),
        rows: vec![
            mapped("r1", Meaning::Question(first.delivery.as_ref().unwrap().id)),
            mapped("r2", Meaning::Step(answered, step.clone())),
            mapped("r3", Meaning::Step(answered, step.clone())),
            mapped("r4", Meaning::Answer(answered)),
            mapped("r5", Meaning::Question(second.delivery.as_ref().unwrap().id)),
            mapped("r6", Meaning::LateAnswer(silent, row("after all"))),
            mapped("r7", Meaning::Line(row("injected"))),
            mapped("r7", Meaning::Line(row("injected"))),
        ],
        mapped_seq: 7,
    };
    assert_eq!(store.write(map()).await.unwrap(), 7);
    assert_eq!(store.told(), ["line 4", "line 5"]);
    assert_eq!(store.write(map()).await.unwrap(), 0);
    assert!(store.told().is_empty());
    let id = conversation.id;
    let lines = store.read(move |db| messages::page(db, id, Span::After(3), 10, usize::MAX)).await.unwrap();
    assert_eq!(lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["after all", "injected"]);
    assert!(lines.iter().all(|line| line.late && line.said_at == 1_000));
    assert_eq!(lines[0].in_reply_to, Some(second.line.id));
    let silent = store.read(move |db| turns::get(db, silent)).await.unwrap().unwrap();
    assert_eq!(silent.answer_id, Some(lines[0].id));
    assert_eq!(store.number("SELECT count(*) AS value FROM steps").await, 2);
    assert_eq!(store.number("SELECT max(n) + 0 AS value FROM (SELECT CAST(n AS BIGINT) AS n FROM steps) s").await, 2);
    let each_one = "SELECT count(*) AS value FROM message_origins WHERE (message_id IS NULL) <> (step_id IS NULL)";
    assert_eq!(store.number(each_one).await, 7);
    let of_answer = {
        let mut db = store.database.connect();
        let id = crate::harness::sql::bytes(&db, line.id.as_bytes());
        crate::harness::sql::number(
            &mut db,
            &format!("SELECT count(*) AS value FROM message_origins WHERE row_id = 'r4' AND message_id = {id}"),
        )
    };
    assert_eq!(of_answer, 1);
    assert_eq!(read(&store, &conversation).await.upstream.mapped_seq, 7);
}

async fn a_reset_upstream_is_a_marker_and_a_new_beginning(store: TestStore) {
    let (_, conversation) = store.chat().await;
    store.write(contact(&conversation, "agent:main:webchat-1", Some(8))).await.unwrap();
    store.told();
    let source = Source { upstream_session: "s-2".into(), ..source(&conversation) };
    store.write(NoteReset { source, text: "The session was reset.".into() }).await.unwrap();
    assert_eq!(store.told(), ["line 1"]);
    let now = read(&store, &conversation).await.upstream;
    assert_eq!((now.session_id.as_deref(), now.mapped_seq, now.import_below), (Some("s-2"), 0, None));
    let id = conversation.id;
    let lines = store.read(move |db| messages::page(db, id, Span::Newest, 1, usize::MAX)).await.unwrap();
    assert_eq!(lines[0].role, MessageRole::Marker);
}

/// What follows it may fail, and then all is repeated.
async fn a_reset_that_is_noted_again_is_one_line(store: TestStore) {
    let (_, conversation) = store.chat().await;
    store.write(contact(&conversation, "agent:main:webchat-1", Some(8))).await.unwrap();
    store.told();
    let note = |session: &str| NoteReset {
        source: Source { upstream_session: session.into(), ..source(&conversation) },
        text: "The session was reset.".into(),
    };
    store.write(note("s-2")).await.unwrap();
    store.write(note("s-2")).await.unwrap();
    assert_eq!(store.told(), ["line 1"]);
    store.write(note("s-3")).await.unwrap();
    assert_eq!(store.told(), ["line 2"], "another transcript is another reset");
    let rows = vec![mapped("r1", Meaning::Line(row("said since")))];
    let source = Source { upstream_session: "s-3".into(), ..source(&conversation) };
    store.write(MapRows { source, rows, mapped_seq: 4 }).await.unwrap();
    store.write(note("s-3")).await.unwrap();
    assert_eq!(store.told(), ["line 3", "line 4"], "the same transcript may begin anew later");
}

/// It may have been tried again for a while.
async fn a_contact_that_is_noted_late_leaves_what_is_known_by_then(store: TestStore) {
    let (_, conversation) = store.chat().await;
    let source = Source { upstream_session: "s-2".into(), ..source(&conversation) };
    let rows = vec![mapped("r1", Meaning::Line(row("said since")))];
    store.write(MapRows { source, rows, mapped_seq: 12 }).await.unwrap();
    store.write(contact(&conversation, "agent:main:webchat-1", Some(8))).await.unwrap();
    let now = read(&store, &conversation).await;
    assert_eq!(now.canonical_key.as_deref(), Some("agent:main:webchat-1"));
    let upstream = now.upstream;
    assert!(upstream.contacted);
    assert_eq!((upstream.session_id.as_deref(), upstream.mapped_seq), (Some("s-2"), 12));
}

async fn a_deleted_conversation_takes_nothing_from_upstream(store: TestStore) {
    let (_, conversation) = store.chat().await;
    store.write(DeleteConversation { id: conversation.id }).await.unwrap();
    store.told();
    let source = source(&conversation);
    let import = ImportRows {
        source: source.clone(),
        rows: vec![("r".into(), row("x"))],
        resets: vec!["r".into()],
        import_below: None,
    };
    assert_eq!(store.write_bulk(import).await.unwrap(), 0);
    let map = MapRows { source: source.clone(), rows: vec![mapped("r", Meaning::Line(row("x")))], mapped_seq: 1 };
    assert_eq!(store.write(map).await.unwrap(), 0);
    store.write(NoteReset { source, text: "reset".into() }).await.unwrap();
    store.write(contact(&conversation, "agent:main:webchat-1", None)).await.unwrap();
    assert!(store.told().is_empty());
    assert_eq!(store.number("SELECT count(*) AS value FROM messages").await, 0);
}

on_both_databases!(
    the_first_contact_is_noted_once,
    nothing_to_import_is_told_at_once,
    a_member_does_not_get_what_others_said_before,
    overlapping_pages_are_imported_once,
    rows_of_every_meaning_are_mapped_once,
    a_reset_upstream_is_a_marker_and_a_new_beginning,
    a_reset_that_is_noted_again_is_one_line,
    a_contact_that_is_noted_late_leaves_what_is_known_by_then,
    a_deleted_conversation_takes_nothing_from_upstream,
);
