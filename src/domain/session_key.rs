//! Session keys: the names of a gateway's chat sessions.
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::error::Error;

/// The default agent of a gateway that nobody has named another for.
pub const USUAL_AGENT: &str = "main";

/// A session's name as a client wrote it, for example `webchat-123` or `agent:main:webchat-123`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SessionKey(std::sync::Arc<str>);

impl SessionKey {
    /// The gateway refuses longer keys.
    pub const CHARS_MAX: usize = 512;

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Builds the gateway's own form of the key: `agent:<agent>:<name>`, in lower case as the gateway keeps it.
    /// It is what we expect before the gateway has told us; what it tells wins.
    pub fn canonical(&self, default_agent: &str) -> Self {
        let lower = self.0.to_lowercase();
        if lower.starts_with("agent:") {
            Self(lower.into())
        } else {
            Self(format!("agent:{default_agent}:{lower}").into())
        }
    }
}

impl FromStr for SessionKey {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Error> {
        let trimmed = value.trim();
        if trimmed.is_empty() {
            return Err(Error::invalid("session_key", "the session key must not be empty"));
        }
        if trimmed.chars().count() > Self::CHARS_MAX {
            return Err(Error::invalid(
                "session_key",
                format!("the session key must not be longer than {} characters", Self::CHARS_MAX),
            ));
        }
        if trimmed.chars().any(char::is_control) {
            return Err(Error::invalid("session_key", "the session key must not hold control characters"));
        }
        Ok(Self(trimmed.into()))
    }
}

impl<'de> serde::Deserialize<'de> for SessionKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        value.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}
