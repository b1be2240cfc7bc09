//! The mailbox family: what agents call that cannot be called themselves, on an ancestor's paths.
//!
//! An agent is known by its key (`key.rs`); making one on the ancestor's path takes an operator's token (`keys.rs`).
//! What a poll hands out is leased by the writer before it is answered, and given back if nobody takes the answer
//! (`asking.rs`, `handed_out.rs`). An agent that holds a socket makes the same calls by frames (`socket.rs`).
//! Whom a name means is found in `target.rs`; by what people are reached is decided in `people.rs`.
mod asking;
mod directory;
mod handed_out;
mod heartbeat;
mod key;
mod keys;
mod message;
mod moves;
mod options;
mod people;
mod poll;
mod receipt;
mod related;
mod report;
mod send;
mod setup_guide;
mod socket;
mod target;

use std::fmt::Display;
use std::ops::RangeInclusive;

use utoipa_actix_web::service_config::ServiceConfig;

pub(super) use self::socket::AgentDesk;
use crate::actors::channels::Intake;
use crate::config::{Config, MailboxConfig};
use crate::domain::agent::AgentFacts;
use crate::domain::error::Error;
use crate::store::mailbox::{LoopGuards, MailLimits, Prolonging};

/// Adds the family's routes.
pub(super) fn routes(cfg: &mut ServiceConfig) {
    cfg.service(poll::poll)
        .service(heartbeat::heartbeat)
        .service(send::send_message)
        .service(report::report)
        .service(moves::ack)
        .service(moves::nack)
        .service(moves::fail)
        .service(moves::extend)
        .service(directory::directory)
        .service(receipt::receipt)
        .service(setup_guide::setup_guide)
        .service(keys::api_key)
        .service(keys::generate_key);
}

/// Returns what bounds an agent's open messages.
pub(super) fn mail_limits(config: &Config) -> MailLimits {
    Intake::of(config).limits
}

/// Returns for how long an agent has what it polls: as it asks, else as it was registered, else as the settings have
/// it, and never for longer than a lease may last in all. Seconds.
fn lease_s(asked: Option<u32>, agent: &AgentFacts, config: &MailboxConfig) -> u32 {
    let own = agent.lease_seconds.and_then(|seconds| u32::try_from(seconds).ok());
    asked.or(own).unwrap_or(config.lease_s).min(config.lease_total_max_s)
}

/// Returns by how much an agent prolongs its leases.
fn prolonging(asked: Option<u32>, agent: &AgentFacts, config: &MailboxConfig) -> Prolonging {
    Prolonging {
        lease_ms: i64::from(lease_s(asked, agent, config)) * 1_000,
        total_max_ms: i64::from(config.lease_total_max_s) * 1_000,
    }
}

/// Refuses a number that is not allowed; `place` is the part of the request in which it stands.
fn within<T: PartialOrd + Display>(
    place: &'static str,
    field: &str,
    value: Option<T>,
    allowed: RangeInclusive<T>,
) -> Result<Option<T>, Error> {
    if value.as_ref().is_none_or(|value| allowed.contains(value)) {
        return Ok(value);
    }
    let message = format!("`{field}` must be a number from {} to {}", allowed.start(), allowed.end());
    Err(Error::invalid_at(place, field, message, "value_error"))
}

/// Returns what ends the talk of agents that answer each other without end.
fn loop_guards(config: &Config) -> LoopGuards {
    Intake::of(config).guards
}
