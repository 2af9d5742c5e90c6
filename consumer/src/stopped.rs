//! Partitions that stand still before a record while all others go on, until an operator has acted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use milepost_shared::answer::Position;

/// Why a partition stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The first record that does not go on.
    pub position: Position,
    /// Which assignment of the partition it was polled under. Another one tries again.
    pub generation: u64,
    /// For the operator: what is wrong, and what to do.
    pub reason: String,
}

/// The partitions stopped in a session by what comes after polling; the poller is told, and fetches no more of them.
#[derive(Debug, Clone, Default)]
pub struct StoppedPartitions(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    at: BTreeMap<i32, (u64, i64)>,
    untold: Vec<Stop>,
}

impl StoppedPartitions {
    /// Stops a partition.
    pub fn stop(&self, stop: Stop) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Position { partition, offset } = stop.position;
        let at = inner.at.entry(partition).or_insert((stop.generation, offset));
        if at.0 == stop.generation {
            at.1 = at.1.min(offset);
        } else {
            *at = (stop.generation, offset);
        }
        inner.untold.push(stop);
    }

    /// The stops that were not told yet.
    #[must_use]
    pub fn untold(&self) -> Vec<Stop> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).untold)
    }

    /// By partition: in which assignment, and from which offset on nothing goes on.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<i32, (u64, i64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).at.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(offset: i64, generation: u64) -> Stop {
        Stop { position: Position { partition: 3, offset }, generation, reason: String::new() }
    }

    #[test]
    fn a_partition_stands_before_the_first_record_that_stopped_it_and_goes_on_in_another_assignment() {
        let stopped = StoppedPartitions::default();
        for offset in [7, 5, 9] {
            stopped.stop(stop(offset, 1));
        }
        assert_eq!(stopped.snapshot(), BTreeMap::from([(3, (1, 5))]));
        stopped.stop(stop(20, 2));
        assert_eq!(stopped.snapshot(), BTreeMap::from([(3, (2, 20))]));
        assert_eq!((stopped.untold().len(), stopped.untold().len()), (4, 0));
    }
}
