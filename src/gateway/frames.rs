//! Frames: the JSON objects on the socket, and the typed payloads of those we use.
//!
//! A frame is a request (we send), a response (matched by `id`) or an event (by name, with `seq` counted per connection
//! from 1; the challenge has none). [`Inbound::parse`] looks at the envelope only: hello, health and history are large,
//! so a payload stays raw JSON until [`decode`] is asked for it with a type.
use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

mod chat;
mod hello;
mod lists;

pub use chat::{AbortAck, ChatEvent, ChatState, SendAck, SendStatus, TerminalReply};
pub use hello::{Challenge, Features, Granted, HelloOk, Policy, Server, SessionDefaults, Shutdown, Snapshot};
pub use lists::{AgentsList, ModelsList, SessionRow, SessionsDefaults, SessionsList, default_model};

/// A frame that the gateway sent.
pub enum Inbound {
    /// The answer to the request with this `id`.
    Response { id: String, result: Result<Box<RawValue>, GatewayError> },
    /// Something happened. `seq` counts the events of this connection; a hole means that the gateway dropped frames.
    Event { event: String, payload: Box<RawValue>, seq: Option<u64> },
    /// A kind of frame that this release does not know.
    Other,
}

impl Inbound {
    /// Reads the envelope of a frame. Only text that is not a JSON object is an error.
    pub fn parse(frame: impl AsRef<[u8]>) -> Result<Self, FrameError> {
        let envelope: Envelope<'_> =
            serde_json::from_slice(frame.as_ref()).map_err(|error| FrameError::new("frame", &error))?;
        Ok(envelope.into())
    }
}

/// Names what the frame is, never what it holds: a hello carries a device token (SEC-1).
impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Response { id, result: Ok(payload) } => write!(f, "Response({id}, {} bytes)", payload.get().len()),
            Self::Response { id, result: Err(error) } => write!(f, "Response({id}, {error:?})"),
            Self::Event { event, payload, seq } => write!(f, "Event({event}, {seq:?}, {} bytes)", payload.get().len()),
            Self::Other => f.write_str("Other"),
        }
    }
}

/// The fields of all kinds of frames; each is read leniently, so that an odd one spoils only itself.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    ok: Option<&'a RawValue>,
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    seq: Option<&'a RawValue>,
}

impl From<Envelope<'_>> for Inbound {
    fn from(envelope: Envelope<'_>) -> Self {
        let kind: Option<Cow<'_, str>> = lenient(envelope.kind);
        let payload = envelope.payload.unwrap_or(RawValue::NULL).to_owned();
        match kind.as_deref() {
            Some("res") => {
                let Some(id) = lenient::<String>(envelope.id) else { return Self::Other };
                let ok = lenient::<bool>(envelope.ok).unwrap_or(false);
                let result = if ok { Ok(payload) } else { Err(lenient(envelope.error).unwrap_or_default()) };
                Self::Response { id, result }
            }
            Some("event") => {
                let Some(event) = lenient::<String>(envelope.event) else { return Self::Other };
                Self::Event { event, payload, seq: lenient(envelope.seq) }
            }
            _ => Self::Other,
        }
    }
}

fn lenient<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
}

/// Reads a payload as the type that goes with its event or method.
pub fn decode<'a, T: Deserialize<'a>>(payload: &'a RawValue) -> Result<T, FrameError> {
    serde_json::from_str(payload.get()).map_err(|error| {
        let path = std::any::type_name::<T>();
        let path = path.split('<').next().unwrap_or(path);
        FrameError::new(path.rsplit("::").next().unwrap_or(path), &error)
    })
}

/// Builds a request frame: `{"type":"req","id","method","params"}`. The gateway wants an `id` that is not empty and
/// refuses unknown properties anywhere, so `params` holds what the method knows and nothing else.
pub fn request(id: &str, method: &str, params: &Value) -> String {
    debug_assert!(!id.is_empty(), "the gateway refuses an empty id");
    serde_json::json!({ "type": "req", "id": id, "method": method, "params": params }).to_string()
}

/// What could not be read, and where. It never quotes the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameError {
    /// The frame, or the type that was asked for.
    pub what: &'static str,
    /// Place in the text, counted in bytes from 1.
    pub column: usize,
}

impl FrameError {
    fn new(what: &'static str, error: &serde_json::Error) -> Self {
        Self { what, column: error.column() }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unreadable {} from the gateway (column {})", self.what, self.column)
    }
}

impl std::error::Error for FrameError {}

/// Why a request was refused: `{code, message, details?, retryable?, retryAfterMs?}`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayError {
    /// `INVALID_REQUEST`, `NOT_PAIRED`, `UNAVAILABLE`, `FORBIDDEN` … The stable part of a refusal is
    /// [`GatewayError::detail_code`] where there is one. Empty when the refusal could not be read.
    #[serde(deserialize_with = "or_default")]
    pub code: String,
    /// A sentence; its wording changes between releases.
    #[serde(deserialize_with = "or_default")]
    pub message: String,
    #[serde(deserialize_with = "or_default")]
    pub details: Value,
    /// The method was not started; the same request may be sent again.
    #[serde(deserialize_with = "or_default")]
    pub retryable: bool,
    #[serde(deserialize_with = "whole_ms")]
    pub retry_after_ms: Option<u64>,
}

impl GatewayError {
    /// A text field of the details.
    pub fn detail(&self, key: &str) -> Option<&str> {
        self.details.get(key).and_then(Value::as_str)
    }

    /// The stable code of a refused handshake or scope, for example `PAIRING_REQUIRED`.
    pub fn detail_code(&self) -> Option<&str> {
        self.detail("code")
    }

    /// Why, for example `chat-request-conflict` (this key was used for another text or session) or `startup-sidecars`.
    pub fn reason(&self) -> Option<&str> {
        self.detail("reason")
    }

    /// The scope that was missing. From 2026.9 it is in the details, before that in the message only.
    pub fn missing_scope(&self) -> Option<&str> {
        if self.detail_code() == Some("MISSING_SCOPE") {
            return self.detail("missingScope");
        }
        self.message.strip_prefix("missing scope: ")
    }
}

impl fmt::Display for GatewayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.detail_code().unwrap_or(&self.code), self.message)
    }
}

/// Reads `null` as the default: the gateway is written in a language where both mean "nothing".
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Reads a count of milliseconds that may come as a fraction, as `null` or as something else.
fn whole_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Value::deserialize(deserializer).map(|value| number_ms(&value).and_then(|ms| u64::try_from(ms).ok()))
}

/// Longest name of a run, a session or a row, in characters; an index of PostgreSQL takes no entry above 2,704 bytes.
const NAME_CHARS_MAX: usize = 600;

/// Tells whether a run, a session or a row can go by this name: what no database takes would be written in vain for ever.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control) && text.chars().nth(NAME_CHARS_MAX).is_none()
}

/// A number of milliseconds, cut to a whole one.
pub(super) fn number_ms(value: &Value) -> Option<i64> {
    // `as` saturates, so that an absurd number stays a number.
    value.as_i64().or_else(|| value.as_f64().map(|ms| ms as i64))
}

#[cfg(test)]
mod tests;
