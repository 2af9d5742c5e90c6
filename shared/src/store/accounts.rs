//! Accounts and their API keys, as the administrator manages them.

use crate::journal::account::AccountId;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

/// Longest name of an account, characters; the table has the same bound.
pub const NAME_CHARS_MAX: usize = 100;

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
/// The database refuses: the secret or the prefix is taken.
pub async fn create_key(
    connection: &mut PgConnection,
    key: &ApiKey,
    secret_sha256: &[u8; 32],
) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "INSERT INTO api_keys (account_id, secret_sha256, prefix, created_at, revoked_at) \
         SELECT id, $2, $3, $4, $5 FROM accounts WHERE id = $1",
    )
    .bind(key.account_id)
    .bind(&secret_sha256[..])
    .bind(&key.prefix)
    .bind(key.created_at)
    .bind(key.revoked_at)
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
        "SELECT prefix, account_id, created_at, revoked_at FROM api_keys \
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

#[cfg(test)]
#[path = "accounts_tests.rs"]
mod tests;
