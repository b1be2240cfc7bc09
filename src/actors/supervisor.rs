//! The root of the actors: becomes the active node, starts the children, starts them again when they fall, and routes
//! typed messages between them. What it decides is in [`super::routing`].
//!
//! Owner: the process; one a node.
//!
//! Invariants
//! - D5: children that act for the database run only while this node holds the lease; when it is lost they are stopped,
//!   the sockets are closed and the node stands by.
//! - A child that ends without being told to is started again after a growing delay; after too many ends it is parked.
mod lease;
mod mailboxes;
mod outboxes;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::bootstrap::Bootstrapped;
use super::channel_outbox::ChannelOutbox;
use super::directory::Directory;
use super::gateway_link::{ConversationGone, DeliveryMoved, GatewayLink, Leave, LinkParts};
use super::hub::Hubs;
use super::messages::{Observe, Report, Stop, ToLink};
use super::routing::{self, Restarts, Route, Verdict};
use super::scheduler::{DueChanged, Scheduler};
use super::store_writer::StoreWriter;
use super::upkeep::{Upkeep, Wake};
use crate::config::Config;
use crate::domain::clock::Clock;
use crate::domain::delivery::Delivery;
use crate::domain::event::{Event, GatewayChange, Topic};
use crate::domain::gateway::Gateway;
use crate::domain::ids::{AgentId, ChannelId, GatewayId, HomeId, NodeId};
use crate::store::agent_keys::NoteAgentKeysUsed;
use crate::store::lease::DropLease;
use crate::store::users::NoteTokensUsed;
use crate::store::vault::Vault;
use crate::store::{Lane, Location, Store, WriterSeed, gateways};

/// How often a stand-by asks for the lease: at most so long after its end the node takes over.
const ASK: Duration = Duration::from_millis(1_000);
/// Least time between two new beginnings after a doubt: each one closes all browsers and links.
const ANEW_GAP: Duration = Duration::from_secs(5);
/// How often the active node looks at its own lease.
const LOOK: Duration = Duration::from_millis(500);
/// How often the use of tokens and keys is written down.
const NOTE_USE: Duration = Duration::from_secs(30);
/// How long the actors have to tell of themselves.
const OBSERVE_WAIT: Duration = Duration::from_secs(2);
/// Mailboxes that are asked about themselves; there may be many.
const MAILBOXES_OBSERVED: usize = 1_000;
/// Margin by which our own clock ends the lease before the database's does.
const LEASE_MARGIN_MS: i64 = 1_000;

/// Who a child is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Child {
    Link(GatewayId),
    /// Never started again by itself: the next call that needs it opens it.
    Mailbox(AgentId),
    Outbox(ChannelId),
    Scheduler,
    StoreWriter,
    Upkeep,
}

/// A child has ended; `clean` when it was told to.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct ChildStopped {
    pub child: Child,
    pub clean: bool,
}

/// The store has committed something.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub struct StoreEvents(pub Arc<Vec<Arc<Event>>>);

/// The scheduler found deliveries whose wait is over.
#[derive(Message)]
#[rtype(result = "()")]
pub struct DeliveriesReady(pub Vec<(Arc<Topic>, Delivery)>);

/// Ask every actor about itself.
#[derive(Message)]
#[rtype(result = "Vec<Report>")]
pub struct ObserveAll;

/// Stop everything in order: refuse, let messages to people arrive, say goodbye to the gateways, write what waits, give
/// the lease up.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Shutdown {
    /// Until when messages to people may be on their way: what is cut then is of unknown outcome.
    pub arrive_until: tokio::time::Instant,
}

/// What the supervisor is made with.
pub struct SupervisorParts {
    pub config: Arc<Config>,
    pub store: Store,
    pub seed: WriterSeed,
    pub directory: Arc<Directory>,
    pub hubs: Arc<Hubs>,
    pub clock: Arc<dyn Clock>,
    pub vault: Vault,
    /// The data directory of this node.
    pub home: HomeId,
    /// Told once, when this node has become the active one for the first time.
    pub ready: Option<oneshot::Sender<Bootstrapped>>,
}

pub struct Supervisor {
    parts: SupervisorParts,
    node_id: NodeId,
    writer: Option<Addr<StoreWriter>>,
    scheduler: Option<Addr<Scheduler>>,
    upkeep: Option<Addr<Upkeep>>,
    links: HashMap<GatewayId, Addr<GatewayLink>>,
    /// Links that are told to stop and are started again when they have.
    restarting: HashMap<GatewayId, bool>,
    outboxes: HashMap<ChannelId, Addr<ChannelOutbox>>,
    /// The newest reading of each channel that is read anew.
    reading: HashMap<ChannelId, u64>,
    restarts: HashMap<Child, Restarts>,
    stopping: bool,
    /// Messages to people are on their way, so that the lease is still needed.
    finishing: bool,
    standby_said: bool,
    /// Counts the times the lease was asked for afresh, so that a late answer of an earlier time changes nothing.
    lease_round: u64,
    /// The next time the lease is asked for or renewed.
    lease_timer: Option<SpawnHandle>,
    /// When the node began anew last because of a doubt (D12).
    begun_anew_at: Option<tokio::time::Instant>,
    /// The next time it does, if it is to.
    anew_timer: Option<SpawnHandle>,
}

impl Supervisor {
    pub fn new(parts: SupervisorParts) -> Self {
        Self {
            parts,
            node_id: NodeId::new(),
            writer: None,
            scheduler: None,
            upkeep: None,
            links: HashMap::new(),
            restarting: HashMap::new(),
            outboxes: HashMap::new(),
            reading: HashMap::new(),
            restarts: HashMap::new(),
            stopping: false,
            finishing: false,
            standby_said: false,
            lease_round: 0,
            lease_timer: None,
            begun_anew_at: None,
            anew_timer: None,
        }
    }

    fn alone(&self) -> bool {
        matches!(self.parts.store.location(), Location::Sqlite(_))
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(4_096);
        self.parts.hubs.set_supervisor(ctx.address().recipient());
        self.start_writer(ctx);
        self.ask_for_lease(ctx);
        ctx.run_interval(NOTE_USE, |this, _| this.note_use());
        // A database that does not answer at all ends the lease as well.
        ctx.run_interval(LOOK, |this, ctx| {
            let holds = this.parts.directory.lease_holds(this.parts.clock.now_ms());
            if this.parts.directory.is_active() && !holds && !this.stopping {
                this.step_down(ctx);
            }
        });
    }
}

// ---- children --------------------------------------------------------------------------------------------------------

impl Supervisor {
    fn stop_children(&mut self) {
        for (_, link) in self.links.drain() {
            link.do_send(Stop);
        }
        self.reading.clear();
        for (_, outbox) in self.outboxes.drain() {
            outbox.do_send(Stop);
        }
        if let Some(scheduler) = self.scheduler.take() {
            scheduler.do_send(Stop);
        }
        if let Some(upkeep) = self.upkeep.take() {
            upkeep.do_send(Stop);
        }
        self.parts.directory.agents().cards().stop_all();
    }

    fn note_use(&self) {
        let directory = &self.parts.directory;
        let used = directory.take_used();
        let (keys, agents) = directory.agents().take_used(self.parts.clock.now_ms());
        if !directory.is_active() {
            return;
        }
        // A lost note is a less exact "last used".
        if !used.is_empty() {
            let _ = self.parts.store.write_later(Lane::Bulk, NoteTokensUsed { used });
        }
        for part in NoteAgentKeysUsed::in_parts(&keys, &agents) {
            let _ = self.parts.store.write_later(Lane::Bulk, part);
        }
    }

    fn start_writer(&mut self, ctx: &mut Context<Self>) {
        let parent = ctx.address().recipient();
        match StoreWriter::new(self.parts.seed.clone(), self.parts.store.clone(), parent) {
            Ok(writer) => self.writer = Some(writer.start()),
            Err(error) => {
                log::error!("the store's writer could not be started: {error}");
                ctx.run_later(ASK, Self::start_writer);
            }
        }
    }

    fn start_scheduler(&mut self, ctx: &mut Context<Self>) {
        let scheduler = Scheduler::new(
            self.parts.store.clone(),
            self.parts.clock.clone(),
            ctx.address().recipient(),
            ctx.address().recipient(),
        );
        if let Some(before) = self.scheduler.replace(scheduler.start()) {
            before.do_send(Stop);
        }
    }

    fn start_upkeep(&mut self, ctx: &mut Context<Self>) {
        let retention = self.parts.config.retention.clone();
        let upkeep = Upkeep::new(self.parts.store.clone(), retention, ctx.address().recipient());
        if let Some(before) = self.upkeep.replace(upkeep.start()) {
            before.do_send(Stop);
        }
    }

    fn start_link(&mut self, gateway: Gateway, ctx: &mut Context<Self>) {
        let id = gateway.id.clone();
        self.parts.directory.set_gateway(gateway.clone());
        let parts = LinkParts {
            gateway,
            store: self.parts.store.clone(),
            directory: self.parts.directory.clone(),
            hubs: self.parts.hubs.clone(),
            clock: self.parts.clock.clone(),
            vault: self.parts.vault.clone(),
            config: self.parts.config.gateway.clone(),
            limits: self.parts.config.limits.clone(),
            parent: ctx.address().recipient(),
        };
        if let Some(before) = self.links.insert(id, GatewayLink::new(parts).start()) {
            before.do_send(Stop);
        }
    }

    /// Reads a gateway anew and starts its link; does nothing for one that is gone.
    fn reload_link(&mut self, id: GatewayId, ctx: &mut Context<Self>) {
        let (store, wanted) = (self.parts.store.clone(), id.clone());
        async move { store.read(move |db| gateways::get(db, &wanted)).await }
            .into_actor(self)
            .map(move |found, this, ctx| match found {
                Ok(Some(gateway)) if !this.stopping => this.start_link(gateway, ctx),
                Ok(_) => this.parts.directory.remove_gateway(&id),
                Err(error) => {
                    log::warn!("a gateway could not be read: {error}");
                    ctx.run_later(ASK, move |this, ctx| this.reload_link(id, ctx));
                }
            })
            .spawn(ctx);
    }

    fn to_link<M>(&self, id: &GatewayId, message: M)
    where
        M: Message + Send + 'static,
        M::Result: Send,
        GatewayLink: Handler<M>,
    {
        if let Some(link) = self.links.get(id) {
            // Bounded by the store, which the sender waits for.
            link.do_send(message);
        }
    }
}

// ---- messages --------------------------------------------------------------------------------------------------------

impl Handler<StoreEvents> for Supervisor {
    type Result = ();

    fn handle(&mut self, msg: StoreEvents, ctx: &mut Self::Context) {
        let due: Vec<_> = msg.0.iter().filter_map(|event| routing::due_change(event)).collect();
        if let (Some(scheduler), false) = (&self.scheduler, due.is_empty()) {
            scheduler.do_send(DueChanged(due));
        }
        if let (Some(upkeep), true) = (&self.upkeep, msg.0.iter().any(|event| routing::wants_upkeep(event))) {
            upkeep.do_send(Wake);
        }
        for event in msg.0.iter() {
            match (routing::route(event), event.as_ref()) {
                (Route::Outbox(id), Event::Delivery { delivery, .. }) => self.to_outbox(id, delivery.clone()),
                // Before this node is active its channels are not read; then they all are.
                (Route::Outbox(id), Event::ChannelChanged { .. }) if self.parts.directory.is_active() => {
                    self.reload_channel(id, ctx);
                }
                (Route::Link(id), Event::Delivery { delivery, line, .. }) => {
                    // What is to wait is told by the scheduler when its time has come.
                    let later = delivery.state == crate::domain::delivery::DeliveryState::Pending
                        && delivery.must_wait(self.parts.clock.now_ms());
                    if !later {
                        self.to_link(&id, DeliveryMoved { delivery: delivery.clone(), line: line.clone() });
                    }
                }
                (Route::Link(id), Event::ConversationDeleted { topic, .. }) => {
                    self.to_link(&id, ConversationGone(topic.conversation_id));
                }
                (_, Event::OutcomeUnknown) => self.begin_anew(ctx),
                // Before this node is active its links are not started; then they all are.
                (Route::RestartLink { .. }, _) if !self.parts.directory.is_active() => {}
                (Route::RestartLink { gateway_id, change }, _) => {
                    let removed = change == GatewayChange::Removed;
                    if removed {
                        self.parts.directory.remove_gateway(&gateway_id);
                    }
                    match self.links.remove(&gateway_id) {
                        Some(link) => {
                            self.restarting.insert(gateway_id, removed);
                            link.do_send(Leave(change));
                        }
                        None if !removed => self.reload_link(gateway_id, ctx),
                        None => {}
                    }
                }
                _ => {}
            }
        }
    }
}

impl Handler<DeliveriesReady> for Supervisor {
    type Result = ();

    fn handle(&mut self, msg: DeliveriesReady, _ctx: &mut Self::Context) {
        for (topic, delivery) in msg.0 {
            if let Some(gateway_id) = &topic.gateway_id {
                self.to_link(gateway_id, DeliveryMoved { delivery: Arc::new(delivery), line: None });
            }
            // A mailbox has heard of it by its event, and looks at the clock itself.
        }
    }
}

impl Handler<ToLink> for Supervisor {
    type Result = ();

    fn handle(&mut self, msg: ToLink, _ctx: &mut Self::Context) {
        if let Some(link) = self.links.get(&msg.gateway_id) {
            link.do_send(msg);
        }
        // Without a link the reply is dropped, which the asker takes for "not connected".
    }
}

impl Handler<ChildStopped> for Supervisor {
    type Result = ();

    fn handle(&mut self, msg: ChildStopped, ctx: &mut Self::Context) {
        if let Child::Link(id) = &msg.child
            && let Some(removed) = self.restarting.remove(id)
        {
            if !removed {
                self.reload_link(id.clone(), ctx);
            }
            return;
        }
        if !msg.clean && !self.stopping {
            self.start_again(msg.child, ctx);
        }
    }
}

impl Supervisor {
    /// Starts a child again that ended without being told to, after a growing delay.
    fn start_again(&mut self, child: Child, ctx: &mut Context<Self>) {
        let verdict = self.restarts.entry(child.clone()).or_default().on_end(self.parts.clock.now_ms());
        match verdict {
            Verdict::RestartIn { ms } => {
                log::error!(delay_ms = ms; "{child:?} ended unexpectedly and is started again");
                ctx.run_later(Duration::from_millis(ms), move |this, ctx| match child {
                    Child::Link(id) => this.reload_link(id, ctx),
                    Child::Scheduler => this.start_scheduler(ctx),
                    Child::StoreWriter => this.start_writer(ctx),
                    Child::Upkeep => this.start_upkeep(ctx),
                    Child::Outbox(id) => this.reload_channel(id, ctx),
                    Child::Mailbox(_) => {}
                });
            }
            Verdict::Park => log::error!("{child:?} ended too often and is not started again; restart clawbroker"),
        }
    }
}

impl Handler<ObserveAll> for Supervisor {
    type Result = ResponseFuture<Vec<Report>>;

    fn handle(&mut self, _: ObserveAll, _ctx: &mut Self::Context) -> Self::Result {
        let restarts: serde_json::Map<String, serde_json::Value> = self
            .restarts
            .iter()
            .map(|(child, r)| (format!("{child:?}"), serde_json::json!({ "total": r.total, "parked": r.parked })))
            .collect();
        let own = Report {
            actor: "supervisor",
            id: self.node_id.to_string(),
            state: serde_json::json!({
                "active": self.parts.directory.is_active(),
                "epoch": self.parts.store.epoch().load(Ordering::SeqCst),
                "links": self.links.len(),
                "outboxes": self.outboxes.len(),
                "mailboxes": self.parts.directory.agents().cards().len(),
                "polls_waiting": self.parts.directory.agents().cards().waiting(),
                "runs": self.parts.directory.runs(),
                "sockets": self.parts.directory.sockets(),
                "restarts": restarts,
                "hub_lagged_total": self.parts.hubs.lagged_total(),
                "events_published_total": self.parts.hubs.published_total(),
            }),
        };
        let mut children: Vec<Recipient<Observe>> = self.links.values().map(|link| link.clone().recipient()).collect();
        children.extend(self.outboxes.values().map(|outbox| outbox.clone().recipient()));
        children.extend(self.parts.directory.agents().cards().observed(MAILBOXES_OBSERVED));
        children.extend(self.writer.iter().map(|writer| writer.clone().recipient()));
        children.extend(self.scheduler.iter().map(|scheduler| scheduler.clone().recipient()));
        children.extend(self.upkeep.iter().map(|upkeep| upkeep.clone().recipient()));
        let hubs = self.parts.hubs.clone();
        Box::pin(async move {
            // A child that ends or hangs meanwhile is left out; the first shows in the counts of restarts.
            let told = children.iter().map(|child| tokio::time::timeout(OBSERVE_WAIT, child.send(Observe)));
            let (told, of_sockets) =
                futures_util::join!(futures_util::future::join_all(told), hubs.observe(OBSERVE_WAIT));
            let mut reports = vec![own];
            reports.extend(told.into_iter().flatten().flatten());
            reports.extend(of_sockets);
            reports
        })
    }
}

impl Handler<Shutdown> for Supervisor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, msg: Shutdown, _ctx: &mut Self::Context) -> Self::Result {
        (self.stopping, self.finishing) = (true, true);
        self.note_use();
        let finished = self.finish_outboxes(msg.arrive_until);
        let (store, node_id) = (self.parts.store.clone(), self.node_id);
        let ended = finished.into_actor(self).map(|(), this, _| {
            this.finishing = false;
            this.stop_children();
        });
        let done = async move {
            // Behind everything that waits: when it is answered, everything before it is on disk.
            if let Err(error) = store.write(DropLease { node_id }).await {
                log::warn!("the lease could not be given up: {error}");
            }
        };
        let done = ended.then(move |(), this, _| done.into_actor(this));
        Box::pin(done.map(|(), this, _| {
            if let Some(writer) = this.writer.take() {
                writer.do_send(Stop);
            }
        }))
    }
}
