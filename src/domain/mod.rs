//! The nouns and rules of the broker: plain data and pure functions.
//!
//! Nothing here knows actix, diesel or any I/O; every other room may use this one, and this one uses none.
pub mod agent;
pub mod channel;
pub mod clock;
pub mod conversation;
pub mod delivery;
pub mod error;
pub mod event;
pub mod gateway;
pub mod ids;
pub mod loop_guard;
pub mod member;
pub mod message;
pub mod party;
pub mod routing_target;
pub mod search;
pub mod secret;
pub mod session_key;
pub mod thinking;
pub mod time;
pub mod turn;
mod url;
pub mod user;
pub mod wire;
