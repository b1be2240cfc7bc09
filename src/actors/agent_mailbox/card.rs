//! What everybody may know of an open mailbox without asking it.
//!
//! Most polls find nothing. They are answered from here, without the actor and without the store: two counters tell
//! whether the mailbox has heard all that it was told and found nothing ready then. Only the mailbox says that it is
//! quiet, so that nothing it was told and has not heard yet can be missed.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use actix::prelude::*;

use super::ticket::{NotTaken, Refused};
use super::{AgentMailbox, FromStore, Poll, Told};
use crate::actors::messages::{Observe, Stop};
use crate::domain::agent::AgentFacts;
use crate::domain::error::Error;
use crate::domain::ids::{AgentId, PartyId};

/// Says that something may be ready; no count of news gets there.
const LOUD: u64 = u64::MAX;

/// What the mailbox was told, and what it had heard when it found nothing ready.
#[derive(Debug)]
struct News {
    told: AtomicU64,
    quiet_at: AtomicU64,
}

impl News {
    fn new() -> Self {
        Self { told: AtomicU64::new(0), quiet_at: AtomicU64::new(LOUD) }
    }

    fn tell(&self) {
        self.told.fetch_add(1, Ordering::SeqCst);
    }

    fn hear(&self, heard: u64, is_quiet: bool) {
        self.quiet_at.store(if is_quiet { heard } else { LOUD }, Ordering::SeqCst);
    }

    fn is_quiet(&self) -> bool {
        self.quiet_at.load(Ordering::SeqCst) == self.told.load(Ordering::SeqCst)
    }
}

/// What all mailboxes have handed out since the process started.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) handed_out: AtomicU64,
    pub(super) given_back: AtomicU64,
}

/// An open mailbox.
pub struct Card {
    pub agent_id: AgentId,
    pub party_id: PartyId,
    mailbox: Addr<AgentMailbox>,
    news: News,
    /// All that was there when it was opened has been read.
    is_loaded: AtomicBool,
    is_paused: AtomicBool,
    /// Somebody called since the mailbox looked last.
    was_called: AtomicBool,
    pub(super) waiting: AtomicUsize,
    counts: Arc<Counts>,
}

impl Card {
    pub(super) fn new(agent: &AgentFacts, mailbox: Addr<AgentMailbox>, counts: Arc<Counts>) -> Self {
        Self {
            agent_id: agent.id,
            party_id: agent.party_id,
            mailbox,
            news: News::new(),
            is_loaded: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
            was_called: AtomicBool::new(true),
            waiting: AtomicUsize::new(0),
            counts,
        }
    }

    /// Asks for messages. A mailbox that has gone meanwhile drops the reply.
    pub fn poll(&self, poll: Poll) -> Result<(), Error> {
        match self.mailbox.try_send(poll) {
            Err(SendError::Full(_)) => Err(Error::store_busy()),
            Ok(()) | Err(SendError::Closed(_)) => Ok(()),
        }
    }

    /// Tells whether a poll would find nothing now.
    pub fn is_quiet(&self) -> bool {
        self.news.is_quiet()
    }

    /// Tells whether the mailbox knows what is there; before that it can only have polls wait.
    pub fn is_loaded(&self) -> bool {
        self.is_loaded.load(Ordering::SeqCst)
    }

    /// Tells whether its agent gets nothing for now, as the mailbox has heard.
    pub fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::SeqCst)
    }

    /// Keeps the mailbox open for a while.
    pub fn note_call(&self) {
        self.was_called.store(true, Ordering::Relaxed);
    }

    /// Tells the mailbox of what was committed.
    pub(super) fn tell(&self, told: Vec<Told>) {
        self.news.tell();
        // Bounded by the writer, which waits for the disk between two batches.
        self.mailbox.do_send(FromStore(told));
    }

    pub(super) fn stop(&self) {
        self.mailbox.do_send(Stop);
    }

    pub(super) fn observed(&self) -> Recipient<Observe> {
        self.mailbox.clone().recipient()
    }

    /// Bounded by the hand-outs, of which this is the end.
    pub(super) fn refused(&self, refused: Refused) {
        self.mailbox.do_send(refused);
    }

    /// Bounded by the hand-outs, of which this is the end.
    pub(super) fn not_taken(&self, not_taken: NotTaken) {
        self.mailbox.do_send(not_taken);
    }

    /// Counts messages that the writer has leased.
    pub(super) fn count_handed_out(&self, messages: usize) {
        self.counts.handed_out.fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// Counts messages that were leased and that nobody took.
    pub(super) fn count_given_back(&self, messages: usize) {
        self.counts.given_back.fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// Notes how much the mailbox has heard, and whether it has nothing to hand out.
    pub(super) fn hear(&self, heard: u64, is_quiet: bool) {
        self.news.hear(heard, is_quiet);
    }

    pub(super) fn set_loaded(&self) {
        self.is_loaded.store(true, Ordering::SeqCst);
    }

    pub(super) fn set_paused(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::SeqCst);
    }

    /// Tells whether somebody called since this was asked last.
    pub(super) fn take_call(&self) -> bool {
        self.was_called.swap(false, Ordering::Relaxed)
    }
}

/// A waiting poll's place among those that are allowed; free again when it is dropped.
pub struct Place {
    card: Arc<Card>,
    all: Arc<AtomicUsize>,
}

impl Place {
    /// Takes a place, unless the agent has too many or there are too many in all.
    pub(super) fn take(card: &Arc<Card>, all: &Arc<AtomicUsize>, of_agent_max: usize, max: usize) -> Option<Self> {
        // Counted before it is judged, so that no two take the last one; a refused one counts itself out again.
        let place = Self { card: card.clone(), all: all.clone() };
        let of_agent = card.waiting.fetch_add(1, Ordering::SeqCst);
        let of_all = all.fetch_add(1, Ordering::SeqCst);
        (of_agent < of_agent_max && of_all < max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.card.waiting.fetch_sub(1, Ordering::SeqCst);
        self.all.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_is_quiet_only_when_it_has_heard_everything() {
        let news = News::new();
        assert!(!news.is_quiet(), "it has not looked yet");
        news.hear(0, true);
        assert!(news.is_quiet());
        news.tell();
        assert!(!news.is_quiet(), "it was told something that it has not heard");
        news.tell();
        news.hear(1, true);
        assert!(!news.is_quiet(), "it has heard one of two");
        news.hear(2, true);
        assert!(news.is_quiet());
        // What was picked came back: nobody told it, and yet a poll must ask.
        news.hear(2, false);
        assert!(!news.is_quiet());
        news.hear(2, true);
        assert!(news.is_quiet());
    }
}
