use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::*;
use crate::journal::account::AccountId;
use crate::journal::clock::JournalTime;
use crate::journal::position::Position;
use crate::location::fingerprint::Fingerprint;
use crate::store::testing::{Role, database};

const TTL: Duration = Duration::from_secs(86_400);

fn at(day: i64) -> JournalTime {
    JournalTime(1_773_480_413_000 + day * 86_400_000)
}

fn state(day: i64, offset: i64) -> KeyState {
    KeyState {
        account: AccountId(Uuid::from_u128(7)),
        fingerprint: Fingerprint([9; 32]),
        status: 200,
        // Not what this build would write: bytes are served as they are.
        body: bytes::Bytes::from_static(b"\xff{ \"older\" : true }\n"),
        accepted_at: at(day),
        expires_at: at(day).plus(TTL),
        source: Position::new(3, offset),
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
async fn a_row_that_no_consumer_writes_is_as_good_as_none_and_hides_no_other() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    let mut gateway = database.connect(Role::Gateway).await;
    let (odd, sound) = (KeyHash([1; 32]), KeyHash([2; 32]));
    insert(&mut owner, odd, &state(1, 10)).await;
    insert(&mut owner, sound, &state(1, 11)).await;
    for values in [
        "response_status = 101",
        "response_status = -200",
        "expires_at = 'infinity'",
        "expires_at = '290000-01-01Z'",
        "expires_at = accepted_at",
        "response_body = convert_to(repeat('x', 5000), 'UTF8')",
        "source_offset = -1",
        "source_partition = -1",
    ] {
        let spoil = format!("UPDATE idempotency_keys SET {values} WHERE source_offset = 10");
        sqlx::query(&spoil).execute(&mut owner).await.unwrap();
        let found = windows(&mut gateway, &[odd, sound]).await.unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [(sound, vec![state(1, 11)])], "{values}");
        sqlx::query("DELETE FROM idempotency_keys WHERE key_hash = $1")
            .bind(&odd.0[..])
            .execute(&mut owner)
            .await
            .unwrap();
        insert(&mut owner, odd, &state(1, 10)).await;
    }
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
    assert_eq!(found, HashMap::from([(Partition(0), NextOffset(5)), (Partition(2), NextOffset(7))]));
}
