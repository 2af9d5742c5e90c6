//! `account`: who may upload.

use anyhow::{Context as _, ensure};
use milepost_shared::journal::account::AccountId;
use milepost_shared::program::settings::DatabaseSettings;
use milepost_shared::store::accounts::{self, Account};
use uuid::Uuid;

use crate::arguments::CreateAccount;
use crate::database;
use crate::table::{moment, table};

pub async fn create(command: &CreateAccount) -> anyhow::Result<()> {
    let mut connection = database::open(&command.database).await?;
    let account =
        Account { id: AccountId(Uuid::new_v4()), name: command.name.clone(), created_at: database::now() };
    let created =
        accounts::create_account(&mut connection, &account).await.context("cannot create the account")?;
    ensure!(
        created,
        "an account named '{}' exists; its id is shown by 'milepost-admin account list'",
        account.name
    );
    println!("{}", account.id);
    Ok(())
}

pub async fn list(settings: &DatabaseSettings) -> anyhow::Result<()> {
    let mut connection = database::open(settings).await?;
    let mut listed = table(["ACCOUNT", "CREATED", "NAME"]);
    for account in accounts::accounts(&mut connection).await.context("cannot list the accounts")? {
        listed.add_row([account.id.to_string(), moment(account.created_at), account.name]);
    }
    println!("{}", listed.trim_fmt());
    Ok(())
}
