//! What waits for a channel, in what order it goes out. Pure.
//!
//! Invariants
//! - DLV-4: of one conversation only the oldest message is on its way; what failed for a while goes before what came
//!   after it.
//! - Whoever waits for the turn of an address waits here, and holds up nobody else.
//! - To a person who could not be reached one message at a time is on its way: who is silent does not take all places.
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::domain::delivery::{Delivery, DeliveryState};
use crate::domain::ids::{ConversationId, DeliveryId, PartyId};

/// A message that waits.
#[derive(Debug)]
struct Slot {
    id: DeliveryId,
    recipient: PartyId,
    /// From 0 to 2; of two that may go out the higher one goes first.
    priority: i32,
    /// Order of acceptance over all.
    n: i64,
    /// It may be sent now.
    ready: bool,
    /// Where it goes, once that is known.
    address: Option<String>,
}

/// A message that goes out now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Picked {
    pub(super) id: DeliveryId,
    pub(super) conversation: ConversationId,
    pub(super) recipient: PartyId,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Send(Picked),
    /// All that might go out wait for their turn: the first one so long.
    Wait(Duration),
    Nothing,
}

/// The open deliveries of a channel.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Each conversation's, by their place in it.
    talks: HashMap<ConversationId, BTreeMap<i64, Slot>>,
    /// Conversations of which a message is on its way, and to whom.
    busy: HashMap<ConversationId, PartyId>,
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
        let slot = Slot {
            id: delivery.id,
            recipient: delivery.recipient_id,
            priority: delivery.priority,
            n: delivery.n,
            ready,
            address: None,
        };
        self.talks.entry(place.0).or_default().insert(place.1, slot);
    }

    /// Lets a message be sent now that could not be for a reason of ours.
    pub(super) fn again(&mut self, id: DeliveryId) {
        if let Some(slot) = self.slot(id) {
            slot.ready = true;
        }
    }

    /// Lets a message be sent as soon as it is the turn of its address.
    pub(super) fn wait_for_turn(&mut self, id: DeliveryId, address: String) {
        if let Some(slot) = self.slot(id) {
            (slot.ready, slot.address) = (true, Some(address));
        }
    }

    fn slot(&mut self, id: DeliveryId) -> Option<&mut Slot> {
        let (conversation, seq) = self.places.get(&id)?;
        self.talks.get_mut(conversation)?.get_mut(seq)
    }

    /// Picks the message of the highest priority, and of these the one that has waited longest, of those that may go
    /// out; its conversation is busy until [`done`](Self::done). `turn` says how long a message to an address has to
    /// wait, or to one that is not known yet; `is_down` says who could not be reached.
    pub(super) fn pick(
        &mut self,
        mut turn: impl FnMut(Option<&str>) -> Duration,
        is_down: impl Fn(PartyId) -> bool,
    ) -> Next {
        let heads = self.talks.iter().filter(|(id, _)| !self.busy.contains_key(*id));
        let heads = heads.filter_map(|(id, talk)| Some((*id, talk.first_key_value()?.1)));
        let mut best: Option<((Reverse<i32>, i64), Picked)> = None;
        let mut soonest: Option<Duration> = None;
        let is_busy = |recipient: PartyId| self.busy.values().any(|busy| *busy == recipient);
        let may_go = |slot: &Slot| slot.ready && !(is_down(slot.recipient) && is_busy(slot.recipient));
        for (conversation, slot) in heads.filter(|(_, slot)| may_go(slot)) {
            let wait = turn(slot.address.as_deref());
            let order = (Reverse(slot.priority), slot.n);
            if wait > Duration::ZERO {
                soonest = Some(soonest.map_or(wait, |known| known.min(wait)));
            } else if best.is_none_or(|(known, _)| order < known) {
                best = Some((order, Picked { id: slot.id, conversation, recipient: slot.recipient }));
            }
        }
        let Some((_, picked)) = best else { return soonest.map_or(Next::Nothing, Next::Wait) };
        self.busy.insert(picked.conversation, picked.recipient);
        // What becomes of it is told by its events.
        if let Some(slot) = self.slot(picked.id) {
            slot.ready = false;
        }
        Next::Send(picked)
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
    use crate::domain::ids::{ChannelId, MessageId};

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

    /// What is next where nobody has to wait and everybody can be reached.
    fn next(queue: &mut Queue) -> Next {
        queue.pick(|_| Duration::ZERO, |_| false)
    }

    fn pick(queue: &mut Queue) -> Option<DeliveryId> {
        match next(queue) {
            Next::Send(picked) => Some(picked.id),
            Next::Wait(_) | Next::Nothing => None,
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
        let picked = Picked { id: first.id, conversation: one, recipient: first.recipient_id };
        assert_eq!(next(&mut queue), Next::Send(picked));
        assert_eq!(pick(&mut queue), Some(other.id));
        assert_eq!((next(&mut queue), queue.len()), (Next::Nothing, 3));
        queue.on_delivery(&Delivery { state: DeliveryState::Completed, ..first }, 0);
        assert_eq!(pick(&mut queue), None, "the first one's work is not over");
        queue.done(one);
        assert_eq!((pick(&mut queue), queue.len()), (Some(second.id), 2));
    }

    #[test]
    fn what_failed_for_a_while_holds_back_what_came_after_it() {
        let talk = ConversationId::new();
        let (first, second) = (delivery(talk, 1), delivery(talk, 2));
        let mut queue = Queue::default();
        queue.on_delivery(&first, 0);
        queue.on_delivery(&second, 0);
        assert_eq!(pick(&mut queue), Some(first.id));
        queue.on_delivery(&Delivery { available_at: 500, attempt: 1, ..first.clone() }, 100);
        queue.done(talk);
        assert_eq!(pick(&mut queue), None);
        queue.on_delivery(&Delivery { attempt: 1, ..first.clone() }, 500);
        assert_eq!(pick(&mut queue), Some(first.id));
        queue.done(talk);
        assert_eq!(pick(&mut queue), None, "nothing has happened to it");
        queue.again(first.id);
        assert_eq!(pick(&mut queue), Some(first.id));
        queue.on_delivery(&Delivery { state: DeliveryState::Cancelled, ..first }, 500);
        queue.done(talk);
        assert_eq!(pick(&mut queue), Some(second.id));
    }

    #[test]
    fn the_higher_priority_goes_first() {
        let talk = ConversationId::new();
        let low = delivery(ConversationId::new(), 1);
        let high = Delivery { priority: 2, ..delivery(talk, 2) };
        let higher_but_later_in_its_talk = Delivery { priority: 2, ..delivery(low.conversation_id, 3) };
        let mut queue = Queue::default();
        for delivery in [&low, &high, &higher_but_later_in_its_talk] {
            queue.on_delivery(delivery, 0);
        }
        assert_eq!([pick(&mut queue), pick(&mut queue), pick(&mut queue)], [Some(high.id), Some(low.id), None]);
    }

    #[test]
    fn whoever_waits_for_an_address_holds_up_nobody_else() {
        let (slow, other) = (delivery(ConversationId::new(), 1), delivery(ConversationId::new(), 2));
        let mut queue = Queue::default();
        queue.on_delivery(&slow, 0);
        queue.on_delivery(&other, 0);
        assert_eq!(pick(&mut queue), Some(slow.id));
        queue.wait_for_turn(slow.id, "slow".to_owned());
        queue.done(slow.conversation_id);
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let turn = |address: Option<&str>| if address == Some("slow") { second } else { Duration::ZERO };
        assert!(matches!(queue.pick(turn, |_| false), Next::Send(picked) if picked.id == other.id));
        assert_eq!(queue.pick(turn, |_| false), Next::Wait(second));
        queue.again(other.id);
        queue.done(other.conversation_id);
        // Now the whole channel has to wait.
        let turn = |address: Option<&str>| if address.is_some() { minute } else { second };
        assert_eq!(queue.pick(turn, |_| false), Next::Wait(second), "as long as the first one that may go");
        assert_eq!(pick(&mut queue), Some(slow.id));
    }

    #[test]
    fn who_cannot_be_reached_takes_one_place() {
        let silent = delivery(ConversationId::new(), 1);
        let again = Delivery { recipient_id: silent.recipient_id, ..delivery(ConversationId::new(), 2) };
        let other = delivery(ConversationId::new(), 3);
        let mut queue = Queue::default();
        for delivery in [&silent, &again, &other] {
            queue.on_delivery(delivery, 0);
        }
        let mut picked = || match queue.pick(|_| Duration::ZERO, |recipient| recipient == silent.recipient_id) {
            Next::Send(picked) => Some(picked.id),
            Next::Wait(_) | Next::Nothing => None,
        };
        assert_eq!([picked(), picked(), picked()], [Some(silent.id), Some(other.id), None]);
        assert_eq!(pick(&mut queue), Some(again.id), "once it can be reached");
    }
}
