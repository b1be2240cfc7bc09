//! The WebSocket as browsers use it: the real binary, with the sample gateway above it.
mod actors;
mod ancestor;
mod chat;
mod half_answers;
mod lost_ends;
mod resume;
mod rights;
mod strangers;
mod talks;

use std::sync::Arc;

use clawbroker::domain::clock::SystemClock;
use clawbroker::sample_gateway::{self, Options, Running};
use serde_json::json;

use crate::harness::{Broker, Database};

/// Starts a sample gateway inside the test.
pub(crate) fn sample_gateway(change: impl FnOnce(&mut Options)) -> Running {
    let mut options = Options::new(Arc::new(SystemClock));
    options.delta_ms = 5;
    change(&mut options);
    sample_gateway::start(options).expect("the sample gateway starts")
}

/// Starts a broker that is connected to a sample gateway named `gw`.
pub(crate) async fn connected(database: &Database) -> (Broker, Running) {
    let gateway = sample_gateway(|_| {});
    let broker = Broker::start(database, &[], &[]).await;
    register(&broker, &gateway).await;
    broker.gateway_is("gw", "connected").await;
    (broker, gateway)
}

/// Registers a sample gateway as `gw`.
pub(crate) async fn register(broker: &Broker, gateway: &Running) {
    let body = json!({ "id": "gw", "name": "Sample", "url": gateway.url, "token": "sample-token" });
    let (status, answer) = broker.post("/api/gateways", body).await;
    assert_eq!(status, 200, "{answer}");
}
