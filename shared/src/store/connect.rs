//! How programs connect: every statement and every wait on the server has a bound, whatever happens to the client.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;

/// Options from a URL, with the server-side bounds set, and plans that do not depend on how full a table is.
///
/// `statement` bounds each statement, and, with 5 seconds on top, an idle transaction: a client that vanished inside one
/// must not hold its locks.
///
/// # Errors
/// The URL cannot be parsed. The error does not quote it.
pub fn options(url: &str, program: &str, statement: Duration) -> anyhow::Result<PgConnectOptions> {
    // sqlx accepts any scheme, and would connect to localhost after a typing error.
    let options = ["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| url.starts_with(scheme))
        .then(|| PgConnectOptions::from_str(url).ok())
        .flatten()
        .context("DATABASE_URL is not a PostgreSQL URL")?
        .application_name(program)
        .options([
            ("statement_timeout", statement.as_millis().to_string()),
            ("lock_timeout", statement.as_millis().to_string()),
            ("idle_in_transaction_session_timeout", (statement.as_millis() + 5000).to_string()),
            ("tcp_keepalives_idle", "15".to_owned()),
            ("tcp_keepalives_interval", "5".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
            ("timezone", "UTC".to_owned()),
            // No table is read as a whole where an index can serve. The server keeps a statement's plan, and one made while
            // a table was empty would go on reading all of it as it grows, until the next analyze (decision 10).
            ("enable_seqscan", "off".to_owned()),
            // A statement is planned once, not each time: for arrays of a few keys the server would plan each time, which
            // takes longer than the look-up itself (decision 10).
            ("plan_cache_mode", "force_generic_plan".to_owned()),
        ])
        // A statement's text is always the same; how long it takes shows in spans and metrics.
        .disable_statement_logging();
    Ok(options)
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
