//! One record of the journal, decoded.

use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::fact::HEADER_TRACEPARENT;
use milepost_shared::journal::position::{NextOffset, Position};
use milepost_shared::journal::record::{self, JournalRecord, Undecodable};
use milepost_shared::journal::set_aside::SetAside;
use milepost_shared::store::batch::DEAD_LETTER_BYTES_MAX;
use rdkafka::message::{Headers, Message, Timestamp};

use crate::persist::account::KnownAccounts;

/// The year 9000. A window that begins before it ends within the calendar's years.
const TIME_MAX: i64 = 221_845_392_000_000;

/// A record with everything that deciding, persisting and emitting need; detached from the Kafka client.
#[derive(Debug)]
pub struct Record {
    /// Where it stands in the journal.
    pub position: Position,
    /// When the broker appended it.
    pub time: JournalTime,
    /// Trace context of the request that brought it.
    pub traceparent: Option<String>,
    /// What it holds.
    pub content: Content,
    /// What it becomes if its account does not exist; `None` once the account is known.
    pub stranger: Option<Box<Poison>>,
}

/// What a record holds.
#[derive(Debug)]
pub enum Content {
    /// What a gateway accepted.
    Good(Box<JournalRecord>),
    /// Nothing that can ever be persisted.
    Poison(Poison),
}

/// A record for `dead_letters`: its own bytes, whole, so that nothing is lost.
#[derive(Debug)]
pub struct Poison {
    /// Why it cannot be persisted, without any value of the record. Says so if a part of it was truncated.
    pub reason: String,
    /// The Kafka key.
    pub key: Option<Vec<u8>>,
    /// The Kafka value.
    pub value: Option<Vec<u8>>,
}

impl Poison {
    /// Copies a record, as much of it as the table takes.
    #[must_use]
    pub fn new(reason: String, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        let mut reason = reason;
        let mut kept = |name: &str, bytes: &[u8]| {
            let kept = &bytes[..bytes.len().min(DEAD_LETTER_BYTES_MAX)];
            if kept.len() < bytes.len() {
                reason += &format!("; its {name} of {} bytes is truncated to {}", bytes.len(), kept.len());
            }
            kept.to_vec()
        };
        let key = key.map(|key| kept("key", key));
        let value = value.map(|value| kept("value", value));
        Self { reason, key, value }
    }
}

/// A record of a schema later than this build's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "record {} of journal partition {} has schema {schema}, newer than this build reads; upgrade the consumer",
    position.offset, position.partition
)]
pub struct NewerSchema {
    /// Where it stands.
    pub position: Position,
    /// Its schema.
    pub schema: u32,
}

/// Decodes a message of the journal topic. What no gateway can have written is poison. Below `persisted` the traceparent makes
/// none: an older build may have let it pass and emitted the fact, which has to be emitted again, without it.
///
/// # Errors
/// [`NewerSchema`]: the partition must stop before this record.
pub fn decode(
    message: &impl Message,
    accounts: &KnownAccounts,
    persisted: NextOffset,
) -> Result<Record, NewerSchema> {
    let position = Position::new(message.partition(), message.offset());
    let (key, value) = (message.key(), message.payload());
    let poison = |reason: String| Poison::new(reason, key, value);
    let time = time(message.timestamp());
    let checked = match JournalRecord::decode(key, value) {
        Err(Undecodable::NewerSchema(schema)) => return Err(NewerSchema { position, schema }),
        Err(Undecodable::Poison(reason)) => Err(reason),
        Ok(good) => match (time, traceparent(message)) {
            (Ok(_), Ok(traceparent)) => Ok((good, traceparent)),
            (Ok(_), Err(_)) if persisted.covers(position.offset) => Ok((good, None)),
            (Err(reason), _) | (_, Err(reason)) => Err(reason.to_owned()),
        },
    };
    let (content, traceparent, stranger) = match checked {
        Ok((good, traceparent)) => {
            // Bytes are only copied until the account has been seen once.
            let known = accounts.contains(good.account);
            let stranger = (!known).then(|| Box::new(poison("unknown account".to_owned())));
            (Content::Good(Box::new(good)), traceparent, stranger)
        }
        Err(reason) => (Content::Poison(poison(reason)), None, None),
    };
    Ok(Record { position, time: JournalTime(time.unwrap_or(0)), traceparent, content, stranger })
}

/// The broker's time stamp. Only a misconfigured topic lets writers choose their own.
fn time(timestamp: Timestamp) -> Result<i64, &'static str> {
    timestamp
        .to_millis()
        .filter(|time| (0..=TIME_MAX).contains(time))
        .ok_or("the time stamp is not the broker's")
}

/// A gateway passes on a valid one, or none.
fn traceparent(message: &impl Message) -> Result<Option<String>, &'static str> {
    let Some(headers) = message.headers() else { return Ok(None) };
    let mut values = headers.iter().filter(|header| header.key == HEADER_TRACEPARENT);
    let Some(header) = values.next() else { return Ok(None) };
    let text = header.value.and_then(|value| std::str::from_utf8(value).ok());
    match text.filter(|text| record::is_traceparent(text)) {
        Some(text) if values.next().is_none() => Ok(Some(text.to_owned())),
        _ => Err("the header traceparent is invalid"),
    }
}

impl Content {
    /// How many locations it holds to be stored.
    #[must_use]
    pub fn locations(&self) -> usize {
        match self {
            Self::Good(record) => record.payload.locations().len(),
            Self::Poison(_) => 0,
        }
    }

    /// The point that was set aside, if it holds one.
    #[must_use]
    pub fn set_aside(&self) -> Option<&SetAside> {
        match self {
            Self::Good(record) => record.set_aside(),
            Self::Poison(_) => None,
        }
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
