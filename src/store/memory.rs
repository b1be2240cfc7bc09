//! What the writer remembers from one transaction to the next, so that the hot paths read nothing twice.
//!
//! Only the writer writes (STO-1), so nothing of it grows stale: whatever changes a row it was read from forgets it. Under
//! another epoch, when the lease is asked for afresh, and after each rollback of something written, it begins afresh.
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use super::deliveries::{Mail, Stored};
use super::mailbox::Pairs;
use crate::domain::agent::AgentFacts;
use crate::domain::conversation::ConversationKind;
use crate::domain::delivery::DeliveryState;
use crate::domain::event::Topic;
use crate::domain::ids::{AgentId, ChannelId, ConversationId, DeliveryId, GatewayId, MessageId, PartyId, UserId};
use crate::domain::message::MessageKind;
use crate::domain::party::{Party, PartyKind};

/// Entries of each kind that may be many; beyond it the kind is emptied and filled anew.
const REMEMBERED_MAX: usize = 100_000;

/// Deliveries of agents that are remembered; they hold their histories.
const MAIL_MAX: usize = 20_000;

/// Open deliveries, by their ids and by message and recipient.
#[derive(Default)]
pub(super) struct MailMemory {
    by_id: HashMap<DeliveryId, Mail>,
    by_message: HashMap<(MessageId, PartyId), DeliveryId>,
}

impl MailMemory {
    pub(super) fn get(&self, id: DeliveryId) -> Option<&Mail> {
        self.by_id.get(&id)
    }

    pub(super) fn of_message(&self, message: MessageId, recipient: PartyId) -> Option<&Mail> {
        self.by_id.get(self.by_message.get(&(message, recipient))?)
    }

    /// Remembers a delivery if it is open.
    pub(super) fn add(&mut self, mail: Mail) {
        if !mail.stored.delivery.state.is_open() {
            return;
        }
        if self.by_id.len() >= MAIL_MAX {
            *self = Self::default();
        }
        let delivery = &mail.stored.delivery;
        self.by_message.insert((delivery.message_id, delivery.recipient_id), delivery.id);
        self.by_id.insert(delivery.id, mail);
    }

    /// Keeps a delivery as it is now; one that has ended is forgotten.
    fn note_move(&mut self, stored: &Stored) {
        let delivery = &stored.delivery;
        if delivery.state.is_open() {
            if let Some(known) = self.by_id.get_mut(&delivery.id) {
                known.stored = stored.clone();
            }
        } else if self.by_id.remove(&delivery.id).is_some() {
            self.by_message.remove(&(delivery.message_id, delivery.recipient_id));
        }
    }
}

/// The ends of a conversation's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) first_seq: i64,
    pub(super) last_seq: i64,
}

/// What the writer knows between transactions.
#[derive(Default)]
pub(super) struct Memory {
    /// The epoch under which it was filled.
    epoch: i64,
    pub(super) ends: HashMap<ConversationId, Ends>,
    /// The number of the next delivery; `None` until it was read.
    pub(super) next_delivery_n: Option<i64>,
    /// What events name a conversation by; it never changes.
    pub(super) topics: HashMap<ConversationId, Arc<Topic>>,
    /// The owners of conversations that have not been deleted.
    pub(super) owners: HashMap<ConversationId, Option<UserId>>,
    pub(super) parties: HashMap<PartyId, Party>,
    /// Who stands for what; it never changes.
    pub(super) references: HashMap<(PartyKind, String), PartyId>,
    /// How many deliveries of a conversation are open.
    pub(super) open: HashMap<ConversationId, usize>,
    /// How many deliveries of a recipient are open.
    pub(super) open_of: HashMap<PartyId, usize>,
    /// How many deliveries that a channel is to bring are open.
    pub(super) open_by: HashMap<ChannelId, usize>,
    /// Open deliveries of agents.
    pub(super) mail: MailMemory,
    /// What agents have written to each other of late.
    pub(super) pairs: Pairs,
    /// Agents that were not removed.
    pub(super) agents: HashMap<AgentId, Arc<AgentFacts>>,
    /// Conversations without a gateway that have not been deleted, by kind and key.
    pub(super) named: HashMap<(ConversationKind, String), ConversationId>,
    /// Gateways that are registered.
    pub(super) gateways: HashSet<GatewayId>,
    /// How many agents are registered; `None` until they were counted.
    pub(super) registered_agents: Option<i64>,
}

impl Memory {
    /// Forgets everything when the epoch is another one: in between another node may have written.
    pub(super) fn enter(&mut self, epoch: i64) {
        if epoch != self.epoch {
            *self = Self { epoch, ..Self::default() };
        }
    }

    /// Forgets everything: some of it may have been read from what was rolled back.
    pub(super) fn clear(&mut self) {
        *self = Self { epoch: self.epoch, ..Self::default() };
    }

    /// Keeps what is known of a delivery as it is now, after it was in the state `from`.
    pub(super) fn note_move(&mut self, stored: &Stored, from: DeliveryState) {
        let delivery = &stored.delivery;
        let is_held = delivery.state == DeliveryState::Leased;
        if is_held != (from == DeliveryState::Leased) {
            match self.mail.get(delivery.id) {
                Some(mail) if mail.kind == Some(MessageKind::Request) => {
                    self.pairs.note_held(delivery.recipient_id, mail.sender_id, mail.hops, is_held);
                }
                Some(_) => {}
                // Who asked is not known here: what its recipient holds is read again.
                None => self.pairs.forget(delivery.recipient_id),
            }
        }
        self.mail.note_move(stored);
    }

    /// Remembers a party under its id and under what it stands for.
    pub(super) fn remember_party(&mut self, party: &Party) {
        remember(&mut self.references, (party.kind, party.reference.clone()), party.id);
        remember(&mut self.parties, party.id, party.clone());
    }
}

/// Remembers one more, in place of all others where there would be too many.
pub(super) fn remember<K: Eq + Hash, V>(known: &mut HashMap<K, V>, key: K, value: V) {
    if known.len() >= REMEMBERED_MAX {
        known.clear();
    }
    known.insert(key, value);
}
