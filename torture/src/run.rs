//! One run: seed, schedule, load and faults, evidence, verdict.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use milepost_tests::eventually;
use tokio::time::sleep;

use crate::check::{self, Checker, Demands, Judgement, Verdict};
use crate::drive::{DriveSettings, Driver};
use crate::evidence::{Evidence, Sources};
use crate::fault::Episode;
use crate::gather;
use crate::history::{Attempt, Recorder};
use crate::observe::Watchers;
use crate::operation;
use crate::plan::Plan;
use crate::report::Report;
use crate::schedule::{self, Planned};
use crate::system::{Setup, System};

/// Longest time for the operations under way to end when all is healed.
const OPERATIONS_END: Duration = Duration::from_secs(120);
/// Longest time until the lag is 0 when all is healed.
const CAUGHT_UP: Duration = Duration::from_secs(180);
/// How long the faults may take besides four times the plan's time.
const OVERRUN: Duration = Duration::from_secs(900);
/// The newest attempts in which the first 200 after the heal is looked for.
const RECENT: usize = 2000;
/// Longest time until the tables are built again, besides a second for each thousand operations.
const REBUILT: Duration = Duration::from_secs(60);
/// How often progress is shown, and the end of the load is looked for.
const LOOK: Duration = Duration::from_millis(500);

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// What it is like.
    pub plan: Plan,
    /// What it is made of.
    pub seed: u64,
    /// Where the programs are.
    pub bin_dir: PathBuf,
    /// Where the report goes, into a directory of its own.
    pub reports: PathBuf,
    /// The bug that is planted in the programs.
    pub mutant: Option<String>,
}

impl Options {
    /// The command that runs it again.
    fn command(&self) -> String {
        match &self.mutant {
            Some(bug) => format!("make mutants ONLY={bug} SEED={}", self.seed),
            None => format!("make torture PLAN={} SEED={}", self.plan.name, self.seed),
        }
    }
}

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Ran {
    /// One of each checker.
    pub verdicts: Vec<Verdict>,
}

impl Ran {
    /// Whether everything held, and the run was worth something.
    #[must_use]
    pub fn held(&self) -> bool {
        check::judgement(&self.verdicts) == Judgement::Held
    }

    /// Whether this checker found a violation.
    #[must_use]
    pub fn broke(&self, checker: Checker) -> bool {
        self.verdicts.iter().any(|verdict| verdict.checker == checker && verdict.total > 0)
    }
}

/// Runs, checks and reports.
///
/// # Errors
/// The system does not start, or the harness itself fails: then there is no verdict.
pub async fn run(options: &Options) -> anyhow::Result<Ran> {
    let Options { plan, seed, .. } = options;
    let marks = operation::marks(*seed);
    println!("plan {}, seed {seed}: starting", plan.name);
    let setup = Setup {
        bin_dir: options.bin_dir.clone(),
        ttl: plan.ttl,
        partitions: plan.partitions,
        consumers: plan.consumers,
        batch_records: plan.batch_records,
        marks: &marks,
    };
    let system = Arc::new(System::start(&setup).await?);
    let recorder = Recorder::begin();
    let sources = sources(&system, plan, *seed);
    let footprints = {
        let system = Arc::clone(&system);
        move || system.footprints()
    };
    let watchers = Watchers::start(&sources, &recorder, footprints).await?;
    let driver = Driver::new(drive_settings(plan, *seed, &system), recorder.clone())?;
    let clients = tokio::spawn({
        let driver = driver.clone();
        async move { driver.run().await }
    });
    let episodes = suffer(plan, *seed, &system, &driver, &recorder).await?;
    let healed = recorder.now();
    system.heal().await.context("the system does not come back when all is healed")?;
    let recovered = recover(&system, &driver, &recorder, healed).await;
    driver.finish(OPERATIONS_END).await;
    clients.await?;
    // What the last operations sent. Without it there is evidence all the same, and a verdict.
    let caught_up = system.caught_up(CAUGHT_UP).await;
    let history = recorder.take();
    let replay_paths = system.replay_paths().await;
    println!("{} attempts of {} operations; checking", history.attempts.len(), history.operations);
    let observed = watchers.finish().await?;
    system.stop_gateways().await?;
    let mut evidence = gather::evidence(&sources, observed).await?;
    (evidence.recovered, evidence.replay_paths) = (recovered.filter(|_| caught_up.is_ok()), replay_paths);
    evidence.pauses = gather::pauses(&system.logs()?)?;
    let rebuilt =
        rebuild(&system, &sources, &evidence, REBUILT + Duration::from_millis(history.operations)).await;
    evidence.rebuilt = Some(rebuilt.unwrap_or_else(|error| vec![format!("{error:#}")]));
    evidence.unexpected = system.unexpected();
    evidence.log_faults = gather::log_faults(&system.logs()?, &marks, &system.secrets())?;
    let verdicts = check::all(&history, &evidence, &episodes, &Demands::of(plan));
    let report = Report {
        plan: &plan.name,
        seed: *seed,
        command: &options.command(),
        history: &history,
        evidence: &evidence,
        episodes: &episodes,
        verdicts: &verdicts,
    };
    let page = report.write(&options.reports)?;
    println!("{}report: {}", report.terminal(), page.display());
    let system = Arc::into_inner(system).context("somebody still watches the system")?;
    system.stop().await?;
    Ok(Ran { verdicts })
}

fn sources(system: &System, plan: &Plan, seed: u64) -> Sources {
    let world = system.world();
    Sources {
        seed,
        ttl: plan.ttl,
        accounts: system.accounts(),
        kafka: world.kafka.clone(),
        topics: world.topics.clone(),
        group: system.group(),
        tables: world.tables.clone(),
    }
}

/// Empties the tables and lets the consumers build them again from the journal. Returns what differs.
async fn rebuild(
    system: &System,
    sources: &Sources,
    before: &Evidence,
    deadline: Duration,
) -> anyhow::Result<Vec<String>> {
    system.stop_consumers().await?;
    sources.tables.execute(gather::EMPTY).await?;
    sources.kafka.delete_group(&sources.group).await?;
    system.start_consumers().await?;
    system.caught_up(deadline).await.context("the tables are not built again from the journal")?;
    gather::rebuilt(sources, before).await
}

fn drive_settings(plan: &Plan, seed: u64, system: &System) -> DriveSettings {
    DriveSettings {
        seed,
        gateways: system.gateways(),
        secrets: system.secrets(),
        ttl: plan.ttl,
        clients: plan.clients,
        pace: plan.pace,
        rhythm: plan.rhythm,
    }
}

/// Injects all faults of the plan while the load goes on; returns when they are over, and the plan's time and operations too.
async fn suffer(
    plan: &Plan,
    seed: u64,
    system: &System,
    driver: &Driver,
    recorder: &Recorder,
) -> anyhow::Result<Vec<Episode>> {
    let planned = schedule::schedule(plan, seed);
    let (count, done) = (planned.len(), AtomicUsize::new(0));
    let inject = async |one: Planned| {
        sleep(one.at.saturating_sub(recorder.now())).await;
        let episode = system.inject(&one, || recorder.now()).await;
        done.fetch_add(1, Ordering::Relaxed);
        episode
    };
    let episodes = stream::iter(planned).map(inject).buffer_unordered(plan.at_once.max(1)).collect();
    let show = async {
        let progress = progress(plan)?;
        loop {
            let (now, done, begun) = (recorder.now(), done.load(Ordering::Relaxed), driver.begun());
            progress.set_position(begun.min(plan.operations));
            progress.set_message(format!("{done} of {count} faults, {} s", now.as_secs()));
            if done == count && now >= plan.lasts && begun >= plan.operations {
                progress.finish_and_clear();
                return Ok(());
            }
            ensure!(now < plan.lasts * 4 + OVERRUN, "the faults do not come to an end: {done} of {count}");
            sleep(LOOK).await;
        }
    };
    let collect = async { anyhow::Ok(episodes.await) };
    let (mut episodes, ()): (Vec<Episode>, ()) = tokio::try_join!(collect, show)?;
    episodes.sort_by(|one, other| one.began.total_cmp(&other.began));
    Ok(episodes)
}

fn progress(plan: &Plan) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} operations, {msg}")?;
    Ok(ProgressBar::new(plan.operations).with_style(style))
}

/// From the heal to the first 200 that was asked for after it, and to lag 0; `None` if one of them does not come.
async fn recover(
    system: &System,
    driver: &Driver,
    recorder: &Recorder,
    healed: Duration,
) -> Option<(Duration, Duration)> {
    let first = eventually(CAUGHT_UP, "a 200 after all is healed", async || {
        Ok(recorder.read(|history| {
            let first = |attempt: &&Attempt| attempt.began >= healed && attempt.status() == Some(200);
            history.attempts.iter().rev().take(RECENT).filter(first).map(|attempt| attempt.ended).min()
        }))
    });
    let first = first.await;
    driver.enough();
    let reached = system.caught_up(CAUGHT_UP).await;
    let caught_up = recorder.now().saturating_sub(healed);
    first.and_then(|first| reached.map(|()| (first.saturating_sub(healed), caught_up))).ok()
}
