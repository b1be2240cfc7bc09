//! The frames a browser gets, built once and shared where many get the same.
use std::cell::RefCell;
use std::sync::Arc;

use bytestring::ByteString;
use serde_json::{Value, json};

use crate::domain::agent::AgentFacts;
use crate::domain::delivery::Delivery;
use crate::domain::error::Error;
use crate::domain::event::{Live, LiveStep, Topic, TurnEnd};
use crate::domain::gateway::LinkStatus;
use crate::domain::ids::GatewayId;
use crate::domain::message::Line;
use crate::domain::turn::TurnState;
use crate::domain::wire::{message_json, set};

/// How a socket wants the text of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deltas {
    /// The text so far, which the ancestor's clients put in the place of what they show.
    Cumulative,
    /// The new part only, with its place.
    Increment,
}

impl Deltas {
    fn name(self) -> &'static str {
        match self {
            Self::Cumulative => "cumulative",
            Self::Increment => "increment",
        }
    }
}

/// Names the session in a frame, and on a federated socket the gateway.
fn name(frame: &mut Value, topic: &Topic, federated: bool) {
    set(frame, "sessionKey", json!(&*topic.key));
    if federated {
        set(frame, "gatewayId", json!(topic.gateway_id));
    }
}

fn text(frame: &Value) -> ByteString {
    frame.to_string().into()
}

/// `connected` or `reconnected`.
pub(super) fn connected(
    kind: &str,
    id: &GatewayId,
    status: &LinkStatus,
    deltas: Deltas,
    federated: bool,
) -> ByteString {
    let mut frame = json!({
        "type": kind,
        "agents": status.agents,
        "models": status.models,
        "defaultModel": status.default_model,
        "gateway": { "id": id, "state": status.state },
        "deltas": deltas.name(),
    });
    if federated {
        set(&mut frame, "gatewayId", json!(id));
    }
    text(&frame)
}

/// `connected` of a socket that talks to an agent.
pub(super) fn agent_connected(agent: &AgentFacts, is_online: bool, deltas: Deltas) -> ByteString {
    text(&json!({
        "type": "connected",
        "agents": [{ "id": agent.id, "name": &*agent.name }],
        "models": [],
        "defaultModel": null,
        "gateway": null,
        "agent": {
            "id": agent.id,
            "name": &*agent.name,
            "status": agent.state,
            "presence": if is_online { "online" } else { "offline" },
        },
        "deltas": deltas.name(),
    }))
}

/// `connected` of a federated socket while there is no gateway.
pub(super) fn nothing_connected(deltas: Deltas) -> ByteString {
    text(&json!({
        "type": "connected",
        "agents": [],
        "models": [],
        "defaultModel": null,
        "gateway": null,
        "deltas": deltas.name(),
    }))
}

/// `disconnected`.
pub(super) fn disconnected(
    id: &GatewayId,
    status: &LinkStatus,
    reason: &str,
    retry_in_ms: Option<u64>,
    federated: bool,
) -> ByteString {
    let mut frame = json!({
        "type": "disconnected",
        "reason": reason,
        "gateway": { "id": id, "state": status.state },
    });
    if let Some(ms) = retry_in_ms {
        set(&mut frame, "retryInMs", json!(ms));
    }
    if federated {
        set(&mut frame, "gatewayId", json!(id));
    }
    text(&frame)
}

pub(super) fn ack(topic: &Topic, line: &Line, client_key: Option<&str>, sent: bool, federated: bool) -> ByteString {
    let mut frame = json!({
        "type": "ack",
        "messageId": line.id,
        "seq": line.seq,
        "state": if sent { "sent" } else { "queued" },
    });
    if let Some(key) = client_key {
        set(&mut frame, "idempotencyKey", json!(key));
    }
    name(&mut frame, topic, federated);
    text(&frame)
}

pub(super) fn message(topic: &Topic, line: &Line, federated: bool) -> ByteString {
    let mut frame = json!({ "type": "message", "message": message_json(line, None) });
    name(&mut frame, topic, federated);
    text(&frame)
}

/// `delivery`: what became of a line later.
pub(super) fn delivery(topic: &Topic, delivery: &Delivery, state: &str, federated: bool) -> ByteString {
    let mut frame = json!({ "type": "delivery", "messageId": delivery.message_id, "state": state });
    if let Some(outcome) = delivery.outcome {
        set(&mut frame, "outcome", json!(outcome));
    }
    if let Some(reason) = &delivery.reason {
        set(&mut frame, "reason", json!(reason));
    }
    name(&mut frame, topic, federated);
    text(&frame)
}

pub(super) fn imported(topic: &Topic, first_seq: i64, done: bool, federated: bool) -> ByteString {
    let mut frame = json!({ "type": "imported", "firstSeq": first_seq, "done": done });
    name(&mut frame, topic, federated);
    text(&frame)
}

pub(super) fn reset(topic: &Topic, reason: &str, first_seq: i64, last_seq: i64, federated: bool) -> ByteString {
    let mut frame = json!({ "type": "reset", "reason": reason, "firstSeq": first_seq, "lastSeq": last_seq });
    name(&mut frame, topic, federated);
    text(&frame)
}

/// `subscribed` or `resumed`.
pub(super) fn watching(kind: &str, topic: &Topic, last_seq: i64, run: Option<&Live>, federated: bool) -> ByteString {
    let mut frame = json!({ "type": kind, "lastSeq": last_seq });
    if let Some(live) = run {
        set(
            &mut frame,
            "activeRun",
            json!({
                "runId": live.turn_id,
                "messageId": live.message_id,
                "startedAt": live.started_at,
            }),
        );
    }
    name(&mut frame, topic, federated);
    text(&frame)
}

pub(super) fn history(topic: &Topic, lines: &[Arc<Line>], has_more: bool, federated: bool) -> ByteString {
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
pub(super) struct Have {
    pub(super) bytes: usize,
    pub(super) utf16: usize,
}

/// What the next live frame of a socket is made of, besides the run's newest text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// The number that the frame gets.
    pub(super) n: u64,
    pub(super) deltas: Deltas,
    /// What the client has.
    pub(super) have: Have,
    /// The client cannot go on from what it has.
    pub(super) whole: bool,
    pub(super) federated: bool,
}

/// A live frame, and what the client has with it.
type Made = (ByteString, Have);

thread_local! {
    /// The live frame that was made last on this thread. The sockets that watch a run get its frames one after the other,
    /// and most are at the same place: what one gets is made once for all of them.
    static LAST: RefCell<Option<(Arc<Live>, Next, Made)>> = const { RefCell::new(None) };
}

/// The live frame that brings a client from what it has to the newest text; `None` when there is nothing to say.
pub(super) fn live(topic: &Topic, live: &Arc<Live>, next: Next) -> Option<Made> {
    LAST.with_borrow_mut(|last| {
        if let Some((_, _, made)) = last.as_ref().filter(|(of, with, _)| Arc::ptr_eq(of, live) && *with == next) {
            return Some(made.clone());
        }
        let made = make_live(topic, live, next)?;
        *last = Some((live.clone(), next, made.clone()));
        Some(made)
    })
}

fn make_live(topic: &Topic, live: &Live, next: Next) -> Option<Made> {
    let Next { n, deltas, have, whole, federated } = next;
    let now = |part: &str| Have { bytes: live.text.len(), utf16: have.utf16 + part.encode_utf16().count() };
    let mut frame = json!({ "type": "stream", "runId": live.turn_id, "n": n });
    let has = match (&live.step, live.text.get(have.bytes..)) {
        _ if whole => {
            set(&mut frame, "state", json!(if deltas == Deltas::Cumulative { "delta" } else { "snapshot" }));
            set(&mut frame, "text", json!(&*live.text));
            Have { bytes: live.text.len(), utf16: live.text.encode_utf16().count() }
        }
        (LiveStep::Phase(phase), Some("")) => {
            set(&mut frame, "state", json!("status"));
            set(&mut frame, "phase", json!(phase));
            have
        }
        (_, Some("")) => return None,
        (_, Some(part)) => {
            set(&mut frame, "state", json!("delta"));
            if deltas == Deltas::Increment {
                set(&mut frame, "text", json!(part));
                set(&mut frame, "at", json!(have.utf16));
            } else {
                set(&mut frame, "text", json!(&*live.text));
            }
            now(part)
        }
        // The text has become another one.
        (_, None) => return make_live(topic, live, Next { whole: true, ..next }),
    };
    name(&mut frame, topic, federated);
    Some((text(&frame), has))
}

/// A snapshot for someone who has just come.
pub(super) fn snapshot(topic: &Topic, live: &Live, n: u64, federated: bool) -> (ByteString, Have) {
    let mut frame =
        json!({ "type": "stream", "state": "snapshot", "runId": live.turn_id, "n": n, "text": &*live.text });
    name(&mut frame, topic, federated);
    (text(&frame), Have { bytes: live.text.len(), utf16: live.text.encode_utf16().count() })
}

/// `final`, `aborted` or `error`: the end of a run.
pub(super) fn terminal(topic: &Topic, end: &TurnEnd, line: Option<&Line>, n: u64, federated: bool) -> ByteString {
    let state = match end.state {
        TurnState::Aborted => "aborted",
        TurnState::Error | TurnState::Interrupted => "error",
        _ => "final",
    };
    let mut frame = json!({ "type": "stream", "state": state, "runId": end.turn_id, "n": n, "text": &*end.text });
    if let Some(error) = &end.error {
        set(&mut frame, "error", json!(error));
    }
    if let Some(code) = end.code {
        set(&mut frame, "code", json!(code));
    }
    if let Some(usage) = &end.usage {
        set(&mut frame, "usage", usage.clone());
    }
    if let Some(line) = line {
        set(&mut frame, "messageId", json!(line.id));
        set(&mut frame, "seq", json!(line.seq));
    }
    name(&mut frame, topic, federated);
    text(&frame)
}

pub(super) fn error(
    error: &Error,
    session_key: Option<&str>,
    client_key: Option<&str>,
    gateway_id: Option<&str>,
) -> ByteString {
    let mut frame = json!({ "type": "error", "error": error.message(), "code": error.code() });
    if let Some(key) = session_key {
        set(&mut frame, "sessionKey", json!(key));
    }
    if let Some(key) = client_key {
        set(&mut frame, "idempotencyKey", json!(key));
    }
    if let Some(id) = gateway_id {
        set(&mut frame, "gatewayId", json!(id));
    }
    if let Some(seconds) = error.retry_after_s() {
        set(&mut frame, "retryAfter", json!(seconds));
    }
    text(&frame)
}

pub(super) fn pong() -> ByteString {
    ByteString::from_static(r#"{"type":"pong"}"#)
}
