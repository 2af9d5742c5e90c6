//! Copies of known uploads, answered from the gateway's cache.

use crate::duel::Duel;
use crate::figure::Bound;
use crate::installation::Installation;
use crate::opponent::Opponent;
use crate::scenario::Report;
use crate::setup::{CONNECTIONS, Setup};

pub(super) async fn run(setup: &Setup) -> anyhow::Result<Report> {
    let milepost = Installation::start(setup, 1, &[]).await?;
    let figure = against_noop(setup, &milepost, 0.8).await?;
    milepost.end().await?;
    Ok(Report::of(vec![figure]))
}

/// The rate of replays, of *noop*'s with the same requests.
pub(super) async fn against_noop(
    setup: &Setup,
    milepost: &Installation,
    least: f64,
) -> anyhow::Result<crate::figure::Figure> {
    let noop = Opponent::noop().await?;
    let keys = setup.size.hot_keys();
    let mut ours = milepost.clients(CONNECTIONS, &setup.singles).await?.replaying(keys).await?;
    let mut theirs = noop.clients(CONNECTIONS, &setup.singles).await?;
    let duel = Duel::closed(&mut ours, &mut theirs, setup.size).await?;
    noop.end().await?;
    Ok(duel.rates("replays, 256 connections", "of noop").must(Bound::AtLeast(least)))
}
