//! The mailbox family: what agents call that cannot be called themselves, on an ancestor's paths.
//!
//! An agent is known by its key (`key.rs`); making one on the ancestor's path takes an operator's token (`keys.rs`).
//! What a poll hands out is leased by the writer before it is answered, and given back if nobody takes the answer
//! (`asking.rs`, `handed_out.rs`).
//! Whom a name means is found in `target.rs`; by what people are reached is decided in `people.rs`.
mod asking;
mod directory;
mod handed_out;
mod heartbeat;
mod key;
mod keys;
mod message;
mod people;
mod poll;
mod receipt;
mod related;
mod report;
mod send;
mod target;

use utoipa_actix_web::service_config::ServiceConfig;

use crate::config::Config;
use crate::store::mailbox::MailLimits;

/// Adds the family's routes.
pub(super) fn routes(cfg: &mut ServiceConfig) {
    cfg.service(poll::poll)
        .service(report::report)
        .service(send::send_message)
        .service(directory::directory)
        .service(receipt::receipt)
        .service(heartbeat::heartbeat)
        .service(keys::api_key)
        .service(keys::generate_key);
}

/// Returns what bounds an agent's open messages.
fn mail_limits(config: &Config) -> MailLimits {
    MailLimits {
        messages_max: config.limits.mailbox_messages_max,
        attempts_max: i32::try_from(config.mailbox.attempts_max).unwrap_or(i32::MAX),
    }
}
