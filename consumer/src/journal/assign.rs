//! Where a partition starts, and which partitions are this consumer's at the moment.
//!
//! The position to resume from is the smaller of the table's progress and the group's offset: what lies between the two is
//! emitted again or persisted again, whichever store lost it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use milepost_shared::journal::position::{NextOffset, Offset, Partition};

/// What is known of a partition when it is assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// First offset that is not persisted.
    pub progress: NextOffset,
    /// First offset that the group has not acknowledged; `None` if the group knows nothing.
    pub group: Option<NextOffset>,
    /// First offset that the table does not know to be emitted. Noted only now and then, so it may be behind, but never ahead.
    pub emitted: NextOffset,
    /// First offset that the journal still holds: everything below is deleted.
    pub journal_start: NextOffset,
    /// The offset after the journal's last.
    pub journal_end: NextOffset,
    /// First offset in the journal that is stamped later than everything persisted; `None` if there is none, or if the table
    /// knows no journal time.
    pub stamped_later: Option<Offset>,
}

/// Records that are needed and that the journal no longer holds. Offsets missing inside the journal are not a gap: a
/// transaction leaves some, and they were never records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Gap {
    /// Records were deleted before they were persisted or emitted.
    #[error(
        "journal partition {partition} lacks the offsets {from} to {}: they are not persisted and emitted, and the \
         journal begins at {to}. Restore them, or accept the loss with 'milepost-admin progress set'",
        to.last()
    )]
    Deleted {
        /// The journal partition.
        partition: Partition,
        /// First offset missing.
        from: NextOffset,
        /// First offset there.
        to: NextOffset,
    },
    /// The journal was rewound: it ends before what was persisted.
    #[error(
        "journal partition {partition} ends at {end}, but everything below {progress} is persisted: the journal was \
         rewound. Restore it, or accept it with 'milepost-admin progress set'"
    )]
    Rewound {
        /// The journal partition.
        partition: Partition,
        /// The offset after the journal's last.
        end: NextOffset,
        /// The table's progress.
        progress: NextOffset,
    },
    /// The journal was rewound and has grown past what was persisted, with other records: it lost its end, or its topic was
    /// created again, and offsets are used a second time.
    #[error(
        "journal partition {partition} is not the one that was persisted: everything below {progress} was stamped earlier \
         than the record at {later}. It was rewound: its topic was created again, or the brokers lost records and wrote others. \
         Restore it, or go on from there with 'milepost-admin progress set --partition {partition} --offset {later} --force'"
    )]
    Overwritten {
        /// The journal partition.
        partition: Partition,
        /// The table's progress.
        progress: NextOffset,
        /// First offset stamped later than all that is persisted.
        later: Offset,
    },
}

/// The offset to poll a partition from.
///
/// # Errors
/// [`Gap`]: nothing may be skipped.
pub fn start(partition: Partition, known: Known) -> Result<NextOffset, Gap> {
    let Known { progress, group, emitted, journal_start, journal_end, stamped_later } = known;
    if progress > journal_end {
        return Err(Gap::Rewound { partition, end: journal_end, progress });
    }
    // Everything persisted was stamped no later than the greatest time persisted.
    if let Some(later) = stamped_later.filter(|later| progress.covers(*later)) {
        return Err(Gap::Overwritten { partition, progress, later });
    }
    // A group without offsets says that nothing was emitted: everything the journal holds is emitted again.
    let from = progress.min(group.unwrap_or(NextOffset::START));
    // What the journal no longer holds is missing only if it was not persisted, or neither store knows that it was emitted.
    let needed = progress.min(from.max(emitted));
    if needed < journal_start {
        return Err(Gap::Deleted { partition, from: needed, to: journal_start });
    }
    Ok(from.max(journal_start))
}

/// A partition that is this consumer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assigned {
    /// Counts assignments, to distinguish records polled before a rebalance from those polled after it.
    pub generation: u64,
    /// The table's progress at assignment: records below are only emitted again.
    pub persisted_below: NextOffset,
    /// The offset after the last record polled. The next record may stand behind it: offsets need not be contiguous.
    pub expected: NextOffset,
}

/// The partitions that are this consumer's. Written by the polling thread only, read by all.
#[derive(Debug, Clone, Default)]
pub struct Assignment(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// Of the newest assignment.
    generation: u64,
    partitions: BTreeMap<Partition, Assigned>,
}

impl Assignment {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a partition. Returns the assignment's generation.
    pub fn add(&self, partition: Partition, persisted_below: NextOffset, start: NextOffset) -> u64 {
        let mut inner = self.lock();
        inner.generation += 1;
        let generation = inner.generation;
        inner.partitions.insert(partition, Assigned { generation, persisted_below, expected: start });
        generation
    }

    /// Takes a partition away.
    pub fn remove(&self, partition: Partition) {
        self.lock().partitions.remove(&partition);
    }

    /// Notes that the record at `offset` was polled. Returns what was assigned before, with the offset after the record before
    /// it; `None` if the partition is not this consumer's.
    pub fn polled(&self, partition: Partition, offset: Offset) -> Option<Assigned> {
        let mut inner = self.lock();
        let assigned = inner.partitions.get_mut(&partition)?;
        let before = *assigned;
        assigned.expected = offset.next();
        Some(before)
    }

    /// Whether a partition is still the one assigned in `generation`.
    #[must_use]
    pub fn is_current(&self, partition: Partition, generation: u64) -> bool {
        let inner = self.lock();
        inner.partitions.get(&partition).is_some_and(|assigned| assigned.generation == generation)
    }

    /// The offset expected next from a partition.
    #[must_use]
    pub fn expected(&self, partition: Partition) -> Option<NextOffset> {
        let inner = self.lock();
        inner.partitions.get(&partition).map(|assigned| assigned.expected)
    }

    /// All partitions assigned.
    #[must_use]
    pub fn partitions(&self) -> Vec<Partition> {
        self.lock().partitions.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known(progress: i64, group: Option<i64>, (journal_start, journal_end): (i64, i64)) -> Known {
        Known {
            progress: NextOffset(progress),
            group: group.map(NextOffset),
            emitted: NextOffset::START,
            journal_start: NextOffset(journal_start),
            journal_end: NextOffset(journal_end),
            stamped_later: None,
        }
    }

    fn start(partition: i32, known: Known) -> Result<i64, Gap> {
        super::start(Partition(partition), known).map(|NextOffset(start)| start)
    }

    fn deleted(partition: i32, from: i64, to: i64) -> Gap {
        Gap::Deleted { partition: Partition(partition), from: NextOffset(from), to: NextOffset(to) }
    }

    fn overwritten(partition: i32, progress: i64, later: i64) -> Gap {
        Gap::Overwritten {
            partition: Partition(partition),
            progress: NextOffset(progress),
            later: Offset(later),
        }
    }

    #[test]
    fn the_smaller_of_progress_and_group_offset_is_where_to_resume() {
        assert_eq!(start(0, known(50, Some(40), (0, 100))), Ok(40));
        assert_eq!(start(0, known(40, Some(50), (0, 100))), Ok(40));
        assert_eq!(start(0, known(0, None, (0, 0))), Ok(0));
    }

    #[test]
    fn without_group_offsets_everything_the_journal_holds_is_emitted_again() {
        assert_eq!(start(0, known(50, None, (0, 100))), Ok(0));
        // What the journal no longer holds is known to be emitted by the table, or by nobody.
        let known = |emitted| Known { emitted: NextOffset(emitted), ..known(50, None, (30, 100)) };
        assert_eq!(start(0, known(30)), Ok(30));
        assert_eq!(start(0, known(50)), Ok(30));
    }

    #[test]
    fn without_group_offsets_nothing_is_taken_for_emitted_that_the_table_does_not_know_to_be() {
        for group in [None, Some(0)] {
            let known = |emitted| Known { emitted: NextOffset(emitted), ..known(50, group, (30, 100)) };
            for emitted in [0, 29] {
                let gap = deleted(0, emitted, 30);
                assert_eq!(start(0, known(emitted)), Err(gap), "{group:?}");
            }
        }
    }

    #[test]
    fn records_gone_before_they_were_persisted_or_emitted_are_a_gap_and_never_skipped() {
        let gap = |from, to| Err(deleted(3, from, to));
        assert_eq!(start(3, known(20, Some(20), (30, 100))), gap(20, 30));
        assert_eq!(start(3, known(40, Some(20), (30, 100))), gap(20, 30));
        assert_eq!(start(3, known(0, None, (30, 100))), gap(0, 30));
        assert_eq!(
            start(3, known(20, None, (0, 10))),
            Err(Gap::Rewound { partition: Partition(3), end: NextOffset(10), progress: NextOffset(20) })
        );
        let text = deleted(3, 20, 30).to_string();
        assert!(text.contains("partition 3 lacks the offsets 20 to 29"), "{text}");
    }

    #[test]
    fn a_journal_with_later_records_below_the_progress_is_another_one() {
        // It lost its end, at 95, and has grown past the progress since.
        let known = |later: Option<i64>| Known {
            stamped_later: later.map(Offset),
            ..known(101, Some(101), (0, 106))
        };
        assert_eq!(start(3, known(Some(95))), Err(overwritten(3, 101, 95)));
        assert_eq!(start(3, known(Some(101))), Ok(101));
        assert_eq!(start(3, known(Some(104))), Ok(101));
        assert_eq!(start(3, known(None)), Ok(101));
        // Its topic was created again, and the group's offsets went with it.
        let created_again = Known { group: None, emitted: NextOffset(101), ..known(Some(0)) };
        let gap = start(3, created_again).unwrap_err();
        assert_eq!(gap, overwritten(3, 101, 0));
        let text = gap.to_string();
        assert!(text.contains("partition 3 is not the one that was persisted"), "{text}");
        assert!(text.contains("progress set --partition 3 --offset 0 --force"), "{text}");
    }

    #[test]
    fn what_is_gone_and_known_to_be_emitted_is_no_gap() {
        let known = |emitted| Known { emitted: NextOffset(emitted), ..known(40, Some(20), (30, 100)) };
        assert_eq!(start(3, known(30)), Ok(30));
        assert_eq!(start(3, known(40)), Ok(30));
        assert_eq!(start(3, known(29)), Err(deleted(3, 29, 30)));
        let accepted_loss = Known { progress: NextOffset(30), emitted: NextOffset(30), ..known(0) };
        assert_eq!(start(3, accepted_loss), Ok(30));
    }

    proptest! {
        #[test]
        fn a_start_skips_nothing_that_is_not_both_persisted_and_emitted(
            progress in 0..100i64, group in proptest::option::of(0..100i64), emitted in 0..100i64,
            first in 0..100i64, length in 0..100i64,
        ) {
            let emitted = emitted.min(progress);
            let known = Known { emitted: NextOffset(emitted), ..known(progress, group, (first, first + length)) };
            if let Ok(from) = start(0, known) {
                prop_assert!(from <= progress);
                prop_assert!(from >= first && from <= first + length);
                // All before it is emitted, as the group or the table knows.
                prop_assert!(from <= group.unwrap_or(0).max(emitted));
            }
        }
    }

    #[test]
    fn records_of_an_earlier_assignment_are_distinguished() {
        let (assignment, one) = (Assignment::default(), Partition(1));
        assignment.add(one, NextOffset(10), NextOffset(5));
        let polled = assignment.polled(one, Offset(5)).unwrap();
        assert_eq!((polled.persisted_below, polled.expected), (NextOffset(10), NextOffset(5)));
        assert_eq!(assignment.polled(one, Offset(6)).unwrap().expected, NextOffset(6));
        assert!(assignment.is_current(one, polled.generation));
        assignment.remove(one);
        assert_eq!(assignment.polled(one, Offset(7)), None);
        assignment.add(one, NextOffset(10), NextOffset(5));
        assert!(!assignment.is_current(one, polled.generation));
        assert_eq!(assignment.partitions(), [one]);
    }
}
