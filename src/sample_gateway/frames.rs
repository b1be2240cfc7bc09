//! The frames a gateway sends, as text. Pure.
use serde_json::{Value, json};

/// A request that is refused.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) details: Option<Value>,
    /// Set if the same request may succeed later: after how many milliseconds to ask again.
    pub(super) retry_after_ms: Option<u64>,
}

impl Refusal {
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self { code: "INVALID_REQUEST", message: message.into(), details: None, retry_after_ms: None }
    }

    pub(super) fn unavailable(message: &str, reason: &str) -> Self {
        let details = Some(json!({ "reason": reason }));
        Self { code: "UNAVAILABLE", message: message.to_owned(), details, retry_after_ms: Some(500) }
    }

    pub(super) fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }
}

/// Writes the answer to a request.
pub(super) fn response(id: &str, outcome: &Result<Value, Refusal>) -> String {
    match outcome {
        Ok(payload) => json!({ "type": "res", "id": id, "ok": true, "payload": payload }).to_string(),
        Err(refusal) => {
            let mut error = json!({ "code": refusal.code, "message": refusal.message });
            if let Some(details) = &refusal.details {
                set(&mut error, "details", details.clone());
            }
            if let Some(retry_after_ms) = refusal.retry_after_ms {
                set(&mut error, "retryable", json!(true));
                set(&mut error, "retryAfterMs", json!(retry_after_ms));
            }
            json!({ "type": "res", "id": id, "ok": false, "error": error }).to_string()
        }
    }
}

/// Writes an event; only the challenge has no number.
pub(super) fn event(name: &str, payload: &Value, seq: Option<u64>) -> String {
    let mut frame = json!({ "type": "event", "event": name, "payload": payload });
    if let Some(seq) = seq {
        set(&mut frame, "seq", json!(seq));
    }
    frame.to_string()
}

/// Builds the message of an assistant as events and rows carry it.
pub(super) fn assistant(text: &str, timestamp: i64) -> Value {
    json!({ "role": "assistant", "content": [{ "type": "text", "text": text }], "timestamp": timestamp })
}

/// Sets a property of a JSON object; leaves anything else alone.
pub(super) fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

/// Adds the properties of one JSON object to another.
pub(super) fn merge(object: &mut Value, more: Value) {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
}

/// A request as it came in.
pub(super) struct Request {
    pub(super) id: String,
    pub(super) method: String,
    pub(super) params: Value,
}

/// What is wrong with a frame: the id to answer with, and the reason.
#[derive(Debug, PartialEq)]
pub(super) struct BadFrame {
    pub(super) id: String,
    pub(super) message: String,
}

impl TryFrom<Value> for Request {
    type Error = BadFrame;

    fn try_from(mut frame: Value) -> Result<Self, BadFrame> {
        const KNOWN: [&str; 6] = ["type", "id", "method", "params", "traceparent", "expectedProfileId"];
        let text =
            |key: &str| frame.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
        let (id, method) = (text("id"), text("method"));
        let unknown = frame.as_object().and_then(|object| object.keys().find(|key| !KNOWN.contains(&key.as_str())));
        let problem = match (&id, &method) {
            _ if text("type").as_deref() != Some("req") => "at /type: must be equal to constant".to_owned(),
            (None, _) => "at /id: must be a string of at least one character".to_owned(),
            (_, None) => "at /method: must be a string of at least one character".to_owned(),
            _ => unknown.map(|key| format!("at root: unexpected property '{key}'")).unwrap_or_default(),
        };
        match (id, method) {
            (Some(id), Some(method)) if problem.is_empty() => {
                let params = frame.get_mut("params").map_or_else(|| json!({}), Value::take);
                Ok(Self { id, method, params })
            }
            (id, _) => Err(BadFrame {
                id: id.unwrap_or_else(|| "invalid".to_owned()),
                message: format!("invalid request frame: {problem}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_closed_object() {
        let good = json!({ "type": "req", "id": "1", "method": "health" });
        assert_eq!(Request::try_from(good.clone()).ok().map(|request| request.params), Some(json!({})));
        for (key, value) in [("type", json!("res")), ("id", json!(7)), ("method", json!("")), ("bogus", json!(1))] {
            let mut bad = good.clone();
            set(&mut bad, key, value);
            let refused = Request::try_from(bad).err().expect(key);
            assert_eq!(refused.id, if key == "id" { "invalid" } else { "1" });
        }
    }
}
