//! Checks the model by hand, at a size of one's choice or with a bug in it.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use milepost_model::planted::PlantedBug;
use milepost_model::protocol::Protocol;
use milepost_model::size::{BIG, STANDARD};
use stateright::{Checker as _, Expectation, HasDiscoveries, Model as _};

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SizeName {
    Standard,
    Big,
}

/// Visits every state of the protocol within a size, and reports which promises break and how.
#[derive(Debug, Parser)]
struct Arguments {
    /// What every test run checks, or much more: some minutes, 30 million states, 2 GB of memory.
    #[arg(long, value_enum, default_value = "standard")]
    size: SizeName,

    /// A bug to plant. A single thread then finds a shortest way to make it bite.
    #[arg(long, value_enum)]
    bug: Option<PlantedBug>,

    /// Threads, each of which a core is good for.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    let Arguments { size, bug: planted, threads } = Arguments::parse();
    let sizes = match size {
        SizeName::Standard => STANDARD,
        SizeName::Big => BIG,
    };
    let mut holds = true;
    for size in sizes {
        let begun = Instant::now();
        let threads = if planted.is_some() { 1 } else { threads };
        let protocol = Protocol { size, planted };
        let checker =
            protocol.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let seconds = begun.elapsed().as_secs_f64();
        println!("{}: {} states, {seconds:.1} s", size.name, checker.unique_state_count());
        let discoveries = checker.discoveries();
        for property in protocol.properties() {
            let path = discoveries.get(property.name);
            holds &= property.expectation.discovery_is_failure() == path.is_none();
            let verdict = match (property.expectation, path) {
                (Expectation::Always, None) => "holds".to_owned(),
                (Expectation::Always, Some(path)) => format!("BROKEN: {path}"),
                (_, Some(path)) => format!("seen after {} steps", path.clone().into_actions().len()),
                (_, None) => "NOT SEEN".to_owned(),
            };
            println!("  {}: {verdict}", property.name);
        }
    }
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
