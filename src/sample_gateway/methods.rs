//! What a connected client may ask for, and the answers. Pure.
use serde_json::{Map, Value, json};

use super::frames::{Refusal, Request, merge, response, set};
use super::gateway::{Effect, Gateway, Incoming};
use super::session::{AGENT, MODEL, PROVIDER, canonical, cut_texts, row_of_protocol_3};

const READ: &str = "operator.read";
const WRITE: &str = "operator.write";
const ADMIN: &str = "operator.admin";
/// The methods of this gateway, each with the scope it needs.
pub(super) const METHODS: [(&str, &str); 8] = [
    ("health", READ),
    ("agents.list", READ),
    ("models.list", READ),
    ("sessions.list", READ),
    ("chat.history", READ),
    ("chat.send", WRITE),
    ("chat.abort", WRITE),
    ("sessions.reset", ADMIN),
];
const PAGE_MAX: usize = 1_000;
const PAGE_USUAL: usize = 200;
const TEXT_CHARS_USUAL: usize = 8_000;
const TEXT_CHARS_MAX: usize = 500_000;

/// Tells whether these scopes include another one.
pub(super) fn may(scopes: &[String], scope: &str) -> bool {
    scopes.iter().any(|held| held == scope || held == ADMIN || (held == WRITE && scope == READ))
}

/// Answers a request; the answer stands among the effects where a client of the real gateway would find it.
pub(super) fn handle(
    gateway: &mut Gateway,
    peer: u64,
    scopes: &[String],
    request: &Request,
    now: i64,
    out: &mut Vec<Effect>,
) {
    let mut events = Vec::new();
    let outcome = call(gateway, peer, scopes, request, now, &mut events);
    let answer = Effect::Answer { peer, frame: response(&request.id, &outcome) };
    // An abort is reported before it is acknowledged, anything else after.
    if request.method == "chat.abort" {
        out.append(&mut events);
        out.push(answer);
    } else {
        out.push(answer);
        out.append(&mut events);
    }
}

fn call(
    gateway: &mut Gateway,
    peer: u64,
    scopes: &[String],
    request: &Request,
    now: i64,
    out: &mut Vec<Effect>,
) -> Result<Value, Refusal> {
    let Request { method, params, .. } = request;
    if method == "connect" {
        return Err(Refusal::invalid("connect is only valid as the first request"));
    }
    let known = METHODS.iter().find(|(name, _)| name == method).map(|(_, scope)| *scope);
    let needed = known.unwrap_or(ADMIN);
    if !may(scopes, needed) {
        return Err(missing_scope(gateway.protocol, needed));
    }
    match method.as_str() {
        "health" => {
            closed(method, params, &[], &["probe", "includeSensitive"])?;
            let sessions = gateway.sessions.len();
            Ok(
                json!({ "ok": true, "ts": now, "durationMs": 0, "defaultAgentId": AGENT, "sessions": { "count": sessions } }),
            )
        }
        "agents.list" => {
            closed(method, params, &[], &[])?;
            let model = json!({ "primary": format!("{PROVIDER}/{MODEL}") });
            let agents = json!([{ "id": AGENT, "name": "Sample agent", "model": model }]);
            Ok(json!({ "defaultId": AGENT, "mainKey": "main", "scope": "per-sender", "agents": agents }))
        }
        "models.list" => {
            closed(method, params, &[], &["view"])?;
            let model = |id: &str, name: &str| {
                json!({
                    "id": id, "name": name, "provider": PROVIDER, "contextWindow": 200_000, "reasoning": false,
                    "available": true,
                })
            };
            Ok(json!({ "models": [model(MODEL, "Echo"), model("echo-alt", "Echo, the other one")] }))
        }
        "sessions.list" => list_sessions(gateway, params, now),
        "chat.history" => history(gateway, params),
        "chat.send" => send(gateway, peer, params, now, out),
        "chat.abort" => {
            let params = closed(method, params, &["sessionKey"], &["runId", "agentId"])?;
            let key = canonical(text(method, params, "sessionKey")?)?;
            let run_id = params.get("runId").and_then(Value::as_str);
            let run_ids = gateway.abort(&key, run_id, now, out);
            Ok(json!({ "ok": true, "aborted": !run_ids.is_empty(), "runIds": run_ids }))
        }
        "sessions.reset" => {
            let params = closed(method, params, &["key"], &["agentId", "reason"])?;
            let key = canonical(text(method, params, "key")?)?;
            let session = gateway.reset(&key, now, out)?;
            let mut entry = session.describe(&key, &[]);
            set(&mut entry, "lifecycleRevision", json!(session.revision));
            Ok(json!({ "ok": true, "key": key, "entry": entry }))
        }
        unknown => Err(Refusal::invalid(format!("unknown method: {unknown}"))),
    }
}

fn missing_scope(protocol: u8, scope: &str) -> Refusal {
    let refusal = Refusal::invalid(format!("missing scope: {scope}"));
    if protocol < 4 {
        return refusal;
    }
    let details = json!({ "code": "MISSING_SCOPE", "missingScope": scope, "requiredScopes": [scope] });
    Refusal { code: "FORBIDDEN", ..refusal.with_details(details) }
}

fn send(gateway: &mut Gateway, peer: u64, params: &Value, now: i64, out: &mut Vec<Effect>) -> Result<Value, Refusal> {
    gateway.note_send(params);
    let method = "chat.send";
    let optional = ["agentId", "sessionId", "thinking", "attachments", "timeoutMs", "queueMode", "deliver"];
    let params = closed(method, params, &["sessionKey", "message", "idempotencyKey"], &optional)?;
    let incoming = Incoming {
        session_key: text(method, params, "sessionKey")?,
        idempotency_key: text(method, params, "idempotencyKey")?,
        text: text(method, params, "message")?,
    };
    let attached =
        params.get("attachments").and_then(Value::as_array).is_some_and(|attachments| !attachments.is_empty());
    if incoming.idempotency_key.is_empty() {
        return Err(Refusal::invalid(
            "invalid chat.send params: at /idempotencyKey: must NOT have fewer than 1 characters",
        ));
    }
    if incoming.text.trim().is_empty() && !attached {
        return Err(Refusal::invalid("message or attachment required"));
    }
    gateway.send(Some(peer), &incoming, now, out)
}

fn history(gateway: &Gateway, params: &Value) -> Result<Value, Refusal> {
    let method = "chat.history";
    let optional = ["agentId", "limit", "offset", "cursor", "messageId", "sessionId", "maxChars"];
    let params = closed(method, params, &["sessionKey"], &optional)?;
    let asked_key = text(method, params, "sessionKey")?;
    let key = canonical(asked_key)?;
    let limit = number(params, "limit").unwrap_or(PAGE_USUAL).clamp(1, PAGE_MAX);
    let chars_max = number(params, "maxChars").unwrap_or(TEXT_CHARS_USUAL).clamp(1, TEXT_CHARS_MAX);
    let session = gateway.sessions.get(&key);
    let (mut rows, next_offset) =
        session.map(|session| session.page(limit, number(params, "offset").unwrap_or(0))).unwrap_or_default();
    rows.iter_mut().for_each(|row| cut_texts(row, chars_max));
    let session_id = session.map(|session| session.id.clone());
    if gateway.protocol < 4 {
        let rows: Vec<Value> = rows.into_iter().map(row_of_protocol_3).collect();
        return Ok(
            json!({ "sessionKey": asked_key, "sessionId": session_id, "messages": rows, "thinkingLevel": "off" }),
        );
    }
    let info = match session {
        Some(session) => session.describe(&key, &gateway.runs_of(&key)),
        None => json!({ "key": key, "kind": "direct", "agentId": AGENT, "hasActiveRun": false, "activeRunIds": [] }),
    };
    let mut page = json!({
        "sessionKey": asked_key, "messages": rows, "pendingInputs": { "items": [], "total": 0 },
        "hasMore": next_offset.is_some(), "totalMessages": session.map_or(0, |session| session.rows().len()),
        "sessionInfo": info, "defaults": { "modelProvider": PROVIDER, "model": MODEL },
    });
    if let Some(session_id) = session_id {
        set(&mut page, "sessionId", json!(session_id));
    }
    if let Some(next_offset) = next_offset {
        set(&mut page, "nextOffset", json!(next_offset));
    }
    if let Some(run) = gateway.runs.values().find(|run| run.session == key) {
        let run = json!({ "runId": run.run_id, "text": run.text, "startedAt": run.started_at });
        set(&mut page, "inFlightRun", run);
    }
    Ok(page)
}

fn list_sessions(gateway: &Gateway, params: &Value, now: i64) -> Result<Value, Refusal> {
    let optional = [
        "limit",
        "offset",
        "agentId",
        "search",
        "label",
        "archived",
        "activeMinutes",
        "includeGlobal",
        "includeUnknown",
        "includeLastMessage",
        "includeDerivedTitles",
    ];
    let params = closed("sessions.list", params, &[], &optional)?;
    let flag = |key: &str| params.get(key).and_then(Value::as_bool).unwrap_or(false);
    let search = params.get("search").and_then(Value::as_str).unwrap_or_default().to_lowercase();
    let mut sessions: Vec<_> = gateway.sessions.iter().filter(|(key, _)| key.contains(&search)).collect();
    sessions.sort_by_key(|(_, session)| std::cmp::Reverse(session.updated_at));
    let total = sessions.len();
    let limit = number(params, "limit").unwrap_or(PAGE_USUAL).clamp(1, PAGE_MAX);
    let offset = number(params, "offset").unwrap_or(0).min(total);
    let page = sessions.into_iter().skip(offset).take(limit).map(|(key, session)| {
        let mut row = session.describe(key, &gateway.runs_of(key));
        if let Some(last) = session.last_text().filter(|_| flag("includeLastMessage")) {
            set(&mut row, "lastMessagePreview", json!(last.chars().take(200).collect::<String>()));
        }
        row
    });
    let page: Vec<Value> = page.collect();
    let (count, next_offset) = (page.len(), offset + page.len());
    let mut list = json!({
        "ts": now, "count": count, "totalCount": total, "hasMore": next_offset < total, "sessions": page,
        "defaults": { "modelProvider": PROVIDER, "model": MODEL },
    });
    if next_offset < total {
        merge(&mut list, json!({ "limitApplied": limit, "nextOffset": next_offset }));
    }
    Ok(list)
}

/// Reads parameters as the closed object they are: an unknown property is an error, and so is a missing one.
pub(super) fn closed<'a>(
    method: &str,
    params: &'a Value,
    required: &[&str],
    optional: &[&str],
) -> Result<&'a Map<String, Value>, Refusal> {
    let Some(object) = params.as_object() else {
        return Err(Refusal::invalid(format!("invalid {method} params: at root: must be object")));
    };
    if let Some(key) = required.iter().find(|key| !object.contains_key(**key)) {
        return Err(Refusal::invalid(format!("invalid {method} params: must have required property '{key}'")));
    }
    let allowed = |key: &str| required.contains(&key) || optional.contains(&key);
    match object.keys().find(|key| !allowed(key)) {
        Some(key) => Err(Refusal::invalid(format!("invalid {method} params: at root: unexpected property '{key}'"))),
        None => Ok(object),
    }
}

fn text<'a>(method: &str, params: &'a Map<String, Value>, key: &str) -> Result<&'a str, Refusal> {
    let text = params.get(key).and_then(Value::as_str);
    text.ok_or_else(|| Refusal::invalid(format!("invalid {method} params: at /{key}: must be string")))
}

fn number(params: &Map<String, Value>, key: &str) -> Option<usize> {
    params.get(key).and_then(Value::as_u64).map(|number| usize::try_from(number).unwrap_or(usize::MAX))
}
