//! For how long a message may be repeated that may have arrived. Pure; times are epoch milliseconds.

/// While this is open the provider recognises a repeat by our id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    until: i64,
}

impl Window {
    /// It opens with the first hand-out, however many there were since.
    pub(super) fn new(first_leased_at: i64, repeat_ms: i64) -> Self {
        Self { until: first_leased_at.saturating_add(repeat_ms) }
    }

    /// Tells whether the provider would not recognise a repeat at this time.
    pub(super) fn is_over(self, now_ms: i64) -> bool {
        now_ms >= self.until
    }

    /// Tells whether what failed in an unknown way may come again after this wait.
    pub(super) fn may_come_again(self, now_ms: i64, wait_ms: i64, attempt: i32, attempts_max: i32) -> bool {
        attempt < attempts_max && !self.is_over(now_ms.saturating_add(wait_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_that_knows_no_repeats_gets_none() {
        let window = Window::new(1_000, 0);
        assert!(window.is_over(1_000) && !window.may_come_again(1_000, 0, 1, 12));
    }

    #[test]
    fn nothing_comes_again_when_the_provider_has_forgotten_it() {
        let window = Window::new(1_000, 50);
        assert!(!window.is_over(1_049) && window.is_over(1_050));
        assert!(window.may_come_again(1_000, 49, 1, 12));
        assert!(!window.may_come_again(1_000, 50, 1, 12), "it would come too late");
        assert!(!window.may_come_again(1_000, 49, 12, 12), "it was the last attempt");
    }

    #[test]
    fn who_always_knows_a_repeat_gets_it_after_years() {
        let window = Window::new(1_795_189_101_062, i64::MAX);
        assert!(!window.is_over(i64::MAX - 1) && window.may_come_again(1_795_189_101_062, 900_000, 1, 12));
    }
}
