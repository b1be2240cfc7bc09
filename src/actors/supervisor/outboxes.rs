//! Starts the outboxes of channels, and starts them anew when a channel was changed: never two of one channel at once, so
//! that what one is sending is not taken for left over by the other (D5).
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::{ASK, Supervisor};
use crate::actors::channel_outbox::{ChannelOutbox, Finish, Leave, OutboxParts, SendMoved};
use crate::actors::channels::{self, Intake};
use crate::domain::delivery::Delivery;
use crate::domain::ids::ChannelId;

/// How long a stop waits for messages that are on their way: their outcome would be unknown.
const FINISH: Duration = Duration::from_secs(5);

impl Supervisor {
    /// Starts the outbox of a channel as it is known now; none runs.
    pub(super) fn start_outbox(&mut self, id: ChannelId, ctx: &mut Context<Self>) {
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
        let (store, vault) = (self.parts.store.clone(), self.parts.vault.clone());
        let (reach, round) = (channels::reach(&self.parts.config.channels), self.lease_round);
        async move { store.read(move |db| channels::load(db, &vault, reach, id)).await }
            .into_actor(self)
            .map(move |found, this, ctx| match found {
                // The lease was lost meanwhile.
                _ if this.stopping || round != this.lease_round => {}
                Ok(Some((channel, provider))) => {
                    this.parts.directory.put_channel(channel, provider);
                    match this.outboxes.get(&id) {
                        Some(outbox) => {
                            this.reloading.insert(id);
                            outbox.do_send(Leave);
                        }
                        None => this.start_outbox(id, ctx),
                    }
                }
                Ok(None) => {
                    this.parts.directory.remove_channel(id);
                    this.reloading.remove(&id);
                    if let Some(outbox) = this.outboxes.get(&id) {
                        outbox.do_send(Leave);
                    }
                }
                Err(error) => {
                    log::warn!("a channel could not be read: {}", error.cause());
                    ctx.run_later(ASK, move |this, ctx| this.reload_channel(id, ctx));
                }
            })
            .spawn(ctx);
    }

    /// The outbox of a channel has ended because it was told to; starts it anew if that is why.
    pub(super) fn on_outbox_left(&mut self, id: ChannelId, ctx: &mut Context<Self>) {
        if self.reloading.remove(&id) {
            self.outboxes.remove(&id);
            self.start_outbox(id, ctx);
        } else if self.parts.directory.channels().get(id).is_none() {
            self.outboxes.remove(&id);
        }
    }

    pub(super) fn to_outbox(&self, id: ChannelId, delivery: Arc<Delivery>) {
        if let Some(outbox) = self.outboxes.get(&id) {
            // Bounded by the store, which the sender waits for, and by `channels.queue_max`.
            outbox.do_send(SendMoved(delivery));
        }
    }

    /// Lets what is on its way come to its end.
    pub(super) fn finish_outboxes(&mut self) -> impl Future<Output = ()> + use<> {
        let told: Vec<_> = self.outboxes.values().map(|outbox| outbox.send(Finish)).collect();
        async move {
            // What takes longer is of unknown outcome, and the next start settles it.
            let _ = tokio::time::timeout(FINISH, futures_util::future::join_all(told)).await;
        }
    }
}
