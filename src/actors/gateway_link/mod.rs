//! The connection to one upstream gateway: handshake, requests, liveness, reconnects; its sessions are plain state in
//! [`session`], and what they want is done in [`effects`].
//!
//! Owner: the supervisor, one for each registered gateway.
//!
//! Invariants
//! - SEC-1: the gateway's secrets live here only, and never in a log line, a status or an error.
//! - D4, D5: nothing is sent upstream before its lease is on disk, nor when this node's own lease has run out.
//! - A gateway that said no is asked again only when that can help.
mod effects;
mod requests;
mod session;
mod socket;
mod tail;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use serde_json::json;

use self::requests::{For, Request, Requests};
use self::session::{Options, Session};
use self::socket::{DialError, Incoming, Outgoing};
use super::directory::Directory;
use super::hub::Hubs;
use super::messages::{LinkRequest, Observe, Report, Stop, UpstreamSession};
use super::supervisor::{Child, ChildStopped};
use crate::config::{GatewayConfig, Limits};
use crate::domain::clock::Clock;
use crate::domain::delivery::{Delivery, DeliveryState};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::{Event, LinkChange, Publish};
use crate::domain::gateway::{Gateway, LinkState, LinkStatus, Problem};
use crate::domain::ids::ConversationId;
use crate::domain::message::Line;
use crate::domain::secret::Secret;
use crate::gateway::backoff::Backoff;
use crate::gateway::device::DeviceIdentity;
use crate::gateway::frames::{self, AgentsList, Challenge, ChatEvent, HelloOk, Inbound, ModelsList, SessionsList, Shutdown};
use crate::gateway::handshake::{self, Attempt, Auth, Connect, Refusal, Retry};
use crate::store::Store;
use crate::store::gateways::{Credentials, KeepDevice};
use crate::store::vault::Vault;

/// How often timeouts, silence and checkpoints are looked at.
const TICK: Duration = Duration::from_millis(500);
/// How often we ping, for liveness and to measure the way.
const PING_EVERY_MS: u64 = 15_000;
/// Silence that ends a connection, unless the gateway's own tick is slower.
const SILENCE_MIN: Duration = Duration::from_secs(60);
/// Run ids that are known to belong to a session; beyond it the table is emptied, and session keys still tell.
const RUNS_MAX: usize = 100_000;
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

/// Where the connection stands.
enum Phase {
    Idle,
    Dialling,
    /// The socket is open; the gateway speaks first.
    AwaitingChallenge { since: tokio::time::Instant },
    AwaitingHello { since: tokio::time::Instant },
    Up { since: tokio::time::Instant },
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
    by_run: HashMap<String, ConversationId>,
    status: LinkStatus,
    backoff: Backoff,
    retry: Option<SpawnHandle>,
    /// Scopes the gateway has agreed to after it refused more.
    scopes: Option<Vec<String>>,
    use_device_token: bool,
    switched: bool,
    refused: Option<Refusal>,
    heard_at: tokio::time::Instant,
    pinged_at: Option<tokio::time::Instant>,
    tick_interval: Duration,
    boot_id: Option<String>,
    last_seq: u64,
    holes_total: u64,
    connects_total: u64,
    loaded: bool,
    touches: HashMap<ConversationId, Vec<super::messages::Reply<()>>>,
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
            by_run: HashMap::new(),
            status: LinkStatus { since_ms, ..LinkStatus::default() },
            backoff: Backoff::default(),
            retry: None,
            scopes: None,
            use_device_token: false,
            switched: false,
            refused: None,
            heard_at: tokio::time::Instant::now(),
            pinged_at: None,
            tick_interval: Duration::from_secs(30),
            boot_id: None,
            last_seq: 0,
            holes_total: 0,
            connects_total: 0,
            loaded: false,
            touches: HashMap::new(),
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
            self.load(ctx);
            ctx.run_interval(TICK, Self::tick);
        } else {
            self.set_state(LinkState::Disabled, None);
        }
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
            DeliveryState::Pending => self.question(&delivery, msg.line, ctx),
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
        // What runs is told to stop; nobody waits for its end.
        self.with_session(msg.0, ctx, |session, _| session.abort(false));
        if let Some(session) = self.sessions.remove(&msg.0) {
            self.by_canonical.retain(|_, id| *id != msg.0);
            if let Some(run) = session.run_id() {
                self.by_run.remove(run);
            }
        }
    }
}

impl Handler<super::messages::ToLink> for GatewayLink {
    type Result = ();

    fn handle(&mut self, msg: super::messages::ToLink, ctx: &mut Self::Context) {
        match msg.request {
            LinkRequest::Touch { conversation_id, reply } => self.touch(conversation_id, reply, ctx),
            LinkRequest::Abort { conversation_id, queued, reply } => {
                let known = self.sessions.get(&conversation_id).is_some_and(|s| !s.is_idle());
                self.with_session(conversation_id, ctx, |session, _| session.abort(queued));
                // Whoever asked may have gone.
                let _ = reply.send(Ok(known));
            }
            LinkRequest::Sessions { reply } => {
                let params = json!({ "limit": 1_000 });
                self.ask(Request { method: "sessions.list", params, why: For::List(reply) });
            }
            LinkRequest::DeleteSession { key, reply } => {
                let params = json!({ "key": key });
                self.ask(Request { method: "sessions.delete", params, why: For::Delete(reply) });
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
                self.ask(Request { method: "agents.list", params: json!({}), why: For::Test(reply) });
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
                "connections_total": self.connects_total,
                "event_holes_total": self.holes_total,
                "problem": self.status.problem,
                "boot_id": self.boot_id,
            }),
        })
    }
}

impl Handler<Stop> for GatewayLink {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        self.leaving = true;
        if let Some(outgoing) = self.outgoing.take() {
            outgoing.close(1001, "going away");
        }
        ctx.stop();
    }
}

// ---- start and connection --------------------------------------------------------------------------------------------

impl GatewayLink {
    /// Reads the secrets, what is open and what was running; then dials.
    fn load(&mut self, ctx: &mut Context<Self>) {
        let parts = self.parts.clone();
        async move { effects::load(&parts).await }
            .into_actor(self)
            .map(|loaded, this, ctx| match loaded {
                Ok(loaded) => {
                    this.restore(loaded, ctx);
                    this.loaded = true;
                    this.dial(ctx);
                }
                Err(error) => {
                    log::error!(gateway_id = this.parts.gateway.id.as_str(); "a gateway's state could not be read: {error}");
                    ctx.run_later(Duration::from_secs(2), Self::load);
                }
            })
            .spawn(ctx);
    }

    fn restore(&mut self, loaded: effects::Loaded, ctx: &mut Context<Self>) {
        self.credentials = loaded.credentials;
        self.device = Some(loaded.device);
        let now_ms = self.parts.clock.now_ms();
        for (conversation, turn, questions) in loaded.sessions {
            let id = conversation.id;
            self.add_session(conversation);
            if let Some((turn, question)) = turn {
                self.by_run.insert(turn.run_id.clone(), id);
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.restore(turn, question, now_ms);
                }
            }
            for question in questions {
                self.with_session(id, ctx, |session, now_ms| session.on_question(question, now_ms));
            }
        }
    }

    fn dial(&mut self, ctx: &mut Context<Self>) {
        if let Some(retry) = self.retry.take() {
            ctx.cancel_future(retry);
        }
        if self.leaving || !self.loaded || !matches!(self.phase, Phase::Idle) {
            return;
        }
        if !self.parts.directory.lease_holds(self.parts.clock.now_ms()) {
            self.retry = Some(ctx.run_later(Duration::from_secs(1), Self::dial));
            return;
        }
        self.generation += 1;
        let generation = self.generation;
        self.phase = Phase::Dialling;
        self.refused = None;
        self.set_state(LinkState::Connecting, self.status.problem.clone());
        let client = self.client.clone();
        let url = self.parts.gateway.url.clone();
        let timeout = Duration::from_millis(self.parts.config.connect_timeout_ms);
        let frame_bytes_max = self.parts.config.frame_bytes_max;
        async move { socket::dial(&client, &url, timeout, frame_bytes_max).await }
            .into_actor(self)
            .map(move |dialled, this, ctx| {
                if this.generation != generation {
                    return;
                }
                match dialled {
                    Ok((outgoing, incoming)) => {
                        this.outgoing = Some(outgoing);
                        this.heard_at = tokio::time::Instant::now();
                        this.phase = Phase::AwaitingChallenge { since: this.heard_at };
                        this.last_seq = 0;
                        ctx.add_stream(futures_util::StreamExt::map(incoming, move |item| FromSocket { generation, item }));
                    }
                    Err(DialError::Refused(refusal)) => {
                        this.refused = Some(*refusal);
                        this.lost(None, "the gateway refused the connection", ctx);
                    }
                    Err(DialError::Unreachable(sentence)) => this.lost(None, &sentence, ctx),
                }
            })
            .spawn(ctx);
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        let now = tokio::time::Instant::now();
        if !self.parts.directory.lease_holds(self.parts.clock.now_ms()) && self.outgoing.is_some() {
            self.lost(Some(1001), "this node's lease has run out", ctx);
            return;
        }
        let challenge_timeout = Duration::from_millis(self.parts.config.challenge_timeout_ms);
        match self.phase {
            Phase::AwaitingChallenge { since } if now - since > challenge_timeout => {
                self.lost(Some(4000), "no challenge came", ctx);
                return;
            }
            Phase::AwaitingHello { since } if now - since > challenge_timeout => {
                self.lost(Some(4000), "no answer to the handshake came", ctx);
                return;
            }
            Phase::Up { .. } if now - self.heard_at > SILENCE_MIN.max(self.tick_interval * 2) => {
                self.lost(Some(4000), "the gateway fell silent", ctx);
                return;
            }
            Phase::Up { .. } => {
                let due = self.pinged_at.is_none_or(|at| now - at >= Duration::from_millis(PING_EVERY_MS));
                if due && self.outgoing.as_ref().is_some_and(Outgoing::ping) {
                    self.pinged_at = Some(now);
                }
            }
            _ => {}
        }
        let timeout = Duration::from_millis(self.parts.config.request_timeout_ms);
        for why in self.requests.take_timed_out(timeout) {
            self.answered(why, Err(session::RequestError::TimedOut), 0, ctx);
        }
        self.pump();
        let now_ms = self.parts.clock.now_ms();
        let busy: Vec<ConversationId> =
            self.sessions.iter().filter(|(_, session)| session.run_id().is_some()).map(|(id, _)| *id).collect();
        for id in busy {
            self.with_session(id, ctx, |session, _| session.on_tick(now_ms));
        }
    }

    /// The connection has ended, or is ended by us with `close`; decides when to come back.
    fn lost(&mut self, close: Option<u16>, reason: &str, ctx: &mut Context<Self>) {
        self.generation += 1;
        if let Some(outgoing) = self.outgoing.take()
            && let Some(code) = close
        {
            outgoing.close(code, reason);
        }
        let was_up = match self.phase {
            Phase::Up { since } => {
                self.backoff.connection_ended(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
                true
            }
            _ => false,
        };
        self.phase = Phase::Idle;
        self.lists_awaited = 0;
        self.pinged_at = None;
        for session in self.sessions.values_mut() {
            session.on_link_down();
        }
        for why in self.requests.take_all() {
            self.answered(why, Err(session::RequestError::Closed), 0, ctx);
        }
        for replies in std::mem::take(&mut self.touches).into_values() {
            for reply in replies {
                // Whoever asked may have gone.
                let _ = reply.send(Err(self.unavailable()));
            }
        }
        let refusal = self.refused.take().unwrap_or_else(|| Refusal {
            state: LinkState::Waiting,
            problem: Problem {
                code: "unreachable".into(),
                message: reason.to_owned(),
                remedy: None,
                request_id: None,
            },
            retry: Retry::Backoff,
        });
        let wait = self.plan(refusal.retry);
        self.status.retry_at_ms = wait.map(|ms| self.parts.clock.now_ms() + i64::try_from(ms).unwrap_or(0));
        let state = if wait.is_none() && refusal.state == LinkState::Waiting { LinkState::Refused } else { refusal.state };
        log::info!(gateway_id = self.parts.gateway.id.as_str(), state = state.as_str(), retry_in_ms = wait.unwrap_or(0);
            "the connection to gateway `{}` ended: {}", self.parts.gateway.id, refusal.problem.message);
        self.set_state(state, Some(refusal.problem));
        if was_up {
            self.status.reconnects += 1;
            let change = LinkChange::Down { reason: reason.to_owned(), retry_in_ms: wait };
            self.tell_link(change);
        }
        if let Some(ms) = wait.filter(|_| !self.leaving) {
            self.retry = Some(ctx.run_later(Duration::from_millis(ms), Self::dial));
        }
    }

    fn plan(&mut self, retry: Retry) -> Option<u64> {
        match retry {
            Retry::Never => None,
            Retry::After(ms) => Some(self.backoff.asked_ms(ms)),
            Retry::Backoff => {
                let mut random = [0_u8; 4];
                // Without randomness the wait is the shortest one, which is still a wait.
                let _ = getrandom::fill(&mut random);
                Some(self.backoff.next_ms(u32::from_le_bytes(random)))
            }
            Retry::WithScopes(scopes) => {
                self.scopes = Some(scopes);
                Some(self.backoff.asked_ms(0))
            }
            Retry::WithDeviceToken => {
                self.use_device_token = true;
                self.switched = true;
                Some(self.backoff.asked_ms(0))
            }
            Retry::WithoutDeviceToken => {
                self.use_device_token = false;
                self.switched = true;
                self.credentials.device_token = None;
                Some(self.backoff.asked_ms(0))
            }
        }
    }

    fn unavailable(&self) -> Error {
        Error::new(ErrorCode::GatewayUnavailable, format!("gateway `{}` is not connected now", self.parts.gateway.id))
    }

    // ---- what the socket brings --------------------------------------------------------------------------------------

    fn on_text(&mut self, text: &str, ctx: &mut Context<Self>) {
        let inbound = match Inbound::parse(text) {
            Ok(inbound) => inbound,
            Err(error) => {
                log::warn!(gateway_id = self.parts.gateway.id.as_str(); "{error}");
                return;
            }
        };
        match inbound {
            Inbound::Event { event, payload, seq } => {
                if let Some(seq) = seq {
                    self.check_seq(seq, ctx);
                }
                self.on_event(&event, &payload, ctx);
            }
            Inbound::Response { id, result } => {
                let Some((why, took_ms)) = self.requests.take(&id) else { return };
                self.answered(why, result.map_err(session::RequestError::Refused), took_ms, ctx);
                self.pump();
            }
            Inbound::Other => {}
        }
    }

    /// Events are counted per connection; a hole means that the gateway dropped some for us.
    fn check_seq(&mut self, seq: u64, ctx: &mut Context<Self>) {
        let hole = self.last_seq > 0 && seq > self.last_seq + 1;
        self.last_seq = self.last_seq.max(seq);
        if hole && matches!(self.phase, Phase::Up { .. }) {
            self.holes_total += 1;
            let busy: Vec<ConversationId> =
                self.sessions.iter().filter(|(_, session)| session.run_id().is_some()).map(|(id, _)| *id).collect();
            let protocol = self.status.protocol.unwrap_or(4);
            for id in busy {
                self.with_session(id, ctx, |session, now_ms| session.on_link_up(protocol, now_ms));
            }
        }
    }

    fn on_event(&mut self, event: &str, payload: &serde_json::value::RawValue, ctx: &mut Context<Self>) {
        match event {
            "connect.challenge" => match frames::decode::<Challenge>(payload) {
                Ok(challenge) if matches!(self.phase, Phase::AwaitingChallenge { .. }) => self.sign_in(&challenge),
                Ok(_) => {}
                Err(error) => log::warn!(gateway_id = self.parts.gateway.id.as_str(); "{error}"),
            },
            "chat" => match frames::decode::<ChatEvent>(payload) {
                Ok(event) => self.on_chat(event, ctx),
                Err(error) => log::warn!(gateway_id = self.parts.gateway.id.as_str(); "{error}"),
            },
            "shutdown" => {
                if let Ok(shutdown) = frames::decode::<Shutdown>(payload) {
                    log::info!(gateway_id = self.parts.gateway.id.as_str();
                        "gateway `{}` says it is going down: {}", self.parts.gateway.id, shutdown.reason);
                }
            }
            _ => {}
        }
    }

    fn sign_in(&mut self, challenge: &Challenge) {
        let Some(device) = &self.device else { return };
        let scopes = self.scopes.clone().unwrap_or_else(|| handshake::scopes_asked(self.parts.gateway.admin));
        let auth = if self.use_device_token || !self.has_shared_secret() {
            Auth { device_token: self.credentials.device_token.clone(), ..Auth::default() }
        } else {
            Auth { token: self.credentials.token.clone(), password: self.credentials.password.clone(), device_token: None }
        };
        let params = handshake::connect_params(&Connect {
            version: env!("CARGO_PKG_VERSION"),
            scopes: &scopes,
            auth: &auth,
            challenge,
            device,
        });
        self.phase = Phase::AwaitingHello { since: tokio::time::Instant::now() };
        self.requests.reset();
        self.ask(Request { method: "connect", params, why: For::Connect });
        self.pump();
    }

    fn has_shared_secret(&self) -> bool {
        self.credentials.token.is_some() || self.credentials.password.is_some()
    }

    fn on_hello(&mut self, hello: &HelloOk, took_ms: u64, ctx: &mut Context<Self>) {
        let now = tokio::time::Instant::now();
        let verdict = handshake::judge_hello(hello, self.parts.gateway.admin);
        self.phase = Phase::Up { since: now };
        self.connects_total += 1;
        self.switched = false;
        self.tick_interval = Duration::from_millis(hello.policy.tick_interval_ms);
        if self.boot_id.is_some() && self.boot_id != hello.server.boot_id {
            log::info!(gateway_id = self.parts.gateway.id.as_str(); "gateway `{}` was started anew", self.parts.gateway.id);
        }
        self.boot_id.clone_from(&hello.server.boot_id);
        self.status.protocol = Some(hello.protocol);
        self.status.version = Some(hello.server.version.clone());
        self.status.scopes.clone_from(&hello.auth.scopes);
        self.status.scopes_missing = verdict.scopes_missing;
        self.status.default_agent.clone_from(&hello.snapshot.session_defaults.default_agent_id);
        self.status.latency_ms = u32::try_from(took_ms).ok();
        self.status.retry_at_ms = None;
        if let Some(token) = &hello.auth.device_token {
            self.keep_device_token(token.clone(), hello.auth.scopes.clone());
        }
        if let Some(retry) = verdict.retry {
            let wait = self.plan(retry);
            self.set_state(verdict.state, verdict.problem);
            if let Some(ms) = wait {
                // Rights are given to new connections only, so this one is ended and made anew after a while.
                self.retry = Some(ctx.run_later(Duration::from_millis(ms), |this, ctx| {
                    this.retry = None;
                    this.lost(Some(1000), "asking for the missing rights again", ctx);
                    this.dial(ctx);
                }));
            }
            return;
        }
        self.lists_awaited = 2;
        for (method, why) in [("agents.list", For::Agents), ("models.list", For::Models)] {
            self.ask(Request { method, params: json!({}), why });
        }
        self.pump();
    }

    /// One of the gateway's lists has come, or will not come. With both the connection is complete: whoever sees
    /// "connected" sees the agents and models as well.
    fn on_list(&mut self, ctx: &mut Context<Self>) {
        if self.lists_awaited == 0 || !matches!(self.phase, Phase::Up { .. }) {
            return;
        }
        self.lists_awaited -= 1;
        if self.lists_awaited > 0 {
            return;
        }
        self.set_state(LinkState::Connected, None);
        let protocol = self.status.protocol.unwrap_or(4);
        log::info!(gateway_id = self.parts.gateway.id.as_str(), protocol; "connected to gateway `{}`", self.parts.gateway.id);
        self.tell_link(LinkChange::Up);
        let params = json!({ "limit": SESSIONS_LISTED });
        self.ask(Request { method: "sessions.list", params, why: For::SessionList });
        for session in self.sessions.values_mut() {
            session.note_link_up(protocol);
        }
        // Only sessions with something under way at once; the others when the gateway's list says that they moved.
        let busy: Vec<ConversationId> =
            self.sessions.iter().filter(|(_, session)| !session.is_idle()).map(|(id, _)| *id).collect();
        for id in busy {
            self.with_session(id, ctx, |session, now_ms| session.on_link_up(protocol, now_ms));
        }
        self.pump();
    }

    fn keep_device_token(&mut self, token: Secret, scopes: Vec<String>) {
        if self.credentials.device_token.as_ref() == Some(&token) && self.credentials.device_scopes == scopes {
            return;
        }
        self.credentials.device_token = Some(token.clone());
        self.credentials.device_scopes.clone_from(&scopes);
        let keep = KeepDevice {
            id: self.parts.gateway.id.clone(),
            seed: None,
            token: Some(token),
            scopes,
            vault: self.parts.vault.clone(),
        };
        if let Err(error) = self.parts.store.write_later(crate::store::Lane::Interactive, keep) {
            // It comes again with the next hello.
            log::warn!(gateway_id = self.parts.gateway.id.as_str(); "a device token could not be kept: {error}");
        }
    }

    fn on_chat(&mut self, event: ChatEvent, ctx: &mut Context<Self>) {
        let id = match self.by_run.get(&event.run_id).or_else(|| self.by_canonical.get(&event.session_key)) {
            Some(id) => *id,
            None => {
                if self.parts.gateway.track == crate::domain::gateway::Track::All {
                    self.open_untracked(&event.session_key, ctx);
                }
                return;
            }
        };
        // The gateway's own name of the session is learned at first contact; a run of ours may tell it before.
        if !self.by_canonical.contains_key(&event.session_key) && !event.session_key.is_empty() {
            self.by_canonical.insert(event.session_key.clone(), id);
        }
        self.with_session(id, ctx, |session, now_ms| session.on_event(event, now_ms));
    }

    // ---- requests ----------------------------------------------------------------------------------------------------

    /// Queues a request; without a connection it fails at once.
    fn ask(&mut self, request: Request) {
        let up = self.outgoing.is_some() && (matches!(self.phase, Phase::Up { .. }) || matches!(request.why, For::Connect));
        if !up {
            self.refuse(request.why);
            return;
        }
        if let Err(request) = self.requests.push(request) {
            self.refuse(request.why);
        } else {
            self.pump();
        }
    }

    fn refuse(&self, why: For) {
        // Whoever asked may have gone; sessions hear of the end of the connection by itself.
        match why {
            For::List(reply) => drop(reply.send(Err(self.unavailable()))),
            For::Delete(reply) => drop(reply.send(Err(self.unavailable()))),
            For::Test(reply) => drop(reply.send(Err(self.unavailable()))),
            _ => {}
        }
    }

    fn pump(&mut self) {
        while let Some(outgoing) = &self.outgoing
            && let Some(frame) = self.requests.next_frame(self.parts.config.requests_in_flight_max)
        {
            if !outgoing.text(frame) {
                break;
            }
        }
    }

    fn answered(
        &mut self,
        why: For,
        result: Result<Box<serde_json::value::RawValue>, session::RequestError>,
        took_ms: u64,
        ctx: &mut Context<Self>,
    ) {
        match why {
            For::Connect => self.on_connect_answer(result, took_ms, ctx),
            For::Agents => {
                if let Some(list) = self.decoded::<AgentsList>(result) {
                    self.status.default_model = list.default_model().map(str::to_owned).or(self.status.default_model.take());
                    self.status.default_agent = list.default_id.clone().or(self.status.default_agent.take());
                    self.status.agents = list.agents;
                    self.publish_status();
                }
                self.on_list(ctx);
            }
            For::Models => {
                if let Some(list) = self.decoded::<ModelsList>(result) {
                    self.status.models = list.models;
                    self.publish_status();
                }
                self.on_list(ctx);
            }
            For::SessionList => {
                if let Some(list) = self.decoded::<SessionsList>(result) {
                    self.status.default_model = self.status.default_model.take().or(list.defaults.default_model());
                    self.publish_status();
                    self.catch_up(&list, ctx);
                }
            }
            For::Send { conversation_id } => {
                let ack = decode(result);
                self.with_session(conversation_id, ctx, |session, now_ms| session.on_sent(ack, now_ms));
            }
            // The event tells; an abort that finds nothing means that the end is on its way.
            For::Abort => {}
            For::History { conversation_id, purpose } => {
                let page = decode(result);
                self.with_session(conversation_id, ctx, |session, now_ms| session.on_history(purpose, page, now_ms));
                self.contacted(conversation_id);
            }
            For::List(reply) => {
                let list = decode::<SessionsList>(result).map(upstream_sessions).map_err(|e| self.upstream_error(&e));
                let _ = reply.send(list);
            }
            For::Delete(reply) => {
                let done = decode::<serde_json::Value>(result).map(drop).map_err(|e| self.upstream_error(&e));
                let _ = reply.send(done);
            }
            For::Test(reply) => {
                let done = decode::<serde_json::Value>(result).map(|_| u32::try_from(took_ms).unwrap_or(u32::MAX));
                let _ = reply.send(done.map_err(|e| self.upstream_error(&e)));
            }
        }
    }

    fn on_connect_answer(
        &mut self,
        result: Result<Box<serde_json::value::RawValue>, session::RequestError>,
        took_ms: u64,
        ctx: &mut Context<Self>,
    ) {
        match result {
            Ok(payload) => match frames::decode::<HelloOk>(&payload) {
                Ok(hello) => self.on_hello(&hello, took_ms, ctx),
                Err(error) => self.lost(Some(4000), &error.to_string(), ctx),
            },
            Err(session::RequestError::Refused(error)) => {
                let scopes = self.scopes.clone().unwrap_or_else(|| handshake::scopes_asked(self.parts.gateway.admin));
                let attempt = Attempt {
                    scopes: &scopes,
                    sent_device_token: self.use_device_token || !self.has_shared_secret(),
                    has_device_token: self.credentials.device_token.is_some(),
                    has_shared_secret: self.has_shared_secret(),
                    switched: self.switched,
                };
                self.refused = Some(handshake::judge_refusal(&error, None, &attempt));
                self.lost(Some(1000), "the gateway refused the handshake", ctx);
            }
            // The end of the connection, which is told by itself, or the tick's own timeout.
            Err(_) => {}
        }
    }

    fn decoded<T: serde::de::DeserializeOwned>(
        &self,
        result: Result<Box<serde_json::value::RawValue>, session::RequestError>,
    ) -> Option<T> {
        match decode(result) {
            Ok(value) => Some(value),
            Err(error) => {
                log::debug!(gateway_id = self.parts.gateway.id.as_str(); "a list could not be had: {error:?}");
                None
            }
        }
    }

    fn upstream_error(&self, error: &session::RequestError) -> Error {
        match error {
            session::RequestError::Refused(refusal) => {
                Error::new(ErrorCode::UpstreamRefused, format!("the gateway refused: {}", refusal.message))
            }
            _ => self.unavailable(),
        }
    }

    // ---- status ------------------------------------------------------------------------------------------------------

    fn set_state(&mut self, state: LinkState, problem: Option<Problem>) {
        if self.status.state != state {
            self.status.since_ms = self.parts.clock.now_ms();
        }
        let changed = self.status.state != state || self.status.problem != problem;
        self.status.state = state;
        self.status.problem = problem;
        self.publish_status();
        if changed && state != LinkState::Connecting && state != LinkState::Connected {
            self.tell_link(LinkChange::Changed);
        }
    }

    fn publish_status(&self) {
        self.parts.directory.set_status(&self.parts.gateway.id, Arc::new(self.status.clone()));
    }

    fn tell_link(&self, change: LinkChange) {
        let gateway_id = self.parts.gateway.id.clone();
        self.parts.hubs.publish(vec![Event::Link { gateway_id, status: Arc::new(self.status.clone()), change }]);
    }
}

/// A word of the socket, with the connection it belongs to.
struct FromSocket {
    generation: u64,
    item: Incoming,
}

impl StreamHandler<FromSocket> for GatewayLink {
    fn handle(&mut self, msg: FromSocket, ctx: &mut Self::Context) {
        if msg.generation != self.generation {
            return;
        }
        self.heard_at = tokio::time::Instant::now();
        match msg.item {
            Incoming::Text(text) => self.on_text(&text, ctx),
            Incoming::Ping(payload) => {
                if let Some(outgoing) = &self.outgoing {
                    outgoing.pong(payload);
                }
            }
            Incoming::Pong => {
                if let Some(at) = self.pinged_at {
                    self.status.latency_ms = u32::try_from(at.elapsed().as_millis()).ok();
                    self.publish_status();
                }
            }
            Incoming::Closed(code, reason) => {
                if self.refused.is_none() {
                    self.refused = Some(handshake::judge_close(code, &reason));
                }
                let sentence = match code {
                    Some(code) => format!("closed with {code} {reason}"),
                    None => reason,
                };
                self.lost(None, &sentence, ctx);
            }
        }
    }

    fn finished(&mut self, _ctx: &mut Self::Context) {
        // The default would stop the actor; the end was handled with the last word of the socket.
    }
}

fn decode<T: serde::de::DeserializeOwned>(
    result: Result<Box<serde_json::value::RawValue>, session::RequestError>,
) -> Result<T, session::RequestError> {
    let payload = result?;
    frames::decode(&payload).map_err(|error| session::RequestError::Unreadable(error.to_string()))
}

fn upstream_sessions(list: SessionsList) -> Vec<UpstreamSession> {
    list.sessions
        .into_iter()
        .map(|row| UpstreamSession {
            title: row.title().map(str::to_owned),
            key: row.key,
            agent_id: row.agent_id,
            model: row.model,
            updated_at: row.updated_at,
            archived: row.archived,
        })
        .collect()
}
