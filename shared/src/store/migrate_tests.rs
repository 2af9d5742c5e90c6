use sqlx::migrate::Migrate as _;
use sqlx::{Connection as _, Executor as _};
use uuid::Uuid;

use super::*;
use crate::store::partitions;
use crate::store::roles::set_password;
use crate::store::testing::{Role, database};

#[tokio::test]
async fn a_migrated_database_is_accepted_and_migrating_again_changes_nothing() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    migrate(&mut owner, |text| panic!("{text}")).await.unwrap();
    for role in [Role::Owner, Role::Gateway, Role::Consumer] {
        check_version(&mut database.connect(role).await).await.unwrap();
    }
}

#[tokio::test]
async fn an_older_schema_or_none_is_refused_with_the_command_that_fixes_it_and_a_newer_one_is_accepted() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    let wanted = |found: i64| {
        format!(
            "the database has schema version {found}, this build needs {}; run 'milepost-admin migrate'",
            expected_version()
        )
    };
    owner
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'later', true, '', 0)",
        )
        .await
        .unwrap();
    check_version(&mut owner).await.unwrap();

    owner.execute("DELETE FROM _sqlx_migrations").await.unwrap();
    assert_eq!(check_version(&mut owner).await.unwrap_err().to_string(), wanted(0));
    owner.execute("DROP TABLE _sqlx_migrations").await.unwrap();
    assert_eq!(check_version(&mut owner).await.unwrap_err().to_string(), wanted(0));
}

/// A database at the first version, and a transaction in it that has read a table which the next one changes.
#[tokio::test]
async fn a_migration_that_finds_a_table_in_use_lets_traffic_go_on_says_so_and_tries_again() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    owner.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await.unwrap();
    owner.ensure_migrations_table().await.unwrap();
    owner.apply(MIGRATOR.iter().next().unwrap()).await.unwrap();
    let mut reading = database.connect(Role::Owner).await;
    reading.execute("BEGIN; SELECT FROM table_partitions").await.unwrap();

    let (said, mut hears) = tokio::sync::mpsc::channel(100);
    let migrating = migrate(&mut owner, |what| said.try_send(what).unwrap());
    let others = async {
        let mut traffic = database.connect(Role::Owner).await;
        traffic.execute("SET statement_timeout = '5s'").await.unwrap();
        for _ in 0..2 {
            let what = hears.recv().await.unwrap();
            assert!(what.contains("lock timeout") && what.contains("tried again in"), "{what}");
            assert!(what.contains("the oldest transaction here is that of process"), "{what}");
            // It may come while the next attempt waits for its half second.
            traffic.execute("SELECT FROM table_partitions").await.unwrap();
        }
        reading.execute("COMMIT").await.unwrap();
    };
    let (migrated, ()) = tokio::join!(migrating, others);
    migrated.unwrap();
    check_version(&mut owner).await.unwrap();
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
    assert_eq!(sqlx::query_scalar::<_, i64>(locks).fetch_one(&mut owner).await.unwrap(), 0);
}

/// What was open stays as long as it was promised.
#[tokio::test]
async fn the_keeping_of_a_database_of_the_first_version_stays_what_its_consumers_had_asked_for() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    owner.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await.unwrap();
    owner.ensure_migrations_table().await.unwrap();
    owner.apply(MIGRATOR.iter().next().unwrap()).await.unwrap();
    let before = "SELECT ensure_partition('idempotency_keys', now(), '48 hours', '48 hours')";
    owner.execute(before).await.unwrap();
    migrate(&mut owner, |text| panic!("{text}")).await.unwrap();
    let hours = |count: u64| Duration::from_secs(count * 3600);
    partitions::check_ttl(&mut owner, hours(48)).await.unwrap();
    let refused = partitions::check_ttl(&mut owner, hours(49)).await.unwrap_err().to_string();
    assert!(refused.contains("48:00:00") && refused.contains("2days 1h"), "{refused}");
    owner.execute(before).await.unwrap();
    partitions::set_ttl(&mut owner, hours(49)).await.unwrap();
    partitions::check_ttl(&mut owner, hours(49)).await.unwrap();
}

/// In a transaction that is rolled back, since roles are the cluster's.
#[tokio::test]
async fn a_password_is_set_whatever_characters_it_has() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    let mut transaction = owner.begin().await.unwrap();
    let role = format!("odd \"role' {}", Uuid::new_v4());
    let password = r#"x' SUPERUSER; -- \' "$1 %L ü"#;
    let create: String = sqlx::query_scalar("SELECT format('CREATE ROLE %I', $1::text)")
        .bind(&role)
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
    // The old hash, unlike the one in use, can be made again in SQL.
    transaction.execute("SET LOCAL password_encryption = 'md5'").await.unwrap();
    sqlx::raw_sql(&create).execute(&mut *transaction).await.unwrap();
    set_password(&mut transaction, &role, password).await.unwrap();
    let set: bool = sqlx::query_scalar(
        "SELECT rolpassword = 'md5' || md5($2::text || $1::text) AND NOT rolsuper FROM pg_authid WHERE rolname = $1",
    )
    .bind(&role)
    .bind(password)
    .fetch_one(&mut *transaction)
    .await
    .unwrap();
    assert!(set);
    assert!(set_password(&mut transaction, "no such role", "secret").await.is_err_and(|error| {
        let text = format!("{error:#}");
        text.contains("no such role") && !text.contains("secret")
    }));
}

/// What each database has noted of the migrations it was given: SHA-384 of the file.
const LANDED: [(i64, &str); 4] = [
    (1, "425b30e829160f5a61e790fe7682891047a5902026c36913bfb458ac9add8d6ba65270164b0781be42c2c2f684453e5b"),
    (2, "94ab4412106dd0cdafb1a4d2ad61d239dd9f9d12ecc183682744c17692e71e8205f0e4e4196dc21c5e107576d975279e"),
    (3, "ea99722dba2e951ba01b9282d929c02230a07ff2f19d4e01b1c806eb27ed58200c81a935e50dd6486b379e5faad7e91a"),
    (4, "10ec7ff8cc3032719ea5d19e05b669404bb5290ba19af2ff9d50d10b34d28e424f86ba4cdd5fa82e2beacf0bdcd0848d"),
];

#[test]
fn a_migration_that_has_landed_is_never_edited_and_a_new_one_is_added_to_those() {
    let found = MIGRATOR.iter().map(|migration| (migration.version, hex::encode(&migration.checksum)));
    assert_eq!(found.collect::<Vec<_>>(), LANDED.map(|(version, checksum)| (version, checksum.to_owned())));
}
