//! What a command sees of the transaction it runs in.
//!
//! Invariants
//! - CNV-1: `seq` is given here, from the last committed number and what this transaction added; a rolled-back command
//!   takes its numbers back.
//! - STO-2: a state change and the events it causes belong to the same transaction; events leave only after its commit.
use std::collections::HashMap;
use std::sync::Arc;

use diesel::prelude::*;

use super::dialect::Db;
use super::schema::{conversations, deliveries};
use crate::domain::error::Error;
use crate::domain::event::{Event, Topic};
use crate::domain::ids::ConversationId;

/// A change to the store. It may run more than once (a failed batch is repeated), so it decides nothing in memory.
pub trait Command: Send + 'static {
    type Output: Send + 'static;

    /// May a node run it that is not the active one? Only what asks for the lease may (D5).
    const IN_STANDBY: bool = false;

    /// Applies the change, or refuses it. A refusal before the first write costs its neighbours nothing.
    fn apply(&self, tx: &mut Tx<'_>) -> Result<Self::Output, Error>;
}

/// Changes nothing: its commit shows that the database can be written to.
pub struct Probe;

impl Command for Probe {
    type Output = ();

    fn apply(&self, _: &mut Tx<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// The ends of a conversation's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) first_seq: i64,
    pub(super) last_seq: i64,
}

/// Conversations whose ends the writer remembers; beyond it the memory is emptied and filled anew.
const REMEMBERED_MAX: usize = 100_000;

/// What the writer knows between transactions.
#[derive(Default)]
pub(super) struct Memory {
    /// The epoch under which it was filled.
    epoch: i64,
    ends: HashMap<ConversationId, Ends>,
    /// The number of the next delivery; `None` until it was read.
    next_delivery_n: Option<i64>,
    /// What events name a conversation by; it never changes.
    topics: HashMap<ConversationId, Arc<Topic>>,
}

impl Memory {
    /// Forgets everything when the epoch is another one: in between another node may have written.
    pub(super) fn enter(&mut self, epoch: i64) {
        if epoch != self.epoch {
            *self = Self { epoch, ..Self::default() };
        }
    }

    /// Forgets everything, after a rollback of unknown extent.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Ends that changed in this transaction, with the time of the change.
type Changed = HashMap<ConversationId, (Ends, i64)>;

/// One write transaction, as commands see it.
pub struct Tx<'a> {
    db: &'a mut Db,
    memory: &'a mut Memory,
    changed: Changed,
    events: Vec<Event>,
    now_ms: i64,
    dirty: bool,
}

/// A point that a failed command is taken back to.
pub(super) struct Mark {
    changed: Changed,
    events: usize,
}

impl<'a> Tx<'a> {
    pub(super) fn new(db: &'a mut Db, memory: &'a mut Memory, now_ms: i64) -> Self {
        Self { db, memory, changed: HashMap::new(), events: Vec::new(), now_ms, dirty: false }
    }

    /// Returns the time of this transaction, in epoch milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// Returns the connection for reading.
    pub(super) fn read(&mut self) -> &mut Db {
        self.db
    }

    /// Returns the connection for writing; from here on a failure rolls back.
    pub(super) fn write(&mut self) -> &mut Db {
        self.dirty = true;
        self.db
    }

    /// Adds an event that is told after the commit.
    pub(super) fn emit(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Tells whether the running command has written, and starts afresh for the next one.
    pub(super) fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { changed: self.changed.clone(), events: self.events.len() }
    }

    pub(super) fn back_to(&mut self, mark: Mark) {
        self.changed = mark.changed;
        self.events.truncate(mark.events);
    }

    /// Returns the ends of a log as this transaction sees them.
    pub(super) fn ends(&mut self, id: ConversationId) -> Result<Ends, Error> {
        if let Some((ends, _)) = self.changed.get(&id) {
            return Ok(*ends);
        }
        if let Some(ends) = self.memory.ends.get(&id) {
            return Ok(*ends);
        }
        let (first_seq, last_seq) = conversations::table
            .find(id.as_bytes().as_slice())
            .select((conversations::first_seq, conversations::last_seq))
            .first::<(i64, i64)>(self.db)
            .optional()?
            .ok_or_else(|| Error::not_found("conversation", id))?;
        let ends = Ends { first_seq, last_seq };
        if self.memory.ends.len() >= REMEMBERED_MAX {
            self.memory.ends.clear();
        }
        self.memory.ends.insert(id, ends);
        Ok(ends)
    }

    /// Returns what events name the conversation by.
    pub(super) fn topic(&mut self, id: ConversationId) -> Result<Arc<Topic>, Error> {
        if let Some(topic) = self.memory.topics.get(&id) {
            return Ok(topic.clone());
        }
        let topic = Arc::new(super::conversations::topic(self.db, id)?);
        if self.memory.topics.len() >= REMEMBERED_MAX {
            self.memory.topics.clear();
        }
        self.memory.topics.insert(id, topic.clone());
        Ok(topic)
    }

    /// Gives the next number at the end of the log (D1).
    pub(super) fn next_seq(&mut self, id: ConversationId) -> Result<i64, Error> {
        let mut ends = self.ends(id)?;
        ends.last_seq += 1;
        self.changed.insert(id, (ends, self.now_ms));
        Ok(ends.last_seq)
    }

    /// Gives the next number above the beginning of the log: 0, −1, −2 … (D1).
    pub(super) fn next_seq_below(&mut self, id: ConversationId) -> Result<i64, Error> {
        let mut ends = self.ends(id)?;
        ends.first_seq -= 1;
        let touched = self.changed.get(&id).map_or(0, |(_, at)| *at);
        self.changed.insert(id, (ends, touched));
        Ok(ends.first_seq)
    }

    /// Gives the next number of a delivery. Numbers grow but may have holes.
    pub(super) fn next_delivery_n(&mut self) -> Result<i64, Error> {
        let next = match self.memory.next_delivery_n {
            Some(next) => next,
            None => {
                let newest: Option<i64> =
                    deliveries::table.select(deliveries::n).order(deliveries::n.desc()).first(self.db).optional()?;
                newest.unwrap_or(0) + 1
            }
        };
        self.memory.next_delivery_n = Some(next + 1);
        Ok(next)
    }

    /// Writes the changed ends, once for each conversation and batch.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        for (id, (ends, touched)) in &self.changed {
            let row = conversations::table.find(id.as_bytes().as_slice());
            let ends_now = (conversations::first_seq.eq(ends.first_seq), conversations::last_seq.eq(ends.last_seq));
            if *touched > 0 {
                diesel::update(row).set((ends_now, conversations::updated_at.eq(*touched))).execute(self.db)?;
            } else {
                diesel::update(row).set(ends_now).execute(self.db)?;
            }
        }
        Ok(())
    }

    /// Lets go of the connection, so that it can commit.
    pub(super) fn into_uncommitted(self) -> Uncommitted {
        Uncommitted { changed: self.changed, events: self.events }
    }

    /// Runs `work` between savepoints and takes it back if it returns `false`.
    pub(super) fn in_savepoint(&mut self, work: impl FnOnce(&mut Tx<'_>) -> bool) -> bool {
        let Self { db, memory, changed, events, now_ms, dirty } = self;
        let outcome = super::dialect::savepoint(db, |db| {
            let mut inner = Tx {
                db,
                memory,
                changed: std::mem::take(changed),
                events: std::mem::take(events),
                now_ms: *now_ms,
                dirty: false,
            };
            let fine = work(&mut inner);
            *changed = inner.changed;
            *events = inner.events;
            *dirty = inner.dirty;
            // The error only tells diesel to roll back; the command has kept its own.
            if fine { Ok(()) } else { Err(Error::store_busy()) }
        });
        outcome.is_ok()
    }

    /// Ends the view after a rollback.
    pub(super) fn rolled_back(self) {
        // Numbers of deliveries need not be dense; the remembered ends were never touched.
        drop(self.events);
    }

    /// Forgets a conversation, for example one that was removed for good.
    pub(super) fn forget(&mut self, id: ConversationId) {
        self.changed.remove(&id);
        self.memory.ends.remove(&id);
        self.memory.topics.remove(&id);
    }
}

/// What a transaction changed, between its last statement and its commit.
pub(super) struct Uncommitted {
    changed: Changed,
    events: Vec<Event>,
}

impl Uncommitted {
    /// Remembers what was committed and hands out the events.
    pub(super) fn committed(self, memory: &mut Memory) -> Vec<Event> {
        for (id, (ends, _)) in self.changed {
            memory.ends.insert(id, ends);
        }
        self.events
    }
}
