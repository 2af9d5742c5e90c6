use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::position::Offset;
use milepost_shared::location::fingerprint::Fingerprint;
use milepost_shared::location::{Location, Upload};
use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};
use uuid::Uuid;

use super::*;

const ACCOUNT: AccountId = AccountId(Uuid::from_u128(7));
const NOW: Timestamp = Timestamp::LogAppendTime(1_773_480_413_000);
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn upload() -> JournalRecord {
    let upload = Upload { device: "d".to_owned(), locations: vec![Location::new(1, 48.0, 16.0)] };
    let (key_hash, fingerprint) = (KeyHash::new(ACCOUNT, "k"), Fingerprint::of(&upload));
    JournalRecord { key_hash, account: ACCOUNT, fingerprint, payload: upload.into() }
}

/// As somebody might have written it: with a field that no encoder writes.
fn value() -> Vec<u8> {
    [&upload().encode()[..], b"\x78\x01"].concat()
}

fn message(value: Vec<u8>, time: Timestamp, traceparents: &[&str]) -> OwnedMessage {
    let key = upload().key_hash.to_string().into_bytes();
    let headers = traceparents.iter().fold(OwnedHeaders::new(), |headers, value| {
        headers.insert(Header { key: HEADER_TRACEPARENT, value: Some(*value) })
    });
    let headers = (!traceparents.is_empty()).then_some(headers);
    OwnedMessage::new(Some(value), Some(key), "location-uploads".to_owned(), time, 3, 9, headers)
}

fn decoded(message: &OwnedMessage) -> Record {
    decode(message, &KnownAccounts::default(), NextOffset::START).unwrap()
}

fn reason(record: Record) -> String {
    match record.content {
        Content::Poison(poison) => poison.reason,
        Content::Good(good) => panic!("{good:?}"),
    }
}

#[test]
fn a_traceparent_that_no_gateway_hands_on_makes_its_record_poison() {
    assert_eq!(decoded(&message(value(), NOW, &[])).traceparent, None);
    let traced = decoded(&message(value(), NOW, &[TRACEPARENT]));
    assert_eq!(traced.traceparent.as_deref(), Some(TRACEPARENT));
    assert!(matches!(traced.content, Content::Good(_)));
    let endless = "0".repeat(5_000_000);
    for traceparents in [&[""][..], &["00"], &[&endless], &[TRACEPARENT, TRACEPARENT], &[TRACEPARENT, ""]] {
        let record = decoded(&message(value(), NOW, traceparents));
        assert_eq!(record.traceparent, None);
        assert_eq!(reason(record), "the header traceparent is invalid");
    }
}

#[test]
fn a_record_that_was_persisted_with_such_a_traceparent_is_emitted_again_without_it() {
    let message = message(value(), NOW, &["00"]);
    let record = |persisted| decode(&message, &KnownAccounts::default(), persisted).unwrap();
    let again = record(Offset(message.offset()).next());
    assert!(matches!(again.content, Content::Good(_)) && again.traceparent.is_none());
    assert_eq!(reason(record(Offset(message.offset()).before())), "the header traceparent is invalid");
}

#[test]
fn a_time_stamp_outside_of_the_calendar_makes_a_poison_record_with_a_time_that_the_table_takes() {
    for time in [
        Timestamp::NotAvailable,
        Timestamp::CreateTime(i64::MAX),
        Timestamp::CreateTime(TIME_MAX + 1),
        Timestamp::CreateTime(i64::MIN),
    ] {
        for bytes in [value(), b"poison".to_vec()] {
            let record = decoded(&message(bytes, time, &[]));
            assert_eq!(record.time, JournalTime(0));
            assert!(!reason(record).is_empty());
        }
    }
    let latest = decoded(&message(value(), Timestamp::CreateTime(TIME_MAX), &[]));
    assert!(matches!(latest.content, Content::Good(_)) && latest.time == JournalTime(TIME_MAX));
}

#[test]
fn a_newer_schema_comes_before_all_that_a_newer_build_may_do_otherwise() {
    let newer = message(b"\x0d\x02\0\0\0?".to_vec(), Timestamp::NotAvailable, &["01"]);
    let error = decode(&newer, &KnownAccounts::default(), NextOffset::START).unwrap_err();
    assert_eq!(error, NewerSchema { position: Position::new(3, 9), schema: 2 });
}

#[test]
fn the_bytes_of_an_upload_are_kept_until_its_account_is_known() {
    let (accounts, message) = (KnownAccounts::default(), message(value(), NOW, &[]));
    let stranger = decode(&message, &accounts, NextOffset::START).unwrap().stranger.unwrap();
    assert_eq!((stranger.key.as_deref(), stranger.value.as_deref()), (message.key(), message.payload()));
    accounts.extend([ACCOUNT]);
    assert!(decode(&message, &accounts, NextOffset::START).unwrap().stranger.is_none());
}

#[test]
fn a_dead_letter_that_the_table_cannot_take_is_cut_and_says_so() {
    let whole = vec![b'x'; DEAD_LETTER_BYTES_MAX];
    let kept = Poison::new("why".to_owned(), Some(b"k"), Some(&whole));
    assert_eq!((&kept.reason[..], kept.value.as_ref()), ("why", Some(&whole)));
    let longer = [&whole[..], b"y"].concat();
    let cut = Poison::new("why".to_owned(), Some(&longer), Some(&longer));
    assert_eq!((cut.key.as_ref(), cut.value.as_ref()), (Some(&whole), Some(&whole)));
    let cuts = "why; its key of 16777217 bytes is truncated to 16777216; its value of 16777217 bytes is truncated to 16777216";
    assert_eq!(cut.reason, cuts);
}
