//! A database that has seen much: what a start does must not grow with it.
use crate::harness::test_store::START_MS;
use crate::harness::{Database, Kind, sql};

/// Name of the session with the many lines.
const SESSION: &str = "long";

/// Fills a migrated database, before its first start, with a session of so many lines on the gateway `gw`.
pub(super) fn fill(database: &Database, messages: u64) {
    if messages == 0 {
        return;
    }
    let kind = database.kind();
    let numbers = match kind {
        Kind::Sqlite => format!(
            "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {messages}) SELECT n FROM s) s"
        ),
        Kind::Postgres => format!("(SELECT n FROM generate_series(1::bigint, {messages}::bigint) n) s"),
    };
    let (party, conversation) = (id(kind, "0"), id(kind, "0"));
    let mut db = database.connect();
    if kind == Kind::Postgres {
        // One statement writes it all, with the words of each line: longer than a statement of the store may take.
        sql::run(&mut db, "SET statement_timeout = 0");
    }
    for statement in [
        format!(
            "INSERT INTO parties (id, kind, reference, display_name, created_at) \
             VALUES ({party}, 3, '{SESSION}', '{SESSION}', {START_MS})"
        ),
        format!(
            "INSERT INTO conversations (id, kind, gateway_id, key, archived, first_seq, last_seq, created_at, updated_at, \
             contacted, mapped_seq, not_before_ms) VALUES \
             ({conversation}, 1, 'gw', '{SESSION}', FALSE, 1, {messages}, {START_MS}, {START_MS}, FALSE, 0, {START_MS})"
        ),
        format!(
            "INSERT INTO messages (id, conversation_id, seq, role, text, sender_id, said_at, created_at, late, hops) \
             SELECT {}, {conversation}, n, 1, 'line ' || n || ' of a long talk about this and that', {party}, {START_MS}, \
             {START_MS}, FALSE, 0 FROM {numbers}",
            id(kind, "n"),
        ),
    ] {
        sql::run(&mut db, &statement);
    }
}

/// Writes an id of 16 bytes for a number.
fn id(kind: Kind, number: &str) -> String {
    match kind {
        Kind::Sqlite => format!("CAST(printf('filled%010d', {number}) AS BLOB)"),
        Kind::Postgres => format!("convert_to('filled' || lpad(({number})::text, 10, '0'), 'UTF8')"),
    }
}

/// Checks that all of it is still there.
pub(super) fn check(database: &Database, messages: u64) {
    let lines = format!(
        "SELECT count(*) AS value FROM messages m JOIN conversations c ON c.id = m.conversation_id WHERE c.key = '{SESSION}'"
    );
    assert_eq!(sql::number(&mut database.connect(), &lines), messages as i64, "the lines of long ago");
}
