//! Emission: facts leave in order and without holes, whatever becomes of the brokers, and keys wait for them.

use std::time::Duration;

use milepost_tests::{Post, Services, World, WorldSettings, eventually};

use crate::load::Load;
use crate::window::{maintained, passed};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn while_the_brokers_are_away_facts_wait_and_then_leave_without_holes() -> anyhow::Result<()> {
    let (services, kafka, _postgres) = Services::dedicated().await?;
    let world = World::on(services, WorldSettings { partitions: 1, ..WorldSettings::default() }).await?;
    let gateway = world.gateway().await?;
    let clients = [world.client(&gateway)?];
    let mut consumer = world.new_consumer()?;
    // It stays a member: one that comes back to the group emits again anyway.
    consumer.set("SESSION_TIMEOUT", "60s");
    consumer.start().await?;
    let before = Load::new(&world, 3);
    before.post_until_final(&clients, 1).await?;
    world.caught_up().await?;

    // They are persisted only when the brokers are gone already.
    let mut fence = world.tables.pool.acquire().await?;
    sqlx::raw_sql("BEGIN; SELECT FROM partition_progress FOR UPDATE").execute(&mut *fence).await?;
    let during = Load::new(&world, 6);
    for post in &during.posts {
        assert_eq!(clients[0].post(&post.clone().respond_async()).await?.status, 202);
    }
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    eventually(MINUTE, "the consumer has read some, and waits", async || {
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&world.tables.pool).await?;
        Ok((waiting > 0).then_some(()))
    })
    .await?;
    kafka.kill().await?;
    sqlx::raw_sql("ROLLBACK").execute(&mut *fence).await?;
    drop(fence);
    eventually(MINUTE, "they are persisted", async || {
        Ok((world.tables.stored().await?.len() > before.uploads.len()).then_some(()))
    })
    .await?;
    let long = milepost_shared::journal::clock::Clock::new(0).now().plus(Duration::from_secs(5));
    passed(long).await?;
    kafka.start().await?;

    let after = Load::new(&world, 3);
    after.post_until_final(&clients, 1).await?;
    world.finish(&[before.expected(), during.expected(), after.expected()].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_fact_is_not_emitted_yet_outlives_its_window_and_the_fact_is_emitted()
-> anyhow::Result<()> {
    let ttl = Duration::from_secs(4);
    let world = World::new(WorldSettings { ttl, partitions: 1, ..WorldSettings::default() }).await?;
    let gateway = world.gateway().await?;
    let mut consumer = world.new_consumer()?;
    consumer.set("CRASH_AT", "after-commit");
    consumer.start().await?;
    let upload = world.planted.upload(2);
    let post = Post::batch(&upload).key(&world.planted.key()).respond_async();
    assert_eq!(world.client(&gateway)?.post(&post).await?.status, 202);
    assert!(!consumer.wait_exit(MINUTE).await?.success());
    let key = world.tables.keys().await?.pop().expect("the key has a row");

    // The width of a table partition, the window and the grace: by every clock it could go.
    passed(key.accepted_at.plus(2 * ttl + Duration::from_secs(1))).await?;
    // Emission asks for the accounts first; maintenance does not.
    let mut accounts = world.tables.pool.acquire().await?;
    sqlx::raw_sql("BEGIN; LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE").execute(&mut *accounts).await?;
    consumer.unset("CRASH_AT");
    consumer.start().await?;
    maintained(&world).await?;
    assert_eq!(world.tables.keys().await?, [key]);
    sqlx::raw_sql("ROLLBACK").execute(&mut *accounts).await?;
    drop(accounts);
    world.finish(&[&upload]).await
}
