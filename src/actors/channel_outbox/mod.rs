//! The outbox of one channel: brings messages to people, each once as far as the provider lets that be known.
//!
//! Owner: the supervisor; one a channel that is enabled, while this node is the active one. It reads what is open at its
//! start, hears of what comes after by events, and moves deliveries by commands that judge by the row.
//!
//! Invariants
//! - D5: what is found leased at the start is of unknown outcome, unless the provider recognises it by our id.
//! - DLV-4: of one conversation one message is on its way.
//! - LIM-1: `channels.queue_max` messages wait at most, `channels.in_flight_max` are on their way, and a bounded number
//!   waits between two parts.
//! - Whatever it waits for is looked at anew each time, and the next time is planned: no wait depends on the end of
//!   another message, but for a place.
pub(crate) mod carry;
mod pace;
mod places;
mod queue;
mod sending;
mod token;
mod updates;
mod window;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;

use self::pace::Breaker;
use self::places::Place;
use self::queue::{Next, Picked, Queue};
use self::sending::{Desk, Done};
use super::channels::{Intake, LiveChannel};
use super::directory::Directory;
use super::messages::{Observe, Report, Stop};
use crate::channels::setup::Provider;
use crate::config::ChannelsConfig;
use crate::domain::clock::Clock;
use crate::domain::delivery::{Delivery, DeliveryState};
use crate::domain::error::Error;
use crate::domain::ids::{ChannelId, DeliveryId, PartyId};
use crate::store::Store;
use crate::store::channels::{RecoverSends, open_of_channel};
use crate::store::deliveries::Stored;

/// Deliveries that are read at a time.
const PAGE: i64 = 1_000;
/// Wait after a store that could not answer.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is looked at whether all has come to its end.
const LOOK: Duration = Duration::from_millis(20);

/// What an outbox is made with.
pub struct OutboxParts {
    pub live: Arc<LiveChannel>,
    pub store: Store,
    pub directory: Arc<Directory>,
    pub clock: Arc<dyn Clock>,
    pub config: ChannelsConfig,
    /// For lines of people.
    pub intake: Intake,
    pub parent: Recipient<OutboxLeft>,
}

/// An outbox has ended; `clean` when it was told to.
#[derive(Message)]
#[rtype(result = "()")]
pub struct OutboxLeft {
    pub id: ChannelId,
    /// Which one: another one of the same channel may run by now.
    pub outbox: Addr<ChannelOutbox>,
    pub clean: bool,
}

/// A delivery of this channel was accepted or has moved.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SendMoved(pub Arc<Delivery>);

/// Take up nothing new, and end when what is on its way has come to its end.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Leave;

/// The same; answered when nothing is on its way any more.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Finish;

pub struct ChannelOutbox {
    desk: Rc<Desk>,
    config: ChannelsConfig,
    intake: Intake,
    parent: Recipient<OutboxLeft>,
    queue: Queue,
    breaker: Breaker,
    phase: Phase,
    last_error: Option<String>,
    /// The next time it looks at what may go out.
    planned: Option<(Instant, SpawnHandle)>,
}

enum Phase {
    /// What came meanwhile.
    Loading(Vec<Arc<Delivery>>),
    Ready,
}

impl ChannelOutbox {
    pub fn new(parts: OutboxParts) -> Self {
        let OutboxParts { live, store, directory, clock, config, intake, parent } = parts;
        let patience = Duration::from_secs(config.timeout_s);
        let breaker = Breaker::new(
            config.pause_after,
            Duration::from_secs(config.pause_s),
            Duration::from_secs(config.pause_max_s),
        );
        live.counts.paused.store(false, Ordering::Relaxed);
        Self {
            desk: Rc::new(Desk::new(live, store, directory, clock, patience, config.in_flight_max)),
            config,
            intake,
            parent,
            queue: Queue::default(),
            breaker,
            phase: Phase::Loading(Vec::new()),
            last_error: None,
            planned: None,
        }
    }

    /// Reads what is open, and settles what was left over.
    fn load(&mut self, ctx: &mut Context<Self>) {
        let desk = self.desk.clone();
        async move { load(&desk).await }
            .into_actor(self)
            .map(|loaded, this, ctx| match loaded {
                Ok(open) => {
                    let now_ms = this.desk.clock.now_ms();
                    open.iter().for_each(|stored| this.queue.on_delivery(&stored.delivery, now_ms));
                    if let Phase::Loading(behind) = std::mem::replace(&mut this.phase, Phase::Ready) {
                        // The last word on a delivery counts.
                        behind.iter().for_each(|delivery| this.queue.on_delivery(delivery, now_ms));
                    }
                    this.go_on(ctx);
                }
                Err(error) => {
                    log::warn!(channel:% = this.desk.live.channel.id; "an outbox cannot begin: {}", error.cause());
                    ctx.run_later(RETRY, Self::load);
                }
            })
            .spawn(ctx);
    }

    /// Sends what may go out now, and plans when to look again at what may not.
    fn go_on(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let (counts, pause) = (&self.desk.live.counts, self.breaker.wait(now));
        counts.waiting.store(self.queue.len(), Ordering::Relaxed);
        counts.paused.store(pause > Duration::ZERO, Ordering::Relaxed);
        if self.desk.leaving.get() || matches!(self.phase, Phase::Loading(_)) {
            return;
        }
        if pause > Duration::ZERO {
            return self.go_on_in(pause, ctx);
        }
        if !self.desk.may_act() {
            return self.go_on_in(RETRY, ctx);
        }
        let places = &self.desk.places;
        let room = self.breaker.room(now, places.taken(), self.config.in_flight_max);
        for _ in 0..room.min(places.more(self.desk.in_flight.get())) {
            let Some(place) = self.desk.places.take() else { break };
            let next = {
                let mut pace = self.desk.pace.borrow_mut();
                self.queue.pick(|address| pace.wait(address, now), |recipient| self.breaker.is_down(recipient))
            };
            match next {
                Next::Send(picked) => self.send(picked, place, ctx),
                Next::Wait(wait) => return self.go_on_in(wait, ctx),
                Next::Nothing => return,
            }
        }
        // No place is left. Who waits between two parts frees one without a word.
        self.go_on_in(RETRY, ctx);
    }

    /// Looks again after so long, unless that is planned for sooner.
    fn go_on_in(&mut self, wait: Duration, ctx: &mut Context<Self>) {
        let at = Instant::now() + wait;
        if self.planned.as_ref().is_some_and(|(planned, _)| *planned <= at) {
            return;
        }
        let timer = ctx.run_later(wait, |this, ctx| {
            this.planned = None;
            this.go_on(ctx);
        });
        if let Some((_, before)) = self.planned.replace((at, timer)) {
            ctx.cancel_future(before);
        }
    }

    fn send(&mut self, picked: Picked, place: Place, ctx: &mut Context<Self>) {
        self.desk.in_flight.set(self.desk.in_flight.get() + 1);
        let desk = self.desk.clone();
        async move { desk.send(picked.id, place).await }
            .into_actor(self)
            .map(move |done, this, ctx| this.on_done(picked, done, ctx))
            .spawn(ctx);
    }

    fn on_done(&mut self, picked: Picked, done: Done, ctx: &mut Context<Self>) {
        self.desk.in_flight.set(self.desk.in_flight.get().saturating_sub(1));
        let counts = &self.desk.live.counts;
        match done {
            Done::Sent => {
                counts.sent.fetch_add(1, Ordering::Relaxed);
                self.breaker.on_answer(picked.recipient);
                self.last_error = None;
            }
            Done::Failed(why) => {
                counts.failed.fetch_add(1, Ordering::Relaxed);
                self.breaker.on_answer(picked.recipient);
                self.last_error = Some(why);
            }
            Done::Refused(why) => {
                counts.failed.fetch_add(1, Ordering::Relaxed);
                self.last_error = Some(why);
            }
            Done::Lapsed(why) => {
                counts.unknown.fetch_add(1, Ordering::Relaxed);
                self.last_error = Some(why);
            }
            Done::Unknown(why) => {
                counts.unknown.fetch_add(1, Ordering::Relaxed);
                self.on_failure(picked.recipient, None, why);
            }
            Done::Passing(after_ms, why) => {
                counts.retried.fetch_add(1, Ordering::Relaxed);
                self.on_failure(picked.recipient, after_ms, why);
            }
            Done::NotYet(address) => self.queue.wait_for_turn(picked.id, address),
            Done::NotNow => {}
            Done::StoreFailed => {
                // Its conversation waits as long.
                ctx.run_later(RETRY, move |this, ctx| {
                    this.queue.again(picked.id);
                    this.queue.done(picked.conversation);
                    this.go_on(ctx);
                });
                return;
            }
        }
        self.queue.done(picked.conversation);
        if self.desk.broken.get() && !self.desk.leaving.replace(true) {
            // It is started anew, and settles what is leased as at a start.
            self.leave(ctx);
        }
        self.go_on(ctx);
    }

    fn on_failure(&mut self, recipient: PartyId, after_ms: Option<u64>, why: String) {
        let asked = Duration::from_millis(after_ms.unwrap_or(0));
        if let Some(pause) = self.breaker.on_failure(recipient, asked, Instant::now()) {
            log::warn!(channel:% = self.desk.live.channel.id, pause_s = pause.as_secs(); "a channel pauses: {why}");
        }
        self.last_error = Some(why);
    }

    /// Ends when nothing is on its way any more.
    fn leave(&mut self, ctx: &mut Context<Self>) {
        if self.desk.in_flight.get() == 0 {
            ctx.stop();
        } else {
            ctx.run_later(LOOK, Self::leave);
        }
    }
}

/// Reads the open deliveries; those that were leased are settled first and come back by their events.
async fn load(desk: &Desk) -> Result<Vec<Stored>, Error> {
    let channel_id = desk.live.channel.id;
    let mut open: Vec<Stored> = Vec::new();
    let mut after_n = Some(0);
    while let Some(after) = after_n {
        let (page, next) = desk.store.read(move |db| open_of_channel(db, channel_id, after, PAGE)).await?;
        open.extend(page);
        after_n = next;
    }
    let leased: Vec<DeliveryId> = open
        .iter()
        .filter(|stored| stored.delivery.state == DeliveryState::Leased)
        .map(|stored| stored.delivery.id)
        .collect();
    let repeat_ms = desk.repeat_ms();
    // Each by itself: one that cannot be moved takes no other back with it. There are few.
    for id in leased {
        match desk.store.write(RecoverSends { channel_id, ids: vec![id], repeat_ms }).await {
            Err(error) if error.is_unreadable() => {
                log::error!(delivery:% = id; "what was leased cannot be settled and stays as it is: {}", error.cause());
            }
            settled => settled?,
        }
    }
    Ok(open)
}

impl Actor for ChannelOutbox {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.load(ctx);
        if let Provider::Telegram { bot, polls: true } = &self.desk.live.provider {
            let (desk, bot) = (self.desk.clone(), bot.clone());
            updates::ask(desk, bot, self.intake).into_actor(self).spawn(ctx);
        }
    }

    fn stopped(&mut self, ctx: &mut Self::Context) {
        let clean = self.desk.leaving.get() && !self.desk.broken.get();
        self.parent.do_send(OutboxLeft { id: self.desk.live.channel.id, outbox: ctx.address(), clean });
    }
}

impl Handler<SendMoved> for ChannelOutbox {
    type Result = ();

    fn handle(&mut self, SendMoved(delivery): SendMoved, ctx: &mut Self::Context) {
        match &mut self.phase {
            Phase::Loading(behind) => behind.push(delivery),
            Phase::Ready => {
                self.queue.on_delivery(&delivery, self.desk.clock.now_ms());
                self.go_on(ctx);
            }
        }
    }
}

impl Handler<Observe> for ChannelOutbox {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _ctx: &mut Self::Context) -> Self::Result {
        let (channel, counts) = (&self.desk.live.channel, &self.desk.live.counts);
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        MessageResult(Report {
            actor: "channel_outbox",
            id: channel.id.to_string(),
            state: serde_json::json!({
                "kind": channel.kind,
                "name": channel.name,
                "waiting": self.queue.len(),
                "in_flight": self.desk.in_flight.get(),
                "leaving": self.desk.leaving.get(),
                "paused": self.breaker.is_open(Instant::now()),
                "sent_total": count(&counts.sent),
                "failed_total": count(&counts.failed),
                "unknown_total": count(&counts.unknown),
                "retried_total": count(&counts.retried),
                "heard_total": count(&counts.heard),
                "refused_total": count(&counts.refused),
                "last_error": self.last_error,
            }),
        })
    }
}

impl Handler<Leave> for ChannelOutbox {
    type Result = ();

    fn handle(&mut self, _: Leave, ctx: &mut Self::Context) {
        if !self.desk.leaving.replace(true) {
            self.leave(ctx);
        }
    }
}

impl Handler<Finish> for ChannelOutbox {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Finish, _ctx: &mut Self::Context) -> Self::Result {
        self.desk.leaving.set(true);
        let desk = self.desk.clone();
        Box::pin(async move {
            while desk.in_flight.get() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        })
    }
}

impl Handler<Stop> for ChannelOutbox {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        self.desk.leaving.set(true);
        ctx.stop();
    }
}
