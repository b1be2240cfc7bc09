//! What waits to be written to one agent: its messages, each with the ticket that stands for it, and the answers to its
//! frames.
//!
//! Invariants
//! - LIM-1: answers are bounded, in bytes and frames; over a bound the socket is closed with 1013. Messages are bounded by
//!   whoever asks for them: nothing is asked for before all that came has been written.
use std::collections::VecDeque;

use bytestring::ByteString;

/// Frames that are handed to the transport in one batch.
const BATCH_FRAMES: usize = 256;
/// Bytes that are handed to the transport in one batch.
const BATCH_BYTES: usize = 256 * 1024;

/// The queue of one socket; `T` stands for a message until it is written.
#[derive(Debug)]
pub(super) struct Outbox<T> {
    queue: VecDeque<(ByteString, Option<T>)>,
    messages: usize,
    answers: usize,
    answer_bytes: usize,
    bytes_max: usize,
    frames_max: usize,
}

/// Too many answers wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl<T> Outbox<T> {
    pub(super) fn new(bytes_max: usize, frames_max: usize) -> Self {
        Self { queue: VecDeque::new(), messages: 0, answers: 0, answer_bytes: 0, bytes_max, frames_max }
    }

    /// Queues the answer to a frame. A single one that is larger than the bound gets through.
    pub(super) fn push_answer(&mut self, frame: ByteString) -> Result<(), Full> {
        self.answers += 1;
        self.answer_bytes += frame.len();
        let is_full = self.answers > self.frames_max || self.answers > 1 && self.answer_bytes > self.bytes_max;
        self.queue.push_back((frame, None));
        if is_full { Err(Full) } else { Ok(()) }
    }

    /// Queues a message.
    pub(super) fn push_message(&mut self, frame: ByteString, ticket: T) {
        self.messages += 1;
        self.queue.push_back((frame, Some(ticket)));
    }

    /// Takes the next batch: its frames, and the tickets of the messages among them.
    pub(super) fn take(&mut self) -> (Vec<ByteString>, Vec<T>) {
        let (mut frames, mut tickets, mut bytes) = (Vec::new(), Vec::new(), 0);
        while frames.len() < BATCH_FRAMES
            && bytes < BATCH_BYTES
            && let Some((frame, ticket)) = self.queue.pop_front()
        {
            bytes += frame.len();
            self.count_out(&frame, ticket.is_some());
            frames.push(frame);
            tickets.extend(ticket);
        }
        (frames, tickets)
    }

    /// Drops the messages that wait, and with them their tickets.
    pub(super) fn drop_messages(&mut self) {
        self.queue.retain(|(_, ticket)| ticket.is_none());
        self.messages = 0;
    }

    /// Drops everything, when the socket is given up.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.bytes_max, self.frames_max);
    }

    /// Returns how many messages wait.
    pub(super) fn messages(&self) -> usize {
        self.messages
    }

    /// Returns how many answers wait, and their bytes.
    pub(super) fn answers(&self) -> (usize, usize) {
        (self.answers, self.answer_bytes)
    }

    fn count_out(&mut self, frame: &ByteString, is_message: bool) {
        if is_message {
            self.messages -= 1;
        } else {
            self.answers -= 1;
            self.answer_bytes -= frame.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: usize) -> ByteString {
        "x".repeat(bytes).into()
    }

    #[test]
    fn frames_leave_in_order_with_the_tickets_of_their_messages() {
        let mut outbox = Outbox::new(1_000, 10);
        outbox.push_message("a".into(), 1);
        outbox.push_answer("b".into()).expect("room");
        outbox.push_message("c".into(), 2);
        assert_eq!((outbox.messages(), outbox.answers()), (2, (1, 1)));
        assert_eq!(outbox.take(), (vec!["a".into(), "b".into(), "c".into()], vec![1, 2]));
        assert_eq!((outbox.messages(), outbox.answers()), (0, (0, 0)));
        assert_eq!(outbox.take(), (vec![], vec![]));
    }

    #[test]
    fn answers_are_bounded_and_messages_are_not() {
        let mut outbox = Outbox::new(100, 3);
        for ticket in 0..10 {
            outbox.push_message(frame(100), ticket);
        }
        assert_eq!(outbox.push_answer(frame(200)), Ok(()), "a single one gets through");
        assert_eq!(outbox.push_answer(frame(1)), Err(Full));
        outbox.clear();
        for _ in 0..3 {
            assert_eq!(outbox.push_answer(frame(1)), Ok(()));
        }
        assert_eq!(outbox.push_answer(frame(1)), Err(Full));
    }

    #[test]
    fn a_batch_is_small_and_nothing_is_left_behind() {
        let mut outbox = Outbox::new(1_000_000, 10_000);
        for ticket in 0..3 {
            outbox.push_message(frame(200 * 1024), ticket);
        }
        assert_eq!(outbox.take().1, [0, 1], "it ends behind the frame that fills it");
        assert_eq!(outbox.take().1, [2]);
        for _ in 0..300 {
            outbox.push_answer(frame(1)).expect("room");
        }
        outbox.push_message(frame(1), 3);
        outbox.drop_messages();
        assert_eq!((outbox.take().0.len(), outbox.take().0.len(), outbox.messages()), (256, 44, 0));
    }
}
