//! How long to wait before the next connection: growing, with full jitter, so that many brokers do not come back at
//! once to a gateway that was restarted.

/// Ceiling of the first wait; each failure doubles it.
pub const FIRST_CEILING_MS: u64 = 1_000;
/// Ceiling of the last ones. A gateway that comes back is noticed within a minute.
pub const CEILING_MS_MAX: u64 = 60_000;
/// No wait is shorter, whatever the dice and the gateway say: a refusing port must not be dialled in a tight loop.
pub const DELAY_MS_MIN: u64 = 100;
/// Longest wait that a gateway can ask for. Its lock-out after wrong passwords is 300 s; ten minutes is beyond all
/// that is known.
pub const ASKED_MS_MAX: u64 = 600_000;

/// The state of one link's waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Notes a failure and returns the wait in milliseconds: a uniform part of 1 s, 2 s, 4 s … 60 s. `random` is
    /// uniform over all of its values.
    pub fn next_ms(&mut self, random: u32) -> u64 {
        // Six doublings reach the ceiling.
        let ceiling_ms = (FIRST_CEILING_MS << self.failures.min(6)).min(CEILING_MS_MAX);
        self.failures = self.failures.saturating_add(1);
        let part_ms = (u64::from(random) * ceiling_ms) >> 32;
        part_ms.max(DELAY_MS_MIN)
    }

    /// Returns the wait when the gateway said when to come back (`retryAfterMs`), within bounds. Its word goes before ours
    /// and does not count as a failure: one that starts says so many times in a row.
    pub fn asked_ms(&self, retry_after_ms: u64) -> u64 {
        retry_after_ms.clamp(DELAY_MS_MIN, ASKED_MS_MAX)
    }

    /// Starts afresh: the gateway has said hello and what it has, or a person asked for a connection or changed how to connect.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn longest_waits_double_up_to_a_minute() {
        let mut backoff = Backoff::default();
        let longest: Vec<u64> = (0..9).map(|_| backoff.next_ms(u32::MAX)).collect();
        assert_eq!(longest, [999, 1_999, 3_999, 7_999, 15_999, 31_999, 59_999, 59_999, 59_999]);
        assert_eq!(backoff.failures(), 9);
    }

    #[test]
    fn gateway_is_asked_back_when_it_said_within_bounds() {
        let backoff = Backoff::default();
        assert_eq!(backoff.asked_ms(500), 500);
        assert_eq!(backoff.asked_ms(0), DELAY_MS_MIN);
        assert_eq!(backoff.asked_ms(u64::MAX), ASKED_MS_MAX);
    }

    proptest! {
        #[test]
        fn every_wait_is_within_its_bounds(failures: u32, random: u32) {
            let mut backoff = Backoff { failures };
            let wait_ms = backoff.next_ms(random);
            prop_assert!((DELAY_MS_MIN..CEILING_MS_MAX).contains(&wait_ms));
            prop_assert!(wait_ms < FIRST_CEILING_MS << failures.min(6));
            prop_assert_eq!(backoff.failures(), failures.saturating_add(1));
        }

        #[test]
        fn waits_grow_with_the_dice(failures in 0u32..10, low: u32, high: u32) {
            let wait_ms = |random| Backoff { failures }.next_ms(random);
            let (shorter_ms, longer_ms) = (wait_ms(low.min(high)), wait_ms(low.max(high)));
            prop_assert!(shorter_ms <= longer_ms);
        }
    }
}
