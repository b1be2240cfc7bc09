//! The life of one run: begun, sent, heard of, ended.
use super::{BUSY_RETRY_MS, Effect, End, RequestError, Run, STORE_RETRY_MS, Session, Stage, Wake};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::event::{Live, LiveStep};
use crate::domain::ids::{DeliveryId, TurnId};
use crate::gateway::frames::{ChatEvent, ChatState, SendAck, SendStatus};
use crate::gateway::run::Change;
use crate::store::turns::{BeginForeignTurn, BeginTurn, Checkpoint, EndTurn, Turn};

/// Events of a foreign run that wait until its turn is on disk.
const EARLY_EVENTS_MAX: usize = 2_000;
/// Runs of others that are looked for in the log when one of ours is missing; further ones wait for the timer.
const STRANGERS_MAX: usize = 16;
/// On protocol 3 a message that comes right after a `final` is answered with a bare `final` first, and the answer comes
/// under an id that nobody told; after so long it does not happen.
const PROTOCOL_3_PAUSE_MS: i64 = 1_000;

/// The store could not write now, and may later.
fn is_passing(error: &Error) -> bool {
    matches!(
        error.code(),
        ErrorCode::StoreBusy
            | ErrorCode::StorageFull
            | ErrorCode::Internal
            | ErrorCode::Standby
            | ErrorCode::ShuttingDown
    )
}

impl Session {
    /// The turn is on disk, or could not be written.
    pub(in super::super) fn on_begun(&mut self, result: Result<Turn, Error>, now_ms: i64) -> Vec<Effect> {
        let mut effects = self.begun(result, now_ms);
        effects.extend(self.map_tail_now());
        effects
    }

    fn begun(&mut self, result: Result<Turn, Error>, now_ms: i64) -> Vec<Effect> {
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
                run.stage = Stage::Unsure;
                if let Some(sentence) = run.refused.take() {
                    return self.end(End::dead(sentence, "upstream_refused", false));
                }
                if run.question.is_some() {
                    // Nothing was sent yet: one that is not wanted any more ends here. After a gap, or when another run was
                    // heard of meanwhile, the log is read first.
                    return match (run.abort_wanted, self.unread || self.other_run.is_some()) {
                        (true, _) => self.end(End::aborted(None)),
                        (false, true) => self.look(),
                        (false, false) => self.send(now_ms),
                    };
                }
                let early = std::mem::take(&mut run.early);
                let mut effects = if self.link_up { self.goes_on(now_ms) } else { Vec::new() };
                effects.extend(early.iter().flat_map(|event| self.on_own_event(event, now_ms)));
                let goes_on = |run: &&mut Run| matches!(run.stage, Stage::Running | Stage::Resuming { .. });
                if let Some(run) = self.run.as_mut().filter(goes_on)
                    && !self.link_up
                {
                    run.stage = Stage::Unsure;
                }
                effects
            }
            Err(error) if is_passing(&error) => vec![Effect::WakeIn { ms: STORE_RETRY_MS, wake: Wake::RetryBegin }],
            Err(error) => {
                // The delivery ended meanwhile, or the conversation is gone.
                log::debug!(session = &*self.topic.key; "a turn was not begun: {error}");
                self.run = None;
                self.next(now_ms)
            }
        }
    }

    /// Sends the question at hand, if the gateway is there.
    pub(super) fn send(&mut self, now_ms: i64) -> Vec<Effect> {
        let link_up = self.link_up;
        let Some((run, question)) =
            self.run.as_mut().and_then(|run| run.question.clone().map(|question| (run, question)))
        else {
            return Vec::new();
        };
        if !link_up {
            run.stage = Stage::Unsure;
            return Vec::new();
        }
        run.stage = Stage::Sending;
        run.heard_at = now_ms;
        vec![Effect::Send { delivery_id: question.delivery_id, text: question.text }]
    }

    /// The gateway answered `chat.send`.
    pub(in super::super) fn on_sent(&mut self, result: Result<SendAck, RequestError>, now_ms: i64) -> Vec<Effect> {
        let Some(run) = self.run.as_mut().filter(|run| matches!(run.stage, Stage::Sending)) else { return Vec::new() };
        match result {
            Ok(ack) if ack.status != SendStatus::Ok => self.goes_on(now_ms),
            Err(RequestError::Refused(error)) if error.retryable || error.code == "UNAVAILABLE" => {
                self.hold(error.retry_after_ms.unwrap_or(BUSY_RETRY_MS).clamp(100, 60_000))
            }
            Err(RequestError::Busy) => self.hold(BUSY_RETRY_MS),
            Err(RequestError::Refused(error)) => {
                let sentence = format!("the gateway refused the message: {}", error.message);
                self.end(End::dead(sentence, "upstream_refused", false))
            }
            Ok(_) => {
                // It is over already.
                run.is_seen = true;
                run.stage = Stage::Unsure;
                self.look()
            }
            Err(RequestError::Closed | RequestError::TimedOut) => {
                run.stage = Stage::Unsure;
                self.look()
            }
            Err(RequestError::Unreadable(what)) => {
                log::warn!(session = &*self.topic.key; "the answer to a question could not be read: {what}");
                run.stage = Stage::Unsure;
                self.look()
            }
        }
    }

    /// The question at hand was not taken: it is sent again after a while, unless it is not wanted any more.
    fn hold(&mut self, ms: u64) -> Vec<Effect> {
        let Some(run) = &mut self.run else { return Vec::new() };
        if run.abort_wanted {
            return self.end(End::aborted(None));
        }
        run.stage = Stage::Held;
        vec![Effect::WakeIn { ms, wake: Wake::Resend }]
    }

    /// The run lives.
    pub(super) fn goes_on(&mut self, now_ms: i64) -> Vec<Effect> {
        let Some(run) = &mut self.run else { return Vec::new() };
        run.heard += 1;
        run.heard_at = now_ms;
        run.note_sent(now_ms);
        let was_running = matches!(std::mem::replace(&mut run.stage, Stage::Running), Stage::Running);
        if run.abort_wanted && !was_running { self.ask_to_abort() } else { Vec::new() }
    }

    pub(super) fn wake_run(&mut self, wake: Wake, now_ms: i64) -> Vec<Effect> {
        let Some(run) = &self.run else { return Vec::new() };
        match (wake, &run.stage) {
            (Wake::Resend, Stage::Held) => self.send(now_ms),
            (Wake::Reconcile, Stage::Resuming { .. } | Stage::Unsure) => self.look(),
            (Wake::Reconcile, Stage::Running) if run.abort_wanted => {
                // Nobody may have had time for the last time it was asked for.
                let mut effects = self.ask_to_abort();
                effects.extend(self.look());
                effects
            }
            (Wake::RetryBegin, Stage::Beginning) => vec![match &run.question {
                Some(question) => Effect::Begin(BeginTurn { turn_id: run.turn_id, delivery_id: question.delivery_id }),
                None => Effect::BeginForeign(BeginForeignTurn {
                    turn_id: run.turn_id,
                    conversation_id: self.conversation.id,
                    run_id: run.run_id.clone(),
                }),
            }],
            (Wake::RetryEnd, Stage::Ending(end)) => vec![Effect::End(end.clone())],
            _ => Vec::new(),
        }
    }

    /// Time passes: silence is looked into, long texts are kept.
    pub(in super::super) fn on_tick(&mut self, now_ms: i64) -> Vec<Effect> {
        let link_up = self.link_up;
        if let Some(effects) = self.link_up.then(|| self.tick_bare(now_ms)).flatten() {
            return effects;
        }
        let Some(run) = self.run.as_mut().filter(|_| link_up) else { return Vec::new() };
        let mut effects = Vec::new();
        let is_silent = now_ms - run.heard_at >= self.options.silence_ms;
        match run.stage {
            Stage::Running => {
                let has_news = run.rev > run.checkpoint_rev || (run.sent_at.is_some() && !run.is_sent_kept);
                if has_news && now_ms - run.checkpoint_at >= self.options.checkpoint_ms {
                    run.checkpoint_at = now_ms;
                    run.checkpoint_rev = run.rev;
                    run.is_sent_kept = run.sent_at.is_some();
                    effects.push(Effect::Checkpoint(Checkpoint {
                        turn_id: run.turn_id,
                        text: run.text.visible().to_owned(),
                        run_id: run.run_id.clone(),
                        sent_at: run.sent_at,
                    }));
                }
            }
            // Answers to requests do not get lost; should one, this is what moves the question.
            Stage::Sending if is_silent => run.stage = Stage::Unsure,
            Stage::Unsure | Stage::Resuming { .. } => {}
            Stage::Sending | Stage::Held | Stage::Beginning | Stage::Ending(_) => return effects,
        }
        if is_silent {
            run.heard_at = now_ms;
            effects.extend(self.look());
        }
        effects
    }

    // ---- what the gateway tells --------------------------------------------------------------------------------------

    /// An event of a run of this session.
    pub(in super::super) fn on_event(&mut self, event: ChatEvent, now_ms: i64) -> Vec<Effect> {
        let is_end = event.state.is_terminal();
        if self.ended_runs.contains(&event.run_id) {
            // The first terminal event counts; a second may have left a row in the log.
            return if is_end { self.map_tail() } else { Vec::new() };
        }
        let protocol = self.protocol;
        match &mut self.run {
            Some(run) if run.run_id == event.run_id => {
                // As it comes, also where it has to wait: what the gateway says of the run meanwhile is newer.
                run.note_attempt(&event);
                if !matches!(run.stage, Stage::Beginning) {
                    return self.on_own_event(&event, now_ms);
                }
                // Behind the last place there is one more, for an end.
                if run.early.len() < EARLY_EVENTS_MAX + usize::from(is_end) {
                    run.early.push(event);
                }
                Vec::new()
            }
            // Older releases do not say in their log which run resumes a question: any new one does.
            Some(Run { stage: Stage::Resuming { .. }, question: Some(_), .. })
                if protocol < 4 && self.other_run.as_ref() != Some(&event.run_id) =>
            {
                let mut effects = self.adopt(event.run_id.clone(), None, now_ms);
                effects.extend(self.on_own_event(&event, now_ms));
                effects
            }
            Some(run) => {
                // Maybe the gateway has taken our question up under another id: its log tells.
                let is_missing = matches!(run.stage, Stage::Resuming { .. } | Stage::Unsure);
                let is_new = !run.strangers.contains(&event.run_id) && run.strangers.len() < STRANGERS_MAX;
                if is_missing && is_new {
                    run.strangers.push(event.run_id.clone());
                }
                let mut effects = if is_missing && (is_new || is_end) { self.look() } else { Vec::new() };
                if is_end {
                    effects.extend(self.foreign_ended(event.run_id));
                } else {
                    self.other_run = Some(event.run_id);
                }
                effects
            }
            None if is_end => self.foreign_ended(event.run_id),
            None if self.contact == super::Contact::Known => {
                self.adopt_foreign(event.run_id.clone(), Some(event), now_ms)
            }
            None => self.next(now_ms),
        }
    }

    fn foreign_ended(&mut self, run_id: String) -> Vec<Effect> {
        if self.other_run.as_ref() == Some(&run_id) {
            self.other_run = None;
        }
        self.note_ended(run_id);
        self.map_tail()
    }

    /// Follows a run that somebody else started; what we have to ask waits for its end.
    pub(super) fn adopt_foreign(&mut self, run_id: String, first: Option<ChatEvent>, now_ms: i64) -> Vec<Effect> {
        if self.other_run.as_ref() == Some(&run_id) {
            self.other_run = None;
        }
        let turn_id = TurnId::new();
        self.run = Some(Run { early: first.into_iter().collect(), ..Run::new(turn_id, run_id.clone(), None, now_ms) });
        let begin = BeginForeignTurn { turn_id, conversation_id: self.conversation.id, run_id: run_id.clone() };
        let mut effects = vec![Effect::RunId(run_id), Effect::BeginForeign(begin)];
        // Who asked stands in the log.
        effects.extend(self.map_tail());
        effects
    }

    fn on_own_event(&mut self, event: &ChatEvent, now_ms: i64) -> Vec<Effect> {
        let protocol = self.protocol;
        let Some(run) = self.run.as_mut().filter(|run| !matches!(run.stage, Stage::Ending(_))) else {
            return Vec::new();
        };
        run.note_sent(now_ms);
        match event.state {
            // The first terminal event counts; what comes with a second one is another line.
            _ if run.is_over_bare(protocol) => Vec::new(),
            ChatState::Final if run.is_bare(event, protocol) => {
                run.usage.clone_from(&event.usage);
                self.end_bare(now_ms)
            }
            ChatState::Final => {
                self.end(End { said_at: event.timestamp_ms, ..End::answered(event.text.clone(), event.usage.clone()) })
            }
            ChatState::Aborted => self.end(End { said_at: event.timestamp_ms, ..End::aborted(event.text.clone()) }),
            ChatState::Error => {
                let sentence = event.error_message.clone().unwrap_or_else(|| "the model failed".to_owned());
                self.end(End { said_at: event.timestamp_ms, ..End::failed(event.text.clone(), sentence) })
            }
            ChatState::Status => {
                let mut effects = self.goes_on(now_ms);
                effects.extend(self.tell(LiveStep::Phase(event.phase.clone().unwrap_or_default())));
                effects
            }
            ChatState::Delta => {
                let change = run.text.on_delta(event);
                let mut effects = self.goes_on(now_ms);
                effects.extend(self.told(change));
                effects
            }
            ChatState::Other => self.goes_on(now_ms),
        }
    }

    pub(super) fn told(&mut self, change: Change) -> Option<Effect> {
        match change {
            Change::None => None,
            Change::Added { at, at_utf16 } => self.tell(LiveStep::Delta { at, at_utf16 }),
            Change::Replaced => self.tell(LiveStep::Replace),
        }
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

    pub(super) fn end(&mut self, end: End) -> Vec<Effect> {
        let Some(run) = &mut self.run else { return Vec::new() };
        if let Some(run_id) = end.run_id {
            run.run_id = run_id;
        }
        let text = std::mem::take(&mut run.text).finish(end.text.as_deref());
        let keep_thinking = self.options.store_thinking;
        let command = Box::new(EndTurn {
            turn_id: run.turn_id,
            run_id: Some(run.run_id.clone()),
            state: end.state,
            text: text.visible,
            thinking: Some(text.thinking).filter(|_| keep_thinking),
            error: end.error,
            code: end.code,
            usage: end.usage.or_else(|| run.usage.take()),
            said_at: end.said_at,
            late: false,
            sent_at: run.sent_at,
            delivery: end.delivery,
        });
        run.stage = Stage::Ending(command.clone());
        vec![Effect::End(command)]
    }

    /// Returns what the store has not taken yet when the link ends, which has no time for another try: the end of a turn,
    /// and the question of a run that was aborted before it had begun for sure. What else is open the next link reads.
    pub(in super::super) fn left_over(&mut self) -> (Option<Box<EndTurn>>, Option<DeliveryId>) {
        let is_unsent = |run: &&Run| run.abort_wanted && matches!(run.stage, Stage::Beginning);
        let question = self.run.as_ref().filter(is_unsent).and_then(|run| run.question.as_ref());
        let unsent = question.map(|question| question.delivery_id);
        if unsent.is_some() {
            drop(self.end(End::aborted(None)));
        }
        let protocol = self.protocol;
        let is_over = |run: &&mut Run| run.is_over_bare(protocol) && !matches!(run.stage, Stage::Ending(_));
        if let Some(end) = self.run.as_mut().filter(is_over).and_then(Run::end_as_said) {
            drop(self.end(end));
        }
        match &self.run {
            Some(Run { stage: Stage::Ending(end), .. }) => (Some(end.clone()), unsent),
            _ => (None, unsent),
        }
    }

    /// The end of the turn is on disk, or could not be written.
    pub(in super::super) fn on_ended(&mut self, result: Result<bool, Error>, now_ms: i64) -> Vec<Effect> {
        let Some(Run { stage: Stage::Ending(end), .. }) = &self.run else { return Vec::new() };
        if result.as_ref().is_err_and(is_passing) {
            return vec![Effect::WakeIn { ms: STORE_RETRY_MS, wake: Wake::RetryEnd }];
        }
        // An answer without a text may have a row all the same.
        let is_row_awaited = result.unwrap_or(false) || end.state == crate::domain::turn::TurnState::Final;
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
        self.tail.awaited = is_row_awaited;
        let mut effects = self.map_tail();
        effects.extend(self.next(now_ms));
        effects
    }
}
