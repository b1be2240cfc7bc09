//! Upstream gateways as the broker sees them.
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::error::Error;
use super::ids::{GatewayId, PartyId};
use super::url::plain_url;

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

/// The address of a gateway, without credentials. A refusal never repeats it: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayUrl(String);

impl GatewayUrl {
    /// Longest address in bytes.
    pub const BYTES_MAX: usize = 2_048;
}

impl FromStr for GatewayUrl {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Error> {
        let value = value.trim();
        let plain = plain_url(value, ["ws", "wss"], Self::BYTES_MAX).is_some_and(|url| {
            !url.query_pairs().any(|(name, _)| {
                let name = name.to_ascii_lowercase();
                ["token", "password", "secret", "auth", "key"].iter().any(|secret| name.contains(secret))
            })
        });
        if !plain {
            return Err(Error::invalid(
                "url",
                "must be a `ws://` or `wss://` address without credentials; send them as `token` or `password`",
            ));
        }
        Ok(Self(value.to_owned()))
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateways_address_holds_no_credentials() {
        for good in ["ws://127.0.0.1:18789", "wss://gw.example.com/path?region=eu", " ws://[::1]:1 "] {
            assert_eq!(good.parse::<GatewayUrl>().expect(good).to_string(), good.trim());
        }
        let long = format!("ws://x/{}", "a".repeat(GatewayUrl::BYTES_MAX));
        for wrong in [
            "",
            "127.0.0.1:1",
            "http://x",
            "ws://",
            "ws://u:c4n4ry@x",
            "ws://x#c4n4ry",
            "ws://x?token=c4n4ry",
            "ws://x?authToken=c4n4ry",
            "ws://x/a\nb",
            "ws:10.0.0.1:18789",
            "ws:\\\\gw.example",
            "ws://bücher.example",
            "ws://x/a b",
            long.as_str(),
        ] {
            let error = wrong.parse::<GatewayUrl>().expect_err(wrong);
            assert!(!error.message().contains("c4n4ry"));
        }
    }
}
