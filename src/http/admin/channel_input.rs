//! What operators say of channels. No refusal repeats a value: it may be a secret in the wrong place (SEC-1).
use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::channels::setup;
use crate::domain::error::Error;
use crate::domain::secret::Secret;

/// Settings or secrets of one channel.
const ENTRIES_MAX: usize = 32;
/// Longest name of one, in characters.
const NAME_CHARS_MAX: usize = 64;

/// The settings of a channel; each kind knows its own.
pub(super) struct Config(pub(super) Map<String, Value>);

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer).map(Self)
    }
}

/// The secrets of a channel by their names; `null` removes one.
#[derive(Default)]
pub(super) struct Secrets(BTreeMap<String, Option<Secret>>);

impl<'de> Deserialize<'de> for Secrets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut secrets = BTreeMap::new();
        for (name, value) in object(deserializer)? {
            let secret = match value {
                Value::Null => None,
                Value::String(text) => Some(Secret::new(text)),
                _ => return Err(D::Error::custom("each secret must be a text, or `null`")),
            };
            secrets.insert(name, secret);
        }
        Ok(Self(secrets))
    }
}

impl Secrets {
    /// Checks those that are given.
    pub(super) fn checked(self) -> Result<BTreeMap<String, Option<Secret>>, Error> {
        for (name, secret) in &self.0 {
            if let Some(secret) = secret {
                setup::check_secret(name, secret)?;
            }
        }
        Ok(self.0)
    }
}

fn object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    let Value::Object(object) = Value::deserialize(deserializer)? else {
        return Err(D::Error::custom("must be an object"));
    };
    if object.len() > ENTRIES_MAX || object.keys().any(|name| name.chars().count() > NAME_CHARS_MAX) {
        return Err(D::Error::custom(format!(
            "must have at most {ENTRIES_MAX} fields with names of at most {NAME_CHARS_MAX} characters"
        )));
    }
    Ok(object)
}

/// Where a provider is.
pub(super) struct BaseUrl(pub(super) String);

impl<'de> Deserialize<'de> for BaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Value::String(text) = Value::deserialize(deserializer)? else {
            return Err(D::Error::custom("must be a text"));
        };
        Ok(Self(text.trim().to_owned()))
    }
}

/// A kind of channel by its name.
pub(super) struct Kind(pub(super) crate::domain::channel::ChannelKind);

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_refusal_repeats_what_was_sent() {
        for wrong in [json!("hidden"), json!(["hidden"]), json!({ "token": ["hidden"] }), json!({ "token": 7 })] {
            let refused = serde_json::from_value::<Secrets>(wrong).err().expect("refused").to_string();
            assert!(!refused.contains("hidden") && !refused.contains('7'), "{refused}");
        }
        let refused = serde_json::from_value::<BaseUrl>(json!(["hidden"])).err().expect("refused").to_string();
        assert!(!refused.contains("hidden"), "{refused}");
        let long = Secrets([("token".to_owned(), Some(Secret::new("hidden".repeat(1_000))))].into());
        assert!(!long.checked().expect_err("too long").message().contains("hidden"));
    }
}
