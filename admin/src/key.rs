//! `key`: the API keys of accounts.

use anyhow::{Context as _, ensure};
use milepost_shared::store::accounts::{self, ApiKey};

use crate::arguments::{CreateKey, ListKeys, RevokeKey};
use crate::database;
use crate::secret::Secret;
use crate::table::{moment, table};

pub async fn create(command: &CreateKey) -> anyhow::Result<()> {
    let mut connection = database::open(&command.database).await?;
    let secret = Secret::generate(&mut rand::rng());
    let key = ApiKey::new(secret.prefix(), command.account, database::now());
    let created = accounts::create_key(&mut connection, &key, &secret.sha256())
        .await
        .context("cannot store the key")?;
    ensure!(
        created,
        "there is no account {}; 'milepost-admin account list' shows those there are",
        command.account
    );
    println!("{}", secret.text());
    Ok(())
}

pub async fn list(command: &ListKeys) -> anyhow::Result<()> {
    let mut connection = database::open(&command.database).await?;
    let keys = accounts::keys(&mut connection, command.account).await.context("cannot list the keys")?;
    let mut listed = table(["PREFIX", "ACCOUNT", "CREATED", "REVOKED"]);
    for key in keys {
        let revoked = key.revoked_at.map_or_else(|| "-".to_owned(), moment);
        listed.add_row([key.prefix, key.account_id.to_string(), moment(key.created_at), revoked]);
    }
    println!("{}", listed.trim_fmt());
    Ok(())
}

pub async fn revoke(command: &RevokeKey) -> anyhow::Result<()> {
    let mut connection = database::open(&command.database).await?;
    let known = accounts::revoke_key(&mut connection, &command.prefix, database::now())
        .await
        .context("cannot revoke the key")?;
    // Not quoted: it may be a whole secret, pasted by mistake.
    ensure!(known, "no key has this prefix; 'milepost-admin key list' shows those there are");
    println!("{} is revoked", command.prefix);
    Ok(())
}
