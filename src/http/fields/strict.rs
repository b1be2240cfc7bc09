//! Values of a body, read by what JSON calls them.
//!
//! A `serde_json::Value` gives a list where a struct is asked for, and an object of one field where one word out of
//! several is; callers of an API mean neither. The same goes for what is nested in a value.
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde_json::{Number, Value};

use super::Fault;

/// A value of a body: only an object is a struct, and only a text is a word.
pub(super) struct Strict(pub(super) Value);

impl Strict {
    /// Refuses the value where something else is expected.
    fn refused<T>(&self, expected: &str) -> Result<T, Fault> {
        let found = match &self.0 {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => Unexpected::Unsigned(number),
                (None, Some(number)) => Unexpected::Signed(number),
                (None, None) => Unexpected::Float(float(number)),
            },
            Value::String(text) => Unexpected::Str(text),
            Value::Array(_) => Unexpected::Seq,
            Value::Object(_) => Unexpected::Map,
        };
        Err(Fault::invalid_type(found, &expected))
    }
}

fn float(number: &Number) -> f64 {
    number.as_f64().unwrap_or(f64::NAN)
}

impl<'de> IntoDeserializer<'de, Fault> for Strict {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Strict {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(float(&number)),
            },
            Value::String(text) => visitor.visit_string(text),
            Value::Array(items) => {
                let mut items = SeqDeserializer::<_, Fault>::new(items.into_iter().map(Strict));
                let value = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(value)
            }
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| (name, Strict(value)));
                visitor.visit_map(MapDeserializer::<_, Fault>::new(fields))
            }
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if self.0.is_object() { self.deserialize_any(visitor) } else { self.refused("an object") }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.0 {
            Value::String(word) => visitor.visit_enum(IntoDeserializer::<Fault>::into_deserializer(word)),
            other => Self(other).refused("a text"),
        }
    }

    /// The word that says which of several objects this is.
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.0.is_string() { self.deserialize_any(visitor) } else { self.refused("a text") }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Pair {
        first: String,
        second: Option<i32>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        Viewer,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(tag = "type", rename_all = "snake_case")]
    enum Tagged {
        Text { text: String },
    }

    fn read<'de, T: Deserialize<'de>>(value: Value) -> Result<T, String> {
        T::deserialize(Strict(value)).map_err(|fault| fault.message)
    }

    fn refusal<'de, T: Deserialize<'de> + std::fmt::Debug>(value: Value) -> String {
        read::<T>(value).expect_err("refused")
    }

    #[test]
    fn only_an_object_is_a_struct_however_deep() {
        let pair = || Pair { first: "a".to_owned(), second: Some(-1) };
        let object = || json!({ "first": "a", "second": -1, "third": [{}] });
        assert_eq!(read(object()), Ok(pair()));
        assert_eq!(read(json!([object()])), Ok(vec![Some(pair())]));
        assert_eq!(read(json!({ "x": object() })), Ok(BTreeMap::from([("x".to_owned(), pair())])));
        let list = json!(["a", 1]);
        assert_eq!(refusal::<Pair>(list.clone()), "must be an object, not a list");
        assert_eq!(refusal::<Option<Pair>>(list.clone()), "must be an object, not a list");
        assert_eq!(refusal::<Vec<Pair>>(json!([list])), "must be an object, not a list");
        assert_eq!(refusal::<BTreeMap<String, Pair>>(json!({ "x": ["a", 1] })), "must be an object, not a list");
        assert_eq!(refusal::<Pair>(json!(null)), "must be an object, not null");
        assert_eq!(refusal::<Pair>(json!({})), "`first` is missing");
    }

    #[test]
    fn only_a_text_is_a_word() {
        assert_eq!(read(json!("viewer")), Ok(Word::Viewer));
        assert_eq!(refusal::<Word>(json!({ "viewer": null })), "must be a text, not an object");
        assert_eq!(refusal::<Word>(json!(5)), "must be a text, not integer `5`");
        assert_eq!(refusal::<Option<Word>>(json!(["viewer"])), "must be a text, not a list");
        assert_eq!(refusal::<Word>(json!("admin")), "must be `viewer`, not `admin`");
        assert_eq!(read(json!({ "type": "text", "text": "a" })), Ok(Tagged::Text { text: "a".to_owned() }));
        assert_eq!(refusal::<Tagged>(json!({ "type": 0, "text": "a" })), "must be a text, not integer `0`");
    }

    #[test]
    fn a_refusal_names_what_json_has() {
        assert_eq!(refusal::<String>(json!([])), "must be a text, not a list");
        assert_eq!(refusal::<String>(json!({})), "must be a text, not an object");
        assert_eq!(refusal::<Vec<String>>(json!("x")), "must be a list, not string \"x\"");
        assert!(read::<(u8, u8)>(json!([1, 2, 3])).is_err());
        assert_eq!(refusal::<bool>(json!(1.5)), "must be `true` or `false`, not floating point `1.5`");
    }

    #[test]
    fn whatever_is_json_stays_what_it_was() {
        let value = json!({ "a": [null, true, -1, 1, u64::MAX, 1.5, "x", { "b": {} }] });
        assert_eq!(read::<Value>(value.clone()), Ok(value));
    }
}
