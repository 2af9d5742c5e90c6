//! A command's only connection, with a deadline for everything.

use std::time::Duration;

use anyhow::Context as _;
use milepost_shared::journal::clock::Clock;
use milepost_shared::program::settings::DatabaseSettings;
use milepost_shared::store::{migrate, trouble};
use sqlx::PgConnection;
use time::OffsetDateTime;

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
    let target = settings.target("milepost-admin")?.bounded(statement);
    let connected = target.connect().await.map_err(|error| anyhow::Error::msg(trouble::in_words(&error)));
    connected.context("cannot connect to the database of DATABASE_URL")
}

/// The time to store with what is created or revoked.
pub fn now() -> OffsetDateTime {
    Clock::new(0).now().to_datetime()
}
