//! clawbroker: an actor-model message broker between people, AI agents and OpenClaw gateways.
//!
//! `ARCHITECTURE.md` tells the story; arrows point one way:
//! `cli → http → actors → {store, gateway, channels, ws} → domain`, and `config` is read by all of them.
#![recursion_limit = "256"]

pub mod actors;
pub mod channels;
pub mod cli;
pub mod config;
pub mod domain;
pub mod gateway;
pub mod http;
pub mod node;
pub mod sample_gateway;
pub mod store;
pub mod ws;
