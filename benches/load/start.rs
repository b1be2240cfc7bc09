//! Starts with many messages: how long until ready, and what a page of a long history costs.
use std::time::Duration;

use clawbroker::store::Location;
use tokio::time::Instant;

use super::broker::Broker;
use super::figures::{Times, say};
use super::gateway::SESSION;
use super::writer;

/// Messages in the one session.
const SIZES: [usize; 3] = [1_000, 100_000, 1_000_000];
const PAGES: usize = 500;
/// Lines that are handed to the store at once.
const AT_ONCE: usize = 1_000;

pub(crate) async fn run() {
    for size in SIZES {
        let dir = super::data_dir();
        {
            let location = Location::Sqlite(dir.path().join("clawbroker.db"));
            let (store, caller, session) = writer::open(location, dir.path()).await;
            let mut said = 0;
            while said < size {
                let lines = (said..(said + AT_ONCE).min(size)).map(|n| {
                    store.write(writer::line(&caller, session, format!("line {n} of a long talk about this and that")))
                });
                said += lines.len();
                for line in futures_util::future::join_all(lines).await {
                    line.expect("a disk that works");
                }
            }
        }
        // The first start makes what a new data directory needs, and indexes in the background.
        drop(Broker::start(dir.path(), None).await);
        let mut starts = Vec::new();
        for _ in 0..5 {
            // Killed each time, as it may be.
            let broker = Broker::start(dir.path(), None).await;
            starts.push(broker.ready_after);
        }
        starts.sort();
        let broker = Broker::start(dir.path(), None).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let path = format!("/api/gateways/default/sessions/{SESSION}/messages?limit=50");
        let newest = pages(&broker, &path).await.shown();
        say(&format!(
            "  {size} messages: ready after {} ms (middle of 5 kills); newest page of 50: {newest}",
            starts[2].as_millis()
        ));
    }
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
