//! clawbroker: an actor-model message broker between people, AI agents and OpenClaw gateways.
//!
//! `ARCHITECTURE.md` tells the story; arrows point one way: `cli → http → actors → {store, gateway} → domain`.
#![recursion_limit = "256"]

pub mod domain;
pub mod store;
