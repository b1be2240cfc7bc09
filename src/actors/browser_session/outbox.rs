//! What waits to be written to one browser: bounded; texts of a run that are not written yet are rolled up.
//!
//! Invariants
//! - LIM-1: bytes and frames are bounded; over a bound the socket is closed with 1013 and the client resumes.
//! - A roll-up never loses text: what goes out is cut from the newest text behind what the client has.
use std::collections::VecDeque;
use std::sync::Arc;

use bytestring::ByteString;

use crate::domain::event::{Live, Topic};
use crate::domain::ids::{ConversationId, TurnId};

/// Frames that are handed to the transport in one batch.
const BATCH_FRAMES: usize = 256;
/// Bytes that are handed to the transport in one batch.
const BATCH_BYTES: usize = 256 * 1024;

/// Something to be written.
#[derive(Debug)]
pub(super) enum Out {
    /// A frame that is ready.
    Text(ByteString),
    /// The newest text of a run; made into a frame when its turn comes.
    Live {
        topic: Arc<Topic>,
        live: Arc<Live>,
        /** The client cannot go on from what it has. */
        whole: bool,
    },
}

/// The queue of one socket.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: VecDeque<Out>,
    bytes: usize,
    bytes_max: usize,
    frames_max: usize,
}

/// The queue is over its bound.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Outbox {
    pub(super) fn new(bytes_max: usize, frames_max: usize) -> Self {
        Self { queue: VecDeque::new(), bytes: 0, bytes_max, frames_max }
    }

    /// Queues a frame.
    pub(super) fn push(&mut self, frame: ByteString) -> Result<(), Full> {
        self.bytes += frame.len();
        self.queue.push_back(Out::Text(frame));
        self.check()
    }

    /// Queues the newest text of a run, in the place of one that still waits.
    pub(super) fn push_live(&mut self, topic: &Arc<Topic>, live: &Arc<Live>, whole: bool) -> Result<(), Full> {
        let waiting = self.queue.iter_mut().rev().find_map(|out| match out {
            Out::Live { live: waiting, whole, .. } if waiting.turn_id == live.turn_id => Some((waiting, whole)),
            _ => None,
        });
        match waiting {
            Some((waiting, was_whole)) => {
                *waiting = live.clone();
                *was_whole |= whole;
            }
            None => self.queue.push_back(Out::Live { topic: topic.clone(), live: live.clone(), whole }),
        }
        self.check()
    }

    /// Drops what waits of a run that is over: its end says it all.
    pub(super) fn drop_live(&mut self, turn: TurnId) {
        self.queue.retain(|out| !matches!(out, Out::Live { live, .. } if live.turn_id == turn));
    }

    /// Drops what waits of a conversation's runs.
    pub(super) fn drop_live_of(&mut self, id: ConversationId) {
        self.queue.retain(|out| !matches!(out, Out::Live { topic, .. } if topic.conversation_id == id));
    }

    /// Takes the next batch.
    pub(super) fn take(&mut self) -> Vec<Out> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < BATCH_FRAMES
            && bytes < BATCH_BYTES
            && let Some(out) = self.queue.pop_front()
        {
            bytes += match &out {
                Out::Text(frame) => {
                    self.bytes -= frame.len();
                    frame.len()
                }
                Out::Live { live, .. } => live.text.len(),
            };
            batch.push(out);
        }
        batch
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Returns how much waits: frames and bytes.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.queue.len(), self.bytes)
    }

    /// Drops everything, when the socket is given up.
    pub(super) fn clear(&mut self) {
        self.queue = VecDeque::new();
        self.bytes = 0;
    }

    fn check(&self) -> Result<(), Full> {
        if self.queue.len() > self.frames_max {
            return Err(Full);
        }
        if self.bytes <= self.bytes_max {
            return Ok(());
        }
        // A single frame larger than the bound must get through, whatever waits beside it: it is an answer that exists.
        let sizes = self.queue.iter().map(|out| if let Out::Text(frame) = out { frame.len() } else { 0 });
        let largest = sizes.max().unwrap_or(0);
        if self.bytes - largest > self.bytes_max { Err(Full) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
