//! Dead letters, as the administrator reads them. The record itself, which may hold coordinates, is not shown.

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

/// A record that could not be persisted.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct DeadLetter {
    /// The journal's name.
    pub topic: String,
    /// Partition of the journal.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// When the broker stamped the record.
    pub journal_time: OffsetDateTime,
    /// Why it could not.
    pub reason: String,
}

/// The newest dead letters by journal time, at most `max`.
///
/// # Errors
/// The database cannot be asked.
pub async fn newest(connection: &mut PgConnection, max: u32) -> sqlx::Result<Vec<DeadLetter>> {
    sqlx::query_as(
        "SELECT topic, partition, \"offset\", journal_time, reason FROM dead_letters \
         ORDER BY journal_time DESC, topic, partition, \"offset\" DESC LIMIT $1",
    )
    .bind(i64::from(max))
    .fetch_all(connection)
    .await
}
