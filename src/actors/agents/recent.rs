//! The newest lines of conversations that agents take part in: what was said before a message is shown with it, and a
//! poll that must ask the database for that waits longer for it than for its lease.
//!
//! They come with what was committed, so that a conversation is known from its first line on, or from the first one that
//! was written while this node is active. Whoever asks for more than is known here reads it.
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::delivery::DeliveryState;
use crate::domain::event::{Event, Topic};
use crate::domain::ids::{ConversationId, MessageId, PartyId};
use crate::domain::message::{Line, MessageKind};
use crate::domain::party::PartyKind;

/// Lines of a conversation that are kept: a poll shows ten before each of its messages, of which there may be some.
const LINES_MAX: usize = 32;
/// Bytes of the lines in one of the two halves, about, and of those of one conversation, but for its newest (LIM-1).
const HALF_BYTES_MAX: usize = 8 << 20;
const WINDOW_BYTES_MAX: usize = HALF_BYTES_MAX / 8;
/// What a line takes beside its text, about.
const LINE_BYTES: usize = 512;

/// What was said before a message.
#[derive(Debug)]
pub struct Before {
    pub topic: Arc<Topic>,
    /// Oldest first.
    pub lines: Vec<Arc<Line>>,
}

/// The newest lines of the conversations that were written in of late.
#[derive(Default)]
pub struct Recent {
    halves: Mutex<Halves>,
}

/// When the young half is full it becomes the old one, whose conversations go unless somebody asks for them.
#[derive(Default)]
struct Halves {
    young: HashMap<ConversationId, Window>,
    old: HashMap<ConversationId, Window>,
    /// Bytes of the young half.
    bytes: usize,
}

/// The last lines of a log, without a gap.
struct Window {
    topic: Arc<Topic>,
    lines: VecDeque<Known>,
}

struct Known {
    line: Arc<Line>,
    /// It was handed out: whatever becomes of it, its recipient has had it.
    was_had: bool,
}

impl Recent {
    /// Returns at most so many lines before the one at `seq`, as `reader` may see them. `None`: that must be read, because
    /// not all of them are known, or it is not known of all of them whether they are something to the reader.
    pub fn before(&self, id: ConversationId, seq: i64, reader: PartyId, limit: usize) -> Option<Before> {
        let mut halves = self.halves();
        let window = halves.young(id)?;
        let first = window.lines.front()?.line.seq;
        let end = usize::try_from(seq - first).ok().filter(|end| *end <= window.lines.len())?;
        // A log begins with 1.
        let count = limit.min(usize::try_from(seq - 1).ok()?);
        let known = window.lines.range(end.checked_sub(count)?..end);
        let lines: Option<Vec<Arc<Line>>> = known.map(|known| known.shown_to(reader)).collect();
        Some(Before { topic: window.topic.clone(), lines: lines? })
    }

    /// Takes in what was committed. Called by the writer's thread, in the order of commitment and before anybody is
    /// answered: a message that is handed out is preceded by what was said before it.
    pub fn publish(&self, events: &[Event]) {
        let mut halves = self.halves();
        for event in events {
            match event {
                Event::Line { topic, line, .. } if topic.gateway_id.is_none() => halves.add(topic, line),
                Event::Delivery { delivery, .. } if delivery.state == DeliveryState::Leased => {
                    halves.note_had(delivery.conversation_id, delivery.message_id);
                }
                Event::ConversationDeleted { topic, .. } => halves.remove(topic.conversation_id),
                // Lines show what their senders are called now.
                Event::AgentChanged { now: Some(agent), .. } => {
                    halves.forget_where(|line| line.sender_id == agent.party_id && line.sender.name != agent.name)
                }
                Event::UserChanged { .. } => halves.forget_where(|line| line.sender_kind == PartyKind::User),
                Event::RelationshipsChanged { .. } => {
                    halves.forget_where(|line| line.sender_kind == PartyKind::Member);
                }
                // What was written meanwhile is not known.
                Event::OutcomeUnknown | Event::SteppedDown => *halves = Halves::default(),
                _ => {}
            }
        }
    }

    /// Forgets all lines: others may have been written by another node.
    pub fn forget(&self) {
        *self.halves() = Halves::default();
    }

    fn halves(&self) -> MutexGuard<'_, Halves> {
        // Plain data; a window is changed as a whole or not at all.
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Halves {
    /// Finds a window, and keeps it for longer.
    fn young(&mut self, id: ConversationId) -> Option<&mut Window> {
        if let Some(window) = self.old.remove(&id) {
            self.make_room();
            self.bytes += window.bytes();
            self.young.insert(id, window);
        }
        self.young.get_mut(&id)
    }

    fn make_room(&mut self) {
        if self.bytes >= HALF_BYTES_MAX {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
    }

    fn add(&mut self, topic: &Arc<Topic>, line: &Arc<Line>) {
        self.make_room();
        let bytes = bytes_of(line);
        if let Some(window) = self.young(topic.conversation_id) {
            let lost = window.push(line.clone());
            self.bytes = (self.bytes + bytes).saturating_sub(lost);
            return;
        }
        self.bytes += bytes;
        let lines = VecDeque::from([Known { line: line.clone(), was_had: false }]);
        self.young.insert(topic.conversation_id, Window { topic: topic.clone(), lines });
    }

    fn note_had(&mut self, id: ConversationId, message: MessageId) {
        let Some(window) = self.young.get_mut(&id).or_else(|| self.old.get_mut(&id)) else { return };
        if let Some(known) = window.lines.iter_mut().rev().find(|known| known.line.id == message) {
            known.was_had = true;
        }
    }

    fn remove(&mut self, id: ConversationId) {
        if let Some(window) = self.young(id) {
            let bytes = window.bytes();
            self.bytes = self.bytes.saturating_sub(bytes);
            self.young.remove(&id);
        }
    }

    fn forget_where(&mut self, is_stale: impl Fn(&Line) -> bool) {
        let stays = |window: &Window| !window.lines.iter().any(|known| is_stale(&known.line));
        self.old.retain(|_, window| stays(window));
        self.young.retain(|_, window| stays(window));
        self.bytes = self.young.values().map(Window::bytes).sum();
    }
}

impl Window {
    /// Adds the next line, and returns the bytes of those that went for it: one behind a gap begins anew.
    fn push(&mut self, line: Arc<Line>) -> usize {
        let (before, mut lost) = (self.bytes(), 0);
        let follows = self.lines.back().is_some_and(|last| last.line.seq + 1 == line.seq);
        let is_full = |lines: usize, lost: usize| {
            !follows || lines >= LINES_MAX || before - lost + bytes_of(&line) > WINDOW_BYTES_MAX
        };
        while is_full(self.lines.len(), lost)
            && let Some(known) = self.lines.pop_front()
        {
            lost += bytes_of(&known.line);
        }
        self.lines.push_back(Known { line, was_had: false });
        lost
    }

    fn bytes(&self) -> usize {
        self.lines.iter().map(|known| bytes_of(&known.line)).sum()
    }
}

impl Known {
    /// Returns the line if it is certainly something to this party: a notice may be somebody else's, and a request that
    /// nobody has had yet may be withdrawn. The store's `mailbox::hidden_from` has the whole rule.
    fn shown_to(&self, reader: PartyId) -> Option<Arc<Line>> {
        let is_certain = match self.line.kind {
            Some(MessageKind::Reply) | None => true,
            Some(MessageKind::Request) => self.was_had || self.line.sender_id == reader,
            Some(MessageKind::Notice) => false,
        };
        is_certain.then(|| self.line.clone())
    }
}

/// A line holds its text twice, in its blocks as well.
fn bytes_of(line: &Line) -> usize {
    LINE_BYTES + 2 * line.text.len()
}

#[cfg(test)]
pub(super) mod tests;
