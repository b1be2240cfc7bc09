//! The beginning of a mailbox: its open deliveries are read page by page, and what comes meanwhile waits behind them.
use actix::prelude::*;

use super::{AgentMailbox, Poll, Told};
use crate::domain::agent::AgentState;
use crate::domain::error::Error;
use crate::domain::ids::PartyId;
use crate::store::deliveries::{self, Stored};
use crate::store::{Store, agents};

/// Deliveries read at a time, so that nobody else waits long for the connection.
const PAGE: i64 = 1_000;

/// How far a mailbox has come.
pub(super) enum Phase {
    Loading {
        /// What was committed since it was opened; bounded by what the writer commits while a few pages are read.
        behind: Vec<Told>,
        /// The calls that have come and still wait; each is a connection.
        polls: Vec<Poll>,
    },
    Ready,
}

impl Phase {
    pub(super) fn new() -> Self {
        Self::Loading { behind: Vec::new(), polls: Vec::new() }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Keeps a poll until everything was read; hands it back if that is done.
    pub(super) fn hold_back(&mut self, poll: Poll) -> Option<Poll> {
        match self {
            Self::Loading { polls, .. } => {
                polls.retain(|poll| !poll.reply.is_closed());
                polls.push(poll);
                None
            }
            Self::Ready => Some(poll),
        }
    }

    /// Keeps what was committed until everything was read; hands it back if that is done.
    pub(super) fn keep_behind(&mut self, told: Vec<Told>) -> Option<Vec<Told>> {
        match self {
            Self::Loading { behind, .. } => {
                behind.extend(told);
                None
            }
            Self::Ready => Some(told),
        }
    }
}

impl AgentMailbox {
    pub(super) fn load(&mut self, ctx: &mut Context<Self>) {
        let (store, id) = (self.parts.store.clone(), self.card.agent_id);
        async move { store.read(move |db| agents::get(db, id)).await }
            .into_actor(self)
            .map(|found, this, ctx| match found {
                Ok(Some(agent)) => {
                    this.set_paused(agent.state != AgentState::Running);
                    this.load_page(i64::MIN, ctx);
                }
                // It was removed while its call was on the way.
                Ok(None) => this.leave(ctx),
                Err(error) => this.give_up(&error, ctx),
            })
            .spawn(ctx);
    }

    /// Reads the deliveries after number `after_n`.
    fn load_page(&mut self, after_n: i64, ctx: &mut Context<Self>) {
        page(self.parts.store.clone(), self.card.party_id, after_n)
            .into_actor(self)
            .map(move |found, this, ctx| match found {
                Ok((found, next)) => {
                    let now_ms = this.now_ms();
                    for stored in &found {
                        this.state.on_delivery(&stored.delivery, None, now_ms);
                    }
                    match next {
                        Some(after_n) => this.load_page(after_n, ctx),
                        None => this.be_ready(ctx),
                    }
                }
                Err(error) => this.give_up(&error, ctx),
            })
            .spawn(ctx);
    }

    /// Ends a mailbox that cannot be read; the next call opens it anew.
    fn give_up(&mut self, error: &Error, ctx: &mut Context<Self>) {
        log::warn!("the messages of an agent could not be read: {}", error.cause());
        if let Phase::Loading { polls, .. } = &mut self.phase {
            for poll in polls.drain(..) {
                // Whoever asked may have gone.
                let _ = poll.reply.send(Err(Error::store_busy()));
            }
        }
        self.leave(ctx);
    }

    fn be_ready(&mut self, ctx: &mut Context<Self>) {
        let Phase::Loading { behind, polls } = std::mem::replace(&mut self.phase, Phase::Ready) else { return };
        self.card.set_loaded();
        self.hear(behind, ctx);
        for poll in polls {
            self.on_poll(poll, ctx);
        }
        self.serve(ctx);
    }
}

async fn page(store: Store, party: PartyId, after_n: i64) -> Result<(Vec<Stored>, Option<i64>), Error> {
    store.read(move |db| deliveries::work_of_recipient(db, party, after_n, PAGE)).await
}
