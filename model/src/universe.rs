//! The universe: everything that outlives a step, and the steps of those who work in it.

use std::sync::Arc;

use milepost_consumer::journal::assign::{Known, start};
use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::position::{NextOffset, Offset};

use crate::consumer::{Consumer, Transaction};
use crate::database::Database;
use crate::gateway::Cache;
use crate::journal::{Journal, PARTITION};
use crate::phones::Phones;
use crate::planted::PlantedBug;

/// A state of the model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Universe {
    /// The time on the broker's clock, which is the true one.
    pub now: JournalTime,
    /// `location-uploads`.
    pub journal: Journal,
    /// Postgres.
    pub database: Database,
    /// The group offset.
    pub group: Option<i64>,
    /// The consumers that run. Each believes that the partition is its own.
    pub consumers: [Option<Consumer>; 2],
    /// `location-results`, without order: offsets of records, and what answers them. A tail may be late, and results may
    /// be emitted again, so whatever lies here may reach a gateway at any time, and more than once.
    pub results: Vec<(i64, Arc<KeyState>)>,
    /// What a subscriber of `locations` accepted by the one-integer rule, in order. The facts that it skips leave no trace.
    pub accepted: Vec<i64>,
    /// What a gateway remembers.
    pub cache: Cache,
    /// Phone apps and their requests, where the points of phones are looked at.
    pub phones: Phones,
}

impl Universe {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            now: JournalTime(0),
            journal: Journal::default(),
            database: Database::default(),
            group: None,
            consumers: [None, None],
            results: Vec::new(),
            accepted: Vec::new(),
            cache: Cache::default(),
            phones: Phones::default(),
        }
    }

    /// Whether a transaction is open.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        self.consumers.iter().flatten().any(|consumer| consumer.transaction.is_some())
    }

    /// A consumer begins where the table and the group say, or knows nothing of the group's offset.
    ///
    /// The steps return `None` if they cannot be taken.
    pub fn assign(&mut self, consumer: usize, group: Option<i64>) -> Option<()> {
        let progress = self.database.progress;
        let known = Known {
            progress: progress.next_offset,
            group: group.map(NextOffset),
            emitted: progress.emitted_offset,
            journal_start: NextOffset::START,
            journal_end: NextOffset(self.journal.end()),
            stamped_later: progress.log_time.and_then(|time| self.journal.stamped_later(time)).map(Offset),
        };
        let start = start(PARTITION, known).ok()?;
        self.consumers[consumer] = Some(Consumer::new(start.0, progress.next_offset.0));
        Some(())
    }

    /// A consumer goes through its transaction up to the commit, or is fenced off and ends. What is only emitted again
    /// has nothing to commit.
    pub fn transact(&mut self, consumer: usize, end: i64, planted: Option<PlantedBug>) -> Option<()> {
        let session = self.consumers[consumer].as_ref()?;
        let fenced = match planted {
            Some(PlantedBug::NoFence) => false,
            Some(PlantedBug::ReEmitUnfenced) => session.persists(end),
            _ => true,
        };
        if fenced && session.persists(end) && self.in_transaction() {
            return None; // The other transaction has locked the row.
        }
        if fenced && session.is_fenced_off(end, self.database.progress.next_offset.0) {
            self.consumers[consumer] = None;
            return Some(());
        }
        let persists = session.persists(end);
        let transaction = session.resolve(end, &self.journal, &self.database, self.now, planted);
        let session = self.consumers[consumer].as_mut()?;
        if persists {
            session.transaction = Some(transaction);
        } else {
            session.queue(end, transaction.emissions);
        }
        Some(())
    }

    /// A consumer's transaction commits.
    pub fn commit(&mut self, consumer: usize, planted: Option<PlantedBug>) -> Option<()> {
        let session = self.consumers[consumer].as_mut()?;
        let Transaction { new, emissions } = session.transaction.take()?;
        let end = session.next + i64::try_from(emissions.len()).ok()?;
        self.database.commit(end, self.journal.record(end - 1).time, &new);
        if planted == Some(PlantedBug::ReplaceByCopy) {
            for (offset, emission) in (session.next..end).zip(&emissions) {
                let source = emission.as_ref().map(|(state, _)| state.source.offset.0);
                let row = self.database.locations.iter_mut().find(|row| Some(**row) == source);
                row.into_iter().for_each(|row| *row = offset);
            }
        }
        session.queue(end, emissions);
        Some(())
    }

    /// The result of the oldest record in a consumer's queue is acknowledged, and its fact unless that is given up.
    pub fn emit(&mut self, consumer: usize, gives_up: bool) -> Option<()> {
        let session = self.consumers[consumer].as_mut()?;
        let offset = session.emitted();
        let Some((state, is_fact)) = session.queue.pop_front()? else { return Some(()) };
        if is_fact && !gives_up && self.accepted.last().is_none_or(|greatest| *greatest < offset) {
            self.accepted.push(offset);
        }
        let result = (offset, state);
        if !self.results.contains(&result) {
            self.results.push(result);
            self.results.sort_by_key(|(record, state)| (*record, state.source));
        }
        Some(())
    }

    /// All that is in a consumer's queue is emitted, and group and table hear of it.
    pub fn emit_all(&mut self, consumer: usize) -> Option<()> {
        while self.emit(consumer, false).is_some() {}
        self.commit_offset(consumer)?;
        self.note_emitted(consumer)
    }

    /// A consumer moves the group offset behind what it has emitted.
    pub fn commit_offset(&mut self, consumer: usize) -> Option<()> {
        let emitted = self.consumers[consumer].as_ref()?.emitted();
        // A group offset of 0 says no more than none.
        self.group = (emitted > 0).then_some(emitted);
        Some(())
    }

    /// A consumer notes in the table how far it has emitted.
    pub fn note_emitted(&mut self, consumer: usize) -> Option<()> {
        let emitted = self.consumers[consumer].as_ref()?.emitted();
        if emitted > 0 {
            self.database.note_emitted(emitted, self.journal.record(emitted - 1).time);
        }
        Some(())
    }

    /// Postgres is as it was when the records before `end` had been persisted, and maintenance had never looked.
    pub fn put_back(&mut self, end: i64) {
        let empty = Database::default();
        let transaction = Consumer::new(0, 0).resolve(end, &self.journal, &empty, self.now, None);
        self.database = empty;
        if let Some(last) = end.checked_sub(1).filter(|last| *last >= 0) {
            self.database.commit(end, self.journal.record(last).time, &transaction.new);
        }
    }
}

impl Default for Universe {
    fn default() -> Self {
        Self::new()
    }
}
