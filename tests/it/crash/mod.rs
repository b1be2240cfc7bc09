//! The broker is killed at random under load, again and again: what it acknowledged is there exactly once, and what it had
//! begun goes on.
//!
//! `CLAWBROKER_TEST_CRASHES` says how often (20; `./test --crash` sets 1,000), `CLAWBROKER_TEST_SEED` repeats a run,
//! `CLAWBROKER_TEST_MESSAGES` says how many messages there are before the first start (none), `CLAWBROKER_TEST_AGENTS` how
//! many mailboxes are written to (12; `./test --crash` sets 200).
mod agents;
pub(crate) mod check;
mod filled;
pub(crate) mod load;
mod mail;
mod pressure;
mod soak;

use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::agents::settings_for_agents;
use self::load::Broker as Target;
pub(crate) use self::pressure::Pressure;
use crate::harness::{Broker, Database, Seeded};
use crate::ws::{register, sample_gateway};

on_both_databases!(what_was_acknowledged_survives_kills_at_random);

/// How long a round may take: the start after a kill, which alone has 30 seconds twice, and the load until the next one.
const ROUND_MAX: Duration = Duration::from_secs(90);

/// Reads a number from the environment.
pub(crate) fn number_from(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// Returns the random numbers of a test, which `CLAWBROKER_TEST_SEED` repeats.
pub(crate) fn seeded(default: u64) -> Seeded {
    let seed = number_from("CLAWBROKER_TEST_SEED", default);
    println!("seed {seed}");
    Seeded::new(seed)
}

async fn what_was_acknowledged_survives_kills_at_random(database: Database) {
    let messages = number_from("CLAWBROKER_TEST_MESSAGES", 0);
    println!("{messages} messages before the first start");
    filled::fill(&database, messages);
    let database = survives_kills(database, "").await;
    filled::check(&database, messages);
}

/// The same for any database and with more settings; returns the database, which no broker has open any more.
pub(crate) async fn survives_kills(database: Database, more: &str) -> Database {
    let settings = settings_for_agents(more);
    let settings = settings.path().to_string_lossy();
    let env = [("CLAWBROKER_CONFIG", &*settings)];
    let crashes = number_from("CLAWBROKER_TEST_CRASHES", 20);
    let mut random = seeded(0xC1A3);
    println!("{crashes} crashes");
    let gateway = sample_gateway(|_| {});
    let mut broker = Broker::start(&database, &[], &env).await;
    register(&broker, &gateway).await;
    let pressure = Pressure::with_agents(&broker, Target::new(), &mut random).await;

    let mut starts = Vec::new();
    for round in 0..crashes {
        let took = tokio::time::timeout(ROUND_MAX, async {
            tokio::time::sleep(random.ms(20, 400)).await;
            pressure.target.down();
            broker.kill();
            if random.below(5) == 0 {
                // Once more before it has come up.
                broker.start_and_kill(random.ms(0, 150)).await;
            }
            let began = Instant::now();
            broker.start_again().await;
            pressure.target.up(&broker);
            began.elapsed()
        })
        .await
        .unwrap_or_else(|_| panic!("round {round} took too long:\n{}", broker.log()));
        starts.push(took);
    }
    starts.sort();
    if let (Some(middle), Some(slowest)) = (starts.get(starts.len() / 2), starts.last()) {
        println!("slowest start {} ms, the one in the middle {} ms", slowest.as_millis(), middle.as_millis());
    }
    let told = pressure.end(&broker).await;
    told.check(&broker).await;
    assert_eq!(broker.stop().await, Some(0));
    check::database(&database, told.asked());
    told.check_mail(&database);
    database
}
