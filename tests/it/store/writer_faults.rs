//! The writer's promises when a command fails: it fails alone, and nobody is told what is not so.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clawbroker::domain::error::{Error, ErrorCode};
use clawbroker::domain::event::{Event, Publish};
use clawbroker::domain::user::Role;
use clawbroker::store::audit::Actor;
use clawbroker::store::conversations::{NewSession, OpenSession};
use clawbroker::store::users::AddUser;
use clawbroker::store::{Command, Db, Lane, Probe, Tx, WriterParts, writer_queues};

use crate::harness::test_store::roomy;
use crate::harness::{Kind, Recorder, TestStore, question, session_name, sql};

/// How a command goes wrong after it has written.
#[derive(Clone, Copy)]
enum Fault {
    Refuses,
    Panics,
    LosesTheDisk,
}

/// Does all that `command` does, and then fails.
struct Failing<C> {
    command: C,
    fault: Fault,
}

impl<C: Command> Command for Failing<C> {
    type Output = C::Output;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<C::Output, Error> {
        self.command.apply(tx)?;
        match self.fault {
            Fault::Refuses => Err(Error::new(ErrorCode::InvalidRequest, "second thoughts")),
            Fault::Panics => panic!("a planned panic"),
            Fault::LosesTheDisk => Err(Error::new(ErrorCode::StoreBusy, "a planned I/O error")),
        }
    }
}

/// A batch in which the middle command fails after it has written: CNV-1 holds, and only that one knows of it.
async fn fails_alone(store: &TestStore, fault: Fault, code: ErrorCode) {
    let (caller, conversation) = store.chat().await;
    let asked = |text: &str| question(&caller, conversation.id, text);
    let mut held = store.events.hold();
    let running = store.writer().submit(Lane::Interactive, asked("running")).unwrap();
    held.arrived().await;
    let before = store.writer().submit(Lane::Interactive, asked("before")).unwrap();
    let failing = store.writer().submit(Lane::Interactive, Failing { command: asked("failing"), fault }).unwrap();
    let after = store.writer().submit(Lane::Interactive, asked("after")).unwrap();
    drop(held);
    running.await.unwrap().unwrap();
    store.told();
    assert_eq!(before.await.unwrap().unwrap().line.seq, 2);
    assert_eq!(failing.await.unwrap().unwrap_err().code(), code);
    assert_eq!(after.await.unwrap().unwrap().line.seq, 3);
    let lines: Vec<String> = store.told().into_iter().filter(|event| event.starts_with("line ")).collect();
    assert!(lines.iter().all(|line| line == "line 2" || line == "line 3"), "{lines:?}");
    store.ask(&caller, conversation.id, "the writer lives").await;
    let expected: Vec<(i64, String)> =
        (1..).zip(["running", "before", "after", "the writer lives"].map(str::to_owned)).collect();
    assert_eq!(store.log(conversation.id).await, expected);
    assert_eq!(store.writer().stats().replays_total.load(Ordering::Relaxed), 1);
    assert_eq!(store.number("SELECT count(*) AS value FROM deliveries").await, 4);
}

async fn a_refusal_after_a_write_fails_alone(store: TestStore) {
    fails_alone(&store, Fault::Refuses, ErrorCode::InvalidRequest).await;
}

async fn a_panic_fails_alone_and_the_writer_lives_on(store: TestStore) {
    fails_alone(&store, Fault::Panics, ErrorCode::Internal).await;
}

/// D12: after an I/O error the whole batch is refused, nothing is tried again, the connection is new.
async fn a_lost_disk_refuses_the_batch_and_reopens(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let asked = |text: &str| question(&caller, conversation.id, text);
    let mut held = store.events.hold();
    let running = store.writer().submit(Lane::Interactive, asked("running")).unwrap();
    held.arrived().await;
    let before = store.writer().submit(Lane::Interactive, asked("before")).unwrap();
    let lost = Failing { command: asked("lost"), fault: Fault::LosesTheDisk };
    let lost = store.writer().submit(Lane::Interactive, lost).unwrap();
    drop(held);
    running.await.unwrap().unwrap();
    assert_eq!(before.await.unwrap().unwrap_err().code(), ErrorCode::StoreBusy);
    assert_eq!(lost.await.unwrap().unwrap_err().code(), ErrorCode::StoreBusy);
    let stats = store.writer().stats();
    assert_eq!((stats.replays_total.load(Ordering::Relaxed), stats.broken.load(Ordering::Relaxed)), (0, 1));
    assert_eq!(store.ask(&caller, conversation.id, "again").await.line.seq, 2);
    assert_eq!((stats.opened_total.load(Ordering::Relaxed), stats.broken.load(Ordering::Relaxed)), (2, 0));
}

/// D12: a commit that fails may have been made; whoever lives by events must hear of it, and goes on afterwards.
async fn a_commit_of_unknown_outcome_is_told(store: TestStore) {
    {
        let mut db = store.database.connect();
        match db {
            // What is deferred fails the commit itself.
            Db::Sqlite(_) => {
                sql::run(&mut db, "CREATE TABLE parent (id BIGINT PRIMARY KEY)");
                let reference = "REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED";
                sql::run(&mut db, &format!("CREATE TABLE child (id BIGINT PRIMARY KEY, parent BIGINT {reference})"));
                let insert = "INSERT INTO child VALUES (1, 1)";
                sql::run(&mut db, &format!("CREATE TRIGGER trap AFTER INSERT ON users BEGIN {insert}; END"));
            }
            Db::Postgres(_) => {
                let body = "BEGIN RAISE EXCEPTION 'not today'; END";
                sql::run(&mut db, &format!("CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$"));
                let when = "AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW";
                sql::run(&mut db, &format!("CREATE CONSTRAINT TRIGGER trap {when} EXECUTE FUNCTION trap()"));
            }
        }
    }
    let add = |name: &str| AddUser {
        name: name.into(),
        display_name: name.into(),
        role: Role::Member,
        password_hash: None,
        actor: Actor::system(),
        idem: None,
        ensure: false,
    };
    store.told();
    let error = store.write(add("ann")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreBusy, "{error}");
    assert!(store.told().is_empty(), "the store is not well yet");
    {
        let mut db = store.database.connect();
        let drop = if matches!(db, Db::Sqlite(_)) { "DROP TRIGGER trap" } else { "DROP TRIGGER trap ON users" };
        sql::run(&mut db, drop);
    }
    store.write(add("ann")).await.unwrap();
    assert_eq!(store.told(), ["OutcomeUnknown"]);
    assert_eq!(store.number("SELECT count(*) AS value FROM users WHERE name = 'ann'").await, 1);
    store.write(add("ben")).await.unwrap();
    assert!(store.told().is_empty(), "once is enough");
}

/// Tells of nothing the first time: the writer's thread falls between its commit and its answers.
#[derive(Default)]
struct FallsOnce {
    fell: AtomicBool,
    told: Recorder,
}

impl Publish for FallsOnce {
    fn publish(&self, events: Vec<Event>) {
        assert!(self.fell.swap(true, Ordering::SeqCst), "a planned fall");
        self.told.publish(events);
    }
}

/// D12: what a thread has committed that fell before it told of it is as unknown as after a commit that failed.
async fn what_a_fallen_thread_did_not_tell_is_told_as_unknown(store: TestStore) {
    let publish = Arc::new(FallsOnce::default());
    let parts = WriterParts {
        opener: store.database.opener(),
        options: roomy(),
        clock: store.clock.clone(),
        publish: publish.clone(),
        epoch: store.epoch().clone(),
    };
    let (writer, seed) = writer_queues(parts);
    let thread = seed.start().unwrap();
    let answer = writer.submit(Lane::Interactive, store.new_gateway("untold")).unwrap();
    assert!(answer.await.is_err(), "nobody is answered");
    assert!(thread.join().is_err());
    let _thread = seed.start().unwrap();
    assert_eq!(seed.stats().broken.load(Ordering::Relaxed), 1, "somebody must find out whether the store is well");
    writer.submit(Lane::Interactive, Probe).unwrap().await.unwrap().unwrap();
    assert!(matches!(publish.told.take().as_slice(), [Event::OutcomeUnknown]));
    assert_eq!(seed.stats().broken.load(Ordering::Relaxed), 0);
    assert_eq!(store.number("SELECT count(*) AS value FROM gateways WHERE id = 'untold'").await, 1);
    writer.submit(Lane::Interactive, Probe).unwrap().await.unwrap().unwrap();
    assert!(publish.told.take().is_empty(), "once is enough");
}

/// A lock that another program holds on the file says nothing about the disk: the connection stays, and nothing waits for
/// more than the lock.
async fn a_lock_of_somebody_else_passes(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let stats = store.writer().stats();
    let opened = stats.opened_total.load(Ordering::Relaxed);
    let mut other = store.database.connect();
    sql::run(&mut other, "BEGIN IMMEDIATE");
    let refused = store.write(question(&caller, conversation.id, "one")).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::StoreBusy);
    let seen = || (stats.opened_total.load(Ordering::Relaxed), stats.broken.load(Ordering::Relaxed));
    assert_eq!(seen(), (opened, 1), "the connection is kept, and who asks is told that nothing can be written");
    sql::run(&mut other, "ROLLBACK");
    assert_eq!(store.ask(&caller, conversation.id, "one").await.line.seq, 1);
    assert_eq!(seen(), (opened, 0));
}

/// STO-1: a statement that fails spoils the whole transaction on PostgreSQL, whose commit is a silent rollback then. A
/// zero byte, which its text cannot hold, is enough for it.
async fn a_failed_read_does_not_take_its_neighbours_along(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let gateway = conversation.gateway_id.clone().unwrap();
    let mut held = store.events.hold();
    let running = question(&caller, conversation.id, "running");
    let running = store.writer().submit(Lane::Interactive, running).unwrap();
    held.arrived().await;
    let new_user = |name: &str| AddUser {
        name: name.into(),
        display_name: name.into(),
        role: Role::Viewer,
        password_hash: None,
        actor: Actor::system(),
        idem: None,
        ensure: false,
    };
    let before = store.writer().submit(Lane::Interactive, new_user("before")).unwrap();
    let mut name = session_name(&gateway, "zero");
    name.key = "zero\0byte".into();
    let bad = OpenSession { name, caller: caller.clone(), new: NewSession::default(), must_be_new: false };
    let bad = store.writer().submit(Lane::Interactive, bad).unwrap();
    let after = store.writer().submit(Lane::Interactive, new_user("after")).unwrap();
    drop(held);
    running.await.unwrap().unwrap();
    before.await.unwrap().unwrap();
    // SQLite takes the byte; PostgreSQL cannot, and says so to this caller only.
    let bad = bad.await.unwrap();
    match store.database.kind() {
        Kind::Sqlite => assert_eq!(bad.unwrap().key, "zero\0byte"),
        Kind::Postgres => assert_eq!(bad.unwrap_err().code(), ErrorCode::Internal),
    }
    after.await.unwrap().unwrap();
    let there = store.number("SELECT count(*) AS value FROM users WHERE name IN ('before', 'after')").await;
    assert_eq!(there, 2, "who was told so is there");
}

async fn a_refusal_before_the_first_write_costs_no_replay(store: TestStore) {
    let (caller, conversation) = store.chat().await;
    let mut asked = question(&caller, conversation.id, "too many");
    asked.queued_max = 0;
    store.write(asked).await.unwrap_err();
    assert_eq!(store.writer().stats().replays_total.load(Ordering::Relaxed), 0);
}

on_both_databases!(
    a_refusal_after_a_write_fails_alone,
    a_panic_fails_alone_and_the_writer_lives_on,
    a_lost_disk_refuses_the_batch_and_reopens,
    a_commit_of_unknown_outcome_is_told,
    what_a_fallen_thread_did_not_tell_is_told_as_unknown,
    a_failed_read_does_not_take_its_neighbours_along,
    a_refusal_before_the_first_write_costs_no_replay,
);

on_sqlite!(a_lock_of_somebody_else_passes);
