//! A phone app's file, line by line, all of which is known: from the cache, and from the table.

use std::sync::Arc;

use anyhow::ensure;

use crate::duel::Duel;
use crate::figure::{Bound, Figure};
use crate::installation::Installation;
use crate::opponent::Opponent;
use crate::points::Points;
use crate::scenario::Report;
use crate::setup::{CONNECTIONS, Setup};

/// Where known lines are answered from.
struct Place {
    /// As the gateway counts it.
    name: &'static str,
    /// The gateway's settings that see to it.
    settings: &'static [(&'static str, &'static str)],
    /// What must be reached of *noop*'s rate.
    least: f64,
}

const PLACES: [Place; 2] = [
    Place { name: "cache", settings: &[], least: 0.6 },
    Place { name: "table", settings: &[("CACHE_ENTRIES", "0"), ("RECENT_POINTS", "0")], least: 0.4 },
];
const POINTS: &str = "milepost_gateway_points_total";

pub(super) async fn run(setup: &Setup) -> anyhow::Result<Report> {
    let points = Arc::new(Points::gpslogger(setup.size.hot_keys()));
    let mut figures = Vec::new();
    for place in PLACES {
        figures.push(against_noop(setup, &points, &place).await?.must(Bound::AtLeast(place.least)));
    }
    Ok(Report::of(figures))
}

async fn against_noop(setup: &Setup, points: &Arc<Points>, place: &Place) -> anyhow::Result<Figure> {
    let milepost = Installation::start(setup, 1, place.settings).await?;
    let noop = Opponent::noop().await?;
    let lines = setup.size.hot_keys();
    let mut ours = milepost.clients(CONNECTIONS, points).await?;
    ours.send(lines).await?;
    milepost.persisted().await?;
    let replays = ours.requests().replays(lines);
    let mut ours = ours.with(replays);
    let mut theirs = noop.clients(CONNECTIONS, points).await?;
    let duel = Duel::closed(&mut ours, &mut theirs, setup.size).await?;
    noop.end().await?;
    let outcome =
        async |outcome: &str| milepost.gateways[0].metric_of(POINTS, &format!("outcome=\"{outcome}\"")).await;
    let (published, from_place) = (outcome("published").await?, outcome(place.name).await?);
    ensure!((published - lines as f64).abs() < 0.5, "{published} lines were published, not {lines}");
    let known = milepost.gateways[0].metric(POINTS).await? - published;
    milepost.end().await?;
    let figure = duel.rates(&format!("lines known, from the {}, 256 connections", place.name), "of noop");
    let beside = format!("{}; {:.1} % from the {}", figure.beside, 100.0 * from_place / known, place.name);
    Ok(figure.beside(beside))
}
