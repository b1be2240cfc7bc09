//! Values of a query, read as what the type asks for.
use serde::de::{Deserializer, IntoDeserializer, Visitor};

use super::Fault;

/// A value of a query: text that may stand for a number or for yes and no.
pub(super) struct Text(pub(super) String);

macro_rules! from_text {
    ($($method:ident $visit:ident $type:ty, $expected:literal;)+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let value: $type = self.0.parse().map_err(|_| Fault::new("type_error", concat!("must be ", $expected).to_owned()))?;
            visitor.$visit(value)
        }
    )+};
}

impl<'de> Deserializer<'de> for Text {
    type Error = Fault;

    from_text! {
        deserialize_i64 visit_i64 i64, "a whole number";
        deserialize_u64 visit_u64 u64, "a whole number, zero or greater";
        deserialize_i32 visit_i32 i32, "a whole number";
        deserialize_u32 visit_u32 u32, "a whole number, zero or greater";
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => visitor.visit_bool(true),
            "false" | "0" | "no" | "off" => visitor.visit_bool(false),
            _ => Err(Fault::new("type_error", "must be `true` or `false`".to_owned())),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_enum(IntoDeserializer::<Fault>::into_deserializer(self.0))
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_string(self.0)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}
