//! One upstream session as its link sees it: plain state whose methods say what should happen next.
//!
//! Here: what it is made of, questions, the connection, and what is next. [`run`] is the life of one run, [`history`]
//! what is read in the gateway's log, [`import`] what came before us, [`end`] how a turn ends, [`bare`] with no text,
//! [`abort`] when somebody wants it to.
//!
//! Invariants
//! - D4: one question in flight; a foreign run is waited for; the key sent upstream is the delivery's id, always; a key
//!   that the history shows is never sent again.
//! - D1: the first `chat.history` is read before anything is sent, and its newest row is the boundary of the import.
//! - D9: a turn's end is written before it is told; the first terminal event counts.
//! - DLV-2: while the link is up, each run has an event, an answer or a timer that will move it.
use std::collections::VecDeque;
use std::sync::Arc;

use crate::domain::conversation::Conversation;
use crate::domain::event::{Live, LiveStep, Topic};
use crate::domain::ids::{DeliveryId, TurnId};
use crate::gateway::frames::{ChatEvent, TerminalReply};
use crate::gateway::history::HistoryPage;
use crate::gateway::run::RunText;
use crate::store::turns::{BeginTurn, EndTurn, Turn};

mod abort;
mod bare;
mod claim;
mod effect;
mod end;
mod history;
mod import;
mod run;

pub(super) use self::effect::{Effect, Look, Options, Purpose, Question, RequestError, Wake};
use self::end::End;
pub(super) use self::end::{clean, line_of};
pub(super) use self::history::Mapped;
use self::history::retry;
use self::import::Import;

/// Ended runs whose late events are recognised.
const ENDED_RUNS_MAX: usize = 64;
/// Rows that one history request can bring.
pub(super) const HISTORY_ROWS_MAX: u32 = 1_000;
/// Rows that one look at the log goes back at most, and the text in them: one session must not take the memory of all.
const LOOK_ROWS_MAX: usize = 10_000;
const LOOK_BYTES_MAX: usize = 16 << 20;
/// How often a question that waits for the gateway to take it up again is looked for.
const RESUME_LOOK_MS: u64 = 5_000;
/// Wait before a write that the store refused is tried again.
const STORE_RETRY_MS: u64 = 500;
/// Wait before a question that a busy gateway did not take is sent again, unless it says how long.
const BUSY_RETRY_MS: u64 = 1_000;

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
    /// The gateway was too busy to take it; it is sent again in a while.
    Held,
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
    /// Rows of the log up to this number were there before it; 0 where that is not known.
    after_seq: i64,
    stage: Stage,
    text: RunText,
    rev: u64,
    heard_at: i64,
    /// Counts its signs of life, so that a page of the log that is older than one is recognised.
    heard: u64,
    checkpoint_at: i64,
    checkpoint_rev: u64,
    abort_wanted: bool,
    wide_look: bool,
    /// A look has gone back as far as one may: the next ones read the newest rows only.
    looked_far: bool,
    /// What the look at hand has read of the log so far, where it goes on to older rows.
    looked: Option<Box<HistoryPage>>,
    /// The gateway has its key, in its log or by its own word: it must not be sent again.
    is_seen: bool,
    /// It ended without a text: the answer is still to be had, or on protocol 3 may come later under another id.
    ended_bare: bool,
    /// What the gateway says that it has answered.
    reply: Option<TerminalReply>,
    /// What it took, told by an end without a text.
    usage: Option<serde_json::Value>,
    /// Why it cannot be sent at all.
    refused: Option<String>,
    /// When the gateway was known to have taken the question; the next checkpoint or the end takes it to the receipt.
    sent_at: Option<i64>,
    is_sent_kept: bool,
    /// Runs of others that were looked for in the log because they might have been this one.
    strangers: Vec<String>,
    early: Vec<ChatEvent>,
}

impl Run {
    fn new(turn_id: TurnId, run_id: String, question: Option<Question>, now_ms: i64) -> Self {
        Self {
            turn_id,
            run_id,
            question,
            started_at: now_ms,
            after_seq: 0,
            stage: Stage::Beginning,
            text: RunText::default(),
            rev: 0,
            heard_at: now_ms,
            heard: 0,
            checkpoint_at: now_ms,
            checkpoint_rev: 0,
            abort_wanted: false,
            wide_look: false,
            looked_far: false,
            looked: None,
            is_seen: false,
            ended_bare: false,
            reply: None,
            usage: None,
            refused: None,
            sent_at: None,
            is_sent_kept: false,
            strangers: Vec::new(),
            early: Vec::new(),
        }
    }

    /// The gateway has taken the question.
    fn note_sent(&mut self, now_ms: i64) {
        if self.question.is_some() {
            self.sent_at.get_or_insert(now_ms);
        }
    }

    fn is_for(&self, delivery: DeliveryId) -> bool {
        self.question.as_ref().is_some_and(|question| question.delivery_id == delivery)
    }
}

/// Returns what is known of an open turn until its gateway is there: the text that was kept of it.
pub(super) fn live_of(turn: &Turn) -> Live {
    Live {
        turn_id: turn.id,
        message_id: turn.message_id,
        delivery_id: turn.delivery_id,
        started_at: turn.started_at,
        rev: 0,
        text: RunText::starting_with(&turn.text).visible().into(),
        step: LiveStep::Replace,
    }
}

/// Passes over the newest rows of the log.
#[derive(Debug, Default)]
struct Tail {
    /// Its page was asked for; ends with the connection.
    asking: bool,
    /// Its rows are being written down; goes on without a connection.
    mapping: bool,
    again: bool,
    tries: u32,
    failures: u32,
    /// The run whose answer row was not there yet.
    awaited: bool,
}

/// One upstream session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) topic: Arc<Topic>,
    pub(super) conversation: Conversation,
    pub(super) protocol: u32,
    link_up: bool,
    /// The connection is new, and the session has not been used since.
    stale: bool,
    /// The log has to be read before a question is sent: somebody else's run may be active.
    unread: bool,
    /// No question is sent before this time.
    pause_until: i64,
    contact: Contact,
    /// Why the gateway refuses the session.
    refused: Option<String>,
    queue: VecDeque<Question>,
    run: Option<Run>,
    /// Somebody else's run that was heard of during ours.
    other_run: Option<String>,
    ended_runs: VecDeque<String>,
    /// The look whose page counts; those before it may still be on their way.
    looking: Option<Look>,
    look_again: bool,
    /// A timer for the next look is set.
    look_due: bool,
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
        let mut session = Self {
            topic,
            conversation,
            protocol: 4,
            link_up: false,
            stale: false,
            unread: true,
            pause_until: 0,
            contact,
            refused: None,
            queue: VecDeque::new(),
            run: None,
            other_run: None,
            ended_runs: VecDeque::new(),
            looking: None,
            look_again: false,
            look_due: false,
            tail: Tail::default(),
            import: Import::default(),
            options,
        };
        // As the last process left it.
        session.import.is_first = session.conversation.upstream.import_below == Some(session.import_from());
        session
    }

    /// Puts back a turn that was open when the broker stopped; history says what became of it.
    pub(super) fn restore(&mut self, turn: Turn, question: Option<Question>, now_ms: i64) {
        // Sockets may have seen events of this turn that the link told before it was started anew: those of now count on.
        let rev = u64::try_from(now_ms).unwrap_or(0);
        self.run = Some(Run {
            text: RunText::starting_with(&turn.text),
            started_at: turn.started_at,
            stage: Stage::Unsure,
            rev,
            checkpoint_rev: rev,
            ..Run::new(turn.id, turn.run_id, question, now_ms)
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
        let tail = self.tail.asking || self.tail.mapping;
        self.run.is_none() && self.queue.is_empty() && !tail && !self.import.running
    }

    /// Tells whether a question waits here or is being answered.
    pub(super) fn knows(&self, delivery: DeliveryId) -> bool {
        // One whose end is being written may be asked anew, as soon as that is on disk.
        let is_running =
            self.run.as_ref().is_some_and(|run| run.is_for(delivery) && !matches!(run.stage, Stage::Ending(_)));
        is_running || self.queue.iter().any(|queued| queued.delivery_id == delivery)
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    // ---- what comes from here ----------------------------------------------------------------------------------------

    /// A question was accepted, or is to be handed out again.
    pub(super) fn on_question(&mut self, question: Question, now_ms: i64) -> Vec<Effect> {
        if !self.knows(question.delivery_id) {
            let at = self.queue.partition_point(|queued| queued.seq < question.seq);
            self.queue.insert(at, question);
        }
        self.next(now_ms)
    }

    /// A delivery ended without us: cancelled by its sender or an operator.
    pub(super) fn on_ended_elsewhere(&mut self, delivery: DeliveryId) -> Vec<Effect> {
        self.queue.retain(|queued| queued.delivery_id != delivery);
        match &self.run {
            Some(run) if run.is_for(delivery) => self.abort(None, false),
            _ => Vec::new(),
        }
    }

    /// Someone looks at the session: contact it, if that has not been done.
    pub(super) fn on_touched(&mut self, now_ms: i64) -> Vec<Effect> {
        self.next(now_ms)
    }

    // ---- the connection ----------------------------------------------------------------------------------------------

    /// The gateway is there again. Its log is read when the session is used, or when the gateway says that it moved.
    pub(super) fn note_link_up(&mut self, protocol: u32) {
        self.link_up = true;
        self.speak(protocol);
        self.stale = true;
        self.unread = true;
    }

    /// The gateway is there again or has dropped events, and the session has something under way or moved meanwhile.
    pub(super) fn on_link_up(&mut self, protocol: u32, now_ms: i64) -> Vec<Effect> {
        self.link_up = true;
        self.speak(protocol);
        self.stale = false;
        self.unread = true;
        self.other_run = None;
        let mut effects = Vec::new();
        if let Some(run) = &mut self.run
            && matches!(run.stage, Stage::Running | Stage::Unsure | Stage::Resuming { .. })
        {
            run.wide_look = false;
            run.looked_far = false;
            effects.extend(self.look());
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
        self.unread = true;
        self.other_run = None;
        self.looking = None;
        self.look_again = false;
        self.tail.asking = false;
        self.import.running = self.import.writing;
        if self.contact == Contact::Asking {
            self.contact = Contact::Unknown;
        }
        if let Some(run) = &mut self.run {
            run.looked = None;
            if matches!(run.stage, Stage::Sending | Stage::Held | Stage::Running | Stage::Resuming { .. }) {
                run.stage = Stage::Unsure;
            }
            if run.ended_bare && self.protocol < 4 {
                // What it has put off, a gateway that is started anew does not remember.
                run.is_seen = false;
            }
        }
    }

    /// The session's own timer.
    pub(super) fn on_wake(&mut self, wake: Wake, now_ms: i64) -> Vec<Effect> {
        if wake == Wake::Reconcile {
            self.look_due = false;
        }
        if !self.link_up && !matches!(wake, Wake::RetryBegin | Wake::RetryEnd) {
            return Vec::new();
        }
        match wake {
            Wake::Contact => {
                if self.contact == Contact::Asking {
                    self.contact = Contact::Unknown;
                }
                self.next(now_ms)
            }
            Wake::Next => self.next(now_ms),
            Wake::Tail => self.map_tail(),
            Wake::Import => self.continue_import(),
            Wake::Resend | Wake::Reconcile | Wake::RetryBegin | Wake::RetryEnd => self.wake_run(wake, now_ms),
        }
    }

    /// Does what is next: contact, then the next question.
    fn next(&mut self, now_ms: i64) -> Vec<Effect> {
        if !self.link_up {
            return Vec::new();
        }
        match self.contact {
            Contact::Asking => return Vec::new(),
            Contact::Unknown if self.run.is_some() => return Vec::new(),
            Contact::Unknown => {
                if let Some(refused) = self.refused.take()
                    && let Some(question) = self.queue.pop_front()
                {
                    return self.begin(question, Some(refused), now_ms);
                }
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
        if let Some(other) = self.other_run.take() {
            effects.extend(self.adopt_foreign(other, None, now_ms));
        } else if self.queue.is_empty() {
            return effects;
        } else if self.unread {
            effects.extend(self.read_log());
        } else if now_ms < self.pause_until {
            let ms = u64::try_from(self.pause_until - now_ms).unwrap_or(0);
            effects.push(Effect::WakeIn { ms, wake: Wake::Next });
        } else if let Some(question) = self.queue.pop_front() {
            effects.extend(self.begin(question, None, now_ms));
        }
        effects
    }

    fn begin(&mut self, question: Question, refused: Option<String>, now_ms: i64) -> Vec<Effect> {
        let (turn_id, delivery_id) = (TurnId::new(), question.delivery_id);
        let run_id = delivery_id.to_string();
        // One that was asked before, and not taken, goes under the same id.
        self.ended_runs.retain(|ended| *ended != run_id);
        self.run = Some(Run {
            after_seq: self.conversation.upstream.mapped_seq,
            refused,
            ..Run::new(turn_id, run_id.clone(), Some(question), now_ms)
        });
        vec![Effect::RunId(run_id), Effect::Begin(BeginTurn { turn_id, delivery_id })]
    }

    fn note_ended(&mut self, run_id: String) {
        if !self.ended_runs.contains(&run_id) {
            if self.ended_runs.len() >= ENDED_RUNS_MAX {
                self.ended_runs.pop_front();
            }
            self.ended_runs.push_back(run_id);
        }
    }
}

#[cfg(test)]
mod tests;
