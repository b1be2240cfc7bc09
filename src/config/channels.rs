//! `[channels]`: how people are reached.
use serde::Deserialize;

use super::section::{Ranged, Section, Shown, listed, ranged};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChannelsConfig {
    /// How long `send-message` waits to hear that a message to a person was sent; then it answers `accepted`.
    pub send_wait_ms: u64,
    /// How long a provider may take to answer. Then nobody knows whether it acted.
    pub timeout_s: u64,
    /// Messages of one channel that are on their way at once; those of one conversation go one after the other.
    pub in_flight_max: usize,
    /// People in a row who could not be reached for a reason that passes, after which a channel pauses.
    pub pause_after: u32,
    /// Its first pause; the next ones double.
    pub pause_s: u64,
    /// Its longest pause.
    pub pause_max_s: u64,
    /// Messages that may wait for one channel (429 `mailbox_full`).
    pub queue_max: usize,
    /// Channels that may be set up.
    pub channels_max: usize,
    /// Unknown senders of one channel that are noted for an operator.
    pub senders_max: usize,
    /// Calls of providers that are worked on at once; more are told to come again (503).
    pub calls_max: usize,
    /// Webhooks may go to `http://`, too.
    pub webhook_plain: bool,
    /// Webhooks may go to this machine and to private networks, too.
    pub webhook_private: bool,
}

impl Default for ChannelsConfig {
    fn default() -> Self {
        Self {
            send_wait_ms: 5_000,
            timeout_s: 30,
            in_flight_max: 8,
            pause_after: 5,
            pause_s: 10,
            pause_max_s: 300,
            queue_max: 10_000,
            channels_max: 100,
            senders_max: 1_000,
            calls_max: 64,
            webhook_plain: false,
            webhook_private: false,
        }
    }
}

impl Section for ChannelsConfig {
    const NAME: &'static str = "channels";

    fn shown(&self) -> Vec<Shown> {
        listed!(self {
            send_wait_ms,
            timeout_s,
            in_flight_max,
            pause_after,
            pause_s,
            pause_max_s,
            queue_max,
            channels_max,
            senders_max,
            calls_max,
            webhook_plain,
            webhook_private,
        })
    }

    fn ranges(&self) -> Vec<Ranged> {
        ranged!(self {
            send_wait_ms: 0..=30_000,
            timeout_s: 1..=300,
            in_flight_max: 1..=100,
            pause_after: 1..=1_000,
            pause_s: 1..=3_600,
            pause_max_s: 1..=86_400,
            queue_max: 1..=100_000,
            channels_max: 1..=1_000,
            senders_max: 0..=100_000,
            calls_max: 1..=10_000,
        })
    }

    fn check(&self) -> Result<(), super::error::ConfigError> {
        self.not_greater("pause_s", self.pause_s, "pause_max_s", self.pause_max_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_key_and_what_it_may_be() {
        let long = ChannelsConfig { pause_s: 301, ..ChannelsConfig::default() };
        let late = ChannelsConfig { send_wait_ms: 30_001, ..ChannelsConfig::default() };
        for (config, sentence) in [
            (long, "`channels.pause_s` must not be greater than `channels.pause_max_s`, 300, but is 301"),
            (late, "`channels.send_wait_ms` must be a whole number from 0 to 30000, not 30001"),
        ] {
            assert_eq!(config.validate().expect_err(sentence).to_string(), sentence);
        }
    }
}
