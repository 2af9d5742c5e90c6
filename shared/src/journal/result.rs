//! The result record: the state of a key as it travels in `location-results`.
//!
//! Kafka key: the key hash in hex; same partition as the journal record it answers. Value, JSON:
//! `{"schema":1,"recordOffset":…,"account":"…","fingerprint":"…","status":200,"body":"<base64>","acceptedAt":…,
//! "expiresAt":…,"sourceOffset":…}`; times are journal time in milliseconds. One is emitted for every journal record,
//! copies and conflicts included, and it carries the state of the *key*, so that compaction can only keep the truth.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::journal::answer::{KeyState, Position};
use crate::journal::clock::JournalTime;
use crate::journal::key::KeyHash;
use crate::location::fingerprint::Fingerprint;

/// The newest schema this build reads and the one it writes.
pub const SCHEMA: i64 = 1;

/// The state of a key after one journal record was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultRecord {
    /// The key.
    pub key_hash: KeyHash,
    /// The journal record that this result answers.
    pub record: Position,
    /// What the key stands for.
    pub state: KeyState,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Value {
    schema: i64,
    record_offset: i64,
    account: Uuid,
    fingerprint: Fingerprint,
    status: u16,
    body: String,
    accepted_at: JournalTime,
    expires_at: JournalTime,
    source_offset: i64,
}

impl ResultRecord {
    /// The record's value.
    ///
    /// # Panics
    /// Never: the value is made of integers and strings.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let state = &self.state;
        serde_json::to_vec(&Value {
            schema: SCHEMA,
            record_offset: self.record.offset,
            account: state.account,
            fingerprint: state.fingerprint,
            status: state.status,
            body: STANDARD.encode(&state.body),
            accepted_at: state.accepted_at,
            expires_at: state.expires_at,
            source_offset: state.source.offset,
        })
        .expect("integers and strings are JSON")
    }

    /// Reads a record of partition `partition` back; `None` for what this build cannot read, or no consumer can have written
    /// (the table answers instead).
    #[must_use]
    pub fn decode(partition: i32, key: Option<&[u8]>, value: Option<&[u8]>) -> Option<Self> {
        let key_hash = std::str::from_utf8(key?).ok()?.parse().ok()?;
        let value: Value = serde_json::from_slice(value?).ok()?;
        if value.schema != SCHEMA || value.record_offset < 0 {
            return None;
        }
        let result = Self {
            key_hash,
            record: Position { partition, offset: value.record_offset },
            state: KeyState {
                account: value.account,
                fingerprint: value.fingerprint,
                status: value.status,
                body: STANDARD.decode(value.body).ok()?.into(),
                accepted_at: value.accepted_at,
                expires_at: value.expires_at,
                source: Position { partition, offset: value.source_offset },
            },
        };
        result.state.is_sound().then_some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::answer;

    fn result() -> ResultRecord {
        ResultRecord {
            key_hash: KeyHash([7; 32]),
            record: Position { partition: 4, offset: 99 },
            state: KeyState {
                account: Uuid::from_u128(1),
                fingerprint: Fingerprint([9; 32]),
                status: 200,
                body: answer::body(3),
                accepted_at: JournalTime(5),
                expires_at: JournalTime(6),
                source: Position { partition: 4, offset: 42 },
            },
        }
    }

    fn read(value: &[u8]) -> Option<ResultRecord> {
        ResultRecord::decode(4, Some(result().key_hash.to_string().as_bytes()), Some(value))
    }

    #[test]
    fn a_result_survives_the_topic_whatever_bytes_its_body_has() {
        for body in [answer::body(3), bytes::Bytes::from_static(b"\xff\x00{ \n}")] {
            let mut result = result();
            result.state.body = body;
            assert_eq!(read(&result.encode()), Some(result));
        }
    }

    #[test]
    fn what_no_consumer_writes_is_not_read() {
        let value = String::from_utf8(result().encode()).unwrap();
        for (field, odd) in [
            (r#""status":200"#, r#""status":101"#),
            (r#""status":200"#, r#""status":99999"#),
            (r#""recordOffset":99"#, r#""recordOffset":-1"#),
            (r#""sourceOffset":42"#, r#""sourceOffset":-1"#),
            (r#""expiresAt":6"#, r#""expiresAt":5"#),
            (r#""expiresAt":6"#, r#""expiresAt":9223372036854775807"#),
            (r#""schema":1"#, r#""schema":2"#),
        ] {
            let odd = value.replace(field, odd);
            assert_ne!(odd, value);
            assert_eq!(read(odd.as_bytes()), None, "{odd}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_table() {
        let key = KeyHash([7; 32]).to_string();
        for value in [None, Some(&b"{}"[..]), Some(b"nothing")] {
            assert_eq!(ResultRecord::decode(0, Some(key.as_bytes()), value), None);
        }
    }
}
