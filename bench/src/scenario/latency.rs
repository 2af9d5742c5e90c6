//! Latency at fixed rates, counted from when each upload was due.

use crate::arrivals::Arrivals;
use crate::duel::Duel;
use crate::figure::Bound;
use crate::installation::Installation;
use crate::opponent::Opponent;
use crate::scenario::{Curve, Report};
use crate::setup::{CONNECTIONS, Setup};
use crate::tally::Tally;
use crate::warm_up::warm_up_both;

/// The load that is judged, of the capacity.
const HALF: f64 = 0.5;

pub(super) async fn run(setup: &Setup) -> anyhow::Result<Report> {
    let milepost = Installation::start(setup, 1, &[]).await?;
    let plain = Opponent::plain(setup).await?;
    let mut ours = milepost.clients(CONNECTIONS, &setup.singles).await?;
    let mut theirs = plain.clients(CONNECTIONS, &setup.singles).await?;
    warm_up_both(&mut ours, &mut theirs, setup.size.warm_up()).await?;
    let capacity = ours.closed(setup.size.slice()).await?.rate();

    let mut figures = Vec::new();
    let names = ["Milepost, p50", "Milepost, p99", "plain, p50", "plain, p99"];
    let mut curves = names.map(|name| Curve { name: name.to_owned(), points: Vec::new() });
    for load in setup.size.loads() {
        let rate = capacity * load;
        let judged = (load - HALF).abs() < f64::EPSILON;
        let rounds = if judged { setup.size.rounds() } else { 1 };
        let arrivals = Arrivals::new(rate, setup.size.slice());
        let duel = Duel::open(&mut ours, &mut theirs, arrivals, rounds).await?;
        let (ours_p50, theirs_p50) = duel.medians(|tally| tally.latency_ms(0.5));
        let (ours_p99, theirs_p99) = duel.medians(|tally: &Tally| tally.latency_ms(0.99));
        for (curve, latency) in curves.iter_mut().zip([ours_p50, ours_p99, theirs_p50, theirs_p99]) {
            curve.points.push((rate, latency));
        }
        if judged {
            let named = |what: &str| format!("{what} at half of the capacity");
            figures.push(duel.latencies(&named("p50"), "of plain", 0.5));
            figures.push(duel.latencies(&named("p99"), "of plain", 0.99).must(Bound::AtMost(1.0)));
            figures.push(duel.latencies(&named("p99.9"), "of plain", 0.999));
        }
    }
    milepost.end().await?;
    plain.end().await?;
    let notes = vec![format!("The capacity of Milepost was {capacity:.0} uploads a second.")];
    Ok(Report { figures, curves: curves.to_vec(), notes })
}
