//! Upstream gateways as the broker sees them.
use serde::Serialize;

use super::ids::{GatewayId, PartyId};

/// Which upstream sessions we keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Track {
    /// Those opened or written to through us.
    #[default]
    Used,
    /// Every session the gateway tells of.
    All,
}

/// A registered gateway, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    pub id: GatewayId,
    pub party_id: PartyId,
    pub name: String,
    pub url: String,
    pub track: Track,
    /// Ask for the scope `operator.admin` as well.
    pub admin: bool,
    pub enabled: bool,
    pub has_token: bool,
    pub has_password: bool,
    pub created_at: i64,
    pub updated_at: i64,
}

/// Where the connection to a gateway stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    #[default]
    Connecting,
    Connected,
    /// Connected, but without the scopes that chat needs.
    NotAuthorised,
    /// Someone must approve our device on the gateway.
    PairingRequired,
    /// The gateway said no, and asking again would not help.
    Refused,
    /// Not connected; the next attempt is timed.
    Waiting,
    Disabled,
}

impl LinkState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::NotAuthorised => "not_authorised",
            Self::PairingRequired => "pairing_required",
            Self::Refused => "refused",
            Self::Waiting => "waiting",
            Self::Disabled => "disabled",
        }
    }
}

/// What stands between us and a working connection, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The gateway's stable code, for example `PAIRING_REQUIRED`, or one of ours in lower case.
    pub code: String,
    pub message: String,
    /// What a person can do, as a sentence or a command to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// The live status of a gateway connection; published as a whole, read by anybody.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinkStatus {
    pub state: LinkState,
    /// Since when, in epoch milliseconds.
    pub since_ms: i64,
    pub problem: Option<Problem>,
    /// The gateway's own lists, as it sent them last.
    pub agents: Vec<serde_json::Value>,
    pub models: Vec<serde_json::Value>,
    pub default_model: Option<String>,
    pub default_agent: Option<String>,
    pub protocol: Option<u32>,
    pub version: Option<String>,
    pub scopes: Vec<String>,
    pub scopes_missing: Vec<String>,
    pub latency_ms: Option<u32>,
    pub reconnects: u64,
    /// When the next attempt is made, in epoch milliseconds.
    pub retry_at_ms: Option<i64>,
}

impl LinkStatus {
    pub fn is_connected(&self) -> bool {
        self.state == LinkState::Connected
    }

    /// Returns what stays known of the gateway when its connection is begun afresh: the lists as it sent them last.
    pub fn last_known(&self) -> Self {
        Self {
            agents: self.agents.clone(),
            models: self.models.clone(),
            default_model: self.default_model.clone(),
            default_agent: self.default_agent.clone(),
            ..Self::default()
        }
    }
}
