//! What is old enough goes, and nothing else.
use clawbroker::domain::delivery::DeliveryState;
use clawbroker::domain::ids::{DeliveryId, TurnId};
use clawbroker::domain::message::Block;
use clawbroker::domain::turn::StepKind;
use clawbroker::store::audit::{Actor, Note};
use clawbroker::store::deliveries::{self, Cancel};
use clawbroker::store::retention::{ClockIsNear, Kept, ROWS_MAX, RetainStep, Walk};
use clawbroker::store::turns::{self, NewStep};
use clawbroker::store::upstream::{self, MapRows, MappedRow, Meaning, Source};
use futures_util::future::join_all;

use crate::harness::test_store::answer;
use crate::harness::{TestStore, sql};

const DAY_MS: u32 = 24 * 3_600 * 1_000;

/// Looks once at everything of a kind; returns how many rows were removed in each step that removed some.
async fn retain(store: &TestStore, kept: Kept, days: u32) -> Vec<usize> {
    let keep_ms = i64::from(days) * i64::from(DAY_MS);
    let mut removed = Vec::new();
    for walk in Walk::all(kept) {
        let mut next = Some(walk);
        while let Some(walk) = next {
            let stepped = store.write_bulk(RetainStep { walk, keep_ms }).await.expect("a step");
            removed.push(stepped.removed);
            next = stepped.next;
        }
    }
    removed.retain(|count| *count > 0);
    removed
}

async fn is_there(store: &TestStore, id: DeliveryId) -> bool {
    store.read(move |db| deliveries::get(db, id)).await.expect("readable").is_some()
}

/// D10: the message keeps how its delivery ended. What is open, and what ended of late, stays.
async fn ended_deliveries_go_when_they_are_old(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let id = conversation.id;
    let (answered, turn) = store.begun(&caller, id, "one").await;
    store.write(answer(turn, "the answer")).await.unwrap();
    let dead = store.dead(&caller, id, true).await;
    let cancelled = store.ask(&caller, id, "never mind").await.delivery.unwrap();
    store.write(Cancel { id: cancelled.id, reason: Some("changed my mind".into()) }).await.unwrap();
    let open = store.ask(&caller, id, "open").await.delivery.unwrap();
    let (leased, _) = store.begun(&caller, id, "leased").await;
    let (late, late_turn) = store.begun(&caller, id, "answered late").await;
    store.clock.advance_ms(10 * DAY_MS);
    store.write(answer(late_turn, "after all")).await.unwrap();
    let answered = answered.delivery.unwrap().id;
    let (leased, late) = (leased.delivery.unwrap().id, late.delivery.unwrap().id);

    store.clock.advance_ms(20 * DAY_MS);
    assert_eq!(retain(&store, Kept::Deliveries, 30).await, [0_usize; 0], "nothing is older than thirty days");
    store.clock.advance_ms(1);
    assert_eq!(retain(&store, Kept::Deliveries, 30).await, [1, 1, 1], "one of each end");
    for gone in [answered, dead.id, cancelled.id] {
        assert!(!is_there(&store, gone).await);
    }
    for left in [open.id, leased, late] {
        assert!(is_there(&store, left).await);
    }
    let kept = |state: DeliveryState, more: &str| {
        format!("SELECT count(*) AS value FROM messages WHERE end_state = {} AND ended_at > 0 AND {more}", state as i32)
    };
    assert_eq!(store.number(&kept(DeliveryState::Completed, "end_reason IS NULL AND text = 'one'")).await, 1);
    assert_eq!(store.number(&kept(DeliveryState::Dead, "end_reason = 'refused'")).await, 1);
    assert_eq!(store.number(&kept(DeliveryState::Cancelled, "end_reason = 'changed my mind'")).await, 1);
    assert_eq!(store.number("SELECT count(*) AS value FROM messages WHERE end_state IS NOT NULL").await, 3);
    store.clock.advance_ms(10 * DAY_MS);
    assert_eq!(retain(&store, Kept::Deliveries, 30).await, [1], "what was answered late");
    store.clock.advance_ms(40 * DAY_MS);
    assert_eq!(retain(&store, Kept::Deliveries, 30).await, [0_usize; 0]);
    assert!(is_there(&store, open.id).await && is_there(&store, leased).await, "what is open stays for ever");
}

/// Enough for several steps, of which each looks at so many rows at most; the messages keep all their ends.
async fn a_step_is_bounded(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let count = 2 * ROWS_MAX as usize + 7;
    let asked = join_all((0..count).map(async |n| {
        let asked = store.ask(&caller, conversation.id, &format!("question {n}")).await;
        asked.delivery.unwrap().id
    }))
    .await;
    // One in the middle is open, and keeps nobody from what stands behind it.
    let open = asked[count / 2];
    let cancels = asked.iter().filter(|id| **id != open).map(|id| store.write(Cancel { id: *id, reason: None }));
    assert!(join_all(cancels).await.iter().all(Result::is_ok));
    store.clock.advance_ms(31 * DAY_MS);
    let steps = retain(&store, Kept::Deliveries, 30).await;
    assert_eq!(steps, [ROWS_MAX as usize, ROWS_MAX as usize, 6]);
    assert_eq!(store.number("SELECT count(*) AS value FROM deliveries").await, 1);
    assert!(is_there(&store, open).await);
    let kept = "SELECT count(*) AS value FROM messages WHERE end_state = 5 AND ended_at > 0";
    assert_eq!(store.number(kept).await, count as i64 - 1);
}

async fn the_audit_log_goes_when_it_is_old(store: TestStore) {
    let note = |n: usize| Note {
        actor: Actor::system(),
        action: "test.note",
        target: ("thing", n.to_string()),
        shown: serde_json::json!({}),
    };
    let count = ROWS_MAX as usize + 3;
    assert!(join_all((0..count).map(|n| store.write(note(n)))).await.iter().all(Result::is_ok));
    store.clock.advance_ms(1);
    store.write(note(count)).await.unwrap();
    store.clock.advance_ms(10 * DAY_MS);
    assert_eq!(retain(&store, Kept::Audit, 10).await, [ROWS_MAX as usize, 3]);
    let left = sql::texts(&mut store.database.connect(), "SELECT target AS value FROM audit");
    assert_eq!(left, [count.to_string()]);
}

async fn a_clock_that_is_far_ahead_is_noticed(store: TestStore) {
    let is_near = async || store.write_bulk(ClockIsNear).await.expect("a read");
    assert_eq!(is_near().await, None, "there is nothing to compare it with");
    let (caller, conversation) = store.chat().await;
    store.ask(&caller, conversation.id, "one").await;
    assert_eq!(is_near().await, Some(true));
    store.clock.advance_ms(DAY_MS);
    assert_eq!(is_near().await, Some(true));
    store.clock.advance_ms(1);
    assert_eq!(is_near().await, Some(false));
    store.ask(&caller, conversation.id, "two").await;
    assert_eq!(is_near().await, Some(true));
}

/// D1: what a run did on its way goes; the rows that it came from are still known, and no turn goes.
async fn steps_of_ended_runs_go_and_their_rows_stay_known(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let (asked, ended) = store.begun(&caller, conversation.id, "one").await;
    let (_, running) = store.begun(&caller, conversation.id, "two").await;
    let step = |turn: TurnId| {
        let text = "ls".to_owned();
        Meaning::Step(turn, NewStep { kind: StepKind::ToolCall, blocks: vec![Block::text("ls")], text, said_at: 1 })
    };
    let delivery = asked.delivery.unwrap().id;
    let row = |row_id: &str, meaning: Meaning| MappedRow { row_id: row_id.into(), meaning };
    let map = || MapRows {
        source: Source {
            conversation_id: conversation.id,
            gateway_id: conversation.gateway_id.clone().unwrap(),
            upstream_session: "s-1".into(),
        },
        rows: vec![row("r1", step(ended)), row("r2", step(ended)), row("r3", step(running))],
        mapped_seq: 3,
    };
    assert_eq!(store.write(map()).await.unwrap(), 3);
    store.clock.advance_ms(20 * DAY_MS);
    store.write(answer(ended, "the answer")).await.unwrap();
    store.clock.advance_ms(20 * DAY_MS);
    assert_eq!(retain(&store, Kept::Steps, 30).await, [0_usize; 0], "the run ended twenty days ago");
    store.clock.advance_ms(11 * DAY_MS);
    assert_eq!(retain(&store, Kept::Steps, 30).await, [2]);
    assert_eq!(store.number("SELECT count(*) AS value FROM steps").await, 1, "of the run that goes on");
    assert_eq!(store.number("SELECT count(*) AS value FROM turns").await, 2);
    assert_eq!(store.number("SELECT count(*) AS value FROM message_origins").await, 3);
    let named = "SELECT count(*) AS value FROM message_origins WHERE step_id IN (SELECT id FROM steps)";
    let unnamed = "SELECT count(*) AS value FROM message_origins WHERE step_id IS NULL";
    assert_eq!((store.number(named).await, store.number(unnamed).await), (1, 2));
    assert_eq!(store.write(map()).await.unwrap(), 0, "nothing of it is news");

    // When the delivery is gone as well, its question is known by the turn.
    assert_eq!(retain(&store, Kept::Deliveries, 30).await, [1]);
    let key = delivery.to_string();
    let ours = store.read(move |db| upstream::our_keys(db, [key].into_iter())).await.unwrap();
    assert_eq!(ours.into_values().collect::<Vec<_>>(), [(delivery, conversation.id)]);
    let late = MapRows { rows: vec![row("r0", Meaning::Question(delivery))], ..map() };
    assert_eq!(store.write(late).await.unwrap(), 1);
    let question = turns_question(&store, ended).await;
    assert_eq!(question, asked.line.id);
    let mut db = store.database.connect();
    let id = sql::bytes(&db, question.as_bytes());
    let origin = format!("SELECT count(*) AS value FROM message_origins WHERE row_id = 'r0' AND message_id = {id}");
    assert_eq!(sql::number(&mut db, &origin), 1);
}

async fn turns_question(store: &TestStore, id: TurnId) -> clawbroker::domain::ids::MessageId {
    store.read(move |db| turns::get(db, id)).await.unwrap().unwrap().message_id.unwrap()
}

on_both_databases!(
    ended_deliveries_go_when_they_are_old,
    a_step_is_bounded,
    the_audit_log_goes_when_it_is_old,
    a_clock_that_is_far_ahead_is_noticed,
    steps_of_ended_runs_go_and_their_rows_stay_known,
);
