//! Partitions that stand still before a record while all others go on, until an operator has acted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use milepost_shared::journal::position::{Offset, Partition, Position};

/// Why a partition stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The first record that does not go on.
    pub position: Position,
    /// The assignment of the partition under which it was polled. The next one tries again.
    pub generation: u64,
    /// For the operator: what is wrong, and what to do.
    pub reason: String,
}

/// How many assignments of a partition have their stops remembered. What is in flight belongs to the last two or three.
const GENERATIONS_MAX: usize = 16;

/// The partitions that the persister or the emitter has stopped in a session. The poller learns of them, and fetches no more.
#[derive(Debug, Clone, Default)]
pub struct StoppedPartitions(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// The newest [`GENERATIONS_MAX`] assignments of each partition: persister and emitter may be at work on different ones.
    at: BTreeMap<(Partition, u64), Offset>,
    unreported: Vec<Stop>,
}

impl StoppedPartitions {
    /// Stops a partition.
    pub fn stop(&self, stop: Stop) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Position { partition, offset } = stop.position;
        let at = inner.at.entry((partition, stop.generation)).or_insert(offset);
        *at = (*at).min(offset);
        let of_partition = (partition, 0)..=(partition, u64::MAX);
        if inner.at.range(of_partition.clone()).count() > GENERATIONS_MAX
            && let Some((oldest, _)) = inner.at.range(of_partition).next().map(|(at, offset)| (*at, *offset))
        {
            inner.at.remove(&oldest);
        }
        inner.unreported.push(stop);
    }

    /// The stops that were not reported yet.
    #[must_use]
    pub fn unreported(&self) -> Vec<Stop> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).unreported)
    }

    /// By partition and assignment: from which offset on nothing goes on.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<(Partition, u64), Offset> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).at.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(offset: i64, generation: u64) -> Stop {
        Stop { position: Position::new(3, offset), generation, reason: String::new() }
    }

    fn at(generation: u64, offset: i64) -> ((Partition, u64), Offset) {
        ((Partition(3), generation), Offset(offset))
    }

    #[test]
    fn a_partition_stands_before_the_first_record_that_stopped_it_and_goes_on_in_another_assignment() {
        let stopped = StoppedPartitions::default();
        for offset in [7, 5, 9] {
            stopped.stop(stop(offset, 1));
        }
        assert_eq!(stopped.snapshot(), BTreeMap::from([at(1, 5)]));
        stopped.stop(stop(20, 2));
        assert_eq!(stopped.snapshot(), BTreeMap::from([at(1, 5), at(2, 20)]));
        assert_eq!((stopped.unreported().len(), stopped.unreported().len()), (4, 0));
    }

    #[test]
    fn a_stop_of_one_assignment_ends_none_of_another_whichever_comes_first() {
        let stopped = StoppedPartitions::default();
        stopped.stop(stop(20, 2));
        stopped.stop(stop(10, 1));
        assert_eq!(stopped.snapshot(), BTreeMap::from([at(1, 10), at(2, 20)]));
        for generation in 3..100 {
            stopped.stop(stop(30, generation));
        }
        assert_eq!(stopped.snapshot().len(), GENERATIONS_MAX);
        assert_eq!(stopped.snapshot().get(&(Partition(3), 99)), Some(&Offset(30)));
    }
}
