//! The mailbox family: what agents call that cannot be called themselves, on an ancestor's paths.
//!
//! An agent is known by its key (`key.rs`); making one on the ancestor's path takes an operator's token (`keys.rs`).
mod heartbeat;
mod key;
mod keys;

use utoipa_actix_web::service_config::ServiceConfig;

/// Adds the family's routes.
pub(super) fn routes(cfg: &mut ServiceConfig) {
    cfg.service(heartbeat::heartbeat).service(keys::api_key).service(keys::generate_key);
}
