//! Counts wrong credentials by address, so that guessing is slow while right ones still pass.
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// Monotonic time that tests can pause.
#[derive(Clone, Copy, Debug)]
struct Monotonic(tokio::time::Instant);

impl Clock for Monotonic {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

/// Whose attempts are counted together: an IPv4 address, or the /64 network that one IPv6 customer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Source {
    Unknown,
    V4([u8; 4]),
    V6([u16; 4]),
}

impl Source {
    fn of(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            None => Self::Unknown,
            Some(IpAddr::V4(address)) => Self::V4(address.octets()),
            Some(IpAddr::V6(address)) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

type Bucket = RateLimiter<NotKeyed, InMemoryState, Monotonic, NoOpMiddleware<Nanos>>;

#[derive(Default)]
struct Counted {
    buckets: HashMap<Source, (u64, Bucket)>,
    /// Sources by the number of their last attempt: the oldest goes first when there are too many (LIM-1).
    by_age: BTreeMap<u64, Source>,
    attempts: u64,
}

/// Counts wrong credentials. A plain mutex: it is held for a look-up, and only after something wrong came.
pub struct Limiter {
    quota: Quota,
    addresses_max: usize,
    clock: Monotonic,
    counted: Mutex<Counted>,
}

impl Limiter {
    /// Allows `per_minute` wrong credentials from each of at most `addresses_max` addresses.
    pub fn new(per_minute: u32, addresses_max: usize) -> Self {
        Self {
            quota: Quota::per_minute(NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN)),
            addresses_max: addresses_max.max(1),
            clock: Monotonic(tokio::time::Instant::now()),
            counted: Mutex::default(),
        }
    }

    /// Counts a wrong credential. `Err` says after how long the next one would be looked at.
    pub fn wrong(&self, address: Option<IpAddr>) -> Result<(), Duration> {
        let source = Source::of(address);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let Counted { buckets, by_age, attempts } = &mut *counted;
        *attempts += 1;
        if !buckets.contains_key(&source)
            && buckets.len() >= self.addresses_max
            && let Some((_, oldest)) = by_age.pop_first()
        {
            buckets.remove(&oldest);
        }
        let (last, bucket) =
            buckets.entry(source).or_insert_with(|| (0, RateLimiter::direct_with_clock(self.quota, self.clock)));
        by_age.remove(last);
        *last = *attempts;
        by_age.insert(*attempts, source);
        bucket.check().map_err(|refused| refused.wait_time_from(self.clock.now()))
    }

    /// Returns how many addresses are counted now.
    pub fn addresses(&self) -> usize {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).buckets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    #[tokio::test(start_paused = true)]
    async fn guessing_is_stopped_and_forgiven_with_time() {
        let limiter = Limiter::new(20, 100);
        for attempt in 0..20 {
            limiter.wrong(address(1)).unwrap_or_else(|_| panic!("attempt {attempt}"));
        }
        let wait = limiter.wrong(address(1)).expect_err("the 21st");
        assert!(wait <= Duration::from_secs(3), "{wait:?}");
        limiter.wrong(address(2)).expect("another address is not concerned");
        tokio::time::advance(Duration::from_secs(3)).await;
        limiter.wrong(address(1)).expect("one more after three seconds");
        limiter.wrong(address(1)).expect_err("but only one");
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_address_is_forgotten_when_there_are_too_many() {
        let limiter = Limiter::new(1, 2);
        limiter.wrong(address(1)).expect("first");
        limiter.wrong(address(2)).expect("first");
        limiter.wrong(address(1)).expect_err("second");
        limiter.wrong(address(3)).expect("takes the place of address 2, which is older now");
        limiter.wrong(address(1)).expect_err("still counted");
        assert_eq!(limiter.addresses(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_ipv6_network_counts_as_one_address() {
        let limiter = Limiter::new(1, 2);
        limiter.wrong("2001:db8::1".parse().ok()).expect("first");
        limiter.wrong("2001:db8::2".parse().ok()).expect_err("same network");
        limiter.wrong("2001:db8:0:1::1".parse().ok()).expect("another network");
        limiter.wrong("::ffff:10.0.0.1".parse().ok()).expect("first");
        limiter.wrong(address(1)).expect_err("the same address in its IPv4 form");
    }
}
