//! Memory of both programs with a thousand connections, while an hour's worth of uploads comes.

use std::time::Duration;

use crate::figure::{Bound, Figure, Spread};
use crate::installation::Installation;
use crate::scenario::Report;
use crate::setup::Setup;
use crate::warm_up::warm_up;

const CONNECTIONS: usize = 1000;
/// A small cache, full early on, so that growth would show.
const CACHE_ENTRIES: u64 = 10_000;
/// What the settings say one takes.
const CACHE_ENTRY_BYTES: u64 = 300;
const MIB: f64 = 1_048_576.0;
/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn run(setup: &Setup) -> anyhow::Result<Report> {
    let entries = CACHE_ENTRIES.to_string();
    let milepost = Installation::start(setup, 1, &[("CACHE_ENTRIES", &entries)]).await?;
    let mut clients = milepost.clients(CONNECTIONS, &setup.singles).await?;
    warm_up(&mut clients, setup.size.warm_up()).await?.report();
    let (mut gateway, mut consumer) = (Vec::new(), Vec::new());
    let (mut elapsed, mut uploads) = (Duration::ZERO, 0);
    while uploads < setup.size.uploads_watched() {
        let tally = clients.closed(LOOK).await?;
        elapsed += tally.elapsed();
        uploads += tally.answers();
        gateway.push(milepost.gateways[0].memory()? as f64 / MIB);
        consumer.push(milepost.consumers[0].memory()? as f64 / MIB);
    }
    drop(clients);
    milepost.end().await?;
    let cache = (CACHE_ENTRIES * CACHE_ENTRY_BYTES) as f64 / MIB;
    let mut figures = Vec::new();
    for (name, looks, allowed) in [("gateway", gateway, cache), ("consumer", consumer, 0.0)] {
        let most = Spread::of(&looks).high;
        figures.push(
            Figure::new(&format!("{name}, most"), "MiB beyond the cache", vec![most - allowed])
                .must(Bound::AtMost(100.0))
                .beside(format!("{most:.1} MiB, {allowed:.1} MiB of them configured as cache")),
        );
        figures.push(
            Figure::new(&format!("{name}, at last"), "of the second quarter", vec![growth(&looks)])
                .must(Bound::AtMost(1.1)),
        );
    }
    let notes = vec![format!("{uploads} uploads in {:.0} s.", elapsed.as_secs_f64())];
    Ok(Report { notes, ..Report::of(figures) })
}

/// The last quarter of the looks, of the second one; by their medians.
fn growth(looks: &[f64]) -> f64 {
    let quarter = looks.len().div_ceil(4);
    let median = |looks: &[f64]| Spread::of(looks).median;
    let second = looks.get(quarter..2 * quarter).unwrap_or_default();
    median(&looks[looks.len() - quarter..]) / median(second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_compares_the_end_with_the_time_after_the_start() {
        let steady = [9.0, 9.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0];
        let growing = [9.0, 9.0, 2.0, 2.0, 2.0, 2.0, 3.0, 3.0];
        assert!((growth(&steady) - 1.0).abs() < 1e-9);
        assert!((growth(&growing) - 1.5).abs() < 1e-9);
    }
}
