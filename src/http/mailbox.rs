//! The mailbox family: what agents call that cannot be called themselves, on an ancestor's paths.
//!
//! An agent is known by its key (`key.rs`); making one on the ancestor's path takes an operator's token (`keys.rs`).
//! What a poll hands out is leased by the writer before it is answered, and given back if nobody takes the answer
//! (`asking.rs`, `handed_out.rs`). An agent that holds a socket makes the same calls by frames (`socket.rs`).
mod asking;
mod handed_out;
mod heartbeat;
mod key;
mod keys;
mod message;
mod poll;
mod report;
mod send;
mod socket;
mod target;

use utoipa_actix_web::service_config::ServiceConfig;

pub(super) use self::socket::AgentDesk;
use crate::config::Config;
use crate::store::mailbox::MailLimits;

/// Adds the family's routes.
pub(super) fn routes(cfg: &mut ServiceConfig) {
    cfg.service(poll::poll)
        .service(report::report)
        .service(send::send_message)
        .service(heartbeat::heartbeat)
        .service(keys::api_key)
        .service(keys::generate_key);
}

/// Returns what bounds an agent's open messages.
pub(super) fn mail_limits(config: &Config) -> MailLimits {
    MailLimits {
        messages_max: config.limits.mailbox_messages_max,
        attempts_max: i32::try_from(config.mailbox.attempts_max).unwrap_or(i32::MAX),
    }
}
