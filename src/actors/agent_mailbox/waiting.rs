//! The long polls of one mailbox: who has waited longest is served first. Pure.
//!
//! One message wakes one of them. A poll that has gone is noticed when its turn comes, or by a sweep.
use std::collections::VecDeque;

use tokio::sync::oneshot::Sender;

/// As long as fewer wait nobody is swept out.
const SWEEP_MIN: usize = 64;

/// The queue: for each poll where its answer goes and what it wants.
#[derive(Debug)]
pub(super) struct Waiting<T, W> {
    queue: VecDeque<(Sender<T>, W)>,
    /// Length at which closed ones are looked for: twice what the last sweep left.
    sweep_at: usize,
}

impl<T, W> Waiting<T, W> {
    pub(super) fn new() -> Self {
        Self { queue: VecDeque::new(), sweep_at: SWEEP_MIN }
    }

    /// Adds a poll behind the others.
    pub(super) fn push(&mut self, reply: Sender<T>, want: W) {
        self.queue.push_back((reply, want));
        if self.queue.len() >= self.sweep_at {
            self.sweep();
        }
    }

    /// Takes out the polls that have gone.
    pub(super) fn sweep(&mut self) {
        self.queue.retain(|(reply, _)| !reply.is_closed());
        self.sweep_at = (2 * self.queue.len()).max(SWEEP_MIN);
    }

    /// Takes out the poll that has waited longest and is still there.
    pub(super) fn pop(&mut self) -> Option<(Sender<T>, W)> {
        while let Some(waiter) = self.queue.pop_front() {
            if !waiter.0.is_closed() {
                return Some(waiter);
            }
        }
        None
    }

    /// Takes out all of them, the longest first.
    pub(super) fn take(&mut self) -> VecDeque<(Sender<T>, W)> {
        std::mem::take(&mut self.queue)
    }

    /// Returns how many wait, with those that have gone and were not noticed yet.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn one_message_wakes_the_one_that_has_waited_longest() {
        let mut waiting = Waiting::new();
        let mut receivers: Vec<oneshot::Receiver<&str>> = Vec::new();
        for number in 0..500 {
            let (reply, receiver) = oneshot::channel();
            waiting.push(reply, number);
            receivers.push(receiver);
        }
        let (reply, want) = waiting.pop().expect("somebody waits");
        assert_eq!((want, waiting.len()), (0, 499), "one pop, and nobody else is touched");
        reply.send("mail").expect("it is there");
        assert_eq!(receivers[0].try_recv().expect("served"), "mail");
        for receiver in &mut receivers[1..] {
            assert_eq!(receiver.try_recv().expect_err("waits"), oneshot::error::TryRecvError::Empty);
        }
    }

    #[test]
    fn who_has_gone_is_passed_over() {
        let mut waiting = Waiting::new();
        let mut receivers: Vec<oneshot::Receiver<()>> = Vec::new();
        for number in 0..3 {
            let (reply, receiver) = oneshot::channel();
            waiting.push(reply, number);
            receivers.push(receiver);
        }
        drop(receivers.remove(0));
        receivers[0].close();
        assert_eq!(waiting.pop().expect("the last one is there").1, 2);
        assert!(waiting.pop().is_none());
        assert_eq!(waiting.len(), 0);
    }

    #[test]
    fn who_has_gone_is_swept_out_before_the_queue_grows() {
        let mut waiting = Waiting::new();
        let mut here: Vec<oneshot::Receiver<()>> = Vec::new();
        let mut longest = 0;
        for number in 0..10_000 {
            let (reply, receiver) = oneshot::channel();
            waiting.push(reply, number);
            // One in a hundred stays, up to 100 of them.
            if number % 100 == 0 {
                here.push(receiver);
            }
            longest = longest.max(waiting.len());
        }
        assert!((100..=2 * 100 + SWEEP_MIN).contains(&longest), "{longest}");
        let mut served = Vec::new();
        while let Some((_, number)) = waiting.pop() {
            served.push(number);
        }
        assert_eq!(served, (0..100).map(|number| number * 100).collect::<Vec<i32>>(), "nobody who waits is lost");
    }
}
