//! API keys, as the gateway reads them: by the SHA-256 of the secret, revoked ones as if they did not exist.

use crate::journal::account::AccountId;
use sqlx::{FromRow, PgConnection};

#[derive(FromRow)]
struct Row {
    secret_sha256: Vec<u8>,
    account_id: AccountId,
}

/// All keys that are not revoked, with their accounts. There is no bound but how many administrators have made.
///
/// # Errors
/// The database cannot be asked.
pub async fn active(connection: &mut PgConnection) -> sqlx::Result<Vec<([u8; 32], AccountId)>> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT secret_sha256, account_id FROM api_keys WHERE revoked_at IS NULL")
            .fetch_all(connection)
            .await?;
    // The table's own constraint is 32 bytes.
    Ok(rows
        .into_iter()
        .filter_map(|row| Some((row.secret_sha256.try_into().ok()?, row.account_id)))
        .collect())
}

/// The account of one key; `None` if there is no such key or it is revoked.
///
/// # Errors
/// The database cannot be asked.
pub async fn find(
    connection: &mut PgConnection,
    secret_sha256: &[u8; 32],
) -> sqlx::Result<Option<AccountId>> {
    sqlx::query_scalar("SELECT account_id FROM api_keys WHERE secret_sha256 = $1 AND revoked_at IS NULL")
        .bind(&secret_sha256[..])
        .fetch_optional(connection)
        .await
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use uuid::Uuid;

    use super::*;
    use crate::store::accounts::{self, Account, ApiKey};
    use crate::store::testing::{self, Role};

    #[tokio::test]
    async fn a_gateway_sees_keys_that_are_not_revoked() {
        let database = testing::database().await;
        let mut owner = database.connect(Role::Owner).await;
        let at = OffsetDateTime::UNIX_EPOCH;
        let account = Account { id: AccountId(Uuid::from_u128(1)), name: "a".to_owned(), created_at: at };
        accounts::create_account(&mut owner, &account).await.unwrap();
        for (byte, prefix) in [(1, "mp_1"), (2, "mp_2")] {
            let key = ApiKey {
                prefix: prefix.to_owned(),
                account_id: account.id,
                created_at: at,
                revoked_at: None,
            };
            accounts::create_key(&mut owner, &key, &[byte; 32]).await.unwrap();
        }
        accounts::revoke_key(&mut owner, "mp_2", at).await.unwrap();

        let mut gateway = database.connect(Role::Gateway).await;
        assert_eq!(active(&mut gateway).await.unwrap(), [([1; 32], account.id)]);
        assert_eq!(find(&mut gateway, &[1; 32]).await.unwrap(), Some(account.id));
        assert_eq!(find(&mut gateway, &[2; 32]).await.unwrap(), None);
        assert_eq!(find(&mut gateway, &[3; 32]).await.unwrap(), None);
    }
}
