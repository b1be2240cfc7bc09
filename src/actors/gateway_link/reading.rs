//! Sessions that a link does not know yet: read from the store when somebody asks in them or looks at them.
//!
//! Invariants
//! - DLV-4: while a session or a question is being read, what comes for that session waits behind it.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::GatewayLink;
use super::effects::question_of;
use crate::actors::messages::Reply;
use crate::domain::conversation::Conversation;
use crate::domain::delivery::Delivery;
use crate::domain::error::Error;
use crate::domain::ids::{ConversationId, MessageId};
use crate::domain::message::Line;
use crate::store::{Db, Place, conversations, messages};

/// Wait before a read that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is wanted of a session that is being read.
pub(super) enum Wanted {
    Question {
        delivery: Arc<Delivery>,
        /// Its line, where it is at hand.
        line: Option<Arc<Line>>,
    },
    Touch(Reply<()>),
    /// The session itself: it is tracked since now. Nobody waits for it, and a gateway's list may name hundreds.
    Join(Place),
}

/// What waits for sessions that are being read, in the order in which it came. Bounded by the questions that may wait in
/// a session and by the sockets.
pub(super) struct Reading<T> {
    by_session: HashMap<ConversationId, Waiting<T>>,
}

/// What waits behind the reading of one session.
struct Waiting<T> {
    wanted: Vec<T>,
    /// The session was deleted after it was read for.
    is_stale: bool,
}

impl<T> Default for Reading<T> {
    fn default() -> Self {
        Self { by_session: HashMap::new() }
    }
}

impl<T> Reading<T> {
    /// Lets something wait. When nobody reads the session, it is given back: the caller is to read the session for it.
    fn wait(&mut self, id: ConversationId, wanted: T) -> Option<T> {
        if let Some(waiting) = self.by_session.get_mut(&id) {
            waiting.wanted.push(wanted);
            return None;
        }
        self.by_session.insert(id, Waiting { wanted: Vec::new(), is_stale: false });
        Some(wanted)
    }

    /// The session has been read. What came meanwhile is to be read for next; when nothing did, the reading is over.
    fn next(&mut self, id: ConversationId) -> Vec<T> {
        let more = self.by_session.get_mut(&id).map(|waiting| std::mem::take(&mut waiting.wanted)).unwrap_or_default();
        if more.is_empty() {
            self.by_session.remove(&id);
        }
        more
    }

    /// The session was deleted: what is being read of it counts no more. Returns what waited.
    pub(super) fn forget(&mut self, id: ConversationId) -> Vec<T> {
        let Some(waiting) = self.by_session.get_mut(&id) else { return Vec::new() };
        waiting.is_stale = true;
        std::mem::take(&mut waiting.wanted)
    }

    /// Tells whether what has been read counts no more; what is read next does.
    fn was_stale(&mut self, id: ConversationId) -> bool {
        self.by_session.get_mut(&id).is_some_and(|waiting| std::mem::take(&mut waiting.is_stale))
    }

    fn is_reading(&self, id: ConversationId) -> bool {
        self.by_session.contains_key(&id)
    }
}

impl GatewayLink {
    /// A question is to be handed out.
    pub(super) fn question(&mut self, delivery: Arc<Delivery>, line: Option<Arc<Line>>, ctx: &mut Context<Self>) {
        let id = delivery.conversation_id;
        if self.sessions.get(&id).is_some_and(|session| session.knows(delivery.id)) {
            return;
        }
        let is_at_hand = self.sessions.contains_key(&id) && !self.reading.is_reading(id);
        match &line {
            Some(line) if is_at_hand => {
                let question = question_of(&delivery, line);
                self.with_session(id, ctx, |session, now_ms| session.on_question(question, now_ms));
            }
            _ => self.want(id, Wanted::Question { delivery, line }, ctx),
        }
    }

    /// Someone looks at a session; answers when its log is known, or at once if it cannot be.
    pub(super) fn touch(&mut self, id: ConversationId, reply: Reply<()>, ctx: &mut Context<Self>) {
        let Some(session) = self.sessions.get(&id) else {
            self.want(id, Wanted::Touch(reply), ctx);
            return;
        };
        if session.conversation.upstream.contacted || !self.is_up() {
            // Whoever asked may have gone.
            let _ = reply.send(Ok(()));
        } else {
            self.touches.entry(id).or_default().push(reply);
        }
        self.with_session(id, ctx, |session, now_ms| session.on_touched(now_ms));
    }

    pub(super) fn want(&mut self, id: ConversationId, wanted: Wanted, ctx: &mut Context<Self>) {
        if let Some(wanted) = self.reading.wait(id, wanted) {
            self.read(id, vec![wanted], ctx);
        }
    }

    fn read(&mut self, id: ConversationId, wanted: Vec<Wanted>, ctx: &mut Context<Self>) {
        let unread: Vec<MessageId> = wanted
            .iter()
            .filter_map(|wanted| match wanted {
                Wanted::Question { delivery, line: None } => Some(delivery.message_id),
                Wanted::Question { .. } | Wanted::Touch(_) | Wanted::Join(_) => None,
            })
            .collect();
        let store = self.parts.store.clone();
        async move {
            let query = move |db: &mut Db| {
                let lines: Result<Vec<_>, Error> =
                    unread.into_iter().map(|message| messages::get(db, message)).collect();
                Ok::<_, Error>((conversations::get(db, id)?, lines?))
            };
            store.read(query).await
        }
        .into_actor(self)
        .map(move |read, this, ctx| {
            match read {
                // It was deleted meanwhile, and what was read is from before.
                _ if this.reading.was_stale(id) => drop(refuse_touches(wanted, &Error::not_found("session", id))),
                Ok((found, lines)) => this.on_read(id, found, &lines, wanted, ctx),
                Err(error) => {
                    log::warn!("a session could not be read and is tried again: {}", error.cause());
                    let left = refuse_touches(wanted, &error);
                    ctx.run_later(RETRY, move |this, ctx| this.read_again(id, left, ctx));
                    return;
                }
            }
            this.read_again(id, Vec::new(), ctx);
        })
        .spawn(ctx);
    }

    /// Reads a session again for what is left, or for what came meanwhile if nobody else looks any more.
    fn read_again(&mut self, id: ConversationId, left: Vec<Wanted>, ctx: &mut Context<Self>) {
        let wanted = if left.is_empty() { self.reading.next(id) } else { left };
        if !wanted.is_empty() {
            self.read(id, wanted, ctx);
        }
    }

    fn on_read(
        &mut self,
        id: ConversationId,
        found: Option<Conversation>,
        lines: &[Option<Arc<Line>>],
        wanted: Vec<Wanted>,
        ctx: &mut Context<Self>,
    ) {
        // A question is for the gateway of its conversation and for no other.
        let Some(found) = found.filter(|found| found.gateway_id.as_ref() == Some(&self.parts.gateway.id)) else {
            refuse_touches(wanted, &Error::not_found("session", id));
            return;
        };
        self.join(found, ctx);
        for wanted in wanted {
            match wanted {
                Wanted::Question { delivery, line } => {
                    let is_its_own = |line: &&Arc<Line>| line.id == delivery.message_id;
                    let Some(line) = line.or_else(|| lines.iter().flatten().find(is_its_own).cloned()) else {
                        continue;
                    };
                    let question = question_of(&delivery, &line);
                    self.with_session(id, ctx, |session, now_ms| session.on_question(question, now_ms));
                }
                Wanted::Touch(reply) => self.touch(id, reply, ctx),
                Wanted::Join(place) => drop(place),
            }
        }
    }

    /// Adds a session while the link runs.
    fn join(&mut self, conversation: Conversation, ctx: &mut Context<Self>) {
        let id = conversation.id;
        if self.sessions.contains_key(&id) {
            return;
        }
        self.add_session(conversation);
        if self.is_up() {
            let protocol = self.status.protocol.unwrap_or(4);
            self.with_session(id, ctx, |session, now_ms| session.on_link_up(protocol, now_ms));
        }
    }
}

/// Answers those who look with an error, and returns what else was wanted.
pub(super) fn refuse_touches(wanted: Vec<Wanted>, error: &Error) -> Vec<Wanted> {
    let mut left = Vec::new();
    for wanted in wanted {
        match wanted {
            // Whoever asked may have gone.
            Wanted::Touch(reply) => drop(reply.send(Err(Error::new(error.code(), error.message().to_owned())))),
            Wanted::Question { .. } | Wanted::Join(_) => left.push(wanted),
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_while_a_session_is_read_waits_in_order() {
        let (mut reading, session, other) = (Reading::default(), ConversationId::new(), ConversationId::new());
        assert_eq!(reading.wait(session, 0), Some(0), "nobody reads it");
        assert_eq!((reading.wait(session, 1), reading.wait(session, 2)), (None, None));
        assert_eq!(reading.wait(other, 9), Some(9), "sessions do not wait for each other");
        assert_eq!(reading.next(session), [1, 2]);
        assert_eq!(reading.wait(session, 3), None, "it is being read for these");
        assert_eq!(reading.next(session), [3]);
        assert!(reading.next(session).is_empty() && !reading.is_reading(session));
        assert_eq!(reading.wait(session, 4), Some(4));
        assert_eq!(reading.wait(session, 5), None);
        assert_eq!(reading.forget(session), [5], "it was deleted");
        assert_eq!(reading.wait(session, 6), None, "what is being read does not count for it");
        assert!(reading.was_stale(session) && !reading.was_stale(session));
        assert_eq!(reading.next(session), [6], "it is read anew");
        assert!(reading.next(session).is_empty() && !reading.is_reading(session));
        assert!(reading.forget(session).is_empty() && !reading.was_stale(session));
        assert!(reading.is_reading(other) && !reading.was_stale(other));
    }
}
