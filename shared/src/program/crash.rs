//! Named crash points: places where a test can make a program die (or panic), to see what survives.
//!
//! They exist in builds with debug assertions only; in a release build [`Crash::point`] is empty and `--crash-at` is
//! refused.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A place in the flow where a crash hurts most, in the order of the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// Gateway: the upload is validated and hashed, nothing was published.
    Accepted,
    /// Gateway: the journal acknowledged the record, the client does not know yet.
    Published,
    /// Gateway: the answer is known, the client has not got it.
    Answered,
    /// Consumer: records were read from the journal.
    Polled,
    /// Consumer: a batch is decoded, its transaction has not begun.
    BeforeTransaction,
    /// Consumer: keys and locations are written, not committed.
    InTransaction,
    /// Consumer: the batch is committed, nothing of it was emitted.
    AfterCommit,
    /// Consumer: results and facts are handed to the producer, not yet acknowledged.
    Emitting,
    /// Consumer: results and facts are acknowledged.
    AfterEmit,
    /// Consumer: the group offset is about to be committed.
    BeforeOffsetCommit,
}

impl CrashPoint {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Accepted,
        Self::Published,
        Self::Answered,
        Self::Polled,
        Self::BeforeTransaction,
        Self::InTransaction,
        Self::AfterCommit,
        Self::Emitting,
        Self::AfterEmit,
        Self::BeforeOffsetCommit,
    ];

    /// The name used on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Published => "published",
            Self::Answered => "answered",
            Self::Polled => "polled",
            Self::BeforeTransaction => "before-transaction",
            Self::InTransaction => "in-transaction",
            Self::AfterCommit => "after-commit",
            Self::Emitting => "emitting",
            Self::AfterEmit => "after-emit",
            Self::BeforeOffsetCommit => "before-offset-commit",
        }
    }
}

/// What was asked for with `--crash-at`: `POINT[:N][=panic]`, at the N-th passing of the point (1 without N), die by
/// SIGKILL (no destructor, no flush, no handler), or panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrashAt {
    point: CrashPoint,
    passing: u32,
    panic: bool,
}

impl FromStr for CrashAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !cfg!(debug_assertions) {
            return Err("crash points exist in debug builds only".to_owned());
        }
        let (rest, panic) = text.strip_suffix("=panic").map_or((text, false), |rest| (rest, true));
        let (name, passing) = rest.split_once(':').unwrap_or((rest, "1"));
        let point = CrashPoint::ALL.into_iter().find(|point| point.name() == name).ok_or_else(|| {
            format!("no crash point {name:?}; one of {}", CrashPoint::ALL.map(CrashPoint::name).join(", "))
        })?;
        let passing = passing.parse().map_err(|_| format!("{passing:?} is not a count"))?;
        Ok(Self { point, passing, panic })
    }
}

impl fmt::Display for CrashAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}", self.point.name(), self.passing, if self.panic { "=panic" } else { "" })
    }
}

/// The armed crash of this process, if any. Cheap to clone; handed to each part that has a point.
#[derive(Debug, Clone, Default)]
pub struct Crash(Option<Arc<(CrashAt, AtomicU32)>>);

impl Crash {
    /// Arms what `--crash-at` asked for.
    #[must_use]
    pub fn new(at: Option<CrashAt>) -> Self {
        Self(at.map(|at| Arc::new((at, AtomicU32::new(0)))))
    }

    /// Passes a point, and does not return from it if it is the armed one and its turn.
    ///
    /// # Panics
    /// If a panic was asked for.
    pub fn point(&self, point: CrashPoint) {
        if !cfg!(debug_assertions) {
            return;
        }
        if let Some((at, passed)) = self.0.as_deref()
            && at.point == point
            && passed.fetch_add(1, Ordering::Relaxed) + 1 == at.passing
        {
            assert!(!at.panic, "panic asked for at {}", point.name());
            // It ends before it returns; abort is only for the compiler.
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_can_be_named() {
        for point in CrashPoint::ALL {
            let at: CrashAt = point.name().parse().unwrap();
            assert_eq!(at, CrashAt { point, passing: 1, panic: false });
            assert_eq!(at.to_string().parse(), Ok(at));
        }
        assert!("polled:3=panic".parse::<CrashAt>().unwrap().panic);
        assert!("nowhere".parse::<CrashAt>().unwrap_err().contains("after-commit"));
    }

    #[test]
    #[should_panic(expected = "panic asked for at polled")]
    fn the_named_passing_is_the_one_that_crashes() {
        let crash = Crash::new(Some("polled:2=panic".parse().unwrap()));
        crash.point(CrashPoint::Polled);
        crash.point(CrashPoint::AfterEmit);
        crash.point(CrashPoint::Polled);
    }
}
