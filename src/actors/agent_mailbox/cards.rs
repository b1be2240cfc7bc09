//! The mailboxes that are open on this node, and how they hear of what was committed.
//!
//! Events go to them from the writer's thread directly, not through the supervisor: a poll that follows the answer to a
//! send must come into the mailbox behind the news of it.
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

use actix::prelude::*;

use super::Told;
use super::card::{Card, Counts, Place};
use crate::actors::directory::{read, write};
use crate::actors::messages::Observe;
use crate::domain::event::Event;
use crate::domain::ids::{AgentId, PartyId};

/// The cards of all open mailboxes.
#[derive(Default)]
pub struct Cards {
    open: RwLock<Open>,
    /// Polls that wait, over all mailboxes.
    waiting: Arc<AtomicUsize>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Open {
    by_agent: HashMap<AgentId, Arc<Card>>,
    by_party: HashMap<PartyId, Arc<Card>>,
}

impl Cards {
    /// Returns the mailbox of an agent, if it is open.
    pub fn of(&self, id: AgentId) -> Option<Arc<Card>> {
        read(&self.open).by_agent.get(&id).cloned()
    }

    /// Takes a place for a poll that waits.
    pub fn place(&self, card: &Arc<Card>, of_agent_max: usize, max: usize) -> Option<Place> {
        Place::take(card, &self.waiting, of_agent_max, max)
    }

    /// Returns how many mailboxes are open.
    pub fn len(&self) -> usize {
        read(&self.open).by_agent.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many polls wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Returns how many messages were handed out since the process started, each hand-out of a message counted.
    pub fn handed_out_total(&self) -> u64 {
        self.counts.handed_out.load(Ordering::Relaxed)
    }

    /// Returns how many of these were given back because nobody took them.
    pub fn given_back_total(&self) -> u64 {
        self.counts.given_back.load(Ordering::Relaxed)
    }

    pub(super) fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Tells the mailboxes of what was committed. Called by the writer's thread, in the order of commitment and before
    /// anybody is answered.
    pub fn publish(&self, events: &[Event]) {
        if events.iter().any(|event| matches!(event, Event::SteppedDown)) {
            self.stop_all();
            return;
        }
        let open = read(&self.open);
        if open.by_agent.is_empty() {
            return;
        }
        let mut news: HashMap<AgentId, (&Arc<Card>, Vec<Told>)> = HashMap::new();
        for event in events {
            let found = match event {
                Event::Delivery { delivery, line, .. } => open
                    .by_party
                    .get(&delivery.recipient_id)
                    .map(|card| (card, Told::Delivery(delivery.clone(), line.clone()))),
                Event::AgentChanged { agent_id, now } => {
                    open.by_agent.get(agent_id).map(|card| (card, Told::Agent(now.as_ref().map(|agent| agent.state))))
                }
                Event::AgentKeyEnded { agent_id, .. } => open.by_agent.get(agent_id).map(|card| (card, Told::KeyEnded)),
                _ => None,
            };
            if let Some((card, told)) = found {
                news.entry(card.agent_id).or_insert_with(|| (card, Vec::new())).1.push(told);
            }
        }
        for (card, told) in news.into_values() {
            card.tell(told);
        }
    }

    /// Closes all mailboxes: the polls that wait are answered.
    pub fn stop_all(&self) {
        let all = std::mem::take(&mut *write(&self.open));
        all.by_agent.values().for_each(|card| card.stop());
    }

    /// Returns some of the mailboxes, to ask them about themselves.
    pub(in crate::actors) fn observed(&self, limit: usize) -> Vec<Recipient<Observe>> {
        read(&self.open).by_agent.values().take(limit).map(|card| card.observed()).collect()
    }

    pub(super) fn register(&self, card: Arc<Card>) {
        let mut open = write(&self.open);
        open.by_party.insert(card.party_id, card.clone());
        open.by_agent.insert(card.agent_id, card);
    }

    /// Takes a mailbox out, unless another has taken its place.
    pub(super) fn unregister(&self, card: &Arc<Card>) {
        let mut open = write(&self.open);
        if open.by_agent.get(&card.agent_id).is_some_and(|known| Arc::ptr_eq(known, card)) {
            open.by_agent.remove(&card.agent_id);
            open.by_party.remove(&card.party_id);
        }
    }
}
