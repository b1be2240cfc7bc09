//! The actors: each owns its state, nobody else touches it.
//!
//! Requests go down (supervisor → links, outboxes, scheduler, upkeep → store), events go up ([`supervisor::StoreEvents`],
//! [`supervisor::ChildStopped`]). No actor knows the supervisor but as a `Recipient`.
pub mod agent_dialect;
pub mod agent_mailbox;
pub mod agent_session;
pub mod agents;
mod allowance;
pub mod bootstrap;
pub mod browser_session;
pub mod channel_outbox;
pub mod channels;
mod digests;
pub mod directory;
pub mod gateway_link;
pub mod hub;
pub mod messages;
pub mod routing;
pub mod scheduler;
pub mod store_writer;
pub mod supervisor;
pub mod upkeep;
