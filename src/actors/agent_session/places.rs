//! The messages that are out on one socket: handed out by it, and not ended yet. Pure.
//!
//! What becomes of them is told by events, whoever made it so: a report by the socket or by another call, the end of the
//! lease, an operator. An event that went by is made up for by the store, or at the end of the lease.
use std::collections::HashMap;

use crate::domain::delivery::{Delivery, DeliveryState};
use crate::domain::ids::{ConversationId, MessageId};

/// A message that is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    pub message_id: MessageId,
    pub conversation_id: ConversationId,
    /// The number of its hand-out.
    pub attempt: i32,
    /// End of its lease, epoch milliseconds.
    pub lease_until: i64,
}

#[derive(Debug, Default)]
pub(super) struct Places {
    out: HashMap<MessageId, Out>,
}

impl Places {
    /// Adds a message.
    pub(super) fn take(&mut self, out: Out) {
        self.out.insert(out.message_id, out);
    }

    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    pub(super) fn ids(&self) -> Vec<MessageId> {
        self.out.keys().copied().collect()
    }

    /// Hears what a delivery of this agent is now. Tells whether that freed a place.
    pub(super) fn hear(&mut self, delivery: &Delivery) -> Option<Out> {
        let out = self.out.get_mut(&delivery.message_id)?;
        if delivery.attempt < out.attempt {
            return None;
        }
        if delivery.attempt == out.attempt && delivery.state == DeliveryState::Leased {
            out.lease_until = delivery.lease_until.unwrap_or(out.lease_until);
            return None;
        }
        self.out.remove(&delivery.message_id)
    }

    /// Takes in what the store says a delivery is now. It says so whatever was heard before: what an operator starts
    /// afresh has no hand-outs behind it. `before`: the message as it was out when the store was asked.
    pub(super) fn learn(&mut self, delivery: &Delivery, before: &[Out]) -> Option<Out> {
        let is_as_before = self.out.get(&delivery.message_id).is_some_and(|out| before.contains(out));
        if is_as_before && delivery.state != DeliveryState::Leased {
            return self.out.remove(&delivery.message_id);
        }
        self.hear(delivery)
    }

    /// Returns those of these messages that are out.
    pub(super) fn of(&self, ids: &[MessageId]) -> Vec<Out> {
        ids.iter().filter_map(|id| self.out.get(id).copied()).collect()
    }

    /// Takes out a message of which nothing is known any more.
    pub(super) fn free(&mut self, id: MessageId) -> Option<Out> {
        self.out.remove(&id)
    }

    /// Returns those whose lease must be over, as far as is known.
    pub(super) fn over(&self, now_ms: i64) -> Vec<MessageId> {
        self.out.values().filter(|out| out.lease_until <= now_ms).map(|out| out.message_id).collect()
    }

    /// Tells whether a message of this conversation is out.
    pub(super) fn has(&self, id: ConversationId) -> bool {
        self.out.values().any(|out| out.conversation_id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{DeliveryId, PartyId};

    fn out(attempt: i32) -> Out {
        Out { message_id: MessageId::new(), conversation_id: ConversationId::new(), attempt, lease_until: 100 }
    }

    fn delivery(of: &Out, state: DeliveryState, attempt: i32) -> Delivery {
        Delivery {
            id: DeliveryId::new(),
            n: 1,
            message_id: of.message_id,
            conversation_id: of.conversation_id,
            recipient_id: PartyId::new(),
            channel_id: None,
            seq: 1,
            priority: 0,
            state,
            outcome: None,
            reason: None,
            attempt,
            attempts_max: 5,
            available_at: 0,
            lease_until: (state == DeliveryState::Leased).then_some(200),
            leased_at: None,
            expires_at: None,
            result_hash: None,
            created_at: 0,
            ended_at: None,
        }
    }

    #[test]
    fn what_has_ended_or_waits_again_frees_its_place() {
        for (state, attempt) in [
            (DeliveryState::Completed, 2),
            (DeliveryState::Dead, 2),
            (DeliveryState::Cancelled, 2),
            (DeliveryState::Expired, 2),
            (DeliveryState::Pending, 2),
            (DeliveryState::Leased, 3),
        ] {
            let mut places = Places::default();
            let one = out(2);
            places.take(one);
            assert_eq!(places.hear(&delivery(&one, state, attempt)), Some(one), "{state:?} {attempt}");
            assert_eq!((places.len(), places.has(one.conversation_id)), (0, false));
        }
    }

    #[test]
    fn what_was_started_afresh_frees_its_place_when_the_store_says_so() {
        let mut places = Places::default();
        let one = out(2);
        places.take(one);
        let afresh = delivery(&one, DeliveryState::Pending, 0);
        assert_eq!(places.hear(&afresh), None, "it may be older word");
        let before = places.of(&[one.message_id, MessageId::new()]);
        assert_eq!(before, [one]);
        assert_eq!(places.learn(&delivery(&one, DeliveryState::Leased, 2), &before), None);
        assert_eq!(places.learn(&afresh, &before), None, "something was heard since the store was asked");
        let before = places.of(&[one.message_id]);
        assert_eq!(places.learn(&afresh, &before).map(|out| out.message_id), Some(one.message_id));
        assert_eq!((places.len(), places.learn(&afresh, &before)), (0, None));
    }

    #[test]
    fn older_word_frees_nothing_and_a_longer_lease_is_noted() {
        let mut places = Places::default();
        let one = out(2);
        places.take(one);
        assert_eq!(places.hear(&delivery(&one, DeliveryState::Pending, 1)), None);
        assert_eq!(places.hear(&delivery(&out(2), DeliveryState::Completed, 2)), None, "another message");
        assert_eq!(places.over(100), [one.message_id]);
        assert_eq!(places.hear(&delivery(&one, DeliveryState::Leased, 2)), None);
        assert_eq!((places.over(100), places.over(200)), (vec![], vec![one.message_id]));
        assert!(places.has(one.conversation_id));
        assert!(places.free(one.message_id).is_some());
        assert_eq!(places.len(), 0);
    }
}
