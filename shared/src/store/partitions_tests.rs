use std::time::Instant;

use sqlx::{Connection as _, Executor as _};

use super::*;
use crate::store::testing::{Role, TestDatabase, database};

const TOPIC: &str = "t";
const DAY: Duration = Duration::from_secs(86_400);

/// A database with a partition of keys whose windows are over, and its name.
async fn over() -> (TestDatabase, PgConnection, String) {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    let long_ago = server_time(&mut owner).await.unwrap().0 - 3 * 86_400_000;
    ensure(&mut owner, Partitioned::Keys, JournalTime(long_ago), DAY).await.unwrap();
    let name = key_partitions(&mut owner).await.unwrap().remove(0).name;
    (database, owner, name)
}

async fn name_of(owner: &mut PgConnection, sql: &str) -> Option<String> {
    sqlx::query_scalar(sql).fetch_optional(owner).await.unwrap()
}

#[tokio::test]
async fn a_partition_that_somebody_reads_is_waited_for_only_shortly_and_tried_again_ever_more_rarely() {
    let (database, mut owner, name) = over().await;
    let mut reader = database.connect(Role::Gateway).await;
    let mut consumer = database.connect(Role::Consumer).await;
    // Both hold expiry up: who reads all keys, and who, as the owner, reads this partition only.
    let mut own = database.connect(Role::Owner).await;
    for (holds, reading) in [(&mut reader, "idempotency_keys"), (&mut own, name.as_str())] {
        holds.execute(format!("BEGIN; SELECT FROM {reading}").as_str()).await.unwrap();
        let mut retries = Vec::new();
        for _ in 0..3 {
            let begun = Instant::now();
            assert_eq!(expire(&mut consumer, &name, TOPIC, &[]).await.unwrap(), Expiry::Busy);
            assert!(begun.elapsed() < Duration::from_secs(5), "{reading}");
            assert_eq!(expire(&mut consumer, &name, TOPIC, &[]).await.unwrap(), Expiry::NotNow);
            let retry_at = key_partitions(&mut consumer).await.unwrap()[0].retry_at.unwrap();
            retries.push(retry_at.0 - server_time(&mut owner).await.unwrap().0);
            owner.execute("UPDATE table_partitions SET retry_at = '-infinity'").await.unwrap();
        }
        assert!(retries[2] > 3 * 500 && retries[2] > retries[1] && retries[1] > retries[0], "{retries:?}");
        holds.execute("ROLLBACK").await.unwrap();
    }
    assert_eq!(expire(&mut consumer, &name, TOPIC, &[]).await.unwrap(), Expiry::Detached);
    assert_eq!(key_partitions(&mut consumer).await.unwrap(), []);
}

#[tokio::test]
async fn while_one_consumer_expires_another_does_not_wait_for_it() {
    let (database, mut owner, name) = over().await;
    let mut transaction = owner.begin().await.unwrap();
    assert_eq!(expire(&mut transaction, &name, TOPIC, &[]).await.unwrap(), Expiry::Detached);
    let mut other = database.connect(Role::Consumer).await;
    other.execute("SET statement_timeout = '10s'; SET lock_timeout = 0").await.unwrap();
    assert_eq!(expire(&mut other, &name, TOPIC, &[]).await.unwrap(), Expiry::NotNow);
    assert_eq!(drop_detached(&mut other).await.unwrap(), 0);
    transaction.commit().await.unwrap();
    assert_eq!(drop_detached(&mut other).await.unwrap(), 1);
}

#[tokio::test]
async fn a_detached_partition_that_somebody_still_reads_is_dropped_later_and_counts_as_overdue_until_then() {
    let (database, mut owner, name) = over().await;
    let oldest = oldest_keep_until(&mut owner).await.unwrap().unwrap();
    let mut reader = database.connect(Role::Owner).await;
    assert_eq!(expire(&mut owner, &name, TOPIC, &[]).await.unwrap(), Expiry::Detached);
    reader.execute(format!("BEGIN; SELECT FROM {name}").as_str()).await.unwrap();
    let mut consumer = database.connect(Role::Consumer).await;
    assert_eq!(drop_detached(&mut consumer).await.unwrap(), 0);
    assert_eq!(oldest_keep_until(&mut consumer).await.unwrap(), Some(oldest));
    reader.execute("COMMIT").await.unwrap();
    assert_eq!(drop_detached(&mut consumer).await.unwrap(), 1);
    assert_eq!(oldest_keep_until(&mut consumer).await.unwrap(), None);
}

#[tokio::test]
async fn a_partition_that_is_there_is_ensured_without_a_lock_and_without_a_write() {
    let (database, mut owner, _) = over().await;
    let now = server_time(&mut owner).await.unwrap();
    let stretch = ensure(&mut owner, Partitioned::Keys, now, DAY).await.unwrap();
    owner.execute("BEGIN; LOCK TABLE partition_settings IN EXCLUSIVE MODE").await.unwrap();
    let mut consumer = database.connect(Role::Consumer).await;
    consumer.execute("BEGIN READ ONLY; SET lock_timeout = '100ms'").await.unwrap();
    assert_eq!(ensure(&mut consumer, Partitioned::Keys, now, DAY).await.unwrap(), stretch);
}

#[tokio::test]
async fn the_owner_lets_a_day_of_locations_go() {
    let (database, mut owner, keys) = over().await;
    let now = server_time(&mut owner).await.unwrap();
    ensure(&mut owner, Partitioned::Locations, now, Duration::ZERO).await.unwrap();
    let day = "SELECT name FROM table_partitions WHERE parent = 'locations'";
    let name = name_of(&mut owner, day).await.unwrap();
    for (part, gone) in [(&keys, false), (&name, true), (&name, false)] {
        let detached = sqlx::query_scalar("SELECT detach_locations($1)").bind(part).fetch_one(&mut owner);
        assert_eq!(detached.await.map_err(|error| error.to_string()), Ok(gone), "{part}");
    }
    let mut consumer = database.connect(Role::Consumer).await;
    assert_eq!(drop_detached(&mut consumer).await.unwrap(), 1);
    assert_eq!(name_of(&mut owner, day).await, None);
}
