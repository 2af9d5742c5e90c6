//! Dead letters, as the administrator reads them. Records and points themselves, which may hold coordinates, are shown one by one
//! on demand.

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use crate::journal::account::AccountId;
use crate::journal::position::{Offset, Partition};

/// A record that could not be persisted, or whose point was set aside.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct DeadLetter {
    /// The journal's name.
    pub topic: String,
    /// Partition of the journal.
    pub partition: Partition,
    /// Offset in the partition.
    pub offset: Offset,
    /// When the broker stamped the record.
    pub journal_time: OffsetDateTime,
    /// Whose point was set aside; none of a record that could not be read.
    pub account_id: Option<AccountId>,
    /// The device whose point was set aside, if that is known.
    pub device: Option<String>,
    /// Why it could not; of a point that was set aside it begins with the app.
    pub reason: String,
}

/// The newest dead letters by journal time, at most `max`.
///
/// # Errors
/// The database cannot be asked.
pub async fn newest(connection: &mut PgConnection, max: u32) -> sqlx::Result<Vec<DeadLetter>> {
    sqlx::query_as(
        "SELECT topic, partition, \"offset\", journal_time, account_id, device, reason FROM dead_letters \
         ORDER BY journal_time DESC, topic, partition, \"offset\" DESC LIMIT $1",
    )
    .bind(i64::from(max))
    .fetch_all(connection)
    .await
}

/// What is kept of a record: its value, or the point that was set aside in it; none if the record had no value. Of several
/// journals that had a record there it is the newest's. `None` if there is no dead letter.
///
/// # Errors
/// The database cannot be asked.
pub async fn value(
    connection: &mut PgConnection,
    topic: &str,
    partition: i32,
    offset: i64,
) -> sqlx::Result<Option<Option<Vec<u8>>>> {
    sqlx::query_scalar(
        "SELECT record_value FROM dead_letters WHERE topic = $1 AND partition = $2 AND \"offset\" = $3 \
         ORDER BY journal_time DESC LIMIT 1",
    )
    .bind(topic)
    .bind(partition)
    .bind(offset)
    .fetch_optional(connection)
    .await
}
