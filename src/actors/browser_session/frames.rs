//! The frames a browser gets, built once and shared where many get the same.
use std::sync::Arc;

use bytestring::ByteString;
use serde_json::{Value, json};

use crate::domain::delivery::Delivery;
use crate::domain::error::Error;
use crate::domain::event::{Live, LiveStep, Topic, TurnEnd};
use crate::domain::gateway::LinkStatus;
use crate::domain::ids::GatewayId;
use crate::domain::message::Line;
use crate::domain::turn::TurnState;
use crate::domain::wire::message_json;

/// How a socket wants the text of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deltas {
    /// The text so far, which the ancestor's clients put in the place of what they show.
    Cumulative,
    /// The new part only, with its place.
    Increment,
}

/// Names the session in a frame, and on a federated socket the gateway.
fn name(frame: &mut Value, topic: &Topic, federated: bool) {
    frame["sessionKey"] = json!(&*topic.key);
    if federated {
        frame["gatewayId"] = json!(topic.gateway_id);
    }
}

fn text(frame: &Value) -> ByteString {
    frame.to_string().into()
}

/// `connected` or `reconnected`.
pub fn connected(kind: &str, id: &GatewayId, status: &LinkStatus, deltas: Deltas, federated: bool) -> ByteString {
    let mut frame = json!({
        "type": kind,
        "agents": status.agents,
        "models": status.models,
        "defaultModel": status.default_model,
        "gateway": { "id": id, "state": status.state },
        "deltas": match deltas { Deltas::Cumulative => "cumulative", Deltas::Increment => "increment" },
    });
    if federated {
        frame["gatewayId"] = json!(id);
    }
    text(&frame)
}

/// `disconnected`.
pub fn disconnected(id: &GatewayId, status: &LinkStatus, reason: &str, retry_in_ms: Option<u64>, federated: bool) -> ByteString {
    let mut frame = json!({
        "type": "disconnected",
        "reason": reason,
        "gateway": { "id": id, "state": status.state },
    });
    if let Some(ms) = retry_in_ms {
        frame["retryInMs"] = json!(ms);
    }
    if federated {
        frame["gatewayId"] = json!(id);
    }
    text(&frame)
}

pub fn ack(topic: &Topic, line: &Line, client_key: Option<&str>, sent: bool, federated: bool) -> ByteString {
    let mut frame = json!({
        "type": "ack",
        "messageId": line.id,
        "seq": line.seq,
        "state": if sent { "sent" } else { "queued" },
    });
    if let Some(key) = client_key {
        frame["idempotencyKey"] = json!(key);
    }
    name(&mut frame, topic, federated);
    text(&frame)
}

pub fn message(topic: &Topic, line: &Line, federated: bool) -> ByteString {
    let mut frame = json!({ "type": "message", "message": message_json(line, None) });
    name(&mut frame, topic, federated);
    text(&frame)
}

/// `delivery`: what became of a line later.
pub fn delivery(topic: &Topic, delivery: &Delivery, state: &str, federated: bool) -> ByteString {
    let mut frame = json!({ "type": "delivery", "messageId": delivery.message_id, "state": state });
    if let Some(outcome) = delivery.outcome {
        frame["outcome"] = json!(outcome);
    }
    if let Some(reason) = &delivery.reason {
        frame["reason"] = json!(reason);
    }
    name(&mut frame, topic, federated);
    text(&frame)
}

pub fn imported(topic: &Topic, first_seq: i64, done: bool, federated: bool) -> ByteString {
    let mut frame = json!({ "type": "imported", "firstSeq": first_seq, "done": done });
    name(&mut frame, topic, federated);
    text(&frame)
}

pub fn reset(topic: &Topic, reason: &str, first_seq: i64, last_seq: i64, federated: bool) -> ByteString {
    let mut frame = json!({ "type": "reset", "reason": reason, "firstSeq": first_seq, "lastSeq": last_seq });
    name(&mut frame, topic, federated);
    text(&frame)
}

/// `subscribed` or `resumed`.
pub fn watching(kind: &str, topic: &Topic, last_seq: i64, run: Option<&Live>, federated: bool) -> ByteString {
    let mut frame = json!({ "type": kind, "lastSeq": last_seq });
    if let Some(live) = run {
        frame["activeRun"] = json!({
            "runId": live.turn_id,
            "messageId": live.message_id,
            "startedAt": live.started_at,
        });
    }
    name(&mut frame, topic, federated);
    text(&frame)
}

pub fn history(topic: &Topic, lines: &[Arc<Line>], has_more: bool, federated: bool) -> ByteString {
    let messages: Vec<Value> = lines.iter().map(|line| message_json(line, None)).collect();
    let mut frame = json!({
        "type": "history",
        "messages": messages,
        "firstSeq": lines.first().map(|line| line.seq),
        "lastSeq": lines.last().map(|line| line.seq),
        "hasMore": has_more,
    });
    name(&mut frame, topic, federated);
    text(&frame)
}

/// What a socket has of a run's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Have {
    pub bytes: usize,
    pub utf16: usize,
}

/// The live frame that brings a client from what it has to the newest text; `None` when there is nothing to say.
pub fn live(
    topic: &Topic,
    live: &Live,
    n: u64,
    deltas: Deltas,
    have: Have,
    whole: bool,
    federated: bool,
) -> Option<(ByteString, Have)> {
    let now = |part: &str| Have { bytes: live.text.len(), utf16: have.utf16 + part.encode_utf16().count() };
    let mut frame = json!({ "type": "stream", "runId": live.turn_id, "n": n });
    let has = match (&live.step, live.text.get(have.bytes..)) {
        _ if whole => {
            frame["state"] = json!(if deltas == Deltas::Cumulative { "delta" } else { "snapshot" });
            frame["text"] = json!(&*live.text);
            Have { bytes: live.text.len(), utf16: live.text.encode_utf16().count() }
        }
        (LiveStep::Phase(phase), Some("")) => {
            frame["state"] = json!("status");
            frame["phase"] = json!(phase);
            have
        }
        (_, Some("")) => return None,
        (_, Some(part)) => {
            frame["state"] = json!("delta");
            if deltas == Deltas::Increment {
                frame["text"] = json!(part);
                frame["at"] = json!(have.utf16);
            } else {
                frame["text"] = json!(&*live.text);
            }
            now(part)
        }
        // The text has become another one.
        (_, None) => return self::live(topic, live, n, deltas, have, true, federated),
    };
    name(&mut frame, topic, federated);
    Some((text(&frame), has))
}

/// A snapshot for someone who has just come.
pub fn snapshot(topic: &Topic, live: &Live, n: u64, federated: bool) -> (ByteString, Have) {
    let mut frame = json!({ "type": "stream", "state": "snapshot", "runId": live.turn_id, "n": n, "text": &*live.text });
    name(&mut frame, topic, federated);
    (text(&frame), Have { bytes: live.text.len(), utf16: live.text.encode_utf16().count() })
}

/// `final`, `aborted` or `error`: the end of a run.
pub fn terminal(topic: &Topic, end: &TurnEnd, line: Option<&Line>, n: u64, federated: bool) -> ByteString {
    let state = match end.state {
        TurnState::Aborted => "aborted",
        TurnState::Error | TurnState::Interrupted => "error",
        _ => "final",
    };
    let mut frame = json!({ "type": "stream", "state": state, "runId": end.turn_id, "n": n, "text": &*end.text });
    if let Some(error) = &end.error {
        frame["error"] = json!(error);
    }
    if let Some(code) = end.code {
        frame["code"] = json!(code);
    }
    if let Some(usage) = &end.usage {
        frame["usage"] = usage.clone();
    }
    if let Some(line) = line {
        frame["messageId"] = json!(line.id);
        frame["seq"] = json!(line.seq);
    }
    name(&mut frame, topic, federated);
    text(&frame)
}

pub fn error(error: &Error, session_key: Option<&str>, client_key: Option<&str>, gateway_id: Option<&str>) -> ByteString {
    let mut frame = json!({ "type": "error", "error": error.message(), "code": error.code() });
    if let Some(key) = session_key {
        frame["sessionKey"] = json!(key);
    }
    if let Some(key) = client_key {
        frame["idempotencyKey"] = json!(key);
    }
    if let Some(id) = gateway_id {
        frame["gatewayId"] = json!(id);
    }
    if let Some(seconds) = error.retry_after_s() {
        frame["retryAfter"] = json!(seconds);
    }
    text(&frame)
}

pub fn pong() -> ByteString {
    ByteString::from_static(r#"{"type":"pong"}"#)
}
