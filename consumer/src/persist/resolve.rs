//! Resolves the records of a batch: decisions in, rows and emissions out. Pure, except for counting.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::counter;
use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::record::JournalRecord;
use milepost_shared::store::batch as statements;

use crate::emit::emitter::{Answered, Emission};
use crate::journal::record::{Content, Poison, Record};
use crate::metric;
use crate::persist::batch::Batch;
use crate::persist::decide::{Claim, Decision, Windows};

/// What a record of a batch turned out to be.
#[derive(Debug)]
pub enum Resolution {
    /// Decided now.
    Decided(Decision, KeyState),
    /// Below the progress: emitted again.
    Recalled {
        /// The state of its key at its time.
        state: KeyState,
        /// Whether it was the one persisted.
        persisted: bool,
    },
    /// Below the progress, and no longer known: its answer and fact were emitted before it expired.
    Forgotten,
    /// Not an upload.
    Poison,
}

/// An upload to persist.
#[derive(Debug, Clone, Copy)]
pub struct NewUpload<'a> {
    /// Its record.
    pub record: &'a Record,
    /// What the record holds.
    pub upload: &'a JournalRecord,
    /// The state it gives its key.
    pub state: &'a KeyState,
}

/// Resolves every record of a batch in journal order. `windows` holds what the table knows of its keys.
#[must_use]
pub fn resolve(batch: &Batch, mut windows: Windows, ttl: Duration) -> Vec<Resolution> {
    let resolve_one = |record: &Record| match &record.content {
        Content::Poison(_) => Resolution::Poison,
        Content::Upload(upload) if batch.is_new(record) => {
            let (decision, state) = windows.resolve(&claim(record, upload), ttl);
            Resolution::Decided(decision, state)
        }
        Content::Upload(upload) => windows
            .recall(&upload.key_hash, record.position, record.time)
            .map_or(Resolution::Forgotten, |(state, persisted)| Resolution::Recalled { state, persisted }),
    };
    batch.records.iter().map(resolve_one).collect()
}

/// The uploads to persist.
#[must_use]
pub fn new_uploads<'a>(batch: &'a Batch, resolutions: &'a [Resolution]) -> Vec<NewUpload<'a>> {
    let new = |(record, resolution): (&'a Record, &'a Resolution)| match (&record.content, resolution) {
        (Content::Upload(upload), Resolution::Decided(Decision::New, state)) => {
            Some(NewUpload { record, upload, state })
        }
        _ => None,
    };
    batch.records.iter().zip(resolutions).filter_map(new).collect()
}

/// The uploads of a batch.
pub fn uploads(batch: &Batch) -> impl Iterator<Item = (&Record, &JournalRecord)> {
    batch.records.iter().filter_map(|record| match &record.content {
        Content::Upload(upload) => Some((record, &**upload)),
        Content::Poison(_) => None,
    })
}

fn claim(record: &Record, upload: &JournalRecord) -> Claim {
    Claim {
        key_hash: upload.key_hash,
        account: upload.account,
        fingerprint: upload.fingerprint,
        locations: upload.upload.locations.len(),
        position: record.position,
        time: record.time,
    }
}

/// The rows for `idempotency_keys`, sorted: two transactions never wait for each other in a circle, and neighbours go to
/// one page of the index.
#[must_use]
pub fn keys<'a>(new: &[NewUpload<'a>]) -> Vec<(KeyHash, &'a KeyState)> {
    let mut keys: Vec<_> = new.iter().map(|new| (new.upload.key_hash, new.state)).collect();
    keys.sort_unstable_by_key(|(key, state)| (*key, state.accepted_at));
    keys
}

/// The last sighting of each device.
#[must_use]
pub fn sightings<'a>(new: &[NewUpload<'a>]) -> BTreeMap<statements::DeviceName<'a>, statements::Sighting> {
    let mut devices: BTreeMap<statements::DeviceName<'a>, statements::Sighting> = BTreeMap::new();
    for NewUpload { record, upload, .. } in new {
        for location in &upload.upload.locations {
            let sighting = statements::Sighting::new(record.time, location);
            devices
                .entry((upload.account, upload.upload.device.as_str()))
                .and_modify(|last| *last = last.merged(&sighting))
                .or_insert(sighting);
        }
    }
    devices
}

/// The rows for `locations`.
///
/// # Panics
/// A device has no id.
#[must_use]
pub fn rows<'a>(
    new: &[NewUpload<'a>],
    ids: &BTreeMap<statements::DeviceName<'a>, i64>,
) -> Vec<statements::LocationRow<'a>> {
    let mut rows = Vec::with_capacity(new.iter().map(|new| new.upload.upload.locations.len()).sum());
    for NewUpload { record, upload, .. } in new {
        let device_id = ids[&(upload.account, upload.upload.device.as_str())];
        rows.extend((0..).zip(&upload.upload.locations).map(|(ordinal, location)| statements::LocationRow {
            device_id,
            location,
            received_at: record.time,
            source: record.position,
            ordinal,
        }));
    }
    rows
}

/// The rows for `dead_letters`.
#[must_use]
pub fn dead_letters(batch: &Batch) -> Vec<statements::DeadLetter<'_>> {
    batch
        .records
        .iter()
        .filter(|record| batch.is_new(record))
        .filter_map(|record| match &record.content {
            Content::Upload(_) => None,
            Content::Poison(poison) => Some(statements::DeadLetter {
                position: record.position,
                time: record.time,
                key: poison.key.as_deref(),
                value: poison.value.as_deref(),
                reason: &poison.reason,
            }),
        })
        .collect()
}

/// What a persisted batch leaves to emit, in its order.
#[must_use]
pub fn emissions(batch: Batch, resolutions: Vec<Resolution>) -> Vec<Emission> {
    let spans = batch.spans;
    batch
        .records
        .into_iter()
        .zip(resolutions)
        .map(|(record, resolution)| {
            let generation = spans.get(&record.position.partition).map_or(0, |span| span.generation);
            let (position, time, traceparent) = (record.position, record.time, record.traceparent);
            let answer = match (record.content, resolution) {
                (Content::Upload(upload), Resolution::Decided(decision, state)) => {
                    Some(Answered { upload, state, is_fact: decision == Decision::New })
                }
                (Content::Upload(upload), Resolution::Recalled { state, persisted }) => {
                    Some(Answered { upload, state, is_fact: persisted })
                }
                _ => None,
            };
            Emission { position, time, generation, traceparent, answer }
        })
        .collect()
}

/// Counts and logs what became of a persisted batch.
pub fn count(batch: &Batch, resolutions: &[Resolution]) {
    let mut decided: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut locations, mut letters) = (0, 0);
    for (record, resolution) in batch.records.iter().zip(resolutions) {
        let decision = match resolution {
            Resolution::Decided(Decision::New, _) => {
                locations += record.content.locations() as u64;
                "new"
            }
            Resolution::Decided(Decision::Copy, _) => "copy",
            Resolution::Decided(Decision::Conflict, _) => "conflict",
            Resolution::Recalled { .. } | Resolution::Forgotten => "recalled",
            Resolution::Poison if batch.is_new(record) => {
                letters += 1;
                let Content::Poison(Poison { reason, .. }) = &record.content else { continue };
                let (partition, offset) = (record.position.partition, record.position.offset);
                tracing::warn!(partition, offset, reason, "record moved to dead_letters");
                "dead-letter"
            }
            Resolution::Poison => "recalled",
        };
        *decided.entry(decision).or_default() += 1;
    }
    // Once per batch, not per record: each look-up joins name and label first.
    for (decision, records) in decided {
        counter!(metric::DECIDED, "decision" => decision).increment(records);
    }
    counter!(metric::LOCATIONS).increment(locations);
    counter!(metric::DEAD_LETTERS).increment(letters);
}
