//! The frames of one agent that wait to be handled: bounded in number, bytes and frames a second.
use std::collections::VecDeque;

use super::Read;
use crate::actors::allowance::Allowance;

/// Frames that may wait while one is being handled.
const FRAMES_MAX: usize = 256;
/// Their bytes, as they came; one frame always fits.
const BYTES_MAX: usize = 8 << 20;

pub(super) struct Inbox {
    queue: VecDeque<(Read, usize)>,
    bytes: usize,
    allowance: Allowance,
}

impl Inbox {
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        Self { queue: VecDeque::new(), bytes: 0, allowance: Allowance::new(per_second, burst) }
    }

    /// Tells whether a frame of so many bytes may be taken now; each one that comes counts.
    pub(super) fn has_room_for(&mut self, bytes: usize) -> bool {
        let fits = self.queue.is_empty() || self.queue.len() < FRAMES_MAX && self.bytes + bytes <= BYTES_MAX;
        self.allowance.take() && fits
    }

    pub(super) fn push(&mut self, read: Read, bytes: usize) {
        self.bytes += bytes;
        self.queue.push_back((read, bytes));
    }

    /// Takes out the oldest one.
    pub(super) fn pop(&mut self) -> Option<Read> {
        let Some((read, bytes)) = self.queue.pop_front() else {
            // A silent socket keeps no room for frames.
            self.queue = VecDeque::new();
            return None;
        };
        self.bytes -= bytes;
        Some(read)
    }

    pub(super) fn clear(&mut self) {
        self.queue = VecDeque::new();
        self.bytes = 0;
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::agent_session::Inbound;

    fn ping() -> Read {
        Read { id: None, what: Ok(Inbound::Ping) }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_wait_are_bounded_in_number_and_bytes() {
        let mut inbox = Inbox::new(10_000, 10_000);
        assert!(inbox.has_room_for(usize::MAX), "one always fits");
        for _ in 0..FRAMES_MAX {
            assert!(inbox.has_room_for(10));
            inbox.push(ping(), 10);
        }
        assert!(!inbox.has_room_for(10));
        assert!(inbox.pop().is_some());
        assert!(!inbox.has_room_for(BYTES_MAX) && inbox.has_room_for(10));
        inbox.clear();
        assert_eq!((inbox.len(), inbox.pop().is_none()), (0, true));
    }

    #[tokio::test(start_paused = true)]
    async fn frames_a_second_are_bounded() {
        let mut inbox = Inbox::new(1, 2);
        assert_eq!((0..5).filter(|_| inbox.has_room_for(1)).count(), 2);
    }
}
