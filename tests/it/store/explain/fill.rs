//! Tables with so many rows that the planner chooses as it would in the field.
use clawbroker::store::Db;

use crate::harness::sql;

/// Messages of a database in the field: nearly all of them are done.
pub(super) const MANY: i64 = 100_000;
/// As many as a planner needs to choose as it would there.
pub(super) const ENOUGH: i64 = 20_000;
/// The key that the ninth message was sent with, and the digest of its body.
pub(super) const KEY: (&str, [u8; 32]) = ("key9", [7; 32]);

/// Fills the tables with so many rows that a scan would be the dearer plan, and with so many messages and deliveries.
pub(super) fn fill(db: &mut Db, messages: i64) {
    let sqlite = matches!(db, Db::Sqlite(_));
    if sqlite {
        // Each row has its places in indexes that are longer than what is kept of them otherwise.
        sql::run(db, "PRAGMA cache_size = -200000");
    } else {
        // Some of these take longer than a statement of the store may.
        sql::run(db, "SET statement_timeout = 0");
    }
    let digest = sql::bytes(db, &KEY.1);
    let numbers = |from: i64, to: i64| {
        if sqlite {
            format!(
                "(WITH RECURSIVE s(n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM s WHERE n < {to}) SELECT n FROM s) s"
            )
        } else {
            format!("(SELECT n FROM generate_series({from}::bigint, {to}::bigint) n) s")
        }
    };
    // An id of 16 bytes for each number of a kind.
    let id = |kind: u8, number: &str| {
        if sqlite {
            format!("CAST(printf('{kind:02}%014d', {number}) AS BLOB)")
        } else {
            format!("convert_to('{kind:02}' || lpad(({number})::text, 14, '0'), 'UTF8')")
        }
    };
    let (no, yes) = ("FALSE", "TRUE");
    let statements = [
        format!(
            "INSERT INTO parties (id, kind, reference, display_name, created_at) \
             SELECT {}, 1, 'p' || n, 'p', 0 FROM {}",
            id(1, "n"),
            numbers(1, 50_000),
        ),
        format!(
            "INSERT INTO conversations (id, kind, gateway_id, key, canonical_key, archived, first_seq, last_seq, created_at, \
             updated_at, contacted, mapped_seq, not_before_ms, searched_last) \
             SELECT {}, 1, 'gw' || (n % 50), 'k' || n, 'agent:main:k' || n, {no}, 1, 100, 0, n, {yes}, 0, 0, \
             CASE WHEN n = 8 THEN 99 ELSE 100 END FROM {}",
            id(2, "n"),
            numbers(1, 2_000),
        ),
        format!(
            "INSERT INTO messages (id, conversation_id, seq, role, text, sender_id, said_at, created_at, late, hops, idem_key) \
             SELECT {}, {}, n, 1, 'text', {}, 0, 0, {no}, 0, 'key' || n FROM {}",
            id(3, "n"),
            id(2, "1 + n % 2000"),
            id(1, "1 + n % 500"),
            numbers(1, messages),
        ),
        // One of those whose delivery has been removed.
        format!(
            "UPDATE messages SET kind = 1, idem_key = 'send/{}', idem_hash = {digest}, end_state = 2, ended_at = 9 \
             WHERE id = {}",
            KEY.0,
            id(3, "9"),
        ),
        // Nearly all deliveries have ended; the open ones are few, as in life.
        format!(
            "INSERT INTO deliveries (id, n, message_id, conversation_id, recipient_id, seq, state, attempt, attempts_max, \
             priority, available_at, due_at, started, events, created_at) \
             SELECT {}, n, {}, {}, {}, n, CASE WHEN n % 100 = 0 THEN 0 WHEN n % 100 = 1 THEN 3 ELSE 2 END, 0, 5, 0, n, \
             CASE WHEN n % 100 = 0 THEN n END, {no}, '[]', 0 FROM {}",
            id(4, "n"),
            id(3, "n"),
            id(2, "1 + n % 2000"),
            id(1, "1 + n % 500"),
            numbers(1, messages),
        ),
        format!(
            "INSERT INTO turns (id, conversation_id, delivery_id, upstream_run_id, state, text, started_at) \
             SELECT {}, {}, {}, 'run' || n, CASE WHEN n % 100 = 0 THEN 1 ELSE 5 END, '', n FROM {}",
            id(5, "n"),
            id(2, "1 + n % 2000"),
            id(4, "n"),
            numbers(1, 20_000),
        ),
        format!(
            "INSERT INTO steps (id, turn_id, n, kind, text, said_at, created_at) SELECT {}, {}, n, 1, '', n, n FROM {}",
            id(10, "n"),
            id(5, "n"),
            numbers(1, 20_000),
        ),
        format!(
            "INSERT INTO message_origins (gateway_id, upstream_session, row_id, message_id, created_at) \
             SELECT 'gw' || (n % 50), 's' || (n % 2000), 'row' || n, {}, 0 FROM {}",
            id(3, "n"),
            numbers(1, 20_000),
        ),
        format!(
            "INSERT INTO participants (conversation_id, party_id, read_seq, joined_at) SELECT {}, {}, 0, 0 FROM {}",
            id(2, "1 + n % 2000"),
            id(1, "n"),
            numbers(1, 20_000),
        ),
        format!(
            "INSERT INTO search_lines (n, conversation_id, seq) SELECT n, {}, n FROM {}",
            id(2, "1 + n % 2000"),
            numbers(1, 20_000),
        ),
        format!(
            "INSERT INTO search_words ({}, words) SELECT n, {} FROM {}",
            if sqlite { "rowid" } else { "n, conversation_id" },
            if sqlite {
                "'word' || n".to_owned()
            } else {
                format!(
                    "{}, array_to_tsvector((SELECT array_agg(DISTINCT 'w' || (n * 31 + k * k * 17) % 5000) FROM generate_series(1, 40) k))",
                    id(2, "n")
                )
            },
            numbers(1, 20_000),
        ),
        format!(
            "INSERT INTO audit (id, at, actor_name, action, target_kind, target) \
             SELECT {}, n, 'name' || (n % 20), 'action' || (n % 30), 'kind', 'thing' || (n % 5000) FROM {}",
            id(6, "n"),
            numbers(1, 20_000),
        ),
        format!(
            "INSERT INTO agents (id, party_id, slug, name, name_folded, kind, state, role_description, labels, created_at, \
             updated_at, idem_key) SELECT {}, {}, 'agent-' || n, 'Agent ' || n, 'agent ' || n, 1, 1, '', '{{}}', n, n, \
             'agents/' || n FROM {}",
            id(7, "n"),
            id(1, "n"),
            numbers(1, 20_000),
        ),
        format!(
            "INSERT INTO agent_keys (id, agent_id, label, prefix, digest, created_at, idem_key) \
             SELECT {}, {}, '', 'oc-', {}, n, 'keys/' || n FROM {}",
            id(8, "n"),
            id(7, "1 + n % 10000"),
            id(9, "n"),
            numbers(1, 20_000),
        ),
        format!(
            "INSERT INTO members (id, party_id, name, name_folded, addresses, created_at, updated_at, idem_key) \
             SELECT {}, {}, 'Member ' || n, 'member ' || n, '{{}}', n, n, 'members/' || n FROM {}",
            id(10, "n"),
            id(1, "n"),
            numbers(1, 20_000),
        ),
        format!(
            "INSERT INTO relationships (id, agent_id, member_id, relation, created_at, idem_key) \
             SELECT {}, {}, {}, 'boss', n, 'relationships/' || n FROM {}",
            id(11, "n"),
            id(7, "1 + n % 5000"),
            id(10, "n"),
            numbers(1, 20_000),
        ),
        format!(
            "INSERT INTO relationships (id, agent_id, target_id, relation, created_at) SELECT {}, {}, {}, 'peer', n FROM {}",
            id(12, "n"),
            id(7, "1 + n % 5000"),
            id(7, "n"),
            numbers(1, 20_000),
        ),
        format!(
            "INSERT INTO channels (id, party_id, kind, name, config, enabled, created_at, updated_at) \
             SELECT {}, {}, 2, 'c', '{{}}', {yes}, n, n FROM {}",
            id(13, "n"),
            id(1, "n"),
            numbers(1, 100),
        ),
        format!(
            "INSERT INTO channel_refs (channel_id, chat, external_id, message_id, direction, created_at) \
             SELECT {}, 'chat' || (n % 500), 'm' || n, {}, 1, n FROM {}",
            id(13, "1 + n % 100"),
            id(3, "n"),
            numbers(1, 20_000),
        ),
        format!(
            "INSERT INTO channel_senders (channel_id, sender_ref, first_seen_at, last_seen_at) \
             SELECT {}, 's' || n, 0, 0 FROM {}",
            id(13, "1 + n % 100"),
            numbers(1, 20_000),
        ),
        // Some of what waits is for people.
        format!("UPDATE deliveries SET channel_id = {} WHERE n % 700 = 0", id(13, "7")),
        "ANALYZE".to_owned(),
    ];
    for statement in statements {
        sql::run(db, &statement);
    }
}
