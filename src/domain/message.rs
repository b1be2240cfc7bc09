//! Messages: the lines of a conversation, their roles and blocks (D2).
use serde::{Deserialize, Serialize};

use super::error::{Error, ErrorCode};
use super::ids::{ConversationId, MessageId, PartyId};
use super::party::PartyKind;

/// Who speaks, in the terms of a model's chat. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(i32)]
pub enum MessageRole {
    User = 1,
    Assistant = 2,
    System = 3,
    Tool = 4,
    /// Not said by anybody: a reset or a compaction of the log upstream.
    Marker = 5,
}

impl MessageRole {
    pub fn from_code(code: i32) -> Option<Self> {
        [Self::User, Self::Assistant, Self::System, Self::Tool, Self::Marker].into_iter().find(|r| *r as i32 == code)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::System => "system",
            Self::Tool => "tool",
            Self::Marker => "marker",
        }
    }
}

/// What a message asks of its recipient (RTE-1). The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(i32)]
pub enum MessageKind {
    Request = 1,
    Reply = 2,
    Notice = 3,
}

impl MessageKind {
    pub fn from_code(code: i32) -> Option<Self> {
        [Self::Request, Self::Reply, Self::Notice].into_iter().find(|kind| *kind as i32 == code)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Reply => "reply",
            Self::Notice => "notice",
        }
    }
}

/// One piece of a message's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block {
    Text { text: String },
    ToolCall { id: String, name: String, arguments: serde_json::Value },
    ToolResult { id: String, name: String, text: String, is_error: bool },
    Image { sha256: String, media_type: String },
    File { sha256: String, media_type: String, name: String },
    Thinking { text: String },
}

impl Block {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }
}

/// Joins the text blocks: the plain text of a message.
pub fn plain_text(blocks: &[Block]) -> String {
    let mut text = String::new();
    for block in blocks {
        if let Block::Text { text: part } = block {
            text.push_str(part);
        }
    }
    text
}

/// Longest text of a line in bytes, and as many for all its other blocks together; what is longer is cut and ends with
/// [`CUT_MARKER`] (LIM-1).
pub const TEXT_BYTES_MAX: usize = 4 << 20;
/// Ends a text that was cut.
pub const CUT_MARKER: &str = "\n[cut: the answer was longer than 4 MiB]";

/// Refuses the text of a message that is too long.
pub fn check_length(text: &str, bytes_max: usize) -> Result<(), Error> {
    if text.len() <= bytes_max {
        return Ok(());
    }
    Err(Error::new(ErrorCode::MessageTooLarge, format!("a message must not be longer than {bytes_max} bytes")))
}

/// Cuts a text to [`TEXT_BYTES_MAX`], on a character's border, and says so in it. NUL characters, which PostgreSQL
/// cannot store, go.
pub fn bounded_text(text: String) -> String {
    cut_to(text, TEXT_BYTES_MAX)
}

fn cut_to(mut text: String, bytes_max: usize) -> String {
    if text.contains('\0') {
        text = text.replace('\0', "");
    }
    if text.len() > bytes_max {
        let mut end = bytes_max.saturating_sub(CUT_MARKER.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(CUT_MARKER);
    }
    text
}

/// Cuts the blocks of a line: its text to [`TEXT_BYTES_MAX`], all its other blocks together to as many bytes. The first
/// block of a kind that does not fit is cut, or a marker stands in its place; those behind it go.
pub fn bounded(blocks: Vec<Block>) -> Vec<Block> {
    let (mut text_room, mut other_room) = (Some(TEXT_BYTES_MAX), Some(TEXT_BYTES_MAX));
    let mut kept = Vec::with_capacity(blocks.len());
    for block in blocks {
        let room = if matches!(block, Block::Text { .. }) { &mut text_room } else { &mut other_room };
        let Some(bytes_max) = *room else { continue };
        let bytes = block.bytes();
        *room = bytes_max.checked_sub(bytes);
        kept.push(if bytes > bytes_max { block.cut(bytes_max) } else { block.cut(usize::MAX) });
    }
    kept
}

impl Block {
    /// How much it holds that has no bound of its own.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text { text } | Self::Thinking { text } => text.len(),
            Self::ToolCall { id, name, arguments } => id.len() + name.len() + arguments.to_string().len(),
            Self::ToolResult { id, name, text, .. } => id.len() + name.len() + text.len(),
            Self::Image { sha256, media_type } => sha256.len() + media_type.len(),
            Self::File { sha256, media_type, name } => sha256.len() + media_type.len() + name.len(),
        }
    }

    /// Cuts its text; what has none and is too large becomes a marker.
    fn cut(self, bytes_max: usize) -> Self {
        match self {
            Self::Text { text } => Self::Text { text: cut_to(text, bytes_max) },
            Self::Thinking { text } => Self::Thinking { text: cut_to(text, bytes_max) },
            Self::ToolResult { id, name, text, is_error } if id.len() + name.len() <= bytes_max => {
                let text = cut_to(text, bytes_max - id.len() - name.len());
                Self::ToolResult { id, name, text, is_error }
            }
            block if block.bytes() > bytes_max => Self::Thinking { text: CUT_MARKER.to_owned() },
            block => block,
        }
    }
}

/// Who said a line, as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sender {
    pub kind: &'static str,
    pub id: String,
    pub name: String,
}

/// A committed line of a conversation. It never changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub id: MessageId,
    pub conversation_id: ConversationId,
    /// Place in the order of commitment; dense in both directions (CNV-1). Imported lines stand at 0 and below.
    pub seq: i64,
    pub role: MessageRole,
    pub blocks: Vec<Block>,
    pub text: String,
    pub sender_id: PartyId,
    pub sender: Sender,
    pub sender_kind: PartyKind,
    /// When it was said: the upstream's time where there is one, else `created_at`. Epoch milliseconds.
    pub said_at: i64,
    /// When it was committed here. Epoch milliseconds.
    pub created_at: i64,
    /// Found after lines that were said later.
    pub late: bool,
    pub supersedes: Option<MessageId>,
    /// What it asks of its recipient, where that is an agent or a person.
    pub kind: Option<MessageKind>,
    pub in_reply_to: Option<MessageId>,
    /// Requests that led to it, one after the other, without a person between them.
    pub hops: i32,
    /// The gateway's sentence when the answer ended in an error.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_on_a_character_and_say_so() {
        let cut = bounded_text("ä".repeat(TEXT_BYTES_MAX));
        assert!(cut.len() <= TEXT_BYTES_MAX);
        assert!(cut.ends_with(CUT_MARKER));
        assert_eq!(bounded_text("short".to_owned()), "short");
    }

    #[test]
    fn all_blocks_of_a_line_are_bounded_together() {
        let long = || "x".repeat(TEXT_BYTES_MAX - 10);
        let result = |text: String| Block::ToolResult { id: "1".into(), name: "n".into(), text, is_error: false };
        let call = Block::ToolCall {
            id: "1".into(),
            name: "n".into(),
            arguments: serde_json::json!({ "all": long() + &long() }),
        };
        for (blocks, end) in [
            (vec![Block::text(long()), Block::text(long()), Block::text("gone")], CUT_MARKER),
            (
                vec![Block::Thinking { text: long() }, result(long()), result("gone".into()), Block::text("said")],
                "said",
            ),
            (vec![call, Block::text("said")], "said"),
        ] {
            let kept = bounded(blocks);
            let bytes: usize = kept.iter().map(Block::bytes).sum();
            assert!(bytes <= TEXT_BYTES_MAX + 2 * CUT_MARKER.len(), "{bytes}");
            let json = serde_json::to_string(&kept).expect("JSON");
            assert!(json.contains("[cut: ") && !json.contains("gone"));
            assert!(plain_text(&kept).ends_with(end));
        }
        let small = vec![Block::Thinking { text: "hm".into() }, Block::text("a\0b"), result("r".into())];
        assert_eq!(bounded(small)[1], Block::text("ab"));
    }
}
