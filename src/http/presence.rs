//! Whether an agent is there.
use super::state::AppState;
use crate::actors::agents::ONLINE_MS;
use crate::domain::agent::Agent;

/// When an agent called last, and whether that was just now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Presence {
    pub(super) seen_at: Option<i64>,
    pub(super) is_online: bool,
}

impl Presence {
    pub(super) fn of(agent: &Agent, state: &AppState) -> Self {
        // What is written down is some seconds old.
        let seen_at = state.directory.agents().seen_at(agent.id).max(agent.last_seen_at);
        let is_online = seen_at.is_some_and(|at| state.clock.now_ms() - at < ONLINE_MS);
        Self { seen_at, is_online }
    }
}
