//! `journal`: what is in the topics that only the programs read, as JSON.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use milepost_shared::journal::fact::HEADER_TRACEPARENT;
use milepost_shared::journal::position::Partition;
use milepost_shared::journal::record::{JournalRecord, Payload};
use milepost_shared::journal::result::ResultRecord;
use milepost_shared::journal::schema;
use milepost_shared::journal::set_aside::SetAside;
use milepost_shared::kafka::client::{self, Watching};
use milepost_shared::kafka::names::TopicNames;
use milepost_shared::kafka::reader::{self, Reader};
use rdkafka::Offset;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use serde_json::{Value, json};

use crate::arguments::{PrivateTopic, ShowJournal};

/// Longest wait for the cluster.
const TIMEOUT: Duration = Duration::from_secs(20);

pub fn show(command: &ShowJournal) -> anyhow::Result<()> {
    let ShowJournal { kafka, topic: of, partition, offset, count } = command;
    let names = TopicNames::new(&kafka.topic_prefix);
    let topic = match of {
        PrivateTopic::Uploads => names.uploads,
        PrivateTopic::Results => names.results,
    };
    let reader: Reader = client::journal_show(kafka)
        .create_with_context(Watching::default())
        .context("cannot make a Kafka client")?;
    let (begin, end) = reader
        .fetch_watermarks(&topic, *partition, TIMEOUT)
        .with_context(|| format!("cannot ask for partition {partition} of {topic}"))?;
    ensure!(
        *offset >= begin,
        "partition {partition} of {topic} no longer holds record {offset}: it begins at {begin}"
    );
    ensure!(
        *offset < end,
        "partition {partition} of {topic} has no record {offset} yet: it ends before {end}"
    );
    reader::assign(&reader, &topic, [(Partition(*partition), Offset::Offset(*offset))])?;
    let mut out = std::io::stdout().lock();
    for _ in 0..*count {
        let Some(message) = next(&reader)? else { break };
        let line = match of {
            PrivateTopic::Uploads => upload(&message),
            PrivateTopic::Results => result(&message),
        };
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// The next record; `None` at the end of the partition.
fn next(reader: &Reader) -> anyhow::Result<Option<BorrowedMessage<'_>>> {
    let deadline = Instant::now() + TIMEOUT;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        match reader.poll(left) {
            Some(Ok(message)) => return Ok(Some(message)),
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
            // The client goes on by itself; what it does not get over is reported at the deadline.
            Some(Err(error)) if Instant::now() >= deadline => return Err(error).context("cannot read"),
            Some(Err(error)) if error.rdkafka_error_code().is_none() => {
                return Err(error).context("cannot read");
            }
            Some(Err(_)) | None => {}
        }
    }
    bail!("Kafka gave no record within {} seconds", TIMEOUT.as_secs())
}

/// A record of the journal, as the consumer would read it.
fn upload(message: &BorrowedMessage<'_>) -> Value {
    let record = match JournalRecord::decode(message.key(), message.payload()) {
        Ok(record) => record,
        Err(error) => return unreadable(message, &error.to_string()),
    };
    let JournalRecord { key_hash, account, fingerprint, payload } = record;
    let (kind, payload) = match payload {
        Payload::Upload(upload) => ("upload", json!(upload)),
        Payload::SetAside(point) => ("setAside", set_aside(&point)),
    };
    let traceparent = message.headers().and_then(|headers| {
        let header = headers.iter().find(|header| header.key == HEADER_TRACEPARENT)?;
        Some(String::from_utf8_lossy(header.value?).into_owned())
    });
    with_place(
        message,
        json!({
            "schema": schema::of(message.payload().unwrap_or_default()),
            "keyHash": key_hash.to_string(),
            "account": account,
            "fingerprint": fingerprint.to_string(),
            "traceparent": traceparent,
            kind: payload,
        }),
    )
}

/// The point in it as text, or in base64 if it is none.
fn set_aside(point: &SetAside) -> Value {
    let SetAside { app, device, reason, field, raw, raw_length } = point;
    let (text, base64) = match std::str::from_utf8(raw) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(STANDARD.encode(raw))),
    };
    json!({
        "app": app,
        "device": device,
        "reason": reason,
        "field": field,
        "raw": text,
        "rawBase64": base64,
        "rawLength": raw_length,
    })
}

/// An answer, as a gateway would read it.
fn result(message: &BorrowedMessage<'_>) -> Value {
    let read = ResultRecord::decode(Partition(message.partition()), message.key(), message.payload());
    let Some(ResultRecord { key_hash, record, state }) = read else {
        return unreadable(message, "no answer that this build reads");
    };
    with_place(
        message,
        json!({
            "schema": schema::of(message.payload().unwrap_or_default()),
            "keyHash": key_hash.to_string(),
            "recordOffset": record.offset,
            "account": state.account,
            "fingerprint": state.fingerprint.to_string(),
            "status": state.status,
            "body": String::from_utf8_lossy(&state.body),
            "acceptedAt": state.accepted_at,
            "expiresAt": state.expires_at,
            "sourceOffset": state.source.offset,
        }),
    )
}

/// Whole, in base64.
fn unreadable(message: &BorrowedMessage<'_>, reason: &str) -> Value {
    let base64 = |bytes: Option<&[u8]>| bytes.map(|bytes| STANDARD.encode(bytes));
    let (key, value) = (base64(message.key()), base64(message.payload()));
    with_place(message, json!({ "unreadable": reason, "key": key, "value": value }))
}

fn with_place(message: &BorrowedMessage<'_>, mut fields: Value) -> Value {
    fields["partition"] = message.partition().into();
    fields["offset"] = message.offset().into();
    fields["time"] = message.timestamp().to_millis().into();
    fields
}
