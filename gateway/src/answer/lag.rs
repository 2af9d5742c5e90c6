//! Which partitions' answers are known to be late, so that nobody waits in vain for a consumer that is
//! behind. Pure.

use std::collections::BTreeMap;

use milepost_shared::journal::position::{Offset, Partition};

/// What is known of each partition. Bounded by the number of partitions.
#[derive(Debug, Default)]
pub struct Lag {
    /// Everything up to this offset has been answered, as far as seen.
    answered: BTreeMap<Partition, Offset>,
    /// A waiter for this offset ran out of patience; never at or below `answered`.
    missed: BTreeMap<Partition, Offset>,
}

impl Lag {
    /// A waiter for the answer of this record ran out of patience (one without any proves nothing).
    pub fn missed(&mut self, partition: Partition, offset: Offset) {
        if self.answered.get(&partition).is_none_or(|answered| *answered < offset) {
            let missed = self.missed.entry(partition).or_insert(offset);
            *missed = offset.max(*missed);
        }
    }

    /// The answer of this record was seen, so those of all records before it are there too.
    pub fn answered(&mut self, partition: Partition, offset: Offset) {
        let answered = self.answered.entry(partition).or_insert(offset);
        *answered = offset.max(*answered);
        if self.missed.get(&partition).is_some_and(|missed| missed <= answered) {
            self.missed.remove(&partition);
        }
    }

    /// Whether waiting for an answer of this partition is in vain for now.
    #[must_use]
    pub fn is_late(&self, partition: Partition) -> bool {
        self.missed.contains_key(&partition)
    }

    /// How many partitions are late.
    #[must_use]
    pub fn count(&self) -> usize {
        self.missed.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn missed(lag: &mut Lag, partition: i32, offset: i64) {
        lag.missed(Partition(partition), Offset(offset));
    }

    fn answered(lag: &mut Lag, partition: i32, offset: i64) {
        lag.answered(Partition(partition), Offset(offset));
    }

    #[test]
    fn a_partition_is_late_until_the_missed_answer_or_a_later_one_is_seen() {
        let mut lag = Lag::default();
        assert!(!lag.is_late(Partition(1)));
        missed(&mut lag, 1, 10);
        missed(&mut lag, 1, 8);
        assert!(lag.is_late(Partition(1)) && !lag.is_late(Partition(2)));
        answered(&mut lag, 1, 9);
        answered(&mut lag, 2, 99);
        assert!(lag.is_late(Partition(1)));
        answered(&mut lag, 1, 10);
        assert_eq!((lag.is_late(Partition(1)), lag.count()), (false, 0));
    }

    #[test]
    fn an_answer_seen_before_its_waiter_gave_up_makes_nothing_late() {
        let mut lag = Lag::default();
        answered(&mut lag, 1, 10);
        missed(&mut lag, 1, 10);
        assert!(!lag.is_late(Partition(1)));
    }

    proptest! {
        #[test]
        fn late_means_an_answer_was_missed_and_none_as_new_was_seen(
            events in prop::collection::vec((any::<bool>(), 0..3i32, 0..20i64), 0..60),
        ) {
            let mut lag = Lag::default();
            for (is_answered, partition, offset) in &events {
                let note = if *is_answered { answered } else { missed };
                note(&mut lag, *partition, *offset);
            }
            for partition in 0..3 {
                let newest = |kind: bool| {
                    events.iter().filter(|e| e.0 == kind && e.1 == partition).map(|e| e.2).max().unwrap_or(-1)
                };
                prop_assert_eq!(lag.is_late(Partition(partition)), newest(false) > newest(true));
            }
        }
    }
}
