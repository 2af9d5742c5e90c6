//! Unique single uploads while the table holds many live keys, compared with an installation whose table began empty.

use std::time::Duration;

use milepost_shared::journal::clock::Clock;

use crate::duel::Duel;
use crate::figure::Bound;
use crate::installation::Installation;
use crate::keys;
use crate::scenario::{Curve, Report};
use crate::setup::{CONNECTIONS, Setup};
use crate::tally::Tally;

/// What must be reached with as many keys as this.
const MOST: (u64, f64) = (50_000_000, 0.9);
/// How long the keys' table partition is kept after its end.
const KEPT: Duration = Duration::from_secs(86_400);

pub(super) async fn run(setup: &Setup) -> anyhow::Result<Report> {
    let filled = Installation::start(setup, 1, &[]).await?;
    let empty = Installation::start(setup, 1, &[]).await?;
    let mut figures = Vec::new();
    let mut curves = ["with so many keys", "in the same minutes, begun empty"]
        .map(|name| Curve { name: name.to_owned(), points: Vec::new() });
    let mut held = 0;
    for keys in setup.size.keys_held() {
        keys::fill(&filled.world, keys - held, Clock::default().now(), KEPT).await?;
        filled.ledger.add(keys - held, 0);
        held = *keys;
        let mut ours = filled.clients(CONNECTIONS, &setup.singles).await?;
        let mut theirs = empty.clients(CONNECTIONS, &setup.singles).await?;
        let duel = Duel::closed(&mut ours, &mut theirs, setup.size).await?;
        let millions = *keys as f64 / 1e6;
        let (with, without) = duel.medians(Tally::rate);
        curves[0].points.push((millions, with));
        curves[1].points.push((millions, without));
        let figure = duel.rates(&format!("{millions} million keys"), "of the empty one");
        figures.push(if *keys == MOST.0 { figure.must(Bound::AtLeast(MOST.1)) } else { figure });
    }
    filled.end().await?;
    empty.end().await?;
    Ok(Report { figures, curves: curves.to_vec(), notes: Vec::new() })
}
