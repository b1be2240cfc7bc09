//! Agents: whoever has a mailbox. Remote ones poll it with a key of their own, native ones are hosted here.
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use unicode_normalization::UnicodeNormalization;

use super::error::Error;
use super::ids::{AgentId, AgentKeyId, PartyId, UserId};

/// Prefix of every agent's key, so that a leaked one is recognised by scanners. The ancestor's clients know it.
pub const KEY_PREFIX: &str = "oc-";

/// Seconds that an agent may keep what it polls (decision 1 of the mailbox contract).
pub const LEASE_S: RangeInclusive<u32> = 10..=43_200;
/// Hand-outs that a message may have before it is dead.
pub const ATTEMPTS: RangeInclusive<u32> = 1..=100;

/// Where an agent runs. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(i32)]
pub enum AgentKind {
    /// Elsewhere, without an address that could be called: it polls.
    #[default]
    OpenClaw = 1,
    /// Here. It has no keys.
    Native = 2,
}

impl AgentKind {
    pub fn from_code(code: i32) -> Option<Self> {
        [Self::OpenClaw, Self::Native].into_iter().find(|kind| *kind as i32 == code)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenClaw => "openclaw",
            Self::Native => "native",
        }
    }
}

/// What an operator wants of an agent; whether it is there is another matter. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(i32)]
pub enum AgentState {
    #[default]
    Running = 1,
    /// Its messages wait.
    Paused = 2,
    /// As paused; its keys still count.
    Stopped = 3,
}

impl AgentState {
    pub fn from_code(code: i32) -> Option<Self> {
        [Self::Running, Self::Paused, Self::Stopped].into_iter().find(|state| *state as i32 == code)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// A registered agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    pub id: AgentId,
    pub party_id: PartyId,
    /// Stands in commands; unique among those that were not removed.
    pub slug: String,
    /// Shown to people and to other agents; several agents may have the same.
    pub name: String,
    pub kind: AgentKind,
    pub state: AgentState,
    pub role_description: String,
    pub creator_id: Option<UserId>,
    pub labels: BTreeMap<String, String>,
    /// How long it keeps what it polls, unless it says otherwise; `None` as the settings have it.
    pub lease_seconds: Option<i32>,
    /// Hand-outs before a message to it is dead; `None` as the settings have it.
    pub attempts_max: Option<i32>,
    pub model: Option<String>,
    /// When it called last, as written down; memory knows better.
    pub last_seen_at: Option<i64>,
    pub created_at: i64,
    pub updated_at: i64,
}

impl Agent {
    /// Returns what is kept of the agent in memory.
    pub fn facts(&self) -> AgentFacts {
        AgentFacts {
            id: self.id,
            party_id: self.party_id,
            name: self.name.as_str().into(),
            kind: self.kind,
            state: self.state,
            lease_seconds: self.lease_seconds,
            attempts_max: self.attempts_max,
        }
    }
}

/// What every call of an agent may need of it; small, since there may be many agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentFacts {
    pub id: AgentId,
    pub party_id: PartyId,
    pub name: Box<str>,
    pub kind: AgentKind,
    pub state: AgentState,
    pub lease_seconds: Option<i32>,
    pub attempts_max: Option<i32>,
}

/// A key that counts, and whose it is; never the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    pub key_id: AgentKeyId,
    pub agent: Arc<AgentFacts>,
    /// When it ends, in epoch milliseconds.
    pub expires_at: Option<i64>,
}

/// A name of an agent for commands and addresses: 1 to 64 of `a–z 0–9 -`, with a letter or digit at both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slug(String);

impl Slug {
    /// Longest slug in bytes.
    pub const BYTES_MAX: usize = 64;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Slug {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Error> {
        let plain = (1..=Self::BYTES_MAX).contains(&value.len())
            && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !value.starts_with('-')
            && !value.ends_with('-');
        if !plain {
            return Err(Error::invalid(
                "slug",
                "must be 1 to 64 of lower-case letters, digits and hyphens, with no hyphen at its ends",
            ));
        }
        if is_id(value) {
            return Err(Error::invalid("slug", "must not look like an id"));
        }
        Ok(Self(value.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Slug {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whoever names an agent means the one with this id, so that no other may be called so.
fn is_id(text: &str) -> bool {
    text.parse::<AgentId>().is_ok()
}

/// Longest slug that is made of a name; there is room for a number behind it.
const MADE_BYTES_MAX: usize = 48;

/// Makes a slug of a name: lower case, hyphens for what is neither letter nor digit. Always a valid one.
pub fn slug_of(name: &str) -> String {
    let mut slug = String::new();
    for character in name.to_lowercase().chars() {
        match character {
            'a'..='z' | '0'..='9' => slug.push(character),
            _ if slug.ends_with('-') || slug.is_empty() => {}
            _ => slug.push('-'),
        }
        if slug.len() == MADE_BYTES_MAX {
            break;
        }
    }
    let slug = slug.trim_end_matches('-');
    match slug {
        "" => "agent".to_owned(),
        id if is_id(id) => format!("agent-{id}"),
        slug => slug.to_owned(),
    }
}

/// Brings a name into the form in which names are compared: one form of each letter, in lower case. Made here, since a
/// PostgreSQL database without a locale folds ASCII only.
pub fn fold(name: &str) -> String {
    name.nfc().flat_map(char::to_lowercase).nfc().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_words_come_back() {
        for kind in [AgentKind::OpenClaw, AgentKind::Native] {
            assert_eq!(AgentKind::from_code(kind as i32), Some(kind));
            assert_eq!(serde_json::to_value(kind).expect("a word"), kind.as_str());
        }
        for state in [AgentState::Running, AgentState::Paused, AgentState::Stopped] {
            assert_eq!(AgentState::from_code(state as i32), Some(state));
            assert_eq!(serde_json::to_value(state).expect("a word"), state.as_str());
        }
        assert_eq!((AgentKind::from_code(3), AgentState::from_code(0)), (None, None));
    }

    #[test]
    fn a_slug_is_plain_and_no_id() {
        for good in ["a", "ops-2", "0", &"x".repeat(64)] {
            assert_eq!(good.parse::<Slug>().expect("valid").as_str(), good);
        }
        let id = AgentId::new().to_string();
        for wrong in ["", "-", "-a", "a-", "A", "ä", "a b", "a_b", "a/b", &"x".repeat(65), &id] {
            assert!(wrong.parse::<Slug>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_name_makes_a_valid_slug() {
        let id = AgentId::new().to_string();
        let (cut, with_prefix) = ("x".repeat(47), format!("agent-{id}"));
        let long = format!("{cut}-!");
        for (name, slug) in [
            ("Ann's Lab (2)", "ann-s-lab-2"),
            ("  --  ", "agent"),
            ("федерация", "agent"),
            ("Büro", "b-ro"),
            (long.as_str(), cut.as_str()),
            (id.as_str(), with_prefix.as_str()),
        ] {
            assert_eq!(slug_of(name), slug);
            assert!(slug_of(name).parse::<Slug>().is_ok(), "{name}");
        }
    }

    #[test]
    fn names_are_compared_in_any_case_and_any_form_of_a_letter() {
        assert_eq!(fold("ÄRGER"), fold("a\u{308}rger"));
        assert_eq!(fold("ΣΊΣΥΦΟΣ"), fold("σίσυφοσ"));
        assert_ne!(fold("Arger"), fold("Ärger"));
        assert_eq!(fold("Ops Team"), "ops team");
    }
}
