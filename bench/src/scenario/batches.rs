//! Unique uploads of fifty locations, each answered when it is final.

use crate::duel::Duel;
use crate::figure::Bound;
use crate::installation::Installation;
use crate::opponent::Opponent;
use crate::scenario::Report;
use crate::setup::Setup;

/// Connections, and how much of *plain*'s rate must be reached with them.
const LOADS: [(usize, f64); 2] = [(64, 1.0), (256, 2.0)];

pub(super) async fn run(setup: &Setup) -> anyhow::Result<Report> {
    let milepost = Installation::start(setup, 1, &[]).await?;
    let plain = Opponent::plain(setup).await?;
    let mut figures = Vec::new();
    for (connections, least) in LOADS {
        let mut ours = milepost.clients(connections, &setup.batches).await?;
        let mut theirs = plain.clients(connections, &setup.batches).await?;
        let duel = Duel::closed(&mut ours, &mut theirs, setup.size).await?;
        let named = |what: &str| format!("{what}, {connections} connections");
        figures.push(duel.rates(&named("batches"), "of plain").must(Bound::AtLeast(least)));
        figures.push(duel.latencies(&named("p99"), "of plain", 0.99));
    }
    milepost.end().await?;
    plain.end().await?;
    Ok(Report::of(figures))
}
