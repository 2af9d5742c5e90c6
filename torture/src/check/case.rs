//! The case: what the clients saw and what the system left behind, in the order in which checkers ask for it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::position::Position;

use crate::check::Demands;
use crate::evidence::{Evidence, JournalEntry};
use crate::fault::{Episode, Fault};
use crate::history::{Attempt, History, Outcome};
use crate::operation::{self, Key, Kind, UploadId, Variant};

/// How far the run's time and journal time, two clocks of one machine, may lie apart.
const SLACK: Duration = Duration::from_millis(500);

/// In a gateway's memory a point counts as known for one part in so many of the window from the acknowledgement of its last record,
/// which may be a copy from the window's end (decision 17).
const RECENT_PART: u32 = 4;

/// A stored upload or a bad point that was set aside, seen from its key: it opened a window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub(super) position: Position,
    pub(super) time: JournalTime,
    pub(super) variant: Variant,
}

impl fmt::Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {} at {}", self.variant, at(self.position), self.time.0)
    }
}

/// Whether an answer can have come from a window of some upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// It was not stored before the answer.
    Never,
    /// It was, and its window was over before the attempt began.
    Over,
    /// Its window lies around the attempt.
    Open,
}

pub(super) struct Case<'a> {
    pub(super) history: &'a History,
    pub(super) evidence: &'a Evidence,
    pub(super) episodes: &'a [Episode],
    pub(super) demands: &'a Demands,
    /// By operation.
    kinds: Vec<Kind>,
    /// By key and account, in journal order.
    openings: HashMap<(Key, usize), Vec<Opening>>,
    /// Uploads without a fault that an account sent, or tried to.
    sent: HashSet<(UploadId, usize)>,
    unended: HashSet<u64>,
}

impl<'a> Case<'a> {
    pub(super) fn new(
        history: &'a History,
        evidence: &'a Evidence,
        episodes: &'a [Episode],
        demands: &'a Demands,
    ) -> Self {
        let mut openings: HashMap<(Key, usize), Vec<Opening>> = HashMap::new();
        let mut open = |position, time, account, upload: Option<UploadId>| {
            if let (Some(upload), Some(account)) = (upload, account) {
                let opening = Opening { position, time, variant: upload.variant };
                openings.entry((upload.key(), account)).or_default().push(opening);
            }
        };
        for stored in &evidence.stored {
            open(stored.position, stored.received_at, stored.account, stored.upload);
        }
        let set_aside = evidence.journal.iter().filter(|entry| entry.is_set_aside);
        let set_aside: HashMap<Position, &JournalEntry> =
            set_aside.map(|entry| (entry.position, entry)).collect();
        for letter in &evidence.dead_letters {
            if let Some(entry) = set_aside.get(&letter.position) {
                open(letter.position, entry.time, entry.account, letter.upload);
            }
        }
        for openings in openings.values_mut() {
            openings.sort_unstable_by_key(|opening| (opening.time, opening.position));
        }
        let posts = history.attempts.iter().filter(|attempt| attempt.is_upload());
        Self {
            kinds: (0..history.operations)
                .map(|index| operation::operation(evidence.seed, index).kind)
                .collect(),
            openings,
            sent: posts.map(|attempt| (attempt.upload, attempt.account)).collect(),
            unended: history.unended.iter().copied().collect(),
            history,
            evidence,
            episodes,
            demands,
        }
    }

    /// `None` for an operation that was never begun.
    pub(super) fn kind(&self, operation: u64) -> Option<Kind> {
        self.kinds.get(usize::try_from(operation).ok()?).copied()
    }

    /// All operations that were begun.
    pub(super) fn operations(&self) -> impl Iterator<Item = (u64, Kind)> {
        (0..).zip(self.kinds.iter().copied())
    }

    /// What is stored or set aside under a key of an account, in journal order.
    pub(super) fn openings(&self, key: Key, account: usize) -> &[Opening] {
        self.openings.get(&(key, account)).map_or(&[], Vec::as_slice)
    }

    /// All openings, by key and account.
    pub(super) fn keys(&self) -> impl Iterator<Item = ((Key, usize), &[Opening])> {
        self.openings.iter().map(|(key, openings)| (*key, openings.as_slice()))
    }

    /// Whether an account sent an upload, as far as is known: a client that was given up may have been sending.
    pub(super) fn was_sent(&self, upload: UploadId, account: usize) -> bool {
        self.sent.contains(&(upload, account)) || self.unended.contains(&upload.operation)
    }

    /// The wall clock at a moment of the run.
    pub(super) fn wall(&self, at: Duration) -> JournalTime {
        JournalTime(self.evidence.observed.begun_ms).plus(at)
    }

    /// How an attempt relates to the windows of its upload.
    pub(super) fn own(&self, attempt: &Attempt) -> Reach {
        self.reach(attempt, attempt.upload.variant)
    }

    /// How it relates to those of the other upload under the same key.
    pub(super) fn other(&self, attempt: &Attempt) -> Reach {
        attempt.upload.variant.other().map_or(Reach::Never, |variant| self.reach(attempt, variant))
    }

    fn reach(&self, attempt: &Attempt, variant: Variant) -> Reach {
        let (began, ended) = (self.wall(attempt.began), self.wall(attempt.ended).plus(SLACK));
        let openings = self.openings(attempt.upload.key(), attempt.account).iter();
        let known = openings.filter(|opening| opening.variant == variant && opening.time <= ended);
        let ttl = self.evidence.ttl;
        let memory = if attempt.upload.is_point() {
            self.demands.acknowledged + ttl / RECENT_PART
        } else {
            Duration::ZERO
        };
        let reach = known.map(|opening| {
            let over = opening.time.plus(ttl + memory + self.demands.grace);
            if over < began { Reach::Over } else { Reach::Open }
        });
        reach.max().unwrap_or(Reach::Never)
    }

    /// Whether there was a fault of this kind at some moment of a stretch of the run, or just before.
    pub(super) fn suffered(
        &self,
        from: Duration,
        to: Duration,
        before: Duration,
        is_meant: impl Fn(Fault) -> bool,
    ) -> bool {
        let (from, to) = (from.saturating_sub(before).as_secs_f64(), to.as_secs_f64());
        self.episodes
            .iter()
            .any(|episode| is_meant(episode.fault) && episode.began <= to && episode.healed >= from)
    }

    /// Requests with uploads, points included, that were answered with one of these.
    pub(super) fn answered(&self, statuses: &[u16]) -> impl Iterator<Item = &'a Attempt> {
        self.history.attempts.iter().filter(move |attempt| {
            attempt.is_upload() && attempt.status().is_some_and(|status| statuses.contains(&status))
        })
    }
}

/// A position as messages show it.
pub(super) fn at(position: Position) -> String {
    format!("{}/{}", position.partition, position.offset)
}

/// An attempt as messages show it.
pub(super) fn describe(attempt: &Attempt) -> String {
    let ended = match &attempt.outcome {
        Outcome::Answer { status, replayed: true, .. } => format!("{status} as a replay"),
        Outcome::Answer { status, .. } => format!("{status}"),
        Outcome::HungUp { whole: true } => "hung up after the last byte".to_owned(),
        Outcome::HungUp { .. } => "hung up".to_owned(),
        Outcome::Unknown => "no answer".to_owned(),
    };
    format!(
        "upload {} of account {}, {:?} to gateway {} from {:.3} to {:.3} s: {ended}",
        attempt.upload,
        attempt.account,
        attempt.ask,
        attempt.gateway,
        attempt.began.as_secs_f64(),
        attempt.ended.as_secs_f64(),
    )
}
