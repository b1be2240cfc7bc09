//! What must hold after the crashes.
use std::collections::{BTreeMap, BTreeSet};

use clawbroker::store::Db;
use serde_json::Value;

use super::load::{Added, Journal, Written};
use crate::harness::{Broker, Database, Kind, sql};

/// Each log is dense, holds what was acknowledged exactly once where it was said to be, and an answer to each question.
pub(crate) async fn logs(broker: &Broker, journals: &[Journal], written: &[Written]) {
    for journal in journals {
        let lines = log(broker, "gw", &journal.session).await;
        let at = |seq: i64| &lines[usize::try_from(seq - 1).unwrap()];
        for (seq, id) in &journal.lines {
            assert_eq!(at(*seq)["id"], id.as_str(), "the line that was shown at {seq}");
        }
        let (questions, answers) = (texts(&lines, "user"), texts(&lines, "assistant"));
        for asked in &journal.asked {
            assert_eq!(at(asked.seq)["id"], asked.message_id.as_str());
            assert_eq!(questions.get(asked.text.as_str()), Some(&1), "{asked:?}");
            let (_, answer) = asked.text.split_once(": ").unwrap();
            assert_eq!(answers.get(answer), Some(&1), "the answer to {asked:?}");
        }
        assert_eq!(lines.len(), 2 * journal.asked.len(), "nothing else is in {}", journal.session);
    }
    let notes = log(broker, "gw", "notes").await;
    let ids: BTreeMap<&str, &Value> = notes.iter().map(|line| (line["id"].as_str().unwrap(), line)).collect();
    for note in written {
        let line = ids.get(note.message_id.as_str()).unwrap_or_else(|| panic!("{note:?} is not there"));
        assert_eq!(line["content"][0]["text"], note.text.as_str(), "{note:?}");
    }
    let said = texts(&notes, "user");
    for note in written {
        assert_eq!(said.get(note.text.as_str()), Some(&1), "{note:?}");
    }
    assert_eq!(notes.len(), written.len());
}

/// Counts how often each text is said in a role.
fn texts<'a>(lines: &'a [Value], role: &str) -> BTreeMap<&'a str, usize> {
    let mut counts: BTreeMap<&'a str, usize> = BTreeMap::new();
    for line in lines.iter().filter(|line| line["role"] == role) {
        let text = line["content"][0]["text"].as_str().unwrap_or_else(|| panic!("a text: {line}"));
        *counts.entry(text).or_default() += 1;
    }
    counts
}

/// Reads a whole log and checks that it is dense.
pub(crate) async fn log(broker: &Broker, gateway: &str, session: &str) -> Vec<Value> {
    let (status, shown) = broker.get(&format!("/api/gateways/{gateway}/sessions/{session}")).await;
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

/// Each user that was acknowledged is there exactly once, and nobody else but the admin.
pub(crate) async fn users(broker: &Broker, added: &[Added]) {
    let mut shown: Vec<(String, String)> = Vec::new();
    let mut path = "/api/admin/users".to_owned();
    loop {
        let (status, page) = broker.get(&path).await;
        assert_eq!(status, 200, "{page}");
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("a text: {page}")).to_owned();
        let items = page["items"].as_array().unwrap_or_else(|| panic!("a list: {page}"));
        shown.extend(items.iter().map(|user| (text(&user["name"]), text(&user["id"]))));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/admin/users?cursor={next}");
    }
    shown.retain(|(name, _)| name != "admin");
    shown.sort();
    let mut expected: Vec<(String, String)> = added.iter().map(|user| (user.name.clone(), user.id.clone())).collect();
    expected.sort();
    assert_eq!(shown, expected);
}

/// Nothing is half done: the tables agree with one another and no question waits for ever (STO-2, DLV-2).
pub(crate) fn database(database: &Database, questions: usize) {
    let mut db = database.connect();
    for (what, of_state, expected) in
        [("open", "d.state < 2", 0), ("answered", "d.state = 2", questions), ("all", "d.state >= 0", questions)]
    {
        // Agents have some as well.
        let of_gateways = format!(
            "SELECT count(*) AS value FROM deliveries d JOIN parties p ON p.id = d.recipient_id \
             WHERE p.kind = 1 AND {of_state}"
        );
        assert_eq!(sql::number(&mut db, &of_gateways), expected as i64, "{what} deliveries to gateways");
    }
    let counts = [
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
        (
            "turns without their conversation",
            "SELECT count(*) AS value FROM turns WHERE conversation_id NOT IN (SELECT id FROM conversations)",
            0,
        ),
        (
            // A run that somebody else began has none.
            "turns without their delivery",
            "SELECT count(*) AS value FROM turns \
             WHERE delivery_id IS NOT NULL AND delivery_id NOT IN (SELECT id FROM deliveries)",
            0,
        ),
        (
            // A row that is neither line nor step, as a reset is, names none.
            "origins without their line or step",
            "SELECT count(*) AS value FROM message_origins \
             WHERE (message_id IS NOT NULL AND message_id NOT IN (SELECT id FROM messages)) \
             OR (step_id IS NOT NULL AND step_id NOT IN (SELECT id FROM steps))",
            0,
        ),
        (
            "participants who have read more than was said",
            "SELECT count(*) AS value FROM participants p JOIN conversations c ON c.id = p.conversation_id \
             WHERE p.read_seq > c.last_seq",
            0,
        ),
    ];
    for (what, query, expected) in counts {
        assert_eq!(sql::number(&mut db, query), expected as i64, "{what}");
    }
    audit(&mut db);
    if database.kind() == Kind::Sqlite {
        assert_eq!(sql::texts(&mut db, "SELECT integrity_check AS value FROM pragma_integrity_check"), ["ok"]);
        assert_eq!(sql::number(&mut db, "SELECT count(*) AS value FROM pragma_foreign_key_check"), 0);
    }
}

/// A note and a user are written in one transaction with their row in the audit log, so each has exactly one. A note whose
/// key is repeated has one more, which says so.
fn audit(db: &mut Db) {
    let hex = hex(db);
    let notes = sorted(sql::texts(
        db,
        &format!(
            "SELECT {} AS value FROM messages m JOIN conversations c ON c.id = m.conversation_id WHERE c.key = 'notes'",
            hex("m.id")
        ),
    ));
    let rows = sql::texts(db, "SELECT \"after\" AS value FROM audit WHERE action = 'message.add'");
    let rows: Vec<Value> = rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect();
    let ids = |is_repeated: bool| {
        let rows = rows.iter().filter(|row| row["repeated"] == is_repeated);
        sorted(rows.map(|row| plain(row["message_id"].as_str().unwrap())).collect())
    };
    let (first, repeated) = (ids(false), ids(true));
    assert_eq!(first.len() + repeated.len(), rows.len(), "a row says whether it is a repetition");
    assert_eq!(first, notes, "each note has its row in the audit log");
    let known: BTreeSet<&String> = notes.iter().collect();
    assert_eq!(repeated.iter().find(|id| !known.contains(id)), None, "a repetition of nothing");

    let users = format!("SELECT {} AS value FROM users WHERE name <> 'admin'", hex("id"));
    let users = sorted(sql::texts(db, &users));
    let added = "SELECT target AS value FROM audit WHERE action = 'user.add' AND actor_name <> 'system'";
    let added = sorted(sql::texts(db, added).iter().map(|id| plain(id)).collect());
    assert_eq!(added, users, "each user has its row in the audit log");
}

/// Returns how a column with an id is shown as hex.
pub(super) fn hex(db: &Db) -> fn(&str) -> String {
    match db {
        Db::Sqlite(_) => |column: &str| format!("lower(hex({column}))"),
        Db::Postgres(_) => |column: &str| format!("encode({column}, 'hex')"),
    }
}

/// Writes an id as the database shows its bytes.
pub(super) fn plain(id: &str) -> String {
    id.replace('-', "")
}

pub(super) fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}
