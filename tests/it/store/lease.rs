//! D5: one active node on a database.
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clawbroker::domain::error::ErrorCode;
use clawbroker::domain::ids::{HomeId, NodeId};
use clawbroker::domain::user::Role;
use clawbroker::store::lease::{DropLease, LEASE_MS, Lease, TakeLease};

use crate::harness::test_store::roomy;
use crate::harness::{Database, Kind, TestStore, run_on, sql};

fn take(node_id: NodeId, alone: bool) -> TakeLease {
    TakeLease { node_id, address: "127.0.0.1:1".into(), home: None, alone, afresh: false }
}

/// Lets the lease run out without waiting for it.
fn run_out(store: &TestStore) {
    sql::run(&mut store.database.connect(), "UPDATE node_lease SET until = 1");
}

async fn a_lease_is_held_renewed_and_handed_on(store: TestStore) {
    let (one, two) = (NodeId::new(), NodeId::new());
    assert_eq!(store.write(take(one, false)).await.unwrap(), Lease::Ours { epoch: 1 });
    let first = store.number("SELECT until AS value FROM node_lease").await;
    assert_eq!(store.write(take(one, false)).await.unwrap(), Lease::Ours { epoch: 1 }, "renewed, not taken anew");
    assert!(store.number("SELECT until AS value FROM node_lease").await >= first);
    let Lease::Theirs { for_ms, address } = store.write(take(two, false)).await.unwrap() else { panic!("not free") };
    assert!(for_ms > 0 && for_ms <= LEASE_MS, "{for_ms}");
    assert_eq!(address, "127.0.0.1:1");
    run_out(&store);
    assert_eq!(store.write(take(two, false)).await.unwrap(), Lease::Ours { epoch: 2 });
    // Dropped by who does not hold it, it stays; dropped by its holder, it is free at once.
    store.write(DropLease { node_id: one }).await.unwrap();
    assert!(matches!(store.write(take(one, false)).await.unwrap(), Lease::Theirs { .. }));
    store.write(DropLease { node_id: two }).await.unwrap();
    assert_eq!(store.write(take(one, false)).await.unwrap(), Lease::Ours { epoch: 3 });
}

async fn a_node_that_knows_it_is_alone_does_not_wait(store: TestStore) {
    store.write(take(NodeId::new(), true)).await.unwrap();
    assert_eq!(store.write(take(NodeId::new(), true)).await.unwrap(), Lease::Ours { epoch: 2 });
}

/// After a crash a node takes back what its last start held; another one waits.
async fn a_node_that_comes_back_to_its_data_does_not_wait(store: TestStore) {
    let (home, other) = (Some(HomeId::new()), Some(HomeId::new()));
    let from = |home| TakeLease { home, ..take(NodeId::new(), false) };
    assert_eq!(store.write(from(home)).await.unwrap(), Lease::Ours { epoch: 1 });
    assert!(matches!(store.write(from(other)).await.unwrap(), Lease::Theirs { .. }));
    assert!(matches!(store.write(from(None)).await.unwrap(), Lease::Theirs { .. }));
    assert_eq!(store.write(from(home)).await.unwrap(), Lease::Ours { epoch: 2 }, "what slept elsewhere is refused");
    run_out(&store);
    assert_eq!(store.write(from(None)).await.unwrap(), Lease::Ours { epoch: 3 });
    assert!(matches!(store.write(from(None)).await.unwrap(), Lease::Theirs { .. }), "no home is nobody's");
}

/// D12: who begins from what is stored must not be told what the writer remembers; who only renews keeps it all.
async fn whoever_asks_afresh_has_the_writer_read_again(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let node = NodeId::new();
    store.write(take(node, true)).await.unwrap();
    store.ask(&caller, conversation.id, "one").await;
    // As a transaction does that was taken for lost, and becomes visible late.
    let late = |seq: i64| {
        sql::run(&mut store.database.connect(), &format!("UPDATE conversations SET last_seq = {seq}"));
    };
    late(7);
    store.write(take(node, true)).await.unwrap();
    assert_eq!(store.ask(&caller, conversation.id, "two").await.line.seq, 2, "it is remembered");
    late(7);
    let afresh = TakeLease { afresh: true, ..take(node, true) };
    assert_eq!(store.write(afresh).await.unwrap(), Lease::Ours { epoch: 1 });
    assert_eq!(store.ask(&caller, conversation.id, "three").await.line.seq, 8);
}

on_both_databases!(
    a_lease_is_held_renewed_and_handed_on,
    whoever_asks_afresh_has_the_writer_read_again,
    a_node_that_knows_it_is_alone_does_not_wait,
    a_node_that_comes_back_to_its_data_does_not_wait,
);

/// Two nodes on one PostgreSQL database, the first one active.
async fn two_nodes(database: Database) -> (TestStore, NodeId, TestStore, NodeId) {
    let database = Arc::new(database);
    let (one, two) = (TestStore::with(database.clone(), roomy()), TestStore::with(database, roomy()));
    let (first, second) = (NodeId::new(), NodeId::new());
    activate(&one, first).await;
    (one, first, two, second)
}

async fn activate(store: &TestStore, node: NodeId) {
    store.epoch().store(0, Ordering::SeqCst);
    let Lease::Ours { epoch } = store.write(take(node, false)).await.unwrap() else { panic!("the lease is free") };
    store.epoch().store(epoch, Ordering::SeqCst);
}

#[test]
fn a_node_of_an_old_epoch_cannot_write() {
    run_on(Kind::Postgres, async |database: Database| {
        let (one, _, two, second) = two_nodes(database).await;
        let (caller, conversation) = one.chat().await;
        one.ask(&caller, conversation.id, "before").await;
        run_out(&one);
        activate(&two, second).await;
        one.told();
        let refused = one.write(one.new_gateway("late")).await.unwrap_err();
        assert_eq!((refused.code(), refused.http_status()), (ErrorCode::Standby, 503));
        assert!(one.told().is_empty());
        two.gateway("fine").await;
        let gateways = two.number("SELECT count(*) AS value FROM gateways WHERE id IN ('late', 'fine')").await;
        assert_eq!(gateways, 1);
    });
}

/// CNV-1: what another node wrote in between is not forgotten by the one that comes back.
#[test]
fn a_node_that_comes_back_goes_on_where_the_other_stopped() {
    run_on(Kind::Postgres, async |database: Database| {
        let (one, first, two, second) = two_nodes(database).await;
        let (caller, conversation) = one.chat().await;
        one.ask(&caller, conversation.id, "one").await;
        run_out(&one);
        activate(&two, second).await;
        two.ask(&caller, conversation.id, "two").await;
        run_out(&two);
        activate(&one, first).await;
        one.ask(&caller, conversation.id, "three").await;
        let expected: Vec<(i64, String)> = (1..).zip(["one", "two", "three"].map(str::to_owned)).collect();
        assert_eq!(one.log(conversation.id).await, expected);
    });
}

/// The active node reads its epoch and renews in one transaction, while the other one asks: neither may block the other.
#[test]
fn two_nodes_that_ask_at_once_do_not_block_each_other() {
    run_on(Kind::Postgres, async |database: Database| {
        let (one, first, two, second) = two_nodes(database).await;
        for _ in 0..50 {
            let (ours, theirs) = tokio::join!(one.write(take(first, false)), two.write(take(second, false)));
            assert_eq!(ours.unwrap(), Lease::Ours { epoch: 1 });
            assert!(matches!(theirs.unwrap(), Lease::Theirs { .. }));
        }
    });
}

#[test]
fn two_nodes_that_start_at_once_are_not_both_active() {
    run_on(Kind::Postgres, async |database: Database| {
        let database = Arc::new(database);
        let (one, two) = (TestStore::with(database.clone(), roomy()), TestStore::with(database, roomy()));
        let (a, b) = tokio::join!(one.write(take(NodeId::new(), false)), two.write(take(NodeId::new(), false)));
        let active = [a.unwrap(), b.unwrap()].iter().filter(|lease| matches!(lease, Lease::Ours { .. })).count();
        assert_eq!(active, 1);
    });
}

/// A node that falls asleep in a transaction loses it after three seconds and goes on with a new connection.
#[test]
fn a_lost_connection_is_opened_anew() {
    run_on(Kind::Postgres, async |store: TestStore| {
        store.user("ann", Role::Member).await;
        sql::run(
            &mut store.database.connect(),
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        );
        let first = store.write(store.new_gateway("one")).await;
        assert_eq!(first.unwrap_err().code(), ErrorCode::StoreBusy, "nothing is tried again by itself");
        store.gateway("one").await;
        assert_eq!(store.writer().stats().opened_total.load(Ordering::Relaxed), 2);
        assert_eq!(store.number("SELECT count(*) AS value FROM gateways").await, 1);
    });
}
