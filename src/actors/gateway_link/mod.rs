//! The connection to one upstream gateway: handshake, requests, liveness, reconnects; its sessions are plain state in
//! `session`, and what they want is done in `effects`.
//!
//! Owner: the supervisor, one for each registered gateway.
//!
//! Invariants
//! - SEC-1: the gateway's secrets live here only, and never in a log line, a status or an error.
//! - D4, D5: nothing is sent upstream before its lease is on disk, nor when this node's own lease has run out.
//! - A gateway that said no is asked again only when that can help.
mod answers;
mod connection;
mod effects;
mod load;
mod reading;
mod requests;
mod runs;
mod session;
mod socket;
mod tail;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use serde_json::json;

use self::reading::{Reading, Wanted, refuse_touches};
use self::requests::{For, Request, Requests};
use self::runs::Runs;
use self::session::{Options, Session};
use self::socket::Outgoing;
use super::directory::Directory;
use super::hub::Hubs;
use super::messages::{LinkRequest, Observe, Report, Stop};
use super::supervisor::{Child, ChildStopped};
use crate::config::{GatewayConfig, Limits};
use crate::domain::clock::Clock;
use crate::domain::delivery::{Delivery, DeliveryState};
use crate::domain::error::Error;
use crate::domain::event::{GatewayChange, LinkChange, Live};
use crate::domain::gateway::{Gateway, LinkState, LinkStatus};
use crate::domain::ids::{ConversationId, DeliveryId};
use crate::domain::message::Line;
use crate::gateway::backoff::Backoff;
use crate::gateway::device::DeviceIdentity;
use crate::gateway::handshake::Refusal;
use crate::store::gateways::Credentials;
use crate::store::vault::Vault;
use crate::store::{Db, Store, turns};

/// How often timeouts, silence and checkpoints are looked at.
const TICK: Duration = Duration::from_millis(500);
/// Silence that ends a connection: two pings without an answer, but no longer than this.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Twice the gateway's own tick is always waited for; this is the longest tick that is believed.
const TICK_INTERVAL_MAX: Duration = Duration::from_secs(300);
/// Names that the gateway may have for each session: its own and those that clients use.
const NAMES_PER_SESSION_MAX: usize = 4;
/// Names of sessions that are not tracked; beyond it they are forgotten, and asked for again.
const UNTRACKED_MAX: usize = 10_000;
/// Sessions whose log is read after a reconnect because the gateway says they moved.
const SESSIONS_LISTED: u32 = 200;

/// What a link is made with.
#[derive(Clone)]
pub struct LinkParts {
    pub gateway: Gateway,
    pub store: Store,
    pub directory: Arc<Directory>,
    pub hubs: Arc<Hubs>,
    pub clock: Arc<dyn Clock>,
    pub vault: Vault,
    pub config: GatewayConfig,
    pub limits: Limits,
    pub parent: Recipient<ChildStopped>,
}

/// Reads the runs that were open on these gateways when the broker stopped, each with its conversation and the text that
/// was kept: what is to be seen of them until their links know more.
pub fn open_runs(db: &mut Db, gateways: &[Gateway]) -> Vec<(ConversationId, Arc<Live>)> {
    let mut runs = Vec::new();
    for gateway in gateways {
        match turns::open_of_gateway(db, &gateway.id) {
            Ok(open) => {
                runs.extend(open.iter().map(|turn| (turn.conversation_id, Arc::new(session::live_of(turn)))));
            }
            // Its link reads them again; what cannot be read at all is told there (STO-3).
            Err(error) => {
                log::warn!(gateway_id = gateway.id.as_str(); "open turns could not be read: {}", error.cause())
            }
        }
    }
    runs
}

/// Where the connection stands.
enum Phase {
    Idle,
    Dialling,
    /// The socket is open; the gateway speaks first.
    AwaitingChallenge {
        since: tokio::time::Instant,
    },
    AwaitingHello {
        since: tokio::time::Instant,
    },
    Up,
}

pub struct GatewayLink {
    parts: LinkParts,
    options: Arc<Options>,
    credentials: Credentials,
    device: Option<DeviceIdentity>,
    client: awc::Client,
    phase: Phase,
    /// Counts connections, so that a word of an old one is not taken for the new one's.
    generation: u64,
    outgoing: Option<Outgoing>,
    requests: Requests,
    sessions: HashMap<ConversationId, Session>,
    by_canonical: HashMap<String, ConversationId>,
    runs: Runs,
    /// Names of sessions that are not tracked: deleted here, or not yet.
    untracked: HashSet<String>,
    status: LinkStatus,
    backoff: Backoff,
    retry: Option<SpawnHandle>,
    /// Scopes the gateway has agreed to after it refused more.
    scopes: Option<Vec<String>>,
    use_device_token: bool,
    switched: bool,
    refused: Option<Refusal>,
    heard_at: tokio::time::Instant,
    /// When it last told something: whoever only answers pings may have stopped working.
    told_at: tokio::time::Instant,
    pinged_at: Option<tokio::time::Instant>,
    tick_interval: Duration,
    boot_id: Option<String>,
    last_seq: u64,
    holes_total: u64,
    connects_total: u64,
    loaded: bool,
    reading: Reading<Wanted>,
    touches: HashMap<ConversationId, Vec<super::messages::Reply<()>>>,
    /// Questions that are to be cancelled, until the store has done so.
    cancels: HashSet<DeliveryId>,
    /// The gateway's lists that have not come yet since the hello.
    lists_awaited: u8,
    leaving: bool,
}

impl GatewayLink {
    pub fn new(parts: LinkParts) -> Self {
        let config = &parts.config;
        let ms = |seconds: u64| i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let options = Arc::new(Options {
            resume_wait_ms: ms(config.resume_wait_s),
            silence_ms: ms(config.run_silence_s),
            checkpoint_ms: i64::try_from(config.checkpoint_ms).unwrap_or(i64::MAX),
            history_rows: u32::try_from(config.history_page_rows).unwrap_or(session::HISTORY_ROWS_MAX),
            import_lines_max: parts.limits.import_lines_max,
            store_thinking: config.store_thinking,
        });
        let client = awc::Client::builder()
            .timeout(Duration::from_millis(config.connect_timeout_ms))
            .disable_redirects()
            .finish();
        let since_ms = parts.clock.now_ms();
        let known = parts.directory.gateway(&parts.gateway.id);
        let known = known.map(|card| card.status.last_known()).unwrap_or_default();
        Self {
            options,
            credentials: Credentials::default(),
            device: None,
            client,
            phase: Phase::Idle,
            generation: 0,
            outgoing: None,
            requests: Requests::default(),
            sessions: HashMap::new(),
            by_canonical: HashMap::new(),
            runs: Runs::default(),
            untracked: HashSet::new(),
            status: LinkStatus { since_ms, ..known },
            backoff: Backoff::default(),
            retry: None,
            scopes: None,
            use_device_token: false,
            switched: false,
            refused: None,
            heard_at: tokio::time::Instant::now(),
            told_at: tokio::time::Instant::now(),
            pinged_at: None,
            tick_interval: Duration::from_secs(30),
            boot_id: None,
            last_seq: 0,
            holes_total: 0,
            connects_total: 0,
            loaded: false,
            reading: Reading::default(),
            touches: HashMap::new(),
            cancels: HashSet::new(),
            lists_awaited: 0,
            leaving: false,
            parts,
        }
    }
}

impl Actor for GatewayLink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1_024);
        self.publish_status();
        if self.parts.gateway.enabled {
            ctx.run_interval(TICK, Self::tick);
        } else {
            self.set_state(LinkState::Disabled, None);
        }
        self.load(ctx);
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        let child = Child::Link(self.parts.gateway.id.clone());
        self.parts.parent.do_send(ChildStopped { child, clean: self.leaving });
    }
}

// ---- messages --------------------------------------------------------------------------------------------------------

/// A question for this gateway was accepted, given back or started afresh (pending), or ended without us.
#[derive(Message)]
#[rtype(result = "()")]
pub struct DeliveryMoved {
    pub delivery: Arc<Delivery>,
    /// Its line, where it is at hand.
    pub line: Option<Arc<Line>>,
}

impl Handler<DeliveryMoved> for GatewayLink {
    type Result = ();

    fn handle(&mut self, msg: DeliveryMoved, ctx: &mut Self::Context) {
        let delivery = msg.delivery;
        match delivery.state {
            DeliveryState::Pending => self.question(delivery, msg.line, ctx),
            DeliveryState::Cancelled | DeliveryState::Expired | DeliveryState::Dead => {
                self.with_session(delivery.conversation_id, ctx, |session, _| session.on_ended_elsewhere(delivery.id));
            }
            DeliveryState::Leased | DeliveryState::Completed => {}
        }
    }
}

/// A conversation of this gateway was deleted.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ConversationGone(pub ConversationId);

impl Handler<ConversationGone> for GatewayLink {
    type Result = ();

    fn handle(&mut self, msg: ConversationGone, ctx: &mut Self::Context) {
        // What runs, or is on its way, is told to stop; nobody waits for its end.
        self.with_session(msg.0, ctx, |session, _| session.abort(None, false));
        if let Some(session) = self.sessions.remove(&msg.0) {
            if let Some(run_id) = session.run_id() {
                let params = json!({ "sessionKey": session.upstream_key(), "runId": run_id });
                self.ask(Request { method: "chat.abort", params, why: For::Abort }, ctx);
            }
            self.by_canonical.retain(|_, id| *id != msg.0);
            if let Some(run) = session.run_id() {
                self.runs.remove(run);
            }
        }
        self.answer_touches(msg.0);
        drop(refuse_touches(self.reading.forget(msg.0), &Error::not_found("session", msg.0)));
        // An event of the run may have been told after the store's writer had forgotten it.
        self.parts.directory.forget_runs_of(msg.0);
    }
}

impl Handler<super::messages::ToLink> for GatewayLink {
    type Result = ();

    fn handle(&mut self, msg: super::messages::ToLink, ctx: &mut Self::Context) {
        match msg.request {
            LinkRequest::Touch { conversation_id, reply } => self.touch(conversation_id, reply, ctx),
            LinkRequest::Abort { conversation_id, turn_id, queued, reply } => {
                let is_asked = self.parts.gateway.enabled;
                self.with_session(conversation_id, ctx, |session, _| match is_asked {
                    true => session.abort(turn_id, queued),
                    false => session.abort_unasked(turn_id, queued),
                });
                // Whoever asked may have gone.
                let _ = reply.send(if self.loaded { Ok(()) } else { Err(self.unavailable()) });
            }
            LinkRequest::Sessions { reply } => {
                let params = json!({ "limit": 1_000 });
                self.ask(Request { method: "sessions.list", params, why: For::List(reply) }, ctx);
            }
            LinkRequest::DeleteSession { key, reply } => {
                let params = json!({ "key": key });
                self.ask(Request { method: "sessions.delete", params, why: For::Delete(reply) }, ctx);
            }
            LinkRequest::Reconnect => {
                self.backoff.reset();
                self.scopes = None;
                self.switched = false;
                if matches!(self.phase, Phase::Idle) {
                    self.dial(ctx);
                }
            }
            LinkRequest::Test { reply } => {
                self.ask(Request { method: "agents.list", params: json!({}), why: For::Test(reply) }, ctx);
            }
        }
    }
}

impl Handler<Observe> for GatewayLink {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _ctx: &mut Self::Context) -> Self::Result {
        let (in_flight, waiting) = self.requests.len();
        MessageResult(Report {
            actor: "gateway_link",
            id: self.parts.gateway.id.to_string(),
            state: json!({
                "state": self.status.state,
                "since": crate::domain::time::iso(self.status.since_ms),
                "sessions": self.sessions.len(),
                "sessions_busy": self.sessions.values().filter(|session| !session.is_idle()).count(),
                "questions_waiting": self.sessions.values().map(Session::queued).sum::<usize>(),
                "requests_in_flight": in_flight,
                "requests_waiting": waiting,
                "requests_sent_total": self.requests.sent_total,
                "requests_timed_out_total": self.requests.timed_out_total,
                "requests_refused_total": self.requests.refused_total,
                "connections_total": self.connects_total,
                "event_holes_total": self.holes_total,
                "problem": self.status.problem,
                "boot_id": self.boot_id,
            }),
        })
    }
}

/// The gateway was changed or removed: end, so that another link may begin.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Leave(pub GatewayChange);

impl Handler<Leave> for GatewayLink {
    type Result = ();

    fn handle(&mut self, msg: Leave, ctx: &mut Self::Context) {
        let (state, reason) = match msg.0 {
            GatewayChange::Changed => (LinkState::Waiting, "the gateway's settings were changed"),
            GatewayChange::Disabled => (LinkState::Disabled, "the gateway was disabled"),
            GatewayChange::Removed => (LinkState::Disabled, "the gateway was removed"),
        };
        if msg.0 == GatewayChange::Removed {
            // An event of a run may have been told after the store's writer had forgotten it.
            for id in self.sessions.keys() {
                self.parts.directory.forget_runs_of(*id);
            }
        }
        if self.status.is_connected() {
            self.status.state = state;
            self.publish_status();
            self.tell_link(LinkChange::Down { reason: reason.to_owned(), retry_in_ms: None });
        }
        self.leave(ctx);
    }
}

impl Handler<Stop> for GatewayLink {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        self.leave(ctx);
    }
}

impl GatewayLink {
    fn leave(&mut self, ctx: &mut Context<Self>) {
        self.leaving = true;
        self.write_what_is_left();
        if let Some(outgoing) = self.outgoing.take() {
            outgoing.close(1001, "going away");
        }
        ctx.stop();
    }
}
