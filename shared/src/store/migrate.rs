//! The schema's version: set by the administrator, checked by the programs.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Executor as _, PgConnection};

use super::roles;
use crate::program::backoff::Backoff;

pub(super) static MIGRATOR: Migrator = sqlx::migrate!("../migrations");

/// SQLSTATE: nothing was ever migrated here.
const UNDEFINED_TABLE: &str = "42P01";
/// SQLSTATE: not within `lock_timeout`.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Longest wait for a lock. Whatever needs the same table meanwhile waits behind the migration.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);
/// Pauses between attempts, in which traffic goes on: the first and the longest, before jitter.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// How long it keeps trying.
const PATIENCE: Duration = Duration::from_secs(600);

/// Brings the schema up to this build's version, and revokes from PUBLIC what nobody needs. Having nothing to do is success.
///
/// Waits for a lock that others hold in short attempts, and passes each failed one to `say`.
///
/// # Errors
/// A migration fails, an applied one has been changed since, or a lock could not be had for ten minutes.
pub async fn migrate(connection: &mut PgConnection, mut say: impl FnMut(String)) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut pauses = Backoff::between(PAUSES.0, PAUSES.1);
    let lock_timeout = format!("SET lock_timeout = {}", LOCK_TIMEOUT.as_millis());
    connection.execute(lock_timeout.as_str()).await.context("cannot bound the waits for locks")?;
    loop {
        let error = match attempt(connection).await {
            Err(error) if is_busy(&error) && begun.elapsed() < PATIENCE => error,
            done => {
                done.context("cannot migrate")?;
                connection.execute("RESET lock_timeout").await?;
                return Ok(());
            }
        };
        // What the attempt left behind: a lock of the session, which the next one takes again.
        connection.execute("SELECT pg_catalog.pg_advisory_unlock_all()").await?;
        let pause = pauses.delay();
        let holder = oldest_transaction(connection).await.unwrap_or_default();
        say(format!("{error}; tried again in {:.1} s{holder}", pause.as_secs_f64()));
        tokio::time::sleep(pause).await;
    }
}

async fn attempt(connection: &mut PgConnection) -> Result<(), MigrateError> {
    MIGRATOR.run_direct(&mut *connection).await?;
    Ok(roles::restrict(connection).await?)
}

/// Whether a lock could not be had in time, or two migrations met in a row of the cluster.
fn is_busy(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return false;
    };
    error.as_database_error().and_then(|error| error.code()).as_deref() == Some(LOCK_NOT_AVAILABLE)
}

/// Who may be in the way, for people; nothing if that is unknown.
async fn oldest_transaction(connection: &mut PgConnection) -> Option<String> {
    let oldest: (i32, String, i64) = sqlx::query_as(
        "SELECT pid, application_name, extract(epoch FROM clock_timestamp() - xact_start)::bigint \
         FROM pg_catalog.pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL \
         ORDER BY xact_start LIMIT 1",
    )
    .fetch_optional(connection)
    .await
    .ok()??;
    let (pid, program, seconds) = oldest;
    Some(format!(" (the oldest transaction here is that of process {pid}, {program:?}, {seconds} s old)"))
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
/// The schema is older than this build or absent, with the command that fixes it; or the database cannot be read.
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

#[cfg(test)]
#[path = "migrate_tests.rs"]
mod tests;
