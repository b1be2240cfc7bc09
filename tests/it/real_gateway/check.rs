//! The checker: the gateway's history against our lines and steps.
use clawbroker::domain::ids::ConversationId;
use clawbroker::gateway::history::{HistoryRow, RowRole, same_text};
use serde_json::Value;

use crate::harness::{Broker, Browser, Database, Peer, is_terminal, sql};

/// Checks a session: rows and origins, texts, order, and what the browsers saw of its `questions`.
pub(crate) async fn check(
    database: &Database,
    broker: &Broker,
    peer: &Peer,
    gateway: &str,
    session: &str,
    browsers: &[&Browser],
) {
    // The last passes over the log may still be on their way.
    let began = tokio::time::Instant::now();
    loop {
        let rows = peer.history(session).await;
        match compare(database, broker, &rows, gateway, session).await {
            Ok(()) => break,
            Err(fault) if began.elapsed() > std::time::Duration::from_secs(20) => {
                panic!("{session}: {fault}\n{}", broker.log());
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(300)).await,
        }
    }
    for browser in browsers {
        exactly_one_end(browser, session);
    }
}

/// Tells whether each row of a gateway's log is one line or one step of ours, in the same order and with the same text.
pub(crate) async fn compare(
    database: &Database,
    broker: &Broker,
    rows: &[Value],
    gateway: &str,
    session: &str,
) -> Result<(), String> {
    let rows: Vec<HistoryRow> = rows.iter().map(HistoryRow::from_value).collect();
    let (_, ours) = broker.get(&format!("/api/gateways/{gateway}/sessions/{session}")).await;
    let id: ConversationId =
        ours["id"].as_str().unwrap_or_default().parse().map_err(|_| format!("no session: {ours}"))?;
    let mut db = database.connect();
    let mut last_seq = i64::MIN;
    for row in &rows {
        let lines = sql::texts(
            &mut db,
            &format!(
                "SELECT CAST(m.seq AS TEXT) || '|' || CASE WHEN m.late THEN 'late' ELSE 'in time' END || '|' || m.text AS value FROM message_origins o \
                 JOIN messages m ON m.id = o.message_id WHERE o.row_id = '{}'",
                row.id
            ),
        );
        let steps = sql::number(
            &mut db,
            &format!(
                "SELECT count(*) AS value FROM message_origins WHERE step_id IS NOT NULL AND row_id = '{}'",
                row.id
            ),
        );
        match (lines.as_slice(), steps) {
            ([line], 0) => {
                let mut parts = line.splitn(3, '|');
                let seq: i64 = parts.next().and_then(|seq| seq.parse().ok()).ok_or("a line without a number")?;
                let late = parts.next() == Some("late");
                let text = parts.next().unwrap_or_default();
                // What was found later stands later, and says so.
                if !late {
                    if seq <= last_seq {
                        return Err(format!("row {} stands at {seq}, after {last_seq}", row.id));
                    }
                    last_seq = seq;
                }
                let exact = matches!(row.role, RowRole::User | RowRole::Assistant) && !row.is_failure();
                if exact && !same_text(text, &row.text) {
                    return Err(format!("row {} says {:?}, we have {text:?}", row.id, row.text));
                }
            }
            ([], 1) => {}
            (lines, steps) => {
                return Err(format!(
                    "row {} ({:?} {:?}) has {} lines and {steps} steps",
                    row.id,
                    row.role,
                    row.text,
                    lines.len()
                ));
            }
        }
    }
    let seqs = sql::number(
        &mut db,
        &format!(
            "SELECT last_seq - first_seq + 1 - (SELECT count(*) FROM messages WHERE conversation_id = c.id) AS value FROM conversations c WHERE c.key = '{session}' AND c.deleted_at IS NULL"
        ),
    );
    if seqs != 0 {
        return Err(format!("seq of {id} is not dense: {seqs}"));
    }
    Ok(())
}

/// Per question: one terminal frame, or the answer as `message`; never two, never none.
pub(crate) fn exactly_one_end(browser: &Browser, session: &str) {
    let of_session = |frame: &&Value| frame["sessionKey"] == session;
    let mut ends: Vec<String> = browser
        .seen
        .iter()
        .filter(of_session)
        .filter(|frame| is_terminal(frame))
        .map(|frame| frame["runId"].to_string())
        .collect();
    let count = ends.len();
    ends.sort_unstable();
    ends.dedup();
    assert_eq!(ends.len(), count, "a run ended twice: {}", browser.transcript());
    let shown: Vec<String> = browser
        .seen
        .iter()
        .filter(of_session)
        .filter_map(|frame| {
            let id = if is_terminal(frame) { &frame["messageId"] } else { &frame["message"]["id"] };
            id.as_str().map(str::to_owned)
        })
        .collect();
    let mut distinct = shown.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), shown.len(), "a line was shown twice: {}", browser.transcript());
}
