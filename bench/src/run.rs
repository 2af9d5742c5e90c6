//! A run: scenario after scenario, then the table and what has moved.

use std::time::Instant;

use anyhow::Context as _;

use crate::arguments::Arguments;
use crate::installation::Installation;
use crate::machine::{Machine, Watch};
use crate::results::{self, Results, path};
use crate::scenario::{self, Report, SCENARIOS};
use crate::setup::{CONNECTIONS, Setup};
use crate::warm_up::{WarmUp, warm_up};
use crate::{change, picture, table};

/// Runs the scenarios asked for, all if none is named. False if one of them has no figures. A scenario that was not run keeps
/// the results it had.
///
/// # Errors
/// The servers do not start, or results cannot be read or written.
pub async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let size = arguments.size;
    let before = Results::read(size)?;
    let setup = Setup::start(arguments).await?;
    let mut machine = Machine::describe(&setup).await?;
    let watch = Watch::start(&setup)?;
    let mut results = if arguments.before.is_some() { Results::default() } else { before.clone() };
    machine.warm_up = Some(warm_up_servers(&setup).await.context("before anything is measured")?);
    let mut all_well = true;
    for (number, name) in SCENARIOS {
        if !arguments.chooses(number) {
            continue;
        }
        eprint!("scenario {number}: {name} ...");
        let begun = Instant::now();
        let deadline = size.scenario_deadline();
        let running = async {
            match &arguments.before {
                Some(programs) => change::run(number, &setup, programs).await,
                None => scenario::run(number, &setup).await,
            }
        };
        let report = tokio::time::timeout(deadline, running).await;
        let report = report.with_context(|| format!("not within {deadline:?}")).flatten();
        match report.and_then(Report::checked) {
            Ok(report) => {
                eprintln!(" {} s", begun.elapsed().as_secs());
                if arguments.is_by_default() {
                    picture::draw(size, number, &report)?;
                }
                results.scenarios.insert(number, report);
            }
            Err(error) => {
                eprintln!(" no figures: {error:#}");
                results.scenarios.remove(&number);
                all_well = false;
            }
        }
    }
    machine.foreign = watch.foreign(&setup, machine.cores)?;
    results.machine = Some(machine);
    let table = table::render(&results);
    println!("{table}");
    if !arguments.is_by_default() {
        return Ok(all_well);
    }
    for moved in results.moved(&before) {
        println!("moved: {moved}");
    }
    results.write(size)?;
    results::write(&path(size, "md"), table.as_bytes())?;
    Ok(all_well)
}

/// Loads the servers as the scenarios will.
async fn warm_up_servers(setup: &Setup) -> anyhow::Result<WarmUp> {
    eprint!("warming up the servers ...");
    let milepost = Installation::start(setup, 1, &[]).await?;
    let mut clients = milepost.clients(CONNECTIONS, &setup.singles).await?;
    let warm = warm_up(&mut clients, setup.size.servers_warm_up()).await?;
    eprintln!(" {warm}");
    milepost.end().await?;
    Ok(warm)
}
