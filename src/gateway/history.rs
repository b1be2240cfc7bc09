//! History: the answer to `chat.history`, which is what the gateway remembers of a session.
//!
//! Reconciliation after a gap rests on this, so the differences between releases stand here in one place:
//!
//! - **User rows** have plain text content and `idempotencyKey: "<key>:user"` on protocol 4; on protocol 3 they have
//!   text blocks and no key.
//! - **Assistant rows** have blocks; on protocol 4 `__openclaw.runId` as well, on protocol 3 not. Their `timestamp`
//!   is when the model began, not when the row was written, so the order is `seq`, never time.
//! - **One run may have several answer rows**: a second `chat.send` while it runs (2026.9.6) leaves two rows with the
//!   first run's id, each ending with `stop`. The steered user row (`steerTargetRunId`) has no answer of its own; until
//!   it is taken up it stands in `pendingInputs` only, and `inFlightRun` names *it*, with an empty text, not the run
//!   that is being answered.
//! - **A question right after a `final`** on protocol 3 is put off: its own key gets a bare `final`, and the answer
//!   comes seconds later from a run with an id of the gateway's (`protocol-3-send-right-after-final`).
//! - **After a reset** (2026.9.6) the `sessionId` stays, the rows before it are gone from history, and `seq` begins
//!   again at 1 with a marker row. A compaction is a marker row only; what was before it stays.
//! - **An aborted run** leaves its partial text in a row that looks injected (`provider: openclaw`, `model:
//!   gateway-injected`, `stopReason: stop`) but carries `openclawAbort {runId}`; without any text it leaves no row at
//!   all, only the user's.
//! - **A failed run** leaves a row with `stopReason: "error"` whose text is a sentence for people and the partial text.
//! - **A run that died with the gateway** leaves the user's row only. The gateway resumes it under a new id: at first
//!   only `sessionInfo.activeRunIds` shows it, later a user row whose key is `<new run id>:user` and whose provenance
//!   says so.
//! - **A page** of protocol 3 has neither `sessionInfo`, `hasMore` and `totalMessages` nor anything about active runs.
//! - **Inline images** come without their data; texts longer than `maxChars` are cut (from 2026.9 marked as such).
//! - A session that never was is an empty page without `sessionId`, not an error.
use std::collections::HashSet;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::frames::{is_name, number_ms};
use crate::domain::message::Block;

mod row;
mod text;

pub use row::InlineImage;
pub use text::same_text;

/// One page of a session's log, oldest row first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistoryPage {
    /// The transcript's id; `None` while the session has no transcript. A reset keeps it on 2026.9.6, where a
    /// marker row tells of it.
    pub session_id: Option<String>,
    /// The session's canonical key (protocol 4: `sessionInfo.key`). The page's own `sessionKey` only repeats what was
    /// asked.
    pub canonical_key: Option<String>,
    pub rows: Vec<HistoryRow>,
    /// Older rows exist. Never set on protocol 3, which gives the last rows and no way to the ones before.
    pub has_more: bool,
    /// The `offset` of the page before this one.
    pub next_offset: Option<u64>,
    /// Rows of the whole log.
    pub total: Option<u64>,
    /// The run that was started last and is not over, with its text so far; the steered one when a question was steered
    /// into a run. Absent while a run only begins: `active_run_ids` may know it already.
    pub in_flight: Option<InFlightRun>,
    /// Some run of this session is active, known by id or not. `None`: the gateway does not tell (protocol 3).
    pub has_active_run: Option<bool>,
    /// All active runs when present, so an empty list proves that the session is idle; `None`: not known.
    pub active_run_ids: Option<Vec<String>>,
    /// Messages that the gateway took and has not written into the log (2026.9): a key in here was not lost.
    pub pending_inputs: Vec<PendingInput>,
}

impl HistoryPage {
    /// Joins the page of older rows that was read after this one, which therefore tells what is active. Rows that both
    /// have, because the log grew in between, count once. `Err` gives this page back where that one does not go on from it:
    /// the session was reset in between, or the gateway gives the same rows again.
    pub fn with_older(mut self: Box<Self>, older: Self) -> Result<Self, Box<Self>> {
        let known: HashSet<&str> = self.rows.iter().map(|row| row.id.as_str()).collect();
        let mut rows: Vec<HistoryRow> = older.rows.into_iter().filter(|row| !known.contains(row.id.as_str())).collect();
        let is_same_session = older.session_id == self.session_id;
        let is_shorter = older.total.zip(self.total).is_some_and(|(older, newer)| older < newer);
        let is_back = older.next_offset.is_some_and(|offset| Some(offset) <= self.next_offset);
        if rows.is_empty() || !is_same_session || is_shorter || is_back {
            return Err(self);
        }
        rows.append(&mut self.rows);
        Ok(Self { rows, ..older })
    }

    /// Bytes of what the rows say and show, which bound what is kept of a log.
    pub fn bytes(&self) -> usize {
        let of_row = |row: &HistoryRow| {
            let images: usize = row.images.iter().map(|image| image.bytes.len()).sum();
            row.text.len() + row.blocks.iter().map(Block::bytes).sum::<usize>() + images
        };
        self.rows.iter().map(of_row).sum()
    }
}

/// The run in the middle of which the page was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlightRun {
    pub run_id: String,
    /// May be empty; the run is active all the same.
    pub text: String,
    /// Epoch milliseconds.
    pub started_at: Option<i64>,
}

/// A message that was accepted and waits for the run before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingInput {
    /// The idempotency key it was sent with.
    pub run_id: Option<String>,
    /// `queued`; `cancelled` and `interrupted` ones are kept for inspection and never run by themselves.
    pub state: String,
}

/// Who said a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowRole {
    User,
    Assistant,
    ToolResult,
    System,
    /// A role that this release does not know.
    Other,
}

/// Rows that nobody said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// The log before it was summarised for the model.
    Compaction,
    /// The session was started afresh.
    Reset,
}

/// One row of a session's log.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryRow {
    /// The gateway's id of the record (`__openclaw.id`). One record can be shown as several rows (documented); the
    /// second and later ones of a page get `#2`, `#3` … behind it, so that an id names one row. Rows without an id
    /// (protocol 3: rows too large to show) get `digest:` and a digest of role, time and content, which is the same
    /// whenever they are read.
    pub id: String,
    /// Place in the log, from 1, and from 1 again after a reset; the same for the rows of one record.
    pub seq: Option<i64>,
    pub role: RowRole,
    /// A tool's result is one block. Of a file whose data the gateway keeps a text block tells; what is not known
    /// becomes a text block with its JSON.
    pub blocks: Vec<Block>,
    /// The joined text blocks without those about a user's attachments; of a tool's result its text.
    pub text: String,
    /// When it was said, in epoch milliseconds.
    pub timestamp_ms: Option<i64>,
    /// The run that made it; on assistant and tool rows of protocol 4.
    pub run_id: Option<String>,
    /// `<key>:user`, `<run>:assistant` (aborted), `<run>:terminal-error`, or `<run>` itself (injected while it ran).
    pub idempotency_key: Option<String>,
    /// `stop`, `toolUse`, `error` …
    pub stop_reason: Option<String>,
    pub error_message: Option<String>,
    /// On a user's row: the run that was busy and took it in; the answer is part of that run's.
    pub steered_into: Option<String>,
    /// The partial text of a run that was aborted.
    pub is_aborted: bool,
    /// Put there by the gateway itself or with `chat.inject`, not said by the model. An aborted answer is not counted
    /// here, though it carries the same names.
    pub is_injected: bool,
    /// The gateway's own question by which it resumes a run that died with it; [`HistoryRow::delivery_key`] is then
    /// the id of the resuming run.
    pub is_recovery: bool,
    /// The text is shorter than what was said: cut, or replaced by a placeholder.
    pub is_truncated: bool,
    pub marker: Option<Marker>,
    /// The pictures that the blocks refer to, as far as their data came along; nobody else keeps them.
    pub images: Vec<InlineImage>,
}

impl HistoryRow {
    /// The key that a user's row was sent with: the part before `:user`.
    pub fn delivery_key(&self) -> Option<&str> {
        if self.role != RowRole::User {
            return None;
        }
        self.idempotency_key.as_deref()?.strip_suffix(":user").filter(|key| !key.is_empty())
    }

    /// Tells whether the row is an answer that ends a run, or a part of one when the run was steered: text of the
    /// model, also of an aborted or failed run, without a tool call.
    pub fn is_answer(&self) -> bool {
        let wants_tool = matches!(self.stop_reason.as_deref(), Some("toolUse" | "tool_use" | "tool_calls"))
            || self.blocks.iter().any(|block| matches!(block, Block::ToolCall { .. }));
        self.role == RowRole::Assistant && !self.is_injected && !wants_tool && !self.text.trim().is_empty()
    }

    /// Tells whether the row is what a failed run left.
    pub fn is_failure(&self) -> bool {
        self.role == RowRole::Assistant && self.stop_reason.as_deref() == Some("error")
    }
}

impl HistoryPage {
    /// Tells whether the gateway has said that nothing runs in this session.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.has_active_run == Some(false)
    }

    /// Tells whether something was said in the session, or is about to be.
    pub fn has_content(&self) -> bool {
        let is_active = self.in_flight.is_some()
            || self.has_active_run == Some(true)
            || self.active_run_ids.as_ref().is_some_and(|ids| !ids.is_empty());
        is_active || self.has_more || !self.rows.is_empty() || !self.pending_inputs.is_empty()
    }

    /// Finds the user's row that was sent with this key.
    pub fn question(&self, delivery_key: &str) -> Option<&HistoryRow> {
        self.rows.iter().find(|row| row.delivery_key() == Some(delivery_key))
    }
}

impl<'de> Deserialize<'de> for HistoryPage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = WirePage::deserialize(deserializer)?;
        let info = wire.session_info.unwrap_or_default();
        let page = Self {
            session_id: name_at(&wire.session_id),
            canonical_key: info.get("key").and_then(name_at),
            rows: row::rows(&wire.messages.unwrap_or_default()),
            has_more: wire.has_more.as_bool().unwrap_or(false),
            next_offset: wire.next_offset.as_u64(),
            total: wire.total_messages.as_u64(),
            in_flight: in_flight(&wire.in_flight_run),
            has_active_run: info.get("hasActiveRun").and_then(Value::as_bool),
            active_run_ids: info
                .get("activeRunIds")
                .and_then(Value::as_array)
                .map(|ids| ids.iter().filter_map(name_at).collect()),
            pending_inputs: pending_inputs(&wire.pending_inputs),
        };
        Ok(page)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePage {
    #[serde(default)]
    session_id: Value,
    #[serde(default)]
    session_info: Option<Value>,
    #[serde(default)]
    messages: Option<Vec<Value>>,
    #[serde(default)]
    has_more: Value,
    #[serde(default)]
    next_offset: Value,
    #[serde(default)]
    total_messages: Value,
    #[serde(default)]
    in_flight_run: Value,
    #[serde(default)]
    pending_inputs: Value,
}

fn text_at(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Reads a name; one that is none counts as missing.
fn name_at(value: &Value) -> Option<String> {
    text_at(value).filter(|name| is_name(name))
}

fn in_flight(run: &Value) -> Option<InFlightRun> {
    Some(InFlightRun {
        run_id: run.get("runId").and_then(name_at)?,
        text: run.get("text").and_then(text_at).unwrap_or_default(),
        started_at: run.get("startedAt").and_then(number_ms),
    })
}

fn pending_inputs(pending: &Value) -> Vec<PendingInput> {
    let items = pending.get("items").and_then(Value::as_array).into_iter().flatten();
    items
        .map(|item| PendingInput {
            run_id: item.get("runId").and_then(name_at),
            state: item.get("state").and_then(text_at).unwrap_or_default(),
        })
        .collect()
}

#[cfg(test)]
mod tests;
