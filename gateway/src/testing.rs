//! Test support: an account with a key on a real Postgres, and settings.

use clap::Parser as _;
use milepost_shared::journal::account::AccountId;
use milepost_shared::store::accounts::{self, Account, ApiKey};
use milepost_shared::store::testing::{Role, TestDatabase};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::settings::GatewaySettings;

/// The one account.
pub const ACCOUNT: AccountId = AccountId(Uuid::from_u128(0xacc));
/// A well-formed secret.
pub const SECRET: &str = "mp_tester01_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
const PREFIX_LENGTH: usize = 11;
const EPOCH: sqlx::types::time::OffsetDateTime = sqlx::types::time::OffsetDateTime::UNIX_EPOCH;

/// Settings with a journal that is away.
pub fn settings(arguments: &[&str]) -> GatewaySettings {
    let program = ["milepost-gateway", "--kafka-brokers=127.0.0.1:1"];
    GatewaySettings::try_parse_from(program.iter().chain(arguments)).expect("a test's settings are good")
}

/// Stores a key of the account, and the account.
pub async fn create_key(database: &TestDatabase, secret: &str) {
    store_key(database, &ApiKey::new(&secret[..PREFIX_LENGTH], ACCOUNT, EPOCH), secret).await;
}

/// Stores a key with all it has, and the account.
pub async fn store_key(database: &TestDatabase, key: &ApiKey, secret: &str) {
    let mut owner = database.connect(Role::Owner).await;
    let account = Account { id: ACCOUNT, name: "tester".to_owned(), created_at: EPOCH };
    accounts::create_account(&mut owner, &account).await.expect("an account");
    let hash = Sha256::digest(secret).into();
    assert!(accounts::create_key(&mut owner, key, &hash).await.expect("a key"));
}

/// Revokes a key.
pub async fn revoke_key(database: &TestDatabase, secret: &str) {
    let mut owner = database.connect(Role::Owner).await;
    assert!(accounts::revoke_key(&mut owner, &secret[..PREFIX_LENGTH], EPOCH).await.expect("a key"));
}
