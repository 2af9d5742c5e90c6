//! The journal record: an upload, or a point that was set aside, as it travels in `location-uploads`.
//!
//! Kafka key: the key hash in hex. Value, Protobuf: the message `Record` of `shared/proto/location_uploads.proto`.

use prost::Message as _;

use crate::journal::account::AccountId;
use crate::journal::clock::JournalTime;
use crate::journal::key::KeyHash;
use crate::journal::set_aside::SetAside;
use crate::journal::{fact, schema};
use crate::location::fields::{NUMBERS, TEXTS};
use crate::location::fingerprint::Fingerprint;
use crate::location::{self, Location, Rules, Upload, protobuf};

/// The newest schema this build reads. It writes the lowest that can hold a record.
pub const SCHEMA: u32 = 1;

/// Largest value of a record, bytes: what the largest body that a gateway can be set to take (2 MiB) becomes. No location
/// is longer here than in JSON, and the rest has 128 bytes at most.
pub const VALUE_BYTES_MAX: usize = (2 << 20) + 128;

/// What was accepted, with all the consumer needs to decide about it.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalRecord {
    /// What the record is keyed by.
    pub key_hash: KeyHash,
    /// Who sent it.
    pub account: AccountId,
    /// Of `payload`, taken by the gateway.
    pub fingerprint: Fingerprint,
    /// What was sent.
    pub payload: Payload,
}

/// What a record carries.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// Locations, to be stored and emitted to subscribers.
    Upload(Upload),
    /// A point that breaks a rule, to become a dead letter.
    SetAside(SetAside),
}

impl Payload {
    /// The locations to be stored.
    #[must_use]
    pub fn locations(&self) -> &[Location] {
        match self {
            Self::Upload(upload) => &upload.locations,
            Self::SetAside(_) => &[],
        }
    }
}

impl From<Upload> for Payload {
    fn from(upload: Upload) -> Self {
        Self::Upload(upload)
    }
}

impl From<SetAside> for Payload {
    fn from(point: SetAside) -> Self {
        Self::SetAside(point)
    }
}

/// Why a record cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// Written by a later build: stop and upgrade, never discard.
    #[error("schema {0} is newer than this build's {SCHEMA}")]
    NewerSchema(u32),
    /// Will never be readable. The text names no value of the record.
    #[error("{0}")]
    Poison(String),
}

/// The message `Record`, with the messages in it still in bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    #[prost(fixed32, optional, tag = "1")]
    schema: Option<u32>,
    #[prost(bytes = "vec", optional, tag = "2")]
    account: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "3")]
    fingerprint: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "4")]
    upload: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "5")]
    set_aside: Option<Vec<u8>>,
}

impl JournalRecord {
    /// The record's value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match &self.payload {
            Payload::Upload(upload) => encode(self.account, self.fingerprint, upload),
            Payload::SetAside(point) => encode_set_aside(self.account, self.fingerprint, point),
        }
    }

    /// The upload that it carries, if that is what it carries.
    #[must_use]
    pub fn upload(&self) -> Option<&Upload> {
        match &self.payload {
            Payload::Upload(upload) => Some(upload),
            Payload::SetAside(_) => None,
        }
    }

    /// The point that it carries, if that is what it carries.
    #[must_use]
    pub fn set_aside(&self) -> Option<&SetAside> {
        match &self.payload {
            Payload::SetAside(point) => Some(point),
            Payload::Upload(_) => None,
        }
    }

    /// Reads a record back, checking everything that the tables rely on, and that a gateway can have written it.
    ///
    /// # Errors
    /// [`Undecodable`], saying whether a newer build could read it.
    pub fn decode(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Self, Undecodable> {
        let value = value.ok_or_else(|| poison("null value"))?;
        let schema = schema::of(value);
        // Before all else: a later build may write larger ones, under other keys, and its records are never discarded.
        if let Some(newer) = schema.filter(|schema| *schema > SCHEMA) {
            return Err(Undecodable::NewerSchema(newer));
        }
        if value.len() > VALUE_BYTES_MAX {
            let bytes = value.len();
            return Err(poison(format!("the value has {bytes} bytes, more than {VALUE_BYTES_MAX}")));
        }
        let schema = schema.ok_or_else(|| poison("no schema known"))?;
        let fields = Value::decode(value).map_err(|_| poison("not Protobuf"))?;
        let key_hash = key
            .and_then(|key| std::str::from_utf8(key).ok()?.parse().ok())
            .ok_or_else(|| poison("the key is not 64 lower-case hex digits"))?;
        let account = fields.account.and_then(|bytes| AccountId::from_slice(&bytes));
        let account = account.ok_or_else(|| poison("no account"))?;
        let fingerprint = fields.fingerprint.and_then(|bytes| bytes.try_into().ok());
        let fingerprint = Fingerprint(fingerprint.ok_or_else(|| poison("no fingerprint"))?);
        let payload = match (fields.upload, fields.set_aside) {
            (Some(upload), None) => {
                let upload = decode_upload(&upload, schema)?;
                check_fact(account, &upload, value.len())?;
                Payload::Upload(upload)
            }
            (None, Some(point)) => SetAside::decode_checked(&point)
                .map(Payload::SetAside)
                .map_err(|fault| poison(format!("invalid point set aside: {fault}")))?,
            (None, None) => return Err(poison("no upload")),
            (Some(_), Some(_)) => return Err(poison("an upload and a point set aside")),
        };
        Ok(Self { key_hash, account, fingerprint, payload })
    }
}

fn decode_upload(bytes: &[u8], schema: u32) -> Result<Upload, Undecodable> {
    let upload = protobuf::decode(bytes).map_err(|error| poison(format!("no upload: {error}")))?;
    location::check(&upload, Rules::STORABLE)
        .map_err(|invalid| poison(format!("invalid upload: {invalid}")))?;
    if upload.schema() > schema {
        return Err(poison("a field of a later schema than its own"));
    }
    Ok(upload)
}

/// As [`JournalRecord::encode`], from the parts of an upload's.
#[must_use]
pub fn encode(account: AccountId, fingerprint: Fingerprint, upload: &Upload) -> Vec<u8> {
    let value = value(upload.schema(), account, fingerprint);
    Value { upload: Some(protobuf::encode(upload)), ..value }.encode_to_vec()
}

/// As [`JournalRecord::encode`], from the parts of one that carries a point set aside.
#[must_use]
pub fn encode_set_aside(account: AccountId, fingerprint: Fingerprint, point: &SetAside) -> Vec<u8> {
    let value = value(1, account, fingerprint);
    Value { set_aside: Some(point.encode_to_vec()), ..value }.encode_to_vec()
}

fn value(schema: u32, account: AccountId, fingerprint: Fingerprint) -> Value {
    Value {
        schema: Some(schema),
        account: Some(account.0.as_bytes().to_vec()),
        fingerprint: Some(fingerprint.0.to_vec()),
        ..Value::default()
    }
}

fn poison(reason: impl Into<String>) -> Undecodable {
    Undecodable::Poison(reason.into())
}

/// What a gateway takes leaves a fact that its topic takes. Numbers are longer in a fact, though, so what somebody else
/// writes need not.
fn check_fact(account: AccountId, upload: &Upload, bytes: usize) -> Result<(), Undecodable> {
    /// More than a location has in JSON besides its texts: a name, its marks, and a number of 24 digits and signs.
    const LOCATION_BYTES_MAX: usize = 64 + 64 * (NUMBERS.len() + TEXTS.len());
    // A character of a text has two at most for each that it has here.
    if upload.locations.len() * LOCATION_BYTES_MAX + 2 * bytes <= fact::VALUE_BYTES_MAX {
        return Ok(());
    }
    match fact::encode(account, JournalTime(i64::MAX), upload).len() {
        0..=fact::VALUE_BYTES_MAX => Ok(()),
        bytes => {
            Err(poison(format!("its fact would have {bytes} bytes, more than {}", fact::VALUE_BYTES_MAX)))
        }
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
    use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage as _};

    use uuid::Uuid;

    use super::*;
    use crate::kafka::names::RECORD_BYTES_MAX;
    use crate::location::{LOCATIONS_MAX, Shape};

    fn record() -> JournalRecord {
        let upload = Upload { device: "d".to_owned(), locations: vec![Location::new(5, 48.2, 16.3)] };
        let account = AccountId(Uuid::from_u128(1));
        let fingerprint = Fingerprint::of(&upload);
        JournalRecord { key_hash: KeyHash::new(account, "k"), account, fingerprint, payload: upload.into() }
    }

    fn set_aside() -> JournalRecord {
        let raw = br#"{"_type":"location","lat":91}"#;
        let point = SetAside::new("owntracks", Some("d"), "latitude-out-of-range", Some("lat"), raw);
        JournalRecord { payload: point.into(), ..record() }
    }

    #[test]
    fn a_record_survives_the_journal() {
        for record in [record(), set_aside()] {
            let key = record.key_hash.to_string();
            assert_eq!(JournalRecord::decode(Some(key.as_bytes()), Some(&record.encode())), Ok(record));
        }
    }

    /// As a build of `schema` writes it, with something behind.
    fn of_schema(schema: u32, behind: &[u8]) -> Vec<u8> {
        let mut value = record().encode();
        value[1..5].copy_from_slice(&schema.to_le_bytes());
        [&value, behind].concat()
    }

    fn decode(value: &[u8]) -> Result<JournalRecord, Undecodable> {
        JournalRecord::decode(Some(record().key_hash.to_string().as_bytes()), Some(value))
    }

    #[test]
    fn a_newer_schema_is_distinguished_from_poison_even_when_the_rest_is_unreadable() {
        let newer = Err(Undecodable::NewerSchema(SCHEMA + 1));
        let start = [&[0x0d][..], &(SCHEMA + 1).to_le_bytes()].concat();
        assert_eq!(JournalRecord::decode(None, Some(&start)), newer);
        assert_eq!(JournalRecord::decode(None, Some(&[&start[..], b"\xff\xff"].concat())), newer);
        assert_eq!(decode(&of_schema(SCHEMA + 1, &[0; VALUE_BYTES_MAX])), newer);
        assert_eq!(decode(&of_schema(1 << 16, b"")), Err(poison("no schema known")));
    }

    /// A field that no build reads, of so many bytes.
    fn unknown_field(bytes: usize) -> Vec<u8> {
        let mut field = Vec::new();
        // The length is written in four bytes, whatever it is.
        prost::encoding::encode_key(1000, prost::encoding::WireType::LengthDelimited, &mut field);
        let length = bytes - field.len() - 4;
        field.extend((0..4).map(|byte| u8::try_from(length >> (7 * byte) & 0x7f).unwrap() | 0x80));
        *field.last_mut().unwrap() &= 0x7f;
        field.resize(bytes, 0);
        field
    }

    #[test]
    fn a_value_larger_than_a_gateway_writes_is_poison() {
        let room = VALUE_BYTES_MAX - record().encode().len();
        assert_eq!(decode(&of_schema(1, &unknown_field(room))), Ok(record()));
        let reason = format!("the value has {} bytes, more than {VALUE_BYTES_MAX}", VALUE_BYTES_MAX + 1);
        assert_eq!(decode(&of_schema(1, &unknown_field(room + 1))), Err(poison(reason.clone())));
        assert_eq!(decode(&vec![b'?'; VALUE_BYTES_MAX + 1]), Err(poison(reason)));
    }

    /// A batch of as many of these as a body of 2 MiB may have.
    fn largest(location: &str) -> (usize, Upload) {
        const BODY_BYTES_MAX: usize = 2 << 20;
        let count = LOCATIONS_MAX.min(BODY_BYTES_MAX / (location.len() + 1) - 1);
        let body = format!(r#"{{"deviceId":"d","locations":[{}]}}"#, vec![location; count].join(","));
        assert!(body.len() <= BODY_BYTES_MAX);
        (body.len(), location::decode(body.as_bytes(), Shape::Batch, Rules::STORABLE).unwrap())
    }

    #[test]
    fn no_body_grows_in_the_journal_by_more_than_the_room_for_it() {
        let label = "\u{1f4cd}".repeat(64);
        for location in [
            r#"{"timestamp":9,"latitude":9,"longitude":9}"#,
            r#"{"timestamp":2e14,"latitude":-0,"longitude":-0,"accuracy":-0,"altitude":-0,"bearing":-0,"speed":-0,"batteryLevel":-0}"#,
            r#"{"timestamp":2e14,"latitude":1e-9,"longitude":1e-9,"accuracy":9e-9,"altitude":9e-9,"bearing":9e-9,"speed":9e-9}"#,
            r#"{"timestamp":2e14,"latitude":9,"longitude":9,"accuracy":1e8,"altitude":1e8,"bearing":9,"speed":1e5}"#,
            r#"{"timestamp":9,"latitude":9,"longitude":9,"provider":"","networkType":""}"#,
            &format!(
                r#"{{"timestamp":9,"latitude":9,"longitude":9,"provider":"{label}","networkType":"{label}"}}"#
            ),
        ] {
            let (body, upload) = largest(location);
            let record = JournalRecord { payload: upload.into(), ..record() };
            let value = record.encode();
            assert!(
                value.len() <= body + VALUE_BYTES_MAX - (2 << 20),
                "{} from {body}: {location}",
                value.len()
            );
            assert_eq!(decode(&value), Ok(record), "{location}");
        }
    }

    /// What grows most on its way: the shortest spellings of numbers that are written out.
    #[test]
    fn the_fact_of_the_largest_body_fits_into_its_topic() {
        let (_, upload) = largest(
            r#"{"timestamp":2e14,"latitude":9,"longitude":9,"accuracy":1e8,"altitude":1e8,"bearing":9,"speed":1e5,"batteryLevel":9,"provider":"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\""}"#,
        );
        let fact = fact::encode(AccountId(Uuid::nil()), JournalTime(i64::MAX), &upload).len();
        assert!(fact <= fact::VALUE_BYTES_MAX, "{fact}");
        // The key, and headers of which the device's name is the longest.
        let besides = 64 + 4 * 128 + 256;
        assert!(fact::VALUE_BYTES_MAX + besides <= RECORD_BYTES_MAX);
        assert_eq!(check_fact(AccountId(Uuid::nil()), &upload, VALUE_BYTES_MAX), Ok(()));
    }

    #[test]
    fn a_record_whose_fact_no_topic_takes_is_poison() {
        let label = Some("\"".repeat(64));
        let long = 1.0e-300 / 3.0;
        let mut location =
            Location { provider: label.clone(), network_type: label, ..Location::new(5, 1.0, 2.0) };
        NUMBERS.iter().for_each(|number| (number.set)(&mut location, long));
        let upload = Upload { device: "d".to_owned(), locations: vec![location; 9000] };
        let value = JournalRecord { payload: upload.into(), ..record() }.encode();
        assert!(value.len() <= VALUE_BYTES_MAX, "{}", value.len());
        match decode(&value) {
            Err(Undecodable::Poison(reason)) => {
                assert!(reason.starts_with("its fact would have "), "{reason}")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_record_has_the_fields_names_and_types_of_its_proto() {
        let record = record();
        let message = dynamic(&record);
        let field = |name: &str| message.get_field_by_name(name).unwrap().into_owned();
        assert_eq!(field("schema").as_u32(), Some(SCHEMA));
        assert_eq!(field("account").as_bytes().unwrap()[..], record.account.0.as_bytes()[..]);
        assert_eq!(field("fingerprint").as_bytes().unwrap()[..], record.fingerprint.0[..]);
        let upload = field("upload").as_message().unwrap().encode_to_vec();
        assert_eq!(protobuf::decode(&upload).as_ref(), Ok(record.upload().unwrap()));
        // Nothing is left that the code would not write, but what the other kind of record has.
        assert_eq!(message.fields().count() + 1, message.descriptor().fields().count());
        assert_eq!(message.encode_to_vec(), record.encode());
    }

    /// The record as the proto has it.
    fn dynamic(record: &JournalRecord) -> DynamicMessage {
        let pool = protox::compile(["proto/location_uploads.proto"], ["."]).unwrap();
        let pool = DescriptorPool::from_file_descriptor_set(pool).unwrap();
        let descriptor = pool.get_message_by_name("milepost.Record").unwrap();
        let message = DynamicMessage::decode(descriptor, &record.encode()[..]).unwrap();
        assert_eq!(message.unknown_fields().count(), 0);
        message
    }

    #[test]
    fn a_point_set_aside_has_the_fields_names_and_types_of_its_proto() {
        let point =
            SetAside { raw_length: Some(70_000), ..SetAside::new("a", Some("d"), "r", Some("f"), b"raw") };
        let record = JournalRecord { payload: point.clone().into(), ..record() };
        let message = dynamic(&record);
        assert!(!message.has_field_by_name("upload"));
        let inner = message.get_field_by_name("set_aside").unwrap().into_owned();
        let inner = inner.as_message().unwrap();
        let field = |name: &str| inner.get_field_by_name(name).unwrap().into_owned();
        let text = |name: &str| field(name).as_str().map(str::to_owned);
        assert_eq!((text("app"), text("device")), (Some(point.app), point.device));
        assert_eq!((text("reason"), text("field")), (Some(point.reason), point.field));
        assert_eq!(field("raw").as_bytes().unwrap()[..], point.raw[..]);
        assert_eq!(field("raw_length").as_u64(), point.raw_length);
        assert_eq!(inner.unknown_fields().count(), 0);
        assert_eq!(inner.fields().count(), inner.descriptor().fields().count());
        assert_eq!(message.encode_to_vec(), record.encode());
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
        let (key, value) = (key.as_bytes(), record.encode());
        let fields = |edit: fn(&mut Value)| {
            let mut fields = Value::decode(&value[..]).unwrap();
            edit(&mut fields);
            Some(fields.encode_to_vec())
        };
        let of_upload = |upload: &[u8]| {
            Some(
                Value { upload: Some(upload.to_vec()), ..Value::decode(&value[..]).unwrap() }.encode_to_vec(),
            )
        };
        let far_north = Upload { device: "d".to_owned(), locations: vec![Location::new(5, 148.2, 16.3)] };
        type Case<'a> = (&'a [u8], Option<Vec<u8>>, &'a str);
        let aside = Value::decode(&set_aside().encode()[..]).unwrap();
        let of_point =
            |bytes: &[u8]| Value { set_aside: Some(bytes.to_vec()), ..aside.clone() }.encode_to_vec();
        let both =
            Value { upload: Value::decode(&value[..]).unwrap().upload, ..aside.clone() }.encode_to_vec();
        let cases: [Case<'_>; 18] = [
            (key, None, "null value"),
            (key, Some(Vec::new()), "no schema known"),
            (key, Some(b"{\"schema\":1}".to_vec()), "no schema known"),
            (key, Some(value[..value.len() - 9].to_vec()), "not Protobuf"),
            (b"k", Some(value.clone()), "the key is not 64 lower-case hex digits"),
            (key, fields(|fields| fields.account = None), "no account"),
            (key, fields(|fields| fields.account = Some(vec![0; 15])), "no account"),
            (key, fields(|fields| fields.fingerprint = Some(vec![0; 33])), "no fingerprint"),
            (key, fields(|fields| fields.upload = None), "no upload"),
            (key, Some(both), "an upload and a point set aside"),
            (key, Some(of_point(b"\xff")), "invalid point set aside: it is not Protobuf"),
            (key, Some(of_point(b"")), "invalid point set aside: its app is no name"),
            (
                key,
                Some(of_point(b"\x0a\x01a\x1a\x01r\x38\x01")),
                "invalid point set aside: it has an unknown field",
            ),
            (key, of_upload(b"\xff"), "no upload: it is not Protobuf"),
            (key, of_upload(&[]), "invalid upload: 2 faults, the first: deviceId must not be empty"),
            (
                key,
                of_upload(b"\x0a\x01d\x12\0"),
                "invalid upload: 3 faults, the first: locations[0].timestamp",
            ),
            (key, of_upload(b"\x0a\x01d\x18\x01"), "no upload: it has an unknown field 3"),
            (
                key,
                of_upload(&protobuf::encode(&far_north)),
                "invalid upload: 1 faults, the first: locations[0].latitude",
            ),
        ];
        for (key, value, reason) in cases {
            match JournalRecord::decode(Some(key), value.as_deref()) {
                Err(Undecodable::Poison(text)) => {
                    assert!(text.starts_with(reason), "{text}");
                    assert!(!looks_set_aside(&text), "{text}");
                }
                other => panic!("{reason}: {other:?}"),
            }
        }
    }

    /// Whether a text begins as [`TEXT_PATTERN`](crate::journal::set_aside::TEXT_PATTERN) says.
    fn looks_set_aside(text: &str) -> bool {
        let is_name = |text: &str| text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        text.split_once(": ").is_some_and(|(app, _)| !app.is_empty() && is_name(app))
    }
}
