//! Whether an operation of an app was what its kind promises, by what its clients saw.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::case::Case;
use crate::history::{Attempt, Outcome};
use crate::operation::{self, Kind, UploadId};

/// A request, put together again.
struct Request {
    points: BTreeSet<UploadId>,
    gateway: usize,
    began: Duration,
    ended: Duration,
    /// Whether all of it was sent, and no answer read.
    is_in_doubt: bool,
    is_taken: bool,
}

impl Request {
    fn of(attempt: &Attempt) -> Self {
        Self {
            points: BTreeSet::new(),
            gateway: attempt.gateway,
            began: attempt.began,
            ended: attempt.ended,
            is_in_doubt: attempt.outcome == Outcome::HungUp { whole: true },
            is_taken: attempt.status() == Some(200),
        }
    }

    /// Whether both were under way at some moment, at two gateways.
    fn meets(&self, other: &Self) -> bool {
        self.gateway != other.gateway && self.began < other.ended && other.began < self.ended
    }

    fn is_superset_of(&self, other: &Self) -> bool {
        self.points.len() > other.points.len() && self.points.is_superset(&other.points)
    }
}

/// Whether it came about, of all attempts of one operation.
pub(super) fn came_about(case: &Case<'_>, kind: Kind, attempts: &[&Attempt]) -> bool {
    let mut requests: BTreeMap<u64, Request> = BTreeMap::new();
    for attempt in attempts {
        let request = requests.entry(attempt.request).or_insert_with(|| Request::of(attempt));
        request.points.insert(attempt.upload);
    }
    let taken: Vec<&Request> = requests.values().filter(|request| request.is_taken).collect();
    let times_taken = |id: &UploadId| taken.iter().filter(|request| request.points.contains(id)).count();
    let points: BTreeSet<UploadId> = attempts.iter().map(|attempt| attempt.upload).collect();
    let least = |count| !points.is_empty() && points.iter().all(|id| times_taken(id) >= count);
    match kind {
        Kind::Superset => {
            let mut in_doubt = requests.values().filter(|request| request.is_in_doubt);
            let after = |lost: &Request| {
                taken.iter().any(|request| request.began >= lost.ended && request.is_superset_of(lost))
            };
            in_doubt.any(after) && is_set_aside(case, attempts)
        }
        Kind::Shared => {
            let share = |one: &Request, other: &Request| {
                one.meets(other) && !one.points.is_disjoint(&other.points) && one.points != other.points
            };
            let met = taken.iter().any(|one| taken.iter().any(|other| share(one, other)));
            met && least(1) && is_set_aside(case, attempts)
        }
        Kind::WholeFile | Kind::Renewed => least(2),
        Kind::Twins => least(1),
        _ => false,
    }
}

fn is_set_aside(case: &Case<'_>, attempts: &[&Attempt]) -> bool {
    let mut bad = attempts.iter().filter(|attempt| operation::count(case.evidence.seed, attempt.upload) == 0);
    bad.any(|attempt| !case.openings(attempt.upload.key(), attempt.account).is_empty())
}
