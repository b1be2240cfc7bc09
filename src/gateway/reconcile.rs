//! What the gateway's history says of a question whose outcome we missed (D4), and what its rows are to us (D1).
//!
//! Pure: the link asks for history and for what the store knows, and acts on the answers given here.
use std::collections::HashSet;

use super::history::{HistoryPage, HistoryRow, Marker, RowRole, same_text};

mod mapping;

pub use mapping::{Known, KnownTurn, Mapped, Meaning, OthersTurn, map_tail, was_reset};

/// A question that was handed to the gateway, or a run that somebody else started.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The idempotency key it was sent with; `None` for a run that somebody else started.
    pub key: Option<&'a str>,
    /// The id its run had last.
    pub run_id: &'a str,
    pub text: &'a str,
    /// When it was handed over, in epoch milliseconds.
    pub since_ms: i64,
    /// Rows up to this number were there before; 0 where that is not known. Only protocol 3 needs it.
    pub after_seq: i64,
    pub protocol: u32,
}

/// Clocks of two machines may differ by so much when texts are matched by time (protocol 3).
const SKEW_MS: i64 = 120_000;

/// What history says.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict<'a> {
    /// The gateway has not seen the question: send it again, under the same key.
    NotStarted,
    /// It has been answered: by one row, or by several when others' questions were steered into its run.
    Answered(Vec<&'a HistoryRow>),
    /// It is being answered, under this run id.
    Running { run_id: String, text: Option<&'a str> },
    /// The gateway knows the question, and nothing that is known to be ours runs: it may take it up again.
    Waiting,
    /// The question may stand further up.
    LookFurther,
}

/// Judges a question by the newest page of its session's history.
pub fn judge<'a>(page: &'a HistoryPage, asked: &Asked<'_>) -> Verdict<'a> {
    let Some(key) = asked.key else { return judge_foreign(page, asked) };
    let Some(at) = find_question(page, asked, key) else { return judge_unseen(page, asked, key) };
    let Behind { runs, rows, is_last } = behind(page, at, key, asked.run_id);
    if let Some(running) = running_as(page, |run| runs.contains(run)) {
        return running;
    }
    let answers = answers_of(rows, &runs, true);
    // An active run may still be ours, unless all active runs are told or somebody asked after us.
    if !answers.is_empty() && (!is_active(page) || page.active_run_ids.is_some() || !is_last) {
        return Verdict::Answered(answers);
    }
    // A run that resumes ours shows by its bare id first and by its row soon after. The id alone may be anybody's, and
    // a wrong answer is worse than a late one.
    Verdict::Waiting
}

/// Finds what answers a question as far as it is written, whatever else runs: for when waiting is over.
pub fn answer_so_far<'a>(page: &'a HistoryPage, asked: &Asked<'_>) -> Vec<&'a HistoryRow> {
    let Some(key) = asked.key else { return answers_of(&page.rows, &HashSet::from([asked.run_id]), false) };
    let Some(at) = find_question(page, asked, key) else { return Vec::new() };
    let Behind { runs, rows, .. } = behind(page, at, key, asked.run_id);
    answers_of(rows, &runs, true)
}

/// Tells whether some run is active in the session.
pub fn is_active(page: &HistoryPage) -> bool {
    page.in_flight.is_some()
        || page.has_active_run == Some(true)
        || page.active_run_ids.as_ref().is_some_and(|ids| !ids.is_empty())
}

/// Tells whether the last word in the log is an answer that came after `since_ms`. Protocol 3 tells no more of a run that
/// others began.
pub fn ends_with_answer(page: &HistoryPage, since_ms: i64) -> bool {
    page.rows.last().is_some_and(|row| may_answer(row) && row.timestamp_ms.is_none_or(|at| at >= since_ms - SKEW_MS))
}

fn judge_unseen<'a>(page: &'a HistoryPage, asked: &Asked<'_>, key: &str) -> Verdict<'a> {
    if let Some(running) = running_as(page, |run| run == key || run == asked.run_id) {
        return running;
    }
    let waits = page.pending_inputs.iter().any(|input| input.run_id.as_deref() == Some(key));
    // A reset after we asked has taken the row away, if there was one.
    let was_reset = page
        .rows
        .iter()
        .any(|row| row.marker == Some(Marker::Reset) && row.timestamp_ms.is_some_and(|at| at >= asked.since_ms));
    // A run that went by another id had been seen in the log.
    if waits || was_reset || asked.run_id != key {
        return Verdict::Waiting;
    }
    let oldest = page.rows.first();
    let reaches_back = oldest.is_none_or(|row| row.timestamp_ms.is_some_and(|at| at < asked.since_ms - SKEW_MS));
    if page.has_more && !reaches_back { Verdict::LookFurther } else { Verdict::NotStarted }
}

fn judge_foreign<'a>(page: &'a HistoryPage, asked: &Asked<'_>) -> Verdict<'a> {
    if let Some(running) = running_as(page, |run| run == asked.run_id) {
        return running;
    }
    let answers = answers_of(&page.rows, &HashSet::from([asked.run_id]), false);
    let may_go_on = is_active(page) && page.active_run_ids.is_none();
    if answers.is_empty() || may_go_on { Verdict::Waiting } else { Verdict::Answered(answers) }
}

fn find_question(page: &HistoryPage, asked: &Asked<'_>, key: &str) -> Option<usize> {
    if asked.protocol >= 4 {
        return page.rows.iter().rposition(|row| row.delivery_key() == Some(key));
    }
    // Protocol 3 keeps no keys: the same text, not said before we asked. Numbers that went back tell nothing.
    let went_back = page.rows.iter().filter_map(|row| row.seq).max().is_none_or(|newest| newest < asked.after_seq);
    let after_seq = if went_back { 0 } else { asked.after_seq };
    page.rows.iter().rposition(|row| {
        row.role == RowRole::User
            && !row.is_recovery
            && row.seq.is_none_or(|seq| seq > after_seq)
            && row.timestamp_ms.is_none_or(|at| at >= asked.since_ms - SKEW_MS)
            && same_text(asked.text, &row.text)
    })
}

/// What stands in the log behind a question.
struct Behind<'page, 'run> {
    /// The ids under which its answer may run.
    runs: HashSet<&'run str>,
    /// The rows up to the next question that was not steered into its run.
    rows: &'page [HistoryRow],
    is_last: bool,
}

fn behind<'page: 'run, 'run>(
    page: &'page HistoryPage,
    at: usize,
    key: &'run str,
    run_id: &'run str,
) -> Behind<'page, 'run> {
    let mut runs: HashSet<&'run str> = HashSet::from([key, run_id]);
    // A question that met a busy run is answered by that one.
    runs.extend(page.rows.get(at).and_then(|row| row.steered_into.as_deref()));
    let after = page.rows.get(at + 1..).unwrap_or_default();
    let mut until = after.len();
    let mut is_answered = false;
    for (index, row) in after.iter().enumerate() {
        is_answered |= may_answer(row) && row.run_id.as_deref().is_none_or(|run| runs.contains(run));
        if row.is_recovery && !is_answered {
            runs.extend(row.delivery_key());
        } else if row.role == RowRole::User && !is_steered_into(row, &runs) {
            // What is taken up again after our answer is somebody else's.
            until = index;
            break;
        }
    }
    Behind { runs, rows: after.get(..until).unwrap_or_default(), is_last: until == after.len() }
}

fn is_steered_into(row: &HistoryRow, runs: &HashSet<&str>) -> bool {
    row.steered_into.as_deref().is_some_and(|run| runs.contains(run))
}

/// Finds the rows that answer for these runs: the last one, and the last one before each question that was steered in.
/// Protocol 3 tells of no run: `nameless` rows count as theirs.
fn answers_of<'a>(rows: &'a [HistoryRow], runs: &HashSet<&str>, nameless: bool) -> Vec<&'a HistoryRow> {
    let mut answers = Vec::new();
    let mut last = None;
    for row in rows {
        let is_ours = row.run_id.as_deref().map_or(nameless, |run| runs.contains(run));
        if is_steered_into(row, runs) {
            answers.extend(last.take());
        } else if is_ours && may_answer(row) {
            last = Some(row);
        }
    }
    answers.extend(last);
    answers
}

fn may_answer(row: &HistoryRow) -> bool {
    !row.is_injected && (row.is_answer() || row.is_failure())
}

fn running_as<'a>(page: &'a HistoryPage, ours: impl Fn(&str) -> bool) -> Option<Verdict<'a>> {
    if let Some(run) = page.in_flight.as_ref().filter(|run| ours(&run.run_id)) {
        return Some(Verdict::Running { run_id: run.run_id.clone(), text: Some(&run.text) });
    }
    let id = page.active_run_ids.as_ref()?.iter().find(|id| ours(id))?;
    Some(Verdict::Running { run_id: id.clone(), text: None })
}

#[cfg(test)]
mod tests;
