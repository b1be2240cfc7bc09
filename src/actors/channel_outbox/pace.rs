//! Keeping to what a provider allows, and pausing when it fails. Pure; times are monotonic.
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::channels::{Limits, Rate};

/// Addresses that are remembered; those that were quiet for long are forgotten first.
const ADDRESSES_MAX: usize = 1_000;

/// When something was sent last, as far as one rate looks back.
#[derive(Debug)]
struct Log {
    rate: Rate,
    sent: VecDeque<Instant>,
}

impl Log {
    fn new(rate: Rate) -> Self {
        Self { rate, sent: VecDeque::new() }
    }

    fn per(&self) -> Duration {
        Duration::from_millis(self.rate.per_ms)
    }

    /// How long until one more may be sent.
    fn wait(&mut self, now: Instant) -> Duration {
        while self.sent.front().is_some_and(|at| *at + self.per() <= now) {
            self.sent.pop_front();
        }
        if self.sent.len() < self.rate.count as usize {
            return Duration::ZERO;
        }
        self.sent.front().map_or(Duration::ZERO, |at| *at + self.per() - now)
    }
}

/// What a channel has sent of late.
#[derive(Debug)]
pub(super) struct Pace {
    channel: Vec<Log>,
    address: Option<Rate>,
    addresses: HashMap<String, Log>,
}

impl Pace {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            channel: limits.channel.iter().copied().map(Log::new).collect(),
            address: limits.address,
            addresses: HashMap::new(),
        }
    }

    /// Takes a place for a message to this address, or says how long until there may be one.
    pub(super) fn take(&mut self, address: &str, now: Instant) -> Result<(), Duration> {
        if self.addresses.len() >= ADDRESSES_MAX {
            self.addresses.retain(|_, log| log.wait(now) > Duration::ZERO || !log.sent.is_empty());
        }
        let of_channel = self.channel.iter_mut().map(|log| log.wait(now)).max().unwrap_or_default();
        let of_address = match self.address {
            Some(rate) => self.addresses.entry(address.to_owned()).or_insert_with(|| Log::new(rate)).wait(now),
            None => Duration::ZERO,
        };
        let wait = of_channel.max(of_address);
        if wait > Duration::ZERO {
            return Err(wait);
        }
        self.channel.iter_mut().for_each(|log| log.sent.push_back(now));
        if let Some(log) = self.addresses.get_mut(address) {
            log.sent.push_back(now);
        }
        Ok(())
    }
}

/// Pauses a channel after failures in a row.
#[derive(Debug)]
pub(super) struct Breaker {
    /// Failures that it takes.
    after: u32,
    first: Duration,
    longest: Duration,
    in_a_row: u32,
    pauses: u32,
    until: Option<Instant>,
}

impl Breaker {
    pub(super) fn new(after: u32, first: Duration, longest: Duration) -> Self {
        Self { after, first, longest, in_a_row: 0, pauses: 0, until: None }
    }

    /// The provider answered.
    pub(super) fn on_answer(&mut self) {
        (self.in_a_row, self.pauses, self.until) = (0, 0, None);
    }

    /// It failed for a reason that passes; returns how long the pause is that begins now, if one does.
    pub(super) fn on_failure(&mut self, now: Instant) -> Option<Duration> {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row < self.after || self.is_open(now) {
            return None;
        }
        let pause = self.first.saturating_mul(1 << self.pauses.min(16)).min(self.longest);
        self.pauses += 1;
        self.until = Some(now + pause);
        Some(pause)
    }

    /// Tells whether it pauses.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// How many more may be on their way: after a pause one goes first, to see whether it is over.
    pub(super) fn room(&self, now: Instant, in_flight: usize, in_flight_max: usize) -> usize {
        let max = match (self.is_open(now), self.in_a_row >= self.after) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => in_flight_max,
        };
        max.saturating_sub(in_flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { channel: &[Rate { count: 3, per_ms: 1_000 }], address: Some(Rate { count: 2, per_ms: 1_000 }) };

    #[test]
    fn no_rate_is_ever_exceeded() {
        let (mut pace, start) = (Pace::new(LIMITS), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(pace.take("a", at(0)), Ok(()));
        assert_eq!(pace.take("a", at(100)), Ok(()));
        assert_eq!(pace.take("a", at(200)), Err(Duration::from_millis(800)));
        assert_eq!(pace.take("b", at(200)), Ok(()));
        assert_eq!(pace.take("b", at(300)), Err(Duration::from_millis(700)), "of the channel");
        assert_eq!(pace.take("a", at(1_000)), Ok(()));
        assert_eq!(pace.take("b", at(1_000)), Err(Duration::from_millis(100)));
    }

    #[test]
    fn quiet_addresses_are_forgotten() {
        let (mut pace, start) = (Pace::new(Limits { channel: &[], ..LIMITS }), Instant::now());
        for n in 0..3 * ADDRESSES_MAX {
            let now = start + Duration::from_secs(n as u64);
            assert_eq!(pace.take(&n.to_string(), now), Ok(()));
        }
        assert!(pace.addresses.len() <= ADDRESSES_MAX);
    }

    #[test]
    fn pauses_grow_and_end_with_the_first_answer() {
        let (mut breaker, start) = (Breaker::new(2, Duration::from_secs(10), Duration::from_secs(30)), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!((breaker.on_failure(at(0)), breaker.room(at(0), 3, 8)), (None, 5));
        assert_eq!(breaker.on_failure(at(1)), Some(Duration::from_secs(10)));
        assert_eq!((breaker.room(at(2), 0, 8), breaker.on_failure(at(2))), (0, None), "one that was on its way");
        assert_eq!((breaker.room(at(11), 0, 8), breaker.room(at(11), 1, 8)), (1, 0));
        assert_eq!(breaker.on_failure(at(12)), Some(Duration::from_secs(20)));
        assert_eq!(breaker.on_failure(at(40)), Some(Duration::from_secs(30)));
        assert!(breaker.is_open(at(69)) && !breaker.is_open(at(70)));
        breaker.on_answer();
        assert_eq!((breaker.room(at(41), 0, 8), breaker.on_failure(at(41))), (8, None));
    }
}
