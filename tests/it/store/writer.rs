//! The writer's promises when all goes well: order, commits, lanes, bounds.
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use clawbroker::domain::error::ErrorCode;
use clawbroker::domain::ids::ConversationId;
use clawbroker::domain::user::Caller;
use clawbroker::store::chat::AcceptChat;
use clawbroker::store::conversations::MarkRead;
use clawbroker::store::{Lane, WriterOptions, messages};
use tokio::sync::oneshot::error::TryRecvError;

use crate::harness::test_store::roomy;
use crate::harness::{Database, TestStore, question};

fn asked(caller: &Caller, id: ConversationId, text: &str) -> AcceptChat {
    question(caller, id, text)
}

fn dense(lines: &[(i64, String)]) -> bool {
    lines.iter().zip(1..).all(|((seq, _), expected)| *seq == expected)
}

/// STO-1, D9: commit, then events, then answers.
async fn an_answer_comes_after_the_commit_and_after_the_events(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    store.told();
    let mut held = store.events.hold();
    let mut answer = store.writer().submit(Lane::Interactive, asked(&caller, conversation.id, "hello")).unwrap();
    held.arrived().await;
    // The events are being told: a reader sees the line, whoever asked does not know yet.
    assert_eq!(store.log(conversation.id).await.len(), 1);
    assert!(matches!(answer.try_recv(), Err(TryRecvError::Empty)));
    drop(held);
    let accepted = answer.await.unwrap().unwrap();
    assert_eq!(store.told(), ["line 1", "delivery new -> pending"]);
    let id = accepted.line.id;
    assert!(store.read(move |db| messages::get(db, id)).await.unwrap().is_some());
}

async fn what_gathers_during_a_commit_is_the_next_batch(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let stats = store.writer().stats();
    let mut held = store.events.hold();
    let first = store.writer().submit(Lane::Interactive, asked(&caller, conversation.id, "first")).unwrap();
    held.arrived().await;
    let before = stats.commits_total.load(Ordering::Relaxed);
    let waiting: Vec<_> = (0..1_000)
        .map(|n| store.writer().submit(Lane::Interactive, asked(&caller, conversation.id, &n.to_string())).unwrap())
        .collect();
    assert_eq!(store.writer().queued(), (1_000, 0));
    drop(held);
    first.await.unwrap().unwrap();
    for answer in waiting {
        answer.await.unwrap().unwrap();
    }
    let commits = stats.commits_total.load(Ordering::Relaxed) - before;
    assert!(commits <= 4, "a thousand writes in batches of 256 took {commits} commits");
    assert_eq!(stats.batch_max_seen.load(Ordering::Relaxed), 256);
    let log = store.log(conversation.id).await;
    assert!(log.len() == 1_001 && dense(&log));
    assert!(
        log.iter().skip(1).map(|(_, text)| text.clone()).eq((0..1_000).map(|n| n.to_string())),
        "in order of arrival"
    );
}

/// CNV-1: many at once on one conversation.
async fn numbers_stay_dense_with_64_writers(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let (writer, caller) = (store.writer().clone(), caller.clone());
            actix::spawn(async move {
                let mut seqs = Vec::new();
                for m in 0..10 {
                    let command = asked(&caller, conversation.id, &format!("{n}/{m}"));
                    let answer = writer.submit(Lane::Interactive, command).unwrap();
                    seqs.push(answer.await.unwrap().unwrap().line.seq);
                }
                assert!(seqs.is_sorted(), "each writer sees its own lines in order");
                seqs
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all.sort_unstable();
    assert!(all.iter().copied().eq(1..=640));
    assert!(dense(&store.log(conversation.id).await));
    // The events stand in the order of commitment.
    let told: Vec<i64> =
        store.told().iter().filter_map(|event| event.strip_prefix("line ").map(|seq| seq.parse().unwrap())).collect();
    assert!(told.iter().copied().eq(1..=640));
}

/// LIM-1: both lanes are bounded and say so.
async fn a_full_queue_is_refused_at_once(database: Database) {
    let options = WriterOptions { queue_max: 3, bulk_queue_max: 2, ..roomy() };
    let store = TestStore::with(Arc::new(database), options);
    let (caller, conversation) = store.chat().await;
    let mut held = store.events.hold();
    let running = store.writer().submit(Lane::Interactive, asked(&caller, conversation.id, "running")).unwrap();
    held.arrived().await;
    let mut answers = vec![running];
    for (lane, room) in [(Lane::Interactive, 3), (Lane::Bulk, 2)] {
        for _ in 0..room {
            answers.push(store.writer().submit(lane, asked(&caller, conversation.id, "fits")).unwrap());
        }
        let refused = store.write_later(lane, asked(&caller, conversation.id, "too much")).unwrap_err();
        assert_eq!((refused.code(), refused.retry_after_s()), (ErrorCode::StoreBusy, Some(1)));
    }
    assert_eq!(store.writer().stats().refused_total.load(Ordering::Relaxed), 2);
    drop(held);
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
    store.ask(&caller, conversation.id, "there is room again").await;
    assert_eq!(store.log(conversation.id).await.len(), 7);
}

/// Interactive work goes first, but a rush of it does not keep bulk work waiting for ever.
async fn bulk_work_goes_behind_but_does_not_starve(database: Database) {
    let options = WriterOptions { batch_max: 4, bulk_batch_max: 2, ..roomy() };
    let store = TestStore::with(Arc::new(database), options);
    let (caller, conversation) = store.chat().await;
    let mut held = store.events.hold();
    store.write_later(Lane::Interactive, asked(&caller, conversation.id, "running")).unwrap();
    held.arrived().await;
    for n in 0..3 {
        store.write_later(Lane::Bulk, asked(&caller, conversation.id, &format!("bulk {n}"))).unwrap();
    }
    let mut last = None;
    for n in 0..12 {
        last = Some(store.writer().submit(Lane::Interactive, asked(&caller, conversation.id, &n.to_string())).unwrap());
    }
    drop(held);
    last.unwrap().await.unwrap().unwrap();
    store.write_bulk(MarkRead { id: conversation.id, party: caller.party_id, seq: 0 }).await.unwrap();
    let log = store.log(conversation.id).await;
    let texts: Vec<&str> = log.iter().map(|(_, text)| text.as_str()).collect();
    let expected =
        ["running", "0", "1", "2", "3", "bulk 0", "4", "5", "6", "7", "bulk 1", "8", "9", "10", "11", "bulk 2"];
    assert_eq!(texts, expected, "one bulk command in each full batch");
}

/// Whoever asked may go: the change is made all the same.
async fn an_answer_that_nobody_waits_for_is_no_reason_to_stop(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    drop(store.writer().submit(Lane::Interactive, asked(&caller, conversation.id, "bye")).unwrap());
    store.ask(&caller, conversation.id, "next").await;
    assert_eq!(store.log(conversation.id).await.len(), 2);
}

/// Keeps what is logged.
struct Logged(Mutex<Vec<String>>);

static LOGGED: Logged = Logged(Mutex::new(Vec::new()));

impl log::Log for Logged {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

impl Logged {
    fn lines_of(&self, id: ConversationId) -> Vec<String> {
        self.0.lock().unwrap().iter().filter(|line| line.contains(&id.to_string())).cloned().collect()
    }
}

async fn a_failure_that_nobody_waits_for_is_logged(store: TestStore) {
    // Another test of this process may have installed it.
    let _ = log::set_logger(&LOGGED);
    log::set_max_level(log::LevelFilter::Warn);
    let (caller, conversation) = store.chat().await;
    let mark = |id| MarkRead { id, party: caller.party_id, seq: 1 };
    let (unattended, left, refused) = (ConversationId::new(), ConversationId::new(), ConversationId::new());
    store.write_later(Lane::Interactive, mark(unattended)).unwrap();
    drop(store.writer().submit(Lane::Interactive, mark(left)).unwrap());
    store.write(mark(refused)).await.unwrap_err();
    store.write(mark(conversation.id)).await.unwrap();
    assert_eq!(LOGGED.lines_of(unattended).len(), 1, "{:?}", LOGGED.lines_of(unattended));
    for told in [left, refused] {
        assert_eq!(LOGGED.lines_of(told), [""; 0]);
    }
}

on_both_databases!(
    a_failure_that_nobody_waits_for_is_logged,
    an_answer_comes_after_the_commit_and_after_the_events,
    what_gathers_during_a_commit_is_the_next_batch,
    numbers_stay_dense_with_64_writers,
    a_full_queue_is_refused_at_once,
    bulk_work_goes_behind_but_does_not_starve,
    an_answer_that_nobody_waits_for_is_no_reason_to_stop,
);
