//! A JSON value as it was written: duplicate fields kept, integers and floats told apart, strings borrowed.
//!
//! `serde_json::Value` keeps the last of two equal fields and so hides a fault; a derived struct stops at its first fault
//! and accepts positional arrays. Both matter here: every fault is named (design, section 8).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// One JSON value.
#[derive(Debug, Clone, PartialEq)]
pub enum Json<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number written without fraction or exponent that fits an `i64`.
    Integer(i64),
    /// Any other number; bit-exact, since `serde_json` runs with `float_roundtrip`.
    Float(f64),
    /// A string.
    Text(Cow<'a, str>),
    /// An array.
    Array(Vec<Json<'a>>),
    /// An object, its fields in the order written, duplicates included.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// Parses one whole JSON text. Depth is bounded by `serde_json` (128), size by the caller.
    ///
    /// # Errors
    /// The text is not JSON. The error's own text may quote the input: show only its line and column.
    pub fn parse(text: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// What this value is, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    /// The string, if this is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Json<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "beyond i64 only an approximate number is left to judge"
        )]
        Ok(i64::try_from(value).map_or(Json::Float(value as f64), Json::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        Ok(Json::Float(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json<'de>, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element()? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json<'de>, A::Error> {
        // A location with all its fields and its device has eleven.
        let mut object = Vec::with_capacity(12);
        while let Some((Name(name), value)) = entries.next_entry()? {
            object.push((name, value));
        }
        Ok(Json::Object(object))
    }
}

/// An object's field name; borrowed where the text has no escapes in it.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_str(JsonVisitor)? {
            Json::Text(name) => Ok(Self(name)),
            other => Err(serde::de::Error::custom(format_args!("{} as a field name", other.kind()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_numbers_and_strings_are_kept_as_written() {
        let text = br#"{"a":1,"a":1.0,"b":"x\ny","c":[null,true,18446744073709551615]}"#;
        let Json::Object(fields) = Json::parse(text).unwrap() else { panic!("not an object") };
        assert_eq!(fields[0], ("a".into(), Json::Integer(1)));
        assert_eq!(fields[1], ("a".into(), Json::Float(1.0)));
        assert_eq!(fields[2].1.as_text(), Some("x\ny"));
        assert_eq!(
            fields[3].1,
            Json::Array(vec![Json::Null, Json::Bool(true), Json::Float(18446744073709551615.0)])
        );
    }

    #[test]
    fn a_value_nested_too_deeply_is_an_error() {
        let text = "[".repeat(200) + &"]".repeat(200);
        assert!(Json::parse(text.as_bytes()).is_err());
    }
}
