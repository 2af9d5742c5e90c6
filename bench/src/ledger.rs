//! What was answered, to be compared with what is stored: a run that lost or doubled anything has no figures.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::ensure;
use milepost_tests::Tables;

/// Uploads promised to be stored, and their locations.
#[derive(Debug, Default)]
pub struct Ledger {
    uploads: AtomicU64,
    locations: AtomicU64,
}

impl Ledger {
    /// Notes uploads and the number of their locations.
    pub fn add(&self, uploads: u64, locations: u64) {
        self.uploads.fetch_add(uploads, Ordering::Relaxed);
        self.locations.fetch_add(locations, Ordering::Relaxed);
    }

    /// Counts the rows.
    ///
    /// # Errors
    /// They are not as many as were promised, or cannot be counted.
    pub async fn check(&self, tables: &Tables) -> anyhow::Result<()> {
        self.check_with(0, tables).await
    }

    /// The same where so many rows besides are each the key and the location of a point.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub async fn check_with(&self, points: u64, tables: &Tables) -> anyhow::Result<()> {
        let promised = (self.uploads.load(Ordering::Relaxed), self.locations.load(Ordering::Relaxed));
        let keys = tables.number("SELECT count(*) FROM idempotency_keys").await?;
        let locations = tables.number("SELECT count(*) FROM locations").await?;
        let stored = (u64::try_from(keys)? + points, u64::try_from(locations)? + points);
        ensure!(stored == promised, "answered {promised:?} uploads and locations, but stored {stored:?}");
        Ok(())
    }
}
