use sqlx::PgConnection;
use uuid::Uuid;

use crate::journal::account::AccountId;
use crate::journal::clock::JournalTime;
use crate::journal::key::KeyHash;
use crate::journal::position::{Offset, Partition};
use crate::location::Location;
use crate::store::batch::{self, Advance, Sighting};
use crate::store::connect::Target;
use crate::store::partitions::{Partitioned, ensure};
use crate::store::testing::{Role, TestDatabase, database};
use crate::store::{accounts, lookup, progress, trouble};

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

/// The test's database by its server's port behind these hosts.
fn target(database: &TestDatabase, hosts: &str, parameters: &str) -> Target {
    let options = database.options(Role::Owner);
    let hosts = hosts.replace("PORT", &options.get_port().to_string());
    let url = format!("postgres://milepost@{hosts}/{}?{parameters}", database.name());
    Target::new(&url, None, "milepost-test").unwrap()
}

#[tokio::test]
async fn of_several_hosts_the_first_one_that_takes_writes_is_taken_and_begun_with_from_then_on() {
    let database = database().await;
    let hosts = "127.0.0.1:1,127.0.0.1:PORT";
    let target = target(&database, hosts, "target_session_attrs=read-write&sslmode=disable");
    for _ in 0..2 {
        target.connect().await.unwrap();
        assert_eq!(target.common.first.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_passed_by_and_all_hosts_are_named_when_none_is_left() {
    let database = database().await;
    let read_only = format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name());
    let mut owner = database.connect(Role::Owner).await;
    sqlx::raw_sql(&read_only).execute(&mut owner).await.unwrap();
    let hosts = "127.0.0.1:PORT,127.0.0.1:1";
    let target = target(&database, hosts, "target_session_attrs=read-write&sslmode=disable");
    let cause = trouble::in_words(&target.connect().await.unwrap_err());
    let (first, second) = cause.split_once("; ").unwrap();
    assert!(first.ends_with(": takes no writes, as a standby"), "{cause}");
    assert_eq!(second, "127.0.0.1:1: connection: connection refused");
}

#[tokio::test]
async fn without_tls_of_the_server_prefer_and_allow_get_in_and_require_says_why_not() {
    let database = database().await;
    for (mode, gets_in) in [("prefer", true), ("allow", true), ("disable", true), ("require", false)] {
        let target = target(&database, "127.0.0.1:PORT", &format!("sslmode={mode}"));
        match target.connect().await {
            Ok(_) => assert!(gets_in, "{mode}"),
            Err(error) => {
                let cause = trouble::in_words(&error);
                assert!(!gets_in && cause.contains("server does not support TLS"), "{mode}: {cause}");
            }
        }
    }
}
