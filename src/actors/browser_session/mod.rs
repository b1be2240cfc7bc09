//! One browser's socket, as the broker sees it: what it watches, what waits to be written to it.
//!
//! Owner: the transport actor that made it (`http::ws`), one for each socket, on the same thread. The transport only
//! carries frames; a browser that does not read freezes the transport, never this actor.
//!
//! Invariants
//! - CNV-1: of each watched conversation the lines go out in `seq` order without a gap; whatever was missed is read
//!   from the store.
//! - LIM-1: the outbox, the frames a second and the watched sessions are bounded.
//! - SEC-2: a browser hears only the sessions it has named and may read.
mod frames;
mod handle;
pub mod inbound;
mod naming;
mod outbox;
mod scope;
mod watch;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytestring::ByteString;

use self::frames::Deltas as DeltasKind;
use self::inbound::Inbound;
use self::outbox::{Out, Outbox};
use self::watch::Watch;
use super::allowance::Allowance;
use super::directory::Directory;
use super::hub::{Hub, HubMessage};
use super::messages::{Report, Reports, ToLink};
use crate::config::Limits;
use crate::domain::clock::Clock;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::{Event, GatewayChange, LinkChange, Live, Topic};
use crate::domain::ids::{ConversationId, GatewayId, MessageId, SocketId};
use crate::domain::user::Caller;
use crate::store::Store;

pub use self::frames::Deltas;
pub use self::scope::{Scope, Talk};

/// How often we ping; below the minute after which proxies cut idle connections.
pub(super) const PING_EVERY: Duration = Duration::from_secs(25);
/// Silence after which a socket is given up: two pings without an answer.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(75);
/// How long a socket has to take its close frame before its connection is cut.
pub(super) const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// Frames that may wait while one is being handled; the rate limit is far below.
const INBOUND_MAX: usize = 512;
/// Lines of our own that wait for an answer and whose fate is told.
const QUEUED_MAX: usize = 10_000;

/// Why a socket is closed, in words.
const TOKEN_ENDED: &str = "the token was revoked";
const TOKEN_EXPIRED: &str = "the token has expired";
const USER_CHANGED: &str = "the user was changed, sign in again";
const GATEWAY_REMOVED: &str = "the gateway was removed";
pub(super) const GOES_AWAY: &str = "the broker goes away, come back";

/// Frames for the transport to write, in order.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum Outgoing {
    Frames(Vec<ByteString>),
    Ping,
    /// Tell of yourself, as the transport of this socket.
    Observe(SocketId, Reports),
    Close {
        code: u16,
        reason: &'static str,
    },
}

/// What the transport tells.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum FromTransport {
    /// A text frame came.
    Text(ByteString),
    /// Some other frame came: the browser lives.
    Heard,
    /// The last batch was taken: there is room for the next.
    Written,
    /// The socket has ended.
    Gone,
}

/// Cuts the connection from outside, when the transport is frozen by a browser that does not read.
pub type Kill = Box<dyn Fn()>;

/// What all sessions of a node share; one pointer in each, because there may be tens of thousands.
pub struct Shared {
    pub store: Store,
    pub directory: Arc<Directory>,
    pub clock: Arc<dyn Clock>,
    pub links: Recipient<ToLink>,
    pub limits: Limits,
}

/// What a session is made with.
pub struct SessionParts {
    pub shared: Arc<Shared>,
    pub hub: Hub,
    pub caller: Arc<Caller>,
    pub scope: Scope,
    pub deltas: DeltasKind,
    pub transport: Recipient<Outgoing>,
    pub kill: Kill,
}

pub struct BrowserSession {
    parts: SessionParts,
    id: SocketId,
    outbox: Outbox,
    /// A batch is with the transport.
    writing: bool,
    /// Boxed: a map of its own keeps room for several.
    watches: HashMap<ConversationId, Box<Watch>>,
    names: HashMap<(GatewayId, String), ConversationId>,
    /// The conversation with the agent in scope, once it was opened.
    talk: Option<ConversationId>,
    inbound: VecDeque<Inbound>,
    handling: bool,
    allowance: Allowance,
    heard_at: tokio::time::Instant,
    /// Lines that were acknowledged as queued: their going out is told.
    queued: HashSet<MessageId>,
    /// Our own lines that are on disk and whose event has not come by yet: key of the client, and whether it was sent.
    unacknowledged: HashMap<MessageId, (Option<String>, bool)>,
    /// Our own lines whose acknowledgement went out before the store's answer came.
    acknowledged: HashSet<MessageId>,
    /// Logs of which more is to be read when what was read has been written: conversation and last `seq`.
    unread: VecDeque<(ConversationId, i64)>,
    closing: bool,
}

impl BrowserSession {
    pub fn new(parts: SessionParts) -> Self {
        let now = tokio::time::Instant::now();
        Self {
            id: SocketId::new(),
            outbox: Outbox::new(parts.shared.limits.outbox_bytes_max, parts.shared.limits.outbox_frames_max),
            writing: false,
            watches: HashMap::new(),
            names: HashMap::new(),
            talk: None,
            inbound: VecDeque::new(),
            handling: false,
            allowance: Allowance::new(parts.shared.limits.frames_per_second_max, parts.shared.limits.frames_burst_max),
            heard_at: now,
            queued: HashSet::new(),
            unacknowledged: HashMap::new(),
            acknowledged: HashSet::new(),
            unread: VecDeque::new(),
            closing: false,
            parts,
        }
    }
}

impl Actor for BrowserSession {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(256);
        self.parts.hub.enter(self.id, ctx.address().recipient());
        self.check_right(ctx);
        self.check_agent(ctx);
        self.greet(ctx);
        if let Some(at) = self.parts.caller.expires_at {
            let left = u64::try_from(at - self.parts.shared.clock.now_ms()).unwrap_or(0);
            ctx.run_later(Duration::from_millis(left), |this, ctx| this.close(1008, TOKEN_EXPIRED, ctx));
        }
        ctx.run_interval(PING_EVERY, |this, ctx| {
            if this.heard_at.elapsed() > SILENCE_MAX {
                this.close(1001, "no answer to pings", ctx);
            } else {
                this.parts.transport.do_send(Outgoing::Ping);
            }
        });
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.parts.hub.leave(self.id);
        self.parts.shared.directory.leave_socket(self.parts.caller.user_id);
    }
}

impl Handler<FromTransport> for BrowserSession {
    type Result = ();

    fn handle(&mut self, msg: FromTransport, ctx: &mut Self::Context) {
        match msg {
            FromTransport::Text(text) => {
                self.heard_at = tokio::time::Instant::now();
                self.on_text(&text, ctx);
            }
            FromTransport::Heard => self.heard_at = tokio::time::Instant::now(),
            FromTransport::Written => {
                self.writing = false;
                self.flush();
                if self.outbox.is_empty()
                    && let Some((id, after)) = self.unread.pop_front()
                {
                    self.read_missed(id, after, ctx);
                }
            }
            FromTransport::Gone => ctx.stop(),
        }
    }
}

impl Handler<HubMessage> for BrowserSession {
    type Result = ();

    fn handle(&mut self, msg: HubMessage, ctx: &mut Self::Context) {
        match msg {
            HubMessage::Events(events) => {
                for event in events.iter() {
                    self.on_event(event, ctx);
                }
            }
            HubMessage::Observe(reports) => {
                // Whoever asked may have gone.
                let _ = reports.try_send(self.report());
                self.parts.transport.do_send(Outgoing::Observe(self.id, reports));
            }
            HubMessage::CatchUp => {
                self.check_right(ctx);
                self.check_agent(ctx);
                let ids: Vec<ConversationId> = self.watches.keys().copied().collect();
                for id in ids {
                    self.catch_up(id, ctx);
                }
            }
        }
        self.flush();
    }
}

impl BrowserSession {
    /// What this session tells of itself.
    fn report(&self) -> Report {
        let (frames, bytes) = self.outbox.waiting();
        Report {
            actor: "browser_session",
            id: self.id.to_string(),
            state: serde_json::json!({
                "user_id": self.parts.caller.user_id,
                "gateway_id": self.parts.scope.gateway(),
                "agent_id": self.parts.scope.agent(),
                "watching": self.watches.len(),
                "frames_waiting": frames,
                "bytes_waiting": bytes,
                "writing": self.writing,
                "frames_to_handle": self.inbound.len(),
                "heard_s_ago": self.heard_at.elapsed().as_secs(),
                "closing": self.closing,
            }),
        }
    }

    /// Closes the socket if an event told so that went by: before the session was in the hub, or when the hub's queue was
    /// full.
    fn check_right(&mut self, ctx: &mut Context<Self>) {
        let (directory, caller) = (&self.parts.shared.directory, &self.parts.caller);
        let now_ms = self.parts.shared.clock.now_ms();
        let now = directory.current(caller, now_ms);
        let is_same = |now: &Arc<Caller>| (&now.name, now.role) == (&caller.name, caller.role);
        if !directory.is_active() {
            self.close(1012, GOES_AWAY, ctx);
        } else if now.is_none() {
            let has_expired = caller.expires_at.is_some_and(|at| at <= now_ms);
            self.close(1008, if has_expired { TOKEN_EXPIRED } else { TOKEN_ENDED }, ctx);
        } else if !now.as_ref().is_some_and(is_same) {
            self.close(1008, USER_CHANGED, ctx);
        } else if let Scope::Gateway(id) = &self.parts.scope
            && directory.gateway(id).is_none()
        {
            self.close(4404, GATEWAY_REMOVED, ctx);
        }
    }

    /// Says hello, once for each gateway in scope.
    fn greet(&mut self, ctx: &mut Context<Self>) {
        let cards = match &self.parts.scope {
            Scope::Gateway(id) => self.parts.shared.directory.gateway(id).into_iter().collect(),
            Scope::Federated => self.parts.shared.directory.gateways(),
            Scope::Agent(talk) => {
                let frame = frames::agent_connected(&talk.agent, self.is_online(talk.agent.id), self.parts.deltas);
                self.send(frame, ctx);
                return;
            }
        };
        if cards.is_empty() {
            self.send(frames::nothing_connected(self.parts.deltas), ctx);
        }
        for card in cards {
            let frame =
                frames::connected("connected", &card.gateway.id, &card.status, self.parts.deltas, self.federated());
            self.send(frame, ctx);
        }
    }

    /// Queues a frame and writes it if there is room.
    fn send(&mut self, frame: ByteString, ctx: &mut Context<Self>) {
        if self.closing {
            return;
        }
        if self.outbox.push(frame).is_err() {
            self.too_slow(ctx);
            return;
        }
        self.flush();
    }

    fn too_slow(&mut self, ctx: &mut Context<Self>) {
        let (waiting, bytes) = self.outbox.waiting();
        log::info!(frames = waiting as u64, bytes = bytes as u64; "a browser reads too slowly and is sent away to resume");
        self.close(1013, "too slow, come back and resume", ctx);
    }

    /// Hands the transport its next batch, when the last one was taken.
    fn flush(&mut self) {
        let federated = self.federated();
        // A batch of texts that say nothing new any more is empty.
        while !self.writing && !self.outbox.is_empty() {
            let batch: Vec<ByteString> = self
                .outbox
                .take()
                .into_iter()
                .filter_map(|out| match out {
                    Out::Text(frame) => Some(frame),
                    Out::Live { topic, live, whole } => self.live_frame(&topic, &live, whole, federated),
                })
                .collect();
            if !batch.is_empty() {
                self.writing = true;
                self.parts.transport.do_send(Outgoing::Frames(batch));
            }
        }
    }

    fn live_frame(&mut self, topic: &Arc<Topic>, live: &Arc<Live>, whole: bool, federated: bool) -> Option<ByteString> {
        let run =
            self.watches.get_mut(&topic.conversation_id)?.run.as_mut().filter(|run| run.turn_id == live.turn_id)?;
        let next = frames::Next { n: run.n + 1, deltas: self.parts.deltas, have: run.have, whole, federated };
        let (frame, have) = frames::live(topic, live, next)?;
        run.n += 1;
        run.have = have;
        Some(frame)
    }

    /// Closes the socket; a transport that does not take the close frame is cut off.
    fn close(&mut self, code: u16, reason: &'static str, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        // What was said before goes out first, unless the browser does not read.
        if code == 1013 {
            self.outbox.clear();
        } else {
            self.writing = false;
            self.flush();
        }
        self.inbound.clear();
        self.parts.transport.do_send(Outgoing::Close { code, reason });
        ctx.run_later(CLOSE_GRACE, |this, ctx| {
            (this.parts.kill)();
            ctx.stop();
        });
    }

    // ---- what concerns everybody -------------------------------------------------------------------------------------

    fn on_event(&mut self, event: &Arc<Event>, ctx: &mut Context<Self>) {
        if self.closing {
            return;
        }
        if event.topic().is_some() {
            self.on_watched(event, ctx);
            return;
        }
        match event.as_ref() {
            Event::Link { gateway_id, status, change } if self.in_scope(gateway_id) => {
                let federated = self.federated();
                let frame = match change {
                    LinkChange::Up => {
                        frames::connected("reconnected", gateway_id, status, self.parts.deltas, federated)
                    }
                    LinkChange::Down { reason, retry_in_ms } => {
                        frames::disconnected(gateway_id, status, reason, *retry_in_ms, federated)
                    }
                    LinkChange::Changed => return,
                };
                self.send(frame, ctx);
            }
            Event::AgentChanged { agent_id, now: None } if self.parts.scope.agent() == Some(*agent_id) => {
                self.on_agent_removed(ctx);
            }
            Event::GatewayChanged { gateway_id, change: GatewayChange::Removed }
                if self.parts.scope.gateway() == Some(gateway_id.as_str()) =>
            {
                self.close(4404, GATEWAY_REMOVED, ctx);
            }
            Event::TokenEnded { token_id } if self.parts.caller.token_id == Some(*token_id) => {
                self.close(1008, TOKEN_ENDED, ctx);
            }
            Event::UserChanged { user_id, .. } if self.parts.caller.user_id == *user_id => {
                self.close(1008, USER_CHANGED, ctx);
            }
            Event::SteppedDown => self.close(1012, GOES_AWAY, ctx),
            _ => {}
        }
    }

    // ---- what the browser sends --------------------------------------------------------------------------------------

    fn on_text(&mut self, text: &str, ctx: &mut Context<Self>) {
        if self.closing {
            return;
        }
        if !self.allowance.take() || self.inbound.len() >= INBOUND_MAX {
            let error = Error::new(
                ErrorCode::RateLimited,
                format!(
                    "at most {} frames a second are taken from one socket",
                    self.parts.shared.limits.frames_per_second_max
                ),
            );
            self.send(frames::error(&error, None, None, None), ctx);
            return;
        }
        match Inbound::parse(text) {
            Ok(frame) => {
                self.inbound.push_back(frame);
                self.handle_next(ctx);
            }
            Err(refused) => {
                let inbound::Refused { error, named, idempotency_key } = *refused;
                self.tell_error(&error, &named, idempotency_key.as_deref(), ctx);
            }
        }
    }

    /// Handles the frames one after another, so that their effects keep their order.
    fn handle_next(&mut self, ctx: &mut Context<Self>) {
        if self.handling {
            return;
        }
        let Some(frame) = self.inbound.pop_front() else {
            // A silent socket keeps no room for frames.
            self.inbound = VecDeque::new();
            return;
        };
        self.handling = true;
        self.handle_frame(frame)
            .map(|(), this: &mut Self, ctx| {
                this.handling = false;
                this.handle_next(ctx);
            })
            .spawn(ctx);
    }
}
