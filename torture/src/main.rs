//! `milepost-torture`: runs a plan, or all mutants, and ends with 0 if the verdict is that everything held.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use milepost_shared::program::shutdown;
use milepost_torture::mixed;
use milepost_torture::mutants::{self, Mutant};
use milepost_torture::plan::Plan;
use milepost_torture::run::{self, Options};
use milepost_torture::tour;

/// Longest wait, at the end, for the servers to be stopped and for what waits for them.
const CLEAN_UP: Duration = Duration::from_secs(30);

/// Runs Milepost under load and faults, and checks from the outside that no invariant broke.
#[derive(Debug, Parser)]
#[command(name = "milepost-torture", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One run of a plan.
    Run {
        /// smoke, default or long.
        #[arg(long, default_value = "default")]
        plan: String,
        /// What the run is made of; without it, another one each time.
        #[arg(long)]
        seed: Option<u64>,
        #[command(flatten)]
        places: Places,
    },
    /// Each fault once, to see that it bites on this machine.
    Faults {
        /// Only the faults whose names contain this.
        #[arg(long, default_value = "")]
        only: String,
        #[command(flatten)]
        places: Places,
    },
    /// The next build rolled over this one under load, and back.
    Mixed {
        #[command(flatten)]
        places: Places,
    },
    /// Each planted bug in turn; each must be caught by the checker named for it.
    Mutants {
        /// Only the bugs whose names contain this; `no-bug` is the control.
        #[arg(long, default_value = "")]
        only: String,
        /// What the runs are made of.
        #[arg(long)]
        seed: Option<u64>,
        #[command(flatten)]
        places: Places,
    },
}

#[derive(Debug, Clone, clap::Args)]
struct Places {
    /// Where milepost-gateway, milepost-consumer and milepost-admin are.
    #[arg(long)]
    bin_dir: PathBuf,
    /// Where a run's report is written, in a directory of its own.
    #[arg(long, default_value = ".dev/torture")]
    reports: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    let command = Arguments::parse().command;
    let runtime = tokio::runtime::Runtime::new()?;
    // Whatever is under way is dropped, and with it the servers and what is mounted. A second signal leaves them behind.
    let done = runtime.block_on(async {
        shutdown::on_signal()?.run_until_cancelled(perform(command)).await.context("interrupted")?
    });
    runtime.shutdown_timeout(CLEAN_UP);
    Ok(if done? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether all is as it should be.
async fn perform(command: Command) -> anyhow::Result<bool> {
    Ok(match command {
        Command::Run { plan, seed, places } => {
            let plan = Plan::named(&plan).with_context(|| format!("there is no plan {plan:?}"))?;
            run::run(&options(plan, seed, &places)).await?.held()
        }
        Command::Faults { only, places } => {
            tour::faults_tour(places.bin_dir, rand::random(), &only).await?;
            true
        }
        Command::Mixed { places } => {
            mixed::roll(places.bin_dir).await?;
            true
        }
        Command::Mutants { only, seed, places } => {
            let mut missed = Vec::new();
            for mutant in mutants::all().into_iter().filter(|mutant| mutant.plan.name.contains(&only)) {
                if !is_caught(&mutant, seed, &places).await? {
                    missed.push(mutant.plan.name);
                }
            }
            println!(
                "\nnot as they should be: {}",
                if missed.is_empty() { "none".to_owned() } else { missed.join(", ") }
            );
            missed.is_empty()
        }
    })
}

async fn is_caught(mutant: &Mutant, seed: Option<u64>, places: &Places) -> anyhow::Result<bool> {
    let mut options = options(mutant.plan.clone(), seed, places);
    if let Some(bug) = mutant.bug {
        options.bin_dir = mutants::plant(bug).await?;
        options.mutant = Some(bug.to_owned());
    }
    let outcome = run::run(&options).await?;
    let (name, by) = (&mutant.plan.name, mutant.caught_by);
    if mutant.bug.is_none() {
        println!("control {name}: {}", if outcome.held() { "held" } else { "ACCUSED WITHOUT A BUG" });
        return Ok(outcome.held());
    }
    let caught = outcome.broke(by);
    println!(
        "mutant {name}: {}",
        if caught { format!("caught by {by}") } else { format!("NOT caught by {by}") }
    );
    Ok(caught)
}

fn options(plan: Plan, seed: Option<u64>, places: &Places) -> Options {
    Options {
        plan,
        seed: seed.unwrap_or_else(|| u64::from(rand::random::<u32>())),
        bin_dir: places.bin_dir.clone(),
        reports: places.reports.clone(),
        mutant: None,
    }
}
