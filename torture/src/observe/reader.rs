//! The torn reader: looks at the newest uploads again and again, and each time sees all of an upload or nothing.

use std::time::Duration;

use milepost_shared::journal::clock::JournalTime;
use sqlx::{PgConnection, Row as _};
use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use crate::evidence::Sources;
use crate::operation;

/// How often it looks.
const EVERY: Duration = Duration::from_millis(40);
/// What it reports at most.
const TOLD_MAX: usize = 100;

/// Every operation has devices of its own, so the newest devices have the newest uploads. A device and its first locations come
/// in one transaction: none is without.
const NEWEST: &str = "
    WITH newest AS (SELECT id, device FROM devices ORDER BY id DESC LIMIT 200)
    SELECT n.device, l.source_partition, l.source_offset, min(l.captured_at) AS first, count(l.device_id) AS rows
    FROM newest n LEFT JOIN locations l ON l.device_id = n.id
    GROUP BY n.device, l.source_partition, l.source_offset";

#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) torn: Vec<String>,
    pub(super) reads: u64,
}

pub(super) async fn run(sources: Sources, stop: CancellationToken) -> Seen {
    let mut connection = Connection::new(&sources);
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Seen::default();
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        let look = connection.ask(async |connection| look(connection, sources.seed).await).await;
        let Some((uploads, torn)) = look else { continue };
        // An empty table shows nothing.
        seen.reads += u64::from(uploads > 0);
        seen.torn.extend(torn);
        seen.torn.dedup();
        seen.torn.truncate(TOLD_MAX);
    }
    seen
}

async fn look(connection: &mut PgConnection, seed: u64) -> sqlx::Result<(usize, Vec<String>)> {
    let rows = sqlx::query(NEWEST).fetch_all(connection).await?;
    let mut torn = Vec::new();
    for row in &rows {
        let (device, count): (String, i64) = (row.try_get("device")?, row.try_get("rows")?);
        let first: Option<OffsetDateTime> = row.try_get("first")?;
        let first = first.and_then(|first| operation::identify(JournalTime::from_datetime(first).0));
        let expected = first.map(|(upload, _)| operation::count(seed, upload));
        if !is_whole(count, expected) {
            torn.push(format!("{device} has {count} locations of {expected:?}"));
        }
    }
    Ok((rows.len(), torn))
}

/// An upload stored twice is whole: that it is doubled is seen by others.
fn is_whole(count: i64, expected: Option<usize>) -> bool {
    let expected = expected.and_then(|expected| i64::try_from(expected).ok());
    count > 0 && expected.is_none_or(|expected| expected > 0 && count % expected == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_locations_and_not_others_are_torn_and_a_device_without_any_is_too() {
        let cases = [(3, Some(3), true), (6, Some(3), true), (2, Some(3), false), (4, Some(3), false)];
        for (count, expected, whole) in cases {
            assert_eq!(is_whole(count, expected), whole, "{count} of {expected:?}");
        }
        assert!(!is_whole(0, None));
        // A point that was to be set aside.
        assert!(!is_whole(1, Some(0)));
    }
}
