//! Places of messages that are on their way. Whoever waits between two parts lends its place to others.
//!
//! Invariants
//! - No more messages act at once than there are places, and those that have waited act again before anybody new.
//! - LIM-1: how many are half sent is bounded.
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many messages may be on their way for each place: one acts, the others wait between two parts.
const EACH_MAX: usize = 8;

/// The places of a channel.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    count: usize,
}

/// A place that is held; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    free: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Places {
    pub(super) fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), count }
    }

    /// How many are held.
    pub(super) fn taken(&self) -> usize {
        self.count.saturating_sub(self.free.available_permits())
    }

    /// How many more messages may be on their way, where so many are.
    pub(super) fn more(&self, in_flight: usize) -> usize {
        self.count.saturating_mul(EACH_MAX).saturating_sub(in_flight)
    }

    /// Takes a place; `None` if none is free, or if all that are belong to messages that have waited.
    pub(super) fn take(&self) -> Option<Place> {
        let held = self.free.clone().try_acquire_owned().ok()?;
        Some(Place { free: self.free.clone(), held: Some(held) })
    }
}

impl Place {
    /// Waits; the place is another's meanwhile, and then one is waited for.
    pub(super) async fn lend<T>(&mut self, wait: impl Future<Output = T>) -> T {
        self.held = None;
        let waited = wait.await;
        // Nobody closes it.
        self.held = self.free.clone().acquire_owned().await.ok();
        waited
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn whoever_has_waited_goes_before_anybody_new_and_stops_nobody() {
        let places = Places::new(1);
        let mut one = places.take().unwrap();
        assert!(places.take().is_none());
        let (go_on, wait) = tokio::sync::oneshot::channel::<()>();
        let mut first = Box::pin(one.lend(wait));
        assert!(first.as_mut().now_or_never().is_none());
        let mut other = places.take().expect("it was lent");
        go_on.send(()).unwrap();
        assert!(first.as_mut().now_or_never().is_none(), "it is another's now");
        let mut second = Box::pin(other.lend(std::future::ready(())));
        assert!(second.as_mut().now_or_never().is_none(), "the first one is before it");
        assert_eq!((places.taken(), places.take().is_none()), (1, true));
        assert!(first.as_mut().now_or_never().is_some());
        drop(first);
        drop(one);
        assert!(second.as_mut().now_or_never().is_some());
        drop(second);
        drop(other);
        assert_eq!((places.taken(), places.more(3), places.more(8)), (0, 5, 0));
    }
}
