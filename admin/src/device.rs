//! `device`: keys that are bound to a device, and how its apps are set up.

use std::io::{IsTerminal as _, stdout};

use anyhow::{Context as _, ensure};
use milepost_shared::store::accounts;

use crate::apps::{self, App};
use crate::arguments::{CreateDevice, ListDevices, RevokeDevice};
use crate::database;
use crate::key::{self, or_none};
use crate::secret::Secret;
use crate::table::{moment, table};

pub async fn create(command: &CreateDevice) -> anyhow::Result<()> {
    let secret = Secret::generate(&mut rand::rng());
    let apps = apps::all(&command.gateway_url, secret.text(), &command.name);
    // All of it before the key is stored: the secret is shown this once.
    let coloured = stdout().is_terminal();
    let shown = apps.iter().map(|app| shown(app, command.qr.then_some(coloured)));
    let shown = shown.collect::<anyhow::Result<Vec<_>>>()?;
    let made = key::store(&command.key, Some(&command.name), &secret).await?;
    let end = made.expires_at.map_or_else(String::new, |at| format!(", until {}", moment(at)));
    println!("{} sends as {}{end}. It is shown this once:\n", made.prefix, command.name);
    println!("{}", secret.text());
    for app in shown {
        println!("\n{app}");
    }
    Ok(())
}

/// How one app is set up, for people; with its code if that is asked for, coloured or not.
fn shown(app: &App, coloured_code: Option<bool>) -> anyhow::Result<String> {
    let mut lines = vec![app.name.to_owned()];
    lines.extend(app.fields.iter().map(|(name, value)| format!("  {name}: {value}")));
    lines.extend(app.link.iter().map(|link| format!("  or open on the phone: {link}")));
    if let (Some(code), Some(coloured)) = (&app.code, coloured_code) {
        lines.push("  or scan:".to_owned());
        lines.extend(crate::qr::lines(code, coloured).with_context(|| format!("the link of {}", app.name))?);
    }
    Ok(lines.join("\n"))
}

pub async fn list(command: &ListDevices) -> anyhow::Result<()> {
    let mut connection = database::open(&command.database).await?;
    let keys =
        accounts::keys(&mut connection, Some(command.account)).await.context("cannot list the keys")?;
    let mut listed = table(["PREFIX", "CREATED", "REVOKED", "EXPIRES", "LAST USED", "DEVICE", "LABEL"]);
    for key in keys {
        let Some(device) = key.device else { continue };
        let times = [Some(key.created_at), key.revoked_at, key.expires_at, key.last_used_at];
        let [created, revoked, expires, used] = times.map(|time| or_none(time.map(moment)));
        listed.add_row([key.prefix, created, revoked, expires, used, device, or_none(key.label)]);
    }
    println!("{}", listed.trim_fmt());
    Ok(())
}

pub async fn revoke(command: &RevokeDevice) -> anyhow::Result<()> {
    let RevokeDevice { database, account, name } = command;
    let mut connection = database::open(database).await?;
    let revoked = accounts::revoke_device(&mut connection, *account, name, database::now())
        .await
        .context("cannot revoke the keys")?;
    ensure!(
        !revoked.is_empty(),
        "no key of this device works; 'milepost-admin device list' shows those there are"
    );
    for prefix in revoked {
        println!("{prefix} is revoked");
    }
    Ok(())
}
