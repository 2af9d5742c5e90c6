use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::*;
use crate::answer::Position;
use crate::clock::JournalTime;
use crate::fingerprint::Fingerprint;
use crate::store::testing::{Role, database};

const TTL: Duration = Duration::from_secs(86_400);

fn at(day: i64) -> JournalTime {
    JournalTime(1_773_480_413_000 + day * 86_400_000)
}

fn state(day: i64, offset: i64) -> KeyState {
    KeyState {
        account: Uuid::from_u128(7),
        fingerprint: Fingerprint([9; 32]),
        status: 200,
        // Not what this build would write: bytes are served as they are.
        body: bytes::Bytes::from_static(b"\xff{ \"older\" : true }\n"),
        accepted_at: at(day),
        expires_at: at(day).plus(TTL),
        source: Position { partition: 3, offset },
    }
}

async fn insert(owner: &mut PgConnection, key: KeyHash, state: &KeyState) {
    let accepted_at: OffsetDateTime = state.accepted_at.to_datetime();
    sqlx::query("SELECT ensure_partition('idempotency_keys', $1, interval '1 day')")
        .bind(accepted_at)
        .execute(&mut *owner)
        .await
        .unwrap();
    sqlx::query("INSERT INTO idempotency_keys VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)")
        .bind(&key.0[..])
        .bind(state.account)
        .bind(&state.fingerprint.0[..])
        .bind(i16::try_from(state.status).unwrap())
        .bind(&state.body[..])
        .bind(accepted_at)
        .bind(state.expires_at.to_datetime())
        .bind(state.source.partition)
        .bind(state.source.offset)
        .execute(owner)
        .await
        .unwrap();
}

#[tokio::test]
async fn every_window_of_the_keys_asked_for_is_found_by_the_gateways_role_oldest_first() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    let (used_again, used_once, never_used) = (KeyHash([1; 32]), KeyHash([2; 32]), KeyHash([3; 32]));
    insert(&mut owner, used_again, &state(2, 20)).await;
    insert(&mut owner, used_again, &state(0, 10)).await;
    insert(&mut owner, used_once, &state(1, 15)).await;
    insert(&mut owner, KeyHash([4; 32]), &state(1, 16)).await;

    let mut gateway = database.connect(Role::Gateway).await;
    let found = windows(&mut gateway, &[never_used, used_once, used_again]).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[&used_again], [state(0, 10), state(2, 20)]);
    assert_eq!(found[&used_once], [state(1, 15)]);
}

#[tokio::test]
async fn progress_is_of_the_topic_asked_for() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    for (topic, partition, next_offset) in [("uploads", 0, 5_i64), ("uploads", 2, 7), ("other", 0, 9)] {
        sqlx::query("INSERT INTO partition_progress (topic, partition, next_offset) VALUES ($1, $2, $3)")
            .bind(topic)
            .bind(partition)
            .bind(next_offset)
            .execute(&mut owner)
            .await
            .unwrap();
    }
    let mut gateway = database.connect(Role::Gateway).await;
    let found = next_offsets(&mut gateway, "uploads").await.unwrap();
    assert_eq!(found, HashMap::from([(0, 5), (2, 7)]));
}
