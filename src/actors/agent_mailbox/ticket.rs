//! A hand-out on its way: from the mailbox that picked it to the client that takes it.
//!
//! Whoever holds the ticket asks it what the writer has leased, and says when the client has it all. A ticket that is
//! dropped before gives back what it stands for, wherever that happens: a poll that was given up, a client that has
//! gone, an answer that could not be made.
use std::collections::HashMap;
use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::card::Card;
use super::state::Item;
use crate::domain::delivery::Outcome;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::DeliveryId;
use crate::domain::message::{Line, MessageKind};
use crate::store::mailbox::{Close, GiveBack, HandedOut};
use crate::store::{Lane, Store};

/// What the writer says about a hand-out.
pub(super) type LeaseAnswer = oneshot::Receiver<Result<Vec<HandedOut>, Error>>;

/// The writer has not leased these.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Refused(pub(super) Vec<DeliveryId>);

/// Nobody takes what this ticket stands for, and what the writer says about it is not known yet.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct NotTaken(pub(super) Ticket);

/// A message that is leased to whoever holds its ticket.
#[derive(Clone, Debug)]
pub struct Leased {
    pub line: Arc<Line>,
    pub attempt: i32,
    pub lease_until: i64,
}

enum Stage {
    Asked(LeaseAnswer),
    Leased(Vec<HandedOut>),
    Settled,
}

/// A hand-out on its way.
pub struct Ticket {
    card: Arc<Card>,
    store: Store,
    items: Vec<Item>,
    /// Replies and notices stay leased until their recipient says that it has them.
    explicit_ack: bool,
    stage: Stage,
    /// It was handed to the mailbox, which settles it.
    is_left: bool,
}

impl Ticket {
    pub(super) fn new(
        card: Arc<Card>,
        store: Store,
        items: Vec<Item>,
        explicit_ack: bool,
        answer: LeaseAnswer,
    ) -> Self {
        Self { card, store, items, explicit_ack, stage: Stage::Asked(answer), is_left: false }
    }

    /// Waits for the writer and returns what it has leased, in the order in which it is to be handed out. What it has
    /// refused goes back to the mailbox. Dropping the future loses nothing.
    pub async fn leased(&mut self) -> Result<Vec<Leased>, Error> {
        let outcome = match &mut self.stage {
            Stage::Asked(answer) => answer.await,
            Stage::Leased(_) | Stage::Settled => return Ok(Vec::new()),
        };
        self.stage = Stage::Settled;
        let leased = match outcome {
            Ok(Ok(leased)) => leased,
            Ok(Err(error)) => {
                // Whether anything was leased is not known after every failure.
                self.give_back(self.items.iter().map(|item| (item.delivery, None)).collect());
                self.card.refused(Refused(self.items.iter().map(|item| item.delivery).collect()));
                return Err(error);
            }
            Err(_) => {
                // The writer's thread has ended; if the node goes on, nobody else tells what was leased.
                self.give_back(self.items.iter().map(|item| (item.delivery, None)).collect());
                self.card.refused(Refused(self.items.iter().map(|item| item.delivery).collect()));
                return Err(Error::new(ErrorCode::ShuttingDown, "the server is stopping; repeat the call"));
            }
        };
        self.card.count_handed_out(leased.len());
        let by_id: HashMap<DeliveryId, HandedOut> = leased.iter().map(|one| (one.delivery, *one)).collect();
        let refused: Vec<DeliveryId> =
            self.items.iter().map(|item| item.delivery).filter(|id| !by_id.contains_key(id)).collect();
        if !refused.is_empty() {
            self.card.refused(Refused(refused));
        }
        let of_item = |item: &Item| {
            let HandedOut { attempt, lease_until, .. } = *by_id.get(&item.delivery)?;
            Some(Leased { line: item.line.clone()?, attempt, lease_until })
        };
        let shown = self.items.iter().filter_map(of_item).collect();
        self.stage = Stage::Leased(leased);
        Ok(shown)
    }

    /// Divides it into tickets of one message each, in the order in which they are to be handed out: for a client that
    /// takes one after the other. What is not leased yet is in none of them.
    pub fn each(mut self) -> Vec<Self> {
        let Stage::Leased(leased) = &mut self.stage else { return Vec::new() };
        let mut by_id: HashMap<DeliveryId, HandedOut> = leased.drain(..).map(|one| (one.delivery, one)).collect();
        let mut tickets = Vec::with_capacity(by_id.len());
        for item in std::mem::take(&mut self.items) {
            // As what is shown: what has no line is not.
            let Some(one) = by_id.remove(&item.delivery).filter(|_| item.line.is_some()) else { continue };
            tickets.push(Self {
                card: self.card.clone(),
                store: self.store.clone(),
                items: vec![item],
                explicit_ack: self.explicit_ack,
                stage: Stage::Leased(vec![one]),
                is_left: false,
            });
        }
        self.stage = Stage::Settled;
        tickets
    }

    /// Says that the client has it all. Replies and notices ask for nothing more, so they are complete.
    pub fn taken(mut self) {
        let Stage::Leased(leased) = std::mem::replace(&mut self.stage, Stage::Settled) else { return };
        if self.explicit_ack {
            return;
        }
        let asks = |id: DeliveryId| {
            let line = self.items.iter().find(|item| item.delivery == id).and_then(|item| item.line.as_ref());
            line.is_none_or(|line| line.kind == Some(MessageKind::Request))
        };
        let handed_out: Vec<(DeliveryId, i32)> =
            leased.iter().filter(|one| !asks(one.delivery)).map(|one| (one.delivery, one.attempt)).collect();
        if handed_out.is_empty() {
            return;
        }
        let close = Close { recipient: self.card.party_id, handed_out, outcome: Outcome::HandedOut };
        // If it cannot be queued they come again when the lease is over: rather twice than never.
        if let Err(error) = self.store.write_later(Lane::Bulk, close) {
            log::warn!("what was handed out could not be closed: {error}");
        }
    }

    fn give_back_leased(&self, leased: &[HandedOut]) {
        self.card.count_given_back(leased.len());
        self.give_back(leased.iter().map(|one| (one.delivery, Some(one.attempt))).collect());
    }

    fn give_back(&self, handed_out: Vec<(DeliveryId, Option<i32>)>) {
        if handed_out.is_empty() {
            return;
        }
        let give_back = GiveBack { recipient: self.card.party_id, handed_out };
        // If it cannot be queued it comes again when the lease is over.
        if let Err(error) = self.store.write_later(Lane::Interactive, give_back) {
            log::warn!("a hand-out that nobody took could not be given back: {error}");
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Settled) {
            Stage::Asked(answer) if !self.is_left => {
                let left = Self {
                    card: self.card.clone(),
                    store: self.store.clone(),
                    items: std::mem::take(&mut self.items),
                    explicit_ack: self.explicit_ack,
                    stage: Stage::Asked(answer),
                    is_left: true,
                };
                self.card.not_taken(NotTaken(left));
            }
            // The mailbox has gone, too.
            Stage::Asked(mut answer) => match answer.try_recv() {
                Ok(Ok(leased)) => {
                    self.card.count_handed_out(leased.len());
                    self.give_back_leased(&leased);
                }
                // What is asked of the writer now comes behind the hand-out, and is refused where nothing was leased.
                Ok(Err(_)) | Err(_) => self.give_back(self.items.iter().map(|item| (item.delivery, None)).collect()),
            },
            Stage::Settled => {}
            Stage::Leased(leased) => self.give_back_leased(&leased),
        }
    }
}
