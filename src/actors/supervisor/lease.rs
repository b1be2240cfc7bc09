//! Which node is the active one (D5): the lease is asked for, renewed, lost; what begins and ends with it.
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::prelude::*;

use super::{ANEW_GAP, ASK, LEASE_MARGIN_MS, Supervisor};
use crate::actors::bootstrap::{self, Bootstrapped};
use crate::actors::channels;
use crate::actors::gateway_link::open_runs;
use crate::channels::setup::Provider;
use crate::domain::channel::Channel;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::{Event, Publish};
use crate::domain::gateway::Gateway;
use crate::store::lease::{LEASE_MS, Lease, RENEW_MS, STANDBY, TakeLease};
use crate::store::{Db, agent_keys, gateways, users};

/// Whom a node serves besides those who call it.
struct Served {
    gateways: Vec<Gateway>,
    channels: Vec<(Channel, Provider)>,
    /// The reading of the channels.
    reading: u64,
}

impl Supervisor {
    fn take_lease(&self, afresh: bool) -> TakeLease {
        let address = self.parts.config.server.listen.first().map(ToString::to_string).unwrap_or_default();
        TakeLease { node_id: self.node_id, address, home: Some(self.parts.home), alone: self.alone(), afresh }
    }

    pub(super) fn ask_for_lease(&mut self, ctx: &mut Context<Self>) {
        if self.stopping {
            return;
        }
        let (store, command) = (self.parts.store.clone(), self.take_lease(true));
        let (asked_at, asked) = (self.parts.clock.now_ms(), tokio::time::Instant::now());
        let round = self.lease_round;
        async move { store.write(command).await }
            .into_actor(self)
            .map(move |result, this, ctx| match result {
                _ if round != this.lease_round || this.stopping => {}
                Ok(Lease::Ours { epoch }) => this.become_active(epoch, asked_at, asked, ctx),
                Ok(Lease::Theirs { for_ms, address }) => {
                    if !std::mem::replace(&mut this.standby_said, true) {
                        log::info!(lease_ms = for_ms; "another node ({address}) is active on this database; standing by");
                    }
                    this.set_lease_timer(ASK, Self::ask_for_lease, ctx);
                }
                Err(error) => {
                    log::warn!("the node lease could not be asked for: {error}");
                    if error.code() == ErrorCode::Standby {
                        // Another node took over before this one had begun its work.
                        this.parts.store.epoch().store(STANDBY, Ordering::SeqCst);
                    }
                    this.set_lease_timer(ASK, Self::ask_for_lease, ctx);
                }
            })
            .spawn(ctx);
    }

    /// Says when the lease is asked for or renewed next. There is one such time: what was planned before, perhaps for a
    /// lease that has been lost since, does not happen.
    fn set_lease_timer(&mut self, wait: Duration, then: fn(&mut Self, &mut Context<Self>), ctx: &mut Context<Self>) {
        if let Some(before) = self.lease_timer.replace(ctx.run_later(wait, then)) {
            ctx.cancel_future(before);
        }
    }

    pub(super) fn become_active(
        &mut self,
        epoch: i64,
        asked_at: i64,
        asked: tokio::time::Instant,
        ctx: &mut Context<Self>,
    ) {
        let round = self.lease_round;
        self.parts.store.epoch().store(epoch, Ordering::SeqCst);
        self.hold_lease(asked_at, asked);
        if !self.alone() {
            self.set_lease_timer(Duration::from_millis(RENEW_MS), Self::renew_lease, ctx);
        }
        let (store, config, vault) = (self.parts.store.clone(), self.parts.config.clone(), self.parts.vault.clone());
        async move { bootstrap::run(&store, &config, &vault).await }
            .into_actor(self)
            .map(move |done, this, ctx| match done {
                // The lease was lost meanwhile, or the node is to end.
                _ if round != this.lease_round || this.stopping => {}
                Ok(bootstrapped) => this.begin_from_store(epoch, bootstrapped, ctx),
                Err(error) => this.begin_later(&error, ctx),
            })
            .spawn(ctx);
    }

    /// Reads who may call and what is to be served, and begins with it; read again if any of it changed meanwhile.
    fn begin_from_store(&mut self, epoch: i64, bootstrapped: Bootstrapped, ctx: &mut Context<Self>) {
        self.parts.directory.end_doubt();
        let (round, seen) = (self.lease_round, self.parts.directory.changes());
        let (store, now_ms) = (self.parts.store.clone(), self.parts.clock.now_ms());
        let (vault, reach) = (self.parts.vault.clone(), channels::reach(&self.parts.config.channels));
        let reading = self.parts.directory.channels().begin_reading();
        let query = move |db: &mut Db| {
            let gateways = gateways::list(db)?;
            let runs = open_runs(db, &gateways);
            let (callers, keys) = (users::callers(db, now_ms)?, agent_keys::all_live(db, now_ms)?);
            let served = Served { gateways, channels: channels::load_all(db, &vault, reach)?, reading };
            Ok::<_, Error>((served, runs, callers, keys))
        };
        async move { store.read(query).await }
            .into_actor(self)
            .map(move |found, this, ctx| match found {
                _ if round != this.lease_round || this.stopping => {}
                Ok((served, runs, callers, keys)) => {
                    this.parts.directory.set_callers(callers);
                    this.parts.directory.agents().set_keys(keys);
                    // Before anybody can end them or ask for them.
                    this.parts.directory.set_runs(runs);
                    // What came in between may have been taken in by what these have replaced.
                    if this.parts.directory.changes() == seen {
                        this.begin_with(epoch, bootstrapped, served, ctx);
                    } else {
                        this.begin_from_store(epoch, bootstrapped, ctx);
                    }
                }
                Err(error) => this.begin_later(&error, ctx),
            })
            .spawn(ctx);
    }

    fn begin_with(&mut self, epoch: i64, bootstrapped: Bootstrapped, served: Served, ctx: &mut Context<Self>) {
        self.parts.directory.set_trusted(bootstrapped.trusted.clone());
        for gateway in served.gateways {
            self.start_link(gateway, ctx);
        }
        for (channel, provider) in served.channels {
            let id = channel.id;
            self.parts.directory.set_channel(id, served.reading, Some((channel, provider)));
            self.start_outbox(id, ctx);
        }
        self.start_scheduler(ctx);
        self.start_upkeep(ctx);
        self.parts.directory.set_active(true);
        log::info!(epoch; "this node is active");
        if let Some(ready) = self.parts.ready.take() {
            // Whoever waited may have gone.
            let _ = ready.send(bootstrapped);
        }
    }

    fn begin_later(&mut self, error: &Error, ctx: &mut Context<Self>) {
        log::error!("the node could not begin its work: {}", error.cause());
        self.lease_round += 1;
        self.set_lease_timer(ASK, Self::ask_for_lease, ctx);
    }

    /// Notes until when we may speak for the database: our own clock ends the lease a little early.
    pub(super) fn hold_lease(&self, asked_at: i64, asked: tokio::time::Instant) {
        if self.alone() {
            self.parts.directory.set_lease_until(i64::MAX, None);
        } else {
            let held = Duration::from_millis(u64::try_from(LEASE_MS - LEASE_MARGIN_MS).unwrap_or(0));
            self.parts.directory.set_lease_until(asked_at + LEASE_MS - LEASE_MARGIN_MS, Some(asked + held));
        }
    }

    pub(super) fn renew_lease(&mut self, ctx: &mut Context<Self>) {
        if self.stopping && !self.finishing {
            return;
        }
        let round = self.lease_round;
        let (store, command) = (self.parts.store.clone(), self.take_lease(false));
        let (asked_at, asked) = (self.parts.clock.now_ms(), tokio::time::Instant::now());
        let epoch = self.parts.store.epoch().load(Ordering::SeqCst);
        async move { store.write(command).await }
            .into_actor(self)
            .map(move |result, this, ctx| match result {
                _ if round != this.lease_round => {}
                Ok(Lease::Ours { epoch: held }) if held == epoch => {
                    this.hold_lease(asked_at, asked);
                    this.set_lease_timer(Duration::from_millis(RENEW_MS), Self::renew_lease, ctx);
                }
                Ok(_) => this.step_down(ctx),
                Err(error) if error.code() == ErrorCode::Standby => this.step_down(ctx),
                Err(error) => {
                    log::warn!("the node lease could not be renewed: {error}");
                    if this.parts.directory.lease_holds(this.parts.clock.now_ms()) {
                        this.set_lease_timer(Duration::from_millis(RENEW_MS / 4), Self::renew_lease, ctx);
                    } else {
                        this.step_down(ctx);
                    }
                }
            })
            .spawn(ctx);
    }

    /// Another node speaks for the database now: stop acting, and stand by.
    pub(super) fn step_down(&mut self, ctx: &mut Context<Self>) {
        log::warn!("this node has lost its lease and stands by");
        self.parts.store.epoch().store(STANDBY, Ordering::SeqCst);
        self.stop_acting(ctx);
        self.standby_said = false;
        self.set_lease_timer(ASK, Self::ask_for_lease, ctx);
    }

    /// Something may have been committed that nobody was told of: begin anew from what is stored (D12), but not again
    /// and again where the disk comes and goes. A node that is not active reads it all before it acts.
    pub(super) fn begin_anew(&mut self, ctx: &mut Context<Self>) {
        if self.parts.directory.is_active() && !self.stopping {
            let wait = self.begun_anew_at.map_or(Duration::ZERO, |at| ANEW_GAP.saturating_sub(at.elapsed()));
            self.begin_anew_in(wait, ctx);
        }
    }

    fn begin_anew_in(&mut self, wait: Duration, ctx: &mut Context<Self>) {
        if self.anew_timer.is_none() {
            self.anew_timer = Some(ctx.run_later(wait, |this, ctx| {
                this.anew_timer = None;
                this.renew_and_begin_anew(ctx);
            }));
        }
    }

    /// Renews the lease, which shows that the store can be written to and has the writer forget what it remembers; only then
    /// everything stops and begins again. Under the same epoch: what is on its way to the store is still written.
    fn renew_and_begin_anew(&mut self, ctx: &mut Context<Self>) {
        if self.stopping || !self.parts.directory.is_active() {
            return;
        }
        let round = self.lease_round;
        let (store, command) = (self.parts.store.clone(), self.take_lease(true));
        let (asked_at, asked) = (self.parts.clock.now_ms(), tokio::time::Instant::now());
        let epoch = self.parts.store.epoch().load(Ordering::SeqCst);
        async move { store.write(command).await }
            .into_actor(self)
            .map(move |result, this, ctx| match result {
                // It has begun anew meanwhile, or stands by.
                _ if round != this.lease_round || this.stopping => {}
                Ok(Lease::Ours { epoch: held }) if held == epoch => {
                    log::warn!(
                        "what was committed before a fault is not known; this node begins anew from what is stored"
                    );
                    this.begun_anew_at = Some(asked);
                    this.stop_acting(ctx);
                    this.become_active(epoch, asked_at, asked, ctx);
                }
                Ok(_) => this.step_down(ctx),
                Err(error) if error.code() == ErrorCode::Standby => this.step_down(ctx),
                // Until the store is well it refuses by itself.
                Err(error) => {
                    log::warn!("the node lease could not be renewed to begin anew: {error}");
                    this.begin_anew_in(ASK, ctx);
                }
            })
            .spawn(ctx);
    }

    /// Stops everything that acts for the database, and what was planned for the lease it had.
    fn stop_acting(&mut self, ctx: &mut Context<Self>) {
        self.lease_round += 1;
        for planned in [self.lease_timer.take(), self.anew_timer.take()].into_iter().flatten() {
            ctx.cancel_future(planned);
        }
        self.parts.directory.set_active(false);
        self.parts.directory.set_lease_until(0, None);
        self.parts.directory.forget_live();
        self.stop_children();
        self.parts.hubs.publish(vec![Event::SteppedDown]);
    }
}
