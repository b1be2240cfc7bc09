//! Reading one row: its metadata, and its content as blocks.
use std::collections::HashMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::super::device::hex;
use super::super::frames::number_ms;
use super::text::CUT_MARK;
use super::{HistoryRow, Marker, RowRole, name_at, text_at};
use crate::domain::message::{Block, plain_text};

/// Bytes of JSON that are kept of a block we do not know; it may hold a whole file.
const UNKNOWN_BLOCK_BYTES_MAX: usize = 4_096;
/// Begins the question by which a gateway resumes a run that died with it, on all releases seen.
const RECOVERY_TEXT: &str = "[System] Your previous turn was interrupted";
/// Marks the same question from 2026.9 on.
const RECOVERY_TOOL: &str = "main_session_restart_recovery";

/// A picture whose data came with the row.
#[derive(Clone, PartialEq, Eq)]
pub struct InlineImage {
    /// Lower-case hex, as in [`Block::Image`].
    pub sha256: String,
    pub media_type: String,
    pub bytes: Vec<u8>,
}

impl fmt::Debug for InlineImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InlineImage({}, {}, {} bytes)", self.sha256, self.media_type, self.bytes.len())
    }
}

/// Reads the rows of a page and gives each an id of its own.
pub(super) fn rows(messages: &[Value]) -> Vec<HistoryRow> {
    let mut times_seen: HashMap<String, usize> = HashMap::new();
    let mut rows: Vec<HistoryRow> = messages.iter().map(HistoryRow::from_value).collect();
    for row in &mut rows {
        let times = times_seen.entry(row.id.clone()).or_default();
        *times += 1;
        if *times > 1 {
            row.id = format!("{}#{times}", row.id);
        }
    }
    rows
}

impl HistoryRow {
    /// Reads one message of a page, or the `message` of a `session.message` event. Nothing is an error: what is not
    /// understood is kept as text.
    pub fn from_value(message: &Value) -> Self {
        let meta = message.get("__openclaw").unwrap_or(&Value::Null);
        let either = |key: &str| [message, meta].iter().find_map(|part| part.get(key).and_then(name_at));
        let role = role_of(message.get("role").and_then(Value::as_str).unwrap_or_default());
        let abort = message.get("openclawAbort").unwrap_or(&Value::Null);
        let is_aborted = abort.get("aborted").and_then(Value::as_bool).unwrap_or(false);
        let names = |key: &str, name: &str| message.get(key).and_then(Value::as_str) == Some(name);
        let (mut blocks, images) = content_of(message, role);
        let text = match blocks.first() {
            Some(Block::ToolResult { text, .. }) if role == RowRole::ToolResult => text.clone(),
            _ => plain_text(&blocks),
        };
        blocks.extend(meta.get("media").and_then(Value::as_array).into_iter().flatten().map(attachment_of));
        let source_tool = message.pointer("/provenance/sourceTool").and_then(Value::as_str);
        let mut row = Self {
            id: String::new(),
            seq: meta.get("seq").and_then(Value::as_i64),
            role,
            timestamp_ms: [message.get("timestamp"), meta.get("recordTimestampMs")]
                .iter()
                .flatten()
                .find_map(|time| number_ms(time)),
            run_id: meta.get("runId").or_else(|| abort.get("runId")).and_then(name_at),
            idempotency_key: either("idempotencyKey"),
            stop_reason: message.get("stopReason").and_then(text_at),
            error_message: message.get("errorMessage").and_then(text_at),
            steered_into: meta.get("steerTargetRunId").and_then(name_at),
            is_aborted,
            is_injected: !is_aborted && (names("model", "gateway-injected") || names("provider", "openclaw")),
            is_recovery: role == RowRole::User
                && (source_tool == Some(RECOVERY_TOOL) || text.starts_with(RECOVERY_TEXT)),
            is_truncated: meta.get("truncated").and_then(Value::as_bool).unwrap_or(false) || text.ends_with(CUT_MARK),
            marker: match meta.get("kind").and_then(Value::as_str) {
                Some("compaction") => Some(Marker::Compaction),
                Some("reset") => Some(Marker::Reset),
                _ => None,
            },
            blocks,
            text,
            images,
        };
        row.id = meta.get("id").and_then(name_at).unwrap_or_else(|| digest(&row));
        row
    }
}

fn role_of(role: &str) -> RowRole {
    match plain_name(role).as_str() {
        "user" => RowRole::User,
        "assistant" => RowRole::Assistant,
        "toolresult" | "tool" | "function" => RowRole::ToolResult,
        "system" => RowRole::System,
        _ => RowRole::Other,
    }
}

/// `toolCall`, `tool_call` and `tool-call` are one name.
fn plain_name(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|character| character.to_ascii_lowercase()).collect()
}

/// An id for a row that has none, made of what does not change when it is read again at another place of another page.
fn digest(row: &HistoryRow) -> String {
    let mut hasher = Sha256::new();
    let time = row.timestamp_ms.map(|ms| ms.to_string()).unwrap_or_default();
    let key = row.idempotency_key.as_deref().unwrap_or_default();
    for part in [&format!("{:?}", row.role), &time, key, &row.text] {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    for block in &row.blocks {
        if let Block::ToolCall { id, .. } | Block::ToolResult { id, .. } = block {
            hasher.update(id);
        }
    }
    let digest = hex(&hasher.finalize());
    // Half of it is enough to tell rows of one session apart.
    format!("digest:{}", digest.get(..32).unwrap_or(&digest))
}

fn content_of(message: &Value, role: RowRole) -> (Vec<Block>, Vec<InlineImage>) {
    let mut images = Vec::new();
    let content = message.get("content").or_else(|| message.get("text")).unwrap_or(&Value::Null);
    let mut blocks = match content {
        Value::String(text) => text_block(text),
        Value::Array(items) => items.iter().flat_map(|item| block_of(item, &mut images)).collect(),
        Value::Null if message.is_object() => Vec::new(),
        Value::Null => unknown_block(message),
        other => unknown_block(other),
    };
    if role == RowRole::ToolResult && !matches!(blocks.first(), Some(Block::ToolResult { .. })) {
        let result = Block::ToolResult {
            id: first_text(message, &["toolCallId", "tool_call_id", "toolUseId", "tool_use_id"]),
            name: first_text(message, &["toolName", "tool_name", "name"]),
            text: plain_text(&blocks),
            is_error: is_error(message),
        };
        blocks.retain(|block| !matches!(block, Block::Text { .. }));
        blocks.insert(0, result);
    }
    (blocks, images)
}

fn block_of(item: &Value, images: &mut Vec<InlineImage>) -> Vec<Block> {
    let kind = plain_name(item.get("type").and_then(Value::as_str).unwrap_or_default());
    match kind.as_str() {
        "text" | "inputtext" | "outputtext" => text_block(&first_text(item, &["text"])),
        "toolcall" | "tooluse" | "functioncall" => vec![Block::ToolCall {
            id: first_text(item, &["id", "toolCallId", "call_id"]),
            name: first_text(item, &["name", "toolName"]),
            arguments: arguments_of(item),
        }],
        "toolresult" => vec![Block::ToolResult {
            id: first_text(item, &["toolCallId", "toolUseId", "tool_use_id", "id"]),
            name: first_text(item, &["toolName", "name"]),
            text: result_text(item),
            is_error: is_error(item),
        }],
        "thinking" | "reasoning" => vec![Block::Thinking { text: first_text(item, &["thinking", "text"]) }],
        // Only the model's provider can read it.
        "redactedthinking" => Vec::new(),
        "image" => vec![image_of(item, images)],
        _ => match item.as_str() {
            Some(text) => text_block(text),
            None => unknown_block(item),
        },
    }
}

fn text_block(text: &str) -> Vec<Block> {
    if text.is_empty() { Vec::new() } else { vec![Block::text(text)] }
}

fn unknown_block(value: &Value) -> Vec<Block> {
    let mut json = value.to_string();
    if json.len() > UNKNOWN_BLOCK_BYTES_MAX {
        json.truncate(json.floor_char_boundary(UNKNOWN_BLOCK_BYTES_MAX));
        json.push('…');
    }
    vec![Block::text(json)]
}

fn first_text(value: &Value, keys: &[&str]) -> String {
    keys.iter().find_map(|key| value.get(key).and_then(text_at)).unwrap_or_default()
}

fn is_error(value: &Value) -> bool {
    ["isError", "is_error"].iter().any(|key| value.get(key).and_then(Value::as_bool) == Some(true))
}

/// The arguments of a tool call; a text of JSON is read, any other text is kept.
fn arguments_of(item: &Value) -> Value {
    let found = ["arguments", "input", "args"].iter().find_map(|key| item.get(key)).unwrap_or(&Value::Null);
    match found.as_str() {
        Some(text) => serde_json::from_str(text).unwrap_or_else(|_| found.clone()),
        None => found.clone(),
    }
}

fn result_text(item: &Value) -> String {
    let mut images = Vec::new();
    match item.get("content").or_else(|| item.get("text")).or_else(|| item.get("result")) {
        Some(Value::Array(parts)) => {
            let blocks: Vec<Block> = parts.iter().flat_map(|part| nested_text(part, &mut images)).collect();
            plain_text(&blocks)
        }
        Some(Value::String(text)) => text.clone(),
        Some(other) => plain_text(&unknown_block(other)),
        None => String::new(),
    }
}

/// The parts inside a tool's result; a result inside a result is kept as JSON, so that depth has an end.
fn nested_text(part: &Value, images: &mut Vec<InlineImage>) -> Vec<Block> {
    match part.get("type").and_then(Value::as_str).map(plain_name).as_deref() {
        Some("toolresult") => unknown_block(part),
        _ => block_of(part, images),
    }
}

/// A picture with its data (`data` beside it, or `source {data, media_type}`), else a text that says there was one.
fn image_of(item: &Value, images: &mut Vec<InlineImage>) -> Block {
    let source = item.get("source").filter(|source| source.is_object()).unwrap_or(item);
    let media_type = first_text(source, &["mimeType", "media_type", "mediaType"]);
    let data = source.get("data").and_then(Value::as_str).and_then(|data| STANDARD.decode(data).ok());
    match data {
        Some(bytes) if !bytes.is_empty() => {
            let sha256 = hex(&Sha256::digest(&bytes));
            images.push(InlineImage { sha256: sha256.clone(), media_type: media_type.clone(), bytes });
            Block::Image { sha256, media_type }
        }
        _ => kept_upstream(&format!("image {media_type}"), item.get("bytes").or_else(|| source.get("bytes"))),
    }
}

/// An attachment of a user's row: `{url: "media://…", contentType, kind, fileName, sizeBytes}`.
fn attachment_of(media: &Value) -> Block {
    let name = first_text(media, &["fileName", "contentType", "url"]);
    let kind = media.get("kind").and_then(Value::as_str).unwrap_or("file");
    kept_upstream(&format!("{kind} {name}"), media.get("sizeBytes"))
}

/// Tells of a file whose data the gateway does not pass on.
fn kept_upstream(what: &str, bytes: Option<&Value>) -> Block {
    let size = bytes.and_then(Value::as_u64).map(|bytes| format!(", {bytes} bytes")).unwrap_or_default();
    Block::text(format!("[{}{size}: kept by the gateway]", what.trim()))
}
