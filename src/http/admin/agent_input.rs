//! What operators say of agents, with its bounds.
use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::domain::agent::{ATTEMPTS, LEASE_S};

/// Longest name in characters, as the ancestor has it.
const NAME_CHARS_MAX: usize = 100;
/// Labels of one agent, and the longest of each half in characters.
const LABELS_MAX: usize = 32;
const LABEL_CHARS_MAX: usize = 64;
const LABEL_VALUE_CHARS_MAX: usize = 256;

/// The name of an agent, for people and for other agents.
pub(super) struct AgentName(pub(super) String);

impl<'de> Deserialize<'de> for AgentName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let name = text.trim();
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
            return Err(D::Error::custom(format!(
                "must be 1 to {NAME_CHARS_MAX} characters without control characters"
            )));
        }
        Ok(Self(name.to_owned()))
    }
}

/// A text of at most so many characters.
pub(super) struct Text<const CHARS_MAX: usize>(pub(super) String);

impl<'de, const CHARS_MAX: usize> Deserialize<'de> for Text<CHARS_MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.chars().count() > CHARS_MAX {
            return Err(D::Error::custom(format!("must not be longer than {CHARS_MAX} characters")));
        }
        Ok(Self(text))
    }
}

/// A whole number between two bounds.
pub(super) struct Within<const MIN: i32, const MAX: i32>(pub(super) i32);

impl<'de, const MIN: i32, const MAX: i32> Deserialize<'de> for Within<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i32::deserialize(deserializer)?;
        if !(MIN..=MAX).contains(&number) {
            return Err(D::Error::custom(format!("must be a whole number from {MIN} to {MAX}")));
        }
        Ok(Self(number))
    }
}

/// What an agent is there for.
pub(super) type RoleDescription = Text<4_000>;
/// The name of the model that an agent thinks with.
pub(super) type Model = Text<200>;
/// Seconds that an agent keeps what it polls.
pub(super) type LeaseSeconds = Within<{ *LEASE_S.start() as i32 }, { *LEASE_S.end() as i32 }>;
/// Hand-outs before a message is dead.
pub(super) type Attempts = Within<{ *ATTEMPTS.start() as i32 }, { *ATTEMPTS.end() as i32 }>;

/// Marks that operators give agents, to tell them apart.
#[derive(Default)]
pub(super) struct Labels(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let labels = BTreeMap::<String, String>::deserialize(deserializer)?;
        let fits = |text: &str, chars_max: usize| text.chars().count() <= chars_max;
        let fine = labels.len() <= LABELS_MAX
            && labels.iter().all(|(label, value)| {
                !label.is_empty() && fits(label, LABEL_CHARS_MAX) && fits(value, LABEL_VALUE_CHARS_MAX)
            });
        if !fine {
            return Err(D::Error::custom(format!(
                "must be at most {LABELS_MAX} texts of {LABEL_VALUE_CHARS_MAX} characters, by names of 1 to {LABEL_CHARS_MAX}"
            )));
        }
        Ok(Self(labels))
    }
}
