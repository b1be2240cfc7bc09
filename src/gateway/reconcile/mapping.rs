//! What the rows of a log are to us: questions and answers that stand already, steps of turns, or new lines (D1).
use std::collections::HashMap;

use super::super::history::{HistoryPage, HistoryRow, Marker, RowRole, same_text};
use super::{SKEW_MS, may_answer};
use crate::domain::thinking;

/// What we know of a turn when its rows come by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownTurn<Id> {
    pub id: Id,
    /// It is not over: its rows are left for later.
    pub open: bool,
    /// The text of its answer line; `None` while it has none.
    pub answer: Option<String>,
}

/// What is known of the turns of a session when its rows come by.
#[derive(Clone, Debug)]
pub struct Known<Turn, Delivery> {
    /// By run id.
    pub turns: HashMap<String, KnownTurn<Turn>>,
    /// By the key that they were sent with.
    pub questions: HashMap<String, Delivery>,
    /// Protocol 3: our questions whose rows have not come by yet, by text, oldest first.
    pub asked: Vec<(String, Delivery, KnownTurn<Turn>)>,
    /// Protocol 3: turns that others began, open ones and those whose answer row has not come by yet, oldest first.
    pub others: Vec<OthersTurn<Turn>>,
}

/// A turn that others began, and when: their words alone may have been said before.
#[derive(Clone, Debug)]
pub struct OthersTurn<Id> {
    pub turn: KnownTurn<Id>,
    pub started_ms: i64,
    /// `None` while it is not over.
    pub ended_ms: Option<i64>,
}

impl<Id> OthersTurn<Id> {
    fn is_answered_by(&self, row: &HistoryRow) -> bool {
        let is_its_time = row.timestamp_ms.is_none_or(|at| {
            at >= self.started_ms - SKEW_MS && self.ended_ms.is_none_or(|ended_ms| at <= ended_ms + SKEW_MS)
        });
        is_its_time && may_answer(row) && says(row, &self.turn)
    }
}

impl<Turn, Delivery> Default for Known<Turn, Delivery> {
    fn default() -> Self {
        Self { turns: HashMap::new(), questions: HashMap::new(), asked: Vec::new(), others: Vec::new() }
    }
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
/// On protocol 3 rows have neither run id nor key: a question is known by its text among those `asked`, in order, and what
/// follows it belongs to its turn. So such a question is left until its turn is over and its answer is there: the next
/// pass would not know any more whose answer it is. An answer to what `others` asked is known by its text, too.
pub fn map_tail<'a, Turn: Copy + Eq, Delivery: Copy>(
    rows: &'a [HistoryRow],
    mapped_seq: i64,
    known: &Known<Turn, Delivery>,
) -> Mapped<'a, Turn, Delivery> {
    let mut mapped = Mapped { rows: Vec::new(), held: false, up_to: mapped_seq };
    let mut asked = known.asked.as_slice();
    let mut others: Vec<&OthersTurn<Turn>> = known.others.iter().collect();
    // On protocol 3: the turn that the rows at hand belong to.
    let mut current: Option<&KnownTurn<Turn>> = None;
    let fresh: Vec<&HistoryRow> = rows.iter().filter(|row| row.seq.is_none_or(|seq| seq > mapped_seq)).collect();
    for (index, row) in fresh.iter().copied().enumerate() {
        let later = fresh.get(index + 1..).unwrap_or_default();
        let meaning = match row.role {
            RowRole::User if row.is_recovery => Meaning::Line,
            RowRole::User => {
                current = None;
                let by_key = row.delivery_key().and_then(|key| known.questions.get(key)).copied();
                let by_text = if row.idempotency_key.is_none() { pick(asked, row, later) } else { None };
                match (by_key, by_text.and_then(|index| asked.get(index..)?.split_first())) {
                    (Some(delivery), _) => Meaning::Question(delivery),
                    (None, Some(((_, delivery, turn), rest))) => {
                        if turn.open || is_answer_missing(turn, later) {
                            mapped.held = true;
                            break;
                        }
                        (asked, current) = (rest, Some(turn));
                        Meaning::Question(*delivery)
                    }
                    (None, None) => Meaning::Line,
                }
            }
            RowRole::Assistant | RowRole::ToolResult
                if !row.is_injected && row.run_id.is_none() && current.is_none() =>
            {
                if let Some(at) = others.iter().position(|other| other.is_answered_by(row)) {
                    Meaning::Answer(others.remove(at).turn.id)
                } else if others.iter().any(|other| other.turn.open) && until_next_question(later).len() == later.len()
                {
                    mapped.held = true;
                    break;
                } else {
                    Meaning::Line
                }
            }
            // It stands before our question, which its run took in later: whoever began that run was answered.
            RowRole::Assistant | RowRole::ToolResult if !row.is_injected && is_before_ours(row, later, known) => {
                Meaning::Line
            }
            RowRole::Assistant | RowRole::ToolResult if !row.is_injected => {
                let turn = row.run_id.as_ref().map_or(current, |run| known.turns.get(run));
                if turn.is_some_and(|turn| turn.open) {
                    mapped.held = true;
                    break;
                }
                turn.map_or(Meaning::Line, |turn| of_turn(row, turn, fresh.get(..index).unwrap_or_default(), later))
            }
            RowRole::Assistant | RowRole::ToolResult | RowRole::System | RowRole::Other => Meaning::Line,
        };
        mapped.rows.push((row, meaning));
        mapped.up_to = mapped.up_to.max(row.seq.unwrap_or(mapped.up_to));
    }
    mapped
}

type AskedByText<Turn, Delivery> = (String, Delivery, KnownTurn<Turn>);

/// Finds which question a row is. Those before it have not reached the log.
///
/// Of several with the same words: the one whose answer follows, else the one that is being answered, else the first.
fn pick<Turn, Delivery>(
    asked: &[AskedByText<Turn, Delivery>],
    row: &HistoryRow,
    later: &[&HistoryRow],
) -> Option<usize> {
    let same = || asked.iter().enumerate().filter(|(_, (text, ..))| same_text(text, &row.text));
    let answer = until_next_question(later).iter().rev().find(|row| may_answer(row));
    let by_answer = same().find(|(_, (.., turn))| answer.is_some_and(|row| says(row, turn)));
    let found = by_answer.or_else(|| same().find(|(_, (.., turn))| turn.open)).or_else(|| same().next());
    found.map(|(index, _)| index)
}

/// The turn has an answer whose row the gateway has not written yet.
fn is_answer_missing<Turn>(turn: &KnownTurn<Turn>, later: &[&HistoryRow]) -> bool {
    let own = until_next_question(later);
    turn.answer.is_some() && own.len() == later.len() && !own.iter().any(|row| may_answer(row))
}

fn until_next_question<'a, 'b>(later: &'b [&'a HistoryRow]) -> &'b [&'a HistoryRow] {
    let until = later.iter().position(|row| is_question(row)).unwrap_or(later.len());
    later.get(..until).unwrap_or_default()
}

fn is_question(row: &HistoryRow) -> bool {
    row.role == RowRole::User && !row.is_recovery
}

/// The row has the words of the turn's answer.
fn says<Turn>(row: &HistoryRow, turn: &KnownTurn<Turn>) -> bool {
    let answer = turn.answer.as_deref();
    answer.is_some_and(|answer| same_text(answer, &row.text) || same_text(answer, &thinking::strip(&row.text).visible))
}

/// Tells whether the row is of a run of others that takes a question of ours in behind it.
fn is_before_ours<Turn, Delivery>(row: &HistoryRow, later: &[&HistoryRow], known: &Known<Turn, Delivery>) -> bool {
    let Some(run) = row.run_id.as_deref().filter(|run| !known.questions.contains_key(*run)) else { return false };
    later.iter().any(|other| {
        other.steered_into.as_deref() == Some(run)
            && other.delivery_key().is_some_and(|key| known.questions.contains_key(key))
    })
}

/// Tells what an assistant's or a tool's row of an ended turn is. Of several that could be its answer it is the one with
/// the answer's words, else the last.
fn of_turn<Turn: Copy, Delivery>(
    row: &HistoryRow,
    turn: &KnownTurn<Turn>,
    before: &[&HistoryRow],
    later: &[&HistoryRow],
) -> Meaning<Turn, Delivery> {
    // Of one that is all thinking nothing is shown.
    let is_hidden = || !row.is_failure() && thinking::strip(&row.text).visible.trim().is_empty();
    if !may_answer(row) || is_hidden() {
        return Meaning::Step(turn.id);
    }
    let is_exact = says(row, turn);
    let is_rival = |other: &&HistoryRow| other.run_id == row.run_id && may_answer(other);
    let since = before.iter().rposition(|row| is_question(row)).map_or(0, |at| at + 1);
    let earlier = before.get(since..).unwrap_or_default().iter().filter(|row| is_rival(row));
    let mut behind = until_next_question(later).iter().filter(|row| is_rival(row));
    let another_is_better = behind.any(|other| !is_exact || says(other, turn))
        || !is_exact && earlier.into_iter().any(|other| says(other, turn));
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
