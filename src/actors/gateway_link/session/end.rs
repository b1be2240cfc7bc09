//! How a turn ends, and what lines are made of rows.
use crate::domain::delivery::{Outcome, reason};
use crate::domain::message::{Block, MessageRole};
use crate::domain::turn::TurnState;
use crate::gateway::history::{HistoryRow, RowRole};
use crate::store::turns::DeliveryEnd;
use crate::store::upstream::RowLine;

/// How a turn ends.
pub(super) struct End {
    pub(super) state: TurnState,
    /// Wins over what the deltas gave.
    pub(super) text: Option<String>,
    pub(super) error: Option<String>,
    pub(super) code: Option<&'static str>,
    pub(super) usage: Option<serde_json::Value>,
    pub(super) said_at: Option<i64>,
    /// Under which id it was answered, where the log tells: a gateway that was started anew resumes a run under another.
    pub(super) run_id: Option<String>,
    pub(super) delivery: DeliveryEnd,
}

impl End {
    pub(super) fn answered(text: Option<String>, usage: Option<serde_json::Value>) -> Self {
        Self {
            state: TurnState::Final,
            text,
            error: None,
            code: None,
            usage,
            said_at: None,
            run_id: None,
            delivery: DeliveryEnd::Completed(Outcome::Answered),
        }
    }

    pub(super) fn aborted(text: Option<String>) -> Self {
        Self {
            state: TurnState::Aborted,
            delivery: DeliveryEnd::Completed(Outcome::Aborted),
            ..Self::answered(text, None)
        }
    }

    pub(super) fn failed(text: Option<String>, sentence: String) -> Self {
        Self {
            state: TurnState::Error,
            error: Some(sentence),
            delivery: DeliveryEnd::Completed(Outcome::Error),
            ..Self::answered(text, None)
        }
    }

    /// The gateway may have worked on it, and we cannot know how it ended (D4, 5).
    pub(super) fn interrupted() -> Self {
        Self {
            state: TurnState::Interrupted,
            error: Some("the gateway lost this run before its answer was complete; ask again".to_owned()),
            code: Some(reason::OUTCOME_UNKNOWN),
            delivery: DeliveryEnd::Dead { reason: reason::OUTCOME_UNKNOWN.to_owned(), started: true },
            ..Self::answered(None, None)
        }
    }

    pub(super) fn dead(sentence: String, code: &'static str, started: bool) -> Self {
        Self {
            state: TurnState::Error,
            error: Some(sentence.clone()),
            code: Some(code),
            delivery: DeliveryEnd::Dead { reason: sentence, started },
            ..Self::answered(None, None)
        }
    }

    /// Of the rows that answer, in order; several when questions of others were steered into the run. `shown` is how
    /// much of the answer is known already.
    pub(super) fn from_rows(rows: &[&HistoryRow], shown: usize) -> Self {
        let Some(last) = rows.last() else { return Self::answered(None, None) };
        let texts: Vec<&str> =
            rows.iter().filter(|row| row.is_aborted || !row.is_failure()).map(|row| row.text.as_str()).collect();
        let text = texts.join("\n\n");
        // What the log has cut, or does not have, is no better than what came live.
        let is_cut = rows.iter().any(|row| row.is_truncated);
        let text = Some(text).filter(|text| !text.is_empty() && (text.len() >= shown || !is_cut));
        let end = if last.is_aborted {
            Self::aborted(text)
        } else if last.is_failure() {
            Self::failed(text, last.error_message.clone().unwrap_or_else(|| last.text.clone()))
        } else {
            Self::answered(text, None)
        };
        Self { said_at: last.timestamp_ms, run_id: last.run_id.clone(), ..end }
    }
}

/// Makes a line of a row of the log.
pub(in super::super) fn line_of(row: &HistoryRow) -> RowLine {
    let role = match row.role {
        _ if row.marker.is_some() => MessageRole::Marker,
        RowRole::User if row.is_recovery => MessageRole::System,
        RowRole::User => MessageRole::User,
        RowRole::Assistant => MessageRole::Assistant,
        RowRole::ToolResult => MessageRole::Tool,
        RowRole::System | RowRole::Other => MessageRole::System,
    };
    let blocks = match row.role {
        _ if row.blocks.is_empty() => vec![Block::text(row.text.clone())],
        RowRole::Assistant => clean(&row.blocks),
        // People may write of the tags.
        _ => row.blocks.clone(),
    };
    let error = row.is_failure().then(|| row.error_message.clone().unwrap_or_else(|| row.text.clone()));
    // `<key>:user`, `<run>:assistant`, `<run>:terminal-error`: what stands before the colon is the run.
    let key = row.idempotency_key.as_deref().and_then(|key| key.split(':').next()).map(str::to_owned);
    let run = row.run_id.clone().or(key);
    RowLine { run, role, blocks, said_at: row.timestamp_ms.unwrap_or(0), error }
}

/// Removes the model's thinking from the text of a row, as it is removed from live text.
pub(in super::super) fn clean(blocks: &[Block]) -> Vec<Block> {
    blocks
        .iter()
        .filter(|block| !matches!(block, Block::Thinking { .. }))
        .map(|block| match block {
            Block::Text { text } => Block::text(crate::domain::thinking::strip(text).visible),
            other => other.clone(),
        })
        .collect()
}
