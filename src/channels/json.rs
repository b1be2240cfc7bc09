//! Reading JSON that may have any shape.
use serde_json::Value;

/// Reads a body; anything that is not JSON counts as null.
pub(super) fn parse(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}

/// Returns the text at a JSON pointer.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

/// Returns the number at a JSON pointer; some providers write numbers as texts.
pub(super) fn number(value: &Value, pointer: &str) -> Option<i64> {
    match value.pointer(pointer)? {
        Value::String(text) => text.parse().ok(),
        other => other.as_i64(),
    }
}

/// Returns the id at a JSON pointer: a text, or a whole number as text. An empty one is none.
pub(super) fn id(value: &Value, pointer: &str) -> Option<String> {
    match value.pointer(pointer)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}

/// Returns the items at a JSON pointer.
pub(super) fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_there_or_of_another_type_is_none() {
        let value = json!({ "a": { "b": "7", "c": 7, "d": [1], "e": "", "f": 1.5 } });
        assert_eq!((text(&value, "/a/b"), text(&value, "/a/c"), text(&value, "/x")), (Some("7"), None, None));
        assert_eq!((number(&value, "/a/b"), number(&value, "/a/c"), number(&value, "/a/e")), (Some(7), Some(7), None));
        assert_eq!((id(&value, "/a/b"), id(&value, "/a/c")), (Some("7".to_owned()), Some("7".to_owned())));
        assert_eq!((id(&value, "/a/e"), id(&value, "/a/f"), id(&value, "/a/d")), (None, None, None));
        assert_eq!((items(&value, "/a/d").len(), items(&value, "/a/b").len()), (1, 0));
        assert_eq!(parse(b"<html>"), Value::Null);
    }
}
