//! The limit of Postgres: the rows of a backlog by bare binary COPY, into identical tables.

use std::time::{Duration, Instant};

use milepost_shared::journal::answer::{self, KeyState};
use milepost_shared::journal::clock::{Clock, JournalTime};
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::position::Position;
use milepost_shared::store::batch::LocationRow;
use milepost_shared::store::copy::{KEYS, LOCATIONS, copy_in, encode_keys, encode_locations};
use milepost_shared::store::partitions::{Partitioned, ensure};
use milepost_tests::{Role, World};
use sqlx::{Connection as _, PgConnection};

use crate::records::Records;
use crate::uploads::DEVICES;

/// Locations of one COPY, as many as a batch of the consumer may hold.
const CHUNK_LOCATIONS: u64 = 20_000;

/// Rows ready to be sent: keys and locations, in pieces.
#[derive(Debug)]
pub struct Rows(Vec<(Vec<u8>, Vec<u8>)>);

impl Rows {
    /// Those of the first `count` records.
    #[must_use]
    pub fn new(records: &Records, count: u64, world: &World) -> Self {
        let now = Clock::default().now();
        let piece = usize::try_from(CHUNK_LOCATIONS / records.locations).unwrap_or(1).max(1);
        let pieces = (0..count).step_by(piece);
        Self(pieces.map(|first| rows(records, first..count.min(first + piece as u64), world, now)).collect())
    }

    /// Sends them in one transaction. Returns how long that took.
    ///
    /// # Errors
    /// Postgres refuses.
    pub async fn copy(&self, world: &World) -> anyhow::Result<Duration> {
        let mut owner = PgConnection::connect(&world.database.url(Role::Owner)).await?;
        let now = Clock::default().now();
        ensure(&mut owner, Partitioned::Keys, now, world.settings.ttl).await?;
        ensure(&mut owner, Partitioned::Locations, now, world.settings.ttl).await?;
        let begun = Instant::now();
        let mut transaction = owner.begin().await?;
        for (keys, locations) in &self.0 {
            copy_in(&mut transaction, KEYS, keys).await?;
            copy_in(&mut transaction, &LOCATIONS, locations).await?;
        }
        transaction.commit().await?;
        Ok(begun.elapsed())
    }
}

fn rows(
    records: &Records,
    numbers: std::ops::Range<u64>,
    world: &World,
    now: JournalTime,
) -> (Vec<u8>, Vec<u8>) {
    let mut keys: Vec<(KeyHash, KeyState)> = Vec::new();
    let mut locations = Vec::new();
    for number in numbers {
        let (upload, fingerprint) = records.upload(number);
        let source = Position::new(0, i64::try_from(number).unwrap_or(i64::MAX));
        let state = KeyState {
            account: world.account.id,
            fingerprint: *fingerprint,
            status: 200,
            body: answer::body(upload.locations.len()),
            accepted_at: now,
            expires_at: now.plus(world.settings.ttl),
            source,
        };
        keys.push((records.key_hash(number), state));
        let device_id = i64::try_from(number % DEVICES).unwrap_or(0);
        let row =
            |(ordinal, location)| LocationRow { device_id, location, received_at: now, source, ordinal };
        locations.extend((0..).zip(&upload.locations).map(row));
    }
    // As the consumer does.
    keys.sort_by_key(|(key, _)| *key);
    (encode_keys(keys.iter().map(|(key, state)| (*key, state))), encode_locations(&locations))
}
