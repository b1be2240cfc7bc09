//! `[retention]`: how long what is over is kept. Conversations are kept for ever.
use serde::Deserialize;

use super::section::{Ranged, Section, Shown, listed, ranged};

/// A hundred years: more is for ever, which is 0.
const DAYS_MAX: u64 = 36_500;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Deliveries that have ended, dead letters among them. Each message keeps how its delivery ended.
    pub deliveries_days: u32,
    /// Rows of the audit log.
    pub audit_days: u32,
    /// What runs did on their way: calls of models and tools, and what came of them.
    pub runs_days: u32,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { deliveries_days: 30, audit_days: 365, runs_days: 90 }
    }
}

impl Section for RetentionConfig {
    const NAME: &'static str = "retention";

    fn shown(&self) -> Vec<Shown> {
        listed!(self { deliveries_days, audit_days, runs_days })
    }

    fn ranges(&self) -> Vec<Ranged> {
        ranged!(self { deliveries_days: 0..=DAYS_MAX, audit_days: 0..=DAYS_MAX, runs_days: 0..=DAYS_MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_key_and_what_it_may_be() {
        let long = RetentionConfig { audit_days: 36_501, ..RetentionConfig::default() };
        let sentence = "`retention.audit_days` must be a whole number from 0 to 36500, not 36501";
        assert_eq!(long.validate().expect_err(sentence).to_string(), sentence);
    }
}
