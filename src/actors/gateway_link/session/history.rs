//! What is read in the gateway's log: the first contact, the newest rows, and what became of a run.
use std::collections::HashSet;

use super::bare::BARE_WAIT_MS;
use super::import::{Import, resets_up_to};
use super::{
    BUSY_RETRY_MS, Contact, Effect, End, HISTORY_ROWS_MAX, LOOK_BYTES_MAX, LOOK_ROWS_MAX, Look, Purpose,
    RESUME_LOOK_MS, RequestError, Run, STORE_RETRY_MS, Session, Stage, Wake,
};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::GatewayId;
use crate::gateway::frames::{ChatEvent, ChatState};
use crate::gateway::history::{HistoryPage, HistoryRow};
use crate::gateway::reconcile::{self, Asked, Verdict};
use crate::gateway::run::Change;
use crate::store::turns::Checkpoint;
use crate::store::upstream::{NoteContact, Source};

/// Passes over the tail that look for an answer row which the gateway has not written yet, and that are tried again.
const TAIL_TRIES_MAX: u32 = 5;

/// What a pass over the tail brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Mapped {
    pub(in super::super) up_to: i64,
    pub(in super::super) upstream_session: String,
    /// Rows that were answers of our turns.
    pub(in super::super) answers: usize,
}

impl Session {
    pub(in super::super) fn on_history(
        &mut self,
        purpose: Purpose,
        result: Result<HistoryPage, RequestError>,
        now_ms: i64,
    ) -> Vec<Effect> {
        if let Ok(page) = &result {
            self.note_seen(page, now_ms);
        }
        match (purpose, result) {
            (Purpose::Contact, Ok(page)) => self.on_first_page(page, now_ms),
            (Purpose::Contact, Err(error)) => self.contact_failed(&error, now_ms),
            (Purpose::Import, Ok(page)) => self.on_import_page(&page),
            (Purpose::Import, Err(error)) => self.import_failed(&error),
            (Purpose::Tail, Ok(page)) => self.on_tail(page, now_ms),
            (Purpose::Tail, Err(error)) => self.tail_failed(&error, now_ms),
            (Purpose::Reconcile(look), result) => self.on_looked(look, result, now_ms),
        }
    }

    /// Remembers that the question at hand stands in the log.
    fn note_seen(&mut self, page: &HistoryPage, now_ms: i64) {
        if let Some(run) = &mut self.run
            && let Some(question) = &run.question
            && !run.is_seen
            && page.question(&question.delivery_id.to_string()).is_some()
        {
            run.is_seen = true;
            run.note_sent(now_ms);
        }
    }

    // ---- first contact -----------------------------------------------------------------------------------------------

    fn contact_failed(&mut self, error: &RequestError, now_ms: i64) -> Vec<Effect> {
        match error {
            RequestError::Closed => self.contact = Contact::Unknown,
            RequestError::Refused(refusal) if !refusal.retryable && refusal.code != "UNAVAILABLE" => {
                // The session cannot be had, for example because its agent does not exist: what waits for it dies.
                self.contact = Contact::Unknown;
                if !self.queue.is_empty() {
                    self.refused = Some(format!("the gateway refused the session: {}", refusal.message));
                    return self.next(now_ms);
                }
            }
            _ => return vec![Effect::WakeIn { ms: BUSY_RETRY_MS, wake: Wake::Contact }],
        }
        Vec::new()
    }

    pub(super) fn on_contact(&mut self, page: &HistoryPage, now_ms: i64) -> Vec<Effect> {
        if self.contact != Contact::Asking {
            return Vec::new();
        }
        self.contact = Contact::Known;
        let newest = page.rows.iter().filter_map(|row| row.seq).max().unwrap_or(0);
        // Rows of a run that goes on are not history yet.
        let active = active_runs(page);
        let is_active =
            |row: &&HistoryRow| row.run_id.as_deref().or(row.delivery_key()).is_some_and(|run| active.contains(run));
        let first_active = page.rows.iter().filter(is_active).filter_map(|row| row.seq).min();
        let boundary = first_active.map_or(newest, |first| first.saturating_sub(1));
        let is_older = !self.rows_to_import(&page.rows, boundary).is_empty() || page.has_more;
        let import_below = (is_older || !resets_up_to(page, boundary).is_empty()).then_some(boundary.saturating_add(1));
        if page.canonical_key.is_some() {
            self.conversation.canonical_key.clone_from(&page.canonical_key);
        }
        let upstream = &mut self.conversation.upstream;
        upstream.contacted = true;
        upstream.session_id.clone_from(&page.session_id);
        upstream.mapped_seq = boundary;
        upstream.import_below = import_below;
        let mut effects = vec![Effect::NoteContact(NoteContact {
            conversation_id: self.conversation.id,
            canonical_key: self.conversation.canonical_key.clone(),
            session_id: page.session_id.clone(),
            boundary_seq: boundary,
            import_below,
        })];
        if import_below.is_some() {
            self.import = Import::begin(true);
            effects.extend(self.import_page(page, boundary));
        }
        effects.extend(self.take_in(page, now_ms));
        effects.extend(self.next(now_ms));
        effects
    }

    /// Learns from a page whether somebody else's run is active, before a question is sent.
    fn take_in(&mut self, page: &HistoryPage, now_ms: i64) -> Vec<Effect> {
        if self.run.is_some() {
            return Vec::new();
        }
        let in_flight = page.in_flight.as_ref().map(|run| (run.run_id.as_str(), run.text.as_str()));
        let listed = page.active_run_ids.iter().flatten().map(|id| (id.as_str(), ""));
        let is_ended = |run_id: &str| self.ended_runs.iter().any(|ended| ended == run_id);
        if let Some((run_id, text)) = in_flight.into_iter().chain(listed).find(|(id, _)| !is_ended(id)) {
            self.unread = false;
            let first = so_far(run_id, text);
            return self.adopt_foreign(run_id.to_owned(), Some(first), now_ms);
        }
        // Some run that is not named; one that we saw end may be told of for a moment.
        let is_unnamed = page.has_active_run == Some(true) && page.in_flight.is_none() && page.active_run_ids.is_none();
        self.unread = is_unnamed;
        let is_waited_for = is_unnamed && !self.queue.is_empty();
        if is_waited_for { vec![Effect::WakeIn { ms: BUSY_RETRY_MS, wake: Wake::Tail }] } else { Vec::new() }
    }

    /// Returns where rows of this session's log come from.
    pub(in super::super) fn source(&self, session_id: Option<&str>) -> Source {
        let known = self.conversation.upstream.session_id.as_deref();
        Source {
            conversation_id: self.conversation.id,
            gateway_id: self.conversation.gateway_id.clone().unwrap_or_else(no_gateway),
            upstream_session: session_id.or(known).unwrap_or(self.upstream_key()).to_owned(),
        }
    }

    // ---- the newest rows ---------------------------------------------------------------------------------------------

    /// Reads the newest rows of the log to give each its place here.
    pub(super) fn map_tail(&mut self) -> Vec<Effect> {
        if self.contact != Contact::Known || !self.link_up {
            return Vec::new();
        }
        if self.tail.asking || self.tail.mapping || self.import.is_first {
            self.tail.again = true;
            return Vec::new();
        }
        self.tail.asking = true;
        self.tail.again = false;
        vec![Effect::History { purpose: Purpose::Tail, limit: self.options.history_rows, offset: 0 }]
    }

    /// The same, unless a page is on its way: for whoever wants to know what is active.
    pub(super) fn read_log(&mut self) -> Vec<Effect> {
        if self.tail.asking { Vec::new() } else { self.map_tail() }
    }

    fn on_tail(&mut self, page: HistoryPage, now_ms: i64) -> Vec<Effect> {
        self.tail.asking = false;
        let mut effects = self.take_in(&page, now_ms);
        if self.is_turn_on_its_way() {
            // Its rows would be taken for something else: the pass is made when the turn is on disk.
            self.tail.again = true;
        } else {
            self.tail.mapping = true;
            effects.insert(0, Effect::Map(Box::new(page)));
        }
        if !self.unread {
            effects.extend(self.next(now_ms));
        }
        effects
    }

    /// The beginning or the end of the turn at hand is being written, or its answer looked for.
    fn is_turn_on_its_way(&self) -> bool {
        let is_moving = |run: &Run| matches!(run.stage, Stage::Beginning | Stage::Ending(_));
        self.run.as_ref().is_some_and(|run| is_moving(run) || run.is_over_bare(self.protocol))
    }

    /// Makes the pass that had to wait for a turn to be on disk.
    pub(super) fn map_tail_now(&mut self) -> Vec<Effect> {
        if self.tail.again && !self.is_turn_on_its_way() { self.map_tail() } else { Vec::new() }
    }

    fn tail_failed(&mut self, error: &RequestError, now_ms: i64) -> Vec<Effect> {
        self.tail.asking = false;
        let effects = retry(error, Wake::Tail);
        if effects.is_empty() && self.link_up && self.run.is_none() && !matches!(error, RequestError::Closed) {
            // The gateway will not show its log; it says no to a question, too, or takes it.
            self.unread = false;
            return self.next(now_ms);
        }
        effects
    }

    /// A pass over the tail is done: how far it came.
    pub(in super::super) fn on_mapped(&mut self, result: Result<Mapped, Error>) -> Vec<Effect> {
        self.tail.mapping = false;
        match result {
            Ok(mapped) => {
                self.tail.failures = 0;
                self.conversation.upstream.mapped_seq = mapped.up_to;
                // A session that has no transcript yet goes by its name; its first transcript is no reset.
                if mapped.upstream_session != self.upstream_key() {
                    self.conversation.upstream.session_id = Some(mapped.upstream_session);
                }
                if mapped.answers > 0 {
                    self.tail.awaited = false;
                }
            }
            Err(error) => {
                log::warn!(session = &*self.topic.key; "the tail of a session could not be mapped: {error}");
                self.tail.failures += 1;
                // A store that is busy is no reason to give up.
                if self.tail.failures <= TAIL_TRIES_MAX || error.code() == ErrorCode::StoreBusy {
                    let doublings = self.tail.failures.min(TAIL_TRIES_MAX);
                    return vec![Effect::WakeIn { ms: STORE_RETRY_MS << doublings, wake: Wake::Tail }];
                }
            }
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

    // ---- what became of a run ----------------------------------------------------------------------------------------

    /// Reads the log for what became of the run at hand. One look at a time for each run: that of another one may hang.
    pub(super) fn look(&mut self) -> Vec<Effect> {
        let Some(run) = self.run.as_mut().filter(|_| self.link_up) else { return Vec::new() };
        if self.looking.is_some_and(|look| look.turn_id == run.turn_id) {
            self.look_again = true;
            return Vec::new();
        }
        let look = Look { turn_id: run.turn_id, heard: run.heard };
        self.looking = Some(look);
        self.look_again = false;
        run.looked = None;
        let limit = if run.wide_look { HISTORY_ROWS_MAX } else { self.options.history_rows };
        vec![Effect::History { purpose: Purpose::Reconcile(look), limit, offset: 0 }]
    }

    /// Looks after a while, unless that is planned already.
    pub(super) fn look_later(&mut self, ms: u64) -> Vec<Effect> {
        if std::mem::replace(&mut self.look_due, true) {
            return Vec::new();
        }
        vec![Effect::WakeIn { ms, wake: Wake::Reconcile }]
    }

    fn on_looked(&mut self, look: Look, result: Result<HistoryPage, RequestError>, now_ms: i64) -> Vec<Effect> {
        if self.looking != Some(look) {
            return Vec::new();
        }
        self.looking = None;
        let again = std::mem::take(&mut self.look_again);
        let is_missing = |session: &Self| {
            let stage = session.run.as_ref().map(|run| &run.stage);
            matches!(stage, Some(Stage::Running | Stage::Unsure | Stage::Resuming { .. }))
        };
        if !is_missing(self) {
            return Vec::new();
        }
        let mut effects = match result {
            Ok(page) if self.run.as_ref().is_some_and(|run| run.turn_id == look.turn_id) => {
                self.judge(page, look, now_ms)
            }
            Ok(_) => Vec::new(),
            Err(error) => {
                // The next look begins anew.
                if let Some(run) = &mut self.run {
                    run.looked = None;
                }
                if matches!(error, RequestError::Closed) {
                    return Vec::new();
                }
                self.look_later(RESUME_LOOK_MS)
            }
        };
        if again && is_missing(self) {
            effects.extend(self.look());
        }
        effects
    }

    fn judge(&mut self, page: HistoryPage, look: Look, now_ms: i64) -> Vec<Effect> {
        let protocol = self.protocol;
        let Some(run) = &mut self.run else { return Vec::new() };
        let newer = run.looked.take();
        let is_running = matches!(run.stage, Stage::Running);
        let is_over = run.is_over_bare(protocol);
        if is_running && run.heard != look.heard {
            // It was heard of since; the page is older.
            return Vec::new();
        }
        let page = match newer {
            None => page,
            Some(newer) => match newer.with_older(page) {
                Ok(joined) => joined,
                // The log is not the one it was: what has been read of it does not tell that something is missing there.
                Err(newer) => return self.wait_or_give_up(None, &newer, now_ms),
            },
        };
        let key = run.question.as_ref().map(|question| question.delivery_id.to_string());
        let asked = Asked {
            key: key.as_deref(),
            run_id: &run.run_id,
            text: run.question.as_ref().map_or("", |question| &question.text),
            since_ms: run.started_at,
            after_seq: run.after_seq,
            protocol,
        };
        let mut verdict = reconcile::judge(&page, &asked);
        if is_over && matches!(verdict, Verdict::Waiting | Verdict::LookFurther | Verdict::NotStarted) {
            // Its answer may be there where the question stands further up; what else runs is not its own any more.
            let rows = reconcile::answer_so_far(&page, &Asked { key: None, ..asked });
            verdict = if rows.is_empty() { verdict } else { Verdict::Answered(rows) };
        }
        match verdict {
            Verdict::Answered(rows) => {
                let end = End::from_rows(&rows, run.text.visible().len());
                // Somebody else's run may be active behind it.
                self.unread |= reconcile::is_active(&page);
                self.end(end)
            }
            // There the log does not tell what is active, so a silent run may well be; but not one of others whose answer
            // stands there.
            _ if is_running
                && protocol < 4
                && !run.abort_wanted
                && !(run.question.is_none() && reconcile::ends_with_answer(&page, run.started_at)) =>
            {
                Vec::new()
            }
            // For a moment the log tells of a run that is over.
            Verdict::Running { run_id, text }
                if !(self.ended_runs.contains(&run_id) || is_over && run.run_id == run_id) =>
            {
                let text = text.map(str::to_owned);
                self.adopt(run_id, text, now_ms)
            }
            Verdict::NotStarted if run.question.is_some() && !run.is_seen => {
                if run.abort_wanted {
                    return self.end(End::aborted(None));
                }
                if reconcile::is_active(&page) || self.other_run.take().is_some() {
                    // Somebody else's run, or one that was heard of while the log was read: whatever is sent now would be
                    // steered into it.
                    run.stage = Stage::Unsure;
                    return self.look_later(RESUME_LOOK_MS);
                }
                self.send(now_ms)
            }
            Verdict::LookFurther if !run.wide_look => {
                run.wide_look = true;
                self.look()
            }
            Verdict::LookFurther if page.next_offset.is_some() && !run.looked_far => {
                run.looked_far = page.rows.len() >= LOOK_ROWS_MAX || page.bytes() >= LOOK_BYTES_MAX;
                if run.looked_far {
                    return self.wait_or_give_up(None, &page, now_ms);
                }
                let offset = page.next_offset.unwrap_or_default();
                run.looked = Some(Box::new(page));
                self.looking = Some(look);
                vec![Effect::History { purpose: Purpose::Reconcile(look), limit: HISTORY_ROWS_MAX, offset }]
            }
            _ => {
                let rows = reconcile::answer_so_far(&page, &asked);
                let known = if rows.is_empty() { None } else { Some(End::from_rows(&rows, run.text.visible().len())) };
                self.wait_or_give_up(known, &page, now_ms)
            }
        }
    }

    /// Goes on with a run that the gateway says is ours.
    pub(super) fn adopt(&mut self, run_id: String, text: Option<String>, now_ms: i64) -> Vec<Effect> {
        let Some(run) = &mut self.run else { return Vec::new() };
        let is_taken_up = run.run_id != run_id;
        let change = match text {
            Some(text) => run.text.replace(&text),
            None if is_taken_up => run.text.replace(""),
            None => Change::None,
        };
        let mut effects = Vec::new();
        if is_taken_up {
            // The gateway has taken the question up again, and its answer starts afresh.
            run.run_id.clone_from(&run_id);
            run.strangers.clear();
            run.ended_bare &= self.protocol < 4;
            (run.reply, run.usage) = (None, None);
            effects.push(Effect::RunId(run_id.clone()));
            effects.push(Effect::Checkpoint(Checkpoint {
                turn_id: run.turn_id,
                text: String::new(),
                run_id: run_id.clone(),
                sent_at: run.sent_at,
            }));
        }
        if self.other_run.as_ref() == Some(&run_id) {
            self.other_run = None;
        }
        effects.extend(self.goes_on(now_ms));
        effects.extend(self.told(change));
        effects
    }

    /// The gateway knows the question and does not say that it works on it. `known` is what it has answered, while
    /// something else may still be ours.
    fn wait_or_give_up(&mut self, known: Option<End>, page: &HistoryPage, now_ms: i64) -> Vec<Effect> {
        let Some(run) = &mut self.run else { return Vec::new() };
        let is_over = run.is_over_bare(self.protocol);
        let until = match run.stage {
            Stage::Resuming { until } => until,
            _ if is_over => now_ms + BARE_WAIT_MS,
            _ => now_ms + self.options.resume_wait_ms,
        };
        // Nobody waits for somebody else's run that is over; its rows are mapped like any others.
        let is_foreign_and_over = run.question.is_none() && page.is_idle() && !is_over;
        if now_ms >= until || is_foreign_and_over || run.abort_wanted {
            let end = known.unwrap_or_else(|| match (run.abort_wanted, run.ended_bare) {
                (true, _) => End::aborted(None),
                (false, true) => run.bare_end(),
                (false, false) => End::interrupted(),
            });
            self.unread |= reconcile::is_active(page);
            return self.end(end);
        }
        run.stage = Stage::Resuming { until };
        if is_over {
            // The next tick looks again.
            return Vec::new();
        }
        let ms = RESUME_LOOK_MS.min(u64::try_from(until - now_ms).unwrap_or(0).max(1));
        self.look_later(ms)
    }
}

/// Asks again after a while, when that may help; the end of the connection is told by itself.
pub(super) fn retry(error: &RequestError, wake: Wake) -> Vec<Effect> {
    match error {
        RequestError::Refused(refusal) if !refusal.retryable && refusal.code != "UNAVAILABLE" => Vec::new(),
        RequestError::Closed => Vec::new(),
        RequestError::Refused(_) | RequestError::TimedOut | RequestError::Busy | RequestError::Unreadable(_) => {
            vec![Effect::WakeIn { ms: RESUME_LOOK_MS, wake }]
        }
    }
}

fn active_runs(page: &HistoryPage) -> HashSet<&str> {
    let in_flight = page.in_flight.as_ref().map(|run| run.run_id.as_str());
    in_flight.into_iter().chain(page.active_run_ids.iter().flatten().map(String::as_str)).collect()
}

/// What a page tells of a run in flight, as an event.
fn so_far(run_id: &str, text: &str) -> ChatEvent {
    ChatEvent {
        run_id: run_id.to_owned(),
        session_key: String::new(),
        state: ChatState::Delta,
        phase: None,
        delta_text: Some(text.to_owned()),
        replace: true,
        text: None,
        error_message: None,
        error_kind: None,
        usage: None,
        stop_reason: None,
        timestamp_ms: None,
    }
}

#[expect(clippy::expect_used, reason = "a constant name that is valid")]
fn no_gateway() -> GatewayId {
    // Sessions always have a gateway; the type allows conversations without one.
    "unknown".parse().expect("a valid name")
}
