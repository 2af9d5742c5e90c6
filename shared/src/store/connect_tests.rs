use sqlx::PgConnection;
use uuid::Uuid;

use crate::journal::account::AccountId;
use crate::journal::clock::JournalTime;
use crate::journal::key::KeyHash;
use crate::journal::position::{Offset, Partition};
use crate::location::Location;
use crate::store::batch::{self, Advance, Sighting};
use crate::store::partitions::{Partitioned, ensure};
use crate::store::testing::{Role, database};
use crate::store::{accounts, lookup, progress};

const TTL: std::time::Duration = std::time::Duration::from_secs(86_400);
const NOW: JournalTime = JournalTime(1_773_480_413_000);
/// Left to itself the server makes up its mind about a statement's plan when it has run five times.
const RUNS: i64 = 10;
const TABLES: [&str; 3] = ["idempotency_keys%", "partition_progress", "devices"];

/// How often these connections have read the tables of a name as a whole, and by index.
async fn reads(connections: &mut [PgConnection], tables: &str) -> (i64, i64) {
    for connection in &mut *connections {
        sqlx::query("SELECT pg_stat_force_next_flush()").execute(connection).await.unwrap();
    }
    let statement = "SELECT sum(seq_scan)::bigint, sum(idx_scan)::bigint FROM pg_stat_user_tables \
        WHERE relname LIKE $1";
    sqlx::query_as(statement).bind(tables).fetch_one(&mut connections[0]).await.unwrap()
}

#[tokio::test]
async fn a_plan_is_made_once_and_uses_indexes_though_the_tables_were_empty() {
    let database = database().await;
    let mut connections = [
        database.connect(Role::Owner).await,
        database.connect(Role::Consumer).await,
        database.connect(Role::Gateway).await,
    ];
    let owner = &mut connections[0];
    let account = accounts::Account {
        id: AccountId(Uuid::nil()),
        name: "tests".to_owned(),
        created_at: time::OffsetDateTime::UNIX_EPOCH,
    };
    accounts::create_account(owner, &account).await.unwrap();
    progress::begin(owner, "t", Partition(0)).await.unwrap();
    ensure(owner, Partitioned::Keys, NOW, TTL).await.unwrap();
    let mut before = Vec::new();
    for tables in TABLES {
        before.push(reads(&mut connections, tables).await);
    }
    let [_, consumer, gateway] = &mut connections;
    let keys: Vec<KeyHash> = (0..=255).map(|n| KeyHash([n; 32])).collect();
    for next in 1..=RUNS {
        let moved = Offset(next - 1);
        let (expected, next_offset) = (moved.before(), moved.next());
        let advance = Advance { partition: Partition(0), expected, next: next_offset, time: NOW };
        let fence = batch::fence(consumer, "t", &[advance], &keys).await.unwrap();
        assert_eq!((fence.refused.len(), fence.windows.len()), (0, 0));
        let seen = Sighting::new(NOW, &Location::new(next, 1.0, 2.0));
        let devices = [((account.id, "d"), seen)].into();
        batch::insert_keys_and_devices(consumer, &[], &devices).await.unwrap();
        assert!(lookup::windows(gateway, &keys).await.unwrap().is_empty());
    }
    let [_, consumer, gateway] = &mut connections;
    for (connection, statements) in [(consumer, 2), (gateway, 1)] {
        let plans =
            "SELECT sum(custom_plans)::bigint, sum(generic_plans)::bigint FROM pg_prepared_statements";
        let (again, kept): (i64, i64) = sqlx::query_as(plans).fetch_one(connection).await.unwrap();
        assert!(again == 0 && kept >= statements * RUNS, "{again} runs were planned again, {kept} were not");
    }
    for (tables, (whole, by_index)) in TABLES.into_iter().zip(before) {
        let (whole_after, by_index_after) = reads(&mut connections, tables).await;
        assert_eq!(whole_after, whole, "{tables} read as a whole");
        assert!(by_index_after >= by_index + RUNS, "{tables} not looked into");
    }
}
