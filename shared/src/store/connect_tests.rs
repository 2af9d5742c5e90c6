use sqlx::PgConnection;
use uuid::Uuid;

use crate::clock::JournalTime;
use crate::key::KeyHash;
use crate::store::batch::{self, Advance, Sighting};
use crate::store::partitions::{Partitioned, ensure};
use crate::store::testing::{Role, database};
use crate::store::{accounts, lookup, progress};

const TTL: std::time::Duration = std::time::Duration::from_secs(86_400);
const NOW: JournalTime = JournalTime(1_773_480_413_000);
/// The server makes up its mind about a statement's plan when it has run five times.
const RUNS: i64 = 10;

async fn whole_reads(owner: &mut PgConnection, ran: &mut [&mut PgConnection]) -> (i64, i64) {
    for connection in ran {
        sqlx::query("SELECT pg_stat_force_next_flush()").execute(&mut **connection).await.unwrap();
    }
    let statement = "SELECT sum(seq_scan)::bigint, sum(idx_scan)::bigint FROM pg_stat_user_tables \
        WHERE relname LIKE 'idempotency_keys%' OR relname IN ('partition_progress', 'devices')";
    sqlx::query_as(statement).fetch_one(owner).await.unwrap()
}

#[tokio::test]
async fn a_plan_made_while_the_tables_were_empty_uses_their_indexes() {
    let database = database().await;
    let [mut owner, mut consumer, mut gateway] = [
        database.connect(Role::Owner).await,
        database.connect(Role::Consumer).await,
        database.connect(Role::Gateway).await,
    ];
    let account = accounts::Account {
        id: Uuid::nil(),
        name: "tests".to_owned(),
        created_at: time::OffsetDateTime::UNIX_EPOCH,
    };
    accounts::create_account(&mut owner, &account).await.unwrap();
    progress::begin(&mut owner, "t", 0).await.unwrap();
    ensure(&mut owner, Partitioned::Keys, NOW, TTL, TTL).await.unwrap();
    let (scans, _) = whole_reads(&mut owner, &mut []).await;
    let keys: Vec<KeyHash> = (0..=255).map(|n| KeyHash([n; 32])).collect();
    for next in 1..=RUNS {
        let advance = Advance { partition: 0, expected: next - 1, next, time: NOW };
        let fenced = batch::fence(&mut consumer, "t", &[advance], &keys).await.unwrap();
        assert_eq!((fenced.refused.len(), fenced.windows.len()), (0, 0));
        let seen = Sighting { seen_at: NOW, captured_at: next, latitude: 1.0, longitude: 2.0 };
        let devices = [((account.id, "d"), seen)].into();
        batch::insert_keys_and_devices(&mut consumer, &[], &devices).await.unwrap();
        assert!(lookup::windows(&mut gateway, &keys).await.unwrap().is_empty());
    }
    let (scans_after, by_index) = whole_reads(&mut owner, &mut [&mut consumer, &mut gateway]).await;
    assert_eq!(scans_after, scans);
    assert!(by_index > 0, "nothing was looked for");
}
