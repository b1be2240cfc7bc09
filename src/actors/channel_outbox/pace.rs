//! Keeping to what a provider allows, and pausing when it fails. Pure; times are monotonic.
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::channels::{Limits, Rate};
use crate::domain::ids::PartyId;

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

    /// Has the oldest one count from now on: it is never later than the one that is meant.
    fn restart_oldest(&mut self, now: Instant) {
        self.sent.pop_front();
        self.sent.push_back(now);
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

    /// Says how long until there may be a place for a message to this address, or to one that is not known yet.
    pub(super) fn wait(&mut self, address: Option<&str>, now: Instant) -> Duration {
        let of_channel = self.channel.iter_mut().map(|log| log.wait(now)).max().unwrap_or_default();
        let log = address.and_then(|address| self.addresses.get_mut(address));
        of_channel.max(log.map_or(Duration::ZERO, |log| log.wait(now)))
    }

    /// Takes a place for a message to this address, or says how long until there may be one.
    pub(super) fn take(&mut self, address: &str, now: Instant) -> Result<(), Duration> {
        let wait = self.wait(Some(address), now);
        if wait > Duration::ZERO {
            return Err(wait);
        }
        self.channel.iter_mut().for_each(|log| log.sent.push_back(now));
        if let Some(rate) = self.address {
            if self.addresses.len() >= ADDRESSES_MAX {
                self.addresses.retain(|_, log| log.wait(now) > Duration::ZERO || !log.sent.is_empty());
            }
            self.addresses.entry(address.to_owned()).or_insert_with(|| Log::new(rate)).sent.push_back(now);
        }
        Ok(())
    }

    /// Has a place that was taken count from now on: the provider may have seen its request just before it answered.
    pub(super) fn on_answer(&mut self, address: &str, now: Instant) {
        self.channel.iter_mut().for_each(|log| log.restart_oldest(now));
        if let Some(log) = self.addresses.get_mut(address) {
            log.restart_oldest(now);
        }
    }
}

/// Pauses a channel after failures in a row. Of one person they may be that person's own: those of different ones
/// count.
#[derive(Debug)]
pub(super) struct Breaker {
    /// Different recipients that it takes.
    after: usize,
    first: Duration,
    longest: Duration,
    /// Who was not reached since the provider answered last.
    failed: HashSet<PartyId>,
    /// Who was not reached the last time.
    down: HashSet<PartyId>,
    /// How long the provider wants to be left alone: what all of these failures have asked for.
    asked: Option<Duration>,
    pauses: u32,
    until: Option<Instant>,
}

impl Breaker {
    pub(super) fn new(after: u32, first: Duration, longest: Duration) -> Self {
        let after = usize::try_from(after).unwrap_or(usize::MAX);
        let (failed, down) = (HashSet::new(), HashSet::new());
        Self { after, first, longest, failed, down, asked: None, pauses: 0, until: None }
    }

    /// The provider answered to a message to this recipient.
    pub(super) fn on_answer(&mut self, recipient: PartyId) {
        self.down.remove(&recipient);
        self.failed.clear();
        (self.asked, self.pauses, self.until) = (None, 0, None);
    }

    /// A message to this recipient failed for a reason that passes, and the provider asked to wait so long. Returns how
    /// long the pause is that begins now, if one does.
    pub(super) fn on_failure(&mut self, recipient: PartyId, asked: Duration, now: Instant) -> Option<Duration> {
        self.down.insert(recipient);
        if !self.is_full() {
            self.failed.insert(recipient);
        }
        self.asked = Some(self.asked.map_or(asked, |known| known.min(asked)));
        if !self.is_full() || self.is_open(now) {
            return None;
        }
        let grown = self.first.saturating_mul(1 << self.pauses.min(16)).min(self.longest);
        // The next pause is as long as whoever fails then asks for.
        let pause = grown.max(self.asked.take().unwrap_or_default());
        self.pauses += 1;
        self.until = Some(now + pause);
        Some(pause)
    }

    /// Tells whether so many have failed that the provider must have.
    fn is_full(&self) -> bool {
        self.failed.len() >= self.after
    }

    /// Tells whether the last message to this recipient failed for a reason that passes.
    pub(super) fn is_down(&self, recipient: PartyId) -> bool {
        self.down.contains(&recipient)
    }

    /// Tells whether it pauses.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.wait(now) > Duration::ZERO
    }

    /// How long it pauses still.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// How many more may be on their way: after a pause one goes first, to see whether it is over.
    pub(super) fn room(&self, now: Instant, in_flight: usize, in_flight_max: usize) -> usize {
        let max = match (self.is_open(now), self.is_full()) {
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
    fn a_place_counts_from_the_answer_on() {
        let (mut pace, start) = (Pace::new(LIMITS), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!((pace.take("a", at(0)), pace.take("a", at(100))), (Ok(()), Ok(())));
        pace.on_answer("a", at(400));
        assert_eq!(pace.take("a", at(1_000)), Err(Duration::from_millis(100)), "one of them was slow");
        pace.on_answer("a", at(1_050));
        assert_eq!(pace.take("a", at(1_100)), Err(Duration::from_millis(300)));
        assert_eq!(pace.take("a", at(1_400)), Ok(()));
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
    fn asking_takes_nothing() {
        let (mut pace, start) = (Pace::new(LIMITS), Instant::now());
        for _ in 0..5 {
            assert_eq!(pace.wait(Some("a"), start), Duration::ZERO);
        }
        assert_eq!((pace.take("a", start), pace.take("a", start)), (Ok(()), Ok(())));
        let second = Duration::from_secs(1);
        assert_eq!((pace.wait(Some("a"), start), pace.wait(Some("b"), start)), (second, Duration::ZERO));
        assert_eq!(pace.wait(None, start), Duration::ZERO);
        assert_eq!((pace.take("b", start), pace.wait(None, start)), (Ok(()), second), "of the channel");
    }

    /// Fails for another person each time.
    fn fail(breaker: &mut Breaker, now: Instant) -> Option<Duration> {
        breaker.on_failure(PartyId::new(), Duration::ZERO, now)
    }

    #[test]
    fn pauses_grow_and_end_with_the_first_answer() {
        let (mut breaker, start) = (Breaker::new(2, Duration::from_secs(10), Duration::from_secs(30)), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!((fail(&mut breaker, at(0)), breaker.room(at(0), 3, 8)), (None, 5));
        assert_eq!(fail(&mut breaker, at(1)), Some(Duration::from_secs(10)));
        assert_eq!((breaker.room(at(2), 0, 8), fail(&mut breaker, at(2))), (0, None), "one that was on its way");
        assert_eq!(breaker.wait(at(2)), Duration::from_secs(9));
        assert_eq!((breaker.room(at(11), 0, 8), breaker.room(at(11), 1, 8)), (1, 0));
        assert_eq!(fail(&mut breaker, at(12)), Some(Duration::from_secs(20)));
        assert_eq!(fail(&mut breaker, at(40)), Some(Duration::from_secs(30)));
        assert!(breaker.is_open(at(69)) && !breaker.is_open(at(70)));
        breaker.on_answer(PartyId::new());
        assert_eq!((breaker.room(at(41), 0, 8), fail(&mut breaker, at(41))), (8, None));
    }

    #[test]
    fn one_person_who_cannot_be_reached_pauses_nobody() {
        let (mut breaker, now) = (Breaker::new(2, Duration::from_secs(10), Duration::from_secs(30)), Instant::now());
        let eve = PartyId::new();
        for _ in 0..100 {
            assert_eq!(breaker.on_failure(eve, Duration::from_secs(60), now), None);
        }
        assert_eq!(breaker.room(now, 0, 8), 8);
        assert_eq!(fail(&mut breaker, now), Some(Duration::from_secs(10)), "what only one of them asked for");
        breaker.on_answer(PartyId::new());
        assert!(breaker.is_down(eve), "somebody else was reached");
        breaker.on_answer(eve);
        assert!(!breaker.is_down(eve));
    }

    #[test]
    fn a_pause_is_as_long_as_the_provider_asks() {
        let (mut breaker, start) = (Breaker::new(2, Duration::from_secs(10), Duration::from_secs(30)), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        let (short, long) = (Duration::from_secs(60), Duration::from_secs(90));
        assert_eq!(breaker.on_failure(PartyId::new(), long, at(0)), None);
        assert_eq!(breaker.on_failure(PartyId::new(), short, at(0)), Some(short));
        assert_eq!(breaker.on_failure(PartyId::new(), long, at(60)), Some(long));
        assert_eq!(fail(&mut breaker, at(150)), Some(Duration::from_secs(30)), "it asks no more");
    }
}
