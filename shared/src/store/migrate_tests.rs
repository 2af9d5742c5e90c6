use sqlx::{Connection as _, Executor as _};
use uuid::Uuid;

use super::*;
use crate::store::testing::{Role, database};

#[tokio::test]
async fn a_migrated_database_is_accepted_and_migrating_again_changes_nothing() {
    let database = database().await;
    let mut owner = database.connect(Role::Owner).await;
    migrate(&mut owner).await.unwrap();
    for role in [Role::Owner, Role::Gateway, Role::Consumer] {
        check_version(&mut database.connect(role).await).await.unwrap();
    }
}

#[tokio::test]
async fn an_older_schema_or_none_is_refused_with_the_command_that_mends_it_and_a_newer_one_is_accepted() {
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
        let told = format!("{error:#}");
        told.contains("no such role") && !told.contains("secret")
    }));
}
