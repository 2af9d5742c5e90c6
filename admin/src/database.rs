//! A command's only connection, with a deadline for everything.

use std::time::Duration;

use anyhow::Context as _;
use milepost_shared::journal::clock::Clock;
use milepost_shared::program::settings::DatabaseSettings;
use milepost_shared::store::{connect, migrate};
use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for a statement that touches only a few rows.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects to a database whose schema this build knows.
pub async fn open(settings: &DatabaseSettings) -> anyhow::Result<PgConnection> {
    let mut connection = open_any(settings, STATEMENT_TIMEOUT).await?;
    migrate::check_version(&mut connection).await?;
    Ok(connection)
}

/// Connects, whatever is in the database.
pub async fn open_any(settings: &DatabaseSettings, statement: Duration) -> anyhow::Result<PgConnection> {
    let options = connect::options(&settings.database_url, "milepost-admin", statement)?;
    tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options))
        .await
        .context("the database of DATABASE_URL does not answer")?
        .context("cannot connect to the database of DATABASE_URL")
}

/// The time to store with what is created or revoked.
pub fn now() -> OffsetDateTime {
    Clock::new(0).now().to_datetime()
}
