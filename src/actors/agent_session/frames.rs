//! The frames that an agent's socket gets.
use bytestring::ByteString;
use serde_json::{Value, json};

use crate::domain::agent::{AgentFacts, AgentState};
use crate::domain::error::{Error, ErrorCode};
use crate::domain::wire::set;

fn text(frame: &Value) -> ByteString {
    frame.to_string().into()
}

/// `ready`: the first frame, and each time that the agent was paused or runs again.
pub(super) fn ready(agent: &AgentFacts) -> ByteString {
    text(&json!({
        "type": "ready",
        "agent_id": agent.id,
        "agent_name": &*agent.name,
        "paused": agent.state != AgentState::Running,
    }))
}

/// `ok`: the answer to a frame. A field `type` of what is answered stands under another name, since that is the frame's.
pub(super) fn ok(id: Option<&Value>, answer: Value) -> ByteString {
    let mut frame = json!({ "type": "ok" });
    if let Some(id) = id {
        set(&mut frame, "id", id.clone());
    }
    if let Value::Object(fields) = answer {
        for (name, value) in fields {
            set(&mut frame, if name == "type" { "target_type" } else { name.as_str() }, value);
        }
    }
    text(&frame)
}

pub(super) fn pong(id: Option<&Value>) -> ByteString {
    let mut frame = json!({ "type": "pong" });
    if let Some(id) = id {
        set(&mut frame, "id", id.clone());
    }
    text(&frame)
}

/// `error`: a frame was refused.
pub(super) fn error(id: Option<&Value>, error: &Error) -> ByteString {
    let mut frame = json!({ "type": "error" });
    if let Some(id) = id {
        set(&mut frame, "id", id.clone());
    }
    set(&mut frame, "code", json!(error.code()));
    set(&mut frame, "detail", json!(error.message()));
    if !error.fields().is_empty() {
        set(&mut frame, "fields", json!(error.fields()));
    }
    if let Some(details) = error.details() {
        set(&mut frame, "details", details.clone());
    }
    if let Some(seconds) = error.retry_after_s() {
        set(&mut frame, "retry_after", json!(seconds));
    }
    text(&frame)
}

/// `error` of a client that broke the protocol; a close follows.
pub fn broken(code: ErrorCode, reason: &str) -> String {
    json!({ "type": "error", "code": code, "detail": reason }).to_string()
}

/// `going_away`: the close that follows is not the client's fault.
pub(super) fn going_away(reason: &str) -> ByteString {
    text(&json!({ "type": "going_away", "detail": reason }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(frame: &ByteString) -> Value {
        serde_json::from_str(frame).expect("JSON")
    }

    #[test]
    fn an_answer_repeats_the_id_and_keeps_the_frames_type() {
        let frame = ok(Some(&json!("a-1")), json!({ "status": "accepted", "type": "openclaw_agent" }));
        let expected = json!({ "type": "ok", "id": "a-1", "status": "accepted", "target_type": "openclaw_agent" });
        assert_eq!(read(&frame), expected);
        assert_eq!(read(&ok(None, json!({}))), json!({ "type": "ok" }));
    }

    #[test]
    fn a_refusal_names_the_field_and_when_to_come_again() {
        let refused = read(&error(Some(&json!(7)), &Error::invalid("result", "`result` must not be empty")));
        assert_eq!((&refused["id"], &refused["code"]), (&json!(7), &json!("validation_error")));
        assert_eq!(refused["fields"][0]["field"], "result");
        let busy = read(&error(None, &Error::store_busy()));
        assert_eq!((busy.get("id"), &busy["retry_after"]), (None, &json!(1)));
    }
}
