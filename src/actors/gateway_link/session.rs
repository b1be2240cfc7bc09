//! One upstream session as its link sees it: plain state whose methods say what should happen next.
//!
//! Invariants
//! - D4: one question in flight; a foreign run is waited for; the key sent upstream is the delivery's id, always; a key
//!   that the history shows is never sent again.
//! - D1: the first `chat.history` is read before anything is sent, and its newest row is the boundary of the import.
//! - D9: a turn's end is written before it is told; the first terminal event counts.
use std::collections::VecDeque;
use std::sync::Arc;

use crate::domain::conversation::Conversation;
use crate::domain::delivery::{Outcome, reason};
use crate::domain::event::{Live, LiveStep, Topic};
use crate::domain::ids::{DeliveryId, GatewayId, MessageId, TurnId};
use crate::domain::message::{Block, MessageRole};
use crate::domain::turn::TurnState;
use crate::gateway::frames::{ChatEvent, ChatState, GatewayError, SendAck, SendStatus};
use crate::gateway::history::{HistoryPage, HistoryRow, RowRole};
use crate::gateway::reconcile::{self, Asked, Verdict};
use crate::gateway::run::{Change, RunText};
use crate::store::turns::{BeginForeignTurn, BeginTurn, Checkpoint, DeliveryEnd, EndTurn, Turn};
use crate::store::upstream::{ImportRows, NoteContact, RowLine, Source};

/// Ended runs whose late events are recognised.
const ENDED_RUNS_MAX: usize = 64;
/// Events of a foreign run that wait until its turn is on disk.
const EARLY_EVENTS_MAX: usize = 2_000;
/// Passes over the tail that look for an answer row which the gateway has not written yet.
const TAIL_TRIES_MAX: u32 = 5;
/// Rows that one history request can bring.
pub(super) const HISTORY_ROWS_MAX: u32 = 1_000;
/// How often a question that waits for the gateway to take it up again is looked for.
const RESUME_LOOK_MS: u64 = 5_000;
/// Wait before a write that the store refused is tried again.
const STORE_RETRY_MS: u64 = 500;
/// Wait before a question that a busy gateway did not take is sent again, unless it says how long.
const BUSY_RETRY_MS: u64 = 1_000;
/// On protocol 3 a message that comes right after a `final` is answered with a bare `final` first, and the answer comes
/// under an id that nobody told; after so long it does not happen.
const PROTOCOL_3_PAUSE_MS: i64 = 1_000;

/// What the machine is told by its settings.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) resume_wait_ms: i64,
    pub(super) silence_ms: i64,
    pub(super) checkpoint_ms: i64,
    pub(super) history_rows: u32,
    pub(super) import_lines_max: usize,
    pub(super) store_thinking: bool,
}

/// A line that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) delivery_id: DeliveryId,
    pub(super) message_id: MessageId,
    pub(super) seq: i64,
    pub(super) text: Arc<str>,
}

/// Why history is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Contact,
    Import,
    Tail,
    Reconcile,
}

/// Why the machine wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    Resend,
    Reconcile,
    Tail,
    RetryBegin,
    RetryEnd,
    Contact,
    Next,
}

/// What should happen.
#[derive(Debug)]
pub(super) enum Effect {
    /// Ask the gateway: `chat.send` with the delivery's id as key.
    Send {
        delivery_id: DeliveryId,
        text: Arc<str>,
    },
    /// Ask the gateway: `chat.abort`.
    Abort {
        run_id: String,
    },
    /// Ask the gateway: `chat.history`.
    History {
        purpose: Purpose,
        limit: u32,
        offset: u64,
    },
    Begin(BeginTurn),
    BeginForeign(BeginForeignTurn),
    End(Box<EndTurn>),
    NoteContact(NoteContact),
    Import(ImportRows),
    /// Map the rows of this page to lines and steps.
    Map(Box<HistoryPage>),
    Checkpoint(Checkpoint),
    Tell(Live),
    WakeIn {
        ms: u64,
        wake: Wake,
    },
    /// End these waiting deliveries.
    Cancel(Vec<DeliveryId>),
    /// The session now goes by this run id as well.
    RunId(String),
}

/// Why a request to the gateway failed.
#[derive(Debug)]
pub(super) enum RequestError {
    Refused(GatewayError),
    TimedOut,
    /// The connection ended before the answer.
    Closed,
    /// The answer could not be read.
    Unreadable(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contact {
    Unknown,
    Asking,
    Known,
}

/// Where the run at hand stands.
#[derive(Debug)]
enum Stage {
    /// Its turn is being written.
    Beginning,
    /// `chat.send` is on its way.
    Sending,
    Running,
    /// What became of it must be read from history.
    Unsure,
    /// The gateway knows it and does nothing: it may take it up again until then.
    Resuming {
        until: i64,
    },
    /// Its end is being written.
    Ending(Box<EndTurn>),
}

#[derive(Debug)]
struct Run {
    turn_id: TurnId,
    run_id: String,
    question: Option<Question>,
    started_at: i64,
    stage: Stage,
    text: RunText,
    rev: u64,
    heard_at: i64,
    checkpoint_at: i64,
    checkpoint_rev: u64,
    abort_wanted: bool,
    wide_look: bool,
    early: Vec<ChatEvent>,
}

#[derive(Debug, Default)]
struct Tail {
    busy: bool,
    again: bool,
    tries: u32,
    /// The run whose answer row was not there yet.
    awaited: bool,
}

#[derive(Debug, Default)]
struct Import {
    running: bool,
    imported: usize,
    offset: u64,
}

/// One upstream session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) topic: Arc<Topic>,
    pub(super) conversation: Conversation,
    pub(super) protocol: u32,
    link_up: bool,
    /// Since the last connection the log has not been read.
    stale: bool,
    /// No question is sent before this time.
    pause_until: i64,
    contact: Contact,
    queue: VecDeque<Question>,
    run: Option<Run>,
    ended_runs: VecDeque<String>,
    tail: Tail,
    import: Import,
    options: Arc<Options>,
}

impl Session {
    pub(super) fn new(conversation: Conversation, options: Arc<Options>) -> Self {
        let topic = Arc::new(Topic {
            conversation_id: conversation.id,
            gateway_id: conversation.gateway_id.clone(),
            key: conversation.key.as_str().into(),
        });
        let contact = if conversation.upstream.contacted { Contact::Known } else { Contact::Unknown };
        Self {
            topic,
            conversation,
            protocol: 4,
            link_up: false,
            stale: false,
            pause_until: 0,
            contact,
            queue: VecDeque::new(),
            run: None,
            ended_runs: VecDeque::new(),
            tail: Tail::default(),
            import: Import::default(),
            options,
        }
    }

    /// Puts back a turn that was open when the broker stopped; history says what became of it.
    pub(super) fn restore(&mut self, turn: Turn, question: Option<Question>, now_ms: i64) {
        self.run = Some(Run {
            text: RunText::starting_with(&turn.text),
            turn_id: turn.id,
            run_id: turn.run_id,
            question,
            started_at: turn.started_at,
            stage: Stage::Unsure,
            rev: 0,
            heard_at: now_ms,
            checkpoint_at: now_ms,
            checkpoint_rev: 0,
            abort_wanted: false,
            wide_look: false,
            early: Vec::new(),
        });
    }

    /// Returns the key to name the session by upstream.
    pub(super) fn upstream_key(&self) -> &str {
        self.conversation.canonical_key.as_deref().unwrap_or(&self.conversation.key)
    }

    pub(super) fn run_id(&self) -> Option<&str> {
        self.run.as_ref().map(|run| run.run_id.as_str())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.run.is_none() && self.queue.is_empty() && !self.tail.busy && !self.import.running
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    // ---- what comes from here ----------------------------------------------------------------------------------------

    /// A question was accepted, or is to be handed out again.
    pub(super) fn on_question(&mut self, question: Question, now_ms: i64) -> Vec<Effect> {
        let known = self.queue.iter().any(|queued| queued.delivery_id == question.delivery_id)
            || self
                .run
                .as_ref()
                .and_then(|run| run.question.as_ref())
                .is_some_and(|q| q.delivery_id == question.delivery_id);
        if !known {
            let at = self.queue.partition_point(|queued| queued.seq < question.seq);
            self.queue.insert(at, question);
        }
        self.next(now_ms)
    }

    /// A delivery ended without us: cancelled by its sender or an operator.
    pub(super) fn on_ended_elsewhere(&mut self, delivery: DeliveryId) -> Vec<Effect> {
        self.queue.retain(|queued| queued.delivery_id != delivery);
        match &self.run {
            Some(run) if run.question.as_ref().is_some_and(|q| q.delivery_id == delivery) => self.abort(false),
            _ => Vec::new(),
        }
    }

    /// Someone looks at the session: contact it, if that has not been done.
    pub(super) fn on_touched(&mut self, now_ms: i64) -> Vec<Effect> {
        self.next(now_ms)
    }

    /// Ends the run at hand; with `queued` also what waits behind it.
    pub(super) fn abort(&mut self, queued: bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        if queued && !self.queue.is_empty() {
            effects.push(Effect::Cancel(self.queue.drain(..).map(|question| question.delivery_id).collect()));
        }
        let Some(run) = &mut self.run else { return effects };
        run.abort_wanted = true;
        match run.stage {
            Stage::Running if self.link_up => effects.push(Effect::Abort { run_id: run.run_id.clone() }),
            // Nothing runs upstream that could be told to stop.
            Stage::Resuming { .. } => effects.extend(self.end(End::aborted(None), None)),
            _ => {}
        }
        effects
    }

    // ---- the connection ----------------------------------------------------------------------------------------------

    /// The gateway is there again. Its log is read when the session is used, or when the gateway says that it moved.
    pub(super) fn note_link_up(&mut self, protocol: u32) {
        self.link_up = true;
        self.protocol = protocol;
        self.stale = true;
    }

    /// The gateway is there again, and the session has something under way or moved meanwhile.
    pub(super) fn on_link_up(&mut self, protocol: u32, now_ms: i64) -> Vec<Effect> {
        self.note_link_up(protocol);
        self.stale = false;
        self.tail = Tail::default();
        self.import.running = false;
        if self.contact == Contact::Asking {
            self.contact = Contact::Unknown;
        }
        let mut effects = Vec::new();
        if let Some(run) = &mut self.run {
            match run.stage {
                Stage::Beginning | Stage::Ending(_) => {}
                _ => {
                    run.stage = Stage::Unsure;
                    run.wide_look = false;
                    effects.push(self.look());
                }
            }
        }
        if self.contact == Contact::Known {
            effects.extend(self.map_tail());
            effects.extend(self.continue_import());
        }
        effects.extend(self.next(now_ms));
        effects
    }

    pub(super) fn on_link_down(&mut self) {
        self.link_up = false;
        self.tail = Tail::default();
        self.import.running = false;
        if self.contact == Contact::Asking {
            self.contact = Contact::Unknown;
        }
        if let Some(run) = &mut self.run
            && matches!(run.stage, Stage::Sending | Stage::Running | Stage::Resuming { .. })
        {
            run.stage = Stage::Unsure;
        }
    }

    /// Does what is next: contact, then the next question.
    fn next(&mut self, now_ms: i64) -> Vec<Effect> {
        if !self.link_up {
            return Vec::new();
        }
        match self.contact {
            Contact::Asking => return Vec::new(),
            Contact::Unknown => {
                self.contact = Contact::Asking;
                return vec![Effect::History {
                    purpose: Purpose::Contact,
                    limit: self.options.history_rows,
                    offset: 0,
                }];
            }
            Contact::Known => {}
        }
        let mut effects = Vec::new();
        if std::mem::take(&mut self.stale) {
            effects.extend(self.map_tail());
            effects.extend(self.continue_import());
        }
        if self.run.is_some() {
            return effects;
        }
        if now_ms < self.pause_until && !self.queue.is_empty() {
            let ms = u64::try_from(self.pause_until - now_ms).unwrap_or(0);
            effects.push(Effect::WakeIn { ms, wake: Wake::Next });
            return effects;
        }
        let Some(question) = self.queue.pop_front() else { return effects };
        let turn_id = TurnId::new();
        let begin = BeginTurn { turn_id, delivery_id: question.delivery_id };
        let run_id = question.delivery_id.to_string();
        self.run = Some(Run {
            turn_id,
            run_id: run_id.clone(),
            question: Some(question),
            started_at: now_ms,
            stage: Stage::Beginning,
            text: RunText::default(),
            rev: 0,
            heard_at: now_ms,
            checkpoint_at: now_ms,
            checkpoint_rev: 0,
            abort_wanted: false,
            wide_look: false,
            early: Vec::new(),
        });
        effects.push(Effect::RunId(run_id));
        effects.push(Effect::Begin(begin));
        effects
    }

    /// The turn is on disk, or could not be written.
    pub(super) fn on_begun(&mut self, result: Result<Turn, crate::domain::error::Error>, now_ms: i64) -> Vec<Effect> {
        use crate::domain::error::ErrorCode;
        let Some(run) = self.run.as_mut().filter(|run| matches!(run.stage, Stage::Beginning)) else {
            return Vec::new();
        };
        match result {
            Ok(turn) if !turn.state.is_open() => {
                // A late word of a run that had ended before the broker was started.
                let run_id = run.run_id.clone();
                self.run = None;
                self.note_ended(run_id);
                self.next(now_ms)
            }
            Ok(turn) => {
                run.turn_id = turn.id;
                run.started_at = turn.started_at;
                run.heard_at = now_ms;
                match &run.question {
                    Some(question) => {
                        let send = Effect::Send { delivery_id: question.delivery_id, text: question.text.clone() };
                        run.stage = if self.link_up { Stage::Sending } else { Stage::Unsure };
                        if self.link_up { vec![send] } else { Vec::new() }
                    }
                    None => {
                        run.stage = if self.link_up { Stage::Running } else { Stage::Unsure };
                        let early = std::mem::take(&mut run.early);
                        early.into_iter().flat_map(|event| self.on_event(event, now_ms)).collect()
                    }
                }
            }
            Err(error) => match error.code() {
                ErrorCode::StoreBusy | ErrorCode::StorageFull | ErrorCode::Internal => {
                    vec![Effect::WakeIn { ms: STORE_RETRY_MS, wake: Wake::RetryBegin }]
                }
                _ => {
                    // The delivery ended meanwhile, or the conversation is gone.
                    self.run = None;
                    self.next(now_ms)
                }
            },
        }
    }

    /// The gateway answered `chat.send`.
    pub(super) fn on_sent(&mut self, result: Result<SendAck, RequestError>, now_ms: i64) -> Vec<Effect> {
        let Some(run) = self.run.as_mut().filter(|run| matches!(run.stage, Stage::Sending)) else { return Vec::new() };
        match result {
            Ok(ack) if ack.status == SendStatus::Ok => {
                run.stage = Stage::Unsure;
                vec![self.look()]
            }
            Ok(_) => {
                run.stage = Stage::Running;
                run.heard_at = now_ms;
                if run.abort_wanted { vec![Effect::Abort { run_id: run.run_id.clone() }] } else { Vec::new() }
            }
            Err(RequestError::Refused(error)) if error.retryable || error.code == "UNAVAILABLE" => {
                let ms = error.retry_after_ms.unwrap_or(BUSY_RETRY_MS).clamp(100, 60_000);
                vec![Effect::WakeIn { ms, wake: Wake::Resend }]
            }
            Err(RequestError::Refused(error)) => {
                let sentence = format!("the gateway refused the message: {}", error.message);
                self.end(End::dead(sentence, "upstream_refused", false), None)
            }
            Err(RequestError::Closed) => {
                run.stage = Stage::Unsure;
                Vec::new()
            }
            Err(RequestError::Unreadable(what)) => {
                log::warn!(session = &*self.topic.key; "the answer to a question could not be read: {what}");
                run.stage = Stage::Unsure;
                if self.link_up { vec![self.look()] } else { Vec::new() }
            }
            Err(RequestError::TimedOut) => {
                run.stage = Stage::Unsure;
                if self.link_up { vec![self.look()] } else { Vec::new() }
            }
        }
    }

    /// The session's own timer.
    pub(super) fn on_wake(&mut self, wake: Wake, now_ms: i64) -> Vec<Effect> {
        if !self.link_up && !matches!(wake, Wake::RetryBegin | Wake::RetryEnd) {
            return Vec::new();
        }
        match (wake, self.run.as_mut()) {
            (Wake::Contact, _) => {
                if self.contact == Contact::Asking {
                    self.contact = Contact::Unknown;
                }
                self.next(now_ms)
            }
            (Wake::Next, _) => self.next(now_ms),
            (Wake::Tail, _) => self.map_tail(),
            (Wake::Resend, Some(Run { stage: Stage::Sending, question: Some(question), .. })) => {
                vec![Effect::Send { delivery_id: question.delivery_id, text: question.text.clone() }]
            }
            (Wake::Reconcile, Some(Run { stage: Stage::Resuming { .. } | Stage::Unsure, .. })) => vec![self.look()],
            (Wake::RetryBegin, Some(Run { stage: Stage::Beginning, turn_id, question, run_id, .. })) => {
                match question {
                    Some(question) => {
                        vec![Effect::Begin(BeginTurn { turn_id: *turn_id, delivery_id: question.delivery_id })]
                    }
                    None => vec![Effect::BeginForeign(BeginForeignTurn {
                        turn_id: *turn_id,
                        conversation_id: self.conversation.id,
                        run_id: run_id.clone(),
                    })],
                }
            }
            (Wake::RetryEnd, Some(Run { stage: Stage::Ending(end), .. })) => vec![Effect::End(end.clone())],
            _ => Vec::new(),
        }
    }

    /// Time passes: silence is looked into, long texts are kept.
    pub(super) fn on_tick(&mut self, now_ms: i64) -> Vec<Effect> {
        let Some(run) = &mut self.run else { return Vec::new() };
        if !matches!(run.stage, Stage::Running) || !self.link_up {
            return Vec::new();
        }
        let mut effects = Vec::new();
        if run.rev > run.checkpoint_rev && now_ms - run.checkpoint_at >= self.options.checkpoint_ms {
            run.checkpoint_at = now_ms;
            run.checkpoint_rev = run.rev;
            effects.push(Effect::Checkpoint(Checkpoint {
                turn_id: run.turn_id,
                text: run.text.visible().to_owned(),
                run_id: run.run_id.clone(),
            }));
        }
        if now_ms - run.heard_at >= self.options.silence_ms {
            run.heard_at = now_ms;
            effects.push(self.look());
        }
        effects
    }

    // ---- what the gateway tells --------------------------------------------------------------------------------------

    /// An event of a run of this session.
    pub(super) fn on_event(&mut self, event: ChatEvent, now_ms: i64) -> Vec<Effect> {
        if self.ended_runs.contains(&event.run_id) {
            // The first terminal event counts; a second may have left a row in the log.
            return if event.state.is_terminal() { self.map_tail() } else { Vec::new() };
        }
        match &mut self.run {
            Some(run) if run.run_id == event.run_id => {
                if matches!(run.stage, Stage::Beginning) {
                    if run.early.len() < EARLY_EVENTS_MAX {
                        run.early.push(event);
                    }
                    return Vec::new();
                }
                self.on_own_event(&event, now_ms)
            }
            // Older releases do not say in their log which run resumes a question: any new one does.
            Some(Run { stage: Stage::Resuming { .. } | Stage::Unsure, .. }) if self.protocol < 4 => {
                let mut effects = self.adopt(event.run_id.clone(), None, now_ms);
                effects.extend(self.on_own_event(&event, now_ms));
                effects
            }
            Some(Run { stage: Stage::Resuming { .. } | Stage::Unsure, .. }) => {
                // Maybe the gateway has taken our question up under another id: its log tells.
                vec![self.look()]
            }
            Some(_) => {
                if event.state.is_terminal() {
                    self.map_tail()
                } else {
                    Vec::new()
                }
            }
            None if event.state.is_terminal() => self.map_tail(),
            None if self.contact != Contact::Known => self.next(now_ms),
            None => self.adopt_foreign(event, now_ms),
        }
    }

    fn adopt_foreign(&mut self, event: ChatEvent, now_ms: i64) -> Vec<Effect> {
        let turn_id = TurnId::new();
        let run_id = event.run_id.clone();
        self.run = Some(Run {
            turn_id,
            run_id: run_id.clone(),
            question: None,
            started_at: now_ms,
            stage: Stage::Beginning,
            text: RunText::default(),
            rev: 0,
            heard_at: now_ms,
            checkpoint_at: now_ms,
            checkpoint_rev: 0,
            abort_wanted: false,
            wide_look: false,
            early: vec![event],
        });
        let begin = BeginForeignTurn { turn_id, conversation_id: self.conversation.id, run_id: run_id.clone() };
        let mut effects = vec![Effect::RunId(run_id), Effect::BeginForeign(begin)];
        // Who asked stands in the log.
        effects.extend(self.map_tail());
        effects
    }

    fn on_own_event(&mut self, event: &ChatEvent, now_ms: i64) -> Vec<Effect> {
        let Some(run) = &mut self.run else { return Vec::new() };
        if matches!(run.stage, Stage::Ending(_)) {
            return Vec::new();
        }
        run.heard_at = now_ms;
        if !event.state.is_terminal() {
            run.stage = Stage::Running;
        }
        match event.state {
            ChatState::Status => {
                let phase = event.phase.clone().unwrap_or_default();
                let tell = self.tell(LiveStep::Phase(phase));
                tell.into_iter().collect()
            }
            ChatState::Delta => {
                let change = run.text.on_delta(event);
                self.told(change)
            }
            ChatState::Other => Vec::new(),
            ChatState::Final if self.protocol < 4 && event.text.is_none() && run.rev == 0 => {
                run.stage = Stage::Resuming { until: now_ms + self.options.resume_wait_ms };
                vec![Effect::WakeIn { ms: RESUME_LOOK_MS, wake: Wake::Reconcile }]
            }
            ChatState::Final => self.end(End::answered(event.text.clone(), event.usage.clone()), event.timestamp_ms),
            ChatState::Aborted => self.end(End::aborted(event.text.clone()), event.timestamp_ms),
            ChatState::Error => {
                let sentence = event.error_message.clone().unwrap_or_else(|| "the model failed".to_owned());
                self.end(End::failed(event.text.clone(), sentence), event.timestamp_ms)
            }
        }
    }

    fn told(&mut self, change: Change) -> Vec<Effect> {
        let step = match change {
            Change::None => return Vec::new(),
            Change::Added { at, at_utf16 } => LiveStep::Delta { at, at_utf16 },
            Change::Replaced => LiveStep::Replace,
        };
        self.tell(step).into_iter().collect()
    }

    fn tell(&mut self, step: LiveStep) -> Option<Effect> {
        let run = self.run.as_mut()?;
        run.rev += 1;
        Some(Effect::Tell(Live {
            turn_id: run.turn_id,
            message_id: run.question.as_ref().map(|question| question.message_id),
            delivery_id: run.question.as_ref().map(|question| question.delivery_id),
            started_at: run.started_at,
            rev: run.rev,
            text: run.text.visible().into(),
            step,
        }))
    }

    fn end(&mut self, end: End, said_at: Option<i64>) -> Vec<Effect> {
        let Some(run) = &mut self.run else { return Vec::new() };
        let text = std::mem::take(&mut run.text).finish(end.text.as_deref());
        let keep_thinking = self.options.store_thinking;
        let command = Box::new(EndTurn {
            turn_id: run.turn_id,
            state: end.state,
            text: text.visible,
            thinking: Some(text.thinking).filter(|_| keep_thinking),
            error: end.error,
            code: end.code,
            usage: end.usage,
            said_at,
            late: false,
            delivery: end.delivery,
        });
        run.stage = Stage::Ending(command.clone());
        vec![Effect::End(command)]
    }

    /// The end of the turn is on disk, or could not be written.
    pub(super) fn on_ended(&mut self, result: Result<bool, crate::domain::error::Error>, now_ms: i64) -> Vec<Effect> {
        use crate::domain::error::ErrorCode;
        if !self.run.as_ref().is_some_and(|run| matches!(run.stage, Stage::Ending(_))) {
            return Vec::new();
        }
        if let Err(error) = &result
            && matches!(error.code(), ErrorCode::StoreBusy | ErrorCode::StorageFull | ErrorCode::Internal)
        {
            return vec![Effect::WakeIn { ms: STORE_RETRY_MS, wake: Wake::RetryEnd }];
        }
        if let Some(run) = self.run.take() {
            self.note_ended(run.run_id);
            if let Some(question) = run.question {
                self.note_ended(question.delivery_id.to_string());
            }
        }
        if self.protocol < 4 {
            self.pause_until = now_ms + PROTOCOL_3_PAUSE_MS;
        }
        self.tail.tries = 0;
        self.tail.awaited = result.unwrap_or(false);
        let mut effects = if self.link_up { self.map_tail() } else { Vec::new() };
        effects.extend(self.next(now_ms));
        effects
    }

    fn note_ended(&mut self, run_id: String) {
        if !self.ended_runs.contains(&run_id) {
            if self.ended_runs.len() >= ENDED_RUNS_MAX {
                self.ended_runs.pop_front();
            }
            self.ended_runs.push_back(run_id);
        }
    }

    // ---- history -----------------------------------------------------------------------------------------------------

    /// Reads the log for what became of the run at hand.
    fn look(&self) -> Effect {
        let wide = self.run.as_ref().is_some_and(|run| run.wide_look);
        let limit = if wide { HISTORY_ROWS_MAX } else { self.options.history_rows };
        Effect::History { purpose: Purpose::Reconcile, limit, offset: 0 }
    }

    /// Reads the newest rows of the log to give each its place here.
    fn map_tail(&mut self) -> Vec<Effect> {
        if self.contact != Contact::Known || !self.link_up {
            return Vec::new();
        }
        if self.tail.busy {
            self.tail.again = true;
            return Vec::new();
        }
        self.tail.busy = true;
        self.tail.again = false;
        vec![Effect::History { purpose: Purpose::Tail, limit: self.options.history_rows, offset: 0 }]
    }

    pub(super) fn on_history(
        &mut self,
        purpose: Purpose,
        result: Result<HistoryPage, RequestError>,
        now_ms: i64,
    ) -> Vec<Effect> {
        match (purpose, result) {
            (Purpose::Contact, Ok(page)) => self.on_contact(&page, now_ms),
            (Purpose::Contact, Err(error)) => self.contact_failed(&error),
            (Purpose::Import, Ok(page)) => self.on_import_page(&page),
            (Purpose::Import, Err(_)) => {
                self.import.running = false;
                Vec::new()
            }
            (Purpose::Tail, Ok(page)) => vec![Effect::Map(Box::new(page))],
            (Purpose::Tail, Err(_)) => {
                self.tail.busy = false;
                Vec::new()
            }
            (Purpose::Reconcile, Ok(page)) => self.on_reconcile(&page, now_ms),
            (Purpose::Reconcile, Err(RequestError::Closed)) => Vec::new(),
            (Purpose::Reconcile, Err(_)) => vec![Effect::WakeIn { ms: RESUME_LOOK_MS, wake: Wake::Reconcile }],
        }
    }

    fn contact_failed(&mut self, error: &RequestError) -> Vec<Effect> {
        match error {
            RequestError::Refused(refusal) if !refusal.retryable && refusal.code != "UNAVAILABLE" => {
                // The session cannot be had, for example because its agent does not exist: what waits for it dies.
                self.contact = Contact::Unknown;
                let Some(question) = self.queue.pop_front() else { return Vec::new() };
                let sentence = format!("the gateway refused the session: {}", refusal.message);
                self.queue.push_front(question);
                self.contact = Contact::Known;
                log::info!(session = &*self.topic.key; "{sentence}");
                // Sending gives the same refusal, with a turn that tells it.
                self.next(0)
            }
            RequestError::Closed => {
                self.contact = Contact::Unknown;
                Vec::new()
            }
            _ => vec![Effect::WakeIn { ms: BUSY_RETRY_MS, wake: Wake::Contact }],
        }
    }

    fn on_contact(&mut self, page: &HistoryPage, now_ms: i64) -> Vec<Effect> {
        if self.contact != Contact::Asking {
            return Vec::new();
        }
        self.contact = Contact::Known;
        let active = page.in_flight.as_ref().map(|run| run.run_id.as_str());
        let newest = page.rows.iter().filter_map(|row| row.seq).max().unwrap_or(0);
        // Rows of a run that goes on are not history yet.
        let boundary = page
            .rows
            .iter()
            .filter(|row| active.is_some() && row.run_id.as_deref() == active)
            .filter_map(|row| row.seq)
            .min()
            .map_or(newest, |first| first - 1);
        let canonical = page.canonical_key.clone();
        let upstream = &mut self.conversation.upstream;
        upstream.contacted = true;
        upstream.session_id.clone_from(&page.session_id);
        upstream.mapped_seq = boundary;
        let older = self.rows_to_import(&page.rows, boundary);
        let import_below = (!older.is_empty() || page.has_more).then_some(boundary + 1);
        self.conversation.upstream.import_below = import_below;
        self.conversation.canonical_key.clone_from(&canonical);
        let mut effects = vec![Effect::NoteContact(NoteContact {
            conversation_id: self.conversation.id,
            canonical_key: canonical,
            session_id: page.session_id.clone(),
            boundary_seq: boundary,
            import_below,
        })];
        if import_below.is_some() {
            self.import = Import { running: true, ..Import::default() };
            effects.extend(self.import_page(page, boundary));
        }
        if let (Some(run), None) = (&page.in_flight, &self.run) {
            let event = ChatEvent {
                run_id: run.run_id.clone(),
                session_key: String::new(),
                state: ChatState::Delta,
                phase: None,
                delta_text: Some(run.text.clone()),
                replace: true,
                text: None,
                error_message: None,
                error_kind: None,
                usage: None,
                stop_reason: None,
                timestamp_ms: None,
            };
            effects.extend(self.adopt_foreign(event, now_ms));
        }
        effects.extend(self.next(now_ms));
        effects
    }

    /// Picks the rows below the boundary that become lines, newest first.
    fn rows_to_import(&self, rows: &[HistoryRow], below_or_at: i64) -> Vec<(String, RowLine)> {
        let not_before = self.conversation.upstream.not_before_ms;
        rows.iter()
            .rev()
            .filter(|row| row.seq.is_none_or(|seq| seq <= below_or_at))
            .filter(|row| not_before == 0 || row.timestamp_ms.is_some_and(|at| at > not_before))
            .map(|row| (row.id.clone(), line_of(row)))
            .collect()
    }

    fn import_page(&mut self, page: &HistoryPage, below_or_at: i64) -> Vec<Effect> {
        let mut rows = self.rows_to_import(&page.rows, below_or_at);
        let room = self.options.import_lines_max.saturating_sub(self.import.imported);
        rows.truncate(room);
        self.import.imported += rows.len();
        let oldest = page.rows.iter().filter_map(|row| row.seq).min();
        let barred = rows.len() < page.rows.len() && self.conversation.upstream.not_before_ms > 0;
        let more = page.has_more
            && page.next_offset.is_some()
            && self.import.imported < self.options.import_lines_max
            && !barred;
        self.import.offset = page.next_offset.unwrap_or(0);
        let import_below = if more { oldest.or(Some(0)) } else { None };
        self.conversation.upstream.import_below = import_below;
        let source = self.source(page.session_id.as_deref());
        vec![Effect::Import(ImportRows { source, rows, import_below })]
    }

    fn on_import_page(&mut self, page: &HistoryPage) -> Vec<Effect> {
        let below = self.conversation.upstream.import_below.map_or(i64::MAX, |seq| seq - 1);
        self.import_page(page, below)
    }

    /// A page of the import is on disk.
    pub(super) fn on_imported(&mut self, result: Result<usize, crate::domain::error::Error>) -> Vec<Effect> {
        if result.is_err() {
            // The next connection goes on where it stopped; the origins keep rows from coming twice.
            self.import.running = false;
            return Vec::new();
        }
        if self.conversation.upstream.import_below.is_none() || !self.link_up {
            self.import.running = false;
            return Vec::new();
        }
        vec![Effect::History { purpose: Purpose::Import, limit: self.options.history_rows, offset: self.import.offset }]
    }

    fn continue_import(&mut self) -> Option<Effect> {
        self.conversation.upstream.import_below?;
        if self.import.running {
            return None;
        }
        self.import = Import { running: true, ..Import::default() };
        Some(Effect::History { purpose: Purpose::Import, limit: self.options.history_rows, offset: 0 })
    }

    /// Returns where rows of this session's log come from.
    pub(super) fn source(&self, session_id: Option<&str>) -> Source {
        let known = self.conversation.upstream.session_id.as_deref();
        Source {
            conversation_id: self.conversation.id,
            gateway_id: self.conversation.gateway_id.clone().unwrap_or_else(no_gateway),
            upstream_session: session_id.or(known).unwrap_or(self.upstream_key()).to_owned(),
        }
    }

    /// A pass over the tail is done: how far it came, and whether rows of an open turn were left.
    pub(super) fn on_mapped(&mut self, result: Result<Mapped, crate::domain::error::Error>) -> Vec<Effect> {
        self.tail.busy = false;
        match result {
            Ok(mapped) => {
                self.conversation.upstream.mapped_seq = mapped.up_to;
                self.conversation.upstream.session_id = Some(mapped.upstream_session);
                if mapped.answers > 0 {
                    self.tail.awaited = false;
                }
            }
            Err(error) => log::warn!(session = &*self.topic.key; "the tail of a session could not be mapped: {error}"),
        }
        if self.tail.again {
            return self.map_tail();
        }
        if self.tail.awaited && self.tail.tries < TAIL_TRIES_MAX && self.run.is_none() {
            self.tail.tries += 1;
            return vec![Effect::WakeIn { ms: 200 << self.tail.tries, wake: Wake::Tail }];
        }
        Vec::new()
    }

    fn on_reconcile(&mut self, page: &HistoryPage, now_ms: i64) -> Vec<Effect> {
        let protocol = self.protocol;
        let Some(run) = &mut self.run else { return Vec::new() };
        if matches!(run.stage, Stage::Beginning | Stage::Sending | Stage::Ending(_)) {
            return Vec::new();
        }
        let key = run.question.as_ref().map(|question| question.delivery_id.to_string());
        let asked = Asked {
            key: key.as_deref(),
            run_id: &run.run_id,
            text: run.question.as_ref().map_or("", |question| &question.text),
            since_ms: run.started_at,
            protocol,
        };
        match reconcile::judge(page, &asked) {
            // A run that is heard of needs no rescue by history, which lags behind.
            _ if matches!(run.stage, Stage::Running) && protocol < 4 => Vec::new(),
            Verdict::NotStarted => match &run.question {
                Some(question) => {
                    let send = Effect::Send { delivery_id: question.delivery_id, text: question.text.clone() };
                    run.stage = Stage::Sending;
                    vec![send]
                }
                None => self.wait_or_give_up(page, now_ms),
            },
            Verdict::Answered(row) => {
                let end = End::from_row(row);
                self.end(end, row.timestamp_ms)
            }
            Verdict::Running { run_id, text } => {
                let text = text.map(str::to_owned);
                self.adopt(run_id, text, now_ms)
            }
            Verdict::LookFurther if !run.wide_look => {
                run.wide_look = true;
                vec![self.look()]
            }
            Verdict::LookFurther | Verdict::Waiting => self.wait_or_give_up(page, now_ms),
        }
    }

    fn adopt(&mut self, run_id: String, text: Option<String>, now_ms: i64) -> Vec<Effect> {
        let Some(run) = &mut self.run else { return Vec::new() };
        let mut effects = Vec::new();
        let taken_up = run.run_id != run_id;
        run.stage = Stage::Running;
        run.heard_at = now_ms;
        if taken_up {
            // The gateway has taken the question up again, and its answer starts afresh.
            run.run_id.clone_from(&run_id);
            effects.push(Effect::RunId(run_id.clone()));
            effects.push(Effect::Checkpoint(Checkpoint { turn_id: run.turn_id, text: String::new(), run_id }));
        }
        let change = match text {
            Some(text) => run.text.replace(&text),
            None if taken_up => run.text.replace(""),
            None => Change::None,
        };
        if run.abort_wanted {
            effects.push(Effect::Abort { run_id: run.run_id.clone() });
        }
        effects.extend(self.told(change));
        effects
    }

    fn wait_or_give_up(&mut self, page: &HistoryPage, now_ms: i64) -> Vec<Effect> {
        let Some(run) = &mut self.run else { return Vec::new() };
        if run.abort_wanted {
            return self.end(End::aborted(None), None);
        }
        let until = match run.stage {
            Stage::Resuming { until } => until,
            _ => now_ms + self.options.resume_wait_ms,
        };
        // Nobody waits for somebody else's run that is over; its rows are mapped like any others.
        let foreign_and_over = run.question.is_none() && page.is_idle();
        if now_ms >= until || foreign_and_over {
            return self.end(End::interrupted(), None);
        }
        run.stage = Stage::Resuming { until };
        let ms = RESUME_LOOK_MS.min(u64::try_from(until - now_ms).unwrap_or(0).max(1));
        vec![Effect::WakeIn { ms, wake: Wake::Reconcile }]
    }
}

/// What a pass over the tail brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) up_to: i64,
    pub(super) upstream_session: String,
    /// Rows that were answers of our turns.
    pub(super) answers: usize,
}

/// How a turn ends.
struct End {
    state: TurnState,
    text: Option<String>,
    error: Option<String>,
    code: Option<&'static str>,
    usage: Option<serde_json::Value>,
    delivery: DeliveryEnd,
}

impl End {
    fn answered(text: Option<String>, usage: Option<serde_json::Value>) -> Self {
        Self {
            state: TurnState::Final,
            text,
            error: None,
            code: None,
            usage,
            delivery: DeliveryEnd::Completed(Outcome::Answered),
        }
    }

    fn aborted(text: Option<String>) -> Self {
        Self {
            state: TurnState::Aborted,
            delivery: DeliveryEnd::Completed(Outcome::Aborted),
            ..Self::answered(text, None)
        }
    }

    fn failed(text: Option<String>, sentence: String) -> Self {
        Self {
            state: TurnState::Error,
            error: Some(sentence),
            delivery: DeliveryEnd::Completed(Outcome::Error),
            ..Self::answered(text, None)
        }
    }

    /// The gateway may have worked on it, and we cannot know how it ended (D4, 5).
    fn interrupted() -> Self {
        Self {
            state: TurnState::Interrupted,
            error: Some("the gateway lost this run before its answer was complete; ask again".to_owned()),
            code: Some(reason::OUTCOME_UNKNOWN),
            delivery: DeliveryEnd::Dead { reason: reason::OUTCOME_UNKNOWN.to_owned(), started: true },
            ..Self::answered(None, None)
        }
    }

    fn dead(sentence: String, code: &'static str, started: bool) -> Self {
        Self {
            state: TurnState::Error,
            error: Some(sentence.clone()),
            code: Some(code),
            delivery: DeliveryEnd::Dead { reason: sentence, started },
            ..Self::answered(None, None)
        }
    }

    fn from_row(row: &HistoryRow) -> Self {
        let text = Some(row.text.clone());
        if row.is_aborted {
            Self::aborted(text)
        } else if row.is_failure() {
            let sentence = row.error_message.clone().unwrap_or_else(|| row.text.clone());
            Self::failed(Some(String::new()), sentence)
        } else {
            Self::answered(text, None)
        }
    }
}

/// Makes a line of a row of the log.
pub(super) fn line_of(row: &HistoryRow) -> RowLine {
    let role = match row.role {
        _ if row.marker.is_some() => MessageRole::Marker,
        RowRole::User if row.is_recovery => MessageRole::System,
        RowRole::User => MessageRole::User,
        RowRole::Assistant => MessageRole::Assistant,
        RowRole::ToolResult => MessageRole::Tool,
        RowRole::System | RowRole::Other => MessageRole::System,
    };
    let blocks = if row.blocks.is_empty() { vec![Block::text(row.text.clone())] } else { clean(&row.blocks) };
    let error = row.is_failure().then(|| row.error_message.clone().unwrap_or_else(|| row.text.clone()));
    // `<key>:user`, `<run>:assistant`, `<run>:terminal-error`: what stands before the colon is the run.
    let key = row.idempotency_key.as_deref().and_then(|key| key.split(':').next()).map(str::to_owned);
    let run = row.run_id.clone().or(key);
    RowLine { run, role, blocks, said_at: row.timestamp_ms.unwrap_or(0), error }
}

/// Removes the model's thinking from the text of a row, as it is removed from live text.
pub(super) fn clean(blocks: &[Block]) -> Vec<Block> {
    blocks
        .iter()
        .filter(|block| !matches!(block, Block::Thinking { .. }))
        .map(|block| match block {
            Block::Text { text } => Block::text(crate::domain::thinking::strip(text).visible),
            other => other.clone(),
        })
        .collect()
}

#[expect(clippy::expect_used, reason = "a constant name that is valid")]
fn no_gateway() -> GatewayId {
    // Sessions always have a gateway; the type allows conversations without one.
    "unknown".parse().expect("a valid name")
}
