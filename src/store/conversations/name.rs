//! Which two keys are one session.
use crate::domain::ids::GatewayId;
use crate::domain::session_key::{SessionKey, USUAL_AGENT};

/// The names a session may go by: the one the client used, and the gateway's own form of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionName {
    pub gateway_id: GatewayId,
    pub key: String,
    /// What the gateway calls it, or would as far as is known.
    pub canonical: String,
    /// The same without the gateway's default agent, where it is one of that agent's.
    short: Option<String>,
    /// The gateway itself has told `canonical`.
    pub(super) is_told: bool,
}

impl SessionName {
    /// Names a session by what a client calls it. Before a gateway was reached once its default agent is taken for the
    /// usual one.
    pub fn new(gateway_id: GatewayId, key: &SessionKey, default_agent: Option<&str>) -> Self {
        let agent = default_agent.unwrap_or(USUAL_AGENT);
        let name = Self::told(gateway_id, key.canonical(agent).as_str(), Some(agent));
        Self { key: key.as_str().to_owned(), is_told: false, ..name }
    }

    /// Names a session by what its gateway calls it.
    pub fn told(gateway_id: GatewayId, canonical: &str, default_agent: Option<&str>) -> Self {
        let prefix = format!("agent:{}:", default_agent.unwrap_or(USUAL_AGENT));
        let short = canonical.strip_prefix(&prefix).filter(|short| !short.starts_with("agent:")).map(str::to_owned);
        Self { gateway_id, key: canonical.to_owned(), canonical: canonical.to_owned(), short, is_told: true }
    }

    /// What may be stored as the canonical key of this session: the one that was told first.
    pub(in crate::store) fn forms(&self) -> Vec<String> {
        let untold = [Some(&self.canonical), self.short.as_ref()].into_iter().flatten().map(|name| untold(name));
        std::iter::once(self.canonical.clone()).chain(untold).collect()
    }
}

/// Stands before the canonical key of a session whose gateway has not told it: nothing is ever sent under it.
pub(super) const UNTOLD: char = '~';

/// What is stored of a session's canonical key until the gateway tells it: the name that a client used, as the gateway
/// would write it. Which agent's it is may not be known yet, so that it is not guessed here.
pub(super) fn untold(name: &str) -> String {
    format!("{UNTOLD}{}", name.to_lowercase())
}
