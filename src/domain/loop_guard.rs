//! What keeps agents from writing to each other for ever: the hops of a request and the rate of a pair (RTE-1).
//!
//! Pure: which messages count and where they are kept is the store's to know.
use std::collections::VecDeque;

/// Returns the hops of a request: one more than those of the message it replies to. Where its sender names none, it is
/// taken to go on from what its sender holds: the highest of the requests of that target that are leased to it (`held`)
/// and of the replies it got from that target of late (`replies`). A request out of nothing has none.
pub fn hops(in_reply_to: Option<i32>, held: impl Iterator<Item = i32>, replies: impl Iterator<Item = i32>) -> i32 {
    in_reply_to.or_else(|| held.chain(replies).max()).map_or(0, |before| before.saturating_add(1))
}

/// Tells whether a request with so many hops is one too many. With a bound of 0 none is.
pub fn is_over(hops: i32, hops_max: i32) -> bool {
    hops_max > 0 && hops >= hops_max
}

/// When the requests of one ordered pair were accepted, oldest first: a sliding window. Checked before each note, it
/// holds no more than the bound (LIM-1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    times: VecDeque<i64>,
}

impl Window {
    /// Tells whether another request may come at `now_ms`: fewer than `max` came in the last `window_ms`. `Err` says how
    /// many seconds to wait, never more than the window has. With a bound of 0 every one may come.
    pub fn check(&mut self, now_ms: i64, max: usize, window_ms: i64) -> Result<(), u32> {
        if max == 0 {
            self.times.clear();
            return Ok(());
        }
        // A clock that was set back must not make anybody wait for longer than the window.
        for at in self.times.iter_mut().rev().take_while(|at| **at > now_ms) {
            *at = now_ms;
        }
        while self.times.front().is_some_and(|at| at.saturating_add(window_ms) <= now_ms) {
            self.times.pop_front();
        }
        match self.times.len().checked_sub(max).and_then(|over| self.times.get(over)) {
            None => Ok(()),
            Some(at) => {
                let wait_ms = at.saturating_add(window_ms) - now_ms;
                Err(u32::try_from(wait_ms.saturating_add(999) / 1_000).unwrap_or(u32::MAX))
            }
        }
    }

    /// Notes a request that was accepted.
    pub fn note(&mut self, now_ms: i64) {
        self.times.push_back(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn none() -> std::iter::Empty<i32> {
        std::iter::empty()
    }

    #[test]
    fn hops_go_on_from_what_its_sender_names_or_holds() {
        assert_eq!(hops(None, none(), none()), 0, "out of nothing");
        assert_eq!(hops(Some(0), none(), none()), 1);
        assert_eq!(hops(Some(2), [7].into_iter(), [9].into_iter()), 3, "what it names counts, not what it holds");
        assert_eq!(hops(None, [1, 4, 2].into_iter(), [3].into_iter()), 5);
        assert_eq!(hops(None, [1].into_iter(), [3, 0].into_iter()), 4);
        assert_eq!(hops(Some(i32::MAX), none(), none()), i32::MAX);
    }

    #[test]
    fn two_eager_agents_come_to_an_end() {
        let (mut replies, mut rounds) = (Vec::new(), 0);
        loop {
            let hops = hops(None, none(), replies.iter().copied());
            if is_over(hops, 8) {
                break;
            }
            rounds += 1;
            replies.push(hops);
        }
        assert_eq!(rounds, 8);
        assert!(!is_over(1_000, 0), "a bound of 0 is none");
    }

    #[test]
    fn one_too_many_waits_until_the_first_leaves_the_window() {
        let mut window = Window::default();
        for now_ms in [0, 100, 200] {
            assert_eq!(window.check(now_ms, 3, 10_000), Ok(()));
            window.note(now_ms);
        }
        assert_eq!(window.check(200, 3, 10_000), Err(10), "9.8 s, told as whole seconds");
        assert_eq!(window.check(9_999, 3, 10_000), Err(1));
        assert_eq!(window.check(10_000, 3, 10_000), Ok(()), "the first has left");
        window.note(10_000);
        assert_eq!(window.check(10_000, 3, 10_000), Err(1), "the second leaves at 10,100");
        assert_eq!(window.check(10_000, 2, 10_000), Err(1), "with a lower bound the third must leave, too");
        assert_eq!(window.check(10_000, 1, 10_000), Err(10));
        assert_eq!(window.check(10_000, 0, 10_000), Ok(()), "a bound of 0 is none");
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nobody_wait_longer() {
        let mut window = Window::default();
        window.note(1_000);
        window.note(9_000_000);
        assert_eq!(window.check(2_000, 2, 10_000), Err(9));
        assert_eq!(window.check(2_000, 1, 10_000), Err(10));
        assert_eq!(window.check(12_000, 1, 10_000), Ok(()));
    }

    proptest! {
        #[test]
        fn no_window_ever_holds_more_than_its_bound(
            waits_ms in prop::collection::vec(0..400_i64, 0..200),
            max in 1..6_usize,
            window_ms in 1..1_000_i64,
        ) {
            let (mut window, mut accepted, mut now_ms) = (Window::default(), Vec::<i64>::new(), 0_i64);
            for wait_ms in waits_ms {
                now_ms += wait_ms;
                let recent = accepted.iter().filter(|at| now_ms - **at < window_ms).count();
                match window.check(now_ms, max, window_ms) {
                    Ok(()) => {
                        prop_assert!(recent < max);
                        window.note(now_ms);
                        accepted.push(now_ms);
                    }
                    Err(wait_s) => {
                        prop_assert_eq!(recent, max);
                        // Who waits as long as told may come, and nobody is told to wait a second too long.
                        let after_ms = now_ms + i64::from(wait_s) * 1_000;
                        prop_assert_eq!(window.clone().check(after_ms, max, window_ms), Ok(()));
                        prop_assert!(wait_s == 1 || window.clone().check(after_ms - 1_000, max, window_ms).is_err());
                    }
                }
                prop_assert!(window.times.len() <= max);
            }
        }
    }
}
