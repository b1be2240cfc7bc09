//! The admin API: what runs the broker, for operators, scripts and the command line.
//!
//! Bodies and queries are strict: a field that is not known is refused by name. Secrets go in and never come out. Every
//! change is a row in the audit log, written in the same transaction.
mod agent_input;
mod agent_keys;
mod agents;
mod audit;
mod backup;
mod channel_input;
mod channel_senders;
mod channel_test;
mod channels;
mod conversations;
mod deliveries;
mod gateway_test;
mod gateways;
mod member_input;
mod members;
mod messages;
mod overview;
mod party;
mod receipt;
mod redelivery;
mod relationships;
mod tokens;
mod users;

use utoipa_actix_web::service_config::ServiceConfig;

pub(crate) use self::members::{changes_of as member_changes, new_of as new_member};
pub(super) use self::party::PartyView;

/// Adds the routes of the admin API.
pub(super) fn routes(cfg: &mut ServiceConfig) {
    cfg.service(gateways::list)
        .service(gateways::create)
        .service(gateways::get)
        .service(gateways::patch)
        .service(gateways::remove)
        .service(gateway_test::test)
        .service(agents::list)
        .service(agents::create)
        .service(agents::get)
        .service(agents::patch)
        .service(agents::remove)
        .service(agent_keys::list)
        .service(agent_keys::create)
        .service(agent_keys::revoke)
        .service(members::list)
        .service(members::create)
        .service(members::get)
        .service(members::patch)
        .service(members::remove)
        .service(relationships::list)
        .service(relationships::create)
        .service(relationships::remove)
        .service(channels::list)
        .service(channels::create)
        .service(channels::get)
        .service(channels::patch)
        .service(channels::remove)
        .service(channel_test::test)
        .service(channel_senders::list)
        .service(channel_senders::allow)
        .service(channel_senders::forget)
        .service(users::list)
        .service(users::create)
        .service(users::patch)
        .service(users::remove)
        .service(tokens::list)
        .service(tokens::create)
        .service(tokens::revoke)
        .service(conversations::list)
        .service(conversations::create)
        .service(conversations::get)
        .service(conversations::remove)
        .service(conversations::export)
        .service(messages::list)
        .service(messages::create)
        .service(receipt::receipt)
        .service(deliveries::list)
        .service(redelivery::redrive_many)
        .service(redelivery::redrive)
        .service(redelivery::cancel)
        .service(redelivery::purge)
        .service(audit::list)
        .service(overview::stats)
        .service(overview::actors)
        .service(backup::create);
}
