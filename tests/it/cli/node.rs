//! The broker inside the test's own process, as `serve` puts it together.
use std::sync::atomic::Ordering;
use std::time::Duration;

use clawbroker::config::{Config, DatabaseUrl};
use clawbroker::domain::event::{Event, Publish};
use clawbroker::node::Node;
use clawbroker::store::{Location, Probe};
use tokio::time::Instant;

use crate::harness::Database;

on_both_databases!(
    a_node_starts_stops_and_starts_again_in_one_process,
    a_new_beginning_refuses_nothing_that_was_under_way,
);

fn config(database: &Database) -> Config {
    let mut config = Config::default();
    config.server.listen = vec!["127.0.0.1:0".parse().expect("an address")];
    config.app.data_dir = database.data_dir().to_owned();
    config.store.url = match database.location() {
        Location::Sqlite(path) => DatabaseUrl::Sqlite(path),
        Location::Postgres(url) => DatabaseUrl::Postgres(url),
    };
    config
}

async fn a_node_starts_stops_and_starts_again_in_one_process(database: Database) {
    for first_start in [true, false] {
        let mut node = Node::start(config(&database)).await.expect("it starts");
        let bootstrapped = node.ready().await.expect("it becomes the active one");
        assert_eq!(bootstrapped.first_start, first_start);
        let request = awc::Client::new().get(format!("http://{}/ready", node.addresses[0]));
        let ready = request.timeout(Duration::from_secs(45)).send().await;
        assert_eq!(ready.expect("an answer").status().as_u16(), 200);
        assert!(node.stop().await, "in time");
    }
}

/// D12: the lease stays this node's own, so whatever is on its way to the store when it begins anew is written. A second
/// doubt that comes at once is not forgotten.
async fn a_new_beginning_refuses_nothing_that_was_under_way(database: Database) {
    let mut node = Node::start(config(&database)).await.expect("it starts");
    node.ready().await.expect("it becomes the active one");
    let epoch = node.state.store.epoch().load(Ordering::SeqCst);
    for _ in 0..2 {
        node.state.hubs.publish(vec![Event::OutcomeUnknown]);
        let began = Instant::now();
        while node.state.directory.is_in_doubt() || !node.state.directory.is_active() {
            node.state.store.write(Probe).await.expect("nothing is refused");
            assert!(began.elapsed() < Duration::from_secs(30), "it does not begin anew");
        }
        assert_eq!(node.state.store.epoch().load(Ordering::SeqCst), epoch);
    }
    assert!(node.stop().await, "in time");
}
