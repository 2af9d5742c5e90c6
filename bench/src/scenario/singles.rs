//! Unique single uploads, each answered when it is final.

use crate::duel::Duel;
use crate::figure::Bound;
use crate::installation::Installation;
use crate::opponent::Opponent;
use crate::scenario::Report;
use crate::setup::Setup;

/// Connections, and how much of *plain*'s rate must be reached with them.
const LOADS: [(usize, f64); 2] = [(256, 2.0), (1024, 3.5)];

pub(super) async fn run(setup: &Setup) -> anyhow::Result<Report> {
    let milepost = Installation::start(setup, 1, &[]).await?;
    let plain = Opponent::plain(setup).await?;
    let mut figures = Vec::new();
    for (connections, least) in LOADS {
        let mut ours = milepost.clients(connections, &setup.singles).await?;
        let mut theirs = plain.clients(connections, &setup.singles).await?;
        let duel = Duel::closed(&mut ours, &mut theirs, setup.size).await?;
        let named = |what: &str| format!("{what}, {connections} connections");
        figures.push(duel.rates(&named("uploads"), "of plain").must(Bound::AtLeast(least)));
        figures.push(duel.latencies(&named("p50"), "of plain", 0.5));
        figures.push(duel.latencies(&named("p99"), "of plain", 0.99).must(Bound::AtMost(1.0)));
    }
    milepost.end().await?;
    plain.end().await?;
    Ok(Report::of(figures))
}
