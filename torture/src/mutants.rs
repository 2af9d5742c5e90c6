//! Mutants: builds with one planted bug, each with the plan that makes it bite and the checker that must catch it. A harness
//! that has never caught a bug proves nothing.
//!
//! Each bug is a patch in `torture/mutants/`, which says at its head what it breaks; the product knows nothing of it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use milepost_shared::program::crash::CrashPoint;
use tokio::time::timeout;

use crate::check::Checker;
use crate::fault::{CrashKind, Fault, Link, Target, Trouble};
use crate::plan::Plan;

/// One planted bug.
#[derive(Debug, Clone)]
pub struct Mutant {
    /// The name of its patch; `None` for the control, which must pass.
    pub bug: Option<&'static str>,
    /// The checker that must find a violation.
    pub caught_by: Checker,
    /// What makes it bite, in two minutes at most.
    pub plan: Plan,
}

/// The control and all mutants, in the order of the list in docs/reliability.md.
#[must_use]
pub fn all() -> Vec<Mutant> {
    let after_commit = crash(CrashPoint::AfterCommit);
    let mutant =
        |bug, caught_by, faults: &[Fault]| Mutant { bug: Some(bug), caught_by, plan: plan(bug, faults) };
    let mut mutants = vec![
        mutant("no-fence", Checker::Lost, &[Fault::PutBack]),
        mutant("decide-by-wall-clock", Checker::Window, &[Fault::ClockAhead(Target::Consumer)]),
        mutant(
            "expire-by-wall-clock",
            Checker::Doubled,
            &[Fault::ClockAhead(Target::Gateway), Fault::Kill(Target::Consumer)],
        ),
        mutant("answer-at-acknowledgement", Checker::Conflict, &[Fault::Kill(Target::Consumer)]),
        mutant("resume-at-group-offset", Checker::Lost, &[Fault::PutBack]),
        mutant("resume-at-progress", Checker::Facts, &[after_commit]),
        mutant("key-hash-without-account", Checker::Strangers, &[]),
        mutant("no-fingerprint-check", Checker::Conflict, &[]),
        mutant("offset-reset-latest", Checker::Lost, &[Fault::OffsetsDeleted]),
        mutant("dead-letter-on-database-error", Checker::Lost, &[Fault::TerminateBackends, Fault::ReadOnly]),
        mutant("facts-for-copies", Checker::Facts, &[]),
        mutant("replay-with-new-field", Checker::OneAnswer, &[]),
        mutant(
            "locations-in-own-transaction",
            Checker::Lost,
            &[crash(CrashPoint::InTransaction), Fault::TerminateBackends],
        ),
        mutant("no-flush-at-shutdown", Checker::Facts, &[Fault::Restart(Target::Consumer)]),
        mutant("publish-in-handler", Checker::Completeness, &[]),
        mutant("give-up-on-a-fact", Checker::Facts, &[Fault::Pause(Target::Kafka)]),
        mutant("expire-before-emission", Checker::Facts, &[after_commit]),
        mutant("re-emit-by-newest-row", Checker::Facts, &[after_commit]),
        mutant("point-key-without-device", Checker::Lost, &[]),
        mutant(
            "taken-without-one-point",
            Checker::Lost,
            &[
                Fault::Link(Link::GatewayKafka, Trouble::Cut),
                Fault::Link(Link::GatewayKafka, Trouble::Silent),
            ],
        ),
    ];
    for mutant in &mut mutants {
        let plan = &mut mutant.plan;
        match mutant.bug {
            // One upload, then rest: nothing that was published since holds expiry back, and the dead consumer is a member of
            // the group for longer than the window.
            Some("expire-before-emission") => {
                (plan.consumers, plan.ttl, plan.episodes) = (1, 2 * SECOND, 6);
                (plan.pace, plan.operations, plan.lasts) = (20, 8, 60 * SECOND);
                plan.episode = (7 * SECOND, 7 * SECOND);
                plan.rhythm = Some((SECOND / 20, 9 * SECOND));
            }
            // Records have to be on their way out at the moment when the broker falls silent.
            Some("give-up-on-a-fact") => (plan.pace, plan.clients, plan.episodes) = (200, 200, 7),
            // The database lets no window go that is open by its own clock, so a consumer's wrong clock is not enough. A gateway
            // whose clock is ahead asks the journal at each copy; they wait there for longer than two windows.
            Some("expire-by-wall-clock") => {
                (plan.consumers, plan.ttl, plan.episodes) = (1, 3 * SECOND, 8);
                (plan.lasts, plan.at_once) = (60 * SECOND, 2);
                plan.episode = (9 * SECOND, 10 * SECOND);
            }
            // Retries during an outage longer than the window claim the key again and again, in one batch.
            Some("re-emit-by-newest-row") => {
                (plan.consumers, plan.ttl, plan.episodes) = (1, 2 * SECOND, 5);
                plan.episode = (7 * SECOND, 8 * SECOND);
            }
            _ => {}
        }
    }
    let mut every: Vec<Fault> = mutants.iter().flat_map(|mutant| mutant.plan.faults.clone()).collect();
    every.sort_unstable();
    every.dedup();
    let control = Plan { lasts: 60 * SECOND, ..plan("no-bug", &every) };
    mutants.insert(0, Mutant { bug: None, caught_by: Checker::Vacuity, plan: control });
    mutants
}

/// Builds the programs with a bug planted, and returns the directory they are in. Takes as long as the build does: seconds
/// where the last one is not long ago, minutes for the first.
///
/// # Errors
/// There is no such patch, it no longer applies, or what it makes cannot be built.
pub async fn plant(bug: &str) -> anyhow::Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("plant");
    let mut planting = tokio::process::Command::new(script);
    let planted = planting.arg(bug).stderr(Stdio::inherit()).kill_on_drop(true).output();
    let planted = timeout(BUILD_TIMEOUT, planted).await.context("the build takes too long")??;
    ensure!(planted.status.success(), "cannot plant {bug}: {}", planted.status);
    Ok(PathBuf::from(String::from_utf8(planted.stdout)?.trim_end()))
}

/// Longest wait for a build: the first one has all dependencies to build.
const BUILD_TIMEOUT: Duration = Duration::from_secs(1800);
const SECOND: Duration = Duration::from_secs(1);

fn crash(point: CrashPoint) -> Fault {
    let at = CrashPoint::ALL.iter().position(|one| *one == point);
    Fault::Crash(CrashKind(at.expect("it is one of all")))
}

fn plan(name: &str, faults: &[Fault]) -> Plan {
    Plan {
        name: name.to_owned(),
        ttl: 5 * SECOND,
        partitions: 3,
        lasts: 30 * SECOND,
        operations: 1000,
        clients: 60,
        pace: 60,
        rhythm: None,
        consumers: 2,
        batch_records: 4000,
        pauses: 0,
        episodes: if faults.is_empty() { 0 } else { faults.len().max(4) },
        faults: faults.to_vec(),
        at_once: 1,
        episode: (3 * SECOND, 6 * SECOND),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_patch_is_a_bug_with_a_plan_of_its_own_and_there_is_a_control() {
        let mutants = all();
        let bugs: BTreeSet<&str> = mutants.iter().filter_map(|mutant| mutant.bug).collect();
        let patches = Path::new(env!("CARGO_MANIFEST_DIR")).join("mutants").read_dir().unwrap();
        let patches: BTreeSet<String> = patches
            .map(|patch| patch.unwrap().file_name().into_string().unwrap())
            .map(|name| name.strip_suffix(".patch").expect("only patches are here").to_owned())
            .collect();
        assert_eq!(bugs, patches.iter().map(String::as_str).collect());
        assert_eq!(mutants.len(), bugs.len() + 1);
        assert_eq!(mutants[0].bug, None);
        assert!(mutants.iter().all(|mutant| mutant.plan.lasts <= 60 * SECOND));
    }
}
