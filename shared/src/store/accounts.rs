//! Accounts and their API keys, as the administrator manages them.

use crate::journal::account::AccountId;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

/// Longest name of an account, characters; the table has the same bound.
pub const NAME_CHARS_MAX: usize = 100;
/// Longest label of a key, characters; the table has the same bound.
pub const LABEL_CHARS_MAX: usize = 100;

/// Who may upload.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Account {
    /// What identifies it everywhere else.
    pub id: AccountId,
    /// For people; unique.
    pub name: String,
    /// By the administrator's clock.
    pub created_at: OffsetDateTime,
}

/// An API key without its secret, which is not stored.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct ApiKey {
    /// The beginning of the secret, to distinguish keys; unique.
    pub prefix: String,
    /// Whose it is.
    pub account_id: AccountId,
    /// By the administrator's clock.
    pub created_at: OffsetDateTime,
    /// Since when it is refused.
    pub revoked_at: Option<OffsetDateTime>,
    /// For people.
    pub label: Option<String>,
    /// The one device that it may speak for; any if there is none.
    pub device: Option<String>,
    /// From when on it is refused.
    pub expires_at: Option<OffsetDateTime>,
    /// When a gateway last let it in, by the database's clock, to the hour.
    pub last_used_at: Option<OffsetDateTime>,
}

impl ApiKey {
    /// A key for any device and without an end.
    #[must_use]
    pub fn new(prefix: &str, account_id: AccountId, created_at: OffsetDateTime) -> Self {
        Self {
            prefix: prefix.to_owned(),
            account_id,
            created_at,
            revoked_at: None,
            label: None,
            device: None,
            expires_at: None,
            last_used_at: None,
        }
    }
}

/// Makes an account; `false` if another has the name.
///
/// # Errors
/// The database refuses: the name is empty or too long, or the id is taken.
pub async fn create_account(connection: &mut PgConnection, account: &Account) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "INSERT INTO accounts (id, name, created_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
    )
    .bind(account.id)
    .bind(&account.name)
    .bind(account.created_at)
    .execute(connection)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// All accounts, by name.
///
/// # Errors
/// The database cannot be asked.
pub async fn accounts(connection: &mut PgConnection) -> sqlx::Result<Vec<Account>> {
    sqlx::query_as("SELECT id, name, created_at FROM accounts ORDER BY name").fetch_all(connection).await
}

/// Stores a key by the SHA-256 of its secret; `false` if there is no such account.
///
/// # Errors
/// The database refuses: the secret or the prefix is taken, or the label or the device is none.
pub async fn create_key(
    connection: &mut PgConnection,
    key: &ApiKey,
    secret_sha256: &[u8; 32],
) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "INSERT INTO api_keys (account_id, secret_sha256, prefix, created_at, revoked_at, label, device, expires_at) \
         SELECT id, $2, $3, $4, $5, $6, $7, $8 FROM accounts WHERE id = $1",
    )
    .bind(key.account_id)
    .bind(&secret_sha256[..])
    .bind(&key.prefix)
    .bind(key.created_at)
    .bind(key.revoked_at)
    .bind(&key.label)
    .bind(&key.device)
    .bind(key.expires_at)
    .execute(connection)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// The keys of one account or of all, oldest first.
///
/// # Errors
/// The database cannot be asked.
pub async fn keys(connection: &mut PgConnection, account: Option<AccountId>) -> sqlx::Result<Vec<ApiKey>> {
    sqlx::query_as(
        "SELECT prefix, account_id, created_at, revoked_at, label, device, expires_at, last_used_at FROM api_keys \
         WHERE $1::uuid IS NULL OR account_id = $1 ORDER BY id",
    )
    .bind(account)
    .fetch_all(connection)
    .await
}

/// Revokes a key. One that was revoked before keeps its time. `false` if there is no such key.
///
/// # Errors
/// The database refuses.
pub async fn revoke_key(
    connection: &mut PgConnection,
    prefix: &str,
    at: OffsetDateTime,
) -> sqlx::Result<bool> {
    let result = sqlx::query("UPDATE api_keys SET revoked_at = coalesce(revoked_at, $2) WHERE prefix = $1")
        .bind(prefix)
        .bind(at)
        .execute(connection)
        .await?;
    Ok(result.rows_affected() == 1)
}

/// Revokes all keys that are bound to a device and not revoked yet, and returns their prefixes, oldest first.
///
/// # Errors
/// The database refuses.
pub async fn revoke_device(
    connection: &mut PgConnection,
    account: AccountId,
    device: &str,
    at: OffsetDateTime,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "WITH revoked AS (UPDATE api_keys SET revoked_at = $3 \
         WHERE account_id = $1 AND device = $2 AND revoked_at IS NULL RETURNING id, prefix) \
         SELECT prefix FROM revoked ORDER BY id",
    )
    .bind(account)
    .bind(device)
    .bind(at)
    .fetch_all(connection)
    .await
}

#[cfg(test)]
#[path = "accounts_tests.rs"]
mod tests;
