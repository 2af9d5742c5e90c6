//! A change, compared with the build before it: both installed side by side, loaded in turn.

use std::path::Path;
use std::sync::Arc;

use crate::duel::Duel;
use crate::installation::Installation;
use crate::scenario::Report;
use crate::setup::{CONNECTIONS, Setup};
use crate::uploads::Uploads;

/// Scenarios whose load is the clients' alone: unique uploads with a final answer, and replays from the cache.
pub const COMPARED: [u8; 4] = [1, 2, 3, 6];

/// Loads one scenario's connections on both.
///
/// # Errors
/// The scenario is none of [`COMPARED`], or one of the two installations fails.
pub async fn run(number: u8, setup: &Setup, programs: &Path) -> anyhow::Result<Report> {
    let loads: &[(&Arc<Uploads>, usize)] = match number {
        1 => &[(&setup.singles, CONNECTIONS), (&setup.singles, 4 * CONNECTIONS)],
        2 => &[(&setup.batches, CONNECTIONS / 4), (&setup.batches, CONNECTIONS)],
        3 => &[(&setup.singles, CONNECTIONS)],
        6 => &[(&setup.singles, 1)],
        _ => anyhow::bail!("scenario {number} is not compared with an earlier build; {COMPARED:?} are"),
    };
    let after = Installation::start(setup, 1, &[]).await?;
    let before = Installation::start_before(setup, programs).await?;
    let mut figures = Vec::new();
    for (uploads, connections) in loads {
        let mut ours = after.clients(*connections, *uploads).await?;
        let mut theirs = before.clients(*connections, *uploads).await?;
        if number == 3 {
            let keys = setup.size.hot_keys();
            (ours, theirs) = (ours.replaying(keys).await?, theirs.replaying(keys).await?);
        }
        let duel = Duel::closed(&mut ours, &mut theirs, setup.size).await?;
        let named = |what: &str| format!("{what}, {connections} connections");
        figures.push(duel.rates(&named("answers"), "of the build before"));
        figures.push(duel.latencies(&named("p50"), "of the build before", 0.5));
        figures.push(duel.latencies(&named("p99"), "of the build before", 0.99));
    }
    after.end().await?;
    before.end().await?;
    Ok(Report::of(figures))
}
