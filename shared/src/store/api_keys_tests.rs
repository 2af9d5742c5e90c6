use std::time::Duration;

use sqlx::Executor as _;
use uuid::Uuid;

use super::*;
use crate::store::accounts::{self, Account, ApiKey};
use crate::store::testing::{self, Role, TestDatabase};
use crate::testing::eventually;

const AT: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
const ACCOUNT: AccountId = AccountId(Uuid::from_u128(1));

struct Fixture {
    database: TestDatabase,
    owner: PgConnection,
    gateway: PgConnection,
}

async fn fixture() -> Fixture {
    let database = testing::database().await;
    let mut owner = database.connect(Role::Owner).await;
    let account = Account { id: ACCOUNT, name: "a".to_owned(), created_at: AT };
    accounts::create_account(&mut owner, &account).await.unwrap();
    let gateway = reader(&database.options(Role::Gateway).into()).connect().await.unwrap();
    Fixture { database, owner, gateway }
}

fn prefix(byte: u8) -> String {
    format!("mp_{byte}")
}

async fn create(connection: &mut PgConnection, byte: u8) {
    let key = ApiKey::new(&prefix(byte), ACCOUNT, AT);
    assert!(accounts::create_key(connection, &key, &[byte; 32]).await.unwrap());
}

async fn revoke(connection: &mut PgConnection, byte: u8) {
    assert!(accounts::revoke_key(connection, &prefix(byte), AT).await.unwrap());
}

/// The first bytes of the keys in what has changed, and whether each is revoked.
async fn read(connection: &mut PgConnection, mut changes: Changes) -> Vec<(u8, bool)> {
    let page = changes.page(connection).await.unwrap();
    page.iter().map(|key| (key.secret_sha256.0[0], key.revoked)).collect()
}

/// What has changed since a horizon, which is moved on.
async fn changed(connection: &mut PgConnection, seen: &mut Horizon) -> Vec<(u8, bool)> {
    let now = horizon(connection).await.unwrap();
    assert!(now.follows(seen));
    let changes = Changes::between(seen, &now);
    *seen = now;
    read(connection, changes).await
}

#[tokio::test]
async fn a_gateway_finds_a_key_with_all_it_needs_unless_it_is_revoked() {
    let Fixture { database: _database, mut owner, mut gateway } = fixture().await;
    let expires_at = Some(AT + time::Duration::DAY);
    let bound = ApiKey { device: Some("pixel8".to_owned()), expires_at, ..ApiKey::new("mp_1", ACCOUNT, AT) };
    accounts::create_key(&mut owner, &bound, &[1; 32]).await.unwrap();
    create(&mut owner, 2).await;
    revoke(&mut owner, 2).await;
    let found = find(&mut gateway, &[1; 32]).await.unwrap().unwrap();
    let wanted = Key {
        secret_sha256: Sha256([1; 32]),
        account_id: ACCOUNT,
        device: Some("pixel8".to_owned()),
        expires_at,
        last_used_at: None,
        revoked: false,
    };
    assert_eq!(found, wanted);
    assert_eq!(find(&mut gateway, &[2; 32]).await.unwrap(), None);
    assert_eq!(find(&mut gateway, &[3; 32]).await.unwrap(), None);
    assert_eq!(read(&mut gateway, Changes::all()).await, [(2, true), (1, false)]);
}

/// Transactions of other databases are open meanwhile, and as long as they are, some keys come again.
async fn nothing_has_changed(connection: &mut PgConnection, seen: &mut Horizon) {
    let condition = async || Ok(changed(connection, seen).await.is_empty().then_some(()));
    eventually(Duration::from_secs(20), "no other transaction is open", condition).await.unwrap();
}

#[tokio::test]
async fn only_what_has_changed_since_the_last_horizon_is_read_again() {
    let Fixture { database: _database, mut owner, mut gateway } = fixture().await;
    for byte in 1..=3 {
        create(&mut owner, byte).await;
    }
    let mut seen = horizon(&mut gateway).await.unwrap();
    nothing_has_changed(&mut gateway, &mut seen).await;
    revoke(&mut owner, 2).await;
    create(&mut owner, 4).await;
    assert_eq!(changed(&mut gateway, &mut seen).await, [(4, false), (2, true)]);
    nothing_has_changed(&mut gateway, &mut seen).await;
    // No change that matters.
    owner.execute("UPDATE api_keys SET last_used_at = now(), label = 'x'").await.unwrap();
    nothing_has_changed(&mut gateway, &mut seen).await;
    for (change, revoked) in
        [("device = 'd'", true), ("expires_at = now()", true), ("revoked_at = NULL", false)]
    {
        let update = format!("UPDATE api_keys SET {change} WHERE prefix = 'mp_2'");
        owner.execute(update.as_str()).await.unwrap();
        assert_eq!(changed(&mut gateway, &mut seen).await, [(2, revoked)], "{change}");
        nothing_has_changed(&mut gateway, &mut seen).await;
    }
}

/// By number and by time it lies before a change that was loaded long ago.
#[tokio::test]
async fn a_revocation_that_is_committed_late_is_not_missed() {
    let Fixture { database, mut owner, mut gateway } = fixture().await;
    create(&mut owner, 1).await;
    let mut seen = horizon(&mut gateway).await.unwrap();
    nothing_has_changed(&mut gateway, &mut seen).await;
    let mut late = database.connect(Role::Owner).await;
    late.execute("BEGIN").await.unwrap();
    revoke(&mut late, 1).await;
    for byte in 2..=4 {
        create(&mut owner, byte).await;
        let changes = changed(&mut gateway, &mut seen).await;
        assert!(changes.contains(&(byte, false)) && !changes.iter().any(|(key, _)| *key == 1), "{changes:?}");
    }
    late.execute("COMMIT").await.unwrap();
    let changes = changed(&mut gateway, &mut seen).await;
    assert!(changes.contains(&(1, true)), "{changes:?}");
    nothing_has_changed(&mut gateway, &mut seen).await;
}

#[tokio::test]
async fn all_keys_come_in_pages_each_once_and_the_last_changed_first() {
    let Fixture { database: _database, mut owner, mut gateway } = fixture().await;
    let many = PAGE + 7;
    sqlx::query(
        "INSERT INTO api_keys (account_id, secret_sha256, prefix) \
         SELECT $1, sha256(n::text::bytea), n::text FROM generate_series(1, $2) n",
    )
    .bind(ACCOUNT)
    .bind(i32::try_from(many).unwrap())
    .execute(&mut owner)
    .await
    .unwrap();
    create(&mut owner, 1).await;
    let mut all = Changes::all();
    let mut pages = Vec::new();
    loop {
        pages.push(all.page(&mut gateway).await.unwrap());
        if pages.last().unwrap().len() < PAGE {
            break;
        }
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [PAGE, 8]);
    assert_eq!(pages[0][0].secret_sha256.0, [1; 32]);
    let mut hashes: Vec<[u8; 32]> = pages.concat().into_iter().map(|key| key.secret_sha256.0).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), many + 1);
}

/// Neither is read by any statement that reads what has changed.
#[tokio::test]
async fn a_table_that_was_made_anew_or_truncated_does_not_follow_and_numbers_of_another_server_are_no_changes()
 {
    let Fixture { database: _database, mut owner, mut gateway } = fixture().await;
    create(&mut owner, 1).await;
    // As a dump brings it: triggers come last.
    owner
        .execute(
            "ALTER TABLE api_keys DISABLE TRIGGER api_keys_change; \
             UPDATE api_keys SET changed_in = '4611686018427387904'",
        )
        .await
        .unwrap();
    let mut seen = horizon(&mut gateway).await.unwrap();
    nothing_has_changed(&mut gateway, &mut seen).await;
    assert_eq!(read(&mut gateway, Changes::all()).await, [(1, false)]);
    owner.execute("TRUNCATE api_keys").await.unwrap();
    assert!(!horizon(&mut gateway).await.unwrap().follows(&seen));
}

#[tokio::test]
async fn what_has_changed_is_read_through_the_index_however_many_keys_there_are() {
    let Fixture { database: _database, mut gateway, .. } = fixture().await;
    let explain = format!("EXPLAIN {CHANGED}");
    let plan = sqlx::query_scalar(&explain).bind("5").bind("9").bind(0_i64).bind(PAGE as i64);
    let plan: Vec<String> = plan.fetch_all(&mut gateway).await.unwrap();
    let plan = plan.join("\n");
    assert!(plan.contains("Index Scan Backward using api_keys_changed") && !plan.contains("Sort"), "{plan}");
}

#[tokio::test]
async fn uses_are_noted_to_the_hour_and_once_an_hour() {
    let Fixture { database, mut owner, mut gateway } = fixture().await;
    for byte in 1..=3 {
        create(&mut owner, byte).await;
    }
    assert_eq!(note_uses(&mut gateway, &[[1; 32], [2; 32], [1; 32], [9; 32]]).await.unwrap(), 2);
    let noted: Vec<bool> = sqlx::query_scalar(
        "SELECT last_used_at = date_trunc('hour', last_used_at) \
         AND last_used_at > now() - interval '1 hour 1 minute' AND last_used_at <= now() \
         FROM api_keys WHERE last_used_at IS NOT NULL",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    assert_eq!(noted, [true, true]);
    owner
        .execute("UPDATE api_keys SET last_used_at = now() + interval '1 hour' WHERE prefix = 'mp_2'")
        .await
        .unwrap();
    assert_eq!(note_uses(&mut gateway, &[[1; 32], [2; 32]]).await.unwrap(), 0, "again within the hour");

    // Somebody holds the row: nobody waits for that.
    let mut holding = database.connect(Role::Owner).await;
    holding.execute("BEGIN").await.unwrap();
    revoke(&mut holding, 3).await;
    assert_eq!(note_uses(&mut gateway, &[[3; 32]]).await.unwrap(), 0);
    holding.execute("ROLLBACK").await.unwrap();
    assert_eq!(note_uses(&mut gateway, &[[3; 32]]).await.unwrap(), 1);
}
