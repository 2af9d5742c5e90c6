//! The least that Postgres takes to make anything durable: a row, committed alone.

use std::time::{Duration, Instant};

use sqlx::{Executor as _, PgConnection};

use crate::tally::Tally;

/// Commits one row after the other.
///
/// # Errors
/// Postgres refuses.
pub async fn commit_one_by_one(connection: &mut PgConnection, duration: Duration) -> anyhow::Result<Tally> {
    connection.execute("CREATE TABLE IF NOT EXISTS bare_commits (number bigint)").await?;
    let mut tally = Tally::default();
    let begun = Instant::now();
    while begun.elapsed() < duration {
        let sent = Instant::now();
        sqlx::query("INSERT INTO bare_commits VALUES (1)").execute(&mut *connection).await?;
        tally.record(sent.elapsed());
    }
    Ok(tally.within(begun.elapsed()))
}
