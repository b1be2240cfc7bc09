//! `[mailbox]`: how agents get their messages.
use serde::Deserialize;

use super::error::ConfigError;
use super::section::{KIB, MIB, Ranged, Section, Shown, listed, ranged, wide};
use crate::domain::agent::{ATTEMPTS, LEASE_S};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MailboxConfig {
    /// How long an agent keeps what it polled, unless it or its registration says otherwise: agents of the ancestor come
    /// every half hour.
    pub lease_s: u32,
    /// How long a lease may last in all, however often it is extended: a lost worker's message comes again by then.
    pub lease_total_max_s: u32,
    /// Hand-outs before a message is dead, unless the agent's registration says otherwise.
    pub attempts_max: u32,
    /// Longest wait of a poll (422 beyond it). Proxies cut what is silent for longer.
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
}

impl Default for MailboxConfig {
    fn default() -> Self {
        Self {
            lease_s: 3_600,
            lease_total_max_s: 43_200,
            attempts_max: 5,
            poll_wait_max_s: 60,
            poll_rows_default: 20,
            poll_rows_max: 100,
            poll_bytes_max: 4_194_304,
            history_lines: 10,
            history_bytes_max: 65_536,
            idle_s: 600,
            text_bytes_max: 4_194_304,
        }
    }
}

impl Section for MailboxConfig {
    const NAME: &'static str = "mailbox";

    fn shown(&self) -> Vec<Shown> {
        listed!(self {
            lease_s,
            lease_total_max_s,
            attempts_max,
            poll_wait_max_s,
            poll_rows_default,
            poll_rows_max,
            poll_bytes_max,
            history_lines,
            history_bytes_max,
            idle_s,
            text_bytes_max,
        })
    }

    fn ranges(&self) -> Vec<Ranged> {
        ranged!(self {
            lease_s: wide(*LEASE_S.start())..=wide(*LEASE_S.end()),
            lease_total_max_s: wide(*LEASE_S.start())..=7 * 86_400,
            attempts_max: wide(*ATTEMPTS.start())..=wide(*ATTEMPTS.end()),
            poll_wait_max_s: 0..=60,
            poll_rows_default: 1..=100,
            poll_rows_max: 1..=100,
            poll_bytes_max: KIB..=64 * MIB,
            history_lines: 0..=10,
            history_bytes_max: 0..=4 * MIB,
            idle_s: 1..=86_400,
            text_bytes_max: 0..=256 * MIB,
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
