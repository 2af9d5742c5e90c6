//! Table partitions of keys and locations: made ahead, detached and dropped when nothing in them matters any more.

use std::time::Duration;

use anyhow::Context as _;
use sqlx::postgres::types::PgInterval;
use sqlx::{PgConnection, Row as _};

use crate::journal::clock::JournalTime;
use crate::journal::position::Partition;

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
    /// When dropping it may be tried again after somebody held the table; `None` if no attempt has failed.
    pub retry_at: Option<JournalTime>,
}

/// What became of a partition that may expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// It is detached: from now on its rows are forgotten.
    Detached,
    /// Somebody holds the table. It is not tried again for a while, which grows.
    Busy,
    /// Another consumer is doing it or was faster, or that while is not over.
    NotNow,
}

fn interval(duration: Duration) -> PgInterval {
    let microseconds = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    PgInterval { months: 0, days: 0, microseconds }
}

/// Makes sure that a partition covers `moment` and is kept for `needed` after its end, or as much longer as the owner has set.
/// Returns what it covers: the width that the owner has set or, after a change of it, less.
///
/// # Errors
/// The database refuses, such as a `needed` beyond what the owner has set.
pub async fn ensure(
    connection: &mut PgConnection,
    table: Partitioned,
    moment: JournalTime,
    needed: Duration,
) -> sqlx::Result<Stretch> {
    let row = sqlx::query("SELECT lower_end, upper_end FROM ensure_partition($1, $2, $3)")
        .bind(table.table())
        .bind(moment.to_datetime())
        .bind(interval(needed))
        .fetch_one(connection)
        .await?;
    Ok(Stretch {
        start: JournalTime::from_datetime(row.try_get("lower_end")?),
        end: JournalTime::from_datetime(row.try_get("upper_end")?),
    })
}

/// Sets how long keys are remembered, as their owner: future partitions are that wide, and all that is not over is kept that
/// long after its end.
///
/// # Errors
/// The database refuses.
pub async fn set_ttl(connection: &mut PgConnection, ttl: Duration) -> sqlx::Result<()> {
    sqlx::query("UPDATE partition_settings SET width = $1, kept = $1 WHERE parent = 'idempotency_keys'")
        .bind(interval(ttl))
        .execute(connection)
        .await?;
    Ok(())
}

/// Refuses a TTL for which keys are not kept long enough.
///
/// # Errors
/// They are not, with the command that fixes it; or the database cannot be asked.
pub async fn check_ttl(connection: &mut PgConnection, ttl: Duration) -> anyhow::Result<()> {
    let kept: Option<String> = sqlx::query_scalar(
        "SELECT kept::text FROM partition_settings WHERE parent = 'idempotency_keys' AND kept < $1",
    )
    .bind(interval(ttl))
    .fetch_optional(connection)
    .await
    .context("cannot read how long keys are kept")?;
    if let Some(kept) = kept {
        let ttl = humantime::format_duration(ttl);
        anyhow::bail!(
            "the database keeps keys for {kept}, IDEMPOTENCY_TTL is {ttl}; run 'milepost-admin migrate' with that \
             IDEMPOTENCY_TTL"
        );
    }
    Ok(())
}

/// The live partitions of keys, oldest first.
///
/// # Errors
/// The database cannot be asked.
pub async fn key_partitions(connection: &mut PgConnection) -> sqlx::Result<Vec<KeyPartition>> {
    let rows = sqlx::query(
        "SELECT name, lower_bound, upper_bound, keep_until, nullif(retry_at, '-infinity') AS retry_at \
         FROM table_partitions WHERE parent = 'idempotency_keys' AND NOT detached ORDER BY lower_bound",
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
                retry_at: row.try_get::<Option<_>, _>("retry_at")?.map(time),
            })
        })
        .collect()
}

/// Drops a partition of keys. Waits at most 50 ms for the table, since look-ups and batches wait behind it.
///
/// `drained` are the partitions of the journal topic in which nothing is left to persist: their progress does not move.
///
/// # Errors
/// The database refuses, such as a partition whose windows are not over by its own clock or by the progress.
pub async fn expire(
    connection: &mut PgConnection,
    name: &str,
    topic: &str,
    drained: &[Partition],
) -> sqlx::Result<Expiry> {
    let outcome: String = sqlx::query_scalar("SELECT expire_partition($1, $2, $3)")
        .bind(name)
        .bind(topic)
        .bind(drained)
        .fetch_one(connection)
        .await?;
    Ok(match outcome.as_str() {
        "detached" => Expiry::Detached,
        "busy" => Expiry::Busy,
        _ => Expiry::NotNow,
    })
}

/// Removes the tables of detached partitions that nobody reads any more. Returns how many.
///
/// # Errors
/// The database refuses.
pub async fn drop_detached(connection: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::query_scalar("SELECT drop_detached()").fetch_one(connection).await
}

/// Since when, or from when on, the oldest key partition that still takes space is no longer needed.
///
/// # Errors
/// The database cannot be asked.
pub async fn oldest_keep_until(connection: &mut PgConnection) -> sqlx::Result<Option<JournalTime>> {
    sqlx::query_scalar("SELECT min(keep_until) FROM table_partitions WHERE parent = 'idempotency_keys'")
        .fetch_one(connection)
        .await
        .map(|oldest: Option<_>| oldest.map(JournalTime::from_datetime))
}

/// The database's own clock: a second opinion beside the consumer's, for expiry while no records come. The one statement
/// that asks for it.
///
/// # Errors
/// The database cannot be asked.
pub async fn server_time(connection: &mut PgConnection) -> sqlx::Result<JournalTime> {
    sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(connection).await.map(JournalTime::from_datetime)
}

#[cfg(test)]
#[path = "partitions_tests.rs"]
mod tests;
