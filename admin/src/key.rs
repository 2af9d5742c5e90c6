//! `key`: the API keys of accounts.

use anyhow::{Context as _, ensure};
use milepost_shared::store::accounts::{self, ApiKey};

use crate::arguments::{CreateKey, ListKeys, NewKey, RevokeKey};
use crate::database;
use crate::secret::Secret;
use crate::table::{moment, table};

pub async fn create(command: &CreateKey) -> anyhow::Result<()> {
    let secret = Secret::generate(&mut rand::rng());
    store(&command.key, None, &secret).await?;
    println!("{}", secret.text());
    Ok(())
}

/// Stores a new key, for any device or for one.
pub async fn store(new: &NewKey, device: Option<&str>, secret: &Secret) -> anyhow::Result<ApiKey> {
    let mut connection = database::open(&new.database).await?;
    let now = database::now();
    let key = ApiKey {
        label: new.label.clone(),
        device: device.map(str::to_owned),
        expires_at: new.expires.map(|after| now + after),
        ..ApiKey::new(secret.prefix(), new.account, now)
    };
    let created = accounts::create_key(&mut connection, &key, &secret.sha256())
        .await
        .context("cannot store the key")?;
    ensure!(
        created,
        "there is no account {}; 'milepost-admin account list' shows those there are",
        new.account
    );
    Ok(key)
}

pub async fn list(command: &ListKeys) -> anyhow::Result<()> {
    let mut connection = database::open(&command.database).await?;
    let keys = accounts::keys(&mut connection, command.account).await.context("cannot list the keys")?;
    let mut listed =
        table(["PREFIX", "ACCOUNT", "CREATED", "REVOKED", "EXPIRES", "LAST USED", "DEVICE", "LABEL"]);
    for key in keys {
        let times = [Some(key.created_at), key.revoked_at, key.expires_at, key.last_used_at];
        let [created, revoked, expires, used] = times.map(|time| or_none(time.map(moment)));
        let account = key.account_id.to_string();
        let (device, label) = (or_none(key.device), or_none(key.label));
        listed.add_row([key.prefix, account, created, revoked, expires, used, device, label]);
    }
    println!("{}", listed.trim_fmt());
    Ok(())
}

/// The text, or a dash where there is none.
pub fn or_none(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
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
