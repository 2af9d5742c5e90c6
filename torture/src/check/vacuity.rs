//! Vacuity: a run proves something only if every kind of operation succeeded, every fault was seen to bite, every replay path
//! was taken, consumers paused, and the watchers could watch.

use std::collections::{BTreeMap, HashMap};

use super::Verdict;
use super::behaviour::came_about;
use super::case::Case;
use crate::fault::NoBite;
use crate::history::{Ask, Attempt, Outcome};
use crate::operation::{HOT_COPIES, Key, Kind, Variant};

/// The replay paths, as the gateways call them.
const REPLAY_PATHS: [&str; 4] = ["cache", "table", "results", "joined"];
/// The watchers.
const WATCHERS: [&str; 4] = ["facts", "torn", "offsets", "samples"];

/// Two records of a point are of batches in flight at once if they are no further apart, milliseconds.
const RACE_MS: i64 = 1000;

/// How an operation with keys ended.
#[derive(Debug, Default, Clone, Copy)]
struct Come {
    stored: [usize; 2],
    refused: [usize; 2],
    malformed: bool,
    hung_up: bool,
    told_final: bool,
}

pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let (come, of_apps) = (come(case), of_apps(case));
    let mut succeeded: BTreeMap<Kind, u64> = BTreeMap::new();
    for (operation, kind) in case.operations() {
        verdict.examined += 1;
        let has_succeeded = if kind.is_of_app() {
            came_about(case, kind, of_apps.get(&operation).map_or(&[], Vec::as_slice))
        } else {
            has_succeeded(case, operation, kind, come.get(&operation).copied().unwrap_or_default())
        };
        *succeeded.entry(kind).or_default() += u64::from(has_succeeded);
    }
    for (kind, wanted) in &case.demands.succeeded {
        let count = succeeded.get(kind).copied().unwrap_or(0);
        verdict.note(format!("{kind:?}: {count} operations succeeded, wanted {wanted}"));
        if count < *wanted {
            verdict.accuse(|| format!("only {count} operations of kind {kind:?} succeeded, wanted {wanted}"));
        }
    }
    check_faults(case, verdict);
    check_races(case, verdict);
    for path in REPLAY_PATHS {
        let taken = case.evidence.replay_paths.get(path).copied().unwrap_or(0);
        verdict.note(format!("replays by {path}: {taken}"));
        if taken < case.demands.replays {
            verdict.accuse(|| format!("the replay path {path} was taken {taken} times"));
        }
    }
    for watcher in WATCHERS {
        if case.evidence.observed.reads.get(watcher).copied().unwrap_or(0) == 0 {
            verdict.accuse(|| format!("the watcher of {watcher} never saw anything"));
        }
    }
    let (pauses, wanted) = (case.evidence.pauses, case.demands.pauses);
    verdict.note(format!("pauses of consumers: {pauses}, wanted {wanted}"));
    if pauses < wanted {
        verdict.accuse(|| format!("consumers paused {pauses} times, wanted {wanted}"));
    }
    if case.demands.rebuilt && case.evidence.rebuilt.is_none() {
        verdict.accuse(|| "the tables were not built again from the journal".to_owned());
    }
}

/// The attempts of each operation of an app.
fn of_apps<'a>(case: &Case<'a>) -> HashMap<u64, Vec<&'a Attempt>> {
    let mut all: HashMap<u64, Vec<&Attempt>> = HashMap::new();
    for attempt in case.history.attempts.iter().filter(|attempt| attempt.upload.is_point()) {
        all.entry(attempt.upload.operation).or_default().push(attempt);
    }
    all
}

/// Whether two requests in flight had both to publish a point, so that the journal decided.
fn check_races(case: &Case<'_>, verdict: &mut Verdict) {
    let wanted = case.demands.succeeded.contains_key(&Kind::Shared);
    let mut last: HashMap<(Key, usize), i64> = HashMap::new();
    let mut copies = 0_u64;
    for entry in &case.evidence.journal {
        let (Some(upload), Some(account)) = (entry.upload, entry.account) else { continue };
        if case.kind(upload.operation) == Some(Kind::Shared) {
            let before = last.insert((upload.key(), account), entry.time.0);
            copies += u64::from(before.is_some_and(|before| entry.time.0 - before < RACE_MS));
        }
    }
    verdict.note(format!("points that two batches in flight brought into the journal: {copies}"));
    if wanted && copies == 0 {
        verdict.accuse(|| "no point came into the journal by two batches in flight at once".to_owned());
    }
}

fn come(case: &Case<'_>) -> HashMap<u64, Come> {
    let mut all: HashMap<u64, Come> = HashMap::new();
    for attempt in case.history.attempts.iter().filter(|attempt| !attempt.upload.is_point()) {
        let come = all.entry(attempt.upload.operation).or_default();
        let variant = usize::from(attempt.upload.variant == Variant::B);
        match (attempt.ask, &attempt.outcome) {
            (Ask::Post, Outcome::HungUp { .. }) => come.hung_up = true,
            (Ask::Post, Outcome::Answer { status: 200, .. }) => come.stored[variant] += 1,
            (Ask::Post, Outcome::Answer { status: 422, .. }) => come.refused[variant] += 1,
            (Ask::PostMalformed, Outcome::Answer { status: 400, .. }) => come.malformed = true,
            (Ask::Get, Outcome::Answer { status: 200, body, .. }) => {
                let page: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
                come.told_final |= page["status"] == "final";
            }
            _ => {}
        }
    }
    all
}

fn has_succeeded(case: &Case<'_>, operation: u64, kind: Kind, come: Come) -> bool {
    let [a, b] = come.stored;
    let key = Key { operation, point: None };
    match kind {
        Kind::Plain | Kind::Keyless => a > 0,
        Kind::Conflict => a > 0 && come.refused[1] > 0,
        Kind::Race => a > 0 && come.refused[1] > 0 || b > 0 && come.refused[0] > 0,
        Kind::Strangers => a > 0 && b > 0,
        Kind::HangUp => come.hung_up && [0, 1].iter().any(|account| !case.openings(key, *account).is_empty()),
        Kind::Reuse => [0, 1].iter().any(|account| case.openings(key, *account).len() > 1),
        Kind::Status => come.told_final,
        Kind::Hot => a >= HOT_COPIES,
        Kind::Malformed => come.malformed,
        Kind::Superset | Kind::Shared | Kind::WholeFile | Kind::Renewed | Kind::Twins => false,
    }
}

/// A fault that the machine does not allow is reported, and not held against the run.
fn check_faults(case: &Case<'_>, verdict: &mut Verdict) {
    for fault in &case.demands.faults {
        verdict.examined += 1;
        let of_fault: Vec<_> = case.episodes.iter().filter(|episode| episode.fault == *fault).collect();
        if of_fault.iter().any(|episode| episode.bite.is_ok()) {
            continue;
        }
        let reasons = of_fault.iter().filter_map(|episode| episode.bite.as_ref().err());
        match reasons.max_by_key(|reason| matches!(reason, NoBite::Unseen(_))) {
            Some(NoBite::Skipped(reason)) => verdict.note(format!("{fault} was skipped: {reason}")),
            Some(NoBite::Unseen(seen)) => {
                verdict.accuse(|| format!("{fault} was not seen to bite: {seen}"));
            }
            None => verdict.accuse(|| format!("{fault} never came")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::super::testing::Run;
    use super::super::{Checker, Judgement};
    use super::*;
    use crate::operation::UploadId;
    use crate::operation::point::Phone;

    fn unknown_by(change: impl FnOnce(&mut Run)) {
        let mut run = Run::innocent();
        change(&mut run);
        assert_eq!(run.judgement(Checker::Vacuity), Judgement::Unknown);
    }

    #[test]
    fn every_kind_of_operation_must_have_succeeded() {
        for (kind, _) in Kind::ALL {
            unknown_by(|run| {
                let operations = run.operations(kind);
                run.history.attempts.retain(|attempt| !operations.contains(&attempt.upload.operation));
                let of_kind = |upload: Option<crate::operation::UploadId>| {
                    upload.is_some_and(|upload| operations.contains(&upload.operation))
                };
                run.evidence.stored.retain(|stored| !of_kind(stored.upload));
            });
        }
    }

    /// The requests of the operations of a kind.
    fn each_attempt(run: &mut Run, kind: Kind, mut change: impl FnMut(&mut Attempt)) {
        let operations = run.operations(kind);
        let attempts = run.history.attempts.iter_mut();
        attempts.filter(|attempt| operations.contains(&attempt.upload.operation)).for_each(&mut change);
    }

    #[test]
    fn a_superset_must_have_come_after_a_lost_answer_and_with_more_points() {
        unknown_by(|run| {
            each_attempt(run, Kind::Superset, |attempt| {
                if matches!(attempt.outcome, Outcome::HungUp { .. }) {
                    attempt.outcome = Outcome::HungUp { whole: false };
                }
            })
        });
        unknown_by(|run| {
            each_attempt(run, Kind::Superset, |attempt| {
                if attempt.status() == Some(200) {
                    attempt.began = Duration::ZERO;
                }
            })
        });
        unknown_by(|run| {
            let operations = run.operations(Kind::Superset);
            let lost = run.history.attempts.iter().filter(|attempt| attempt.status().is_none());
            let lost: HashSet<UploadId> = lost.map(|attempt| attempt.upload).collect();
            run.history.attempts.retain(|attempt| {
                !operations.contains(&attempt.upload.operation) || lost.contains(&attempt.upload)
            });
        });
    }

    #[test]
    fn batches_that_share_points_must_have_been_in_flight_at_once_to_two_gateways() {
        unknown_by(|run| each_attempt(run, Kind::Shared, |attempt| attempt.gateway = 0));
        unknown_by(|run| {
            each_attempt(run, Kind::Shared, |attempt| {
                if attempt.gateway == 1 {
                    attempt.began += Duration::from_secs(1);
                    attempt.ended += Duration::from_secs(1);
                }
            })
        });
        unknown_by(|run| {
            let shared = run.operations(Kind::Shared);
            let mut seen = HashSet::new();
            run.evidence.journal.retain(|entry| {
                let of_shared = entry.upload.filter(|upload| shared.contains(&upload.operation));
                of_shared.is_none_or(|upload| seen.insert(upload))
            });
        });
    }

    #[test]
    fn a_bad_point_must_have_been_set_aside() {
        for kind in [Kind::Superset, Kind::Shared] {
            unknown_by(|run| {
                let operations = run.operations(kind);
                run.evidence.dead_letters.retain(|letter| {
                    letter.upload.is_none_or(|upload| !operations.contains(&upload.operation))
                });
            });
        }
    }

    #[test]
    fn a_file_and_a_fix_must_have_been_taken_twice_and_every_twin() {
        for kind in [Kind::WholeFile, Kind::Renewed] {
            unknown_by(|run| {
                let operations = run.operations(kind);
                let mut taken = HashSet::new();
                run.history.attempts.retain(|attempt| {
                    !operations.contains(&attempt.upload.operation)
                        || attempt.status() == Some(200) && taken.insert(attempt.upload)
                });
            });
        }
        unknown_by(|run| {
            let twins = run.operations(Kind::Twins);
            let second = |upload: UploadId| match upload.variant {
                Variant::Point(point) => point.phone == Phone::Second,
                _ => false,
            };
            run.history.attempts.iter_mut().for_each(|attempt| {
                if twins.contains(&attempt.upload.operation) && second(attempt.upload) {
                    attempt.outcome = Outcome::Unknown;
                }
            });
        });
    }

    #[test]
    fn every_fault_must_have_been_seen_to_bite_unless_it_cannot_come() {
        unknown_by(|run| run.episodes.clear());
        unknown_by(|run| run.episodes[0].bite = Err(NoBite::Unseen("no connection".to_owned())));
        let mut run = Run::innocent();
        run.episodes[0].bite = Err(NoBite::Skipped("no loop devices".to_owned()));
        assert_eq!(run.judgement(Checker::Vacuity), Judgement::Held);
        assert!(run.verdict(Checker::Vacuity).notes.iter().any(|note| note.contains("no loop devices")));
    }

    #[test]
    fn every_replay_path_must_have_been_taken_every_watcher_at_work_and_the_tables_rebuilt() {
        for path in REPLAY_PATHS {
            unknown_by(|run| run.evidence.replay_paths.retain(|other, _| *other != path));
        }
        for watcher in WATCHERS {
            unknown_by(|run| run.evidence.observed.reads.retain(|other, _| *other != watcher));
        }
        unknown_by(|run| run.evidence.rebuilt = None);
    }

    #[test]
    fn consumers_must_have_paused_as_often_as_the_plan_wants() {
        unknown_by(|run| run.evidence.pauses = 1);
    }
}
