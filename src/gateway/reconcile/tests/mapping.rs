//! Rows of a log and what they are to us.
use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// What the store knows: turns by the run ids of their rows, with the questions' keys.
#[derive(Clone, Default)]
struct Stored {
    known: Known<u32, u32>,
    /// Rows that have an origin.
    done: HashSet<String>,
    mapped_seq: i64,
}

fn turn(id: u32, answer: Option<&str>) -> KnownTurn<u32> {
    KnownTurn { id, open: false, answer: answer.map(str::to_owned) }
}

fn open(id: u32) -> KnownTurn<u32> {
    KnownTurn { id, open: true, answer: None }
}

impl Stored {
    fn with(turns: &[(&str, KnownTurn<u32>)]) -> Self {
        let known = Known {
            turns: turns.iter().map(|(run, turn)| ((*run).to_owned(), turn.clone())).collect(),
            questions: turns.iter().map(|(run, turn)| ((*run).to_owned(), turn.id)).collect(),
            ..Known::default()
        };
        Self { known, ..Self::default() }
    }

    fn asked(texts: &[(&str, KnownTurn<u32>)]) -> Self {
        let asked = texts.iter().map(|(text, turn)| ((*text).to_owned(), turn.id, turn.clone())).collect();
        Self { known: Known { asked, ..Known::default() }, ..Self::default() }
    }

    /// Makes a pass as the link does, and remembers what it did.
    fn pass(&mut self, rows: &[HistoryRow]) -> (Vec<String>, bool) {
        let fresh: Vec<HistoryRow> = rows.iter().filter(|row| !self.done.contains(&row.id)).cloned().collect();
        let mapped = map_tail(&fresh, self.mapped_seq, &self.known);
        assert!(mapped.up_to >= self.mapped_seq, "what is done stays done");
        let mut words = Vec::new();
        for (row, meaning) in &mapped.rows {
            assert!(self.done.insert(row.id.clone()), "a row has one meaning");
            words.push(match meaning {
                Meaning::Question(id) => {
                    self.known.asked.retain(|(_, delivery, _)| delivery != id);
                    format!("question {id}")
                }
                Meaning::Answer(id) => {
                    self.known.others.retain(|other| other.turn.id != *id);
                    format!("answer {id}")
                }
                Meaning::LateAnswer(id) => format!("late {id}"),
                Meaning::Step(id) => format!("step {id}"),
                Meaning::Line => "line".to_owned(),
            });
        }
        self.mapped_seq = mapped.up_to;
        (words, mapped.held)
    }
}

/// The meanings of all rows in one pass; a second one must have nothing to do.
fn mapped(known: &Stored, rows: &[HistoryRow]) -> (Vec<String>, bool) {
    let mut known = known.clone();
    let first = known.pass(rows);
    assert_eq!(known.pass(rows), (Vec::new(), first.1), "a repeated pass gives nothing new");
    first
}

fn rows(values: Vec<Value>) -> Vec<HistoryRow> {
    page(idle(values)).rows
}

#[test]
fn rows_of_ended_turns_find_their_place() {
    let q = || user(1, "q");
    type Case = (&'static str, Vec<Value>, KnownTurn<u32>, &'static [&'static str]);
    let table: Vec<Case> = vec![
        ("answered", vec![q(), said(2, "q", "a")], turn(1, Some("a")), &["question 1", "answer 1"]),
        (
            "with tools",
            vec![q(), used_tool(2, "q"), result(3, "q"), said(4, "q", "a")],
            turn(1, Some("a")),
            &["question 1", "step 1", "step 1", "answer 1"],
        ),
        ("other words than ours", vec![q(), said(2, "q", "b")], turn(1, Some("a")), &["question 1", "answer 1"]),
        (
            "the row with our words",
            vec![q(), said(2, "q", "a"), said(3, "q", "b")],
            turn(1, Some("a")),
            &["question 1", "answer 1", "step 1"],
        ),
        (
            "thinking is no difference",
            vec![q(), said(2, "q", "<think>x</think>a"), said(3, "q", "b")],
            turn(1, Some("a")),
            &["question 1", "answer 1", "step 1"],
        ),
        (
            "the last row else",
            vec![q(), said(2, "q", "x"), said(3, "q", "y")],
            turn(1, Some("a")),
            &["question 1", "step 1", "answer 1"],
        ),
        ("ended without an answer", vec![q(), said(2, "q", "a")], turn(1, None), &["question 1", "late 1"]),
        ("failed", vec![q(), failed(2, "q")], turn(1, Some("it failed")), &["question 1", "answer 1"]),
        (
            "injected behind it",
            vec![q(), said(2, "q", "a"), injected(3)],
            turn(1, Some("a")),
            &["question 1", "answer 1", "line"],
        ),
        ("somebody else's", vec![user(1, "p"), said(2, "p", "b")], turn(1, Some("a")), &["line", "line"]),
        (
            "a marker",
            vec![reset(1), user(2, "q"), said(3, "q", "a")],
            turn(1, Some("a")),
            &["line", "question 1", "answer 1"],
        ),
        (
            "all of it is thinking",
            vec![q(), said(2, "q", "<think>a</think>")],
            turn(1, None),
            &["question 1", "step 1"],
        ),
        (
            "steered into it",
            vec![q(), said(2, "q", "a"), steered(3, "p", "q"), said(4, "q", "b")],
            turn(1, Some("a\n\nb")),
            &["question 1", "answer 1", "line", "answer 1"],
        ),
    ];
    for (name, values, turn, expected) in table {
        assert_eq!(
            mapped(&Stored::with(&[("q", turn)]), &rows(values)),
            (expected.iter().map(|w| (*w).to_owned()).collect(), false),
            "{name}"
        );
    }
}

#[test]
fn taken_up_turn_has_its_rows_under_both_ids() {
    let log = rows(vec![user(1, "q"), used_tool(2, "q"), recovery(3, "r"), said(4, "r", "a")]);
    let mut known = Stored::with(&[("q", turn(1, Some("a"))), ("r", turn(1, Some("a")))]);
    known.known.questions.remove("r");
    assert_eq!(mapped(&known, &log).0, ["question 1", "step 1", "line", "answer 1"]);
}

#[test]
fn what_a_run_said_before_it_took_our_question_in_is_a_line() {
    let mut known = Stored::with(&[("q", turn(1, Some("second")))]);
    known.known.turns.insert("p".to_owned(), turn(1, Some("second")));
    let rows = rows(vec![user(1, "p"), said(2, "p", "first"), steered(3, "q", "p"), said(4, "p", "second")]);
    assert_eq!(mapped(&known, &rows).0, ["line", "line", "question 1", "answer 1"]);
}

#[test]
fn rows_of_an_open_turn_and_all_behind_them_wait() {
    let log = rows(vec![user(1, "q"), used_tool(2, "q"), result(3, "q"), said(4, "q", "a"), injected(5), user(6, "p")]);
    let mut known = Stored::with(&[("q", open(1))]);
    assert_eq!(known.pass(&log), (vec!["question 1".to_owned()], true));
    assert_eq!(known.pass(&log), (vec![], true));
    known.known.turns.insert("q".to_owned(), turn(1, Some("a")));
    assert_eq!(known.pass(&log).0, ["step 1", "step 1", "answer 1", "line", "line"]);
    assert_eq!(known.pass(&log), (vec![], false));
}

fn row_3(seq: i64, role: &str, text: &str) -> Value {
    json!({"role": role, "content": [{"type": "text", "text": text}], "stopReason": "stop", "timestamp": ASKED_MS + seq,
        "__openclaw": {"id": format!("row-{seq}"), "seq": seq}})
}

#[test]
fn protocol_3_goes_by_text_and_order() {
    let log = rows(vec![
        row_3(1, "user", "one"),
        row_3(2, "assistant", "1"),
        row_3(3, "user", "of others"),
        row_3(4, "assistant", "x"),
        row_3(5, "user", "two"),
        row_3(6, "assistant", "2"),
    ]);
    let known = Stored::asked(&[("one", turn(1, Some("1"))), ("two", turn(2, Some("2")))]);
    assert_eq!(mapped(&known, &log).0, ["question 1", "answer 1", "line", "line", "question 2", "answer 2"]);
}

#[test]
fn protocol_3_leaves_a_question_until_its_answer_is_there() {
    let question = rows(vec![row_3(1, "user", "one")]);
    let mut known = Stored::asked(&[("one", open(1))]);
    assert_eq!(known.pass(&question), (vec![], true), "being answered");
    known.known.asked[0].2 = turn(1, Some("1"));
    assert_eq!(known.pass(&question), (vec![], true), "answered, but the row is not written yet");
    let both = rows(vec![row_3(1, "user", "one"), row_3(2, "assistant", "1")]);
    assert_eq!(known.pass(&both).0, ["question 1", "answer 1"], "the answer is not taken for a new line");

    let mut known = Stored::asked(&[("one", turn(1, Some("1")))]);
    let next = rows(vec![row_3(1, "user", "one"), row_3(2, "user", "of others")]);
    assert_eq!(known.pass(&next).0, ["question 1", "line"], "it does not hold up others for ever");
    let mut known = Stored::asked(&[("one", turn(1, None))]);
    assert_eq!(known.pass(&question).0, ["question 1"], "aborted without a word");
}

#[test]
fn protocol_3_question_that_never_got_there_does_not_stop_later_ones() {
    let log = rows(vec![row_3(1, "user", "two"), row_3(2, "assistant", "2")]);
    let known = Stored::asked(&[("refused", turn(1, Some("it was refused"))), ("two", turn(2, Some("2")))]);
    assert_eq!(mapped(&known, &log).0, ["question 2", "answer 2"]);
    let known = Stored::asked(&[("two", turn(1, Some("it was refused"))), ("two", turn(2, Some("2")))]);
    assert_eq!(mapped(&known, &log).0, ["question 2", "answer 2"], "by the answer, where the words are the same");
}

#[test]
fn protocol_3_answers_to_others_are_known_by_their_text() {
    let log = rows(vec![row_3(1, "user", "theirs"), row_3(2, "assistant", "hi"), row_3(3, "user", "next")]);
    let of = |turns: Vec<KnownTurn<u32>>| {
        let others = turns.into_iter().map(|turn| {
            let ended_ms = (!turn.open).then_some(ASKED_MS);
            OthersTurn { turn, started_ms: ASKED_MS, ended_ms }
        });
        Stored { known: Known { others: others.collect(), ..Known::default() }, ..Stored::default() }
    };
    let ended = turn(1, Some("hi"));
    assert_eq!(mapped(&of(vec![ended.clone()]), &log).0, ["line", "answer 1", "line"]);
    assert_eq!(mapped(&of(vec![turn(1, Some("other"))]), &log).0, ["line", "line", "line"]);
    // The question is there at once, what follows it when the turn is over.
    let mut stored = of(vec![open(1)]);
    assert_eq!(stored.pass(&log[..2]), (vec!["line".to_owned()], true));
    stored.known.others = of(vec![ended.clone()]).known.others;
    assert_eq!(stored.pass(&log).0, ["answer 1", "line"]);
    // Two with the same words; what stands above a later question is not of the one that is open.
    let twice = rows(vec![row_3(1, "assistant", "hi"), row_3(2, "assistant", "hi"), row_3(3, "assistant", "hi")]);
    assert_eq!(mapped(&of(vec![ended, turn(2, Some("hi"))]), &twice).0, ["answer 1", "answer 2", "line"]);
    assert_eq!(mapped(&of(vec![open(1)]), &log).0, ["line", "line", "line"]);
    // A tool's result may have the words of the answer; so may an answer of another day.
    let tool = rows(vec![row_3(1, "toolResult", "hi"), row_3(2, "assistant", "hi")]);
    assert_eq!(mapped(&of(vec![turn(1, Some("hi"))]), &tool).0, ["line", "answer 1"]);
    let later = rows(vec![row_3(SKEW_MS + 1, "assistant", "hi")]);
    assert_eq!(mapped(&of(vec![turn(1, Some("hi"))]), &later).0, ["line"]);
}

#[test]
fn protocol_3_tool_rows_are_steps_of_the_question_before_them() {
    let mut call = used_tool(2, "x");
    call["__openclaw"].as_object_mut().expect("an object").remove("runId");
    let mut done = result(3, "x");
    done["__openclaw"].as_object_mut().expect("an object").remove("runId");
    let log = rows(vec![row_3(1, "user", "one"), call, done, row_3(4, "assistant", "1")]);
    let known = Stored::asked(&[("one", turn(1, Some("1")))]);
    assert_eq!(mapped(&known, &log).0, ["question 1", "step 1", "step 1", "answer 1"]);
}

/// What the store would know of a recorded page when all user rows were questions of ours, ended as the log says.
fn known_of(page: &HistoryPage, open_runs: &HashSet<String>) -> Stored {
    let mut known = Stored::default();
    let keys: Vec<&str> =
        page.rows.iter().filter(|row| !row.is_recovery).filter_map(HistoryRow::delivery_key).collect();
    for (index, key) in (1..).zip(&keys) {
        let last = page.rows.iter().rev().find(|row| row.run_id.as_deref() == Some(key) && may_answer(row));
        let turn = KnownTurn { id: index, open: open_runs.contains(*key), answer: last.map(|row| row.text.clone()) };
        known.known.turns.insert((*key).to_owned(), turn);
        known.known.questions.insert((*key).to_owned(), index);
    }
    known
}

#[test]
fn every_recorded_row_gets_one_meaning_or_is_held() {
    let (mut passes, mut held_passes) = (0, 0);
    for name in fixtures::names() {
        for page in pages(&name) {
            let runs: Vec<String> = page.rows.iter().filter_map(|row| row.delivery_key().map(str::to_owned)).collect();
            let mut cases = vec![HashSet::new()];
            cases.extend(runs.into_iter().map(|run| HashSet::from([run])));
            for open_runs in cases {
                let known = known_of(&page, &open_runs);
                let (words, held) = mapped(&known, &page.rows);
                assert!(held || words.len() == page.rows.len(), "{name}: all rows are mapped");
                let questions =
                    page.rows.iter().take(words.len()).filter(|row| row.delivery_key().is_some() && !row.is_recovery);
                assert_eq!(
                    words.iter().filter(|word| word.starts_with("question")).count(),
                    questions.count(),
                    "{name}"
                );
                for (row, word) in page.rows.iter().zip(&words) {
                    let is_plain = row.is_injected || row.is_recovery || row.marker.is_some();
                    assert!(!is_plain || word == "line", "{name}: {word}");
                }
                // The end of the turn brings the rest, exactly once each.
                let mut later = known.clone();
                let (first, _) = later.pass(&page.rows);
                for turn in later.known.turns.values_mut() {
                    turn.open = false;
                }
                let (rest, held_still) = later.pass(&page.rows);
                assert!(!held_still && first.len() + rest.len() == page.rows.len(), "{name}");
                passes += 1;
                held_passes += usize::from(held);
            }
        }
    }
    assert!(passes > 50 && held_passes > 10, "{passes} {held_passes}");
}

proptest! {
    /// Rows of any kind in any order, read in pages that grow, with turns that end on the way.
    #[test]
    fn passes_over_a_growing_log_map_each_row_once(kinds in prop::collection::vec((0..7_u8, 0..3_u8, 0..4_u8), 1..30)) {
        let runs = ["a", "b", "c"];
        let values: Vec<Value> = (1..).zip(&kinds).map(|(seq, (kind, run, _))| {
            let run = runs[usize::from(*run)];
            match kind {
                0 => user(seq, run),
                1 => said(seq, run, &format!("answer of {run}")),
                2 => used_tool(seq, run),
                3 => result(seq, run),
                4 => injected(seq),
                5 => recovery(seq, "r"),
                _ => steered(seq, "others", run),
            }
        }).collect();
        let log = rows(values);
        let mut known = Stored::with(&[("a", open(1)), ("b", open(2))]);
        let mut mapped = 0;
        for (end, (.., what)) in (1..).zip(&kinds) {
            match what {
                0 => { known.known.turns.insert("a".to_owned(), turn(1, Some("answer of a"))); }
                1 => { known.known.turns.insert("b".to_owned(), turn(2, None)); }
                2 => mapped += known.pass(&log[..end]).0.len(),
                _ => {}
            }
        }
        for turn in known.known.turns.values_mut() {
            turn.open = false;
        }
        mapped += known.pass(&log).0.len();
        prop_assert_eq!(mapped, log.len());
        prop_assert_eq!(known.pass(&log), (Vec::new(), false));
    }
}

// ---- reset -------------------------------------------------------------------------------------------------------------

#[test]
fn reset_is_seen_where_no_marker_tells_of_it() {
    let log = |rows: Vec<Value>| page(idle(rows));
    assert!(!was_reset(&log(vec![user(1, "q")]), Some("log"), 1));
    assert!(!was_reset(&log(vec![user(1, "q")]), None, 0), "the first transcript");
    assert!(was_reset(&log(vec![user(1, "q")]), Some("other"), 1), "another transcript");
    assert!(was_reset(&log(vec![user(1, "q")]), Some("log"), 4), "numbers that went back");
    assert!(was_reset(&log(vec![]), Some("log"), 4), "nothing left");
    assert!(!was_reset(&log(vec![]), None, 0));
    assert!(!was_reset(&log(vec![reset(1), user(2, "q")]), Some("log"), 4), "the marker becomes a line itself");
    let pages = pages("history-markers");
    let newest = pages[0].rows.iter().filter_map(|row| row.seq).max().unwrap_or(0);
    for page in &pages {
        assert!(!was_reset(page, pages[0].session_id.as_deref(), newest), "its marker tells");
    }
}
