//! The mailbox's picture: the open deliveries of one agent, which of them may be handed out now, and in which order.
//!
//! Pure. It hears of deliveries in the order of their commitment, and it only picks: the writer judges each pick by the
//! row, so that a stale picture costs a refusal and never a second hand-out. Older word that comes late, or the same
//! again, changes nothing.
//!
//! Invariants
//! - DLV-1: what is leased, or on its way to a client, is not picked.
//! - DLV-2: what waits is ready, or waits for its time, for the first hand-outs before it, or for its own end, all of
//!   which are told.
//! - DLV-4: first hand-outs of a conversation go out in the order of its lines. One that is delayed holds back those
//!   behind it, and so does one that is on its way until the writer has leased it; only within one pick they may follow
//!   each other, as the writer takes them in that order. What was handed out before comes again as soon as it may.
//! - LIM-1: the texts are bounded; those accepted first are kept, the others are read when they are handed out.
mod talk;

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use self::talk::Talk;
use crate::domain::delivery::{Delivery, DeliveryState};
use crate::domain::ids::{ConversationId, DeliveryId, MessageId};
use crate::domain::message::Line;

/// Wait before the writer is asked again for what it has refused. What it knew better about is told long before.
const REFUSED_WAIT_MS: i64 = 1_000;

/// How much one poll may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) rows: usize,
    /// Bytes of text; one message may have more.
    pub(super) bytes: usize,
}

/// A message that a poll takes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub(super) delivery: DeliveryId,
    pub(super) message: MessageId,
    pub(super) conversation: ConversationId,
    pub(super) seq: i64,
    /// `None`: its text is not in memory.
    pub(super) line: Option<Arc<Line>>,
}

/// What a poll takes, in the order in which it is to be handed out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Picked {
    pub(super) items: Vec<Item>,
    /// Messages whose lines must be read first.
    pub(super) missing: Vec<MessageId>,
}

impl Picked {
    /// Returns what has no line, neither in memory nor among those that were read: it cannot be handed out.
    pub(super) fn without_line(&self, lines: &HashMap<MessageId, Arc<Line>>) -> Vec<DeliveryId> {
        let has_none = |item: &&Item| item.line.is_none() && !lines.contains_key(&item.message);
        self.items.iter().filter(has_none).map(|item| item.delivery).collect()
    }

    /// Adds the lines that were read. What is beyond `bytes` with them, and what has no line any more, leaves the pick and
    /// is returned: it must be taken back.
    pub(super) fn fill(&mut self, lines: &HashMap<MessageId, Arc<Line>>, bytes: usize) -> Vec<DeliveryId> {
        let mut left = Vec::new();
        let (mut taken_bytes, mut is_full) = (0, false);
        self.missing.clear();
        for mut item in std::mem::take(&mut self.items) {
            if item.line.is_none() {
                item.line = lines.get(&item.message).cloned();
            }
            let size = text_bytes(item.line.as_ref());
            is_full |= !self.items.is_empty() && taken_bytes + size > bytes;
            if is_full || item.line.is_none() {
                left.push(item.delivery);
            } else {
                taken_bytes += size;
                self.items.push(item);
            }
        }
        left
    }
}

/// Where a delivery is, as far as the mailbox has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Waits,
    /// Picked; what the writer says about it has not come yet.
    HandingOut,
    Leased,
}

/// Highest priority first, then the order of acceptance.
type Rank = (Reverse<i32>, i64, DeliveryId);

/// One open delivery.
#[derive(Debug)]
struct Slot {
    delivery: DeliveryId,
    message: MessageId,
    conversation: ConversationId,
    n: i64,
    seq: i64,
    priority: i32,
    place: Place,
    available_at: i64,
    expires_at: Option<i64>,
    attempt: i32,
    /// Its text, while it may be needed and there is room.
    line: Option<Arc<Line>>,
}

impl Slot {
    fn rank(&self) -> Rank {
        (Reverse(self.priority), self.n, self.delivery)
    }

    /// It was never handed out.
    fn is_first(&self) -> bool {
        self.attempt == 0
    }

    /// The writer would refuse it: its end is due.
    fn ttl_over(&self, now_ms: i64) -> bool {
        self.expires_at.is_some_and(|expires| expires <= now_ms)
    }

    /// Tells whether this slot has heard of that state already, or of a later one.
    fn has_heard(&self, delivery: &Delivery) -> bool {
        match delivery.attempt.cmp(&self.attempt) {
            Ordering::Less => true,
            Ordering::Greater => false,
            // Of one attempt the lease comes first, then the wait for the next.
            Ordering::Equal => match delivery.state {
                DeliveryState::Pending => self.place != Place::Leased,
                DeliveryState::Leased => true,
                _ => false,
            },
        }
    }
}

/// The picture.
#[derive(Debug)]
pub(super) struct State {
    slots: HashMap<DeliveryId, Slot>,
    /// What may be handed out: of each conversation its next first hand-out, and what was given back.
    ready: BTreeSet<Rank>,
    /// What waits for its time.
    later: BTreeSet<(i64, DeliveryId)>,
    talks: HashMap<ConversationId, Talk>,
    /// How many only wait to be polled.
    free: usize,
    handing_out: usize,
    /// Whose texts are in memory, by the order of acceptance.
    texts: BTreeSet<(i64, DeliveryId)>,
    text_bytes: usize,
    text_bytes_max: usize,
}

impl State {
    pub(super) fn new(text_bytes_max: usize) -> Self {
        Self {
            slots: HashMap::new(),
            ready: BTreeSet::new(),
            later: BTreeSet::new(),
            talks: HashMap::new(),
            free: 0,
            handing_out: 0,
            texts: BTreeSet::new(),
            text_bytes: 0,
            text_bytes_max,
        }
    }

    /// Takes what a delivery is now: a row that was read, or an event. Tells whether something became ready.
    pub(super) fn on_delivery(&mut self, delivery: &Delivery, line: Option<Arc<Line>>, now_ms: i64) -> bool {
        let became_ready = self.on_time(now_ms);
        if self.slots.get(&delivery.id).is_some_and(|slot| slot.has_heard(delivery)) {
            if let Some(line) = line {
                self.keep_text(delivery.id, line);
            }
            return became_ready;
        }
        let line = self.take(delivery.id).and_then(|slot| slot.line).or(line);
        let place = match delivery.state {
            DeliveryState::Pending => Place::Waits,
            DeliveryState::Leased => Place::Leased,
            _ => return self.settle(delivery.conversation_id, now_ms) | became_ready,
        };
        let slot = Slot {
            delivery: delivery.id,
            message: delivery.message_id,
            conversation: delivery.conversation_id,
            n: delivery.n,
            seq: delivery.seq,
            priority: delivery.priority,
            place,
            // What never had to wait does not by a clock that was set back.
            available_at: if delivery.available_at > delivery.created_at { delivery.available_at } else { i64::MIN },
            expires_at: delivery.expires_at,
            attempt: delivery.attempt,
            line: None,
        };
        self.enter(slot, line, now_ms) | became_ready
    }

    /// Lets in what has become available by `now_ms`. Tells whether something became ready.
    pub(super) fn on_time(&mut self, now_ms: i64) -> bool {
        let mut became_ready = false;
        let mut talks = BTreeSet::new();
        while let Some((at, id)) = self.later.first().copied()
            && at <= now_ms
        {
            self.later.pop_first();
            let Some(slot) = self.slots.get(&id) else { continue };
            if !slot.is_first() {
                became_ready |= self.list(id, now_ms);
            } else if let Some(talk) = self.talks.get_mut(&slot.conversation) {
                talk.delayed.remove(&(slot.seq, id));
                talks.insert(slot.conversation);
            }
        }
        for conversation in talks {
            became_ready |= self.settle(conversation, now_ms);
        }
        became_ready
    }

    /// Picks what one poll takes; until the writer's word comes it is on its way. There is always one message if any is
    /// ready, whatever its size; a text that is not in memory counts nothing here (see [`Picked::fill`]).
    pub(super) fn pick(&mut self, want: Want, now_ms: i64) -> Picked {
        self.on_time(now_ms);
        let mut items: Vec<Item> = Vec::new();
        let mut bytes = 0;
        let mut firsts = Vec::new();
        while items.len() < want.rows
            && let Some(rank) = self.ready.first().copied()
            && let Some(slot) = self.slots.get_mut(&rank.2)
        {
            let is_over = slot.ttl_over(now_ms);
            let size = text_bytes(slot.line.as_ref());
            if !is_over && !items.is_empty() && bytes + size > want.bytes {
                break;
            }
            self.ready.pop_first();
            let (conversation, place, is_first) = (slot.conversation, (slot.seq, slot.delivery), slot.is_first());
            if !is_over {
                bytes += size;
                slot.place = Place::HandingOut;
                self.handing_out += 1;
                items.push(Item {
                    delivery: slot.delivery,
                    message: slot.message,
                    conversation,
                    seq: slot.seq,
                    line: slot.line.clone(),
                });
            }
            if !is_first {
                self.free -= 1;
            } else if let Some(talk) = self.talks.get_mut(&conversation) {
                talk.head = None;
                if !is_over {
                    talk.remove(place);
                    firsts.push((conversation, place.1));
                    self.lift(conversation, now_ms);
                }
            }
        }
        // From now on they hold back what is behind them.
        for (conversation, id) in &firsts {
            if let Some(talk) = self.talks.get_mut(conversation) {
                talk.on_way.insert(*id);
            }
        }
        for (conversation, _) in firsts {
            self.settle(conversation, now_ms);
        }
        let missing = items.iter().filter(|item| item.line.is_none()).map(|item| item.message).collect();
        Picked { items: in_order(items), missing }
    }

    /// Takes back what was picked and will not be handed out by that pick. What has been heard of meanwhile stays as it
    /// is. Tells whether something became ready.
    pub(super) fn taken_back(&mut self, ids: &[DeliveryId], now_ms: i64) -> bool {
        self.put_back(ids, i64::MIN, now_ms)
    }

    /// Takes back what the writer has not leased. It knew better, and what it knew has mostly been heard by now; what has
    /// not is proposed again after a while, so that nobody asks in circles. Tells whether something else became ready.
    pub(super) fn refused(&mut self, ids: &[DeliveryId], now_ms: i64) -> bool {
        self.put_back(ids, now_ms.saturating_add(REFUSED_WAIT_MS), now_ms)
    }

    /// Forgets what was picked and has no text that could be handed out. It holds back nothing any more; what becomes of it
    /// is told. Tells whether something else became ready.
    pub(super) fn forget(&mut self, ids: &[DeliveryId], now_ms: i64) -> bool {
        let mut became_ready = self.on_time(now_ms);
        for id in ids {
            if self.slots.get(id).is_none_or(|slot| slot.place != Place::HandingOut) {
                continue;
            }
            if let Some(slot) = self.take(*id) {
                became_ready |= self.settle(slot.conversation, now_ms);
            }
        }
        became_ready
    }

    /// Returns how many more could be polled now.
    pub(super) fn remaining(&mut self, now_ms: i64) -> usize {
        self.on_time(now_ms);
        self.free
    }

    /// Tells whether a pick may find something. It may still find nothing, if all that is left has outlived its ttl.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Returns how many are on their way.
    pub(super) fn handing_out(&self) -> usize {
        self.handing_out
    }

    /// Returns when the next one is available. Nobody else tells.
    pub(super) fn next_at(&self) -> Option<i64> {
        self.later.first().map(|(at, _)| *at)
    }

    fn put_back(&mut self, ids: &[DeliveryId], not_before: i64, now_ms: i64) -> bool {
        let mut became_ready = self.on_time(now_ms);
        for id in ids {
            if self.slots.get(id).is_none_or(|slot| slot.place != Place::HandingOut) {
                continue;
            }
            if let Some(mut slot) = self.take(*id) {
                let line = slot.line.take();
                slot.place = Place::Waits;
                slot.available_at = slot.available_at.max(not_before);
                became_ready |= self.enter(slot, line, now_ms);
            }
        }
        became_ready
    }

    /// Adds a slot that waits or is leased.
    fn enter(&mut self, slot: Slot, line: Option<Arc<Line>>, now_ms: i64) -> bool {
        let (id, conversation, place) = (slot.delivery, slot.conversation, slot.place);
        self.slots.insert(id, slot);
        let mut became_ready = false;
        if place == Place::Waits {
            became_ready = self.list(id, now_ms);
            if let Some(line) = line {
                self.keep_text(id, line);
            }
        }
        self.settle(conversation, now_ms) | became_ready
    }

    /// Takes a slot out, with its text. Its conversation must be settled afterwards.
    fn take(&mut self, id: DeliveryId) -> Option<Slot> {
        let slot = self.slots.remove(&id)?;
        match (slot.place, slot.is_first()) {
            (Place::Leased, _) => {}
            (Place::HandingOut, is_first) => {
                self.handing_out -= 1;
                if is_first && let Some(talk) = self.talks.get_mut(&slot.conversation) {
                    talk.on_way.remove(&id);
                }
            }
            (Place::Waits, true) => {
                self.later.remove(&(slot.available_at, id));
                if let Some(talk) = self.talks.get_mut(&slot.conversation) {
                    talk.remove((slot.seq, id));
                }
            }
            (Place::Waits, false) => {
                self.later.remove(&(slot.available_at, id));
                self.free -= usize::from(self.ready.remove(&slot.rank()));
            }
        }
        if self.texts.remove(&(slot.n, id)) {
            self.text_bytes -= text_bytes(slot.line.as_ref());
        }
        Some(slot)
    }

    /// Puts a slot that waits where it belongs. Tells whether that made it ready; a first hand-out becomes ready when its
    /// conversation is settled.
    fn list(&mut self, id: DeliveryId, now_ms: i64) -> bool {
        let Some(slot) = self.slots.get(&id) else { return false };
        let is_delayed = slot.available_at > now_ms;
        if is_delayed {
            self.later.insert((slot.available_at, id));
        }
        if slot.is_first() {
            self.talks.entry(slot.conversation).or_default().insert((slot.seq, id), is_delayed);
            return false;
        }
        let became_ready = !is_delayed && !slot.ttl_over(now_ms) && self.ready.insert(slot.rank());
        self.free += usize::from(became_ready);
        became_ready
    }

    /// Makes good what a change left open: which first hand-out of the conversation is ready, and how many are free.
    fn settle(&mut self, conversation: ConversationId, now_ms: i64) -> bool {
        let became_ready = self.lift(conversation, now_ms);
        if let Some(talk) = self.talks.get_mut(&conversation) {
            talk.recount();
            self.free = self.free - talk.counted + talk.free;
            talk.counted = talk.free;
            if talk.waiting.is_empty() && talk.on_way.is_empty() {
                self.talks.remove(&conversation);
            }
        }
        became_ready
    }

    /// Puts the next first hand-out of a conversation into `ready`, and no other.
    fn lift(&mut self, conversation: ConversationId, now_ms: i64) -> bool {
        let Some(talk) = self.talks.get_mut(&conversation) else { return false };
        let next =
            talk.next_free().and_then(|id| self.slots.get(&id)).filter(|slot| !slot.ttl_over(now_ms)).map(Slot::rank);
        if next == talk.head {
            return false;
        }
        if let Some(before) = talk.head {
            self.ready.remove(&before);
        }
        talk.head = next;
        next.is_some_and(|rank| self.ready.insert(rank))
    }

    /// Keeps a text that may be needed. Beyond the bound those go that will be needed last.
    fn keep_text(&mut self, id: DeliveryId, line: Arc<Line>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.place == Place::Leased || slot.line.is_some() {
            return;
        }
        self.text_bytes += line.text.len();
        self.texts.insert((slot.n, id));
        slot.line = Some(line);
        while self.text_bytes > self.text_bytes_max
            && let Some((_, last)) = self.texts.pop_last()
        {
            if let Some(slot) = self.slots.get_mut(&last) {
                self.text_bytes -= text_bytes(slot.line.take().as_ref());
            }
        }
    }
}

fn text_bytes(line: Option<&Arc<Line>>) -> usize {
    line.map_or(0, |line| line.text.len())
}

/// Puts messages of one conversation into the order of its lines; the places that the conversation has stay its own.
fn in_order(items: Vec<Item>) -> Vec<Item> {
    let places: Vec<ConversationId> = items.iter().map(|item| item.conversation).collect();
    let mut talks: HashMap<ConversationId, BTreeMap<(i64, DeliveryId), Item>> = HashMap::new();
    for item in items {
        talks.entry(item.conversation).or_default().insert((item.seq, item.delivery), item);
    }
    places.iter().filter_map(|conversation| talks.get_mut(conversation)?.pop_first()).map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests;
