//! Two gateways and two consumers, compared with one of each on the same cores.

use crate::cost::{CpuTimes, cpu_times, spent};
use crate::duel::Duel;
use crate::figure::Bound;
use crate::installation::Installation;
use crate::scenario::Report;
use crate::setup::{CONNECTIONS, Setup};

/// No slower, apart from what two runs of the same build differ by.
const NO_SLOWER: f64 = 0.95;

pub(super) async fn run(setup: &Setup) -> anyhow::Result<Report> {
    let one = Installation::start(setup, 1, &[]).await?;
    let two = Installation::start(setup, 2, &[]).await?;
    let mut theirs = one.clients(CONNECTIONS, &setup.singles).await?;
    let mut ours = two.clients(CONNECTIONS, &setup.singles).await?;
    let duel = Duel::closed(&mut ours, &mut theirs, setup.size).await?;
    let figures = vec![
        duel.rates("uploads, 256 connections", "of one of each").must(Bound::AtLeast(NO_SLOWER)),
        duel.latencies("p99, 256 connections", "of one of each", 0.99),
    ];

    // One more load, for where the CPU time goes.
    let processes = two.processes(setup)?;
    let before = cpu_times(&processes)?;
    let elapsed = ours.closed(setup.size.slice()).await?.elapsed().as_secs_f64();
    let note = cores(&spent(&before, &cpu_times(&processes)?), elapsed);
    two.end().await?;
    one.end().await?;
    Ok(Report { notes: vec![note], ..Report::of(figures) })
}

fn cores(spent: &CpuTimes, elapsed: f64) -> String {
    let used =
        |(name, spent): (&&str, &std::time::Duration)| format!("{name} {:.2}", spent.as_secs_f64() / elapsed);
    let used: Vec<String> = spent.iter().map(used).collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "With two of each, of {cores} cores in use: {}; the rest is the load's and idle.",
        used.join(", ")
    )
}
