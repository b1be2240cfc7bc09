//! Messages as clients see them.
use serde_json::{Value, json};

use super::message::Line;
use super::time::iso;

/// `{id, session_id?, seq, role, content, timestamp (ms), created_at (ISO), sender, late?, supersedes?,
/// kind?, in_reply_to?, hops?, error?}`; the last but one where an agent or a person is to handle it.
pub fn message_json(line: &Line, session_id: Option<&str>) -> Value {
    let mut message = json!({
        "id": line.id,
        "seq": line.seq,
        "role": line.role,
        "content": line.blocks,
        "timestamp": line.said_at,
        "created_at": iso(line.created_at),
        "sender": line.sender,
    });
    if let Some(id) = session_id {
        set(&mut message, "session_id", json!(id));
    }
    if line.late {
        set(&mut message, "late", json!(true));
    }
    if let Some(id) = line.supersedes {
        set(&mut message, "supersedes", json!(id));
    }
    if let Some(kind) = line.kind {
        set(&mut message, "kind", json!(kind));
        set(&mut message, "in_reply_to", json!(line.in_reply_to));
        set(&mut message, "hops", json!(line.hops));
    }
    if let Some(error) = &line.error {
        set(&mut message, "error", json!(error));
    }
    message
}

/// Sets a field of a JSON object; anything else is left as it is.
pub fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(field.to_owned(), value);
    }
}
