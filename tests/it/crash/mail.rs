//! What must hold of the agents' mail after the crashes, whatever was lost on the way to them.
use std::collections::{BTreeMap, BTreeSet};

use clawbroker::store::Db;

use super::agents::MailJournal;
use super::check::{hex, plain, sorted};
use crate::harness::{Database, sql};

/// Every accepted message is there once, has ended or waits for something, and what was reported has its one reply.
pub(crate) fn mail(database: &Database, told: &MailJournal) {
    let mut db = database.connect();
    nothing_contradicts_itself(&mut db);
    let id = hex(&db);
    let requests = sorted(sql::texts(
        &mut db,
        &format!("SELECT {} || ' ' || m.text AS value FROM messages m WHERE m.kind = 1", id("m.id")),
    ));
    let sent = told.sent.iter().map(|sent| format!("{} {}", plain(&sent.message_id), sent.text));
    assert_eq!(requests, sorted(sent.collect()), "each accepted message is there once, and nothing else");

    let completed: BTreeSet<String> = sql::texts(
        &mut db,
        &format!(
            "SELECT {} AS value FROM deliveries d JOIN messages m ON m.id = d.message_id \
             WHERE m.kind = 1 AND d.state = 2 AND d.outcome = 4",
            id("m.id")
        ),
    )
    .into_iter()
    .collect();
    let replies = sql::texts(
        &mut db,
        &format!(
            "SELECT {} || ' ' || {} || ' ' || r.text AS value FROM messages r WHERE r.kind = 2",
            id("r.id"),
            id("r.in_reply_to")
        ),
    );
    let split = |reply: &String| {
        let mut parts = reply.splitn(3, ' ').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_else(|| panic!("three words: {reply}"));
        (next(), (next(), next()))
    };
    let replies: BTreeMap<String, (String, String)> = replies.iter().map(split).collect();
    let mut answers: BTreeMap<&str, &str> = BTreeMap::new();
    for (request, text) in replies.values() {
        assert_eq!(answers.insert(request, text), None, "two replies to {request}");
        assert!(completed.contains(request), "a reply to {request}, on which nobody has reported");
    }
    assert_eq!(answers.len(), completed.len(), "each completed request has a reply");
    for reported in &told.reported {
        let answer = answers.get(plain(&reported.message_id).as_str()).copied();
        assert_eq!(answer, Some(reported.result.as_str()), "{reported:?}");
    }
    for seen in &told.seen {
        let known = replies.get(&plain(&seen.message_id));
        assert_eq!(known, Some(&(plain(&seen.in_reply_to), seen.content.clone())), "{seen:?}");
    }
    // Whoever says what he has misses nothing: a reply that he has not seen waits for him.
    let open: BTreeSet<String> =
        sql::texts(&mut db, &format!("SELECT {} AS value FROM deliveries d WHERE d.state < 2", id("d.message_id")))
            .into_iter()
            .collect();
    let seen: BTreeSet<String> = told.seen.iter().map(|seen| plain(&seen.message_id)).collect();
    let of_acknowledging: BTreeSet<String> =
        told.sent.iter().filter(|sent| sent.is_acknowledged).map(|sent| plain(&sent.message_id)).collect();
    for (reply, (request, _)) in &replies {
        let is_safe = !of_acknowledging.contains(request) || seen.contains(reply) || open.contains(reply);
        assert!(is_safe, "the reply {reply} to {request} was lost");
    }
    let dead = "SELECT count(*) AS value FROM deliveries d JOIN messages m ON m.id = d.message_id \
                WHERE m.kind = 1 AND d.state = 3";
    println!("{told}; {} completed, {} dead", completed.len(), sql::number(&mut db, dead));
}

/// The rows agree with one another (STO-2, DLV-1, DLV-2, DLV-3, RTE-1).
fn nothing_contradicts_itself(db: &mut Db) {
    let of_agents = "FROM deliveries d JOIN parties p ON p.id = d.recipient_id WHERE p.kind = 2 AND";
    let nothing = [
        (
            "messages of agents without their one delivery",
            "FROM messages m WHERE m.kind IN (1, 2, 3) \
             AND (SELECT count(*) FROM deliveries d WHERE d.message_id = m.id) <> 1"
                .to_owned(),
        ),
        ("more hand-outs than there may be", format!("{of_agents} d.attempt > d.attempts_max")),
        (
            "leases that nothing ends",
            format!(
                "{of_agents} d.state = 1 AND (d.lease_until IS NULL OR d.due_at IS NULL OR d.due_at <> d.lease_until)"
            ),
        ),
        (
            "ttls that nobody looks at",
            format!("{of_agents} d.state = 0 AND d.expires_at IS NOT NULL AND d.due_at IS NULL"),
        ),
        (
            "waits that nobody looks at",
            format!("{of_agents} d.state = 0 AND d.available_at > d.created_at AND d.due_at IS NULL"),
        ),
        ("ends without a time", format!("{of_agents} d.state >= 2 AND d.ended_at IS NULL")),
        ("dead ones without a reason", format!("{of_agents} d.state = 3 AND d.reason IS NULL")),
        (
            "replies that nobody was handed and that wait for nobody",
            "FROM messages r WHERE r.kind = 2 AND NOT EXISTS \
             (SELECT 1 FROM deliveries d WHERE d.message_id = r.id AND (d.state < 2 OR d.attempt > 0))"
                .to_owned(),
        ),
        (
            "dead requests whose asker is not told",
            "FROM deliveries d JOIN messages m ON m.id = d.message_id WHERE d.state = 3 AND m.kind = 1 \
             AND m.sender_id IN (SELECT a.party_id FROM agents a WHERE a.deleted_at IS NULL) \
             AND m.id NOT IN (SELECT n.in_reply_to FROM messages n WHERE n.kind = 3 AND n.in_reply_to IS NOT NULL)"
                .to_owned(),
        ),
        (
            "notices of what is no request",
            "FROM messages n JOIN messages m ON m.id = n.in_reply_to WHERE n.kind = 3 AND m.kind <> 1".to_owned(),
        ),
        (
            "second notices of one end",
            "FROM messages n JOIN messages m ON m.in_reply_to = n.in_reply_to AND m.id <> n.id \
             WHERE n.kind = 3 AND m.kind = 3"
                .to_owned(),
        ),
        (
            "holes in the talk of agents",
            "FROM conversations c WHERE c.kind = 2 AND \
             (c.first_seq <> 1 OR c.last_seq <> (SELECT count(*) FROM messages m WHERE m.conversation_id = c.id))"
                .to_owned(),
        ),
    ];
    for (what, rows) in nothing {
        assert_eq!(sql::number(db, &format!("SELECT count(*) AS value {rows}")), 0, "{what}");
    }
}
