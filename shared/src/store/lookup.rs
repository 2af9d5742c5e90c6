//! Look-ups of keys and of progress, as the gateway makes them. It only reads.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::batch::key_row;
use crate::journal::answer::{self, KeyState};
use crate::journal::key::KeyHash;
use crate::journal::position::{NextOffset, Partition};

/// The windows of each of these keys that the table still holds, oldest first; a key without any is absent.
/// One probe per key and live partition: two or three, since a partition is as wide as the TTL. Whether a
/// window is still open is for the caller to say, who knows the time in question.
///
/// # Errors
/// The database cannot be reached or refuses.
pub async fn windows(
    connection: &mut PgConnection,
    keys: &[KeyHash],
) -> sqlx::Result<HashMap<KeyHash, Vec<KeyState>>> {
    let keys: Vec<&[u8]> = keys.iter().map(|key| &key.0[..]).collect();
    let rows = sqlx::query(
        "SELECT key_hash, account_id, fingerprint, response_status, response_body, accepted_at, expires_at,
                source_partition, source_offset
         FROM idempotency_keys WHERE key_hash = ANY($1)",
    )
    .bind(keys)
    .fetch_all(connection)
    .await?;
    let mut windows: HashMap<KeyHash, Vec<KeyState>> = HashMap::new();
    for row in &rows {
        match key_row(row) {
            Ok((key_hash, state)) => windows.entry(key_hash).or_default().push(state),
            // Values that no build writes must not keep the other keys from being found; another schema is an error.
            Err(sqlx::Error::Decode(_)) => {}
            Err(other) => return Err(other),
        }
    }
    for states in windows.values_mut() {
        answer::oldest_first(states);
    }
    Ok(windows)
}

/// How far each partition of a topic is persisted: the offset of the next record. A partition that nobody has
/// begun is absent.
///
/// # Errors
/// The database cannot be reached or refuses.
pub async fn next_offsets(
    connection: &mut PgConnection,
    topic: &str,
) -> sqlx::Result<HashMap<Partition, NextOffset>> {
    let rows: Vec<(Partition, NextOffset)> =
        sqlx::query_as("SELECT partition, next_offset FROM partition_progress WHERE topic = $1")
            .bind(topic)
            .fetch_all(connection)
            .await?;
    Ok(rows.into_iter().collect())
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
