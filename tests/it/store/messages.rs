use std::sync::Arc;

use clawbroker::domain::ids::ConversationId;
use clawbroker::domain::message::{Block, CUT_MARKER, Line, MessageRole, TEXT_BYTES_MAX};
use clawbroker::domain::user::Role;
use clawbroker::store::messages::{self, Span};
use clawbroker::store::upstream::{ImportRows, RowLine, Source};

use crate::harness::test_store::answer;
use crate::harness::{TestStore, sql};

async fn page(store: &TestStore, id: ConversationId, span: Span, limit: i64, bytes_max: usize) -> Vec<Arc<Line>> {
    store.read(move |db| messages::page(db, id, span, limit, bytes_max)).await.unwrap()
}

fn seqs(lines: &[Arc<Line>]) -> Vec<i64> {
    lines.iter().map(|line| line.seq).collect()
}

fn row(text: &str) -> RowLine {
    RowLine { run: None, role: MessageRole::Assistant, blocks: vec![Block::text(text)], said_at: 1, error: None }
}

/// CNV-1: dense in both directions, and every page is a contiguous part of it.
async fn pages_are_contiguous_parts_of_the_log(store: TestStore) {
    let (caller, conversation) = store.operators_chat().await;
    let id = conversation.id;
    for n in 1..=5 {
        store.ask(&caller, id, &format!("line {n}")).await;
    }
    let source =
        Source { conversation_id: id, gateway_id: conversation.gateway_id.unwrap(), upstream_session: "s".into() };
    let rows = (0..4).map(|n| (format!("row-{n}"), row("old"))).collect();
    store.write_bulk(ImportRows { source, rows, resets: Vec::new(), import_below: None }).await.unwrap();
    let all = usize::MAX;
    assert_eq!(seqs(&page(&store, id, Span::After(i64::MIN), 100, all).await), [-3, -2, -1, 0, 1, 2, 3, 4, 5]);
    assert_eq!(seqs(&page(&store, id, Span::Newest, 3, all).await), [3, 4, 5]);
    assert_eq!(seqs(&page(&store, id, Span::Before(3), 3, all).await), [0, 1, 2]);
    assert!(seqs(&page(&store, id, Span::Before(-3), 3, all).await).is_empty());
    assert_eq!(seqs(&page(&store, id, Span::After(3), 3, all).await), [4, 5]);
    assert_eq!(seqs(&page(&store, id, Span::After(-4), 2, all).await), [-3, -2]);
}

/// LIM-1: a page is bounded in bytes, but moves on by one line at least.
async fn pages_are_bounded_in_bytes(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    for _ in 0..5 {
        store.ask(&caller, conversation.id, &"x".repeat(100)).await;
    }
    let id = conversation.id;
    assert_eq!(seqs(&page(&store, id, Span::Newest, 100, 250).await), [4, 5], "the newest, not the oldest");
    assert_eq!(seqs(&page(&store, id, Span::After(0), 100, 250).await), [1, 2]);
    assert_eq!(seqs(&page(&store, id, Span::Before(4), 100, 10).await), [3], "one at least");
    assert!(seqs(&page(&store, id, Span::After(5), 100, 10).await).is_empty());
}

/// LIM-1: what does not fit is not read at all. A line that cannot be read is an error wherever it is.
async fn lines_beyond_the_bound_of_a_page_are_left_unread(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let id = conversation.id;
    for _ in 0..4 {
        store.ask(&caller, id, &"x".repeat(100)).await;
    }
    sql::run(&mut store.database.connect(), "UPDATE messages SET blocks = 'not blocks' WHERE seq = 2");
    assert_eq!(seqs(&page(&store, id, Span::Newest, 100, 250).await), [3, 4]);
    let damaged = store.read(move |db| messages::page(db, id, Span::Newest, 100, 350)).await.unwrap_err();
    assert_eq!(damaged.http_status(), 500);
}

/// STO-3: whoever works through many lines goes on without those that cannot be read.
async fn damaged_lines_are_left_out_where_their_neighbours_wait(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let operator = store.user("oscar", Role::Operator).await;
    let mut ids = Vec::new();
    for (who, text) in [(&caller, "one"), (&caller, "two"), (&operator, "three"), (&caller, "four")] {
        ids.push(store.ask(who, conversation.id, text).await.line.id);
    }
    let mut db = store.database.connect();
    sql::run(&mut db, "UPDATE messages SET blocks = 'not blocks' WHERE seq = 2");
    sql::run(&mut db, "UPDATE parties SET kind = 99 WHERE id = (SELECT sender_id FROM messages WHERE seq = 3)");
    let found = store.read(move |db| messages::by_ids(db, &ids)).await.unwrap();
    let mut seqs: Vec<i64> = found.values().map(|line| line.seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, [1, 4]);
}

async fn lines_come_back_as_they_were_committed(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let (asked, turn_id) = store.begun(&caller, conversation.id, "ünï 🦀\nnew line").await;
    let mut end = answer(turn_id, "the answer");
    end.thinking = Some("hmm".into());
    end.said_at = Some(42);
    let answered = store.write(end).await.unwrap().unwrap();
    let lines = page(&store, conversation.id, Span::Newest, 10, usize::MAX).await;
    assert_eq!(lines, [asked.line.clone(), answered.clone()]);
    assert_eq!(lines[1].blocks, [Block::Thinking { text: "hmm".into() }, Block::text("the answer")]);
    assert_eq!((lines[1].text.as_str(), lines[1].said_at), ("the answer", 42));
    let (question, answer) = (asked.line.id, answered.id);
    assert_eq!(store.read(move |db| messages::get(db, answer)).await.unwrap(), Some(answered.clone()));
    let place = store.read(move |db| messages::place_of(db, answer)).await.unwrap();
    assert_eq!(place, Some((conversation.id, 2)));
    let reply = store.read(move |db| messages::reply_to(db, conversation.id, 1, question)).await.unwrap();
    assert_eq!(reply.map(|line| line.id), Some(answer));
}

async fn a_giant_answer_is_cut_and_says_so(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let (_, turn_id) = store.begun(&caller, conversation.id, "tell me everything").await;
    let line = store.write(answer(turn_id, &"ä".repeat(TEXT_BYTES_MAX))).await.unwrap().unwrap();
    assert!(line.text.len() <= TEXT_BYTES_MAX && line.text.ends_with(CUT_MARKER));
    let stored = page(&store, conversation.id, Span::Newest, 1, usize::MAX).await;
    assert_eq!(stored[0].text.len(), line.text.len());
}

async fn giant_thinking_is_cut_and_counts_for_a_page(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let (_, turn_id) = store.begun(&caller, conversation.id, "think").await;
    let mut end = answer(turn_id, "the answer");
    end.thinking = Some("x".repeat(TEXT_BYTES_MAX + 1));
    let line = store.write(end).await.unwrap().unwrap();
    let [Block::Thinking { text: thinking }, Block::Text { text }] = line.blocks.as_slice() else { panic!("{line:?}") };
    assert!(thinking.len() <= TEXT_BYTES_MAX && thinking.ends_with(CUT_MARKER));
    assert_eq!(text, "the answer");
    assert_eq!(page(&store, conversation.id, Span::Newest, 1, usize::MAX).await, [line]);
    assert_eq!(seqs(&page(&store, conversation.id, Span::Newest, 10, TEXT_BYTES_MAX / 2).await), [2]);
    assert_eq!(seqs(&page(&store, conversation.id, Span::After(0), 10, TEXT_BYTES_MAX / 2).await), [1]);
}

on_both_databases!(
    giant_thinking_is_cut_and_counts_for_a_page,
    pages_are_contiguous_parts_of_the_log,
    pages_are_bounded_in_bytes,
    lines_beyond_the_bound_of_a_page_are_left_unread,
    damaged_lines_are_left_out_where_their_neighbours_wait,
    lines_come_back_as_they_were_committed,
    a_giant_answer_is_cut_and_says_so,
);
