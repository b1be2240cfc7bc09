//! `[mailbox]`: how agents get their messages.
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::error::ConfigError;
use super::section::{KIB, MIB, Ranged, Section, Shown, listed, quoted, ranged, through_text, wide};
use crate::domain::agent::{ATTEMPTS, LEASE_S};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MailboxConfig {
    /// How long an agent keeps what it polled, unless it or its registration says otherwise: agents of the ancestor come
    /// every half hour.
    pub lease_s: u32,
    /// How long a lease may last in all, however often it is extended: a lost worker's message comes again by then.
    pub lease_total_max_s: u32,
    /// Shortest lease that a call may ask for. Less than the contract's ten seconds is for tests.
    pub lease_min_s: u32,
    /// Hand-outs before a message is dead, unless the agent's registration says otherwise.
    pub attempts_max: u32,
    /// Longest wait of a poll; one that asks for longer is answered by then. Proxies cut what is silent for longer.
    pub poll_wait_max_s: u32,
    /// Messages of a poll that does not say how many.
    pub poll_rows_default: usize,
    /// Messages of one poll, whatever it says.
    pub poll_rows_max: usize,
    /// Text of one poll's messages with their histories; one message always comes.
    pub poll_bytes_max: usize,
    /// Lines of the conversation that come with a message. The contract has ten.
    pub history_lines: usize,
    /// Text of these lines; the newest are kept.
    pub history_bytes_max: usize,
    /// Silence after which a mailbox leaves memory; the next call reads it again.
    pub idle_s: u64,
    /// Text that one mailbox holds in memory; what is beyond it is read when it is handed out.
    pub text_bytes_max: usize,
    /// Requests that may follow from each other between two agents (429 `hop_limit`); 0 for any number.
    pub hops_max: u32,
    /// Requests of one agent to another in [`pair_window_s`](Self::pair_window_s) (429 `pair_rate_limited`); 0 for any
    /// number.
    pub pair_requests_max: usize,
    /// The time in which they are counted.
    pub pair_window_s: u64,
    /// Longest `ttl_seconds` of a message.
    pub ttl_max_s: u64,
    /// How far ahead `deliver_at` of a message may be.
    pub deliver_at_max_s: u64,
    /// Which other agents an agent may write to. People only ever by a relationship.
    pub reach: Reach,
}

/// Whom an agent may write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Reach {
    /// Every agent; those that it knows go before the others.
    #[default]
    All,
    /// Those that it knows.
    Relationships,
}

impl FromStr for Reach {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        match value {
            "all" => Ok(Self::All),
            "relationships" => Ok(Self::Relationships),
            _ => Err(format!("must be `all` or `relationships`, not {}", quoted(value))),
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Relationships => "relationships",
        })
    }
}

through_text!(Reach, secret: false);

impl Default for MailboxConfig {
    fn default() -> Self {
        Self {
            lease_s: 3_600,
            lease_total_max_s: 43_200,
            lease_min_s: *LEASE_S.start(),
            attempts_max: 5,
            poll_wait_max_s: 60,
            poll_rows_default: 20,
            poll_rows_max: 100,
            poll_bytes_max: 4_194_304,
            history_lines: 10,
            history_bytes_max: 65_536,
            idle_s: 600,
            text_bytes_max: 4_194_304,
            hops_max: 8,
            pair_requests_max: 100,
            pair_window_s: 600,
            ttl_max_s: 31_536_000,
            deliver_at_max_s: 31_536_000,
            reach: Reach::All,
        }
    }
}

impl Section for MailboxConfig {
    const NAME: &'static str = "mailbox";

    fn shown(&self) -> Vec<Shown> {
        listed!(self {
            lease_s,
            lease_total_max_s,
            lease_min_s,
            attempts_max,
            poll_wait_max_s,
            poll_rows_default,
            poll_rows_max,
            poll_bytes_max,
            history_lines,
            history_bytes_max,
            idle_s,
            text_bytes_max,
            hops_max,
            pair_requests_max,
            pair_window_s,
            ttl_max_s,
            deliver_at_max_s,
            reach,
        })
    }

    fn ranges(&self) -> Vec<Ranged> {
        ranged!(self {
            lease_s: wide(*LEASE_S.start())..=wide(*LEASE_S.end()),
            lease_total_max_s: wide(*LEASE_S.start())..=7 * 86_400,
            lease_min_s: 1..=wide(*LEASE_S.start()),
            attempts_max: wide(*ATTEMPTS.start())..=wide(*ATTEMPTS.end()),
            poll_wait_max_s: 0..=60,
            poll_rows_default: 1..=100,
            poll_rows_max: 1..=100,
            poll_bytes_max: KIB..=64 * MIB,
            history_lines: 0..=10,
            history_bytes_max: 0..=4 * MIB,
            idle_s: 1..=86_400,
            text_bytes_max: 0..=256 * MIB,
            hops_max: 0..=1_000,
            pair_requests_max: 0..=1_000,
            pair_window_s: 1..=86_400,
            ttl_max_s: 1..=31_536_000,
            deliver_at_max_s: 0..=31_536_000,
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.not_greater("lease_s", self.lease_s, "lease_total_max_s", self.lease_total_max_s)?;
        self.not_greater("poll_rows_default", self.poll_rows_default, "poll_rows_max", self.poll_rows_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_key_and_what_it_may_be() {
        let short = MailboxConfig { lease_s: 9, ..MailboxConfig::default() };
        let many = MailboxConfig { poll_rows_max: 10, ..MailboxConfig::default() };
        let long = MailboxConfig { lease_total_max_s: 600, ..MailboxConfig::default() };
        for (config, sentence) in [
            (long, "`mailbox.lease_s` must not be greater than `mailbox.lease_total_max_s`, 600, but is 3600"),
            (short, "`mailbox.lease_s` must be a whole number from 10 to 43200, not 9"),
            (many, "`mailbox.poll_rows_default` must not be greater than `mailbox.poll_rows_max`, 10, but is 20"),
        ] {
            assert_eq!(config.validate().expect_err(sentence).to_string(), sentence);
        }
    }
}
