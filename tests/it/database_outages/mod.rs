//! PostgreSQL under fire: the server crashes, connections end, or there is only one. What was acknowledged is there, nothing
//! is half done, and the broker goes on without being started again (STO-1, STO-2, D12).
//!
//! `CLAWBROKER_TEST_OUTAGES` says how often each of it happens, `CLAWBROKER_TEST_SEED` repeats a run.
mod cluster;

use std::time::Duration;

use self::cluster::Cluster;
use crate::crash::load::Broker as Target;
use crate::crash::{Pressure, check, number_from, seeded, survives_kills};
use crate::harness::{Broker, Database, Kind, Seeded};
use crate::ws::{register, sample_gateway};

/// How long the broker may take to be well again: the lease may have ended meanwhile, and reads wait five seconds for a
/// connection.
const WELL: Duration = Duration::from_secs(20);

fn run(test: impl Future<Output = ()>) {
    actix::System::new().block_on(test);
}

/// Puts a broker under load, does something to its database again and again, and checks that it comes back each time by
/// itself and has lost nothing.
async fn comes_back(
    database: &Database,
    mut broker: Broker,
    mut random: Seeded,
    mut outage: impl AsyncFnMut(&mut Seeded),
) {
    let times = number_from("CLAWBROKER_TEST_OUTAGES", 4);
    let gateway = sample_gateway(|_| {});
    register(&broker, &gateway).await;
    let pressure = Pressure::on(&broker, Target::new(), &mut random).await;
    for _ in 0..times {
        tokio::time::sleep(random.ms(50, 600)).await;
        outage(&mut random).await;
        broker.ready(WELL).await;
    }
    let told = pressure.end(&broker).await;
    println!("{times} outages");
    told.check(&broker).await;
    assert_eq!(broker.stop().await, Some(0));
    check::database(database, told.asked());
}

#[test]
fn a_server_that_crashes_loses_nothing_that_was_acknowledged() {
    run(async {
        let cluster = Cluster::start();
        let database = Database::on(&cluster.admin(), &cluster.admin());
        let broker = Broker::start(&database, &[], &[]).await;
        comes_back(&database, broker, seeded(0xC4A5), async |_| cluster.crash()).await;
    });
}

#[test]
fn connections_that_are_ended_are_made_again() {
    run(async {
        let database = Database::migrated(Kind::Postgres);
        let broker = Broker::start(&database, &[], &[]).await;
        comes_back(&database, broker, seeded(0xC0DE), async |random| {
            for _ in 0..10 {
                database.end_connections();
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
        let cluster = Cluster::start();
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
        comes_back(&database, broker, seeded(0x0E1), async |random| {
            allow(1);
            database.end_connections();
            tokio::time::sleep(random.ms(200, 2_000)).await;
            allow(-1);
        })
        .await;
    });
}

#[test]
fn kills_at_random_behind_pgbouncer_lose_nothing() {
    run(async {
        let database = Database::behind_pgbouncer();
        let settings = database.data_dir().join("pooled.toml");
        std::fs::write(&settings, "[store]\nprepared_statements = false\npostgres_pool = 10\n").unwrap();
        let settings = settings.to_string_lossy().into_owned();
        survives_kills(database, &[("CLAWBROKER_CONFIG", &settings)]).await;
    });
}
