//! One consumer: a session, from assignment to crash. It may go on for as long as it likes after another took over.

use std::collections::VecDeque;
use std::sync::Arc;

use milepost_consumer::persist::decide::{Decision, Windows};
use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::clock::JournalTime;

use crate::database::Database;
use crate::journal::{Journal, TTL, at};
use crate::planted::PlantedBug;

/// What one record leaves to emit: the state of its key and whether it is a fact. `None` for a record forgotten since.
pub type Emission = Option<(Arc<KeyState>, bool)>;

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Consumer {
    /// First offset that is not resolved.
    pub next: i64,
    /// Records from `next` up to here were covered by the progress at assignment: they are only emitted again.
    pub persisted_below: i64,
    /// The transaction it is in.
    pub transaction: Option<Transaction>,
    /// Resolved and not emitted: the records just before `next`.
    pub queue: VecDeque<Emission>,
}

/// A transaction between its statements and its commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Transaction {
    /// Rows to insert.
    pub new: Vec<Arc<KeyState>>,
    /// What its records leave to emit once it is committed.
    pub emissions: Vec<Emission>,
}

impl Consumer {
    /// A session that begins at `start`.
    #[must_use]
    pub fn new(start: i64, progress: i64) -> Self {
        Self { next: start, persisted_below: progress, transaction: None, queue: VecDeque::new() }
    }

    /// First offset that is not emitted.
    #[must_use]
    pub fn emitted(&self) -> i64 {
        self.next - i64::try_from(self.queue.len()).unwrap_or(i64::MAX)
    }

    /// Whether a batch of the records before `end` has some to persist. If so, it takes the fence's row.
    #[must_use]
    pub fn persists(&self, end: i64) -> bool {
        self.persisted_below < end
    }

    /// The fence, for a batch of the records before `end`: the progress must be where this consumer left it, and must
    /// still cover what is only emitted again.
    #[must_use]
    pub fn is_fenced_off(&self, end: i64, progress: i64) -> bool {
        if self.persists(end) { progress != self.persisted_below } else { progress < end }
    }

    /// Resolves the records before `end` against the tables as they are.
    #[must_use]
    pub fn resolve(
        &self,
        end: i64,
        journal: &Journal,
        database: &Database,
        now: JournalTime,
        planted: Option<PlantedBug>,
    ) -> Transaction {
        let windows = |rows: &[Arc<KeyState>]| {
            let mut windows = Windows::default();
            for row in rows {
                windows.insert(journal.key_of(row, planted), KeyState::clone(row));
            }
            windows
        };
        let recalled = match planted {
            Some(PlantedBug::ReEmitByNewestRow) => {
                windows(database.keys.last().map_or(&[], std::slice::from_ref))
            }
            _ => windows(&database.keys),
        };
        let mut windows = windows(&database.keys);
        let mut transaction = Transaction { new: Vec::new(), emissions: Vec::new() };
        for offset in self.next..end {
            let mut claim = journal.claim(offset, planted);
            if planted == Some(PlantedBug::DecideByWallClock) {
                claim.time = now;
            }
            transaction.emissions.push(if offset < self.persisted_below {
                let recalled = recalled.recall(&claim.key_hash, at(offset), claim.time);
                recalled.map(|(state, persisted)| (Arc::new(state), persisted))
            } else {
                let (decision, state) = windows.resolve(&claim, TTL);
                let state = Arc::new(state);
                if decision == Decision::New {
                    transaction.new.push(Arc::clone(&state));
                }
                Some((state, decision == Decision::New))
            });
        }
        transaction
    }

    /// Takes over what a batch before `end` leaves to emit.
    pub fn queue(&mut self, end: i64, emissions: Vec<Emission>) {
        self.next = end;
        self.persisted_below = self.persisted_below.max(end);
        self.queue.extend(emissions);
    }
}
