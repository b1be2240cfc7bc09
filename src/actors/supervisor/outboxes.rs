//! Starts the outboxes of channels, and starts them anew when a channel was changed: never two of one channel at once, so
//! that what one is sending is not taken for left over by the other (D5).
use std::sync::Arc;

use actix::prelude::*;

use super::{ASK, Child, Supervisor};
use crate::actors::channel_outbox::{ChannelOutbox, Finish, Leave, OutboxLeft, OutboxParts, SendMoved};
use crate::actors::channels::{self, Intake};
use crate::domain::delivery::Delivery;
use crate::domain::ids::ChannelId;

impl Supervisor {
    /// Starts the outbox of a channel as it is known now, unless one runs.
    pub(super) fn start_outbox(&mut self, id: ChannelId, ctx: &mut Context<Self>) {
        if self.outboxes.contains_key(&id) {
            return;
        }
        let Some(live) = self.parts.directory.channels().get(id) else { return };
        let config = &self.parts.config;
        let parts = OutboxParts {
            live,
            store: self.parts.store.clone(),
            directory: self.parts.directory.clone(),
            clock: self.parts.clock.clone(),
            config: config.channels.clone(),
            intake: Intake::of(config),
            parent: ctx.address().recipient(),
        };
        self.outboxes.insert(id, ChannelOutbox::new(parts).start());
    }

    /// Reads a channel anew. Its outbox, if one runs, ends what is on its way before another one begins.
    pub(super) fn reload_channel(&mut self, id: ChannelId, ctx: &mut Context<Self>) {
        if self.stopping || !self.parts.directory.is_active() {
            return;
        }
        let (store, vault) = (self.parts.store.clone(), self.parts.vault.clone());
        let (reach, round) = (channels::reach(&self.parts.config.channels), self.lease_round);
        let reading = self.parts.directory.channels().begin_reading();
        self.reading.insert(id, reading);
        async move { store.read(move |db| channels::load(db, &vault, reach, id)).await }
            .into_actor(self)
            .map(move |found, this, ctx| {
                // The lease was lost meanwhile, or a later reading tells more.
                if this.stopping || round != this.lease_round || this.reading.get(&id) != Some(&reading) {
                    return;
                }
                this.reading.remove(&id);
                match found {
                    Ok(found) => {
                        this.parts.directory.set_channel(id, reading, found);
                        match this.outboxes.get(&id) {
                            // When it has ended, another one begins if the channel is to have one then.
                            Some(outbox) => outbox.do_send(Leave),
                            None => this.start_outbox(id, ctx),
                        }
                    }
                    Err(error) => {
                        log::warn!("a channel could not be read: {}", error.cause());
                        ctx.run_later(ASK, move |this, ctx| this.reload_channel(id, ctx));
                    }
                }
            })
            .spawn(ctx);
    }

    pub(super) fn to_outbox(&self, id: ChannelId, delivery: Arc<Delivery>) {
        if let Some(outbox) = self.outboxes.get(&id) {
            // Bounded by the store, which the sender waits for, and by `channels.queue_max`.
            outbox.do_send(SendMoved(delivery));
        }
    }

    /// Lets what is on its way come to its end, until this time.
    pub(super) fn finish_outboxes(&mut self, until: tokio::time::Instant) -> impl Future<Output = ()> + use<> {
        let told: Vec<_> = self.outboxes.values().map(|outbox| outbox.send(Finish)).collect();
        async move {
            // What takes longer is of unknown outcome, and the next start settles it.
            let _ = tokio::time::timeout_at(until, futures_util::future::join_all(told)).await;
        }
    }
}

impl Handler<OutboxLeft> for Supervisor {
    type Result = ();

    fn handle(&mut self, msg: OutboxLeft, ctx: &mut Self::Context) {
        let OutboxLeft { id, outbox, clean } = msg;
        // One that was stopped is known no more, and another one may run by now.
        if self.outboxes.get(&id) != Some(&outbox) {
            return;
        }
        self.outboxes.remove(&id);
        if self.stopping {
            return;
        }
        if clean {
            self.start_outbox(id, ctx);
        } else {
            self.start_again(Child::Outbox(id), ctx);
        }
    }
}
