//! Keys and locations by binary COPY: the quickest way in for large batches (measured: 1.5 to 3 times INSERT from about 1000 rows).
//!
//! The format is in the PostgreSQL manual, chapter COPY, "Binary Format": a header, then per row the field count and each
//! field as length and big-endian value, then a trailer.

use std::sync::LazyLock;

use sqlx::PgConnection;

use super::batch::{LocationRow, location_columns};
use crate::journal::answer::KeyState;
use crate::journal::clock::JournalTime;
use crate::journal::key::KeyHash;
use crate::location::fields::{NUMBERS, TEXTS};

/// The COPY statement for the rows of [`encode_keys`].
pub const KEYS: &str = "COPY idempotency_keys (key_hash, account_id, fingerprint, response_status, response_body, \
    accepted_at, expires_at, source_partition, source_offset) FROM STDIN (FORMAT binary)";
/// The COPY statement for the rows of [`encode_locations`].
pub static LOCATIONS: LazyLock<String> =
    LazyLock::new(|| format!("COPY locations ({}) FROM STDIN (FORMAT binary)", location_columns()));
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// Milliseconds from 1970 to 2000, where a `timestamptz` counts from.
const EPOCH_2000_MS: i64 = 946_684_800_000;

/// Sends rows that are encoded, within the transaction of the connection if there is one.
///
/// # Errors
/// The database refuses.
pub async fn copy_in(connection: &mut PgConnection, copy: &str, rows: &[u8]) -> sqlx::Result<()> {
    let mut copy = connection.copy_in_raw(copy).await?;
    copy.send(rows).await?;
    copy.finish().await?;
    Ok(())
}

/// Rows of `idempotency_keys`.
#[must_use]
pub fn encode_keys<'a>(rows: impl Iterator<Item = (KeyHash, &'a KeyState)>) -> Vec<u8> {
    encode(rows, 200, |bytes, (key_hash, state)| push_key(bytes, key_hash, state))
}

/// Rows of `locations`.
#[must_use]
pub fn encode_locations(rows: &[LocationRow<'_>]) -> Vec<u8> {
    encode(rows.iter(), 160, push_location)
}

/// `row_bytes` is about what a row takes.
fn encode<R>(rows: impl Iterator<Item = R>, row_bytes: usize, push_row: impl Fn(&mut Vec<u8>, R)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER.len() + row_bytes * rows.size_hint().0 + TRAILER.len());
    bytes.extend_from_slice(HEADER);
    rows.for_each(|row| push_row(&mut bytes, row));
    bytes.extend_from_slice(&TRAILER);
    bytes
}

fn push_key(bytes: &mut Vec<u8>, key_hash: KeyHash, state: &KeyState) {
    push_count(bytes, 9);
    push_field(bytes, &key_hash.0);
    push_field(bytes, state.account.0.as_bytes());
    push_field(bytes, &state.fingerprint.0);
    push_field(bytes, &i16::try_from(state.status).unwrap_or(i16::MAX).to_be_bytes());
    push_field(bytes, &state.body);
    push_time(bytes, state.accepted_at);
    push_time(bytes, state.expires_at);
    push_field(bytes, &state.source.partition.0.to_be_bytes());
    push_field(bytes, &state.source.offset.0.to_be_bytes());
}

/// Those of the table of fields, and of the device, the two times, the source and the ordinal.
#[expect(clippy::cast_possible_truncation, reason = "there are some dozen")]
const LOCATION_COLUMNS: i16 = (NUMBERS.len() + TEXTS.len() + 6) as i16;

fn push_location(bytes: &mut Vec<u8>, row: &LocationRow<'_>) {
    let location = row.location;
    push_count(bytes, LOCATION_COLUMNS);
    push_field(bytes, &row.device_id.to_be_bytes());
    push_time(bytes, JournalTime(location.timestamp));
    for number in &NUMBERS {
        push_optional(bytes, (number.get)(location).map(f64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
    }
    for text in &TEXTS {
        push_optional(bytes, (text.get)(location).map(str::as_bytes));
    }
    push_time(bytes, row.received_at);
    push_field(bytes, &row.source.partition.0.to_be_bytes());
    push_field(bytes, &row.source.offset.0.to_be_bytes());
    push_field(bytes, &row.ordinal.to_be_bytes());
}

fn push_count(bytes: &mut Vec<u8>, fields: i16) {
    bytes.extend_from_slice(&fields.to_be_bytes());
}

fn push_time(bytes: &mut Vec<u8>, time: JournalTime) {
    push_field(bytes, &((time.0 - EPOCH_2000_MS) * 1000).to_be_bytes());
}

fn push_optional(bytes: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        Some(field) => push_field(bytes, field),
        None => bytes.extend_from_slice(&(-1_i32).to_be_bytes()),
    }
}

fn push_field(bytes: &mut Vec<u8>, field: &[u8]) {
    // The longest are labels of 64 characters (see `location::fields`) and answers that this build has made or read from the table.
    let length = i32::try_from(field.len()).expect("a field of a row is short");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(field);
}
