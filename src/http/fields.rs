//! Reads a body or a query field by field, so that a refusal names the field.
//!
//! Serde alone tells where in the text a value was wrong, which nobody can point at in a form. This deserializer knows
//! the field it is at when an error comes, and asks values to be read from JSON or from a query's text. A NUL character
//! in a field is refused here once for all routes: PostgreSQL cannot store it.
mod strict;
mod text;

use std::fmt;

use serde::de::value::StringDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Unexpected, Visitor};
use serde_json::{Map, Value};
use strict::Strict;
use text::Text;

use crate::domain::error::Error;

/// What happens to fields that the type does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// The families' clients send extras.
    Ignored,
    Refused,
}

/// Pairs of a query; no route knows a third of it (LIM-1).
const PAIRS_MAX: usize = 64;

/// Fields whose values are never repeated in an error (SEC-1).
const SECRETS: [&str; 4] = ["token", "password", "api_key", "webhook_url"];

/// Reads `T` from the fields of a JSON object.
pub(super) fn of_object<T: DeserializeOwned>(object: Map<String, Value>, unknown: Unknown) -> Result<T, Error> {
    read("body", object.into_iter().collect(), unknown)
}

/// Reads `T` from a value that stands in a field; returns what is wrong with it.
pub(super) fn of_value<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    T::deserialize(Strict(value)).map_err(|fault| fault.message)
}

/// Reads `T` from the pairs of a query. A pair that comes twice counts once, the last time.
pub(super) fn of_query<T: DeserializeOwned>(query: &str, unknown: Unknown) -> Result<T, Error> {
    let mut pairs: Vec<(String, Text)> = Vec::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        pairs.retain(|(known, _)| *known != name);
        if pairs.len() == PAIRS_MAX {
            return Err(Error::invalid_at("query", "", format!("a query has at most {PAIRS_MAX} fields"), "too_long"));
        }
        pairs.push((name.into_owned(), Text(value.into_owned())));
    }
    read("query", pairs, unknown)
}

fn read<T: DeserializeOwned, V: Readable>(
    place: &'static str,
    fields: Vec<(String, V)>,
    unknown: Unknown,
) -> Result<T, Error> {
    let mut at = None;
    T::deserialize(Fields { rest: fields.into_iter(), value: None, at: &mut at, unknown }).map_err(|fault| {
        let field = fault.field.or(at).unwrap_or_default();
        let secret = SECRETS.contains(&field.as_str()) && fault.code == "type_error";
        let message = if secret { "must be a text".to_owned() } else { fault.message };
        Error::invalid_at(place, &field, message, fault.code)
    })
}

/// What was wrong.
#[derive(Debug)]
struct Fault {
    /// The field, where it is another one than the reader is at.
    field: Option<String>,
    message: String,
    code: &'static str,
}

impl Fault {
    fn new(code: &'static str, message: String) -> Self {
        Self { field: None, message, code }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new("value_error", message.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self { field: Some(field.to_owned()), message: format!("`{field}` is missing"), code: "missing" }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let shown: String = field.chars().take(64).collect();
        let close = expected
            .iter()
            .map(|known| (strsim::damerau_levenshtein(known, &shown), known))
            .min()
            .filter(|(distance, _)| *distance <= 2)
            .map_or_else(
                || match expected {
                    [] => "this takes none".to_owned(),
                    known => format!("known are: {}", known.join(", ")),
                },
                |(_, known)| format!("did you mean `{known}`?"),
            );
        Self {
            field: Some(shown.clone()),
            message: format!("`{shown}` is not known here; {close}"),
            code: "unknown_field",
        }
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::new("type_error", must_be(&expected.to_string(), &unexpected.to_string()))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::new("value_error", must_be(&expected.to_string(), &unexpected.to_string()))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let shown: String = variant.chars().take(64).collect();
        let known: Vec<String> = expected.iter().map(|known| format!("`{known}`")).collect();
        let known = if known.len() > 2 { format!("one of {}", known.join(", ")) } else { known.join(" or ") };
        Self::new("value_error", must_be(&known, &format!("`{shown}`")))
    }
}

/// Says what was expected and what was there, in the words of the wire where serde has those of Rust.
fn must_be(expected: &str, unexpected: &str) -> String {
    let expected = match expected {
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, zero or greater",
        "f32" | "f64" => "a number",
        "a string" | "a borrowed string" | "a character" => "a text",
        "a boolean" => "`true` or `false`",
        "a sequence" => "a list",
        "a map" => "an object",
        rust if rust.starts_with("struct ") => "an object",
        other => other,
    };
    let unexpected = match unexpected {
        "sequence" => "a list",
        "map" => "an object",
        "unit value" => "null",
        other => other,
    };
    format!("must be {expected}, not {unexpected}")
}

/// A value that a field can be read from.
trait Readable {
    /// Tells whether a text in it has a NUL character.
    fn has_nul(&self) -> bool;

    fn read<'de, S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault>;
}

impl Readable for Value {
    fn has_nul(&self) -> bool {
        match self {
            Self::String(text) => text.contains('\0'),
            Self::Array(items) => items.iter().any(Self::has_nul),
            Self::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || value.has_nul()),
            Self::Null | Self::Bool(_) | Self::Number(_) => false,
        }
    }

    fn read<'de, S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        seed.deserialize(Strict(self)).map_err(|fault| match fault.field {
            // A field of a value: what is wrong is the value, which is the field that the caller can look for.
            Some(_) => Fault { field: None, code: "value_error", ..fault },
            None => fault,
        })
    }
}

impl Readable for Text {
    fn has_nul(&self) -> bool {
        self.0.contains('\0')
    }

    fn read<'de, S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        seed.deserialize(self)
    }
}

/// The fields that are still to be read.
struct Fields<'a, V> {
    rest: std::vec::IntoIter<(String, V)>,
    value: Option<V>,
    /// The field that is being read.
    at: &'a mut Option<String>,
    unknown: Unknown,
}

impl<'de, R: Readable> Deserializer<'de> for Fields<'_, R> {
    type Error = Fault;

    fn deserialize_struct<T: Visitor<'de>>(
        self,
        _name: &'static str,
        known: &'static [&'static str],
        visitor: T,
    ) -> Result<T::Value, Fault> {
        if self.unknown == Unknown::Refused
            && let Some((name, _)) = self.rest.as_slice().iter().find(|(name, _)| !known.contains(&name.as_str()))
        {
            return Err(serde::de::Error::unknown_field(name, known));
        }
        let mut rest = self.rest.as_slice().iter().filter(|(name, _)| known.contains(&name.as_str()));
        if let Some((name, _)) = rest.find(|(_, value)| value.has_nul()) {
            return Err(Fault {
                field: Some(name.clone()),
                message: format!("`{name}` must not contain NUL characters"),
                code: "value_error",
            });
        }
        visitor.visit_map(self)
    }

    fn deserialize_any<T: Visitor<'de>>(self, visitor: T) -> Result<T::Value, Fault> {
        visitor.visit_map(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de, V: Readable> MapAccess<'de> for Fields<'_, V> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((name, value)) = self.rest.next() else {
            *self.at = None;
            return Ok(None);
        };
        self.value = Some(value);
        *self.at = Some(name.clone());
        let name: StringDeserializer<Fault> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        match self.value.take() {
            Some(value) => value.read(seed),
            None => Err(serde::de::Error::custom("a field without a value")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::domain::ids::{GatewayId, MessageId};
    use crate::domain::secret::Secret;

    #[derive(Debug, Deserialize)]
    struct New {
        id: Option<GatewayId>,
        name: String,
        #[serde(default)]
        count: u32,
        token: Option<Secret>,
        message: Option<MessageId>,
        mode: Option<Mode>,
        place: Option<Place>,
    }

    #[derive(Debug, Deserialize)]
    struct Place {
        #[expect(dead_code, reason = "only read from JSON")]
        room: String,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        Plain,
    }

    fn refusal(value: Value, unknown: Unknown) -> (String, &'static str, String) {
        let Value::Object(object) = value else { panic!("an object") };
        let error = of_object::<New>(object, unknown).expect_err("refused");
        let field = &error.fields()[0];
        (field.field.clone(), field.code, field.message.clone())
    }

    #[test]
    fn the_refused_field_is_named() {
        for (value, field, code) in [
            (json!({}), "name", "missing"),
            (json!({ "name": 1 }), "name", "type_error"),
            (json!({ "name": "x", "count": -1 }), "count", "value_error"),
            (json!({ "name": "x", "id": "a/b" }), "id", "value_error"),
            (json!({ "name": "x", "token": 12345 }), "token", "type_error"),
            (json!({ "name": "x", "nmae": "y" }), "nmae", "unknown_field"),
            (json!({ "name": "x\0" }), "name", "value_error"),
            (json!({ "name": "x", "count": [{ "deep": ["\0"] }] }), "count", "value_error"),
            (json!({ "name": "x", "mode": { "plain": null } }), "mode", "type_error"),
            (json!({ "name": "x", "place": ["here"] }), "place", "type_error"),
            (json!({ "name": "x", "place": {} }), "place", "value_error"),
        ] {
            let (found, kind, message) = refusal(value.clone(), Unknown::Refused);
            assert_eq!((found.as_str(), kind), (field, code), "{value}: {message}");
            assert!(!message.contains("12345"), "{message}");
        }
        let (_, _, message) = refusal(json!({ "name": "x", "nmae": "y" }), Unknown::Refused);
        assert_eq!(message, "`nmae` is not known here; did you mean `name`?");
    }

    #[test]
    fn a_refusal_speaks_the_words_of_the_wire() {
        for (value, expected) in [
            (json!({ "name": "x", "count": "5" }), "must be a whole number, zero or greater, not string \"5\""),
            (json!({ "name": "x", "count": -1 }), "must be a whole number, zero or greater, not integer `-1`"),
            (json!({ "name": 1 }), "must be a text, not integer `1`"),
            (json!({ "name": "x", "message": "7" }), "`7` is not a valid message id"),
            (json!({ "name": "x", "mode": "b" }), "must be `plain`, not `b`"),
            (json!({ "name": "x", "mode": 5 }), "must be a text, not integer `5`"),
            (json!({ "name": ["x"] }), "must be a text, not a list"),
            (json!({ "name": "x", "place": [] }), "must be an object, not a list"),
            (json!({ "name": "x", "place": {} }), "`room` is missing"),
        ] {
            let (_, _, message) = refusal(value.clone(), Unknown::Refused);
            assert_eq!(message, expected, "{value}");
        }
        for (query, expected) in [
            ("mode=b", "must be `plain`, not `b`"),
            ("message=7", "`7` is not a valid message id"),
            ("count=x", "must be a whole number, zero or greater"),
        ] {
            let error = of_query::<New>(&format!("name=x&{query}"), Unknown::Refused).expect_err(query);
            assert_eq!(error.fields()[0].message, expected, "{query}");
        }
    }

    #[test]
    fn extras_are_ignored_where_clients_send_them() {
        let Value::Object(object) = json!({ "name": "x", "extra": [1, "\0"] }) else { panic!("an object") };
        let new: New = of_object(object, Unknown::Ignored).expect("fine");
        assert_eq!((new.name.as_str(), new.count, new.id, new.token.is_none()), ("x", 0, None, true));
        assert_eq!((new.message, new.mode, new.place.is_none()), (None, None, true));
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Asked {
        limit: Option<u32>,
        archived: Option<bool>,
        q: Option<String>,
        state: Option<crate::domain::message::MessageRole>,
    }

    #[test]
    fn a_query_is_read_like_a_body() {
        let asked: Asked =
            of_query("limit=5&archived=true&q=a%20b&state=user&limit=7", Unknown::Ignored).expect("fine");
        assert_eq!((asked.limit, asked.archived, asked.q.as_deref()), (Some(7), Some(true), Some("a b")));
        assert!(asked.state.is_some());
        for (query, field) in [
            ("limit=x", "limit"),
            ("archived=maybe", "archived"),
            ("limit=-1", "limit"),
            ("state=x", "state"),
            ("q=%00", "q"),
        ] {
            let error = of_query::<Asked>(query, Unknown::Ignored).expect_err(query);
            assert_eq!((error.fields()[0].field.as_str(), error.fields()[0].place), (field, "query"), "{query}");
        }
    }
}
