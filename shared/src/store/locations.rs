//! What is stored, counted: for an administrator.

use sqlx::PgConnection;

/// How much is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Stored {
    /// Locations.
    pub locations: i64,
    /// The uploads they came in.
    pub uploads: i64,
}

/// Counts all that is stored. Reads the whole table: the bound is the connection's on a statement.
///
/// # Errors
/// The database cannot be asked, or not in time.
pub async fn count(connection: &mut PgConnection) -> sqlx::Result<Stored> {
    let statement = "SELECT count(*) AS locations, count(DISTINCT (source_partition, source_offset)) AS uploads \
        FROM locations";
    sqlx::query_as(statement).fetch_one(connection).await
}
