//! `migrate`: the schema and the passwords of the roles that the programs connect as.

use std::time::Duration;

use milepost_shared::store::{migrate, partitions, roles};

use crate::arguments::Migrate;
use crate::database;

/// A migration may have to rewrite a large table.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(600);

pub async fn migrate(command: &Migrate) -> anyhow::Result<()> {
    let mut connection = database::open_any(&command.database, STATEMENT_TIMEOUT).await?;
    migrate::migrate(&mut connection, |line| eprintln!("{line}")).await?;
    println!("the schema has version {}", migrate::expected_version());
    if let Some(ttl) = command.idempotency_ttl {
        partitions::set_ttl(&mut connection, ttl).await?;
        println!("keys are kept for {}", humantime::format_duration(ttl));
    }
    for (role, password) in [
        ("milepost_gateway", &command.gateway_db_password),
        ("milepost_consumer", &command.consumer_db_password),
    ] {
        if let Some(password) = password {
            roles::set_password(&mut connection, role, password).await?;
            println!("role {role} has the password given");
        }
    }
    for what in roles::left_open(&mut connection).await? {
        eprintln!(
            "every role of the server may {what}: run this once as a superuser, who can take that away"
        );
    }
    Ok(())
}
