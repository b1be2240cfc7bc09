//! The life of a run as chat events, and the answers to `chat.send` and `chat.abort`.
use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{is_name, lenient, number_ms, or_default};

/// Where a run stands after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatState {
    /// It lives; from 2026.9 on. A model that fails is retried for up to 134 s with nothing but these.
    Status,
    Delta,
    Final,
    Aborted,
    Error,
    /// A state that this release does not know.
    Other,
}

impl ChatState {
    /// Tells whether the run is over. The first such event counts: an error is often told twice, and a failed tool
    /// call ends with a `final` without message and a second one with a warning.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Final | Self::Aborted | Self::Error)
    }
}

/// Event `chat`: one step of a run. Its own `seq` is left out on purpose: it repeats, goes back and starts again
/// after the end; the order is the order of arrival.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatEvent {
    /// The idempotency key of the `chat.send` that started it, or the gateway's own for a run it resumed after a crash.
    pub run_id: String,
    /// Always canonical: `agent:<agent>:<name>`.
    pub session_key: String,
    pub state: ChatState,
    /// Of a status: `preparing_workspace`, `preparing_context`, `starting_model` …
    pub phase: Option<String>,
    /// Of a delta on protocol 4: the new part, or the whole text when `replace` is set. Absent on protocol 3.
    pub delta_text: Option<String>,
    /// The text so far is void and `delta_text` (maybe empty) takes its place: the model is asked again, or the start
    /// was cut.
    pub replace: bool,
    /// The text blocks of `message`, joined: the text so far of a delta, the whole answer of a `final` (several
    /// answers of one run are parted by an empty line), the part that came of an `aborted`. `None` when there is no
    /// message: then what the deltas gave is the text, but for a `final` of protocol 4, whose answer stands in the log.
    /// The gateway keeps the last 500,000 UTF-16 units of a longer one.
    pub text: Option<String>,
    /// Of an error: the gateway's sentence.
    pub error_message: Option<String>,
    /// Of an error: `refusal`, `timeout`, `rate_limit`, `context_length`, `unknown`; often absent.
    pub error_kind: Option<String>,
    /// Tokens and cost, as sent. 2026.9.6 sends none on an ordinary `final`.
    pub usage: Option<Value>,
    /// `stop`; `rpc` for an abort by request.
    pub stop_reason: Option<String>,
    /// When the message was made, in epoch milliseconds.
    pub timestamp_ms: Option<i64>,
}

impl<'de> Deserialize<'de> for ChatEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = WireChat::deserialize(deserializer)?;
        if !is_name(&wire.run_id) || !(wire.session_key.is_empty() || is_name(&wire.session_key)) {
            return Err(serde::de::Error::custom("a run or a session has an odd name"));
        }
        let message = lenient::<WireMessage<'_>>(wire.message).unwrap_or_default();
        Ok(Self {
            run_id: wire.run_id,
            session_key: wire.session_key,
            state: match &*wire.state {
                "status" => ChatState::Status,
                "delta" => ChatState::Delta,
                "final" => ChatState::Final,
                "aborted" => ChatState::Aborted,
                "error" => ChatState::Error,
                _ => ChatState::Other,
            },
            phase: wire.phase,
            delta_text: wire.delta_text,
            replace: wire.replace,
            text: message.content.and_then(content_text).or_else(|| lenient(message.text)),
            error_message: wire.error_message.or_else(|| lenient(message.error_message)),
            error_kind: wire.error_kind,
            usage: wire.usage.or_else(|| lenient(message.usage)),
            stop_reason: wire.stop_reason.or_else(|| lenient(message.stop_reason)),
            timestamp_ms: lenient::<Value>(message.timestamp).as_ref().and_then(number_ms),
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireChat<'a> {
    run_id: String,
    session_key: String,
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(default)]
    phase: Option<String>,
    #[serde(default)]
    delta_text: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    replace: bool,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    #[serde(default)]
    error_message: Option<String>,
    #[serde(default)]
    error_kind: Option<String>,
    #[serde(default)]
    usage: Option<Value>,
    #[serde(default)]
    stop_reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireMessage<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    stop_reason: Option<&'a RawValue>,
    #[serde(borrow)]
    error_message: Option<&'a RawValue>,
}

/// Joins the text of a message's content, which is a string or an array of blocks, without building a tree of it: a
/// delta carries the text so far, every 75 ms.
fn content_text(content: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct TextBlock<'a> {
        #[serde(borrow, rename = "type")]
        kind: Cow<'a, str>,
        #[serde(borrow)]
        text: Cow<'a, str>,
    }
    if let Ok(text) = serde_json::from_str::<String>(content.get()) {
        return Some(text);
    }
    let blocks: Vec<&RawValue> = serde_json::from_str(content.get()).ok()?;
    let mut text = String::new();
    for block in blocks.into_iter().filter_map(|block| lenient::<TextBlock<'_>>(Some(block))) {
        if block.kind == "text" {
            text.push_str(&block.text);
        }
    }
    Some(text)
}

/// What a run has answered, in the event `agent` that ends its lifecycle; from 2026.9 on. Where `chat` has a text as well,
/// that is the whole answer, and this is the last part of it, at most [`TerminalReply::TEXT_UNITS_MAX`] long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TerminalReply {
    pub run_id: String,
    /// Always canonical: `agent:<agent>:<name>`.
    pub session_key: String,
    /// `None` when the run said nothing.
    pub text: Option<String>,
}

impl TerminalReply {
    /// The gateway cuts a longer text here, in UTF-16 code units, and ends it with `…`.
    pub const TEXT_UNITS_MAX: usize = 4_096;

    /// Tells whether a text may have been cut; blanks behind the cut are taken away as well.
    pub fn is_cut(text: &str) -> bool {
        text.ends_with('…') && text.encode_utf16().count() > Self::TEXT_UNITS_MAX / 2
    }

    /// Reads it of the payload of an `agent` event. Few have one: the others are not taken apart.
    pub fn of(payload: &RawValue) -> Option<Self> {
        if !payload.get().contains("\"terminalReply\"") {
            return None;
        }
        let event: WireAgent = serde_json::from_str(payload.get()).ok()?;
        let reply = event.data.terminal_reply?;
        let text = reply.text.filter(|text| reply.disposition == "visible" && !text.is_empty());
        Some(Self { run_id: event.run_id, session_key: event.session_key, text })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireAgent {
    run_id: String,
    #[serde(default, deserialize_with = "or_default")]
    session_key: String,
    data: WireLifecycle,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireLifecycle {
    #[serde(default)]
    terminal_reply: Option<WireReply>,
}

#[derive(Deserialize)]
struct WireReply {
    disposition: String,
    #[serde(default)]
    text: Option<String>,
}

/// The answer to `chat.send`; the outcome comes as events.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SendAck {
    /// The idempotency key that was sent.
    pub run_id: String,
    pub status: SendStatus,
}

/// What became of the key that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SendStatus {
    /// Accepted. Also said for a key that ended before a restart (a `final` without message follows, nothing runs
    /// again) and for one whose run died with the gateway (nothing follows): it does not prove that anything began.
    Started,
    /// The key's run is active; also for some 100 ms after its `final` on releases before 2026.9.
    InFlight,
    /// The key's run is over; no events follow.
    Ok,
    /// A status that this release does not know.
    #[serde(other)]
    Other,
}

/// The answer to `chat.abort`. Nothing to abort is no error. The `aborted` event comes before it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AbortAck {
    #[serde(default, deserialize_with = "or_default")]
    pub aborted: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub run_ids: Vec<String>,
}
