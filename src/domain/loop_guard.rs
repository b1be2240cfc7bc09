//! What keeps agents from writing to each other for ever: the hops of a request and the rate of a pair (RTE-1).
//!
//! Pure: which messages count and where they are kept is the store's to know.
use std::collections::VecDeque;

/// Returns the hops of a request: one more than those of the message it replies to. Where its sender names none, it is
/// taken to go on from what its sender holds: the highest of the requests of that target that are leased to it (`held`)
/// and of the replies and notices it got about that target of late (`replies`). A request out of nothing has one.
pub fn hops(in_reply_to: Option<i32>, held: Option<i32>, replies: Option<i32>) -> i32 {
    in_reply_to.or(held.max(replies)).unwrap_or(0).saturating_add(1)
}

/// Tells whether a request with so many hops is one too many. With a bound of 0 none is.
pub fn is_over(hops: i32, hops_max: i32) -> bool {
    hops_max > 0 && hops > hops_max
}

/// Numbers that [`Highest`] keeps.
const HIGHEST_MAX: usize = 64;

/// The highest of the numbers that came in the last span of time. What a later one is not lower than is not kept, so
/// that they fall from the first to the last; there are few of them (LIM-1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Highest {
    /// Each with its time.
    kept: VecDeque<(i64, i32)>,
}

impl Highest {
    /// Notes a number that comes at `now_ms`.
    pub fn note(&mut self, now_ms: i64, number: i32) {
        self.not_ahead_of(now_ms);
        while self.kept.back().is_some_and(|(_, kept)| *kept <= number) {
            self.kept.pop_back();
        }
        if self.kept.len() < HIGHEST_MAX {
            self.kept.push_back((now_ms, number));
        } else if let Some((at, _)) = self.kept.back_mut() {
            // The last one stands for those that have no room: rather too high for a while than too low.
            *at = now_ms;
        }
    }

    /// Returns the highest of the last `span_ms`, and forgets what is older.
    pub fn of_late(&mut self, now_ms: i64, span_ms: i64) -> Option<i32> {
        self.not_ahead_of(now_ms);
        while self.kept.front().is_some_and(|(at, _)| at.saturating_add(span_ms) <= now_ms) {
            self.kept.pop_front();
        }
        self.kept.front().map(|(_, number)| *number)
    }

    /// Returns after how many seconds all of the last `span_ms` will be lower than `number`.
    pub fn lower_in_s(&self, number: i32, now_ms: i64, span_ms: i64) -> u32 {
        // They fall, so that the newest that is as high goes last.
        let newest = self.kept.iter().rev().find(|(_, kept)| *kept >= number);
        newest.map_or(0, |(at, _)| whole_seconds(at.saturating_add(span_ms).saturating_sub(now_ms)))
    }

    /// A clock that was set back must not make anything count for longer than its span.
    fn not_ahead_of(&mut self, now_ms: i64) {
        for (at, _) in self.kept.iter_mut().rev().take_while(|(at, _)| *at > now_ms) {
            *at = now_ms;
        }
    }
}

/// Returns the seconds after which a time is over for sure; nothing for one that is over.
fn whole_seconds(wait_ms: i64) -> u32 {
    u32::try_from(wait_ms.max(0).saturating_add(999) / 1_000).unwrap_or(u32::MAX)
}

/// When the requests of one ordered pair were accepted, oldest first: a sliding window. Checked before each note, it
/// holds no more than the bound (LIM-1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    times: VecDeque<i64>,
}

impl Window {
    /// Tells whether another request may come at `now_ms`: fewer than `max` came in the last `window_ms`. `Err` says
    /// how many seconds to wait, never more than the window has. With a bound of 0 every one may come.
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
            Some(at) => Err(whole_seconds(at.saturating_add(window_ms) - now_ms)),
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

    #[test]
    fn hops_go_on_from_what_its_sender_names_or_holds() {
        assert_eq!(hops(None, None, None), 1, "out of nothing");
        assert_eq!(hops(Some(0), None, None), 1);
        assert_eq!(hops(Some(2), Some(7), Some(9)), 3, "what it names counts, not what it holds");
        assert_eq!(hops(None, Some(4), Some(3)), 5);
        assert_eq!(hops(None, Some(1), Some(3)), 4);
        assert_eq!(hops(None, None, Some(3)), 4);
        assert_eq!(hops(Some(i32::MAX), None, None), i32::MAX);
    }

    #[test]
    fn two_eager_agents_come_to_an_end() {
        let (mut replies, mut rounds) = (Highest::default(), 0);
        loop {
            let hops = hops(None, None, replies.of_late(rounds, 1_000));
            if is_over(hops, 8) {
                break;
            }
            rounds += 1;
            replies.note(rounds, hops);
        }
        assert_eq!(rounds, 8);
        assert!(!is_over(1_000, 0), "a bound of 0 is none");
    }

    #[test]
    fn the_highest_counts_for_its_span() {
        let mut highest = Highest::default();
        assert_eq!(highest.of_late(0, 100), None);
        for (at, number) in [(0, 5), (10, 2), (20, 3), (30, 3)] {
            highest.note(at, number);
        }
        assert_eq!(highest.of_late(99, 100), Some(5));
        assert_eq!(highest.of_late(100, 100), Some(3), "5 is as old as the span");
        assert_eq!(highest.of_late(129, 100), Some(3), "the later 3");
        assert_eq!(highest.of_late(130, 100), None);
        // A clock that was set back.
        highest.note(9_000_000, 4);
        assert_eq!(highest.of_late(1_000, 100), Some(4));
        assert_eq!(highest.of_late(1_100, 100), None);
    }

    #[test]
    fn it_is_known_when_they_are_lower() {
        let mut highest = Highest::default();
        for (at, number) in [(0, 9), (1_500, 8), (9_000, 3)] {
            highest.note(at, number);
        }
        let in_s = |number: i32, now_ms: i64| highest.lower_in_s(number, now_ms, 10_000);
        assert_eq!((in_s(9, 9_000), in_s(8, 9_000), in_s(3, 9_000)), (1, 3, 10), "8 leaves at 11,500");
        assert_eq!((in_s(8, 11_499), in_s(8, 20_000), in_s(10, 9_000)), (1, 0, 0));
    }

    #[test]
    fn few_numbers_are_kept() {
        let mut highest = Highest::default();
        for number in (0..1_000).rev() {
            highest.note(i64::from(1_000 - number), number);
        }
        assert_eq!(highest.kept.len(), HIGHEST_MAX);
        assert_eq!(highest.of_late(1_000, 2_000), Some(999));
        assert_eq!(highest.of_late(2_900, 2_000), Some(936), "the last one stands for the lower ones");
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
        fn the_highest_is_that_of_all_in_its_span(
            came in prop::collection::vec((0..50_i64, 0..9_i32), 0..200),
            span_ms in 1..500_i64,
        ) {
            let (mut highest, mut all, mut now_ms) = (Highest::default(), Vec::<(i64, i32)>::new(), 0_i64);
            for (wait_ms, number) in came {
                now_ms += wait_ms;
                let expected = all.iter().filter(|(at, _)| at + span_ms > now_ms).map(|(_, number)| *number).max();
                prop_assert_eq!(highest.of_late(now_ms, span_ms), expected);
                highest.note(now_ms, number);
                all.push((now_ms, number));
            }
        }

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
