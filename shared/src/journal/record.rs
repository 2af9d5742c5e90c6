//! The journal record: an upload as it travels in `location-uploads`.
//!
//! Kafka key: the key hash in hex. Value, JSON:
//! `{"schema":1,"account":"…","fingerprint":"…","upload":{"deviceId":"…","locations":[…]}}`.

use serde::de::MapAccess;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::journal::key::KeyHash;
use crate::location::fingerprint::Fingerprint;
use crate::location::json::{self, Depth, Name, Reader, Value};
use crate::location::{self, Rules, Shape, Upload};

/// The newest schema this build reads and the one it writes.
pub const SCHEMA: i64 = 1;

/// Largest value of a record, bytes. The largest body that a gateway can be set to take (2 MiB) grows to 2.5 MB at most, since a
/// number is written with no more digits than it was sent with. A record just as large leaves a fact that fits into its topic.
pub const VALUE_BYTES_MAX: usize = 3 << 20;

/// An accepted upload with all the consumer needs to decide about it.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalRecord {
    /// What the record is keyed by.
    pub key_hash: KeyHash,
    /// Who sent it.
    pub account: Uuid,
    /// Of `upload`, taken by the gateway.
    pub fingerprint: Fingerprint,
    /// The upload itself.
    pub upload: Upload,
}

/// Why a record cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// Written by a later build: stop and upgrade, never discard.
    #[error("schema {0} is newer than this build's {SCHEMA}")]
    NewerSchema(i64),
    /// Will never be readable. The text names no value of the record.
    #[error("{0}")]
    Poison(String),
}

#[derive(Serialize)]
struct Envelope<'a> {
    schema: i64,
    account: Uuid,
    fingerprint: Fingerprint,
    upload: &'a Upload,
}

impl JournalRecord {
    /// The record's value.
    ///
    /// # Panics
    /// Never: an upload holds no number that JSON lacks.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self.account, self.fingerprint, &self.upload)
    }

    /// Reads a record back, checking everything that the tables rely on, and that a gateway can have written it.
    ///
    /// # Errors
    /// [`Undecodable`], saying whether a newer build could read it.
    pub fn decode(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Self, Undecodable> {
        let value = value.ok_or_else(|| poison("null value"))?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(too_large(value));
        }
        let fields = json::read(value, Fields([None; 4]))
            .map_err(|error| poison(format!("not JSON at line {}, column {}", error.line(), error.column())))?
            .map_err(|kind| poison(format!("{kind} instead of an object")))?;
        let [schema, account, fingerprint, upload] = fields.0;
        match parse(schema) {
            Some(SCHEMA) => {}
            Some(newer) if newer > SCHEMA => return Err(Undecodable::NewerSchema(newer)),
            _ => return Err(poison("no schema known")),
        }
        let key_hash = key
            .and_then(|key| std::str::from_utf8(key).ok()?.parse().ok())
            .ok_or_else(|| poison("the key is not 64 lower-case hex digits"))?;
        let upload = upload.ok_or_else(|| poison("no upload"))?;
        Ok(Self {
            key_hash,
            account: parse(account).ok_or_else(|| poison("no account"))?,
            fingerprint: parse(fingerprint).ok_or_else(|| poison("no fingerprint"))?,
            upload: location::decode(upload.get().as_bytes(), Shape::Batch, Rules::STORABLE)
                .map_err(|invalid| poison(format!("invalid upload: {invalid}")))?,
        })
    }
}

/// The fields of a record's value.
const FIELDS: [&str; 4] = ["schema", "account", "fingerprint", "upload"];

/// Them, as they were written.
struct Fields<'a>([Option<&'a RawValue>; FIELDS.len()]);

impl<'de> Reader<'de> for Fields<'de> {
    type Output = Result<Self, &'static str>;

    fn depth(&self) -> Depth {
        Depth::MAX
    }

    fn value(self, value: Value<'de>) -> Self::Output {
        Err(value.kind())
    }

    fn object<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Self::Output, A::Error> {
        let known = |name: &str| FIELDS.iter().position(|field| *field == name);
        while let Some(field) = entries.next_key_seed(Name(known))? {
            let value = entries.next_value()?;
            // Of equal fields the first counts; what is not known is passed.
            if let Some(field) = field {
                self.0[field].get_or_insert(value);
            }
        }
        Ok(Ok(self))
    }
}

fn parse<'a, T: Deserialize<'a>>(field: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(field?.get()).ok()
}

/// As [`JournalRecord::encode`], from parts.
///
/// # Panics
/// Never: an upload holds no number that JSON lacks.
#[must_use]
pub fn encode(account: Uuid, fingerprint: Fingerprint, upload: &Upload) -> Vec<u8> {
    serde_json::to_vec(&Envelope { schema: SCHEMA, account, fingerprint, upload })
        .expect("an upload is made of strings and finite numbers")
}

fn poison(reason: impl Into<String>) -> Undecodable {
    Undecodable::Poison(reason.into())
}

/// A later build may write larger ones, and its records are never discarded.
fn too_large(value: &[u8]) -> Undecodable {
    #[derive(Deserialize)]
    struct Versioned {
        schema: i64,
    }
    match serde_json::from_slice::<Versioned>(value) {
        Ok(Versioned { schema }) if schema > SCHEMA => Undecodable::NewerSchema(schema),
        _ => poison(format!("the value has {} bytes, more than {VALUE_BYTES_MAX}", value.len())),
    }
}

/// Whether a text is a `traceparent` as a gateway hands it on: W3C Trace Context, version 00.
#[must_use]
pub fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut hex = |digits: usize| {
        let is_hex = |part: &&str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        parts.next().filter(|part| part.len() == digits).filter(is_hex)
    };
    let (Some(version), Some(trace), Some(parent), Some(_flags)) = (hex(2), hex(32), hex(16), hex(2)) else {
        return false;
    };
    let is_zero = |id: &str| id.bytes().all(|b| b == b'0');
    version == "00" && !is_zero(trace) && !is_zero(parent) && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::clock::JournalTime;
    use crate::journal::fact;
    use crate::kafka::topics::RECORD_BYTES_MAX;
    use crate::location::{LOCATIONS_MAX, Location};

    fn record() -> JournalRecord {
        let upload = Upload { device: "d".to_owned(), locations: vec![Location::new(5, 48.2, 16.3)] };
        let account = Uuid::from_u128(1);
        let fingerprint = Fingerprint::of(&upload);
        JournalRecord { key_hash: KeyHash::new(account, "k"), account, fingerprint, upload }
    }

    #[test]
    fn a_record_survives_the_journal() {
        let record = record();
        let key = record.key_hash.to_string();
        assert_eq!(JournalRecord::decode(Some(key.as_bytes()), Some(&record.encode())), Ok(record));
    }

    #[test]
    fn a_newer_schema_is_told_apart_from_poison_even_when_the_rest_is_unreadable() {
        assert_eq!(
            JournalRecord::decode(None, Some(br#"{"schema":2,"other":[]}"#)),
            Err(Undecodable::NewerSchema(2))
        );
    }

    #[test]
    fn a_value_larger_than_a_gateway_writes_is_poison_unless_a_newer_build_wrote_it() {
        let key = record().key_hash.to_string();
        let sized = |schema: i64, bytes: usize| {
            let value = String::from_utf8(record().encode()).unwrap();
            let value = value.replace("\"schema\":1", &format!("\"schema\":{schema}"));
            format!("{value}{}", " ".repeat(bytes - value.len()))
        };
        let decode = |value: &str| JournalRecord::decode(Some(key.as_bytes()), Some(value.as_bytes()));
        assert_eq!(decode(&sized(1, VALUE_BYTES_MAX)), Ok(record()));
        let reason = format!("the value has {} bytes, more than {VALUE_BYTES_MAX}", VALUE_BYTES_MAX + 1);
        assert_eq!(decode(&sized(1, VALUE_BYTES_MAX + 1)), Err(Undecodable::Poison(reason.clone())));
        assert_eq!(decode(&"?".repeat(VALUE_BYTES_MAX + 1)), Err(Undecodable::Poison(reason)));
        assert_eq!(decode(&sized(2, VALUE_BYTES_MAX + 1)), Err(Undecodable::NewerSchema(2)));
    }

    /// What grows most on its way: the shortest spellings of numbers that are written out.
    #[test]
    fn the_largest_body_fits_into_the_journal_and_the_fact_of_the_largest_record_into_its_topic() {
        const BODY_BYTES_MAX: usize = 2 << 20;
        let location = r#"{"timestamp":2e14,"latitude":9,"longitude":9,"accuracy":1e8,"altitude":1e8,"bearing":9,"speed":1e5,"batteryLevel":9}"#;
        let body = format!(r#"{{"deviceId":"d","locations":[{}]}}"#, vec![location; LOCATIONS_MAX].join(","));
        let upload = location::decode(body.as_bytes(), Shape::Batch, Rules::STORABLE).unwrap();
        let value = encode(Uuid::nil(), Fingerprint([0; 32]), &upload).len();
        let fact = fact::encode(Uuid::nil(), JournalTime(i64::MAX), &upload).len();
        assert!(BODY_BYTES_MAX + value - body.len() <= VALUE_BYTES_MAX, "{value} from {}", body.len());
        // The key, and headers of which the device's name is the longest.
        let besides = 64 + 4 * 128 + 256;
        assert!(VALUE_BYTES_MAX + fact - body.len() + besides <= RECORD_BYTES_MAX);
    }

    #[test]
    fn a_traceparent_has_one_form() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(valid));
        for invalid in ["", "00", &valid[..54], &valid.to_uppercase(), &valid.replacen("00", "01", 1)] {
            assert!(!is_traceparent(invalid), "{invalid}");
        }
    }

    #[test]
    fn why_a_record_is_poison_is_named() {
        let record = record();
        let key = record.key_hash.to_string();
        let value = String::from_utf8(record.encode()).unwrap();
        let cases: [(&[u8], Option<String>, &str); 8] = [
            (key.as_bytes(), None, "null value"),
            (key.as_bytes(), Some(String::new()), "not JSON at line 1, column 0"),
            (key.as_bytes(), Some(value[..value.len() - 9].to_owned()), "not JSON"),
            (key.as_bytes(), Some("[]".to_owned()), "an array instead of an object"),
            (key.as_bytes(), Some("{}".to_owned()), "no schema known"),
            (b"k", Some(value.clone()), "the key is not 64 lower-case hex digits"),
            (key.as_bytes(), Some(value.replace("\"account\"", "\"a\"")), "no account"),
            (
                key.as_bytes(),
                Some(value.replace("48.2", "148.2")),
                "invalid upload: 1 faults, the first: locations[0].latitude",
            ),
        ];
        for (key, value, reason) in cases {
            match JournalRecord::decode(Some(key), value.as_deref().map(str::as_bytes)) {
                Err(Undecodable::Poison(text)) => assert!(text.starts_with(reason), "{text}"),
                other => panic!("{reason}: {other:?}"),
            }
        }
    }
}
