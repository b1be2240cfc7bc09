//! The mailbox of one agent: it picks what a poll hands out and keeps the polls that wait for something.
//!
//! Owner: the supervisor; opened by the first call that needs it and gone again when nobody has called for a while.
//! What is leased, given back or ended is the writer's to say; the mailbox only proposes. Its two parts are pure:
//! `state` is the picture of the open deliveries, `waiting` the queue of long polls. What is known of it without asking
//! it is on its card (`card.rs`), and a hand-out on its way to a client is a ticket (`ticket.rs`).
//!
//! Invariants
//! - DLV-1: a stale picture costs a refused proposal, never a second hand-out.
//! - DLV-2: it hears of every delivery of its agent: those that were there are read after its card is registered, and
//!   what is committed from then on waits behind the reading.
//! - DLV-4: first hand-outs of a conversation are proposed in the order of its lines.
//! - LIM-1: texts in memory are bounded; what is beyond the bound is read when it is handed out.
mod card;
mod cards;
mod loading;
mod related;
mod state;
mod ticket;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use self::loading::Phase;
use self::state::{Picked, State, Want};
use self::ticket::{NotTaken, Refused};
use self::waiting::Waiting;
use super::directory::Directory;
use super::messages::{Observe, Report, Stop};
use super::supervisor::{Child, ChildStopped};
use crate::config::MailboxConfig;
use crate::domain::agent::{AgentFacts, AgentState};
use crate::domain::clock::Clock;
use crate::domain::delivery::Delivery;
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::{AgentKeyId, DeliveryId};
use crate::domain::message::Line;
use crate::store::mailbox::HandOut;
use crate::store::{Lane, Store, messages};

pub use self::card::{Card, Place};
pub use self::cards::Cards;
pub use self::related::Related;
pub use self::ticket::{Leased, Ticket};

/// Calls that may wait to be handled; more are refused with `store_busy`.
const CALLS_MAX: usize = 4_096;
/// Longest sleep until the next delivery is available; the clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Open the mailbox of an agent, or find it open.
#[derive(Message)]
#[rtype(result = "Result<Arc<Card>, Error>")]
pub struct OpenMailbox(pub Arc<AgentFacts>);

/// What a poll asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The key that the caller showed; nothing is handed out for one that has ended since.
    pub key_id: AgentKeyId,
    pub rows: usize,
    /// Bytes of text; one message may have more.
    pub bytes: usize,
    pub lease_ms: i64,
    /// It waits for something; else it is answered at once.
    pub waits: bool,
    /// Replies and notices stay leased until their recipient says that it has them.
    pub explicit_ack: bool,
}

/// What a mailbox answers to a poll.
pub struct Answer {
    /// What it hands out; `None`: nothing is there.
    pub ticket: Option<Ticket>,
    /// How many more could be polled now.
    pub remaining: usize,
    pub is_paused: bool,
}

type PollReply = oneshot::Sender<Result<Answer, Error>>;

/// Ask for messages. A reply that is dropped says that the mailbox has gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Poll {
    pub ask: Ask,
    pub reply: PollReply,
}

/// Something that was committed.
enum Told {
    Delivery(Arc<Delivery>, Option<Arc<Line>>),
    /// What an operator wants of the agent now; `None`: it was removed.
    Agent(Option<AgentState>),
    /// A key of the agent ended; the directory says which count.
    KeyEnded,
}

#[derive(Message)]
#[rtype(result = "()")]
struct FromStore(Vec<Told>);

/// What a mailbox is made with.
#[derive(Clone)]
pub struct MailboxParts {
    pub store: Store,
    pub directory: Arc<Directory>,
    pub clock: Arc<dyn Clock>,
    pub config: MailboxConfig,
    pub parent: Recipient<ChildStopped>,
}

pub struct AgentMailbox {
    parts: MailboxParts,
    card: Arc<Card>,
    state: State,
    waiting: Waiting<Result<Answer, Error>, Ask>,
    phase: Phase,
    is_paused: bool,
    /// How often it was told something; the card compares.
    heard: u64,
    /// When the next delivery is available, and what waits for that time.
    timer: Option<(i64, SpawnHandle)>,
    handed_out_total: u64,
    leaving: bool,
}

/// Finds the mailbox of an agent or opens it. Only ever called by its owner, so that no agent has two.
pub fn open(agent: &AgentFacts, parts: MailboxParts) -> Arc<Card> {
    if let Some(card) = parts.directory.agents().cards().of(agent.id) {
        return card;
    }
    let mut ctx: Context<AgentMailbox> = Context::new();
    // Before the first call, which may come before it has started.
    ctx.set_mailbox_capacity(CALLS_MAX);
    let counts = parts.directory.agents().cards().counts();
    let card = Arc::new(Card::new(agent, ctx.address(), counts));
    // Before anything is read: what is committed from now on is told.
    parts.directory.agents().cards().register(card.clone());
    ctx.run(AgentMailbox::new(parts, card.clone()));
    card
}

impl AgentMailbox {
    fn new(parts: MailboxParts, card: Arc<Card>) -> Self {
        Self {
            state: State::new(parts.config.text_bytes_max),
            parts,
            card,
            waiting: Waiting::new(),
            phase: Phase::new(),
            is_paused: false,
            heard: 0,
            timer: None,
            handed_out_total: 0,
            leaving: false,
        }
    }

    fn now_ms(&self) -> i64 {
        self.parts.clock.now_ms()
    }

    fn leave(&mut self, ctx: &mut Context<Self>) {
        self.leaving = true;
        self.parts.directory.agents().cards().unregister(&self.card);
        ctx.stop();
    }

    fn hear(&mut self, told: Vec<Told>, ctx: &mut Context<Self>) {
        let now_ms = self.now_ms();
        for told in told {
            match told {
                Told::Delivery(delivery, line) => {
                    self.state.on_delivery(&delivery, line, now_ms);
                }
                Told::Agent(Some(state)) => self.set_paused(state != AgentState::Running),
                Told::Agent(None) => self.leave(ctx),
                Told::KeyEnded => {
                    for (reply, ask) in self.waiting.take() {
                        self.park(reply, ask);
                    }
                }
            }
        }
    }

    fn set_paused(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
        self.card.set_paused(is_paused);
    }

    /// Hands out what is ready to the polls that wait, the longest first; to be called after every change.
    fn serve(&mut self, ctx: &mut Context<Self>) {
        let now_ms = self.now_ms();
        self.state.on_time(now_ms);
        while self.may_hand_out()
            && let Some((reply, ask)) = self.waiting.pop()
        {
            self.hand_out(reply, ask, ctx);
        }
        let is_quiet = self.phase.is_ready() && !self.may_hand_out();
        self.card.hear(self.heard, is_quiet);
        self.set_timer(ctx);
    }

    fn may_hand_out(&self) -> bool {
        self.phase.is_ready() && !self.is_paused && self.state.has_ready()
    }

    fn set_timer(&mut self, ctx: &mut Context<Self>) {
        let next_at = self.state.next_at();
        if self.timer.as_ref().map(|(at, _)| *at) == next_at {
            return;
        }
        if let Some((_, timer)) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        let Some(at) = next_at else { return };
        let wait = Duration::from_millis(u64::try_from(at - self.now_ms()).unwrap_or(0)).min(SLEEP_MAX);
        let timer = ctx.run_later(wait, |this, ctx| {
            this.timer = None;
            this.serve(ctx);
        });
        self.timer = Some((at, timer));
    }

    /// Answers a poll with what is ready, or has it wait.
    fn hand_out(&mut self, reply: PollReply, ask: Ask, ctx: &mut Context<Self>) {
        let Some(reply) = self.admitted(reply, &ask) else { return };
        let picked = self.state.pick(Want { rows: ask.rows, bytes: ask.bytes }, self.now_ms());
        if picked.items.is_empty() {
            self.park(reply, ask);
        } else if picked.missing.is_empty() {
            self.lease(picked, reply, ask);
        } else {
            self.read_texts(picked, reply, ask, ctx);
        }
    }

    /// Hands the reply back if the key of the poll still counts; else refuses the poll.
    fn admitted(&self, reply: PollReply, ask: &Ask) -> Option<PollReply> {
        if self.parts.directory.agents().counts(ask.key_id, self.now_ms()) {
            return Some(reply);
        }
        // Whoever asked may have gone.
        let _ = reply.send(Err(Error::new(ErrorCode::Unauthenticated, "Invalid API key")));
        None
    }

    fn park(&mut self, reply: PollReply, ask: Ask) {
        let Some(reply) = self.admitted(reply, &ask) else { return };
        if ask.waits {
            self.waiting.push(reply, ask);
            return;
        }
        let remaining = if self.is_paused { 0 } else { self.state.remaining(self.now_ms()) };
        // Whoever asked may have gone.
        let _ = reply.send(Ok(Answer { ticket: None, remaining, is_paused: self.is_paused }));
    }

    /// Reads the texts that are not in memory, and goes on with what fits then.
    fn read_texts(&mut self, mut picked: Picked, reply: PollReply, ask: Ask, ctx: &mut Context<Self>) {
        let (store, ids) = (self.parts.store.clone(), picked.missing.clone());
        async move { store.read(move |db| messages::by_ids(db, &ids)).await }
            .into_actor(self)
            .map(move |found, this, ctx| {
                let now_ms = this.now_ms();
                match found {
                    // Whoever has gone would cost an attempt.
                    _ if reply.is_closed() => drop(this.state.taken_back(&ids_of(&picked), now_ms)),
                    Ok(lines) => {
                        // Their lines are gone, and so will they be in a moment; or they cannot be read (STO-3).
                        this.state.forget(&picked.without_line(&lines), now_ms);
                        let left = picked.fill(&lines, ask.bytes);
                        if !picked.items.is_empty() {
                            this.state.taken_back(&left, now_ms);
                            this.lease(picked, reply, ask);
                        } else if this.may_hand_out() {
                            this.hand_out(reply, ask, ctx);
                        } else {
                            this.park(reply, ask);
                        }
                    }
                    Err(error) => this.fail(&picked, reply, error),
                }
                this.serve(ctx);
            })
            .spawn(ctx);
    }

    /// Proposes the pick to the writer. Whoever holds the ticket waits for its answer, so that it need not come by here.
    fn lease(&mut self, picked: Picked, reply: PollReply, ask: Ask) {
        let ids = ids_of(&picked);
        let until = self.now_ms().saturating_add(ask.lease_ms);
        let command = HandOut { recipient: self.card.party_id, ids, until };
        match self.parts.store.writer().submit(Lane::Interactive, command) {
            Ok(answer) => {
                self.handed_out_total += picked.items.len() as u64;
                let (card, store) = (self.card.clone(), self.parts.store.clone());
                let ticket = Ticket::new(card, store, picked.items, ask.explicit_ack, answer);
                let remaining = self.state.remaining(self.now_ms());
                // Whoever asked may have gone; then the ticket gives back what it stands for.
                let _ = reply.send(Ok(Answer { ticket: Some(ticket), remaining, is_paused: false }));
            }
            Err(error) => self.fail(&picked, reply, error),
        }
    }

    /// Answers a poll with an error; what was picked for it is picked again after a while.
    fn fail(&mut self, picked: &Picked, reply: PollReply, error: Error) {
        self.state.refused(&ids_of(picked), self.now_ms());
        // Whoever asked may have gone.
        let _ = reply.send(Err(error));
    }

    fn on_poll(&mut self, poll: Poll, ctx: &mut Context<Self>) {
        // Whoever has gone would cost an attempt.
        if poll.reply.is_closed() {
            return;
        }
        self.state.on_time(self.now_ms());
        if self.may_hand_out() {
            self.hand_out(poll.reply, poll.ask, ctx);
        } else {
            self.park(poll.reply, poll.ask);
        }
    }
}

fn ids_of(picked: &Picked) -> Vec<DeliveryId> {
    picked.items.iter().map(|item| item.delivery).collect()
}

impl Actor for AgentMailbox {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.load(ctx);
        ctx.run_interval(Duration::from_secs(self.parts.config.idle_s), |this, ctx| {
            this.waiting.sweep();
            let is_idle = !this.card.take_call() && this.waiting.len() == 0 && this.state.handing_out() == 0;
            if is_idle && this.phase.is_ready() {
                this.leave(ctx);
            }
        });
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.parts.directory.agents().cards().unregister(&self.card);
        let child = Child::Mailbox(self.card.agent_id);
        self.parts.parent.do_send(ChildStopped { child, clean: self.leaving });
    }
}

impl Handler<Poll> for AgentMailbox {
    type Result = ();

    fn handle(&mut self, poll: Poll, ctx: &mut Self::Context) {
        if let Some(poll) = self.phase.hold_back(poll) {
            self.on_poll(poll, ctx);
            self.serve(ctx);
        }
    }
}

impl Handler<FromStore> for AgentMailbox {
    type Result = ();

    fn handle(&mut self, FromStore(told): FromStore, ctx: &mut Self::Context) {
        self.heard += 1;
        if let Some(told) = self.phase.keep_behind(told) {
            self.hear(told, ctx);
            self.serve(ctx);
        }
    }
}

impl Handler<Refused> for AgentMailbox {
    type Result = ();

    fn handle(&mut self, Refused(ids): Refused, ctx: &mut Self::Context) {
        self.state.refused(&ids, self.now_ms());
        self.serve(ctx);
    }
}

impl Handler<NotTaken> for AgentMailbox {
    type Result = ();

    fn handle(&mut self, NotTaken(mut ticket): NotTaken, ctx: &mut Self::Context) {
        // Dropped with what was leased, which gives it back; what was not comes as refused.
        async move { ticket.leased().await.map(drop) }
            .into_actor(self)
            .map(|outcome, this, _| {
                if let Err(error) = outcome {
                    log::debug!("a hand-out of {} that nobody waits for failed: {error}", this.card.agent_id);
                }
            })
            .spawn(ctx);
    }
}

impl Handler<Observe> for AgentMailbox {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, _: Observe, _ctx: &mut Self::Context) -> Self::Result {
        let now_ms = self.now_ms();
        MessageResult(Report {
            actor: "agent_mailbox",
            id: self.card.agent_id.to_string(),
            state: serde_json::json!({
                "ready": self.state.remaining(now_ms),
                "handing_out": self.state.handing_out(),
                "polls_waiting": self.waiting.len(),
                "paused": self.is_paused,
                "loaded": self.phase.is_ready(),
                "handed_out_total": self.handed_out_total,
            }),
        })
    }
}

impl Handler<Stop> for AgentMailbox {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        self.leave(ctx);
    }
}
