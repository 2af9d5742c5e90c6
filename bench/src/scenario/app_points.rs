//! A point of a phone app alone, compared with a native single, and points in batches, compared with points alone.

use std::sync::Arc;

use super::app_batches::SILENCE;
use crate::figure::{Bound, Figure, Spread};
use crate::installation::Installation;
use crate::points::{PHONES, Points};
use crate::scenario::Report;
use crate::settled::Settled;
use crate::setup::{CONNECTIONS, Setup};
use crate::warm_up::warm_up;

pub(super) async fn run(setup: &Setup) -> anyhow::Result<Report> {
    let milepost = Installation::start(setup, 1, &[SILENCE]).await?;
    let processes = milepost.processes(setup)?;
    let [traccar, overland] = [Points::traccar(), Points::overland(PHONES)].map(Arc::new);
    let all = [milepost.requests(&setup.singles), milepost.requests(&traccar), milepost.requests(&overland)];
    let mut clients = Vec::new();
    for requests in all {
        let mut one = milepost.connect(CONNECTIONS, requests).await?;
        warm_up(&mut one, setup.size.warm_up()).await?.report();
        milepost.persisted().await?;
        clients.push(one);
    }
    let mut loads: [Vec<Settled>; 3] = Default::default();
    for _ in 0..setup.size.rounds() {
        for (loads, clients) in loads.iter_mut().zip(&mut clients) {
            loads.push(Settled::load(clients, &milepost, &processes, setup.size.slice()).await?);
        }
    }
    drop(clients);
    milepost.end().await?;
    let [native, alone, batches] = &loads;
    Ok(Report::of(vec![
        cpu("CPU time of a point alone", "of a native single", alone, native).must(Bound::AtMost(1.0)),
        rates("points alone, 256 connections", "of native singles", alone, native),
        rates("points in batches of 50, 256 connections", "of points alone", batches, alone)
            .must(Bound::AtLeast(1.0)),
        cpu("CPU time of a point in a batch of 50", "of a point alone", batches, alone)
            .must(Bound::AtMost(1.0)),
    ]))
}

fn ratios(ours: &[Settled], theirs: &[Settled], of: fn(&Settled) -> f64) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| of(ours) / of(theirs)).collect()
}

fn cpu(name: &str, of: &str, ours: &[Settled], theirs: &[Settled]) -> Figure {
    let last = |loads: &[Settled]| loads.last().map(Settled::cpu_by_process).unwrap_or_default();
    Figure::new(name, of, ratios(ours, theirs, Settled::cpu_us)).beside(format!(
        "{} against {}",
        last(ours),
        last(theirs)
    ))
}

/// By when all are persisted: only a native single's answer waits for that.
fn rates(name: &str, of: &str, ours: &[Settled], theirs: &[Settled]) -> Figure {
    let median =
        |loads: &[Settled]| Spread::of(&loads.iter().map(Settled::persisted).collect::<Vec<_>>()).median;
    Figure::new(name, of, ratios(ours, theirs, Settled::persisted)).beside(format!(
        "{:.0}/s against {:.0}/s until persisted",
        median(ours),
        median(theirs)
    ))
}
