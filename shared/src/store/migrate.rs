//! The schema's version: made by the administrator, checked by the programs.

use anyhow::Context as _;
use sqlx::migrate::Migrator;
use sqlx::{Connection as _, PgConnection};

use super::public;

pub(super) static MIGRATOR: Migrator = sqlx::migrate!("../migrations");

/// SQLSTATE: nothing was ever migrated here.
const UNDEFINED_TABLE: &str = "42P01";

/// Brings the schema up to this build's version, and takes from PUBLIC what nobody needs; nothing to do is success.
///
/// # Errors
/// A migration fails, or one that was applied has been changed since.
pub async fn migrate(connection: &mut PgConnection) -> anyhow::Result<()> {
    MIGRATOR.run(&mut *connection).await.context("cannot migrate")?;
    public::restrict(connection).await.context("cannot take from PUBLIC what nobody needs")
}

/// The version this build was made for.
#[must_use]
pub fn expected_version() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Refuses a database that this build's statements were not written for. A newer schema is accepted: migrations only add,
/// so that programs can be upgraded one by one.
///
/// # Errors
/// The schema is older than this build or absent, with the command that mends it; or the database cannot be read.
pub async fn check_version(connection: &mut PgConnection) -> anyhow::Result<()> {
    let found = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success");
    let found: Option<i64> = match found.fetch_one(connection).await {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(UNDEFINED_TABLE) => None,
        found => found.context("cannot read the schema version")?,
    };
    let expected = expected_version();
    let found = found.unwrap_or(0);
    anyhow::ensure!(
        found >= expected,
        "the database has schema version {found}, this build needs {expected}; run 'milepost-admin migrate'"
    );
    Ok(())
}

/// One change of roles and of what PUBLIC may do at a time, until the transaction's end. What is called is Postgres' own.
pub(super) const ROLES_LOCK: &str = "SELECT pg_catalog.pg_advisory_xact_lock(\
     pg_catalog.hashtextextended('milepost.roles'::pg_catalog.text, 0::pg_catalog.int8))";

/// Gives a role of the cluster a password.
///
/// # Errors
/// The role does not exist, or the connected one may not change it. The error does not quote the password.
pub async fn set_password(connection: &mut PgConnection, role: &str, password: &str) -> anyhow::Result<()> {
    alter_role(connection, role, password)
        .await
        .with_context(|| format!("cannot set the password of role {role}"))
}

async fn alter_role(connection: &mut PgConnection, role: &str, password: &str) -> sqlx::Result<()> {
    let mut transaction = connection.begin().await?;
    // Postgres fails the second of two changes at once, and containers that start together all migrate.
    sqlx::query(ROLES_LOCK).execute(&mut *transaction).await?;
    // ALTER ROLE takes no bind values; the server itself quotes what goes into the statement.
    let statement: String =
        sqlx::query_scalar("SELECT pg_catalog.format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)")
            .bind(role)
            .bind(password)
            .fetch_one(&mut *transaction)
            .await?;
    sqlx::raw_sql(&statement).execute(&mut *transaction).await?;
    transaction.commit().await
}

#[cfg(test)]
#[path = "migrate_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "roles_tests.rs"]
mod roles_tests;
