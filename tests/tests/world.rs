//! The tests' own world: it leaves nothing behind, however it ends.

use std::time::Duration;

use milepost_tests::{Services, World, WorldSettings};
use sqlx::{Connection as _, PgConnection};
use tokio::runtime::Runtime;

#[test]
fn a_world_that_ends_with_its_runtime_is_removed_all_the_same() -> anyhow::Result<()> {
    let runtime = Runtime::new()?;
    let name = runtime.block_on(async {
        let world = World::new(WorldSettings::default()).await?;
        let name = world.database.name().to_owned();
        tokio::spawn(async move {
            let _world = world;
            std::future::pending::<()>().await;
        });
        anyhow::Ok(name)
    })?;
    runtime.shutdown_timeout(Duration::from_secs(60));

    let left: i64 = Runtime::new()?.block_on(async {
        let mut owner = PgConnection::connect(&Services::shared()?.database_url).await?;
        let left = sqlx::query_scalar("SELECT count(*) FROM pg_database WHERE datname = $1").bind(&name);
        anyhow::Ok(left.fetch_one(&mut owner).await?)
    })?;
    assert_eq!(left, 0, "the database {name} is left");
    Ok(())
}
