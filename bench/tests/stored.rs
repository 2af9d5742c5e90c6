//! What the benchmark itself puts into tables, on a real Postgres, and that it notices when something is not as answered.

use std::sync::Arc;
use std::time::Duration;

use milepost_bench::clients::Clients;
use milepost_bench::copy::Rows;
use milepost_bench::ledger::Ledger;
use milepost_bench::points::Points;
use milepost_bench::records::Records;
use milepost_bench::requests::Requests;
use milepost_bench::uploads::Uploads;
use milepost_bench::{keys, plain};
use milepost_shared::journal::clock::Clock;
use milepost_tests::{Role, Services, World, WorldSettings};
use tokio::net::TcpListener;

const DAY: Duration = Duration::from_secs(86_400);

async fn world() -> anyhow::Result<World> {
    let settings = WorldSettings { ttl: DAY, consumer_outage_max: DAY, partitions: 1 };
    World::without_topics(Services::shared()?, settings).await
}

/// Clients of *plain* on the tables of a world.
async fn clients_of_plain(world: &World, requests: Requests) -> anyhow::Result<Clients> {
    let router = plain::router(&world.database.url(Role::Owner), 4).await?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let target = listener.local_addr()?;
    tokio::spawn(async { axum::serve(listener, router).await });
    Clients::connect(&[target], 8, requests).await
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_stores_each_upload_once_and_replays_its_answer() -> anyhow::Result<()> {
    let world = world().await?;
    for uploads in [Uploads::singles(), Uploads::batches(7)] {
        let (uploads, ledger) = (Arc::new(uploads), Arc::new(Ledger::default()));
        let requests = Requests::new(&uploads, &world.account.secret, &ledger);
        let replays = requests.replays(200);
        let mut clients = clients_of_plain(&world, requests).await?;
        clients.send(200).await?;
        ledger.check(&world.tables).await?;
        clients.with(replays).send(600).await?;
        ledger.check(&world.tables).await?;
        world.tables.execute("TRUNCATE idempotency_keys, locations").await?;
    }
    world.leave();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_stores_each_point_of_an_app_once_also_from_supersets() -> anyhow::Result<()> {
    let world = world().await?;
    let (points, ledger) = (Arc::new(Points::overland(32)), Arc::new(Ledger::default()));
    let mut clients =
        clients_of_plain(&world, Requests::new(&points, &world.account.secret, &ledger)).await?;
    // Nine of them are supersets.
    clients.send(200).await?;
    let stored = plain::points::count(&world.tables).await?;
    assert_eq!(stored, 200 * points.new);
    ledger.check_with(stored, &world.tables).await?;
    let again = clients.requests().replays(100);
    clients.with(again).send(200).await?;
    assert_eq!(plain::points::count(&world.tables).await?, stored);
    let error = ledger.check_with(stored - 1, &world.tables).await.expect_err("one is missing");
    assert!(error.to_string().contains("but stored"), "{error}");
    world.leave();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_refuses_another_body_under_a_key_and_an_unknown_api_key() -> anyhow::Result<()> {
    let world = world().await?;
    let (uploads, ledger) = (Arc::new(Uploads::singles()), Arc::new(Ledger::default()));
    let requests = Requests::new(&uploads, &world.account.secret, &ledger);
    let mut clients = clients_of_plain(&world, requests).await?;
    clients.send(1).await?;
    world.tables.execute("UPDATE idempotency_keys SET fingerprint = decode(repeat('00', 32), 'hex')").await?;
    let replays = clients.requests().replays(1);
    let mut clients = clients.with(replays);
    let error = clients.send(1).await.expect_err("it is another upload").to_string();
    assert!(error.contains("the first: 422"), "{error}");
    let mut strangers = clients.with(Requests::new(&uploads, "stranger", &ledger));
    let error = strangers.send(1).await.expect_err("nobody has this API key").to_string();
    assert!(error.contains("the first: 401"), "{error}");
    world.leave();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_backlog_and_keys_to_fill_a_table_can_be_copied() -> anyhow::Result<()> {
    let (world, ledger) = (world().await?, Ledger::default());
    for (uploads, count) in [(Uploads::batches(50), 900), (Uploads::singles(), 300)] {
        let records = Records::new(&uploads, world.account.id);
        Rows::new(&records, count, &world).copy(&world).await?;
        ledger.add(count, count * uploads.locations);
    }
    ledger.check(&world.tables).await?;
    for _ in 0..2 {
        keys::fill(&world, 25_000, Clock::default().now(), DAY).await?;
        ledger.add(25_000, 0);
    }
    ledger.check(&world.tables).await?;
    world.leave();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_too_few_or_too_many_is_noticed() -> anyhow::Result<()> {
    let world = world().await?;
    let records = Records::new(&Uploads::batches(5), world.account.id);
    Rows::new(&records, 10, &world).copy(&world).await?;
    for (uploads, locations, right) in
        [(10, 50, true), (10, 49, false), (10, 51, false), (9, 50, false), (11, 50, false)]
    {
        let ledger = Ledger::default();
        ledger.add(uploads, locations);
        assert_eq!(ledger.check(&world.tables).await.is_ok(), right, "{ledger:?}");
    }
    world.leave();
    Ok(())
}
