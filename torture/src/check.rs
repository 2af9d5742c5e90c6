//! The checkers: one per invariant of ARCHITECTURE.md, and some for the run itself. Each is a pure function of what the
//! clients saw and what the system left behind, and knows nothing of how Milepost is made.
//!
//! A point of an app is an upload of one location to all of them, whose key is the point itself; a bad one is an upload that is
//! set aside in place of being stored.
//!
//! None accuses an innocent run: an attempt without an answer, or answered 5xx, may or may not have stored its upload, and a
//! key is free again once its window is over, for a late retry too.

mod behaviour;
mod case;
mod completeness;
mod conflict;
mod doubled;
mod facts;
mod hygiene;
mod invented;
mod journal;
mod lost;
mod offsets;
mod one_answer;
mod recovery;
mod strangers;
#[cfg(test)]
pub(crate) mod testing;
mod torn;
mod vacuity;
mod window;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::check::case::Case;
use crate::evidence::Evidence;
use crate::fault::{Episode, Fault};
use crate::history::History;
use crate::operation::Kind;
use crate::plan::Plan;
use crate::system::PUBLISH_TIMEOUT;

/// Violations kept of each checker; all are counted.
pub const VIOLATIONS_KEPT: usize = 20;

/// A checker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Checker {
    /// What was acknowledged is stored; a bad point is set aside.
    Lost,
    /// Once per key and window; without a key once per request. A point of an app is its own key.
    Doubled,
    /// Nothing is stored that nobody sent.
    Invented,
    /// All of an upload is visible, or nothing.
    Torn,
    /// One answer per window, byte for byte, with the right count.
    OneAnswer,
    /// Another body under a used key gets 422 and is not stored.
    Conflict,
    /// No account sees anything of another.
    Strangers,
    /// Nothing is new inside a window, and the key is free after it.
    Window,
    /// The journal, decided again, gives the same rows and answers.
    Journal,
    /// No offset passes what is not persisted.
    Offsets,
    /// Facts are the stored uploads, exactly once by the one-integer rule.
    Facts,
    /// Every attempt and operation ended in a way that is allowed.
    Completeness,
    /// All is well again soon after the last fault.
    Recovery,
    /// No transaction left open, nothing that grows, nothing in a log that must not be there.
    Hygiene,
    /// The run was worth something: every kind of operation, fault and replay came about.
    Vacuity,
}

impl Checker {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 15] = [
        Self::Lost,
        Self::Doubled,
        Self::Invented,
        Self::Torn,
        Self::OneAnswer,
        Self::Conflict,
        Self::Strangers,
        Self::Window,
        Self::Journal,
        Self::Offsets,
        Self::Facts,
        Self::Completeness,
        Self::Recovery,
        Self::Hygiene,
        Self::Vacuity,
    ];

    fn check(self, case: &Case<'_>) -> Verdict {
        let check = match self {
            Self::Lost => lost::check,
            Self::Doubled => doubled::check,
            Self::Invented => invented::check,
            Self::Torn => torn::check,
            Self::OneAnswer => one_answer::check,
            Self::Conflict => conflict::check,
            Self::Strangers => strangers::check,
            Self::Window => window::check,
            Self::Journal => journal::check,
            Self::Offsets => offsets::check,
            Self::Facts => facts::check,
            Self::Completeness => completeness::check,
            Self::Recovery => recovery::check,
            Self::Hygiene => hygiene::check,
            Self::Vacuity => vacuity::check,
        };
        let mut verdict = Verdict::new(self);
        check(case, &mut verdict);
        verdict
    }
}

impl fmt::Display for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lost => "lost",
            Self::Doubled => "doubled",
            Self::Invented => "invented",
            Self::Torn => "torn",
            Self::OneAnswer => "one answer",
            Self::Conflict => "conflict",
            Self::Strangers => "strangers",
            Self::Window => "window",
            Self::Journal => "journal = tables",
            Self::Offsets => "offsets behind data",
            Self::Facts => "facts",
            Self::Completeness => "completeness",
            Self::Recovery => "recovery",
            Self::Hygiene => "hygiene",
            Self::Vacuity => "vacuity",
        })
    }
}

/// What a run must have been like to count, and the bounds it has to hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Demands {
    /// How many operations of each kind must have succeeded.
    pub succeeded: BTreeMap<Kind, u64>,
    /// Faults of which each must have been seen to bite.
    pub faults: Vec<Fault>,
    /// How often each replay path must have been taken.
    pub replays: u64,
    /// How often consumers must have paused.
    pub pauses: u64,
    /// Whether the tables must have been built again from the journal.
    pub rebuilt: bool,
    /// How long after its window an answer may still be given: two clocks, and a gateway that sees journal time late.
    pub grace: Duration,
    /// From the stamp of a record to the acknowledgement that a gateway still takes, longest.
    pub acknowledged: Duration,
    /// Longest attempt.
    pub attempt: Duration,
    /// From the last heal to the first 200, longest.
    pub first_answer: Duration,
    /// From the last heal to lag 0, longest.
    pub caught_up: Duration,
    /// Longest time that a session may be idle in a transaction.
    pub idle: Duration,
    /// Open files that a program may gain during the run.
    pub files: u64,
    /// Resident memory that a program may gain during the run, bytes.
    pub memory: u64,
}

impl Demands {
    /// What a plan promises: a quarter of the operations that chance gives each kind, at least one; and each of its faults.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let share = |(kind, share): (Kind, u32)| (kind, (plan.operations * u64::from(share) / 4000).max(1));
        Self {
            succeeded: Kind::ALL.into_iter().map(share).collect(),
            faults: plan.faults.clone(),
            replays: 1,
            pauses: plan.pauses,
            rebuilt: true,
            grace: Duration::from_secs(3),
            acknowledged: PUBLISH_TIMEOUT,
            attempt: Duration::from_secs(15),
            first_answer: Duration::from_secs(30),
            caught_up: Duration::from_secs(60),
            idle: Duration::from_secs(25),
            // How many connections a gateway has is up to the clients: after an outage all of them want one, and an app's may
            // have two requests under way.
            files: 64 + plan.clients as u64,
            // A gateway's cache may hold all answers of the run, and what it knows of each point besides.
            memory: (256 << 20) + plan.operations * 700,
        }
    }
}

/// The verdict on a run, or of one checker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judgement {
    /// Nothing was broken.
    Held,
    /// The run proves nothing, and so it fails.
    Unknown,
    /// An invariant was broken.
    Broken,
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Held => "held",
            Self::Unknown => "unknown",
            Self::Broken => "BROKEN",
        })
    }
}

/// What a checker found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which.
    pub checker: Checker,
    /// The first [`VIOLATIONS_KEPT`], one sentence each.
    pub violations: Vec<String>,
    /// How many there are.
    pub total: u64,
    /// How many things were looked at.
    pub examined: u64,
    /// What else the report should say.
    pub notes: Vec<String>,
}

impl Verdict {
    fn new(checker: Checker) -> Self {
        Self { checker, violations: Vec::new(), total: 0, examined: 0, notes: Vec::new() }
    }

    fn accuse(&mut self, violation: impl FnOnce() -> String) {
        self.total += 1;
        if self.violations.len() < VIOLATIONS_KEPT {
            self.violations.push(violation());
        }
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// A checker that had nothing to look at proves nothing.
    #[must_use]
    pub fn judgement(&self) -> Judgement {
        if self.examined == 0 || self.checker == Checker::Vacuity && self.total > 0 {
            Judgement::Unknown
        } else if self.total > 0 {
            Judgement::Broken
        } else {
            Judgement::Held
        }
    }
}

/// All checkers, on one run.
#[must_use]
pub fn all(history: &History, evidence: &Evidence, episodes: &[Episode], demands: &Demands) -> Vec<Verdict> {
    let case = Case::new(history, evidence, episodes, demands);
    Checker::ALL.into_iter().map(|checker| checker.check(&case)).collect()
}

/// The run's judgement: its worst checker's.
#[must_use]
pub fn judgement(verdicts: &[Verdict]) -> Judgement {
    verdicts.iter().map(Verdict::judgement).max().unwrap_or(Judgement::Unknown)
}
