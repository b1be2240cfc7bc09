//! What a command sees of the transaction it runs in.
//!
//! Invariants
//! - CNV-1: `seq` is given here, from the last committed number and what this transaction added; a rolled-back command
//!   takes its numbers back.
//! - STO-2: a state change and the events it causes belong to the same transaction; events leave only after its commit.
mod mail;

use std::collections::HashMap;
use std::sync::Arc;

use diesel::prelude::*;

use super::deliveries::{Moved, NewRow as DeliveryRow, Stored};
use super::dialect::{self, Db};
use super::held::Held;
use super::mailbox::Deaths;
use super::memory::{Ends, Memory, remember};
use super::messages::NewRow as MessageRow;
use super::schema::{conversations, deliveries};
use super::{agents, gateways, parties};
use crate::domain::delivery::{Delivery, DeliveryState};
use crate::domain::error::Error;
use crate::domain::event::{Event, Topic};
use crate::domain::ids::{ConversationId, GatewayId, PartyId, UserId};
use crate::domain::party::{Party, PartyKind};

/// A change to the store. It may run more than once (a failed batch is repeated), so it decides nothing in memory.
pub trait Command: Send + 'static {
    type Output: Send + 'static;

    /// May a node run it that is not the active one? Only what asks for the lease may (D5).
    const IN_STANDBY: bool = false;

    /// Applies the change, or refuses it. A refusal before the first write costs its neighbours nothing.
    fn apply(&self, tx: &mut Tx<'_>) -> Result<Self::Output, Error>;
}

/// Changes nothing. Whoever waits for it knows that all that was queued before it is committed; and after a fault it has the
/// writer find out whether the database can be written to.
pub struct Probe;

impl Command for Probe {
    type Output = ();

    fn apply(&self, _: &mut Tx<'_>) -> Result<(), Error> {
        Ok(())
    }
}

/// Ends that changed in this transaction, with the time of the last line at the end of the log, if there was one.
pub(super) type Changed = HashMap<ConversationId, (Ends, Option<i64>)>;

/// One write transaction, as commands see it.
pub struct Tx<'a> {
    db: &'a mut Db,
    memory: &'a mut Memory,
    held: Held,
    changed: Changed,
    events: Vec<Event>,
    deaths: Deaths,
    now_ms: i64,
    dirty: bool,
}

/// A point that a failed command is taken back to.
pub(super) struct Mark {
    changed: Changed,
    events: usize,
    deaths: Deaths,
}

impl<'a> Tx<'a> {
    pub(super) fn new(db: &'a mut Db, memory: &'a mut Memory, now_ms: i64) -> Self {
        Self {
            db,
            memory,
            held: Held::default(),
            changed: HashMap::new(),
            events: Vec::new(),
            deaths: Deaths::default(),
            now_ms,
            dirty: false,
        }
    }

    /// Returns the time of this transaction, in epoch milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// Returns the connection for reading all that this transaction has written, but for the [`ends`](Self::ends) of logs.
    pub(super) fn read(&mut self) -> Result<&mut Db, Error> {
        self.write_held()?;
        Ok(self.db)
    }

    /// Returns the connection for reading what is never held back, and does without writing what is.
    pub(super) fn read_around_held(&mut self) -> (&mut Db, &Held) {
        (self.db, &self.held)
    }

    /// Returns the connection for writing; from here on a failure rolls back.
    pub(super) fn write(&mut self) -> Result<&mut Db, Error> {
        self.dirty = true;
        self.read()
    }

    /// Writes what is held back.
    pub(super) fn write_held(&mut self) -> Result<(), Error> {
        self.held.write(self.db, self.now_ms)
    }

    /// Adds a message, to be written with others.
    pub(super) fn add_message(&mut self, row: MessageRow) {
        self.dirty = true;
        self.held.messages.push(row);
    }

    /// Adds a delivery, to be written with others.
    pub(super) fn add_delivery(&mut self, row: DeliveryRow) {
        self.dirty = true;
        self.note_open(&row.delivery, false);
        self.held.deliveries.push(row);
    }

    /// Stores a delivery that has moved, to be written with others.
    pub(super) fn save_move(&mut self, stored: &Stored, from: DeliveryState) -> Result<(), Error> {
        let row = Moved::of(stored)?;
        self.dirty = true;
        self.note_open(&stored.delivery, from.is_open());
        self.memory.note_move(stored, from);
        self.held.moves.insert(stored.delivery.id, row);
        Ok(())
    }

    /// Notes that a party takes part and has read all up to its own line, the newest one; to be written with others.
    pub(super) fn note_spoken(&mut self, id: ConversationId, party: PartyId, seq: i64) {
        self.dirty = true;
        self.held.read.insert((id, party), seq);
    }

    /// Adds an event that is told after the commit.
    pub(super) fn emit(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Counts messages to agents that die; what is rolled back does not count.
    pub(super) fn deaths(&mut self) -> &mut Deaths {
        &mut self.deaths
    }

    /// Tells whether the running command has written, and starts afresh for the next one.
    pub(super) fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { changed: self.changed.clone(), events: self.events.len(), deaths: self.deaths }
    }

    pub(super) fn back_to(&mut self, mark: Mark) {
        self.changed = mark.changed;
        self.events.truncate(mark.events);
        self.deaths = mark.deaths;
        // Who wrote nothing can have remembered only what is committed.
        if self.dirty {
            self.memory.clear();
        }
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
            .first::<(i64, i64)>(self.read_around_held().0)
            .optional()?
            .ok_or_else(|| Error::not_found("conversation", id))?;
        let ends = Ends { first_seq, last_seq };
        remember(&mut self.memory.ends, id, ends);
        Ok(ends)
    }

    /// Returns what events name the conversation by.
    pub(super) fn topic(&mut self, id: ConversationId) -> Result<Arc<Topic>, Error> {
        if let Some(topic) = self.memory.topics.get(&id) {
            return Ok(topic.clone());
        }
        let topic = Arc::new(super::conversations::topic(self.read_around_held().0, id)?);
        remember(&mut self.memory.topics, id, topic.clone());
        Ok(topic)
    }

    /// Returns whose a conversation is that was not deleted.
    pub(super) fn owner(&mut self, id: ConversationId) -> Result<Option<UserId>, Error> {
        if let Some(owner) = self.memory.owners.get(&id) {
            return Ok(*owner);
        }
        let owner = super::conversations::owner(self.read_around_held().0, id)?
            .ok_or_else(|| Error::not_found("conversation", id))?;
        remember(&mut self.memory.owners, id, owner);
        Ok(owner)
    }

    /// Returns a party.
    pub(super) fn party(&mut self, id: PartyId) -> Result<Option<Party>, Error> {
        if let Some(party) = self.memory.parties.get(&id) {
            return Ok(Some(party.clone()));
        }
        let found = parties::get(self.read_around_held().0, id)?;
        found.iter().for_each(|party| self.memory.remember_party(party));
        Ok(found)
    }

    /// Returns the party that stands for `reference`.
    pub(super) fn party_of(&mut self, kind: PartyKind, reference: &str) -> Result<Option<Party>, Error> {
        if let Some(id) = self.memory.references.get(&(kind, reference.to_owned())) {
            return self.party(*id);
        }
        let found = parties::find(self.read_around_held().0, kind, reference)?;
        found.iter().for_each(|party| self.memory.remember_party(party));
        Ok(found)
    }

    /// Returns how many deliveries of a conversation are open.
    pub(super) fn open_deliveries(&mut self, id: ConversationId) -> Result<usize, Error> {
        if let Some(open) = self.memory.open.get(&id) {
            return Ok(*open);
        }
        let open = super::deliveries::count_open_of_conversation(self.read()?, id)?;
        remember(&mut self.memory.open, id, open);
        Ok(open)
    }

    /// Keeps the counts of open ones: a delivery was open or not, and is now what it is.
    fn note_open(&mut self, delivery: &Delivery, was_open: bool) {
        let is_open = delivery.state.is_open();
        let of_conversation = self.memory.open.get_mut(&delivery.conversation_id);
        let of_recipient = self.memory.open_of.get_mut(&delivery.recipient_id);
        let of_channel = match &delivery.channel_id {
            Some(id) => self.memory.open_by.get_mut(id),
            None => None,
        };
        for open in of_conversation.into_iter().chain(of_recipient).chain(of_channel) {
            *open = (*open + usize::from(is_open)).saturating_sub(usize::from(was_open));
        }
    }

    /// Tells whether a gateway is registered.
    pub(super) fn is_registered(&mut self, id: &GatewayId) -> Result<bool, Error> {
        if self.memory.gateways.contains(id) {
            return Ok(true);
        }
        let found = gateways::get(self.read_around_held().0, id)?.is_some();
        if found {
            self.memory.gateways.insert(id.clone());
        }
        Ok(found)
    }

    /// Returns how many agents are registered: counted once, since there may be many.
    pub(super) fn registered_agents(&mut self) -> Result<i64, Error> {
        if let Some(known) = self.memory.registered_agents {
            return Ok(known);
        }
        let known = agents::count(self.read_around_held().0)?;
        self.memory.registered_agents = Some(known);
        Ok(known)
    }

    /// Keeps that count: so many agents came, or went.
    pub(super) fn note_registered_agents(&mut self, more: i64) {
        if let Some(known) = &mut self.memory.registered_agents {
            *known += more;
        }
    }

    /// Gives the next number at the end of the log (D1).
    pub(super) fn next_seq(&mut self, id: ConversationId) -> Result<i64, Error> {
        let mut ends = self.ends(id)?;
        ends.last_seq += 1;
        self.changed.insert(id, (ends, Some(self.now_ms)));
        Ok(ends.last_seq)
    }

    /// Gives the next number above the beginning of the log: 0, −1, −2 … (D1).
    pub(super) fn next_seq_below(&mut self, id: ConversationId) -> Result<i64, Error> {
        let mut ends = self.ends(id)?;
        ends.first_seq -= 1;
        let said_at = self.changed.get(&id).and_then(|(_, at)| *at);
        self.changed.insert(id, (ends, said_at));
        Ok(ends.first_seq)
    }

    /// Gives the next number of a delivery. Numbers grow but may have holes.
    pub(super) fn next_delivery_n(&mut self) -> Result<i64, Error> {
        let next = match self.memory.next_delivery_n {
            Some(next) => next,
            None => {
                let newest = deliveries::table.select(deliveries::n).order(deliveries::n.desc());
                newest.first::<i64>(self.read()?).optional()?.unwrap_or(0) + 1
            }
        };
        self.memory.next_delivery_n = Some(next + 1);
        Ok(next)
    }

    /// Writes all that waits for the end: what is held back, and the changed ends, once for each conversation and batch.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        self.write_held()?;
        if !self.changed.is_empty() {
            dialect::save_ends(self.db, &self.changed)?;
        }
        Ok(())
    }

    /// Lets go of the connection, so that it can commit.
    pub(super) fn into_uncommitted(self) -> Uncommitted {
        Uncommitted { changed: self.changed, events: self.events, deaths: self.deaths }
    }

    /// Runs `work` between savepoints and takes it back if it returns `false`.
    pub(super) fn in_savepoint(&mut self, work: impl FnOnce(&mut Tx<'_>) -> bool) -> bool {
        let Self { db, memory, held, changed, events, deaths, now_ms, dirty } = self;
        let outcome = dialect::savepoint(db, |db| {
            let mut inner = Tx {
                db,
                memory,
                held: std::mem::take(held),
                changed: std::mem::take(changed),
                events: std::mem::take(events),
                deaths: *deaths,
                now_ms: *now_ms,
                dirty: false,
            };
            let fine = work(&mut inner);
            *changed = inner.changed;
            *events = inner.events;
            *deaths = inner.deaths;
            *dirty = inner.dirty;
            // The error only tells diesel to roll back; the command has kept its own.
            if fine { Ok(()) } else { Err(Error::store_busy()) }
        });
        outcome.is_ok()
    }

    /// Ends the view after a rollback.
    pub(super) fn rolled_back(self) {
        self.memory.clear();
    }

    /// Forgets what earlier transactions have left to be remembered; what this one has changed it knows by itself.
    pub(super) fn forget_all(&mut self) -> Result<(), Error> {
        self.write_held()?;
        self.memory.clear();
        Ok(())
    }

    /// Forgets a conversation that was deleted: nobody writes in it any more.
    pub(super) fn forget_deleted(&mut self, id: ConversationId) {
        self.memory.owners.remove(&id);
        self.memory.named.retain(|_, known| *known != id);
    }

    /// Forgets a conversation whose rows were removed for good.
    pub(super) fn forget_removed(&mut self, id: ConversationId) {
        self.changed.remove(&id);
        self.memory.ends.remove(&id);
        self.memory.topics.remove(&id);
        self.memory.owners.remove(&id);
        self.memory.open.remove(&id);
    }

    /// Forgets a party whose name has changed.
    pub(super) fn forget_party(&mut self, id: PartyId) {
        self.memory.parties.remove(&id);
    }

    /// Forgets a gateway that was removed.
    pub(super) fn forget_gateway(&mut self, id: &GatewayId) {
        self.memory.gateways.remove(id);
    }
}

/// What a transaction changed, between its last statement and its commit.
pub(super) struct Uncommitted {
    changed: Changed,
    events: Vec<Event>,
    deaths: Deaths,
}

impl Uncommitted {
    /// How many messages to agents died in it.
    pub(super) fn deaths(&self) -> Deaths {
        self.deaths
    }

    /// Remembers what was committed and hands out the events.
    pub(super) fn committed(self, memory: &mut Memory) -> Vec<Event> {
        for (id, (ends, _)) in self.changed {
            remember(&mut memory.ends, id, ends);
        }
        self.events
    }
}
