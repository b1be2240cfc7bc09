//! Starts with many messages: how long until ready, and what a page of a long history costs.
use std::time::Duration;

use clawbroker::domain::secret::Secret;
use clawbroker::store::Location;
use tokio::time::Instant;

use super::broker::Broker;
use super::database;
use super::figures::{Times, say};
use super::gateway::SESSION;

/// Messages in the one session.
const SIZES: [usize; 3] = [1_000, 100_000, 1_000_000];
/// The same on PostgreSQL, where it takes longer to bring them there.
const POSTGRES_SIZES: [usize; 2] = [1_000, 100_000];
const PAGES: usize = 500;
/// Lines that are handed to the store at once.
const AT_ONCE: usize = 1_000;

pub(crate) async fn run() {
    for size in SIZES {
        measure(size, None).await;
    }
    if let Some(url) = database::postgres() {
        for size in POSTGRES_SIZES {
            measure(size, Some(&url)).await;
        }
    }
}

/// Measures on SQLite, or on the PostgreSQL database of this URL.
async fn measure(size: usize, url: Option<&str>) {
    let dir = super::data_dir();
    let location = match url {
        Some(url) => Location::Postgres(Secret::new(url)),
        None => Location::Sqlite(dir.path().join("clawbroker.db")),
    };
    let kind = location.kind();
    let opened = database::open(location, dir.path()).await;
    let mut said = 0;
    while said < size {
        let lines = (said..(said + AT_ONCE).min(size)).map(|n| {
            let text = format!("line {n} of a long talk about this and that");
            opened.store.write(database::line(&opened.caller, opened.session, text))
        });
        said += lines.len();
        for line in futures_util::future::join_all(lines).await {
            line.expect("a disk that works");
        }
    }
    opened.close().await;
    // The first start makes what a new data directory needs, and indexes in the background.
    drop(Broker::start_on(url, dir.path(), None).await);
    let mut starts = Vec::new();
    for _ in 0..5 {
        // Killed each time, as it may be.
        let broker = Broker::start_on(url, dir.path(), None).await;
        starts.push(broker.ready_after);
    }
    starts.sort();
    let broker = Broker::start_on(url, dir.path(), None).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let path = format!("/api/gateways/default/sessions/{SESSION}/messages?limit=50");
    let newest = pages(&broker, &path).await.shown();
    say(&format!(
        "  {kind}, {size} messages: ready after {} ms (middle of 5 kills); newest page of 50: {newest}",
        starts[2].as_millis()
    ));
}

async fn pages(broker: &Broker, path: &str) -> Times {
    let mut times = Times::default();
    for _ in 0..PAGES {
        let began = Instant::now();
        broker.get(path).await;
        times.add_us(began.elapsed().as_micros() as u64);
    }
    times
}
