//! `partition_progress`: where a partition starts, and the clock of expiry. Batches move it ([`super::batch::fence`]).

use sqlx::{PgConnection, Row as _};
use time::OffsetDateTime;

use crate::journal::clock::JournalTime;
use crate::journal::position::{NextOffset, Offset, Partition};
use crate::journal::set_aside;

/// How far one partition of the journal has come. Times are the greatest seen; `None` before the first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Progress {
    /// Partition of the journal.
    pub partition: Partition,
    /// First offset that is not persisted.
    pub next_offset: NextOffset,
    /// Journal time of the records persisted.
    pub log_time: Option<JournalTime>,
    /// First offset whose result and fact are not known to be acknowledged.
    pub emitted_offset: NextOffset,
    /// Journal time of the records emitted.
    pub emitted_time: Option<JournalTime>,
}

/// Reads the progress of a journal topic, of the partitions that have one.
///
/// # Errors
/// The database cannot be asked.
pub async fn load(connection: &mut PgConnection, topic: &str) -> sqlx::Result<Vec<Progress>> {
    let rows = sqlx::query(
        "SELECT partition, next_offset, nullif(log_time, '-infinity') AS log_time, emitted_offset, \
         nullif(emitted_time, '-infinity') AS emitted_time \
         FROM partition_progress WHERE topic = $1 ORDER BY partition",
    )
    .bind(topic)
    .fetch_all(connection)
    .await?;
    let time = |time: Option<OffsetDateTime>| time.map(JournalTime::from_datetime);
    rows.iter()
        .map(|row| {
            Ok(Progress {
                partition: row.try_get("partition")?,
                next_offset: row.try_get("next_offset")?,
                log_time: time(row.try_get("log_time")?),
                emitted_offset: row.try_get("emitted_offset")?,
                emitted_time: time(row.try_get("emitted_time")?),
            })
        })
        .collect()
}

/// Gives a partition its row, at offset 0, if it has none.
///
/// # Errors
/// The database refuses.
pub async fn begin(connection: &mut PgConnection, topic: &str, partition: Partition) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO partition_progress (topic, partition) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(topic)
        .bind(partition)
        .execute(connection)
        .await?;
    Ok(())
}

/// Says where a partition begins, for a journal that no longer begins at 0: nothing before `offset` will be persisted or
/// emitted. The times are forgotten, so that nothing expires before the partition's next record. An existing row is only
/// moved if `force`; otherwise its `next_offset` is returned.
///
/// # Errors
/// The database refuses.
pub async fn place(
    connection: &mut PgConnection,
    topic: &str,
    partition: Partition,
    offset: NextOffset,
    force: bool,
) -> sqlx::Result<Option<NextOffset>> {
    let placed = sqlx::query(
        "INSERT INTO partition_progress (topic, partition, next_offset, emitted_offset) \
         VALUES ($1, $2, $3, $3) \
         ON CONFLICT (topic, partition) DO UPDATE SET next_offset = $3, emitted_offset = $3, \
         log_time = '-infinity', emitted_time = '-infinity' WHERE $4",
    )
    .bind(topic)
    .bind(partition)
    .bind(offset)
    .bind(force)
    .execute(&mut *connection)
    .await?;
    if placed.rows_affected() == 1 {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT next_offset FROM partition_progress WHERE topic = $1 AND partition = $2")
        .bind(topic)
        .bind(partition)
        .fetch_optional(connection)
        .await
}

/// Of partitions with a next offset, those whose progress does not come that far. Asks nothing for none.
///
/// # Errors
/// The database cannot be asked.
pub async fn behind(
    connection: &mut PgConnection,
    topic: &str,
    next_offsets: &[(Partition, NextOffset)],
) -> sqlx::Result<Vec<Partition>> {
    if next_offsets.is_empty() {
        return Ok(Vec::new());
    }
    let (partitions, next_offsets): (Vec<Partition>, Vec<NextOffset>) = next_offsets.iter().copied().unzip();
    sqlx::query_scalar(
        "SELECT s.partition FROM unnest($2::int[], $3::bigint[]) AS s (partition, next_offset) \
         LEFT JOIN partition_progress p ON p.topic = $1 AND p.partition = s.partition \
         WHERE p.next_offset >= s.next_offset IS NOT TRUE",
    )
    .bind(topic)
    .bind(partitions)
    .bind(next_offsets)
    .fetch_all(connection)
    .await
}

/// Notes how far results and facts have been acknowledged. Never moves back.
///
/// # Errors
/// The database refuses.
pub async fn note_emitted(
    connection: &mut PgConnection,
    topic: &str,
    partition: Partition,
    next_offset: NextOffset,
    time: JournalTime,
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE partition_progress SET emitted_offset = $3, emitted_time = greatest(emitted_time, $4) \
         WHERE topic = $1 AND partition = $2 AND emitted_offset < $3 AND $3 <= next_offset",
    )
    .bind(topic)
    .bind(partition)
    .bind(next_offset)
    .bind(time.to_datetime())
    .execute(connection)
    .await?;
    Ok(())
}

/// How many records just before the progress were all moved to `dead_letters` as poison, at most `max`. A point that was set
/// aside is there too, but is a good record. A single offset between two of
/// them counts as a transaction's mark, which is no record: one that writes poison leaves it behind every few records, and
/// must not pass the bound of a run from restart to restart. If it was a good record, the run is taken for too long.
///
/// # Errors
/// The database cannot be asked.
pub async fn poison_run(
    connection: &mut PgConnection,
    topic: &str,
    partition: Partition,
    next_offset: NextOffset,
    max: usize,
) -> sqlx::Result<usize> {
    let letters: Vec<(Offset, bool, bool)> = sqlx::query_as(
        "SELECT \"offset\", max(journal_time) >= max(log_time), bool_or(reason !~ $5) \
         FROM dead_letters JOIN partition_progress USING (topic, partition) \
         WHERE topic = $1 AND partition = $2 AND \"offset\" < $3 GROUP BY \"offset\" ORDER BY \"offset\" DESC LIMIT $4",
    )
    .bind(topic)
    .bind(partition)
    .bind(next_offset)
    .bind(i64::try_from(max).unwrap_or(i64::MAX))
    .bind(set_aside::TEXT_PATTERN)
    .fetch_all(connection)
    .await?;
    // Those from before the journal was rewound are older than anything persisted since.
    if letters.first().is_some_and(|(_, is_newest, _)| !is_newest) {
        return Ok(0);
    }
    // The progress itself is right behind a record.
    let (mut behind, mut gap_max) = (next_offset, 0);
    let follows = |(offset, _, is_poison): &(Offset, bool, bool)| {
        let gap = std::mem::replace(&mut behind, offset.before()).0 - offset.next().0;
        *is_poison && gap <= std::mem::replace(&mut gap_max, 1)
    };
    Ok(letters.into_iter().take_while(follows).count())
}
