use clawbroker::domain::delivery::{DeliveryState, backoff_ms, reason};
use clawbroker::domain::error::{Error, ErrorCode};
use clawbroker::domain::ids::{DeliveryId, TurnId};
use clawbroker::store::conversations::DeleteConversation;
use clawbroker::store::deliveries::{self, Cancel, Filter, FireDue, Fired, Purge, Redrive};
use clawbroker::store::turns::BeginTurn;

use crate::harness::test_store::{START_MS, roomy};
use crate::harness::{TestStore, sql};

/// Sets columns of a delivery behind the store's back, for clocks that no command winds up yet.
fn set(store: &TestStore, id: DeliveryId, columns: &str) {
    let mut db = store.database.connect();
    let id = sql::bytes(&db, id.as_bytes());
    sql::run(&mut db, &format!("UPDATE deliveries SET {columns} WHERE id = {id}"));
}

fn whats(stored: &deliveries::Stored) -> Vec<&str> {
    stored.events.iter().map(|entry| entry.what.as_str()).collect()
}

fn ids_of(fired: &Fired) -> Vec<DeliveryId> {
    fired.ready.iter().map(|(_, delivery)| delivery.id).collect()
}

/// DLV-2: whatever waits for time is found when its time comes, soonest first.
async fn time_moves_what_waits_for_it(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let mut ids = Vec::new();
    for text in ["ready", "later", "expiring", "leased"] {
        ids.push(store.ask(&caller, conversation.id, text).await.delivery.unwrap().id);
    }
    let at = |ms: i64| START_MS + ms;
    set(&store, ids[1], &format!("available_at = {0}, due_at = {0}", at(5_000)));
    set(&store, ids[2], &format!("expires_at = {0}, due_at = {0}", at(1_000)));
    set(&store, ids[3], &format!("state = 1, attempt = 1, lease_until = {0}, due_at = {0}", at(2_000)));
    let due = async || store.read(|db| deliveries::due(db, 10)).await.unwrap();
    let expected = [(at(1_000), ids[2]), (at(2_000), ids[3]), (at(5_000), ids[1])];
    assert_eq!(due().await, expected, "what is ready waits for nothing");

    store.told();
    let fire = || FireDue { ids: ids.clone() };
    let fired = store.write(fire()).await.unwrap();
    assert_eq!(ids_of(&fired), [ids[0], ids[2]], "nothing else is due yet");
    let times = [None, Some(at(5_000)), Some(at(1_000)), Some(at(2_000))];
    assert_eq!(
        fired.due,
        std::iter::zip(ids.clone(), times).collect::<Vec<_>>(),
        "each is looked at again in its time"
    );
    assert!(store.told().is_empty());
    assert_eq!(due().await, expected, "a ttl goes on");

    store.clock.advance_ms(2_000);
    let fired = store.write(fire()).await.unwrap();
    assert_eq!(ids_of(&fired), [ids[0]]);
    assert_eq!(store.told(), ["delivery pending -> expired", "delivery leased -> pending"]);
    let given_back = store.delivery(ids[3]).await;
    assert_eq!(given_back.delivery.available_at, at(2_000) + backoff_ms(1));
    assert_eq!(whats(&given_back), ["accepted", "lease_over"]);

    store.clock.advance_ms(60_000);
    let fired = store.write(fire()).await.unwrap();
    assert_eq!(ids_of(&fired), [ids[0], ids[1], ids[3]], "all but the expired one");
    assert_eq!(due().await, [], "what has waited is not due again and again");
    let waited = store.delivery(ids[1]).await.delivery;
    assert!(!waited.must_wait(START_MS), "nor does it wait again when the clock is set back");
}

/// Another node's clock was ahead, or ours was set back.
async fn what_was_accepted_by_a_later_clock_is_handed_out(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let id = store.ask(&caller, conversation.id, "x").await.delivery.unwrap().id;
    let later = START_MS + 3_000;
    set(&store, id, &format!("created_at = {later}, available_at = {later}"));
    store.write(BeginTurn { turn_id: TurnId::new(), delivery_id: id }).await.unwrap();
    assert_eq!(store.delivery(id).await.delivery.state, DeliveryState::Leased);
}

/// STO-3: it is left as it is, and its neighbours go on.
async fn a_damaged_row_holds_nobody_up(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let mut ids = Vec::new();
    for text in ["one", "two", "three"] {
        let delivery = store.ask(&caller, conversation.id, text).await.delivery.unwrap();
        set(&store, delivery.id, &format!("expires_at = {START_MS}, due_at = {START_MS}"));
        ids.push(delivery);
    }
    let recipient = ids[0].recipient_id;
    let ids: Vec<DeliveryId> = ids.into_iter().map(|delivery| delivery.id).collect();
    set(&store, ids[1], "events = 'x'");
    for (limit, expected, goes_on) in
        [(2, &ids[..1], true), (3, &[ids[0], ids[2]][..], true), (4, &[ids[0], ids[2]], false)]
    {
        let (found, next) =
            store.read(move |db| deliveries::work_of_recipient(db, recipient, i64::MIN, limit)).await.unwrap();
        let found: Vec<DeliveryId> = found.iter().map(|stored| stored.delivery.id).collect();
        assert_eq!((found.as_slice(), next.is_some()), (expected, goes_on), "{limit}");
    }
    let fire = FireDue { ids: ids.clone() };
    store.write(fire).await.unwrap();
    for id in [ids[0], ids[2]] {
        assert_eq!(store.delivery(id).await.delivery.state, DeliveryState::Expired);
    }
    assert_eq!(store.number("SELECT count(*) AS value FROM deliveries WHERE events = 'x' AND state = 0").await, 1);
}

/// STO-3: the same where it is not the row itself that cannot be read.
async fn damage_around_a_delivery_holds_nobody_up(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let other = store.gateway("gw-2").await;
    let other = store.session(&caller, &other, "webchat-2").await;
    let mut ids = Vec::new();
    for id in [other.id, conversation.id] {
        let delivery = store.ask(&caller, id, "one").await.delivery.unwrap().id;
        set(&store, delivery, &format!("expires_at = {START_MS}, due_at = {START_MS}"));
        ids.push(delivery);
    }
    sql::run(&mut store.database.connect(), "UPDATE parties SET kind = 99 WHERE reference = 'gw-2'");
    // Another writer, which remembers nothing of it.
    let afresh = TestStore::with(store.database.clone(), roomy());
    let fire = FireDue { ids: ids.clone() };
    afresh.write(fire).await.unwrap();
    let states = [store.delivery(ids[0]).await.delivery.state, store.delivery(ids[1]).await.delivery.state];
    assert_eq!(states, [DeliveryState::Pending, DeliveryState::Expired]);
}

async fn the_last_lease_that_runs_out_is_the_end(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let id = store.ask(&caller, conversation.id, "x").await.delivery.unwrap().id;
    set(&store, id, &format!("state = 1, attempt = 5, lease_until = {START_MS}, due_at = {START_MS}"));
    store.write(FireDue { ids: vec![id] }).await.unwrap();
    let dead = store.delivery(id).await.delivery;
    assert_eq!((dead.state, dead.reason.as_deref()), (DeliveryState::Dead, Some(reason::ATTEMPTS)));
}

/// D4: what may have started at the gateway is never sent again under the same key.
async fn a_dead_delivery_is_redriven_unless_it_had_started(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let fresh = store.dead(&caller, conversation.id, false).await;
    let started = store.dead(&caller, conversation.id, true).await;
    let refused = store.write(Redrive { id: started.id }).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::DeliveryEnded);
    store.told();
    let again = store.write(Redrive { id: fresh.id }).await.unwrap();
    assert_eq!((again.state, again.attempt, again.ended_at), (DeliveryState::Pending, 0, None));
    assert_eq!(store.told(), ["delivery dead -> pending"]);
    assert_eq!(whats(&store.delivery(fresh.id).await), ["accepted", "leased", "dead", "redriven"]);
    assert_eq!(store.write(Redrive { id: fresh.id }).await.unwrap_err().code(), ErrorCode::NotLeased, "it waits");
    store.write(Cancel { id: fresh.id, reason: None }).await.unwrap();
    assert_eq!(store.write(Redrive { id: fresh.id }).await.unwrap_err().code(), ErrorCode::DeliveryEnded);
    assert_eq!(store.write(Redrive { id: DeliveryId::new() }).await.unwrap_err().code(), ErrorCode::NotFound);
}

/// What stays dead for good stands in no page of those that can be started afresh, or it would hide the others.
async fn only_what_can_be_redriven_is_found_for_it(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let fresh = store.dead(&caller, conversation.id, false).await;
    for _ in 0..3 {
        store.dead(&caller, conversation.id, true).await;
    }
    let gone = store.session(&caller, &conversation.gateway_id.clone().unwrap(), "gone").await.id;
    store.dead(&caller, gone, false).await;
    store.write(DeleteConversation { id: gone }).await.unwrap();
    let dead = Filter { state: Some(DeliveryState::Dead), ..Filter::default() };
    let redrivable = Filter { redrivable: true, ..dead.clone() };
    let found = store
        .read(move |db| {
            let counts = (deliveries::count(db, &dead)?, deliveries::count(db, &redrivable)?);
            Ok::<_, Error>((counts, deliveries::list(db, &redrivable, 1)?))
        })
        .await
        .unwrap();
    assert_eq!(found.0, (5, 1));
    assert_eq!(found.1[0].0.delivery.id, fresh.id);
}

async fn a_cancelled_delivery_stays_cancelled(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let id = store.ask(&caller, conversation.id, "x").await.delivery.unwrap().id;
    store.told();
    for _ in 0..2 {
        let cancelled = store.write(Cancel { id, reason: Some("changed my mind".into()) }).await.unwrap();
        assert_eq!(cancelled.state, DeliveryState::Cancelled);
    }
    assert_eq!(store.told(), ["delivery pending -> cancelled"], "the second time is a repeat");
    let dead = store.dead(&caller, conversation.id, false).await;
    let refused = store.write(Cancel { id: dead.id, reason: None }).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::DeliveryEnded);
}

/// D10: the end of a delivery stays on its message when the delivery is gone.
async fn a_purge_removes_dead_ones_only(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let open = store.ask(&caller, conversation.id, "open").await.delivery.unwrap();
    let dead = store.dead(&caller, conversation.id, false).await;
    let removed = store.write(Purge { ids: vec![open.id, dead.id, DeliveryId::new()] }).await.unwrap();
    assert_eq!(removed, 1);
    assert!(store.read(move |db| deliveries::get(db, dead.id)).await.unwrap().is_none());
    assert_eq!(store.delivery(open.id).await.delivery.state, DeliveryState::Pending);
    let kept = "SELECT count(*) AS value FROM messages WHERE end_state = 3 AND end_reason = 'refused' AND ended_at > 0";
    assert_eq!(store.number(kept).await, 1);
}

async fn lists_and_counts_find_what_they_are_asked_for(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let mut open = Vec::new();
    for text in ["one", "two", "three"] {
        open.push(store.ask(&caller, conversation.id, text).await.delivery.unwrap());
    }
    let dead = store.dead(&caller, conversation.id, false).await;
    let list = async |filter: Filter, limit| store.read(move |db| deliveries::list(db, &filter, limit)).await.unwrap();
    let all = list(Filter::default(), 10).await;
    assert_eq!(all.len(), 4);
    assert_eq!(all[0].0.delivery.id, dead.id, "newest first");
    assert!(all.iter().all(|(_, party)| party.reference == "gw"));
    let pending = list(Filter { state: Some(DeliveryState::Pending), ..Filter::default() }, 2).await;
    assert_eq!(pending.iter().map(|(s, _)| s.delivery.id).collect::<Vec<_>>(), [open[2].id, open[1].id]);
    let rest =
        Filter { state: Some(DeliveryState::Pending), after_n: Some(pending[1].0.delivery.n), ..Filter::default() };
    assert_eq!(list(rest, 10).await[0].0.delivery.id, open[0].id);
    assert!(list(Filter { created_before: Some(START_MS), ..Filter::default() }, 10).await.is_empty());
    let counts = store.read(deliveries::counts).await.unwrap();
    let expected = [(DeliveryState::Pending, 3), (DeliveryState::Leased, 0), (DeliveryState::Dead, 1)];
    assert_eq!(counts, expected);
    let recipient = open[0].recipient_id;
    let first = store.read(move |db| deliveries::open_of_recipient(db, recipient, 0, 1)).await.unwrap();
    assert_eq!(first[0].delivery.id, open[0].id);
    let after = first[0].delivery.n;
    let rest = store.read(move |db| deliveries::open_of_recipient(db, recipient, after, 10)).await.unwrap();
    assert_eq!(rest.iter().map(|s| s.delivery.id).collect::<Vec<_>>(), [open[1].id, open[2].id]);
    let message = open[0].message_id;
    assert_eq!(store.read(move |db| deliveries::of_message(db, message)).await.unwrap().len(), 1);
}

on_both_databases!(
    time_moves_what_waits_for_it,
    what_was_accepted_by_a_later_clock_is_handed_out,
    a_damaged_row_holds_nobody_up,
    damage_around_a_delivery_holds_nobody_up,
    the_last_lease_that_runs_out_is_the_end,
    a_dead_delivery_is_redriven_unless_it_had_started,
    a_cancelled_delivery_stays_cancelled,
    only_what_can_be_redriven_is_found_for_it,
    a_purge_removes_dead_ones_only,
    lists_and_counts_find_what_they_are_asked_for,
);
