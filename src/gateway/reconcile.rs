//! What the gateway's history says of a question whose outcome we missed (D4), and what its rows are to us (D1).
//!
//! Pure: the link asks for history and for what the store knows, and acts on the answers given here.
use std::collections::{HashMap, HashSet};

use super::history::{HistoryPage, HistoryRow, Marker, RowRole, same_text};

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
    pub protocol: u32,
}

/// Clocks of two machines may differ by so much when texts are matched by time (protocol 3).
const SKEW_MS: i64 = 120_000;

/// What history says.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict<'a> {
    /// The gateway has not seen the question: send it again, under the same key.
    NotStarted,
    /// It has been answered.
    Answered(&'a HistoryRow),
    /// It is being answered, under this run id.
    Running { run_id: String, text: Option<&'a str> },
    /// The gateway knows the question, and nothing runs: it may take it up again.
    Waiting,
    /// The question may stand further up.
    LookFurther,
}

/// Judges a question by the newest page of its session's history.
pub fn judge<'a>(page: &'a HistoryPage, asked: &Asked<'_>) -> Verdict<'a> {
    let Some(key) = asked.key else { return judge_foreign(page, asked) };
    let Some(at) = find_question(page, asked, key) else {
        if let Some(running) = running_as(page, |run| run == key || run == asked.run_id) {
            return running;
        }
        if page.pending_inputs.iter().any(|input| input.run_id.as_deref() == Some(key)) {
            return Verdict::Waiting;
        }
        let reaches_back =
            page.rows.first().is_none_or(|row| row.timestamp_ms.is_some_and(|at| at < asked.since_ms - SKEW_MS));
        return if page.has_more && !reaches_back { Verdict::LookFurther } else { Verdict::NotStarted };
    };
    let after = page.rows.get(at + 1..).unwrap_or_default();
    let until = after.iter().position(|row| row.role == RowRole::User && !row.is_recovery).unwrap_or(after.len());
    let last_question = until == after.len();
    let after = after.get(..until).unwrap_or_default();
    let mut runs: HashSet<&str> = HashSet::from([key, asked.run_id]);
    runs.extend(after.iter().filter(|row| row.is_recovery).filter_map(HistoryRow::delivery_key));
    if let Some(running) = running_as(page, |run| runs.contains(run)) {
        return running;
    }
    let answer = after.iter().rev().find(|row| {
        (row.is_answer() || row.is_failure()) && row.run_id.as_deref().is_none_or(|run| runs.contains(run))
    });
    let active = page.in_flight.is_some() || page.active_run_ids.as_ref().is_some_and(|ids| !ids.is_empty());
    match answer {
        Some(row) if !active => Verdict::Answered(row),
        Some(row) if !last_question => Verdict::Answered(row),
        // A run that resumes ours shows by its id first and by its row later; nobody asked anything after us.
        // What was put behind a busy run by others waits under its own id.
        None if last_question => {
            let others: HashSet<&str> =
                page.pending_inputs.iter().filter_map(|input| input.run_id.as_deref()).collect();
            running_as(page, |run| !others.contains(run)).unwrap_or(Verdict::Waiting)
        }
        _ => Verdict::Waiting,
    }
}

fn judge_foreign<'a>(page: &'a HistoryPage, asked: &Asked<'_>) -> Verdict<'a> {
    if let Some(running) = running_as(page, |run| run == asked.run_id) {
        return running;
    }
    let answer = page
        .rows
        .iter()
        .rev()
        .find(|row| (row.is_answer() || row.is_failure()) && row.run_id.as_deref() == Some(asked.run_id));
    answer.map_or(Verdict::Waiting, Verdict::Answered)
}

fn find_question(page: &HistoryPage, asked: &Asked<'_>, key: &str) -> Option<usize> {
    if asked.protocol >= 4 {
        return page.rows.iter().rposition(|row| row.delivery_key() == Some(key));
    }
    // Protocol 3 keeps no keys: the same text, not said before we asked.
    page.rows.iter().rposition(|row| {
        row.role == RowRole::User
            && !row.is_recovery
            && row.timestamp_ms.is_none_or(|at| at >= asked.since_ms - SKEW_MS)
            && same_text(asked.text, &row.text)
    })
}

fn running_as<'a>(page: &'a HistoryPage, ours: impl Fn(&str) -> bool) -> Option<Verdict<'a>> {
    if let Some(run) = page.in_flight.as_ref().filter(|run| ours(&run.run_id)) {
        return Some(Verdict::Running { run_id: run.run_id.clone(), text: Some(&run.text) });
    }
    let id = page.active_run_ids.as_ref()?.iter().find(|id| ours(id))?;
    Some(Verdict::Running { run_id: id.clone(), text: None })
}

/// What we know of a turn when its rows come by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownTurn<Id> {
    pub id: Id,
    /// It is not over: its rows are left for later.
    pub open: bool,
    /// The text of its answer line; `None` while it has none.
    pub answer: Option<String>,
}

/// What a row is to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning<Turn, Delivery> {
    Question(Delivery),
    Answer(Turn),
    LateAnswer(Turn),
    Step(Turn),
    Line,
}

/// The rows of a page that can be mapped now, each with its meaning.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapped<'a, Turn, Delivery> {
    pub rows: Vec<(&'a HistoryRow, Meaning<Turn, Delivery>)>,
    /// Rows of a run that is not over were left.
    pub held: bool,
    /// The highest row number that is done.
    pub up_to: i64,
}

/// Maps rows above `mapped_seq` to what they are, in order, up to the first row of an open turn.
///
/// `turns` are found by run id, `questions` by key (protocol 4). On protocol 3 rows have neither: a question is known by
/// its text among `asked`, in order, and what follows it belongs to its turn.
pub fn map_tail<'a, Turn: Copy + Eq, Delivery: Copy>(
    rows: &'a [HistoryRow],
    mapped_seq: i64,
    turns: &HashMap<String, KnownTurn<Turn>>,
    questions: &HashMap<String, Delivery>,
    asked: &[(String, Delivery, KnownTurn<Turn>)],
) -> Mapped<'a, Turn, Delivery> {
    let mut mapped = Mapped { rows: Vec::new(), held: false, up_to: mapped_seq };
    let mut asked_left = asked.iter().peekable();
    // On protocol 3: the turn that the rows at hand belong to.
    let mut current: Option<&KnownTurn<Turn>> = None;
    let fresh: Vec<&HistoryRow> = rows.iter().filter(|row| row.seq.is_none_or(|seq| seq > mapped_seq)).collect();
    for (index, row) in fresh.iter().copied().enumerate() {
        let turn = match &row.run_id {
            Some(run) => turns.get(run),
            None if row.role == RowRole::User || row.is_injected => None,
            None => current,
        };
        if turn.is_some_and(|turn| turn.open) {
            mapped.held = true;
            break;
        }
        let meaning = match row.role {
            RowRole::User if row.is_recovery => Meaning::Line,
            RowRole::User => {
                current = None;
                let by_key = row.delivery_key().and_then(|key| questions.get(key)).copied();
                match by_key {
                    Some(delivery) => Meaning::Question(delivery),
                    None if row.idempotency_key.is_none() => {
                        match asked_left.next_if(|(text, ..)| same_text(text, &row.text)) {
                            Some((_, delivery, turn)) => {
                                current = Some(turn);
                                Meaning::Question(*delivery)
                            }
                            None => Meaning::Line,
                        }
                    }
                    None => Meaning::Line,
                }
            }
            RowRole::Assistant | RowRole::ToolResult if !row.is_injected => match turn {
                Some(turn) => of_turn(row, turn, fresh.get(index + 1..).unwrap_or_default()),
                None => Meaning::Line,
            },
            RowRole::Assistant | RowRole::ToolResult | RowRole::System | RowRole::Other => Meaning::Line,
        };
        mapped.rows.push((row, meaning));
        mapped.up_to = mapped.up_to.max(row.seq.unwrap_or(mapped.up_to));
    }
    mapped
}

/// Tells what an assistant's or a tool's row of an ended turn is.
fn of_turn<Turn: Copy, Delivery>(
    row: &HistoryRow,
    turn: &KnownTurn<Turn>,
    later: &[&HistoryRow],
) -> Meaning<Turn, Delivery> {
    let may_answer = |row: &HistoryRow| row.is_answer() || row.is_failure();
    if !may_answer(row) {
        return Meaning::Step(turn.id);
    }
    let same_run = |other: &&&HistoryRow| {
        other.role != RowRole::User && other.run_id == row.run_id && !other.is_injected && may_answer(other)
    };
    let until = later.iter().position(|row| row.role == RowRole::User && !row.is_recovery).unwrap_or(later.len());
    let rest = later.get(..until).unwrap_or_default();
    let exact = |row: &HistoryRow| turn.answer.as_ref().is_some_and(|answer| same_text(answer, &row.text));
    let another_is_better = rest.iter().filter(same_run).any(|other| !exact(row) || exact(other));
    match (&turn.answer, another_is_better) {
        (_, true) => Meaning::Step(turn.id),
        (Some(_), false) => Meaning::Answer(turn.id),
        (None, false) => Meaning::LateAnswer(turn.id),
    }
}

/// Tells whether the log has begun afresh: another transcript, or row numbers that went back.
pub fn was_reset(page: &HistoryPage, session_id: Option<&str>, mapped_seq: i64) -> bool {
    let marked = page.rows.iter().any(|row| row.marker == Some(Marker::Reset));
    let other = matches!((session_id, page.session_id.as_deref()), (Some(known), Some(now)) if known != now);
    let newest = page.rows.iter().filter_map(|row| row.seq).max();
    let went_back = newest.is_some_and(|newest| newest < mapped_seq) || (page.rows.is_empty() && mapped_seq > 0);
    (other || went_back) && !marked
}
