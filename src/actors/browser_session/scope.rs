//! What a socket talks to: a gateway, all of them, or an agent.
use std::sync::Arc;

use actix::prelude::*;

use super::BrowserSession;
use crate::actors::agents::ONLINE_MS;
use crate::domain::agent::AgentFacts;
use crate::domain::ids::{AgentId, FEDERATED, GatewayId};
use crate::store::agents;
use crate::store::mailbox::MailLimits;

const AGENT_REMOVED: &str = "the agent was removed";

/// What a socket talks to.
#[derive(Clone, Debug)]
pub enum Scope {
    Gateway(GatewayId),
    /// All gateways at once; frames carry `gatewayId` in both directions.
    Federated,
    /// An agent: the user's conversation with it.
    Agent(Arc<Talk>),
}

/// An agent that a socket talks to.
#[derive(Clone, Debug)]
pub struct Talk {
    /// As it was when the socket was opened.
    pub agent: AgentFacts,
    pub limits: MailLimits,
}

impl Scope {
    /// Returns what it is called by, where it is about gateways.
    pub(super) fn gateway(&self) -> Option<&str> {
        match self {
            Self::Gateway(id) => Some(id.as_str()),
            Self::Federated => Some(FEDERATED),
            Self::Agent(_) => None,
        }
    }

    /// Returns the agent, where it is one.
    pub(super) fn agent(&self) -> Option<AgentId> {
        match self {
            Self::Agent(talk) => Some(talk.agent.id),
            Self::Gateway(_) | Self::Federated => None,
        }
    }
}

impl BrowserSession {
    pub(super) fn federated(&self) -> bool {
        matches!(self.parts.scope, Scope::Federated)
    }

    pub(super) fn in_scope(&self, id: &GatewayId) -> bool {
        match &self.parts.scope {
            Scope::Gateway(own) => own == id,
            Scope::Federated => true,
            Scope::Agent(_) => false,
        }
    }

    /// Tells whether an agent was seen a short while ago.
    pub(super) fn is_online(&self, id: AgentId) -> bool {
        let shared = &self.parts.shared;
        let seen_at = shared.directory.agents().seen_at(id);
        seen_at.is_some_and(|at| shared.clock.now_ms() - at < ONLINE_MS)
    }

    pub(super) fn on_agent_removed(&mut self, ctx: &mut Context<Self>) {
        self.close(4404, AGENT_REMOVED, ctx);
    }

    /// Closes the socket if its agent was removed and the event that told so went by.
    pub(super) fn check_agent(&mut self, ctx: &mut Context<Self>) {
        let Some(id) = self.parts.scope.agent() else { return };
        let store = self.parts.shared.store.clone();
        async move { store.read(move |db| agents::get(db, id)).await }
            .into_actor(self)
            .map(|found, this, ctx| match found {
                Ok(Some(_)) => {}
                Ok(None) => this.on_agent_removed(ctx),
                Err(error) => log::warn!("whether a socket's agent is there could not be read: {}", error.cause()),
            })
            .spawn(ctx);
    }
}
