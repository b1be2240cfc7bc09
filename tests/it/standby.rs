//! Two brokers on one PostgreSQL (D5): one is active, the other answers 503 and takes over.
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::crash::load::Broker as Target;
use crate::crash::{Pressure, check, number_from, seeded};
use crate::harness::{Broker, Browser, Database, Kind, sql};
use crate::ws::{register, sample_gateway};

/// A stand-by takes over within the lease, which is six seconds, and a margin: what the issue of this work allows on a
/// machine that has nothing else to do.
const TAKE_OVER: Duration = Duration::from_secs(10);
/// So often a node sleeps or is killed where the machine has nothing else to do.
const BIG_RUN: u64 = 4;
/// How long a test waits for a take-over or an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a node that goes on may take to notice that its lease is another's.
const NOTICED: Duration = Duration::from_secs(30);
/// Both nodes must open the same sealed secrets.
const KEY: (&str, &str) = ("CLAWBROKER_ENCRYPTION_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");

/// What a node says when it has lost its lease.
const LOST: &str = "has lost its lease";

/// How often a node sleeps or is killed.
fn pauses() -> u64 {
    number_from("CLAWBROKER_TEST_PAUSES", 2)
}

/// Waits until a node is the active one, and returns how long that took since the other one was stopped.
async fn takes_over(node: &mut Broker, stopped: Instant) -> Duration {
    node.ready(PATIENCE).await;
    let took = stopped.elapsed();
    println!("took over in {} ms", took.as_millis());
    let most = if pauses() < BIG_RUN { 3 * TAKE_OVER } else { TAKE_OVER };
    assert!(took <= most, "{took:?}:\n{}", node.log());
    took
}

/// Checks that the active node keeps its lease for longer than one that is not renewed. Where the machine stands still
/// meanwhile, this is seen again, of whichever node is then the active one.
async fn keeps_its_lease(active: &mut Broker, standby: &mut Broker) {
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < 2 * PATIENCE, "not seen:\n{}\n{}", active.log(), standby.log());
        if active.get("/ready").await.0 != 200 {
            std::mem::swap(active, standby);
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let (lost, since) = (active.log().matches(LOST).count(), Instant::now());
        // Seven seconds in pieces, to which each stand-still adds its own time.
        for _ in 0..70 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let ready = (active.get("/ready").await.0, standby.get("/ready").await.0);
        let lost_now = active.log().matches(LOST).count();
        if since.elapsed() < Duration::from_secs(9) {
            assert_eq!((ready, lost_now), ((200, 503), lost), "{}", active.log());
            return;
        }
    }
}

/// Waits until a node has said something once more than `times`.
async fn says(node: &Broker, what: &str, times: usize) {
    let began = Instant::now();
    while node.log().matches(what).count() <= times {
        assert!(began.elapsed() < NOTICED, "it does not say {what:?}:\n{}", node.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends a request for a session on a connection of its own; the answer is for later.
async fn ask_for_session(node: &Broker, key: &str) -> TcpStream {
    let body = json!({ "session_key": key }).to_string();
    let request = format!(
        "POST /api/gateways/gw/sessions HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        node.address,
        node.token,
        body.len()
    );
    let mut stream = TcpStream::connect(&node.address).await.expect("the system connects, whatever the node does");
    stream.write_all(request.as_bytes()).await.expect("the system has room for it");
    stream
}

/// Reads a whole answer.
async fn answer(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // An end that is a reset comes behind the answer as well.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an answer and its end");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What was said to a node while its time stood still: the system keeps it, and the node finds it when it goes on.
struct Late {
    request: TcpStream,
    tab: Browser,
}

impl Late {
    /// Has a node do a moment before what it is to refuse, and opens the browser for that.
    async fn before(node: &Broker, round: u64) -> Browser {
        let began = Instant::now();
        for attempt in 0.. {
            let in_time = answer(ask_for_session(node, &format!("in-time-{round}-{attempt}")).await).await;
            if in_time.starts_with("HTTP/1.1 200") {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "it is awake: {in_time}\n{}", node.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        node.browser("/ws/chat/gw").await
    }

    /// Says something to a node whose time stands still.
    async fn says(node: &Broker, mut tab: Browser, round: u64) -> Self {
        let request = ask_for_session(node, &format!("too-late-{round}")).await;
        let key = format!("too-late-to-say-{round}");
        tab.try_send(json!({ "type": "chat", "sessionKey": key, "message": "say: too late" })).await;
        Self { request, tab }
    }

    /// Checks that the node, which goes on while another is active, takes none of it.
    async fn takes_nothing(mut self) {
        let refused = answer(self.request).await;
        // By the node's own clock, which has stood still, the request may have come too slowly.
        let is_late = refused.starts_with("HTTP/1.1 408");
        assert!(is_late || refused.starts_with("HTTP/1.1 503") && refused.contains("\"standby\""), "{refused}");
        while let Some(frame) = self.tab.next().await {
            assert_ne!(frame["type"], "ack", "{}", self.tab.transcript());
        }
    }
}

/// Stops a node's time at a moment at which no transaction is open, whose locks would hold up the other node.
async fn pause_between_transactions(node: &Broker, database: &Database) {
    const OPEN: &str = "SELECT count(*) AS value FROM pg_stat_activity \
                        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    let began = Instant::now();
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

        let killed = Instant::now();
        active.kill();
        takes_over(&mut standby, killed).await;
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
        keeps_its_lease(&mut active, &mut standby).await;
        let killed = Instant::now();
        active.kill();
        takes_over(&mut standby, killed).await;
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
        let paused = Instant::now();
        held_up.pause();
        takes_over(&mut standby, paused).await;
        held_up.unpause();
        says(&held_up, LOST, 0).await;
        says(&held_up, "standing by", 0).await;
        assert_eq!(held_up.get("/ready").await.0, 503);
        let killed = Instant::now();
        standby.kill();
        takes_over(&mut held_up, killed).await;
        let log = held_up.log();
        let times = |what: &str| log.matches(what).count();
        // A machine that stands still may take the lease from it once more; then it comes back once more.
        let lost = times(LOST);
        assert!(lost >= 1, "{log}");
        assert_eq!(times("this node is active"), lost + 1, "it comes back as often as it steps down:\n{log}");
        assert!((1..=lost).contains(&times("standing by")), "it says so once each time:\n{log}");
    });
}

/// D5 under load: what a node had in hand when its time stood still, and what was said to it then, is refused when it goes on
/// while another is active. Every second time the node is killed instead, and comes back as the stand-by.
/// `CLAWBROKER_TEST_PAUSES` says how often (2), `CLAWBROKER_TEST_PAUSE_S` how long it sleeps at least (1).
#[test]
fn a_sleeper_writes_nothing_after_another_took_over() {
    let pauses = pauses();
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
            let lost = active.log().matches(LOST).count();
            let tab = if round % 2 == 1 { None } else { Some(Late::before(&active, round).await) };
            // It is stopped in the middle of its work: no client has a turn before that.
            pressure.target.down();
            let stopped = Instant::now();
            let late = if let Some(tab) = tab {
                active.pause();
                Some(Late::says(&active, tab, round).await)
            } else {
                active.kill();
                None
            };
            let took = takes_over(&mut other, stopped).await;
            slowest = slowest.max(took);
            pressure.target.up(&other);
            if let Some(late) = late {
                tokio::time::sleep(pause.saturating_sub(took)).await;
                active.unpause();
                late.takes_nothing().await;
                says(&active, LOST, lost).await;
            } else {
                active = Broker::standby(&database, homes[0], &[KEY]).await;
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
        let mut db = database.connect();
        let mut sessions = |like: &str| {
            sql::number(&mut db, &format!("SELECT count(*) AS value FROM conversations WHERE key LIKE '{like}%'"))
        };
        assert_eq!(sessions("too-late"), 0);
        assert!(sessions("in-time") >= pauses.div_ceil(2) as i64, "the same is done for whoever says it in time");
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
        let unpaused = Instant::now();
        standby.unpause();
        takes_over(&mut standby, unpaused).await;
    });
}
