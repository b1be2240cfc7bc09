//! What a socket knows of a conversation it watches, and how events become its frames (CNV-1).
use std::sync::Arc;

use actix::prelude::*;

use super::frames::{self, Have};
use super::{BrowserSession, QUEUED_MAX};
use crate::domain::conversation::{Conversation, foreign_session};
use crate::domain::delivery::DeliveryState;
use crate::domain::error::Error;
use crate::domain::event::{Event, Live, LiveStep, Topic, TurnEnd};
use crate::domain::ids::{ConversationId, GatewayId, TurnId};
use crate::domain::message::Line;
use crate::store::{Db, conversations, messages, turns};

/// Events that may wait while a log is read; beyond it the log is read once more.
const BUFFER_MAX: usize = 10_000;

/// When a read of the store that failed is tried again.
const READ_AGAIN: std::time::Duration = std::time::Duration::from_millis(500);

/// What the browser has of the run in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunView {
    pub(super) turn_id: TurnId,
    /// The last of its events that was seen.
    rev: u64,
    /// Stream frames of this run on this socket.
    pub(super) n: u64,
    pub(super) have: Have,
}

/// Where a watch stands.
#[derive(Debug)]
enum Mode {
    /// The log is being read; what happens meanwhile waits.
    Loading { waiting: Vec<Arc<Event>>, overflowed: bool },
    /// Lines up to here have been sent or were there before.
    Live { next_seq: i64 },
}

/// When a watch that begins goes live.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum GoLive {
    AtOnce,
    /// When the gateway's own log has been read, or a while after.
    AfterContact,
    /// When the caller says so: what happens until then waits.
    Later,
}

/// One watched conversation.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) topic: Arc<Topic>,
    mode: Mode,
    pub(super) run: Option<RunView>,
}

impl Watch {
    fn new(topic: Arc<Topic>) -> Self {
        Self { topic, mode: Mode::Loading { waiting: Vec::new(), overflowed: false }, run: None }
    }

    /// Returns the number of the next line, while the watch is live.
    pub(super) fn next_seq(&self) -> Option<i64> {
        match self.mode {
            Mode::Live { next_seq } => Some(next_seq),
            Mode::Loading { .. } => None,
        }
    }
}

/// Tells why a browser that has the lines up to `after` must load the session again, if it must.
pub(super) fn reason_to_reset(after: i64, found: &Conversation, last_seq: i64, lines_max: i64) -> Option<&'static str> {
    if after < found.first_seq - 1 || after > found.last_seq {
        Some("unknown_position")
    } else if last_seq - after > lines_max {
        Some("too_far_behind")
    } else {
        None
    }
}

/// Reads a conversation with its open turns.
pub(super) fn found_with_turns(db: &mut Db, id: ConversationId) -> Result<(Conversation, Vec<TurnId>), Error> {
    let found = conversations::get(db, id)?.ok_or_else(|| Error::not_found("session", id))?;
    Ok((found, open_turns(db, id)?))
}

/// Reads which turns of a conversation have not ended.
fn open_turns(db: &mut Db, id: ConversationId) -> Result<Vec<TurnId>, Error> {
    Ok(turns::open_of_conversation(db, id)?.iter().map(|turn| turn.id).collect())
}

impl BrowserSession {
    /// Has the lines after `after` sent again, then what is new: the browser has them up to there.
    pub(super) fn go_back(&mut self, id: ConversationId, after: i64, ctx: &mut Context<Self>) {
        if let Some(watch) = self.watches.get_mut(&id) {
            if !matches!(watch.mode, Mode::Loading { .. }) {
                watch.mode = Mode::Loading { waiting: Vec::new(), overflowed: false };
            }
            self.read_missed(id, after, ctx);
        }
    }

    /// Notes that one of our own lines is on disk; it is acknowledged in its place, or now if that has gone by.
    pub(super) fn on_accepted(
        &mut self,
        id: ConversationId,
        line: &Line,
        key: Option<String>,
        sent: bool,
        ctx: &mut Context<Self>,
    ) {
        if self.acknowledged.remove(&line.id) {
            return;
        }
        let federated = self.federated();
        let Some(watch) = self.watches.get(&id) else { return };
        if watch.next_seq().is_some_and(|next_seq| line.seq < next_seq) {
            let frame = frames::ack(&watch.topic, line, key.as_deref(), sent, federated);
            self.send(frame, ctx);
        } else {
            self.unacknowledged.insert(line.id, (key, sent));
        }
    }

    /// Begins to watch: from here on events are kept until [`BrowserSession::go_live`].
    pub(super) fn begin_watch(&mut self, topic: Arc<Topic>) -> Result<(), Error> {
        if self.watches.len() >= self.parts.shared.limits.watched_sessions_per_socket_max {
            return Err(Error::new(
                crate::domain::error::ErrorCode::RateLimited,
                format!(
                    "one socket watches at most {} sessions; unsubscribe from some",
                    self.parts.shared.limits.watched_sessions_per_socket_max
                ),
            ));
        }
        let id = topic.conversation_id;
        self.parts.hub.watch(self.id, id);
        self.watches.insert(id, Box::new(Watch::new(topic)));
        Ok(())
    }

    pub(super) fn end_watch(&mut self, id: ConversationId) {
        self.parts.hub.unwatch(self.id, id);
        self.outbox.drop_live_of(id);
        self.watches.remove(&id);
        self.forget_names_of(id);
    }

    /// Keeps what happens from now on until [`BrowserSession::go_live`]; returns up to which line the browser has it.
    /// `None`: it is kept already, and goes on by itself.
    pub(super) fn hold(&mut self, id: ConversationId) -> Option<i64> {
        let watch = self.watches.get_mut(&id)?;
        let next_seq = watch.next_seq()?;
        watch.mode = Mode::Loading { waiting: Vec::new(), overflowed: false };
        Some(next_seq - 1)
    }

    /// The log has been read up to `last_seq`: goes on with what happened meanwhile.
    pub(super) fn go_live(&mut self, id: ConversationId, last_seq: i64, ctx: &mut Context<Self>) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        let Mode::Loading { waiting, overflowed } = &mut watch.mode else { return };
        let (waiting, overflowed) = (std::mem::take(waiting), *overflowed);
        watch.mode = Mode::Live { next_seq: last_seq + 1 };
        // A run whose end was read with the log is over: its texts that still wait say nothing any more.
        let over = |turn: TurnId| {
            waiting.iter().any(|event| {
                matches!(event.as_ref(), Event::Line { line, end: Some(end), .. }
                    if end.turn_id == turn && line.seq <= last_seq)
            })
        };
        for event in &waiting {
            let stale = matches!(event.as_ref(), Event::Live { live, .. } if over(live.turn_id));
            if !stale {
                self.on_watched(event, ctx);
            }
        }
        if overflowed {
            self.catch_up(id, ctx);
        }
        self.flush();
    }

    /// Shows the run in progress to a browser that has just come. `open` are the turns that had not ended when its lines
    /// were read: of another one the answer is among the lines, and its end may be on its way.
    pub(super) fn show_run(&mut self, id: ConversationId, open: &[TurnId], ctx: &mut Context<Self>) {
        let run = self.parts.shared.directory.run(id);
        let Some(live) = run.filter(|live| open.contains(&live.turn_id)) else { return };
        let federated = self.federated();
        let Some(watch) = self.watches.get_mut(&id) else { return };
        if watch.run.is_some_and(|run| run.turn_id == live.turn_id && run.rev >= live.rev) {
            return;
        }
        let (topic, n) =
            (watch.topic.clone(), watch.run.filter(|run| run.turn_id == live.turn_id).map_or(0, |run| run.n) + 1);
        let (frame, have) = frames::snapshot(&topic, &live, n, federated);
        watch.run = Some(RunView { turn_id: live.turn_id, rev: live.rev, n, have });
        self.outbox.drop_live(live.turn_id);
        self.send(frame, ctx);
    }

    /// Reads what was missed and sends it, then goes on.
    pub(super) fn catch_up(&mut self, id: ConversationId, ctx: &mut Context<Self>) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        match &mut watch.mode {
            // What is being read may be from before the loss: it is read once more behind that.
            Mode::Loading { overflowed, .. } => *overflowed = true,
            Mode::Live { next_seq } => {
                let after = *next_seq - 1;
                watch.mode = Mode::Loading { waiting: Vec::new(), overflowed: false };
                self.read_missed(id, after, ctx);
            }
        }
    }

    /// Sends the lines after `after`, as much as the outbox takes; the next page is read when it has been written.
    pub(super) fn read_missed(&mut self, id: ConversationId, after: i64, ctx: &mut Context<Self>) {
        let limits = &self.parts.shared.limits;
        let rows = (limits.outbox_frames_max / 2).clamp(1, limits.page_rows_max) as i64;
        let bytes = limits.page_bytes_max.min(limits.outbox_bytes_max / 2);
        let store = self.parts.shared.store.clone();
        async move {
            store
                .read(move |db| {
                    let found = conversations::get(db, id)?;
                    let lines = messages::page(db, id, messages::Span::After(after), rows, bytes)?;
                    Ok::<_, Error>((found, lines, open_turns(db, id)?))
                })
                .await
        }
        .into_actor(self)
        .map(move |read, this, ctx| match read {
            Ok((Some(found), lines, open)) => {
                let last = lines.last().map_or(after, |line| line.seq);
                this.send_lines(id, &lines, ctx);
                if last < found.last_seq && this.outbox.is_empty() {
                    this.read_missed(id, last, ctx);
                } else if last < found.last_seq {
                    this.unread.push_back((id, last));
                } else {
                    this.settle_run(id, &open, ctx);
                    this.go_live(id, last, ctx);
                    this.show_run(id, &open, ctx);
                }
            }
            Ok((None, ..)) => this.end_watch(id),
            Err(error) => {
                log::warn!("missed lines could not be read and are read again: {error}");
                ctx.run_later(READ_AGAIN, move |this, ctx| this.read_missed(id, after, ctx));
            }
        })
        .spawn(ctx);
    }

    /// A run that ended while events were lost, without a line: its end is told from the store. One that is still known to
    /// go on has its end told by its event.
    fn settle_run(&mut self, id: ConversationId, open: &[TurnId], ctx: &mut Context<Self>) {
        let Some(run) = self.watches.get(&id).and_then(|watch| watch.run) else { return };
        if self.parts.shared.directory.run(id).is_some_and(|live| live.turn_id == run.turn_id) {
            self.show_run(id, open, ctx);
            return;
        }
        self.read_end(id, run.turn_id, ctx);
    }

    /// Tells the end of a run in view from the store.
    fn read_end(&mut self, id: ConversationId, turn_id: TurnId, ctx: &mut Context<Self>) {
        let store = self.parts.shared.store.clone();
        async move { store.read(move |db| turns::get(db, turn_id)).await }
            .into_actor(self)
            .map(move |read, this, ctx| {
                let turn = match read {
                    Ok(Some(turn)) => turn,
                    Ok(None) => return,
                    Err(error) => {
                        log::warn!("the end of a run could not be read and is read again: {error}");
                        ctx.run_later(READ_AGAIN, move |this, ctx| this.read_end(id, turn_id, ctx));
                        return;
                    }
                };
                let still = this.watches.get(&id).and_then(|watch| watch.run).is_some_and(|r| r.turn_id == turn.id);
                if still && turn.answer_id.is_some() {
                    // Its answer went out as a line.
                    if let Some(watch) = this.watches.get_mut(&id) {
                        watch.run = None;
                    }
                } else if still && !turn.state.is_open() {
                    let end = TurnEnd {
                        turn_id: turn.id,
                        state: turn.state,
                        text: turn.text.as_str().into(),
                        error: None,
                        code: None,
                        usage: None,
                    };
                    this.send_end(id, &end, None, ctx);
                }
            })
            .spawn(ctx);
    }

    /// Sends lines as `message` frames.
    pub(super) fn send_lines(&mut self, id: ConversationId, lines: &[Arc<Line>], ctx: &mut Context<Self>) {
        let federated = self.federated();
        let Some(topic) = self.watches.get(&id).map(|watch| watch.topic.clone()) else { return };
        for line in lines {
            let frame = match self.unacknowledged.remove(&line.id) {
                Some((key, sent)) => frames::ack(&topic, line, key.as_deref(), sent, federated),
                None => frames::message(&topic, line, federated),
            };
            self.send(frame, ctx);
        }
    }

    fn send_end(&mut self, id: ConversationId, end: &TurnEnd, line: Option<&Line>, ctx: &mut Context<Self>) {
        let federated = self.federated();
        let Some(watch) = self.watches.get_mut(&id) else { return };
        let n = watch.run.take().filter(|run| run.turn_id == end.turn_id).map_or(0, |run| run.n) + 1;
        let topic = watch.topic.clone();
        self.outbox.drop_live(end.turn_id);
        self.send(frames::terminal(&topic, end, line, n, federated), ctx);
    }

    /// An event of a watched conversation.
    pub(super) fn on_watched(&mut self, event: &Arc<Event>, ctx: &mut Context<Self>) {
        let Some(id) = event.topic().map(|topic| topic.conversation_id) else { return };
        let Some(watch) = self.watches.get_mut(&id) else { return };
        let next_seq = match &mut watch.mode {
            Mode::Loading { waiting, overflowed } => {
                if waiting.len() < BUFFER_MAX {
                    waiting.push(event.clone());
                } else {
                    *overflowed = true;
                }
                return;
            }
            Mode::Live { next_seq } => *next_seq,
        };
        match event.as_ref() {
            Event::Line { line, end, .. } if line.seq < next_seq => {
                // The line went out with the log; a run in view has its end all the same.
                let shown = watch.run.map(|run| run.turn_id);
                if let Some(end) = end.as_ref().filter(|end| Some(end.turn_id) == shown) {
                    self.send_end(id, end, Some(line), ctx);
                }
            }
            Event::Line { line, .. } if line.seq > next_seq => {
                // Never a silent gap: what lies between is read from the store.
                self.catch_up(id, ctx);
            }
            Event::Line { topic, line, ack_to, end } => {
                watch.mode = Mode::Live { next_seq: next_seq + 1 };
                self.on_line(topic, line, ack_to.as_ref(), end.as_deref(), ctx);
            }
            Event::TurnEnded { end, .. } => self.send_end(id, end, None, ctx),
            Event::Live { topic, live } => self.on_live(topic, live, ctx),
            Event::Delivery { topic, delivery, .. } => {
                let mine = self.queued.contains(&delivery.message_id);
                let state = match delivery.state {
                    DeliveryState::Leased if mine => "sent",
                    DeliveryState::Dead | DeliveryState::Cancelled | DeliveryState::Expired => delivery.state.as_str(),
                    _ => return,
                };
                self.queued.remove(&delivery.message_id);
                let frame = frames::delivery(topic, delivery, state, self.federated());
                self.send(frame, ctx);
            }
            Event::Imported { topic, first_seq, done } => {
                let frame = frames::imported(topic, *first_seq, *done, self.federated());
                self.send(frame, ctx);
            }
            Event::SessionRefused { topic } => {
                let gateway = topic.gateway_id.as_ref().filter(|_| self.federated()).map(GatewayId::as_str);
                let frame = frames::error(&foreign_session(&topic.key), Some(&topic.key), None, gateway);
                self.send(frame, ctx);
            }
            Event::ConversationDeleted { topic, first_seq, last_seq } => {
                let frame = frames::reset(topic, "deleted", *first_seq, *last_seq, self.federated());
                self.end_watch(id);
                self.send(frame, ctx);
            }
            _ => {}
        }
    }

    fn on_line(
        &mut self,
        topic: &Arc<Topic>,
        line: &Arc<Line>,
        ack_to: Option<&crate::domain::event::AckTo>,
        end: Option<&TurnEnd>,
        ctx: &mut Context<Self>,
    ) {
        let federated = self.federated();
        // A line of our own of which the store has said that it is on disk, where its event does not say whose it is.
        let own = if ack_to.is_none() { self.unacknowledged.remove(&line.id) } else { None };
        if let Some((key, sent)) = own {
            if !sent && self.queued.len() < QUEUED_MAX {
                self.queued.insert(line.id);
            }
            self.send(frames::ack(topic, line, key.as_deref(), sent, federated), ctx);
        } else if let Some(ack) = ack_to.filter(|ack| ack.socket_id == self.id) {
            if !ack.sent && self.queued.len() < QUEUED_MAX {
                self.queued.insert(line.id);
            }
            if self.unacknowledged.remove(&line.id).is_none() && self.acknowledged.len() < QUEUED_MAX {
                self.acknowledged.insert(line.id);
            }
            self.send(frames::ack(topic, line, ack.client_key.as_deref(), ack.sent, federated), ctx);
        } else if let Some(end) = end {
            self.send_end(topic.conversation_id, end, Some(line), ctx);
        } else {
            self.send(frames::message(topic, line, federated), ctx);
        }
    }

    fn on_live(&mut self, topic: &Arc<Topic>, live: &Arc<Live>, ctx: &mut Context<Self>) {
        let Some(watch) = self.watches.get_mut(&topic.conversation_id) else { return };
        let known = watch.run.filter(|run| run.turn_id == live.turn_id);
        if known.is_some_and(|run| run.rev >= live.rev) {
            return;
        }
        let joined_late = known.is_none() && matches!(live.step, LiveStep::Delta { at, .. } if at > 0);
        let whole = live.step == LiveStep::Replace || joined_late;
        let run = known.unwrap_or(RunView { turn_id: live.turn_id, rev: 0, n: 0, have: Have::default() });
        watch.run = Some(RunView { rev: live.rev, ..run });
        if self.outbox.push_live(topic, live, whole).is_err() {
            self.too_slow(ctx);
        }
    }
}
