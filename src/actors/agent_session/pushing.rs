//! Messages of an agent's socket: asked for while places are free, and what becomes of those that are out.
use std::time::Duration;

use actix::prelude::*;
use serde_json::Value;

use super::{AgentSession, Handed, KEY_ENDED, Out, Picked, frames};
use crate::actors::agent_mailbox::Ask;
use crate::domain::delivery::Delivery;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::{MessageId, PartyId};
use crate::store::{Db, deliveries};

/// A message that comes so long after it was leased is looked up: what became of it may have gone by. Milliseconds.
const LATE_MS: i64 = 100;
/// When messages are asked for again after that failed.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl AgentSession {
    /// Waits for messages, as many as there are free places, once all that came before was written.
    pub(super) fn ask(&mut self, ctx: &mut Context<Self>) {
        let Some(asked) = self.asked.filter(|_| !self.closing && self.standing.is_none()) else { return };
        let rows = asked.rows.saturating_sub(self.places.len());
        if rows == 0 || self.unwritten() > 0 {
            return;
        }
        let bytes = asked.bytes.min(self.parts.shared.limits.outbox_bytes_max);
        self.picked = Picked::default();
        let messages = self.parts.desk.messages(Ask { rows, bytes, ..asked }, self.picked.clone());
        let lease_ms = asked.lease_ms;
        let wait = messages.into_actor(self).map(move |messages, this, ctx| {
            this.standing = None;
            this.picked.set(false);
            match messages {
                Ok(messages) => this.hand_out(messages, lease_ms, ctx),
                Err(error) if error.code() == ErrorCode::Unauthenticated => this.close(1008, KEY_ENDED, ctx),
                Err(error) => {
                    log::debug!("messages for a socket could not be got and are asked for again: {}", error.cause());
                    this.standing = Some(ctx.run_later(ASK_AGAIN, |this, ctx| {
                        this.standing = None;
                        this.ask(ctx);
                    }));
                }
            }
        });
        self.standing = Some(ctx.spawn(wait));
    }

    pub(super) fn stop_asking(&mut self, ctx: &mut Context<Self>) {
        if let Some(standing) = self.standing.take() {
            ctx.cancel_future(standing);
        }
    }

    fn hand_out(&mut self, messages: Vec<Handed>, lease_ms: i64, ctx: &mut Context<Self>) {
        if self.closing {
            return;
        }
        self.handed_out_total += messages.len() as u64;
        let leased_before = self.now_ms().saturating_sub(LATE_MS).saturating_add(lease_ms);
        let late: Vec<MessageId> = messages
            .iter()
            .filter(|handed| handed.out.lease_until < leased_before)
            .map(|handed| handed.out.message_id)
            .collect();
        for Handed { frame, out, ticket } in messages {
            // What becomes of it is told from now on.
            self.parts.hub.watch(self.id, out.conversation_id);
            self.places.take(out);
            self.outbox.push_message(frame, ticket);
        }
        self.flush();
        // What became of them before they were watched was told to nobody here.
        self.check(late, ctx);
        self.ask(ctx);
    }

    pub(super) fn on_poll(&mut self, id: Option<&Value>, asked: Ask, ctx: &mut Context<Self>) {
        let before = self.asked.replace(asked);
        // What is on its way comes as it was asked for; to give it back would cost a hand-out.
        if !self.picked.get() && !before.is_some_and(|before| serves(before, asked)) {
            self.stop_asking(ctx);
        }
        self.send(frames::ok(id, serde_json::json!({ "window": asked.rows, "out": self.places.len() })), ctx);
        self.ask(ctx);
    }

    /// Notes that a message is out no more.
    fn freed(&mut self, out: Out) {
        if !self.places.has(out.conversation_id) {
            self.parts.hub.unwatch(self.id, out.conversation_id);
        }
    }

    pub(super) fn on_delivery(&mut self, delivery: &Delivery) {
        if delivery.recipient_id == self.agent().party_id
            && let Some(out) = self.places.hear(delivery)
        {
            self.freed(out);
        }
    }

    /// Asks the store about messages that are out: what became of them may have been told and not heard.
    pub(super) fn check(&mut self, ids: Vec<MessageId>, ctx: &mut Context<Self>) {
        if ids.is_empty() {
            return;
        }
        let before = self.places.of(&ids);
        let (store, party, asked) = (self.parts.shared.store.clone(), self.agent().party_id, ids.clone());
        async move { store.read(move |db| deliveries_of(db, &asked, party)).await }
            .into_actor(self)
            .map(move |found, this, ctx| {
                let found = match found {
                    Ok(found) => found,
                    Err(error) => {
                        log::warn!("what became of an agent's messages could not be read: {}", error.cause());
                        return;
                    }
                };
                for delivery in &found {
                    let gone = this.places.learn(delivery, &before);
                    gone.into_iter().for_each(|out| this.freed(out));
                }
                let is_there = |id: &MessageId| found.iter().any(|delivery| delivery.message_id == *id);
                for id in ids.iter().copied().filter(|id| !is_there(id)) {
                    let gone = this.places.free(id);
                    gone.into_iter().for_each(|out| this.freed(out));
                }
                this.ask(ctx);
            })
            .spawn(ctx);
    }
}

/// Tells whether what waits by the one frame may go on waiting after the other: there may be more places, and nothing
/// else has changed.
fn serves(before: Ask, now: Ask) -> bool {
    before.rows <= now.rows && Ask { rows: now.rows, ..before } == now
}

/// Reads the deliveries of messages to one recipient.
fn deliveries_of(db: &mut Db, ids: &[MessageId], recipient: PartyId) -> Result<Vec<Delivery>, Error> {
    let mut found = Vec::new();
    for id in ids {
        let of_message = deliveries::of_message(db, *id)?;
        found.extend(of_message.into_iter().map(|one| one.delivery).filter(|one| one.recipient_id == recipient));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::AgentKeyId;

    #[test]
    fn a_poll_goes_on_waiting_when_there_are_more_places() {
        let ask = Ask {
            key_id: AgentKeyId::new(),
            rows: 2,
            bytes: 1_024,
            lease_ms: 60_000,
            waits: true,
            explicit_ack: false,
        };
        assert!(serves(ask, ask));
        assert!(serves(ask, Ask { rows: 3, ..ask }));
        for other in [Ask { rows: 1, ..ask }, Ask { lease_ms: 1, ..ask }, Ask { explicit_ack: true, rows: 3, ..ask }] {
            assert!(!serves(ask, other), "{other:?}");
        }
    }
}
