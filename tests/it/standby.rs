//! Two brokers on one PostgreSQL (D5): one is active, the other answers 503 and takes over.
use std::time::Duration;

use serde_json::json;

use crate::crash::load::Broker as Target;
use crate::crash::{Pressure, check, number_from, seeded};
use crate::harness::{Broker, Database, Kind, sql};
use crate::ws::{register, sample_gateway};

/// A stand-by takes over within the lease, which is six seconds, and a margin: what the issue of this work allows.
const TAKE_OVER: Duration = Duration::from_secs(10);
/// How long a node that goes on may take to notice that its lease is another's.
const NOTICED: Duration = Duration::from_secs(30);
/// Both nodes must open the same sealed secrets.
const KEY: (&str, &str) = ("CLAWBROKER_ENCRYPTION_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");

/// Waits until a node has lost its lease once more than `times`.
async fn loses_its_lease(node: &Broker, times: usize) {
    let began = tokio::time::Instant::now();
    while node.log().matches("has lost its lease").count() <= times {
        assert!(began.elapsed() < NOTICED, "it does not notice that it sleeps no more:\n{}", node.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Stops a node's time at a moment at which no transaction is open, whose locks would hold up the other node.
async fn pause_between_transactions(node: &Broker, database: &Database) {
    const OPEN: &str = "SELECT count(*) AS value FROM pg_stat_activity \
                        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    let began = tokio::time::Instant::now();
    let mut db = database.connect();
    loop {
        node.pause();
        // What it has sent is done by now.
        tokio::time::sleep(Duration::from_millis(50)).await;
        if sql::number(&mut db, OPEN) == 0 {
            return;
        }
        node.unpause();
        assert!(began.elapsed() < NOTICED, "a transaction is open at each look:\n{}", node.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_standby_refuses_and_takes_over_when_the_active_one_is_killed() {
    actix::System::new().block_on(async {
        let database = Database::migrated(Kind::Postgres);
        let gateway = sample_gateway(|_| {});
        let mut active = Broker::start(&database, &[], &[KEY]).await;
        register(&active, &gateway).await;
        active.gateway_is("gw", "connected").await;
        let mut browser = active.browser("/ws/chat/gw").await;
        browser.ask("a", "say: before").await;
        browser.until_terminal().await;

        let other = tempfile::tempdir().expect("a temporary folder");
        let mut standby = Broker::standby(&database, other.path(), &[KEY]).await;
        let (status, refused) = standby.get("/api/gateways").await;
        assert_eq!((status, &refused["error"]["code"]), (503, &json!("standby")), "{refused}");
        assert_eq!(standby.get("/health").await.0, 200);
        assert_eq!(standby.get("/ready").await.0, 503);
        assert_eq!(gateway.connections(), 1, "a stand-by does not talk to gateways");

        active.kill();
        standby.ready(TAKE_OVER).await;
        standby.gateway_is("gw", "connected").await;
        let mut back = standby.browser("/ws/chat/gw").await;
        back.send(json!({ "type": "resume", "sessionKey": "a", "after": 1 })).await;
        back.until_type("resumed").await;
        assert_eq!(back.until_type("message").await["message"]["seq"], 2, "without a gap");
        back.ask("a", "say: after").await;
        assert_eq!(back.until_terminal().await["text"], "after");
    });
}

/// D8: behind PgBouncer in transaction mode, from the first migration to a change of the active node.
#[test]
fn all_of_it_works_behind_pgbouncer() {
    actix::System::new().block_on(async {
        let database = Database::behind_pgbouncer();
        let config = database.data_dir().join("pooled.toml");
        std::fs::write(&config, "[store]\nprepared_statements = false\npostgres_pool = 10\n").unwrap();
        let settings = [KEY, ("CLAWBROKER_CONFIG", config.to_str().unwrap())];
        let gateway = sample_gateway(|_| {});
        let mut active = Broker::start(&database, &[], &settings).await;
        register(&active, &gateway).await;
        active.gateway_is("gw", "connected").await;
        let mut tabs = Vec::new();
        for name in ["a", "b", "c", "d"] {
            let mut tab = active.browser("/ws/chat/gw").await;
            tab.ask(name, &format!("say[chunks=10,ms=5]: zebra in {name}")).await;
            tabs.push(tab);
        }
        for tab in &mut tabs {
            tab.until_terminal().await;
        }
        let (status, found) = active.get("/api/admin/conversations?q=zebra").await;
        assert_eq!((status, found["items"].as_array().map(Vec::len)), (200, Some(4)), "{found}");
        // The lease is held with transactions only: no session belongs to a node.
        let other = tempfile::tempdir().expect("a temporary folder");
        let mut standby = Broker::standby(&database, other.path(), &settings).await;
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert_eq!(active.get("/ready").await.0, 200, "it keeps its lease");
        assert_eq!(standby.get("/ready").await.0, 503);
        active.kill();
        standby.ready(TAKE_OVER).await;
        standby.gateway_is("gw", "connected").await;
        let mut back = standby.browser("/ws/chat/gw").await;
        back.send(json!({ "type": "resume", "sessionKey": "a", "after": 1 })).await;
        assert_eq!(back.until_type("message").await["message"]["seq"], 2, "without a gap");
        back.ask("a", "say: after").await;
        assert_eq!(back.until_terminal().await["text"], "after");
        for log in [active.log(), standby.log()] {
            assert!(!log.contains("prepared statement"), "{log}");
        }
    });
}

/// What it had planned for its lease must not be done under the next one.
#[test]
fn a_node_that_was_held_up_steps_down_once_and_comes_back_once() {
    actix::System::new().block_on(async {
        let database = Database::migrated(Kind::Postgres);
        let mut held_up = Broker::start(&database, &[], &[KEY]).await;
        let other = tempfile::tempdir().expect("a temporary folder");
        let mut standby = Broker::standby(&database, other.path(), &[KEY]).await;
        held_up.pause();
        standby.ready(TAKE_OVER).await;
        held_up.unpause();
        loses_its_lease(&held_up, 0).await;
        assert_eq!(held_up.get("/ready").await.0, 503);
        standby.kill();
        held_up.ready(TAKE_OVER).await;
        let log = held_up.log();
        for (what, times) in [("has lost its lease", 1), ("this node is active", 2), ("standing by", 1)] {
            assert_eq!(log.matches(what).count(), times, "{what}:\n{log}");
        }
    });
}

/// D5 under load: what a node had in hand when its time stood still is refused when it goes on while another is active.
/// Every second time the node is killed instead, and comes back as the stand-by.
/// `CLAWBROKER_TEST_PAUSES` says how often (2), `CLAWBROKER_TEST_PAUSE_S` how long it sleeps at least (1).
#[test]
fn a_sleeper_writes_nothing_after_another_took_over() {
    let pauses = number_from("CLAWBROKER_TEST_PAUSES", 2);
    let pause = Duration::from_secs(number_from("CLAWBROKER_TEST_PAUSE_S", 1));
    actix::System::new().block_on(async {
        let database = Database::migrated(Kind::Postgres);
        let gateway = sample_gateway(|_| {});
        let mut active = Broker::start(&database, &[], &[KEY]).await;
        register(&active, &gateway).await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut other = Broker::standby(&database, folder.path(), &[KEY]).await;
        // Where the active one has its files, and the other.
        let mut homes = [database.data_dir(), folder.path()];
        let mut random = seeded(0x51EE);
        let pressure = Pressure::on(&active, Target::new(), &mut random).await;
        let mut slowest = Duration::ZERO;
        for round in 0..pauses {
            tokio::time::sleep(random.ms(300, 600)).await;
            let lost = active.log().matches("has lost its lease").count();
            pressure.target.down();
            let began = tokio::time::Instant::now();
            let is_killed = round % 2 == 1;
            if is_killed {
                active.kill();
            } else {
                active.pause();
            }
            other.ready(TAKE_OVER).await;
            slowest = slowest.max(began.elapsed());
            pressure.target.up(&other);
            if is_killed {
                active = Broker::standby(&database, homes[0], &[KEY]).await;
            } else {
                tokio::time::sleep(pause.saturating_sub(began.elapsed())).await;
                active.unpause();
                loses_its_lease(&active, lost).await;
            }
            let (status, refused) = active.get("/ready").await;
            assert_eq!(status, 503, "round {round}: {refused}\n{}", active.log());
            homes.swap(0, 1);
            std::mem::swap(&mut active, &mut other);
        }
        println!("slowest take-over {} ms", slowest.as_millis());
        let told = pressure.end(&active).await;
        told.check(&active).await;
        assert_eq!((active.stop().await, other.stop().await), (Some(0), Some(0)));
        check::database(&database, told.asked());
    });
}

#[test]
fn a_graceful_stop_hands_over_at_once() {
    actix::System::new().block_on(async {
        let database = Database::migrated(Kind::Postgres);
        let mut active = Broker::start(&database, &[], &[KEY]).await;
        let other = tempfile::tempdir().expect("a temporary folder");
        let mut standby = Broker::standby(&database, other.path(), &[KEY]).await;
        assert_eq!(standby.get("/ready").await.0, 503);
        // It cannot take what is given up, so that this can be seen.
        pause_between_transactions(&standby, &database).await;
        assert_eq!(active.stop().await, Some(0));
        let until = sql::number(&mut database.connect(), "SELECT until AS value FROM node_lease");
        assert_eq!(until, 0, "the lease was given up, not left to end by itself:\n{}", active.log());
        standby.unpause();
        standby.ready(TAKE_OVER).await;
    });
}
