//! `locations`: what is stored.

use anyhow::Context as _;
use milepost_shared::program::settings::DatabaseSettings;
use milepost_shared::store::locations;

use crate::database;

pub async fn count(settings: &DatabaseSettings) -> anyhow::Result<()> {
    let mut connection = database::open(settings).await?;
    let stored = locations::count(&mut connection).await.context("cannot count the locations")?;
    println!("{} locations in {} uploads", stored.locations, stored.uploads);
    Ok(())
}
