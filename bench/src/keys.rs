//! Rows of `idempotency_keys` by binary COPY: as many live keys as a scenario wants.

use std::time::Duration;

use anyhow::Context as _;
use milepost_shared::journal::answer::{self, KeyState};
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::position::Position;
use milepost_shared::location::fingerprint::Fingerprint;
use milepost_shared::store::copy::{self, copy_in, encode_keys};
use milepost_shared::store::partitions::{Partitioned, ensure};
use milepost_tests::{Role, World};
use sqlx::{Connection as _, PgConnection};

/// Rows that are encoded at once.
const CHUNK: u64 = 10_000;

/// Key hashes spread evenly over all there are, in their order: the `number`th of `count`, with a salt against doubles.
fn spread(number: u64, count: u64, salt: u64) -> KeyHash {
    let mut hash = [0; 32];
    let place = (u128::from(number) << 64) / u128::from(count);
    hash[..8].copy_from_slice(&u64::try_from(place).unwrap_or(u64::MAX).to_be_bytes());
    hash[8..16].copy_from_slice(&salt.to_be_bytes());
    hash[16..24].copy_from_slice(&number.to_be_bytes());
    KeyHash(hash)
}

/// Puts `count` keys into the table partition of a moment, which is created and kept for this long after its end.
///
/// They go in by the order of their hashes, because that takes minutes where their real order takes hours. The pages of the
/// index are filled to 70 % meanwhile, which is what random order leaves.
///
/// # Errors
/// Postgres refuses.
pub async fn fill(world: &World, count: u64, accepted_at: JournalTime, kept: Duration) -> anyhow::Result<()> {
    let mut owner = PgConnection::connect(&world.database.url(Role::Owner)).await?;
    ensure(&mut owner, Partitioned::Keys, accepted_at, world.settings.ttl).await?;
    let part = part_of(&mut owner, accepted_at).await?;
    let keep = "UPDATE table_partitions SET keep_until = greatest(keep_until, upper_bound + $2 * interval '1 second') \
                WHERE name = $1";
    sqlx::query(keep).bind(&part).bind(kept.as_secs_f64()).execute(&mut owner).await?;
    sqlx::raw_sql(&format!("ALTER INDEX {part}_pkey SET (fillfactor = 70)")).execute(&mut owner).await?;
    let state = KeyState {
        account: world.account.id,
        fingerprint: Fingerprint([0; 32]),
        status: 200,
        body: answer::body(1),
        accepted_at,
        expires_at: accepted_at.plus(world.settings.ttl),
        source: Position::new(0, -1),
    };
    let salt = uuid::Uuid::new_v4().as_u64_pair().0;
    for first in (0..count).step_by(usize::try_from(CHUNK)?) {
        let numbers = first..count.min(first + CHUNK);
        let rows = encode_keys(numbers.map(|number| (spread(number, count, salt), &state)));
        copy_in(&mut owner, copy::KEYS, &rows).await?;
    }
    // Else autovacuum and the checkpoint would come in the middle of what is measured.
    sqlx::raw_sql(&format!("ALTER INDEX {part}_pkey RESET (fillfactor)")).execute(&mut owner).await?;
    sqlx::raw_sql(&format!("VACUUM ANALYZE {part}")).execute(&mut owner).await?;
    sqlx::raw_sql("CHECKPOINT").execute(&mut owner).await?;
    Ok(())
}

/// The table partition of keys that holds a moment.
///
/// # Errors
/// There is none.
pub async fn part_of(owner: &mut PgConnection, moment: JournalTime) -> anyhow::Result<String> {
    let part = sqlx::query_scalar(
        "SELECT name FROM table_partitions WHERE parent = 'idempotency_keys' AND NOT detached \
         AND lower_bound <= $1 AND $1 < upper_bound",
    );
    part.bind(moment.to_datetime())
        .fetch_optional(owner)
        .await?
        .context("no table partition holds this moment")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_come_in_order_and_differ_between_fillings() {
        let hashes: Vec<KeyHash> = (0..1000).map(|number| spread(number, 1000, 1)).collect();
        assert!(hashes.is_sorted());
        assert_eq!(hashes[500].0[0], 0x80);
        assert_ne!(spread(5, 1000, 1), spread(5, 1000, 2));
    }
}
