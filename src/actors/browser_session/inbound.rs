//! The frames a browser may send, read leniently: unknown fields are ignored, unknown kinds are answered with a code.
use serde::Deserialize;

use crate::domain::error::{Error, ErrorCode};

/// A frame of a browser.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Inbound {
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
pub(super) struct Named {
    #[serde(default)]
    pub(super) session_key: Option<String>,
    #[serde(default)]
    pub(super) gateway_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Chat {
    #[serde(flatten)]
    pub(super) named: Named,
    #[serde(default)]
    pub(super) message: Option<String>,
    #[serde(default)]
    pub(super) idempotency_key: Option<String>,
    #[serde(default)]
    pub(super) queue: Option<bool>,
    #[serde(default)]
    pub(super) attachments: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Abort {
    #[serde(flatten)]
    pub(super) named: Named,
    /// Only this run; when it does not run any more, nothing is done.
    #[serde(default)]
    pub(super) run_id: Option<String>,
    #[serde(default)]
    pub(super) queued: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct History {
    #[serde(flatten)]
    pub(super) named: Named,
    #[serde(default)]
    pub(super) limit: Option<i64>,
    /// A message id, exclusive.
    #[serde(default)]
    pub(super) before: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resume {
    #[serde(flatten)]
    pub(super) named: Named,
    /// The last `seq` the client has.
    #[serde(default)]
    pub(super) after: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Read {
    #[serde(flatten)]
    pub(super) named: Named,
    #[serde(default)]
    pub(super) seq: Option<i64>,
}

/// Longest idempotency key of a client.
const KEY_BYTES_MAX: usize = 255;

impl Chat {
    /// Returns the message, or says why it cannot be taken.
    pub(super) fn checked_text(&self, bytes_max: usize) -> Result<String, Error> {
        let is_key = |key: &String| (1..=KEY_BYTES_MAX).contains(&key.len()) && !key.contains('\0');
        if !self.idempotency_key.as_ref().is_none_or(is_key) {
            return Err(bad(format!("`idempotencyKey` has 1 to {KEY_BYTES_MAX} bytes, and no NUL character")));
        }
        if self.attachments.as_ref().is_some_and(|attachments| !attachments.is_empty()) {
            return Err(Error::new(ErrorCode::UpstreamRefused, "attachments cannot be sent yet"));
        }
        let text = self.message.clone().unwrap_or_default();
        if text.trim().is_empty() {
            return Err(bad("`message` must not be empty".to_owned()));
        }
        if text.len() > bytes_max {
            let sentence = format!("a message must not be longer than {bytes_max} bytes");
            return Err(Error::new(ErrorCode::MessageTooLarge, sentence));
        }
        if text.contains('\0') {
            return Err(bad("`message` must not hold NUL characters".to_owned()));
        }
        Ok(text)
    }
}

impl Inbound {
    /// Reads a frame, or says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let value: serde_json::Value = serde_json::from_str(text)
            .map_err(|error| bad(format!("the frame is not JSON (column {})", error.column())))?;
        let Some(kind) = value.get("type").and_then(serde_json::Value::as_str) else {
            return Err(bad("a frame is an object with a `type`, for example {\"type\":\"ping\"}".to_owned()));
        };
        let kind: String = kind.chars().take(40).collect();
        serde_json::from_value(value).map_err(|error| {
            let known = "chat, abort, history, subscribe, unsubscribe, resume, read, approval, ping";
            let sentence = error.to_string();
            if sentence.starts_with("unknown variant") {
                bad(format!("frames of type `{kind}` are not known; known are {known}"))
            } else {
                bad(format!("the `{kind}` frame is not as it should be: {sentence}"))
            }
        })
    }
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
    fn what_is_not_a_frame_is_answered_with_a_sentence() {
        for wrong in ["", "[]", "{}", r#"{"type":5}"#, r#"{"type":"dance"}"#, r#"{"type":"history","limit":"x"}"#] {
            let error = Inbound::parse(wrong).expect_err(wrong);
            assert_eq!(error.code(), ErrorCode::BadFrame);
            assert!(!error.message().is_empty());
        }
    }
}
