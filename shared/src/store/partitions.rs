//! Table partitions of keys and locations: made ahead, detached and dropped when nothing in them matters any more.

use std::time::Duration;

use sqlx::postgres::types::PgInterval;
use sqlx::{PgConnection, Row as _};

use crate::clock::JournalTime;

/// A table that is partitioned by journal time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partitioned {
    /// `idempotency_keys`, by `accepted_at`.
    Keys,
    /// `locations`, by `received_at`.
    Locations,
}

impl Partitioned {
    fn table(self) -> &'static str {
        match self {
            Self::Keys => "idempotency_keys",
            Self::Locations => "locations",
        }
    }
}

/// A stretch of journal time, its end exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// First moment inside.
    pub start: JournalTime,
    /// First moment after it.
    pub end: JournalTime,
}

impl Stretch {
    /// Whether a moment lies inside.
    #[must_use]
    pub fn contains(&self, time: JournalTime) -> bool {
        self.start <= time && time < self.end
    }
}

/// A live partition of `idempotency_keys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPartition {
    /// Its table's name.
    pub name: String,
    /// The times of acceptance in it.
    pub accepted: Stretch,
    /// When the last window in it is over.
    pub keep_until: JournalTime,
}

fn interval(duration: Duration) -> PgInterval {
    let microseconds = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    PgInterval { months: 0, days: 0, microseconds }
}

/// Makes sure that a partition covers `moment` and is kept until `kept` after its end. Returns what it covers, which is
/// `width` or, after a change of the width, less.
///
/// # Errors
/// The database refuses.
pub async fn ensure(
    connection: &mut PgConnection,
    table: Partitioned,
    moment: JournalTime,
    width: Duration,
    kept: Duration,
) -> sqlx::Result<Stretch> {
    let row = sqlx::query("SELECT lower_end, upper_end FROM ensure_partition($1, $2, $3, $4)")
        .bind(table.table())
        .bind(moment.to_datetime())
        .bind(interval(width))
        .bind(interval(kept))
        .fetch_one(connection)
        .await?;
    Ok(Stretch {
        start: JournalTime::from_datetime(row.try_get("lower_end")?),
        end: JournalTime::from_datetime(row.try_get("upper_end")?),
    })
}

/// The live partitions of keys, oldest first.
///
/// # Errors
/// The database cannot be asked.
pub async fn key_partitions(connection: &mut PgConnection) -> sqlx::Result<Vec<KeyPartition>> {
    let rows = sqlx::query(
        "SELECT name, lower_bound, upper_bound, keep_until FROM table_partitions \
         WHERE parent = 'idempotency_keys' AND NOT detached ORDER BY lower_bound",
    )
    .fetch_all(connection)
    .await?;
    let time = JournalTime::from_datetime;
    rows.iter()
        .map(|row| {
            Ok(KeyPartition {
                name: row.try_get("name")?,
                accepted: Stretch {
                    start: time(row.try_get("lower_bound")?),
                    end: time(row.try_get("upper_bound")?),
                },
                keep_until: time(row.try_get("keep_until")?),
            })
        })
        .collect()
}

/// Detaches a partition: from here on its rows are forgotten. False if another consumer was faster.
///
/// # Errors
/// The database refuses, such as when the parent stays locked for a second.
pub async fn detach(connection: &mut PgConnection, name: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT detach_partition($1)").bind(name).fetch_one(connection).await
}

/// Removes the tables of detached partitions. Returns how many.
///
/// # Errors
/// The database refuses.
pub async fn drop_detached(connection: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::query_scalar("SELECT drop_detached()").fetch_one(connection).await
}

/// The database's own clock: a second opinion beside the consumer's, for expiry while no records come. The one statement
/// that asks for it.
///
/// # Errors
/// The database cannot be asked.
pub async fn server_time(connection: &mut PgConnection) -> sqlx::Result<JournalTime> {
    sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(connection).await.map(JournalTime::from_datetime)
}
