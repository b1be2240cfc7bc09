//! The frames a browser may send, read leniently: unknown fields are ignored, unknown kinds are answered with a code.
use serde::Deserialize;
use serde_json::Value;

use crate::domain::error::{Error, ErrorCode};
use crate::domain::ids::GatewayId;
use crate::domain::message::check_length;

/// A frame of a browser.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Inbound {
    Chat(Chat),
    Abort(Abort),
    History(History),
    Subscribe(Named),
    Unsubscribe(Named),
    Resume(Resume),
    Read(Read),
    Approval(serde::de::IgnoredAny),
    Ping,
}

/// `sessionKey`, and on a federated socket `gatewayId`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Named {
    #[serde(default)]
    pub session_key: Option<String>,
    #[serde(default)]
    pub gateway_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chat {
    #[serde(flatten)]
    pub named: Named,
    #[serde(default)]
    pub message: Option<String>,
    #[serde(default)]
    pub idempotency_key: Option<String>,
    #[serde(default)]
    pub queue: Option<bool>,
    #[serde(default)]
    pub attachments: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Abort {
    #[serde(flatten)]
    pub named: Named,
    /// Only this run; when it does not run any more, nothing is done.
    #[serde(default)]
    pub run_id: Option<String>,
    #[serde(default)]
    pub queued: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    #[serde(flatten)]
    pub named: Named,
    #[serde(default)]
    pub limit: Option<i64>,
    /// A message id, exclusive.
    #[serde(default)]
    pub before: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resume {
    #[serde(flatten)]
    pub named: Named,
    /// The last `seq` the client has.
    #[serde(default)]
    pub after: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Read {
    #[serde(flatten)]
    pub named: Named,
    #[serde(default)]
    pub seq: Option<i64>,
}

/// Longest idempotency key of a client.
const KEY_BYTES_MAX: usize = 255;

impl Chat {
    /// Returns the message, or says why it cannot be taken.
    pub fn checked_text(&self, bytes_max: usize) -> Result<String, Error> {
        let is_key = |key: &String| (1..=KEY_BYTES_MAX).contains(&key.len());
        if !self.idempotency_key.as_ref().is_none_or(is_key) {
            return Err(bad(format!("`idempotencyKey` has 1 to {KEY_BYTES_MAX} bytes")));
        }
        if self.attachments.as_ref().is_some_and(|attachments| !attachments.is_empty()) {
            return Err(Error::new(ErrorCode::UpstreamRefused, "attachments cannot be sent yet"));
        }
        let text = self.message.clone().ok_or_else(|| bad("`message` is missing".to_owned()))?;
        if text.trim().is_empty() {
            return Err(bad("`message` must not be empty".to_owned()));
        }
        check_length(&text, bytes_max)?;
        if text.contains('\0') {
            return Err(bad("`message` must not hold NUL characters".to_owned()));
        }
        Ok(text)
    }
}

/// What a field of a frame holds.
#[derive(Clone, Copy)]
enum Shape {
    /// A text whose characters are checked where it is used.
    Text,
    /// A text without control characters.
    Plain,
    Switch,
    Number,
    List,
}

impl Shape {
    /// Says what is wrong with a value, if anything is.
    fn fault(self, value: &Value) -> Option<&'static str> {
        match self {
            Self::Text | Self::Plain if !value.is_string() => Some("must be a text"),
            Self::Plain if value.as_str().is_some_and(|text| text.chars().any(char::is_control)) => {
                Some("must not hold control characters")
            }
            Self::Switch if !value.is_boolean() => Some("must be `true` or `false`"),
            Self::Number if !value.is_i64() => Some("must be a whole number"),
            Self::List if !value.is_array() => Some("must be a list"),
            _ => None,
        }
    }
}

/// The fields that each kind of frame is read for; `None` for a kind that is not known.
fn fields(kind: &str) -> Option<&'static [(&'static str, Shape)]> {
    Some(match kind {
        "chat" => &[
            ("message", Shape::Text),
            ("idempotencyKey", Shape::Plain),
            ("queue", Shape::Switch),
            ("attachments", Shape::List),
        ],
        "abort" => &[("runId", Shape::Plain), ("queued", Shape::Switch)],
        "history" => &[("limit", Shape::Number), ("before", Shape::Plain)],
        "resume" => &[("after", Shape::Number)],
        "read" => &[("seq", Shape::Number)],
        "subscribe" | "unsubscribe" | "approval" | "ping" => &[],
        _ => return None,
    })
}

/// The fields that name a session, in all frames that do.
const NAMING: [(&str, Shape); 2] = [("sessionKey", Shape::Text), ("gatewayId", Shape::Plain)];

/// A frame that cannot be read, with the names that could be read out of it.
#[derive(Debug)]
pub struct Refused {
    pub error: Error,
    pub named: Named,
    pub idempotency_key: Option<String>,
}

impl Inbound {
    /// Reads a frame, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Box<Refused>> {
        let refused = |error, named, idempotency_key| Box::new(Refused { error, named, idempotency_key });
        let value: Value = serde_json::from_str(text).map_err(|error| {
            refused(bad(format!("the frame is not JSON (column {})", error.column())), Named::default(), None)
        })?;
        Self::read(&value).map_err(|error| {
            let text = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
            let named = Named { session_key: text("sessionKey"), gateway_id: text("gatewayId") };
            refused(error, named, text("idempotencyKey"))
        })
    }

    fn read(value: &Value) -> Result<Self, Error> {
        let Some(kind) = value.get("type").and_then(Value::as_str) else {
            return Err(bad("a frame is an object with a `type`, for example {\"type\":\"ping\"}".to_owned()));
        };
        let Some(fields) = fields(kind) else {
            let kind: String = kind.chars().take(40).collect();
            let known = "chat, abort, history, subscribe, unsubscribe, resume, read, approval, ping";
            return Err(bad(format!("frames of type `{kind}` are not known; known are {known}")));
        };
        let naming: &[_] = if matches!(kind, "approval" | "ping") { &[] } else { &NAMING };
        for (field, shape) in naming.iter().chain(fields) {
            // `null` is as good as nothing.
            let fault = value.get(field).filter(|value| !value.is_null()).and_then(|value| shape.fault(value));
            if let Some(fault) = fault {
                return Err(bad(format!("`{field}` of the frame `{kind}` {fault}")));
            }
        }
        Self::deserialize(value).map_err(|_| bad(format!("the `{kind}` frame is not as it should be")))
    }
}

/// Says that no gateway has this id.
pub(super) fn unknown_gateway(id: &str) -> Error {
    let id: String = id.chars().take(GatewayId::BYTES_MAX).collect();
    Error::new(ErrorCode::GatewayNotFound, format!("gateway `{id}` does not exist"))
}

fn bad(sentence: String) -> Error {
    Error::new(ErrorCode::BadFrame, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ancestors_frames_are_read_as_they_are() {
        let chat =
            Inbound::parse(r#"{"type": "chat", "sessionKey": "webchat-123", "message": "hello"}"#).expect("chat");
        assert!(matches!(chat, Inbound::Chat(Chat { message: Some(text), .. }) if text == "hello"));
        assert!(matches!(Inbound::parse(r#"{"type": "abort", "sessionKey": "webchat-123"}"#), Ok(Inbound::Abort(_))));
        let history =
            Inbound::parse(r#"{"type": "history", "sessionKey": "webchat-123", "limit": 50}"#).expect("history");
        assert!(matches!(history, Inbound::History(History { limit: Some(50), .. })));
        assert!(matches!(Inbound::parse(r#"{"type":"ping","extra":1}"#), Ok(Inbound::Ping)));
    }

    #[test]
    fn a_message_that_is_not_there_is_told_from_an_empty_one() {
        let said = |frame: &str| match Inbound::parse(frame) {
            Ok(Inbound::Chat(chat)) => chat.checked_text(100).expect_err(frame).message().to_owned(),
            other => panic!("{other:?}"),
        };
        for frame in [r#"{"type":"chat"}"#, r#"{"type":"chat","message":null}"#] {
            assert_eq!(said(frame), "`message` is missing", "{frame}");
        }
        assert_eq!(said(r#"{"type":"chat","message":" "}"#), "`message` must not be empty");
    }

    #[test]
    fn what_is_not_a_frame_is_answered_with_a_sentence() {
        for wrong in ["", "[]", "{}", r#"{"type":5}"#, r#"{"type":"dance"}"#, r#"{"type":"history","limit":"x"}"#] {
            let error = Inbound::parse(wrong).expect_err(wrong);
            assert_eq!(error.error.code(), ErrorCode::BadFrame);
            assert!(!error.error.message().is_empty());
        }
    }

    #[test]
    fn a_wrong_field_is_named_in_plain_words_and_the_names_are_kept() {
        let wrong = [
            (r#"{"type":"read","seq":"x""#, "`seq` of the frame `read` must be a whole number"),
            (r#"{"type":"resume","after":1.5"#, "`after` of the frame `resume` must be a whole number"),
            (r#"{"type":"chat","queue":0"#, "`queue` of the frame `chat` must be `true` or `false`"),
            (r#"{"type":"chat","message":7"#, "`message` of the frame `chat` must be a text"),
            (r#"{"type":"chat","attachments":{}"#, "`attachments` of the frame `chat` must be a list"),
            (r#"{"type":"abort","runId":"a\u0000b""#, "`runId` of the frame `abort` must not hold control characters"),
            (
                r#"{"type":"history","before":"a\tb""#,
                "`before` of the frame `history` must not hold control characters",
            ),
        ];
        for (frame, sentence) in wrong {
            let named = format!(r#"{frame},"sessionKey":"s","gatewayId":"g","idempotencyKey":"k"}}"#);
            let refused = Inbound::parse(&named).expect_err(frame);
            assert_eq!(refused.error.message(), sentence);
            let Named { session_key, gateway_id } = refused.named;
            assert_eq!((session_key.as_deref(), gateway_id.as_deref()), (Some("s"), Some("g")), "{frame}");
            assert_eq!(refused.idempotency_key.as_deref(), Some("k"));
        }
        for fine in [r#"{"type":"abort","queued":null,"limit":"x"}"#, r#"{"type":"ping","sessionKey":5}"#] {
            assert!(Inbound::parse(fine).is_ok(), "{fine}");
        }
    }
}
