//! One record of the journal, decoded.

use milepost_shared::answer::Position;
use milepost_shared::clock::JournalTime;
use milepost_shared::fact::HEADER_TRACEPARENT;
use milepost_shared::journal::{JournalRecord, Undecodable};
use milepost_shared::store::batch::DEAD_LETTER_BYTES_MAX;
use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Headers as _};

/// A record with all that deciding, persisting and emitting need; detached from the Kafka client.
#[derive(Debug)]
pub struct Record {
    /// Where it stands in the journal.
    pub position: Position,
    /// When the broker appended it.
    pub time: JournalTime,
    /// Trace context of the request that brought it.
    pub traceparent: Option<String>,
    /// What it says.
    pub content: Content,
}

/// What a record says.
#[derive(Debug)]
pub enum Content {
    /// An accepted upload.
    Upload(Box<JournalRecord>),
    /// Nothing that can ever be persisted.
    Garbage(Garbage),
}

/// A record for `dead_letters`: whole, so that nothing is lost.
#[derive(Debug)]
pub struct Garbage {
    /// Why it cannot be persisted; names no value of the record. Says so if a part of it was cut.
    pub reason: String,
    /// The Kafka key.
    pub key: Option<Vec<u8>>,
    /// The Kafka value.
    pub value: Option<Vec<u8>>,
}

impl Garbage {
    /// Copies a record, as much of it as the table takes.
    #[must_use]
    pub fn new(reason: String, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        let mut reason = reason;
        let mut kept = |name: &str, bytes: &[u8]| {
            let kept = &bytes[..bytes.len().min(DEAD_LETTER_BYTES_MAX)];
            if kept.len() < bytes.len() {
                reason += &format!("; its {name} of {} bytes is cut to {}", bytes.len(), kept.len());
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
    pub schema: i64,
}

/// Decodes a message of the journal topic.
///
/// # Errors
/// [`NewerSchema`]: the partition must stop before this record.
pub fn decode(message: &BorrowedMessage<'_>) -> Result<Record, NewerSchema> {
    let position = Position { partition: message.partition(), offset: message.offset() };
    let (key, value) = (message.key(), message.payload());
    let content = match JournalRecord::decode(key, value) {
        Ok(record) => Content::Upload(Box::new(record)),
        Err(Undecodable::NewerSchema(schema)) => return Err(NewerSchema { position, schema }),
        Err(Undecodable::Garbage(reason)) => Content::Garbage(Garbage::new(reason, key, value)),
    };
    let traceparent = message.headers().and_then(|headers| {
        let header = headers.iter().find(|header| header.key == HEADER_TRACEPARENT)?;
        std::str::from_utf8(header.value?).ok().map(str::to_owned)
    });
    Ok(Record {
        position,
        time: JournalTime(message.timestamp().to_millis().unwrap_or(0)),
        traceparent,
        content,
    })
}

impl Content {
    /// How many locations it holds; 0 for garbage.
    #[must_use]
    pub fn locations(&self) -> usize {
        match self {
            Self::Upload(record) => record.upload.locations.len(),
            Self::Garbage(_) => 0,
        }
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
