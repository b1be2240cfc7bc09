//! Makes keys of agents: in the same way for the admin API and for the ancestor's path.
use super::state::AppState;
use crate::actors::bootstrap::{digest, new_agent_key, prefix};
use crate::domain::error::Error;
use crate::domain::ids::AgentId;
use crate::domain::secret::Secret;
use crate::store::agent_keys::{AddAgentKey, AgentKey};
use crate::store::audit::Actor;
use crate::store::messages::Idem;

/// A key that is to be made.
pub(super) struct NewKey {
    pub(super) agent_id: AgentId,
    pub(super) label: String,
    pub(super) expires_at: Option<i64>,
    pub(super) actor: Actor,
    pub(super) idem: Option<Idem>,
}

/// A key that was made.
pub(super) struct MadeKey {
    pub(super) key: AgentKey,
    /// The key itself; `None` on a repeat of the call, since it was shown the first time (D10).
    pub(super) secret: Option<Secret>,
}

/// Makes a key of an agent. It counts before this returns.
pub(super) async fn make(state: &AppState, new: NewKey) -> Result<MadeKey, Error> {
    let secret = new_agent_key()?;
    let command = AddAgentKey {
        agent_id: new.agent_id,
        label: new.label,
        prefix: prefix(secret.reveal()),
        digest: digest(secret.reveal()),
        expires_at: new.expires_at,
        actor: new.actor,
        idem: new.idem,
        keys_max: state.config.limits.keys_per_agent_max,
    };
    let (key, repeated) = state.store.write(command).await?;
    Ok(MadeKey { key, secret: (!repeated).then_some(secret) })
}
