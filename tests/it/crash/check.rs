//! What must hold after the crashes.
use std::collections::BTreeSet;

use serde_json::Value;

use super::load::{Journal, Written};
use crate::harness::{Broker, Database, Kind, sql};

/// Each log is dense, holds what was acknowledged exactly once where it was said to be, and an answer to each question.
pub(crate) async fn logs(broker: &Broker, journals: &[Journal], written: &[Written]) {
    for journal in journals {
        let lines = log(broker, &journal.session).await;
        let at = |seq: i64| &lines[usize::try_from(seq - 1).unwrap()];
        for (seq, id) in &journal.lines {
            assert_eq!(at(*seq)["id"], id.as_str(), "the line that was shown at {seq}");
        }
        for asked in &journal.asked {
            assert_eq!(at(asked.seq)["id"], asked.message_id.as_str());
            assert_eq!(texts(&lines, "user").filter(|text| *text == asked.text).count(), 1, "{asked:?}");
            let (_, answer) = asked.text.split_once(": ").unwrap();
            assert_eq!(texts(&lines, "assistant").filter(|text| *text == answer).count(), 1, "the answer to {asked:?}");
        }
        assert_eq!(lines.len(), 2 * journal.asked.len(), "nothing else is in {}", journal.session);
    }
    let notes = log(broker, "notes").await;
    for note in written {
        assert_eq!(notes.iter().filter(|line| line["id"] == note.message_id.as_str()).count(), 1, "{note:?}");
        assert_eq!(texts(&notes, "user").filter(|text| *text == note.text).count(), 1, "{note:?}");
    }
    assert_eq!(notes.len(), written.len());
}

fn texts<'a>(lines: &'a [Value], role: &'a str) -> impl Iterator<Item = &'a str> {
    lines.iter().filter(move |line| line["role"] == role).filter_map(|line| line["content"][0]["text"].as_str())
}

/// Reads a whole log and checks that it is dense.
async fn log(broker: &Broker, session: &str) -> Vec<Value> {
    let (status, shown) = broker.get(&format!("/api/gateways/gw/sessions/{session}")).await;
    assert_eq!(status, 200, "{shown}");
    let id = shown["id"].as_str().unwrap();
    let (status, text) = broker.get(&format!("/api/admin/conversations/{id}/export")).await;
    assert_eq!(status, 200, "{text}");
    // A log of one line is read as JSON already.
    let text = text.as_str().map_or_else(|| text.to_string(), str::to_owned);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["seq"], index as i64 + 1, "a hole in {session}");
    }
    let ids: BTreeSet<&str> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), lines.len(), "an id twice in {session}");
    lines
}

/// Nothing is half done: the tables agree with one another and nothing waits for ever (STO-2, DLV-2).
pub(crate) fn database(database: &Database, questions: usize) {
    let mut db = database.connect();
    let counts = [
        ("open deliveries", "SELECT count(*) AS value FROM deliveries WHERE state < 2", 0),
        ("answered deliveries", "SELECT count(*) AS value FROM deliveries WHERE state = 2", questions),
        ("deliveries", "SELECT count(*) AS value FROM deliveries", questions),
        ("open turns", "SELECT count(*) AS value FROM turns WHERE state < 5", 0),
        (
            "turns without their answer",
            "SELECT count(*) AS value FROM turns WHERE answer_id IS NULL OR answer_id NOT IN (SELECT id FROM messages)",
            0,
        ),
        (
            "conversations whose ends are not those of their log",
            "SELECT count(*) AS value FROM conversations c WHERE last_seq <> \
             coalesce((SELECT max(seq) FROM messages m WHERE m.conversation_id = c.id), 0)",
            0,
        ),
    ];
    for (what, query, expected) in counts {
        assert_eq!(sql::number(&mut db, query), expected as i64, "{what}");
    }
    if database.kind() == Kind::Sqlite {
        assert_eq!(sql::texts(&mut db, "SELECT integrity_check AS value FROM pragma_integrity_check"), ["ok"]);
        assert_eq!(sql::number(&mut db, "SELECT count(*) AS value FROM pragma_foreign_key_check"), 0);
    }
}
