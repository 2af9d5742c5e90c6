//! JSON as it is read: value by value, as it was written, and without building what nobody asked for.
//!
//! `serde_json::Value` keeps the last of two equal fields and so hides a fault; a derived struct stops at its first fault
//! and accepts positional arrays. Both matter here: every fault is named. And a tree of all values may
//! take a hundred times the memory of its text, so there is none.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// One JSON value, without what is in it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool,
    /// A number written without fraction or exponent that fits an `i64`.
    Integer(i64),
    /// Any other number; bit-exact, since `serde_json` runs with `float_roundtrip`.
    Float(f64),
    /// A string; borrowed where the text has no escapes in it.
    Text(Cow<'a, str>),
    /// An array, read to its end.
    Array,
    /// An object, read to its end.
    Object,
}

impl Value<'_> {
    /// What this value is, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

/// How many arrays and objects may still be opened, one in the other.
#[derive(Debug, Clone, Copy)]
pub struct Depth(u8);

impl Depth {
    /// Of a whole text.
    pub const MAX: Self = Self(128);

    /// What is left inside of a value.
    ///
    /// # Errors
    /// Nothing is.
    pub fn inside<E: Error>(self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Self).ok_or_else(|| E::custom("nested too deeply"))
    }
}

/// Something that wants a value: what it does not open is read all the same, and dropped on the way.
pub trait Reader<'de>: Sized {
    /// What it makes of the value.
    type Output;

    /// How deeply the value may be nested.
    fn depth(&self) -> Depth;

    /// Takes the value, or what is left of it once it has been read.
    fn value(self, value: Value<'de>) -> Self::Output;

    /// Opens an array.
    ///
    /// # Errors
    /// It is not JSON.
    fn array<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Output, A::Error> {
        let inside = self.depth().inside()?;
        while items.next_element_seed(Seed(Skip(inside)))?.is_some() {}
        Ok(self.value(Value::Array))
    }

    /// Opens an object.
    ///
    /// # Errors
    /// It is not JSON.
    fn object<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Output, A::Error> {
        let inside = self.depth().inside()?;
        while fields.next_key_seed(Name(|_: &str| ()))?.is_some() {
            fields.next_value_seed(Seed(Skip(inside)))?;
        }
        Ok(self.value(Value::Object))
    }
}

/// Reads one whole JSON text of any depth; each [`Reader`] bounds it. Size is bounded by the caller.
///
/// # Errors
/// The text is not JSON. The error's own text may quote the input: show only its line and column.
pub fn read<'de, R: Reader<'de>>(text: &'de [u8], reader: R) -> Result<R::Output, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_slice(text);
    json.disable_recursion_limit();
    let output = Seed(reader).deserialize(&mut json)?;
    json.end()?;
    Ok(output)
}

/// A [`Reader`] of any value that opens none.
#[derive(Debug, Clone, Copy)]
pub struct Shallow(pub Depth);

impl<'de> Reader<'de> for Shallow {
    type Output = Value<'de>;

    fn depth(&self) -> Depth {
        self.0
    }

    fn value(self, value: Value<'de>) -> Value<'de> {
        value
    }
}

/// A [`Reader`] that keeps nothing.
struct Skip(Depth);

impl<'de> Reader<'de> for Skip {
    type Output = ();

    fn depth(&self) -> Depth {
        self.0
    }

    fn value(self, _: Value<'de>) {}
}

/// A [`Reader`], as serde wants it.
pub struct Seed<R>(pub R);

impl<'de, R: Reader<'de>> DeserializeSeed<'de> for Seed<R> {
    type Value = R::Output;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<R::Output, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, R: Reader<'de>> Visitor<'de> for Seed<R> {
    type Value = R::Output;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<R::Output, E> {
        Ok(self.0.value(Value::Null))
    }

    fn visit_bool<E>(self, _: bool) -> Result<R::Output, E> {
        Ok(self.0.value(Value::Bool))
    }

    fn visit_i64<E>(self, value: i64) -> Result<R::Output, E> {
        Ok(self.0.value(Value::Integer(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<R::Output, E> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "beyond i64 only an approximate number is left to judge"
        )]
        Ok(self.0.value(i64::try_from(value).map_or(Value::Float(value as f64), Value::Integer)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<R::Output, E> {
        Ok(self.0.value(Value::Float(value)))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<R::Output, E> {
        Ok(self.0.value(Value::Text(Cow::Borrowed(value))))
    }

    fn visit_str<E>(self, value: &str) -> Result<R::Output, E> {
        Ok(self.0.value(Value::Text(Cow::Owned(value.to_owned()))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<R::Output, A::Error> {
        self.0.array(items)
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<R::Output, A::Error> {
        self.0.object(fields)
    }
}

/// An object's field name, and what is made of it.
pub struct Name<F>(pub F);

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for Name<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> T> Visitor<'_> for Name<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<T, E> {
        Ok((self.0)(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shallow(text: &str) -> Result<Value<'_>, serde_json::Error> {
        read(text.as_bytes(), Shallow(Depth::MAX))
    }

    #[test]
    fn numbers_and_strings_are_kept_as_written_and_what_holds_others_is_passed() {
        for (text, value) in [
            ("null", Value::Null),
            ("true", Value::Bool),
            ("1", Value::Integer(1)),
            ("1.0", Value::Float(1.0)),
            ("18446744073709551615", Value::Float(18446744073709551615.0)),
            (r#""x\ny""#, Value::Text("x\ny".into())),
            (r#"[null,true,{"a":[1],"a":"\u0000"}]"#, Value::Array),
            (r#"{"a":1,"a":{}}"#, Value::Object),
        ] {
            assert_eq!(shallow(text).unwrap(), value, "{text}");
        }
    }

    #[test]
    fn what_is_passed_is_judged_as_strictly_as_what_is_kept() {
        for text in ["", "[1", "[1e999]", r#"["\ud800"]"#, r#"{"\x":1}"#, "[1]]", "{1:2}", "[01]"] {
            assert!(shallow(text).is_err(), "{text}");
        }
        assert!(read(b"[\"\xff\"]", Shallow(Depth::MAX)).is_err());
        assert!(read(b"{\"\xff\":1}", Shallow(Depth::MAX)).is_err());
    }

    #[test]
    fn a_value_may_be_nested_128_deep_and_no_deeper() {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"a":"#, "}]")] {
            let per_level = open.matches(['[', '{']).count();
            let nested = |levels: usize| {
                let times = levels / per_level;
                format!("{}0{}", open.repeat(times), close.repeat(times))
            };
            assert!(shallow(&nested(128)).is_ok(), "{open}");
            let error = shallow(&nested(128 + per_level)).unwrap_err();
            assert_eq!(error.line(), 1);
        }
        assert!(shallow(&"[".repeat(100_000)).is_err());
    }
}
