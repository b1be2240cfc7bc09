//! Sessions and their rows: the history a gateway keeps. Pure.
//!
//! Invariants
//! - SGW-1: the `seq` of a session's rows counts from 1 without a gap, also over rows that were dropped; a reset starts anew.
//! - SGW-2: a session keeps at most [`ROWS_MAX`] rows, the newest ones.
use std::collections::VecDeque;

use serde_json::{Value, json};
use uuid::Uuid;

use super::frames::{Refusal, merge, set};

pub(super) const ROWS_MAX: usize = 10_000;
const KEY_CHARS_MAX: usize = 512;
/// The only agent of this gateway.
pub(super) const AGENT: &str = "main";
pub(super) const PROVIDER: &str = "sample";
pub(super) const MODEL: &str = "echo";

/// Makes an id that no other sample gateway has made.
pub(super) fn fresh_id() -> String {
    Uuid::now_v7().to_string()
}

/// Builds the form of a session key that events carry: `foo` is `agent:main:foo`.
pub(super) fn canonical(key: &str) -> Result<String, Refusal> {
    let key = key.trim().to_lowercase();
    let chars = key.chars().count();
    if chars == 0 || chars > KEY_CHARS_MAX {
        return Err(Refusal::invalid(format!("the session key must have 1 to {KEY_CHARS_MAX} characters")));
    }
    match key.strip_prefix("agent:").map(|rest| rest.split_once(':').unwrap_or((rest, ""))) {
        None => Ok(format!("agent:{AGENT}:{key}")),
        Some((AGENT, name)) if !name.is_empty() => Ok(key),
        Some((agent, _)) => Err(Refusal::invalid(format!("Agent \"{agent}\" no longer exists in configuration"))),
    }
}

pub(super) struct Session {
    pub(super) id: String,
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
    /// Changes with each reset.
    pub(super) revision: String,
    rows: VecDeque<Value>,
    rows_written: u64,
}

impl Session {
    pub(super) fn new(now: i64) -> Self {
        Self {
            id: fresh_id(),
            created_at: now,
            updated_at: now,
            revision: fresh_id(),
            rows: VecDeque::new(),
            rows_written: 0,
        }
    }

    pub(super) fn rows(&self) -> impl ExactSizeIterator<Item = &Value> {
        self.rows.iter()
    }

    /// Adds a row; `more` goes into its `__openclaw` part. Returns the row's id.
    pub(super) fn push(&mut self, mut row: Value, more: Value, now: i64) -> String {
        self.rows_written += 1;
        self.updated_at = now;
        let id = fresh_id();
        let mut facts = json!({ "id": id, "seq": self.rows_written, "recordTimestampMs": now });
        merge(&mut facts, more);
        if let Some(key) = row.get("idempotencyKey") {
            set(&mut facts, "idempotencyKey", key.clone());
        }
        set(&mut row, "__openclaw", facts);
        self.rows.push_back(row);
        if self.rows.len() > ROWS_MAX {
            self.rows.pop_front();
        }
        debug_assert!(self.rows.len() <= ROWS_MAX, "SGW-2");
        id
    }

    /// Forgets the rows, keeps key and id, as `sessions.reset` does; a row tells of it.
    pub(super) fn reset(&mut self, now: i64) {
        self.rows.clear();
        self.rows_written = 0;
        self.revision = fresh_id();
        let content = json!([{ "type": "text", "text": "Reset" }]);
        let row = json!({ "role": "system", "content": content, "timestamp": now });
        self.push(row, json!({ "kind": "reset" }), now);
    }

    /// Tells whether a message with this idempotency key is in the history.
    pub(super) fn has_message(&self, key: &str) -> bool {
        self.message(key).is_some()
    }

    /// Tells whether the run that this key started, or was steered into, has left an answer in the history.
    pub(super) fn has_answer_to(&self, key: &str) -> bool {
        let steered_into = self.message(key).and_then(|row| text_at(row, "/__openclaw/steerTargetRunId"));
        let run_id = steered_into.unwrap_or(key);
        self.rows.iter().any(|row| text_at(row, "/__openclaw/runId") == Some(run_id))
    }

    fn message(&self, key: &str) -> Option<&Value> {
        let key = format!("{key}:user");
        self.rows.iter().find(|row| text_at(row, "/idempotencyKey") == Some(key.as_str()))
    }

    /// Describes the session as `sessions.list` and `sessionInfo` do.
    pub(super) fn describe(&self, key: &str, run_ids: &[&str]) -> Value {
        json!({
            "key": key, "sessionId": self.id, "kind": "direct", "chatType": "direct",
            "agentId": AGENT, "isMain": key == "agent:main:main", "createdVia": "operator", "archived": false,
            "createdAt": self.created_at, "updatedAt": self.updated_at, "modelProvider": PROVIDER, "model": MODEL,
            "status": if run_ids.is_empty() { "done" } else { "running" }, "totalTokens": 0,
            "hasActiveRun": !run_ids.is_empty(), "activeRunIds": run_ids, "effectiveQueueMode": "steer",
        })
    }

    /// Returns the last `limit` rows before the last `offset` ones, and the offset of those before them if there are any.
    pub(super) fn page(&self, limit: usize, offset: usize) -> (Vec<Value>, Option<usize>) {
        let end = self.rows.len().saturating_sub(offset);
        let start = end.saturating_sub(limit);
        let rows = self.rows.iter().skip(start).take(end - start).cloned().collect();
        (rows, (start > 0).then(|| self.rows.len() - start))
    }

    /// Returns the text of the newest row that has one.
    pub(super) fn last_text(&self) -> Option<&str> {
        self.rows.iter().rev().find_map(|row| {
            let content = row.get("content")?;
            content.as_str().or_else(|| content.pointer("/0/text")?.as_str())
        })
    }
}

fn text_at<'a>(row: &'a Value, pointer: &str) -> Option<&'a str> {
    row.pointer(pointer).and_then(Value::as_str)
}

/// Builds a user's row.
pub(super) fn user_row(text: &str, idempotency_key: &str, timestamp: i64) -> Value {
    let key = format!("{idempotency_key}:user");
    json!({ "role": "user", "content": text, "timestamp": timestamp, "idempotencyKey": key })
}

/// Builds an assistant's row with these content blocks.
pub(super) fn model_row(content: Value, stop_reason: &str, timestamp: i64) -> Value {
    json!({
        "role": "assistant", "content": content, "api": "sample-completions", "provider": PROVIDER, "model": MODEL,
        "usage": no_usage(), "stopReason": stop_reason, "timestamp": timestamp,
    })
}

/// Builds the row of a text that no model wrote.
pub(super) fn injected_row(text: &str, timestamp: i64) -> Value {
    json!({
        "role": "assistant", "content": [{ "type": "text", "text": text }], "api": "openai-responses",
        "provider": "openclaw", "model": "gateway-injected", "usage": no_usage(), "stopReason": "stop",
        "timestamp": timestamp,
    })
}

fn no_usage() -> Value {
    let cost = json!({ "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0, "total": 0 });
    json!({ "input": 0, "output": 0, "totalTokens": 0, "cacheRead": 0, "cacheWrite": 0, "cost": cost })
}

/// Rewrites a row as a gateway of protocol 3 tells it: no keys to match rows by.
pub(super) fn row_of_protocol_3(mut row: Value) -> Value {
    if let Some(text) = row.get("content").and_then(Value::as_str).map(str::to_owned) {
        set(&mut row, "content", json!([{ "type": "text", "text": text }]));
    }
    let facts = json!({ "id": row.pointer("/__openclaw/id"), "seq": row.pointer("/__openclaw/seq") });
    set(&mut row, "__openclaw", facts);
    if let Some(row) = row.as_object_mut() {
        row.remove("idempotencyKey");
    }
    row
}

/// Cuts the texts of a row for the history.
pub(super) fn cut_texts(row: &mut Value, chars_max: usize) {
    let cut = |text: &mut Value| {
        if let Some((end, _)) = text.as_str().and_then(|text| text.char_indices().nth(chars_max)) {
            let kept = text.as_str().and_then(|text| text.get(..end)).unwrap_or_default();
            *text = json!(format!("{kept}\n...(truncated)..."));
        }
    };
    match row.get_mut("content") {
        Some(Value::Array(blocks)) => blocks.iter_mut().filter_map(|block| block.get_mut("text")).for_each(cut),
        Some(content) => cut(content),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_canonical() {
        assert_eq!(canonical("Foo"), Ok("agent:main:foo".to_owned()));
        assert_eq!(canonical("agent:main:a:b"), Ok("agent:main:a:b".to_owned()));
        assert!(canonical("agent:nope:main").expect_err("unknown agent").message.contains("Agent \"nope\""));
        assert!(canonical("agent:main:").is_err());
        assert!(canonical(&"x".repeat(513)).is_err());
    }

    #[test]
    fn pages_go_from_the_newest_rows_to_the_oldest() {
        let mut session = Session::new(0);
        for number in 1..=5 {
            session.push(user_row("x", &number.to_string(), number), json!({}), number);
        }
        let seqs = |rows: &[Value]| rows.iter().map(|row| row["__openclaw"]["seq"].clone()).collect::<Vec<_>>();
        let (rows, next) = session.page(2, 0);
        assert_eq!((seqs(&rows), next), (vec![json!(4), json!(5)], Some(2)));
        let (rows, next) = session.page(2, 4);
        assert_eq!((seqs(&rows), next), (vec![json!(1)], None));
        assert_eq!(session.page(2, 9), (vec![], None));
        session.reset(9);
        let rows: Vec<_> = session.rows().map(|row| row["__openclaw"]["kind"].clone()).collect();
        assert_eq!(rows, [json!("reset")]);
    }

    #[test]
    fn old_rows_make_room_for_new_ones() {
        let mut session = Session::new(0);
        for number in 0..=ROWS_MAX {
            session.push(json!({}), json!({ "runId": number.to_string() }), 0);
        }
        assert_eq!(session.rows().len(), ROWS_MAX);
        assert!(!session.has_answer_to("0") && session.has_answer_to("1"));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let mut row = user_row("éééé", "k", 0);
        cut_texts(&mut row, 4);
        assert_eq!(row["content"], "éééé");
        cut_texts(&mut row, 3);
        assert_eq!(row["content"], "ééé\n...(truncated)...");
    }
}
