//! The consumer alone with a backlog in the journal, compared with a bare COPY of the same locations and keys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use milepost_tests::{World, eventually};

use crate::copy::Rows;
use crate::figure::{Bound, Figure, Spread};
use crate::installation::Installation;
use crate::ledger::Ledger;
use crate::produce::{Until, produce};
use crate::records::Records;
use crate::scenario::Report;
use crate::setup::Setup;
use crate::uploads::Uploads;

/// Longest time until the consumer has begun.
const BEGUN: Duration = Duration::from_secs(60);
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(5);
/// Longest drain.
const DRAINED: Duration = Duration::from_secs(900);

pub(super) async fn run(setup: &Setup) -> anyhow::Result<Report> {
    let size = setup.size;
    let mut milepost = Installation::new(setup).await?;
    let tables = World::without_topics(setup.services.clone(), setup.world_settings()).await?;
    let copied = Ledger::default();
    let mut figures = Vec::new();
    for (name, uploads, locations) in [
        ("locations in batches of 50", &setup.batches, size.backlog_in_batches()),
        ("locations one by one", &setup.singles, size.backlog_of_singles()),
    ] {
        let count = locations / uploads.locations;
        let mut rates = (Vec::new(), Vec::new());
        for _ in 0..size.long_rounds() {
            let records = Arc::new(Records::new(uploads, milepost.world.account.id));
            rates.0.push(drain(setup, &mut milepost, &records, count).await? * uploads.locations as f64);
            let elapsed = Rows::new(&records, count, &tables).copy(&tables).await?;
            rates.1.push(locations as f64 / elapsed.as_secs_f64());
            copied.add(count, locations);
        }
        figures.push(figure(name, uploads, count, &rates));
    }
    milepost.end().await?;
    copied.check(&tables.tables).await.context("COPY")?;
    tables.leave();
    Ok(Report::of(figures))
}

fn figure(name: &str, uploads: &Uploads, count: u64, (ours, theirs): &(Vec<f64>, Vec<f64>)) -> Figure {
    let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    let (ours, theirs) = (Spread::of(ours).median, Spread::of(theirs).median);
    Figure::new(name, "of COPY", ratios)
        .must(Bound::AtLeast(0.5))
        .beside(format!("{ours:.0} locations/s against {theirs:.0}/s, {} in all", count * uploads.locations))
}

/// Fills the journal while no consumer runs, starts one, and returns how many records a second it persists. The clock runs from
/// its first commit on: to join a group takes as long with an empty journal.
async fn drain(
    setup: &Setup,
    milepost: &mut Installation,
    records: &Arc<Records>,
    count: u64,
) -> anyhow::Result<f64> {
    let before = milepost.records_persisted().await?;
    let (brokers, topic) = (setup.services.kafka.clone(), milepost.world.topics.uploads.clone());
    let producing = Arc::clone(records);
    tokio::task::spawn_blocking(move || produce(&brokers, &topic, &producing, Until::Count(count))).await??;
    milepost.ledger.add(count, count * records.locations);
    let end = before + i64::try_from(count)?;

    milepost.consumers.clear();
    let consumer = milepost.new_consumer()?;
    milepost.consumers.push(consumer);
    milepost.consumers[0].spawn()?;
    let (begun, first) = eventually(BEGUN, "the consumer has begun", async || {
        let persisted = milepost.records_persisted().await?;
        Ok((persisted > before).then(|| (Instant::now(), persisted)))
    })
    .await?;
    ensure!(first < end, "the backlog is too small: it was drained before it was looked at");
    let mut persisted = first;
    while persisted < end {
        ensure!(begun.elapsed() < DRAINED, "not drained within {DRAINED:?}");
        tokio::time::sleep(LOOK).await;
        persisted = milepost.records_persisted().await?;
    }
    let elapsed = begun.elapsed();
    milepost.consumers[0].stop().await?;
    milepost.consumers.clear();
    Ok((persisted - first) as f64 / elapsed.as_secs_f64())
}
