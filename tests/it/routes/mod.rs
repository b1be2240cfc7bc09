//! The HTTP routes on both databases, through the same application that the server runs.
mod access;
mod admin;
mod admin_log;
mod agents;
mod auth_under_fire;
mod chat;
mod every_code;
mod frame;
mod input;
mod lists;
mod members;
mod node;
mod ops;
mod order;
mod repeats;
mod secrets;
mod senders;

pub(crate) use node::{Reply, TestNode};
