//! Resolves the records of a batch: decisions in, rows and emissions out. Pure, except for counting.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use metrics::counter;
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::record::{JournalRecord, Payload};
use milepost_shared::location::Upload;
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
    /// Nothing that can be decided.
    Poison,
}

/// A record that claims its key: to be persisted.
#[derive(Debug, Clone, Copy)]
pub struct NewRecord<'a> {
    /// The record.
    pub record: &'a Record,
    /// What it holds.
    pub good: &'a JournalRecord,
    /// The state it gives its key.
    pub state: &'a KeyState,
}

impl<'a> NewRecord<'a> {
    /// The account and the upload that it carries, if that is what it carries.
    fn upload(&self) -> Option<(AccountId, &'a Upload)> {
        Some((self.good.account, self.good.upload()?))
    }
}

/// Resolves every record of a batch in journal order. `windows` holds what the table knows of its keys.
#[must_use]
pub fn resolve(batch: &Batch, mut windows: Windows, ttl: Duration) -> Vec<Resolution> {
    let resolve_one = |record: &Record| match &record.content {
        Content::Poison(_) => Resolution::Poison,
        Content::Good(good) if batch.is_new(record) => {
            let (decision, state) = windows.resolve(&claim(record, good), ttl);
            Resolution::Decided(decision, state)
        }
        Content::Good(good) => windows
            .recall(&good.key_hash, record.position, record.time)
            .map_or(Resolution::Forgotten, |(state, persisted)| Resolution::Recalled { state, persisted }),
    };
    batch.records.iter().map(resolve_one).collect()
}

/// The records to persist.
#[must_use]
pub fn new_records<'a>(batch: &'a Batch, resolutions: &'a [Resolution]) -> Vec<NewRecord<'a>> {
    let new = |(record, resolution): (&'a Record, &'a Resolution)| match (&record.content, resolution) {
        (Content::Good(good), Resolution::Decided(Decision::New, state)) => {
            Some(NewRecord { record, good, state })
        }
        _ => None,
    };
    batch.records.iter().zip(resolutions).filter_map(new).collect()
}

/// What gateways accepted of a batch.
pub fn good_records(batch: &Batch) -> impl Iterator<Item = (&Record, &JournalRecord)> {
    batch.records.iter().filter_map(|record| match &record.content {
        Content::Good(good) => Some((record, &**good)),
        Content::Poison(_) => None,
    })
}

fn claim(record: &Record, good: &JournalRecord) -> Claim {
    Claim {
        key_hash: good.key_hash,
        account: good.account,
        fingerprint: good.fingerprint,
        locations: good.payload.locations().len(),
        position: record.position,
        time: record.time,
    }
}

/// The rows for `idempotency_keys`, sorted: two transactions never wait for each other in a circle, and neighbours go to
/// one page of the index.
#[must_use]
pub fn keys<'a>(new: &[NewRecord<'a>]) -> Vec<(KeyHash, &'a KeyState)> {
    let mut keys: Vec<_> = new.iter().map(|new| (new.good.key_hash, new.state)).collect();
    keys.sort_unstable_by_key(|(key, state)| (*key, state.accepted_at));
    keys
}

/// The last sighting of each device.
#[must_use]
pub fn sightings<'a>(new: &[NewRecord<'a>]) -> BTreeMap<statements::DeviceName<'a>, statements::Sighting> {
    let mut devices: BTreeMap<statements::DeviceName<'a>, statements::Sighting> = BTreeMap::new();
    for new in new {
        let Some((account, upload)) = new.upload() else { continue };
        for location in &upload.locations {
            let sighting = statements::Sighting::new(new.record.time, location);
            devices
                .entry((account, upload.device.as_str()))
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
    new: &[NewRecord<'a>],
    ids: &BTreeMap<statements::DeviceName<'a>, i64>,
) -> Vec<statements::LocationRow<'a>> {
    let mut rows = Vec::with_capacity(new.iter().map(|new| new.good.payload.locations().len()).sum());
    for new in new {
        let Some((account, upload)) = new.upload() else { continue };
        let (device_id, record) = (ids[&(account, upload.device.as_str())], new.record);
        rows.extend((0..).zip(&upload.locations).map(|(ordinal, location)| statements::LocationRow {
            device_id,
            location,
            received_at: record.time,
            source: record.position,
            ordinal,
        }));
    }
    rows
}

/// The rows for `dead_letters`: poison, and the points set aside that claim their keys.
#[must_use]
pub fn dead_letters<'a>(batch: &'a Batch, new: &[NewRecord<'a>]) -> Vec<statements::DeadLetter<'a>> {
    let poison = batch.records.iter().filter(|record| batch.is_new(record)).filter_map(|record| {
        let Content::Poison(Poison { reason, key, value }) = &record.content else { return None };
        Some(statements::DeadLetter {
            position: record.position,
            time: record.time,
            key: key.as_deref().map(Cow::Borrowed),
            value: value.as_deref(),
            reason: Cow::Borrowed(reason),
            account: None,
            device: None,
        })
    });
    let set_aside = new.iter().filter_map(|NewRecord { record, good, .. }| {
        let point = good.set_aside()?;
        Some(statements::DeadLetter {
            position: record.position,
            time: record.time,
            key: Some(Cow::Owned(good.key_hash.to_string().into_bytes())),
            value: Some(&point.raw),
            reason: Cow::Owned(point.to_string()),
            account: Some(good.account),
            device: point.device.as_deref(),
        })
    });
    poison.chain(set_aside).collect()
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
                (Content::Good(good), Resolution::Decided(decision, state)) => {
                    Some(answered(*good, state, decision == Decision::New))
                }
                (Content::Good(good), Resolution::Recalled { state, persisted }) => {
                    Some(answered(*good, state, persisted))
                }
                _ => None,
            };
            Emission { position, time, generation, traceparent, answer }
        })
        .collect()
}

fn answered(good: JournalRecord, state: KeyState, is_persisted: bool) -> Answered {
    let fact = match good.payload {
        Payload::Upload(upload) if is_persisted => Some(upload),
        Payload::Upload(_) | Payload::SetAside(_) => None,
    };
    Answered { key_hash: good.key_hash, state, fact }
}

/// Counts and logs what became of a persisted batch.
pub fn count(batch: &Batch, resolutions: &[Resolution]) {
    let mut decided: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut set_aside: BTreeMap<[&'static str; 2], u64> = BTreeMap::new();
    let (mut locations, mut letters) = (0, 0);
    for (record, resolution) in batch.records.iter().zip(resolutions) {
        let decision = match resolution {
            Resolution::Decided(Decision::New, _) => {
                locations += record.content.locations() as u64;
                if let Some(point) = record.content.set_aside() {
                    letters += 1;
                    *set_aside.entry(point.labels()).or_default() += 1;
                }
                "new"
            }
            Resolution::Decided(Decision::Copy, _) => "copy",
            Resolution::Decided(Decision::Conflict, _) => "conflict",
            Resolution::Recalled { .. } | Resolution::Forgotten => "recalled",
            Resolution::Poison if batch.is_new(record) => {
                letters += 1;
                let Content::Poison(Poison { reason, .. }) = &record.content else { continue };
                let (partition, offset) = (record.position.partition.0, record.position.offset.0);
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
    for ([app, reason], points) in set_aside {
        counter!(metric::SET_ASIDE, "app" => app, "reason" => reason).increment(points);
    }
    counter!(metric::LOCATIONS).increment(locations);
    counter!(metric::DEAD_LETTERS).increment(letters);
}
