//! Postgres: what a transaction leaves behind, and expiry.

use std::sync::Arc;
use std::time::Duration;

use milepost_consumer::expire::{journal_clock, may_expire};
use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::clock::{JournalTime, millis};
use milepost_shared::journal::position::NextOffset;
use milepost_shared::store::partitions::{KeyPartition, Stretch};
use milepost_shared::store::progress::Progress;

use crate::journal::{PARTITION, TTL};
use crate::planted::PlantedBug;

/// Grace of expiry: none, which leaves it the least room.
const GRACE: Duration = Duration::ZERO;

/// The tables.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Database {
    /// `idempotency_keys`: the windows of the key, oldest first.
    pub keys: Vec<Arc<KeyState>>,
    /// `locations`: the source offset of each upload persisted.
    pub locations: Vec<i64>,
    /// `partition_progress`.
    pub progress: Progress,
}

impl Default for Database {
    fn default() -> Self {
        let progress = Progress {
            partition: PARTITION,
            next_offset: NextOffset::START,
            log_time: None,
            emitted_offset: NextOffset::START,
            emitted_time: None,
        };
        Self { keys: Vec::new(), locations: Vec::new(), progress }
    }
}

impl Database {
    /// What a batch commits: the progress, and a row of both tables for each upload that is new.
    pub fn commit(&mut self, next_offset: i64, time: JournalTime, new: &[Arc<KeyState>]) {
        self.progress.next_offset = NextOffset(next_offset);
        self.progress.log_time = self.progress.log_time.max(Some(time));
        self.keys.extend_from_slice(new);
        self.keys.sort_by_key(|state| state.source);
        self.locations.extend(new.iter().map(|state| state.source.offset.0));
    }

    /// The newest window of the key.
    #[must_use]
    pub fn newest(&self) -> Option<&KeyState> {
        self.keys.last().map(|state| &**state)
    }

    /// Notes how far a consumer has emitted, under the conditions of the statement that does.
    pub fn note_emitted(&mut self, next_offset: i64, time: JournalTime) {
        let (progress, next_offset) = (&mut self.progress, NextOffset(next_offset));
        if progress.emitted_offset < next_offset && next_offset <= progress.next_offset {
            progress.emitted_offset = next_offset;
            progress.emitted_time = progress.emitted_time.max(Some(time));
        }
    }

    /// Drops the table partitions of keys that may go. `wall` is the earlier of the two clocks that expiry reads, one of
    /// which is right.
    pub fn expire(&mut self, journal_end: i64, wall: JournalTime, planted: Option<PlantedBug>) {
        let mut clock = journal_clock(Some(&self.progress), NextOffset(journal_end), wall);
        if planted == Some(PlantedBug::ExpireBeforeEmission) {
            clock.emitted = clock.passed;
        }
        self.keys.retain(|state| {
            let partition = table_partition(state.accepted_at);
            let candidate = partition.keep_until.plus(GRACE) <= wall;
            let granted =
                planted == Some(PlantedBug::ExpireByWallClock) || may_expire(&partition, &[clock], GRACE);
            !(candidate && granted)
        });
    }
}

/// The table partition that a window opened at `accepted_at` is in.
fn table_partition(accepted_at: JournalTime) -> KeyPartition {
    let start = JournalTime(accepted_at.0 - accepted_at.0.rem_euclid(millis(TTL)));
    let end = start.plus(TTL);
    KeyPartition {
        name: String::new(),
        accepted: Stretch { start, end },
        keep_until: end.plus(TTL),
        retry_at: None,
    }
}
