//! Batches of a phone app, of which each point is an upload of its own, against *plain* with a unique index on points.

use std::sync::Arc;

use crate::figure::{Bound, Figure, Spread};
use crate::installation::Installation;
use crate::opponent::Opponent;
use crate::points::{AGAIN_EVERY, BATCH, PHONES, Points};
use crate::scenario::Report;
use crate::settled::Settled;
use crate::setup::Setup;
use crate::tally::Tally;
use crate::warm_up::warm_up;

const CONNECTIONS: [usize; 2] = [64, 256];
/// Connections are silent while the consumer catches up.
pub(super) const SILENCE: (&str, &str) = ("IDLE_TIMEOUT", "10m");

pub(super) async fn run(setup: &Setup) -> anyhow::Result<Report> {
    let milepost = Installation::start(setup, 1, &[SILENCE]).await?;
    let plain = Opponent::plain(setup).await?;
    let processes = milepost.processes(setup)?;
    let points = Arc::new(Points::overland(PHONES));
    let (mut ours, mut theirs) = (milepost.requests(&points), plain.requests(&points));
    let mut figures = Vec::new();
    for connections in CONNECTIONS {
        let mut our_clients = milepost.connect(connections, ours).await?;
        warm_up(&mut our_clients, setup.size.warm_up()).await?.report();
        milepost.persisted().await?;
        let mut their_clients = plain.connect(connections, theirs).await?;
        warm_up(&mut their_clients, setup.size.warm_up()).await?.report();
        let mut rounds = Vec::new();
        for _ in 0..setup.size.rounds() {
            // The consumer must not take the processor from plain.
            let settled = Settled::load(&mut our_clients, &milepost, &processes, setup.size.slice()).await?;
            rounds.push(Round { ours: settled, theirs: their_clients.closed(setup.size.slice()).await? });
        }
        figures.extend(of_rounds(connections, &rounds));
        (ours, theirs) = (our_clients.requests().further(), their_clients.requests().further());
    }
    milepost.end().await?;
    plain.end().await?;
    let note =
        format!("Batches are of {BATCH} new points; one in {AGAIN_EVERY} is a superset of an earlier one.");
    Ok(Report { notes: vec![note], ..Report::of(figures) })
}

/// Both loaded once.
struct Round {
    ours: Settled,
    theirs: Tally,
}

impl Round {
    /// New points a second.
    fn of_plain(&self) -> f64 {
        self.theirs.rate() * BATCH as f64
    }
}

fn of_rounds(connections: usize, rounds: &[Round]) -> [Figure; 3] {
    let each = |of: &dyn Fn(&Round) -> f64| rounds.iter().map(of).collect::<Vec<f64>>();
    let median = |of: &dyn Fn(&Round) -> f64| Spread::of(&each(of)).median;
    let rates = |name: &str, ours: &dyn Fn(&Settled) -> f64| {
        let ratios = each(&|round| ours(&round.ours) / round.of_plain());
        let beside = format!(
            "{:.0} points/s against {:.0}/s",
            median(&|round| ours(&round.ours)),
            median(&Round::of_plain)
        );
        let figure = Figure::new(&format!("{name}, {connections} connections"), "of plain", ratios);
        (figure.must(Bound::AtLeast(1.0)), beside)
    };
    let (answered, beside) = rates("points", &Settled::answered);
    let answered = answered.beside(beside);
    let (persisted, beside) = rates("points until persisted", &Settled::persisted);
    let persisted = persisted.beside(format!(
        "{beside}; at the last answer {:.0} points were not persisted, {:.1} s later all were",
        median(&|round| round.ours.behind as f64),
        median(&|round| (round.ours.elapsed - round.ours.tally.elapsed()).as_secs_f64())
    ));
    let p99 = Figure::new(
        &format!("p99, {connections} connections"),
        "of plain",
        each(&|round| round.ours.tally.latency_ms(0.99) / round.theirs.latency_ms(0.99)),
    );
    let p99 = p99.beside(format!(
        "{:.2} ms against {:.2} ms",
        median(&|round| round.ours.tally.latency_ms(0.99)),
        median(&|round| round.theirs.latency_ms(0.99))
    ));
    [answered, persisted, p99]
}
