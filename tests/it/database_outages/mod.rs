//! PostgreSQL under fire: the server crashes, connections end, or there is only one. What was acknowledged is there, nothing
//! is half done, and the broker goes on without being started again (STO-1, STO-2, D12).
//!
//! `CLAWBROKER_TEST_OUTAGES` says how often each of it happens, `CLAWBROKER_TEST_SEED` repeats a run.
mod cluster;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use self::cluster::Cluster;
use crate::crash::load::Broker as Target;
use crate::crash::{Pressure, check, number_from, seeded, survives_kills};
use crate::harness::{Broker, Database, Kind, Seeded, sql};
use crate::ws::{register, sample_gateway};

/// How long the broker may take to be well again: the lease may have ended meanwhile, and reads wait five seconds for a
/// connection.
const WELL: Duration = Duration::from_secs(30);
/// How long an outage may last until a client has felt it: reads wait five seconds for a connection, and after six the
/// lease has ended.
const FELT: Duration = Duration::from_secs(30);
/// How long it may take until somebody is connected to a database that is used.
const CONNECTED: Duration = Duration::from_secs(30);
/// How long a connection has to be there after the end of its broker to be a pooler's: the server ends one whose other end
/// is gone at once.
const OUTLIVED: Duration = Duration::from_secs(2);

fn run(test: impl Future<Output = ()>) {
    actix::System::new().block_on(test);
}

/// Whether the clients feel an outage: each has to be felt, else it proves nothing.
struct Felt {
    target: Target,
    before: u64,
    since: Instant,
}

impl Felt {
    fn from_now_on(target: &Target) -> Self {
        Self { target: target.clone(), before: refusals(target), since: Instant::now() }
    }

    /// Tells whether a client was refused something by now.
    fn by_now(&self) -> bool {
        let is_felt = refusals(&self.target) > self.before;
        assert!(is_felt || self.since.elapsed() < FELT, "no client feels the outage");
        is_felt
    }

    /// Waits until a client was refused something.
    async fn wait(&self) {
        while !self.by_now() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Counts what was refused because the database was away.
fn refusals(target: &Target) -> u64 {
    target.refusals("store_busy") + target.refusals("standby")
}

/// Returns how many connections the writer has opened so far.
async fn opened(broker: &Broker) -> u64 {
    let (status, text) = broker.get("/metrics").await;
    assert_eq!(status, 200, "{text}");
    let text = text.as_str().expect("metrics are a text");
    let count = text.lines().find_map(|line| line.strip_prefix("clawbroker_writer_connections_opened_total "));
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no count of connections: {text}"))
}

/// Puts a broker under load, does something to its database again and again, and checks that it comes back each time by
/// itself and has lost nothing.
async fn comes_back(
    database: &Database,
    mut broker: Broker,
    mut random: Seeded,
    mut outage: impl AsyncFnMut(&mut Seeded, &Felt),
) {
    let times = number_from("CLAWBROKER_TEST_OUTAGES", 4);
    let gateway = sample_gateway(|_| {});
    register(&broker, &gateway).await;
    let pressure = Pressure::on(&broker, Target::new(), &mut random).await;
    for _ in 0..times {
        tokio::time::sleep(random.ms(50, 600)).await;
        let connections = opened(&broker).await;
        let felt = Felt::from_now_on(&pressure.target);
        outage(&mut random, &felt).await;
        let began = Instant::now();
        broker.ready(WELL).await;
        // What reads may be well before the writer has tried.
        while opened(&broker).await == connections {
            assert!(began.elapsed() < WELL, "the writer has lost no connection:\n{}", broker.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let refused = refusals(&pressure.target);
    println!("{times} outages, {refused} refusals");
    assert!(refused >= times, "each outage was felt");
    let told = pressure.end(&broker).await;
    told.check(&broker).await;
    assert_eq!(broker.stop().await, Some(0));
    check::database(database, told.asked());
}

#[test]
fn a_server_that_crashes_loses_nothing_that_was_acknowledged() {
    run(async {
        let cluster = Cluster::start().await;
        let database = Database::on(&cluster.admin(), &cluster.admin());
        let broker = Broker::start(&database, &[], &[]).await;
        comes_back(&database, broker, seeded(0xC4A5), async |random, felt| {
            cluster.crash().await;
            tokio::time::sleep(random.ms(200, 2_000)).await;
            felt.wait().await;
            cluster.up().await;
        })
        .await;
    });
}

#[test]
fn connections_that_are_ended_are_made_again() {
    run(async {
        let database = Database::migrated(Kind::Postgres);
        let broker = Broker::start(&database, &[], &[]).await;
        comes_back(&database, broker, seeded(0xC0DE), async |random, felt| {
            let mut ended = 0;
            while ended < 10 || !felt.by_now() {
                database.end_connections();
                ended += 1;
                tokio::time::sleep(random.ms(1, 100)).await;
            }
        })
        .await;
    });
}

/// With one connection the broker cannot read while it can write: it says so, and works when there are more.
#[test]
fn one_connection_is_too_few_and_is_said_to_be() {
    run(async {
        let cluster = Cluster::start().await;
        let database = Database::on(&cluster.admin(), &cluster.url("narrow", "narrow"));
        let name = database.name();
        let allow =
            |connections: i32| database.on_server(&format!("ALTER DATABASE {name} CONNECTION LIMIT {connections}"));
        database.on_server("CREATE ROLE narrow LOGIN PASSWORD 'narrow'");
        database.on_server(&format!("ALTER DATABASE {name} OWNER TO narrow"));
        allow(1);
        let mut broker = Broker::standby(&database, database.data_dir(), &[]).await;
        let until = tokio::time::Instant::now() + Duration::from_secs(1);
        while tokio::time::Instant::now() < until {
            let (status, refused) = broker.get("/ready").await;
            assert_eq!(status, 503, "{refused}");
            assert_eq!(broker.get("/health").await.0, 200);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        allow(-1);
        broker.ready(WELL).await;
        comes_back(&database, broker, seeded(0x0E1), async |random, felt| {
            allow(1);
            database.end_connections();
            tokio::time::sleep(random.ms(200, 2_000)).await;
            felt.wait().await;
            allow(-1);
        })
        .await;
    });
}

/// Lists what the server runs for whoever is connected to a database, but for the test.
fn backends(database: &Database) -> BTreeSet<String> {
    let query = "SELECT pid::text AS value FROM pg_stat_activity WHERE datname = current_database() \
                 AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    sql::texts(&mut database.connect(), query).into_iter().collect()
}

/// Returns the connections to a database, once there are any.
async fn some_backends(database: &Database) -> BTreeSet<String> {
    let began = Instant::now();
    loop {
        let found = backends(database);
        if !found.is_empty() {
            return found;
        }
        assert!(began.elapsed() < CONNECTED, "nobody is connected to the database");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Tells whether one of these connections is still there when a broker's own would have ended with it.
async fn are_left(database: &Database, before: &BTreeSet<String>) -> bool {
    let began = Instant::now();
    while !before.is_disjoint(&backends(database)) {
        if began.elapsed() > OUTLIVED {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

/// The way to the server leads through a pooler: what that has open there outlives a broker that is killed.
async fn outlived_by_connections(database: &Database, env: &[(&str, &str)]) {
    let mut broker = Broker::start(database, &[], env).await;
    // A kill in the middle of a transaction takes its connection along: then once more.
    for _ in 0..20 {
        // What a start writes is written by then.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = some_backends(database).await;
        broker.kill();
        if are_left(database, &before).await {
            return;
        }
        broker.start_again().await;
    }
    panic!("no connection to the server outlives a broker: there is no pooler before it");
}

#[test]
fn kills_at_random_behind_pgbouncer_lose_nothing() {
    run(async {
        let database = Database::behind_pgbouncer();
        let pooled = "[store]\nprepared_statements = false\npostgres_pool = 10\n";
        let settings = database.data_dir().join("pooled.toml");
        std::fs::write(&settings, pooled).unwrap();
        let settings = settings.to_string_lossy().into_owned();
        let env = [("CLAWBROKER_CONFIG", settings.as_str())];
        outlived_by_connections(&database, &env).await;
        survives_kills(database, pooled).await;
    });
}
