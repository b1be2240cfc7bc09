//! The edge: everything that enters over HTTP or a WebSocket.
//!
//! A route is five lines: a typed call that says who may make it and what it names, one message or command, the answer.
//! `server` puts the routes together and says what each request passes; `call` checks a call in the order of the
//! contract; `auth` says who may do what; one file for each family of the API. Nothing here knows diesel.
mod accept;
mod admin;
mod agent_keys;
pub mod auth;
mod body;
mod call;
mod chat;
mod done;
pub mod edge;
pub mod error;
mod fields;
mod gateway_input;
mod history;
mod hooks;
mod idempotency;
mod mailbox;
mod metrics;
mod middleware;
pub mod openapi;
mod ops;
mod page;
mod pages;
mod passwords;
mod presence;
pub mod request;
pub mod server;
pub mod state;
pub mod ws;

pub(crate) use self::admin::{member_changes, new_member};
