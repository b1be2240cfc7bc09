//! One agent's socket, as the broker sees it: how many messages may be out, what waits to be written to it.
//!
//! Owner: the transport actor that made it (`http::ws`), one for each socket, on the same thread. To the agent's mailbox
//! it is a poll that waits whenever there is a free place; what a frame does is the edge's to say (its [`Desk`]), which
//! has the same for HTTP.
//!
//! Invariants
//! - DLV-1: a message counts as handed out when its frame was written. One that was not is given back, whenever and
//!   however the socket ends; one that was stays leased.
//! - LIM-1: the messages that are out, the outbox, the frames that wait, the answers that are still to come and the
//!   frames a second are bounded.
mod frames;
mod inbox;
mod outbox;
mod places;
mod pushing;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytestring::ByteString;
use futures_util::future::LocalBoxFuture;
use serde_json::Value;
use tokio::time::Instant;

use self::inbox::Inbox;
use self::outbox::Outbox;
use self::places::Places;
use super::agent_mailbox::{Ask, Ticket};
use super::browser_session::{CLOSE_GRACE, FromTransport, GOES_AWAY, Kill, Outgoing, PING_EVERY, SILENCE_MAX, Shared};
use super::directory::AgentSeat;
use super::hub::{Hub, HubMessage};
use super::messages::Report;
use crate::domain::agent::{Agent, AgentFacts, AgentState, KeyFacts};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::Event;
use crate::domain::ids::SocketId;

pub use self::frames::broken;
pub use self::places::Out;

/// How long the transport may keep one batch before its client counts as too slow.
const STUCK_MAX: Duration = Duration::from_secs(30);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Answers that may be still to come while the next frames are handled; fewer where the outbox is small.
const TO_COME_MAX: usize = 256;

/// Why a socket is closed, in words.
const KEY_ENDED: &str = "the key was revoked or has expired";
const TOO_SLOW: &str = "too slow, come back";

/// Whether messages are on their way to whoever waits for them.
pub type Picked = Rc<Cell<bool>>;

/// What the edge does for a socket.
pub trait Desk {
    /// Reads a frame.
    fn read(&self, text: &str) -> Read;

    /// Waits for messages, for as long as it takes. Dropping the future loses nothing; once it has told `picked` that
    /// some are on their way, that costs each of them a hand-out.
    fn messages(&self, ask: Ask, picked: Picked) -> LocalBoxFuture<'static, Result<Vec<Handed>, Error>>;
}

/// A frame that was read.
pub struct Read {
    /// What the client calls it by; its answer repeats it.
    pub id: Option<Value>,
    pub what: Result<Inbound, Error>,
}

/// What a frame wants.
pub enum Inbound {
    Ping,
    /// So many messages may be out from now on (`rows`), handed out like this.
    Poll(Ask),
    /// Anything else.
    Call(LocalBoxFuture<'static, Result<Called, Error>>),
}

/// What came of a call: the answer's fields.
pub enum Called {
    Now(Value),
    /// What the call does is done, and only its answer is still to come: it holds up nothing behind it.
    Later(LocalBoxFuture<'static, Result<Value, Error>>),
}

/// A message on its way to the socket.
pub struct Handed {
    pub frame: ByteString,
    pub out: Out,
    pub ticket: Ticket,
}

/// What a session is made with.
pub struct SessionParts {
    pub shared: Arc<Shared>,
    pub hub: Hub,
    pub key: Arc<KeyFacts>,
    pub desk: Box<dyn Desk>,
    pub transport: Recipient<Outgoing>,
    pub kill: Kill,
    /// Its place among the sockets.
    pub seat: AgentSeat,
}

pub struct AgentSession {
    parts: SessionParts,
    id: SocketId,
    outbox: Outbox<Ticket>,
    /// A batch is with the transport, since that time if it is.
    writing: Option<Instant>,
    /// Messages of that batch.
    on_way: Vec<Ticket>,
    /// Messages of the batch before, which the transport has taken; when it takes another one they were written.
    taken: Vec<Ticket>,
    inbox: Inbox,
    handling: bool,
    /// Frames that were carried out and whose answers are still to come.
    to_come: usize,
    /// What the client polls for, since it has said so.
    asked: Option<Ask>,
    /// The poll that waits, or the wait for the next one.
    standing: Option<SpawnHandle>,
    /// What that poll waits for is on its way.
    picked: Picked,
    places: Places,
    heard_at: Instant,
    is_paused: bool,
    handed_out_total: u64,
    closing: bool,
}

impl AgentSession {
    pub fn new(parts: SessionParts) -> Self {
        let limits = &parts.shared.limits;
        Self {
            id: SocketId::new(),
            outbox: Outbox::new(limits.outbox_bytes_max, limits.outbox_frames_max),
            writing: None,
            on_way: Vec::new(),
            taken: Vec::new(),
            inbox: Inbox::new(limits.frames_per_second_max, limits.frames_burst_max),
            handling: false,
            to_come: 0,
            asked: None,
            standing: None,
            picked: Picked::default(),
            places: Places::default(),
            heard_at: Instant::now(),
            is_paused: false,
            handed_out_total: 0,
            closing: false,
            parts,
        }
    }

    fn agent(&self) -> &AgentFacts {
        &self.parts.key.agent
    }

    fn now_ms(&self) -> i64 {
        self.parts.shared.clock.now_ms()
    }

    /// Returns its key as it is now, if it counts.
    fn current(&self) -> Option<Arc<KeyFacts>> {
        self.parts.shared.directory.agents().current(self.parts.key.key_id, self.now_ms())
    }

    // ---- what goes out -----------------------------------------------------------------------------------------------

    /// Queues the answer to a frame and writes it if there is room.
    fn send(&mut self, frame: ByteString, ctx: &mut Context<Self>) {
        if self.closing {
            return;
        }
        if self.outbox.push_answer(frame).is_err() {
            self.too_slow(ctx);
            return;
        }
        self.flush();
    }

    fn too_slow(&mut self, ctx: &mut Context<Self>) {
        let (frames, bytes) = self.outbox.answers();
        let (frames, bytes, messages) = (frames as u64, bytes as u64, self.unwritten() as u64);
        log::info!(frames, bytes, messages; "an agent reads too slowly and is sent away");
        self.close(1013, TOO_SLOW, ctx);
    }

    /// Hands the transport its next batch, when the last one was taken. An empty one only finds out whether the messages
    /// of the last one were written.
    fn flush(&mut self) {
        if self.writing.is_some() {
            return;
        }
        let (frames, tickets) = self.outbox.take();
        if frames.is_empty() && self.taken.is_empty() {
            return;
        }
        self.on_way.extend(tickets);
        self.writing = Some(Instant::now());
        self.parts.transport.do_send(Outgoing::Frames(frames));
    }

    fn on_written(&mut self, ctx: &mut Context<Self>) {
        self.writing = None;
        for ticket in std::mem::replace(&mut self.taken, std::mem::take(&mut self.on_way)) {
            ticket.taken();
        }
        self.flush();
        self.ask(ctx);
    }

    /// Returns how many messages are not known to be written.
    fn unwritten(&self) -> usize {
        self.outbox.messages() + self.on_way.len() + self.taken.len()
    }

    /// Closes the socket; a transport that does not take the close frame is cut off. Messages that were not handed to it
    /// are given back.
    fn close(&mut self, code: u16, reason: &'static str, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        self.stop_asking(ctx);
        self.inbox.clear();
        self.outbox.drop_messages();
        // What was said before goes out first, unless the agent does not read.
        if code == 1013 {
            self.outbox.clear();
        } else {
            if code == 1012 {
                // Nothing is left to be done if it does not fit.
                let _ = self.outbox.push_answer(frames::going_away(reason));
            }
            self.writing = None;
            self.flush();
        }
        self.parts.transport.do_send(Outgoing::Close { code, reason });
        ctx.run_later(CLOSE_GRACE, |this, ctx| {
            (this.parts.kill)();
            ctx.stop();
        });
    }

    // ---- what concerns everybody -------------------------------------------------------------------------------------

    /// Closes the socket if an event told so that went by: before the session was in the hub, or when the hub's queue was
    /// full. Returns its key as it is now.
    fn check_right(&mut self, ctx: &mut Context<Self>) -> Option<Arc<KeyFacts>> {
        if !self.parts.shared.directory.is_active() {
            self.close(1012, GOES_AWAY, ctx);
            return None;
        }
        let current = self.current();
        if current.is_none() {
            self.close(1008, KEY_ENDED, ctx);
        }
        current
    }

    fn set_paused(&mut self, agent: &AgentFacts, ctx: &mut Context<Self>) {
        let is_paused = agent.state != AgentState::Running;
        if std::mem::replace(&mut self.is_paused, is_paused) != is_paused {
            self.send(frames::ready(agent), ctx);
        }
    }

    fn on_event(&mut self, event: &Event, ctx: &mut Context<Self>) {
        match event {
            Event::Delivery { delivery, .. } => self.on_delivery(delivery),
            Event::AgentKeyEnded { key_id, .. } if *key_id == self.parts.key.key_id => {
                self.close(1008, KEY_ENDED, ctx);
            }
            Event::AgentChanged { agent_id, now } if *agent_id == self.agent().id => match now {
                Some(agent) => self.set_paused(&Agent::facts(agent), ctx),
                None => self.close(1008, "the agent was removed", ctx),
            },
            Event::SteppedDown => self.close(1012, GOES_AWAY, ctx),
            _ => {}
        }
    }

    // ---- what the agent sends ----------------------------------------------------------------------------------------

    fn on_text(&mut self, text: &str, ctx: &mut Context<Self>) {
        if self.closing {
            return;
        }
        if !self.inbox.has_room_for(text.len()) {
            let per_second = self.parts.shared.limits.frames_per_second_max;
            let message = format!("at most {per_second} frames a second are taken from one socket");
            self.send(frames::error(None, &Error::new(ErrorCode::RateLimited, message)), ctx);
            return;
        }
        let read = self.parts.desk.read(text);
        self.inbox.push(read, text.len());
        self.handle_next(ctx);
    }

    /// Handles the frames one after another, so that their effects keep their order. Their answers need not.
    fn handle_next(&mut self, ctx: &mut Context<Self>) {
        // Those that are to come may come at once, and others with them.
        let to_come_max = (self.parts.shared.limits.outbox_frames_max / 2).clamp(1, TO_COME_MAX);
        while !self.handling
            && self.to_come < to_come_max
            && let Some(Read { id, what }) = self.inbox.pop()
        {
            match what {
                Ok(Inbound::Ping) => self.send(frames::pong(id.as_ref()), ctx),
                Ok(Inbound::Poll(asked)) => self.on_poll(id.as_ref(), asked, ctx),
                Ok(Inbound::Call(call)) => {
                    self.handling = true;
                    call.into_actor(self)
                        .map(move |outcome, this, ctx| {
                            this.handling = false;
                            match outcome {
                                Ok(Called::Now(answer)) => this.answer(id.as_ref(), Ok(answer), ctx),
                                Ok(Called::Later(answer)) => this.answer_later(id, answer, ctx),
                                Err(error) => this.answer(id.as_ref(), Err(error), ctx),
                            }
                            this.handle_next(ctx);
                        })
                        .spawn(ctx);
                }
                Err(error) => self.answer(id.as_ref(), Err(error), ctx),
            }
        }
    }

    /// Answers a frame when its answer is there.
    fn answer_later(
        &mut self,
        id: Option<Value>,
        answer: LocalBoxFuture<'static, Result<Value, Error>>,
        ctx: &mut Context<Self>,
    ) {
        self.to_come += 1;
        answer
            .into_actor(self)
            .map(move |outcome, this, ctx| {
                this.to_come -= 1;
                this.answer(id.as_ref(), outcome, ctx);
                this.handle_next(ctx);
            })
            .spawn(ctx);
    }

    fn answer(&mut self, id: Option<&Value>, outcome: Result<Value, Error>, ctx: &mut Context<Self>) {
        let frame = match outcome {
            Ok(answer) => frames::ok(id, answer),
            Err(error) => {
                if let Some(source) = error.source() {
                    log::error!("a frame could not be handled: {source}");
                }
                frames::error(id, &error)
            }
        };
        self.send(frame, ctx);
    }

    /// What this session tells of itself.
    fn report(&self) -> Report {
        let (frames, bytes) = self.outbox.answers();
        Report {
            actor: "agent_session",
            id: self.id.to_string(),
            state: serde_json::json!({
                "agent_id": self.agent().id,
                "window": self.asked.map(|asked| asked.rows),
                "out": self.places.len(),
                "waits": self.standing.is_some(),
                "unwritten": self.unwritten(),
                "answers_waiting": frames,
                "answer_bytes_waiting": bytes,
                "writing": self.writing.is_some(),
                "frames_to_handle": self.inbox.len(),
                "answers_to_come": self.to_come,
                "handed_out_total": self.handed_out_total,
                "heard_s_ago": self.heard_at.elapsed().as_secs(),
                "closing": self.closing,
            }),
        }
    }
}

impl Actor for AgentSession {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(256);
        self.parts.hub.enter(self.id, ctx.address().recipient());
        if let Some(key) = self.check_right(ctx) {
            self.is_paused = key.agent.state != AgentState::Running;
            self.send(frames::ready(&key.agent), ctx);
        }
        if let Some(at) = self.parts.key.expires_at {
            let left = u64::try_from(at - self.now_ms()).unwrap_or(0);
            ctx.run_later(Duration::from_millis(left), |this, ctx| this.close(1008, KEY_ENDED, ctx));
        }
        ctx.run_interval(PING_EVERY, |this, ctx| {
            if this.heard_at.elapsed() > SILENCE_MAX {
                this.close(1001, "no answer to pings", ctx);
                return;
            }
            // Whoever holds a socket is there.
            this.parts.shared.directory.agents().note_seen(this.parts.key.key_id, this.now_ms());
            this.parts.transport.do_send(Outgoing::Ping);
            this.check(this.places.over(this.now_ms()), ctx);
        });
        ctx.run_interval(LOOK_EVERY, |this, ctx| {
            if this.writing.is_some_and(|since| since.elapsed() > STUCK_MAX) {
                this.too_slow(ctx);
            }
        });
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.parts.hub.leave(self.id);
    }
}

impl Handler<FromTransport> for AgentSession {
    type Result = ();

    fn handle(&mut self, msg: FromTransport, ctx: &mut Self::Context) {
        match msg {
            FromTransport::Text(text) => {
                self.heard_at = Instant::now();
                self.on_text(&text, ctx);
            }
            FromTransport::Heard => self.heard_at = Instant::now(),
            FromTransport::Written => self.on_written(ctx),
            FromTransport::Gone => ctx.stop(),
        }
    }
}

impl Handler<HubMessage> for AgentSession {
    type Result = ();

    fn handle(&mut self, msg: HubMessage, ctx: &mut Self::Context) {
        match msg {
            HubMessage::Events(events) => {
                for event in events.iter() {
                    self.on_event(event, ctx);
                }
                self.ask(ctx);
            }
            HubMessage::Observe(reports) => {
                // Whoever asked may have gone.
                let _ = reports.try_send(self.report());
                self.parts.transport.do_send(Outgoing::Observe(self.id, reports));
            }
            HubMessage::CatchUp => {
                if let Some(key) = self.check_right(ctx) {
                    self.set_paused(&key.agent, ctx);
                    self.check(self.places.ids(), ctx);
                }
            }
        }
    }
}
