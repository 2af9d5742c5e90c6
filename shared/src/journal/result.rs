//! The result record: the state of a key as it travels in `location-results`.
//!
//! Kafka key: the key hash in hex; same partition as the journal record it answers. Value, Protobuf: the message `Result` of
//! `shared/proto/location_results.proto`. One is emitted for every journal record, copies and conflicts included, and it
//! carries the state of the *key*, so that compaction can only keep the truth.

use prost::Message as _;
use prost::bytes::Bytes;

use crate::journal::account::AccountId;
use crate::journal::answer::KeyState;
use crate::journal::clock::JournalTime;
use crate::journal::key::KeyHash;
use crate::journal::position::{Offset, Partition, Position};
use crate::journal::schema;
use crate::location::fingerprint::Fingerprint;

/// The newest schema this build reads. It writes the lowest that can hold a result.
pub const SCHEMA: u32 = 1;

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

/// The message `Result`.
#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    #[prost(fixed32, optional, tag = "1")]
    schema: Option<u32>,
    #[prost(int64, optional, tag = "2")]
    record_offset: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "3")]
    account: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "4")]
    fingerprint: Option<Vec<u8>>,
    #[prost(uint32, optional, tag = "5")]
    status: Option<u32>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    body: Option<Bytes>,
    #[prost(int64, optional, tag = "7")]
    accepted_at: Option<i64>,
    #[prost(int64, optional, tag = "8")]
    expires_at: Option<i64>,
    #[prost(int64, optional, tag = "9")]
    source_offset: Option<i64>,
}

impl ResultRecord {
    /// The record's value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let state = &self.state;
        let value = Value {
            // All that is in it was in the first one.
            schema: Some(1),
            record_offset: Some(self.record.offset.0),
            account: Some(state.account.0.as_bytes().to_vec()),
            fingerprint: Some(state.fingerprint.0.to_vec()),
            status: Some(state.status.into()),
            body: Some(state.body.clone()),
            accepted_at: Some(state.accepted_at.0),
            expires_at: Some(state.expires_at.0),
            source_offset: Some(state.source.offset.0),
        };
        value.encode_to_vec()
    }

    /// Reads a record of partition `partition` back; `None` for what this build cannot read, or no consumer can have written
    /// (the table answers instead).
    #[must_use]
    pub fn decode(partition: Partition, key: Option<&[u8]>, value: Option<&[u8]>) -> Option<Self> {
        let key_hash = std::str::from_utf8(key?).ok()?.parse().ok()?;
        schema::of(value?).filter(|schema| *schema <= SCHEMA)?;
        let value = Value::decode(value?).ok()?;
        let offset = Offset(value.record_offset.filter(|offset| *offset >= 0)?);
        let record = Position { partition, offset };
        let state = KeyState {
            account: AccountId::from_slice(&value.account?)?,
            fingerprint: Fingerprint(value.fingerprint?.try_into().ok()?),
            status: value.status?.try_into().ok()?,
            body: value.body?,
            accepted_at: JournalTime(value.accepted_at?),
            expires_at: JournalTime(value.expires_at?),
            source: Position { partition, offset: Offset(value.source_offset?) },
        };
        state.is_sound().then_some(Self { key_hash, record, state })
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::{DescriptorPool, DynamicMessage};

    use uuid::Uuid;

    use super::*;
    use crate::journal::answer;

    fn result() -> ResultRecord {
        ResultRecord {
            key_hash: KeyHash([7; 32]),
            record: Position::new(4, 99),
            state: KeyState {
                account: AccountId(Uuid::from_u128(1)),
                fingerprint: Fingerprint([9; 32]),
                status: 200,
                body: answer::body(3),
                accepted_at: JournalTime(5),
                expires_at: JournalTime(6),
                source: Position::new(4, 42),
            },
        }
    }

    fn read(value: &[u8]) -> Option<ResultRecord> {
        ResultRecord::decode(Partition(4), Some(result().key_hash.to_string().as_bytes()), Some(value))
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
        let edits: [fn(&mut Value); 14] = [
            |value| value.status = Some(101),
            |value| value.status = Some(99_999),
            |value| value.record_offset = Some(-1),
            |value| value.source_offset = Some(-1),
            |value| value.expires_at = value.accepted_at,
            |value| value.expires_at = Some(i64::MAX),
            |value| value.schema = Some(SCHEMA + 1),
            |value| value.account = Some(vec![1; 15]),
            |value| value.fingerprint = Some(vec![1; 33]),
            |value| value.schema = None,
            |value| value.record_offset = None,
            |value| value.body = None,
            |value| value.accepted_at = None,
            |value| value.source_offset = None,
        ];
        for (number, edit) in edits.into_iter().enumerate() {
            let mut value = Value::decode(&result().encode()[..]).unwrap();
            edit(&mut value);
            assert_eq!(read(&value.encode_to_vec()), None, "edit {number}: {value:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_table() {
        let key = KeyHash([7; 32]).to_string();
        let cut = &result().encode()[..20];
        for value in [None, Some(&b"{}"[..]), Some(b"nothing"), Some(cut)] {
            assert_eq!(ResultRecord::decode(Partition(0), Some(key.as_bytes()), value), None);
        }
    }

    #[test]
    fn a_result_has_the_fields_names_and_types_of_its_proto() {
        let files = protox::compile(["proto/location_results.proto"], ["."]).unwrap();
        let pool = DescriptorPool::from_file_descriptor_set(files).unwrap();
        let descriptor = pool.get_message_by_name("milepost.Result").unwrap();
        let result = result();
        let message = DynamicMessage::decode(descriptor.clone(), &result.encode()[..]).unwrap();
        assert_eq!(message.unknown_fields().count(), 0);
        let field = |name: &str| message.get_field_by_name(name).unwrap().into_owned();
        let number = |name: &str| field(name).as_i64();
        assert_eq!((field("schema").as_u32(), field("status").as_u32()), (Some(SCHEMA), Some(200)));
        assert_eq!((number("record_offset"), number("source_offset")), (Some(99), Some(42)));
        assert_eq!((number("accepted_at"), number("expires_at")), (Some(5), Some(6)));
        assert_eq!(field("account").as_bytes().unwrap()[..], result.state.account.0.as_bytes()[..]);
        assert_eq!(field("fingerprint").as_bytes().unwrap()[..], result.state.fingerprint.0[..]);
        assert_eq!(field("body").as_bytes().unwrap()[..], result.state.body[..]);
        assert_eq!(message.fields().count(), descriptor.fields().count());
        assert_eq!(message.encode_to_vec(), result.encode());
    }
}
