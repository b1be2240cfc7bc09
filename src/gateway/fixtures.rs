//! The recorded transcripts, for the unit tests of this room.
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::frames::{GatewayError, Inbound};

/// One frame of a transcript.
pub(crate) struct Recorded {
    /// Name of the file, without its ending.
    pub(crate) file: String,
    pub(crate) inbound: bool,
    pub(crate) frame: String,
}

fn folder() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/openclaw-gateway")).to_path_buf()
}

/// The names of all transcripts.
pub(crate) fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder())
        .expect("fixtures are in the repository")
        .map(|entry| entry.expect("readable folder").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"))
        .map(|path| path.file_stem().expect("has a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() > 40, "the transcripts are there");
    names
}

/// The frames of one transcript in order; notes are left out.
pub(crate) fn frames(name: &str) -> Vec<Recorded> {
    let text = fs::read_to_string(folder().join(format!("{name}.jsonl"))).expect("a transcript");
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("one JSON object a line"))
        .filter(|line| line["dir"] != "note")
        .map(|line| Recorded { file: name.to_owned(), inbound: line["dir"] == "in", frame: line["frame"].to_string() })
        .collect()
}

/// The parameters of the first request for `method` in a transcript.
pub(crate) fn sent(name: &str, method: &str) -> Value {
    frames(name)
        .into_iter()
        .filter(|recorded| !recorded.inbound)
        .map(|recorded| serde_json::from_str::<Value>(&recorded.frame).expect("JSON"))
        .find(|frame| frame["method"] == method)
        .map(|frame| frame["params"].clone())
        .expect("the request is in the transcript")
}

/// The answers to all requests for `method` in a transcript, in order.
pub(crate) fn answers(name: &str, method: &str) -> Vec<Result<Box<serde_json::value::RawValue>, GatewayError>> {
    let mut methods: HashMap<String, String> = HashMap::new();
    let mut found = Vec::new();
    for recorded in frames(name) {
        if !recorded.inbound {
            let frame: Value = serde_json::from_str(&recorded.frame).expect("JSON");
            let text = |key: &str| frame[key].as_str().unwrap_or_default().to_owned();
            methods.insert(text("id"), text("method"));
        } else if let Inbound::Response { id, result } = Inbound::parse(&recorded.frame).expect("a frame")
            && methods.get(&id).is_some_and(|asked| asked == method)
        {
            found.push(result);
        }
    }
    found
}

/// The payloads of all events of this name in a transcript, decoded.
pub(crate) fn events<T: for<'de> serde::Deserialize<'de>>(name: &str, event_name: &str) -> Vec<T> {
    frames(name)
        .into_iter()
        .filter(|recorded| recorded.inbound)
        .filter_map(|recorded| match Inbound::parse(&recorded.frame).expect("a frame") {
            Inbound::Event { event, payload, .. } if event == event_name => {
                Some(super::frames::decode(&payload).expect("a known payload"))
            }
            _ => None,
        })
        .collect()
}

/// Every variant of a JSON object in which one value, at any depth, is of another kind.
pub(crate) fn spoiled(value: &Value) -> Vec<Value> {
    let odd = [Value::Null, Value::from(-1.5), Value::from(""), serde_json::json!([[]]), serde_json::json!({"x": [1]})];
    let mut variants: Vec<Value> = odd.to_vec();
    let replaced =
        |keep: &dyn Fn(Value) -> Value, inner: &Value| -> Vec<Value> { spoiled(inner).into_iter().map(keep).collect() };
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                let put = |new: Value| {
                    let mut copy = fields.clone();
                    copy.insert(key.clone(), new);
                    Value::Object(copy)
                };
                variants.extend(replaced(&put, inner));
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                let put = |new: Value| {
                    let mut copy = items.clone();
                    copy[index] = new;
                    Value::Array(copy)
                };
                variants.extend(replaced(&put, inner));
            }
        }
        _ => {}
    }
    variants
}
