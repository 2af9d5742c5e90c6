//! API keys, as the gateway reads them: by the SHA-256 of the secret; first all of them, then those that have changed.
//!
//! What has changed is told by the number of the transaction that did it. `migrations/0003_keys_of_devices.sql` says why
//! nothing is missed: neither what was committed late, nor what a clock that was wrong has stamped.

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use crate::journal::account::AccountId;
use crate::store::connect::Target;

/// Most keys read at once.
pub const PAGE: usize = 5000;
/// Most uses noted at once; the database refuses more.
pub const USES_MAX: usize = 1000;

/// A key that is known.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Key {
    /// Of the whole secret.
    #[sqlx(try_from = "Vec<u8>")]
    pub secret_sha256: Sha256,
    /// Whose it is.
    pub account_id: AccountId,
    /// The one device that it may speak for; any if there is none.
    pub device: Option<String>,
    /// From when on it is refused.
    pub expires_at: Option<OffsetDateTime>,
    /// The hour when any gateway last noted its use.
    pub last_used_at: Option<OffsetDateTime>,
    /// Whether it is refused.
    pub revoked: bool,
}

/// SHA-256 of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sha256(pub [u8; 32]);

impl TryFrom<Vec<u8>> for Sha256 {
    type Error = String;

    fn try_from(bytes: Vec<u8>) -> Result<Self, String> {
        bytes.try_into().map(Self).map_err(|_| "a hash has not 32 bytes".to_owned())
    }
}

/// How to connect to read [`Changes`]: by their index and in its order, so that a page of a million keys is no sort of a
/// million keys, even if the server's statistics are of a time when there were few.
#[must_use]
pub fn reader(target: &Target) -> Target {
    target.with([("enable_bitmapscan", "off"), ("enable_sort", "off")])
}

/// How far one connection has seen the changes: all of the transactions below `open` were over.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Horizon {
    /// The first transaction that may still have been open.
    open: i64,
    /// The first that had not begun.
    next: i64,
    /// The file of the table: another one after it was made anew or truncated.
    file: i64,
}

impl Horizon {
    /// Whether what has changed since an earlier horizon of this connection leads here. Else all keys have to be read again.
    #[must_use]
    pub fn follows(&self, earlier: &Self) -> bool {
        self.file == earlier.file && self.open >= earlier.open && self.next >= earlier.next
    }
}

/// The horizon of this moment.
///
/// # Errors
/// The database cannot be asked.
pub async fn horizon(connection: &mut PgConnection) -> sqlx::Result<Horizon> {
    sqlx::query_as(
        "SELECT pg_snapshot_xmin(s)::text::bigint AS open, pg_snapshot_xmax(s)::text::bigint AS next, \
         pg_relation_filenode('api_keys')::bigint AS file FROM pg_current_snapshot() s",
    )
    .fetch_one(connection)
    .await
}

/// In the order of the index, and so without a sort: `changed_in` is the column, not a column of the result.
const CHANGED: &str = "SELECT secret_sha256, account_id, device, expires_at, last_used_at, revoked_at IS NOT NULL AS revoked, \
    changed_in::text::bigint AS change, id FROM api_keys \
    WHERE changed_in >= $1::text::xid8 AND (changed_in, id) < ($2::text::xid8, $3) \
    ORDER BY api_keys.changed_in DESC, id DESC LIMIT $4";

/// Keys by when they changed, the last ones first: after an outage revocations come before all else.
#[derive(Debug, Clone)]
pub struct Changes {
    since: i64,
    /// What is left lies before this.
    before: (i64, i64),
}

impl Changes {
    /// All keys there are.
    #[must_use]
    pub fn all() -> Self {
        // A dump of another server may have brought numbers that this one will only reach one day.
        Self { since: 0, before: (i64::MAX, i64::MAX) }
    }

    /// What one horizon had not seen, as far as the next one saw it. What this one did not see is between it and a later one.
    #[must_use]
    pub fn between(earlier: &Horizon, later: &Horizon) -> Self {
        Self { since: earlier.open, before: (later.next, 0) }
    }

    /// The next keys, at most [`PAGE`]; fewer are the last.
    ///
    /// A key that changes meanwhile may be left out: it is in what has changed since a horizon of before.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub async fn page(&mut self, connection: &mut PgConnection) -> sqlx::Result<Vec<Key>> {
        let rows: Vec<Row> = sqlx::query_as(CHANGED)
            .bind(self.since.to_string())
            .bind(self.before.0.to_string())
            .bind(self.before.1)
            .bind(PAGE as i64)
            .fetch_all(connection)
            .await?;
        if let Some(last) = rows.last() {
            self.before = (last.change, last.id);
        }
        Ok(rows.into_iter().map(|row| row.key).collect())
    }
}

#[derive(FromRow)]
struct Row {
    #[sqlx(flatten)]
    key: Key,
    change: i64,
    id: i64,
}

/// One key; `None` if there is no such key or it is revoked.
///
/// # Errors
/// The database cannot be asked.
pub async fn find(connection: &mut PgConnection, secret_sha256: &[u8; 32]) -> sqlx::Result<Option<Key>> {
    sqlx::query_as(
        "SELECT secret_sha256, account_id, device, expires_at, last_used_at, false AS revoked FROM api_keys \
         WHERE secret_sha256 = $1 AND revoked_at IS NULL",
    )
    .bind(&secret_sha256[..])
    .fetch_optional(connection)
    .await
}

/// Notes that keys were used in this hour of the database's clock, at most [`USES_MAX`] of them. Returns how many rows that
/// changed: a key noted before in this hour, or one that somebody else is writing, stays as it is.
///
/// # Errors
/// The database refuses.
pub async fn note_uses(connection: &mut PgConnection, secrets_sha256: &[[u8; 32]]) -> sqlx::Result<i32> {
    let hashes: Vec<&[u8]> = secrets_sha256.iter().map(|hash| &hash[..]).collect();
    sqlx::query_scalar("SELECT note_key_uses($1)").bind(hashes).fetch_one(connection).await
}

#[cfg(test)]
#[path = "api_keys_tests.rs"]
mod tests;
