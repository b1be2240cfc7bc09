//! What is due next in deliveries: leases that end, waits that end, ttls that run out.
//!
//! Owner: the supervisor; one a node. It keeps one ordered picture of the soonest due times, sleeps until the first of
//! them and is woken by changes; it does not poll. What it does about a due delivery is one command of the store, which
//! decides by the row and not by the picture, so a stale entry does no harm.
//!
//! Invariants
//! - DLV-2: an open delivery that time alone moves is in the picture, or the picture is known to be cut and is read anew.
//! - LIM-1: at most `PICTURE_MAX` entries are kept.
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::messages::{Observe, Report, Stop};
use super::supervisor::{ChildStopped, DeliveriesReady};
use crate::domain::clock::Clock;
use crate::domain::ids::DeliveryId;
use crate::store::Store;
use crate::store::deliveries::{self, FireDue};

/// Entries of the picture: 100,000 of some 100 bytes are 10 MB.
const PICTURE_MAX: usize = 100_000;
/// Due deliveries that go into one command, so that other commands get in between (hot-path notes, 4).
const BATCH_MAX: usize = 500;
/// Longest sleep; a picture that was cut is read anew by then.
const SLEEP_MAX: Duration = Duration::from_secs(3_600);
/// Wait after a command that the store refused.
const RETRY: Duration = Duration::from_millis(500);

pub struct Scheduler {
    store: Store,
    clock: Arc<dyn Clock>,
    ready: Recipient<DeliveriesReady>,
    parent: Recipient<ChildStopped>,
    picture: Picture,
    timer: Option<SpawnHandle>,
    busy: bool,
    fired_total: u64,
    leaving: bool,
}

/// The ordered picture: pure.
#[derive(Debug, Default)]
pub struct Picture {
    by_time: BTreeSet<(i64, DeliveryId)>,
    by_id: HashMap<DeliveryId, i64>,
    /// Later entries than the last one here exist in the store.
    cut: bool,
}

impl Picture {
    /// Notes when a delivery is due, or that time does not move it any more.
    pub fn set(&mut self, id: DeliveryId, due_at: Option<i64>) {
        if let Some(before) = self.by_id.remove(&id) {
            self.by_time.remove(&(before, id));
        }
        let Some(at) = due_at else { return };
        self.by_time.insert((at, id));
        self.by_id.insert(id, at);
        if self.by_time.len() > PICTURE_MAX
            && let Some((_, last)) = self.by_time.pop_last()
        {
            self.by_id.remove(&last);
            self.cut = true;
        }
    }

    /// Notes when a delivery that was taken out is due next, unless newer word of it has come.
    pub fn keep(&mut self, id: DeliveryId, due_at: Option<i64>) {
        if !self.by_id.contains_key(&id) {
            self.set(id, due_at);
        }
    }

    pub fn next_at(&self) -> Option<i64> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out what is due at `now_ms`, soonest first, at most `limit`.
    pub fn take_due(&mut self, now_ms: i64, limit: usize) -> Vec<DeliveryId> {
        let mut due = Vec::new();
        while due.len() < limit
            && let Some((at, id)) = self.by_time.first().copied()
            && at <= now_ms
        {
            self.by_time.pop_first();
            self.by_id.remove(&id);
            due.push(id);
        }
        due
    }

    pub fn len(&self) -> usize {
        self.by_time.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_time.is_empty()
    }

    /// Tells whether the store must be read for what comes after the last entry.
    pub fn must_reload(&self) -> bool {
        self.cut && self.by_time.len() < PICTURE_MAX / 2
    }
}

impl Scheduler {
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        ready: Recipient<DeliveriesReady>,
        parent: Recipient<ChildStopped>,
    ) -> Self {
        Self {
            store,
            clock,
            ready,
            parent,
            picture: Picture::default(),
            timer: None,
            busy: false,
            fired_total: 0,
            leaving: false,
        }
    }
}

impl Actor for Scheduler {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.load(ctx);
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.parent.do_send(ChildStopped { child: super::supervisor::Child::Scheduler, clean: self.leaving });
    }
}

/// Deliveries changed: when each is due now.
#[derive(Message)]
#[rtype(result = "()")]
pub struct DueChanged(pub Vec<(DeliveryId, Option<i64>)>);

impl Handler<DueChanged> for Scheduler {
    type Result = ();

    fn handle(&mut self, msg: DueChanged, ctx: &mut Self::Context) {
        for (id, due_at) in msg.0 {
            self.picture.set(id, due_at);
        }
        self.sleep(ctx);
    }
}

impl Handler<Observe> for Scheduler {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _ctx: &mut Self::Context) -> Self::Result {
        MessageResult(Report {
            actor: "scheduler",
            id: String::new(),
            state: serde_json::json!({
                "waiting": self.picture.len(),
                "next_at": self.picture.next_at().map(crate::domain::time::iso),
                "deliveries_fired_total": self.fired_total,
            }),
        })
    }
}

impl Handler<Stop> for Scheduler {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        self.leaving = true;
        ctx.stop();
    }
}

impl Scheduler {
    fn load(&mut self, ctx: &mut Context<Self>) {
        let store = self.store.clone();
        async move { store.read(|db| deliveries::due(db, PICTURE_MAX as i64)).await }
            .into_actor(self)
            .map(|found, this, ctx| match found {
                Ok(found) => {
                    this.picture.cut = found.len() >= PICTURE_MAX;
                    for (at, id) in found {
                        this.picture.keep(id, Some(at));
                    }
                    this.sleep(ctx);
                }
                Err(error) => {
                    log::warn!("what is due could not be read: {error}");
                    ctx.run_later(RETRY, Self::load);
                }
            })
            .spawn(ctx);
    }

    /// Sets the timer to the next due time; the wait runs on monotonic time (D11).
    fn sleep(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        if self.busy {
            return;
        }
        let Some(next_at) = self.picture.next_at() else { return };
        let wait = Duration::from_millis(u64::try_from(next_at - self.clock.now_ms()).unwrap_or(0)).min(SLEEP_MAX);
        self.timer = Some(ctx.run_later(wait, |this, ctx| {
            this.timer = None;
            this.fire(ctx);
        }));
    }

    fn fire(&mut self, ctx: &mut Context<Self>) {
        let ids = self.picture.take_due(self.clock.now_ms(), BATCH_MAX);
        if ids.is_empty() {
            self.sleep(ctx);
            return;
        }
        self.busy = true;
        let store = self.store.clone();
        let again = ids.clone();
        async move { store.write(FireDue { ids }).await }
            .into_actor(self)
            .map(move |result, this, ctx| {
                this.busy = false;
                match result {
                    Ok(fired) => {
                        this.fired_total += again.len() as u64;
                        for (id, due_at) in fired.due {
                            this.picture.keep(id, due_at);
                        }
                        if !fired.ready.is_empty() {
                            this.ready.do_send(DeliveriesReady(fired.ready));
                        }
                        if this.picture.must_reload() {
                            this.load(ctx);
                        }
                        this.sleep(ctx);
                    }
                    Err(error) => {
                        log::warn!(deliveries = again.len() as u64; "due deliveries could not be moved: {error}");
                        let at = this.clock.now_ms();
                        for id in again {
                            this.picture.keep(id, Some(at));
                        }
                        ctx.run_later(RETRY, |this, ctx| this.sleep(ctx));
                    }
                }
            })
            .spawn(ctx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_gives_the_soonest_first_and_each_once() {
        let mut picture = Picture::default();
        let (a, b, c) = (DeliveryId::new(), DeliveryId::new(), DeliveryId::new());
        picture.set(a, Some(30));
        picture.set(b, Some(10));
        picture.set(c, Some(20));
        picture.set(a, Some(5));
        picture.set(c, None);
        assert_eq!(picture.next_at(), Some(5));
        assert_eq!(picture.take_due(10, 10), vec![a, b]);
        assert!(picture.is_empty());
    }

    #[test]
    fn newer_word_of_what_was_taken_out_counts() {
        let mut picture = Picture::default();
        let (leased, waiting, free) = (DeliveryId::new(), DeliveryId::new(), DeliveryId::new());
        picture.set(leased, Some(30));
        picture.keep(leased, None);
        picture.keep(waiting, Some(20));
        picture.keep(free, None);
        assert_eq!(picture.take_due(i64::MAX, 10), vec![waiting, leased]);
    }

    #[test]
    fn a_full_picture_drops_the_latest_and_knows_it() {
        let mut picture = Picture::default();
        for at in 0..=PICTURE_MAX as i64 {
            picture.set(DeliveryId::new(), Some(at));
        }
        assert_eq!(picture.len(), PICTURE_MAX);
        assert!(!picture.must_reload());
        picture.take_due(PICTURE_MAX as i64, PICTURE_MAX);
        assert!(picture.must_reload());
    }
}
