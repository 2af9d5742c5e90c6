//! The journal record: an upload as it travels in `location-uploads`.
//!
//! Kafka key: the key hash in hex. Value, JSON:
//! `{"schema":1,"account":"…","fingerprint":"…","upload":{"deviceId":"…","locations":[…]}}`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::fingerprint::Fingerprint;
use crate::json::Json;
use crate::key::KeyHash;
use crate::upload::{self, Rules, Shape, Upload};

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
    Garbage(String),
}

#[derive(Serialize)]
struct Value<'a> {
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
        let value = value.ok_or_else(|| garbage("null value"))?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(too_large(value));
        }
        let json = Json::parse(value).map_err(|error| {
            garbage(format!("not JSON at line {}, column {}", error.line(), error.column()))
        })?;
        let Json::Object(fields) = &json else {
            return Err(garbage(format!("{} instead of an object", json.kind())));
        };
        let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value);
        match field("schema") {
            Some(Json::Integer(SCHEMA)) => {}
            Some(Json::Integer(newer)) if *newer > SCHEMA => return Err(Undecodable::NewerSchema(*newer)),
            _ => return Err(garbage("no schema known")),
        }
        let key_hash = key
            .and_then(|key| std::str::from_utf8(key).ok()?.parse().ok())
            .ok_or_else(|| garbage("the key is not 64 lower-case hex digits"))?;
        let text = |name| field(name).and_then(Json::as_text);
        let account = text("account").and_then(|text| text.parse().ok());
        let fingerprint = text("fingerprint").and_then(|text| text.parse().ok());
        let upload = field("upload").ok_or_else(|| garbage("no upload"))?;
        Ok(Self {
            key_hash,
            account: account.ok_or_else(|| garbage("no account"))?,
            fingerprint: fingerprint.ok_or_else(|| garbage("no fingerprint"))?,
            upload: upload::decode_json(upload, Shape::Batch, Rules::STORABLE)
                .map_err(|invalid| garbage(format!("invalid upload: {invalid}")))?,
        })
    }
}

/// As [`JournalRecord::encode`], from parts.
///
/// # Panics
/// Never: an upload holds no number that JSON lacks.
#[must_use]
pub fn encode(account: Uuid, fingerprint: Fingerprint, upload: &Upload) -> Vec<u8> {
    serde_json::to_vec(&Value { schema: SCHEMA, account, fingerprint, upload })
        .expect("an upload is made of strings and finite numbers")
}

fn garbage(reason: impl Into<String>) -> Undecodable {
    Undecodable::Garbage(reason.into())
}

/// A later build may write larger ones, and its records are never discarded.
fn too_large(value: &[u8]) -> Undecodable {
    #[derive(Deserialize)]
    struct Versioned {
        schema: i64,
    }
    match serde_json::from_slice::<Versioned>(value) {
        Ok(Versioned { schema }) if schema > SCHEMA => Undecodable::NewerSchema(schema),
        _ => garbage(format!("the value has {} bytes, more than {VALUE_BYTES_MAX}", value.len())),
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
    use crate::clock::JournalTime;
    use crate::fact;
    use crate::topics::RECORD_BYTES_MAX;
    use crate::upload::{LOCATIONS_MAX, Location};

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
    fn a_newer_schema_is_told_apart_from_garbage_even_when_the_rest_is_unreadable() {
        assert_eq!(
            JournalRecord::decode(None, Some(br#"{"schema":2,"other":[]}"#)),
            Err(Undecodable::NewerSchema(2))
        );
    }

    #[test]
    fn a_value_larger_than_a_gateway_writes_is_garbage_unless_a_newer_build_wrote_it() {
        let key = record().key_hash.to_string();
        let sized = |schema: i64, bytes: usize| {
            let value = String::from_utf8(record().encode()).unwrap();
            let value = value.replace("\"schema\":1", &format!("\"schema\":{schema}"));
            format!("{value}{}", " ".repeat(bytes - value.len()))
        };
        let decode = |value: &str| JournalRecord::decode(Some(key.as_bytes()), Some(value.as_bytes()));
        assert_eq!(decode(&sized(1, VALUE_BYTES_MAX)), Ok(record()));
        let reason = format!("the value has {} bytes, more than {VALUE_BYTES_MAX}", VALUE_BYTES_MAX + 1);
        assert_eq!(decode(&sized(1, VALUE_BYTES_MAX + 1)), Err(Undecodable::Garbage(reason.clone())));
        assert_eq!(decode(&"?".repeat(VALUE_BYTES_MAX + 1)), Err(Undecodable::Garbage(reason)));
        assert_eq!(decode(&sized(2, VALUE_BYTES_MAX + 1)), Err(Undecodable::NewerSchema(2)));
    }

    /// What grows most on its way: the shortest spellings of numbers that are written out.
    #[test]
    fn the_largest_body_fits_into_the_journal_and_the_fact_of_the_largest_record_into_its_topic() {
        const BODY_BYTES_MAX: usize = 2 << 20;
        let location = r#"{"timestamp":2e14,"latitude":9,"longitude":9,"accuracy":1e8,"altitude":1e8,"bearing":9,"speed":1e5,"batteryLevel":9}"#;
        let body = format!(r#"{{"deviceId":"d","locations":[{}]}}"#, vec![location; LOCATIONS_MAX].join(","));
        let upload = upload::decode(body.as_bytes(), Shape::Batch, Rules::STORABLE).unwrap();
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
    fn garbage_is_named() {
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
                Err(Undecodable::Garbage(text)) => assert!(text.starts_with(reason), "{text}"),
                other => panic!("{reason}: {other:?}"),
            }
        }
    }
}
