//! The journal record: an upload as it travels in `location-uploads`.
//!
//! Kafka key: the key hash in hex. Value, JSON:
//! `{"schema":1,"account":"…","fingerprint":"…","upload":{"deviceId":"…","locations":[…]}}`.

use serde::Serialize;
use uuid::Uuid;

use crate::fingerprint::Fingerprint;
use crate::json::Json;
use crate::key::KeyHash;
use crate::upload::{self, Rules, Shape, Upload};

/// The newest schema this build reads and the one it writes.
pub const SCHEMA: i64 = 1;

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

    /// Reads a record back, checking everything that the tables rely on.
    ///
    /// # Errors
    /// [`Undecodable`], saying whether a newer build could read it.
    pub fn decode(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Self, Undecodable> {
        let value = value.ok_or_else(|| garbage("null value"))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upload::Location;

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
