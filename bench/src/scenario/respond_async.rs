//! Uploads accepted with 202 while no consumer runs: the gateway and Kafka alone.

use std::sync::Arc;

use crate::figure::{Bound, Figure, Spread};
use crate::installation::Installation;
use crate::opponent::Opponent;
use crate::produce::{Until, produce};
use crate::records::Records;
use crate::scenario::Report;
use crate::setup::{CONNECTIONS, Setup};
use crate::warm_up::warm_up_both;

const BARE_TOPIC: &str = "bare";

pub(super) async fn run(setup: &Setup) -> anyhow::Result<Report> {
    let size = setup.size;
    let mut milepost = Installation::start(setup, 1, &[]).await?;
    let noop = Opponent::noop().await?;
    let requests = milepost.requests(&setup.singles).respond_async();
    let mut ours = milepost.clients(CONNECTIONS, &setup.singles).await?.with(requests);
    let mut theirs = noop.clients(CONNECTIONS, &setup.singles).await?;
    let topic = format!("{}{BARE_TOPIC}", milepost.world.prefix);
    let partitions = i32::from(milepost.world.settings.partitions);
    milepost.world.kafka.create(&topic, partitions, &[]).await?;
    let records = Arc::new(Records::new(&setup.singles, milepost.world.account.id));
    warm_up_both(&mut ours, &mut theirs, size.warm_up()).await?;

    let [mut accepted, mut answered, mut produced] = <[Vec<f64>; 3]>::default();
    for _ in 0..size.rounds() {
        accepted.push(ours.closed(size.slice()).await?.rate());
        answered.push(theirs.closed(size.slice()).await?.rate());
        let (brokers, topic, records) = (setup.services.kafka.clone(), topic.clone(), Arc::clone(&records));
        let until = Until::Elapsed(size.slice());
        let bare = tokio::task::spawn_blocking(move || produce(&brokers, &topic, &records, until));
        produced.push(bare.await??.rate());
    }
    milepost.world.kafka.delete_topics(&[&topic]).await?;
    noop.end().await?;
    // What was accepted is persisted once there is a consumer.
    milepost.add_consumer(&[]).await?;
    milepost.end().await?;

    let lesser = |(answered, produced): (&f64, &f64)| answered.min(*produced);
    let limit = answered.iter().zip(&produced).map(lesser);
    let ratios = accepted.iter().zip(limit).map(|(accepted, limit)| accepted / limit).collect();
    let [ours, noop, bare] = [accepted, answered, produced].map(|rates| Spread::of(&rates).median);
    let figure = Figure::new("accepted, 256 connections", "of the lesser of noop and produce", ratios);
    Ok(Report::of(vec![
        figure
            .must(Bound::AtLeast(0.5))
            .beside(format!("{ours:.0}/s against noop {noop:.0}/s and produce {bare:.0}/s")),
    ]))
}
