//! The words of both sides: pure.
use bytestring::ByteString;
use serde_json::{Value, json};

use crate::domain::error::ErrorCode;
use crate::domain::wire::set;

/// Has the session tell which one it is.
pub(super) const SUBSCRIBE: &str = r#"{"type":"subscribe"}"#;
/// What the ancestor says when a message waits for its agent.
const FORWARDED: &str = "Message forwarded to OpenClaw agent. Waiting for response...";

/// What a frame of the session is to a client of the ancestor.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    /// The session is there, under this name.
    Session(String),
    /// A frame was refused with this code.
    Refused(String),
    Words(ByteString),
}

/// Reads a frame of the session. `None`: the ancestor had no word for it.
pub(super) fn said(frame: &str) -> Option<Said> {
    let frame: Value = serde_json::from_str(frame).ok()?;
    let text = |field: &str| frame.get(field).and_then(Value::as_str).unwrap_or_default();
    match text("type") {
        "subscribed" => Some(Said::Session(text("sessionKey").to_owned())),
        "error" => Some(Said::Refused(text("code").to_owned())),
        "ack" => Some(Said::Words(done(FORWARDED))),
        "message" => answer(frame.get("message")?).map(Said::Words),
        "delivery" => undelivered(text("state"), text("reason")).map(Said::Words),
        "reset" if text("reason") == "deleted" => Some(Said::Words(error("the session was deleted").into())),
        "pong" => Some(Said::Words(json!({ "type": "pong" }).to_string().into())),
        _ => None,
    }
}

/// What an agent or the broker said. A person's own lines are not told: the ancestor's pages show them when they are
/// typed.
fn answer(message: &Value) -> Option<ByteString> {
    if message.get("sender")?.get("kind")? == "user" {
        return None;
    }
    let blocks = message.get("content")?.as_array()?;
    let texts = blocks.iter().filter(|block| block.get("type").is_some_and(|kind| kind == "text"));
    let content: String = texts.filter_map(|block| block.get("text").and_then(Value::as_str)).collect();
    Some(done(&content))
}

/// What ends a message without a line that says so; of a death and of time that ran out the broker's own line tells.
fn undelivered(state: &str, reason: &str) -> Option<ByteString> {
    let why = if reason.is_empty() { state } else { reason };
    (state == "cancelled").then(|| done(&format!("⚠️ The message was not handled: {why}")))
}

fn done(content: &str) -> ByteString {
    json!({ "type": "done", "role": "assistant", "content": content }).to_string().into()
}

pub(super) fn connected(session_id: &str) -> ByteString {
    json!({ "type": "connected", "session_id": session_id }).to_string().into()
}

/// `error` with these words.
pub fn error(content: &str) -> String {
    json!({ "type": "error", "content": content }).to_string()
}

/// `error` of a client that broke the protocol; a close follows.
pub fn broken(code: ErrorCode, reason: &str) -> String {
    json!({ "type": "error", "content": reason, "code": code }).to_string()
}

/// Puts the refusal of a frame into the ancestor's words.
pub(super) fn refused(frame: &str) -> Option<ByteString> {
    let frame: Value = serde_json::from_str(frame).ok()?;
    let words = frame.get("error").and_then(Value::as_str).map(in_its_words);
    let mut told = json!({ "type": "error", "content": words, "code": frame.get("code") });
    if let Some(seconds) = frame.get("retryAfter") {
        set(&mut told, "retry_after", seconds.clone());
    }
    Some(told.to_string().into())
}

/// Calls the field that holds the question as the client calls it.
fn in_its_words(sentence: &str) -> String {
    sentence.replace("`message` of the frame `chat`", "`content`").replace("`message`", "`content`")
}

/// Puts a frame of the client into ours: what has no `type` is a question, even one without words, which the session
/// refuses as such. What is no frame of the ancestor's goes on as it is: the session says what is wrong with it.
pub(super) fn asked(frame: &str) -> ByteString {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(frame) else { return frame.into() };
    if fields.get("type").is_some_and(Value::is_string) {
        return frame.into();
    }
    let mut chat = json!({ "type": "chat", "message": fields.remove("content") });
    if let Some(key) = fields.remove("idempotencyKey") {
        set(&mut chat, "idempotencyKey", key);
    }
    chat.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(frame: Value) -> Option<Value> {
        match said(&frame.to_string())? {
            Said::Words(frame) => serde_json::from_str(&frame).ok(),
            other => panic!("{other:?}"),
        }
    }

    fn line(kind: &str, texts: &[&str]) -> Value {
        let blocks: Vec<Value> = texts.iter().map(|text| json!({ "type": "text", "text": text })).collect();
        json!({ "type": "message", "message": { "content": blocks, "sender": { "kind": kind } } })
    }

    #[test]
    fn answers_and_acknowledgements_are_done() {
        let done = |content: &str| Some(json!({ "type": "done", "role": "assistant", "content": content }));
        assert_eq!(words(line("agent", &["Hel", "lo"])), done("Hello"));
        assert_eq!(words(line("system", &["sorry"])), done("sorry"));
        assert_eq!(words(line("user", &["hello"])), None);
        assert_eq!(words(json!({ "type": "ack", "state": "queued" })), done(FORWARDED));
        let ended = |state: &str, reason: &str| json!({ "type": "delivery", "state": state, "reason": reason });
        assert_eq!(words(ended("cancelled", "not now")), done("⚠️ The message was not handled: not now"));
        assert_eq!(words(ended("cancelled", "")), done("⚠️ The message was not handled: cancelled"));
        // These have a line of the broker's, which is told.
        for state in ["dead", "expired", "sent"] {
            assert_eq!(words(ended(state, "attempts")), None, "{state}");
        }
        for silent in [json!({ "type": "connected" }), json!([])] {
            assert_eq!(words(silent), None);
        }
    }

    #[test]
    fn a_session_and_a_refusal_are_told_apart() {
        let subscribed = json!({ "type": "subscribed", "sessionKey": "s", "lastSeq": 0 }).to_string();
        assert_eq!(said(&subscribed), Some(Said::Session("s".to_owned())));
        let error = json!({ "type": "error", "error": "no", "code": "not_found", "retryAfter": 1 }).to_string();
        assert_eq!(said(&error), Some(Said::Refused("not_found".to_owned())));
        let told = |error: &str| -> Value { serde_json::from_str(&refused(error).expect("words")).expect("JSON") };
        assert_eq!(told(&error), json!({ "type": "error", "content": "no", "code": "not_found", "retry_after": 1 }));
        for (ours, its) in [
            ("`message` is missing", "`content` is missing"),
            ("`message` must not be empty", "`content` must not be empty"),
            ("`message` of the frame `chat` must be a text", "`content` must be a text"),
            ("`idempotencyKey` has 1 to 255 bytes", "`idempotencyKey` has 1 to 255 bytes"),
        ] {
            let error = json!({ "type": "error", "error": ours, "code": "bad_frame" }).to_string();
            assert_eq!(told(&error)["content"], its);
        }
    }

    #[test]
    fn what_the_client_says_is_a_question() {
        let ask = |frame: Value| -> Value { serde_json::from_str(&asked(&frame.to_string())).expect("JSON") };
        let content = json!({ "content": "hello", "display_content": "Hello!", "file_name": "a.txt" });
        assert_eq!(ask(content), json!({ "type": "chat", "message": "hello" }));
        let with_key = json!({ "content": "hello", "idempotencyKey": "k" });
        assert_eq!(ask(with_key), json!({ "type": "chat", "message": "hello", "idempotencyKey": "k" }));
        assert_eq!(ask(json!({ "type": "abort" })), json!({ "type": "abort" }));
        // The session says that it has no words.
        assert_eq!(ask(json!({})), json!({ "type": "chat", "message": null }));
        assert_eq!(&*asked("{"), "{");
        let deep = "[".repeat(100_000);
        assert_eq!(&*asked(&deep), deep, "nesting costs no stack");
    }
}
