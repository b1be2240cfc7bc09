//! What waits for a channel, in what order it goes out. Pure.
//!
//! Invariants
//! - DLV-4: of one conversation only the oldest message is on its way; what failed for a while goes before what came
//!   after it.
use std::collections::{BTreeMap, HashMap, HashSet};

use crate::domain::delivery::{Delivery, DeliveryState};
use crate::domain::ids::{ConversationId, DeliveryId};

/// A message that waits.
#[derive(Clone, Copy, Debug)]
struct Slot {
    id: DeliveryId,
    /// Order of acceptance over all.
    n: i64,
    /// It may be sent now.
    ready: bool,
}

/// The open deliveries of a channel.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Each conversation's, by their place in it.
    talks: HashMap<ConversationId, BTreeMap<i64, Slot>>,
    /// Conversations of which a message is on its way.
    busy: HashSet<ConversationId>,
    places: HashMap<DeliveryId, (ConversationId, i64)>,
}

impl Queue {
    /// Takes in a delivery as it is now.
    pub(super) fn on_delivery(&mut self, delivery: &Delivery, now_ms: i64) {
        if !delivery.state.is_open() {
            self.remove(delivery.id);
            return;
        }
        let place = (delivery.conversation_id, delivery.seq);
        let ready = delivery.state == DeliveryState::Pending && !delivery.must_wait(now_ms);
        self.places.insert(delivery.id, place);
        self.talks.entry(place.0).or_default().insert(place.1, Slot { id: delivery.id, n: delivery.n, ready });
    }

    /// Lets a message be sent now that could not be for a reason of ours.
    pub(super) fn again(&mut self, id: DeliveryId) {
        if let Some((conversation, seq)) = self.places.get(&id)
            && let Some(slot) = self.talks.get_mut(conversation).and_then(|talk| talk.get_mut(seq))
        {
            slot.ready = true;
        }
    }

    /// Picks the message that has waited longest of those that may go out; its conversation is busy until
    /// [`done`](Self::done).
    pub(super) fn pick(&mut self) -> Option<(DeliveryId, ConversationId)> {
        let heads = self.talks.iter().filter(|(id, _)| !self.busy.contains(id));
        let heads = heads.filter_map(|(id, talk)| talk.first_key_value().map(|(seq, slot)| (*id, *seq, *slot)));
        let (conversation, seq, slot) = heads.filter(|(.., slot)| slot.ready).min_by_key(|(.., slot)| slot.n)?;
        self.busy.insert(conversation);
        // What becomes of it is told by its events.
        if let Some(slot) = self.talks.get_mut(&conversation).and_then(|talk| talk.get_mut(&seq)) {
            slot.ready = false;
        }
        Some((slot.id, conversation))
    }

    /// A message of this conversation is on its way no more.
    pub(super) fn done(&mut self, conversation: ConversationId) {
        self.busy.remove(&conversation);
    }

    /// How many wait or are on their way.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    fn remove(&mut self, id: DeliveryId) {
        let Some((conversation, seq)) = self.places.remove(&id) else { return };
        if let Some(talk) = self.talks.get_mut(&conversation) {
            talk.remove(&seq);
            if talk.is_empty() {
                self.talks.remove(&conversation);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{ChannelId, MessageId, PartyId};

    fn delivery(conversation_id: ConversationId, n: i64) -> Delivery {
        Delivery {
            id: DeliveryId::new(),
            n,
            message_id: MessageId::new(),
            conversation_id,
            recipient_id: PartyId::new(),
            channel_id: Some(ChannelId::new()),
            seq: n,
            priority: 0,
            state: DeliveryState::Pending,
            outcome: None,
            reason: None,
            attempt: 0,
            attempts_max: 3,
            available_at: 0,
            lease_until: None,
            leased_at: None,
            expires_at: None,
            result_hash: None,
            created_at: 0,
            ended_at: None,
        }
    }

    #[test]
    fn one_message_of_a_conversation_is_on_its_way_at_a_time() {
        let (one, two) = (ConversationId::new(), ConversationId::new());
        let (first, second, other) = (delivery(one, 1), delivery(one, 2), delivery(two, 3));
        let mut queue = Queue::default();
        for delivery in [&second, &other, &first] {
            queue.on_delivery(delivery, 0);
        }
        assert_eq!(queue.pick(), Some((first.id, one)));
        assert_eq!(queue.pick(), Some((other.id, two)));
        assert_eq!((queue.pick(), queue.len()), (None, 3));
        queue.on_delivery(&Delivery { state: DeliveryState::Completed, ..first }, 0);
        assert_eq!(queue.pick(), None, "the first one's work is not over");
        queue.done(one);
        assert_eq!((queue.pick(), queue.len()), (Some((second.id, one)), 2));
    }

    #[test]
    fn what_failed_for_a_while_holds_back_what_came_after_it() {
        let talk = ConversationId::new();
        let (first, second) = (delivery(talk, 1), delivery(talk, 2));
        let mut queue = Queue::default();
        queue.on_delivery(&first, 0);
        queue.on_delivery(&second, 0);
        assert_eq!(queue.pick(), Some((first.id, talk)));
        queue.on_delivery(&Delivery { available_at: 500, attempt: 1, ..first.clone() }, 100);
        queue.done(talk);
        assert_eq!(queue.pick(), None);
        queue.on_delivery(&Delivery { attempt: 1, ..first.clone() }, 500);
        assert_eq!(queue.pick(), Some((first.id, talk)));
        queue.done(talk);
        assert_eq!(queue.pick(), None, "nothing has happened to it");
        queue.again(first.id);
        assert_eq!(queue.pick(), Some((first.id, talk)));
        queue.on_delivery(&Delivery { state: DeliveryState::Cancelled, ..first }, 500);
        queue.done(talk);
        assert_eq!(queue.pick(), Some((second.id, talk)));
    }
}
