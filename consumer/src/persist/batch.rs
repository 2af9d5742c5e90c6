//! A batch: the records that one transaction persists, of several partitions, in journal order within each.

use std::collections::{BTreeMap, BTreeSet};

use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::position::{NextOffset, Offset, Partition};

use crate::journal::assign::Assigned;
use crate::journal::record::{Content, Record};

/// Bounds of a batch; the first one reached closes it.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Records.
    pub records: usize,
    /// Locations of all records together.
    pub locations: usize,
    /// Bytes of all record values together.
    pub bytes: usize,
}

/// What a batch holds of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The assignment of the partition under which the records were polled.
    pub generation: u64,
    /// First offset that progress does not cover yet: where this consumer left the progress. A hole in the journal may lie
    /// between it and the first new record. At least `next` if progress covers all records.
    pub first_new: NextOffset,
    /// The offset after the last record.
    pub next: NextOffset,
    /// The greatest journal time in it.
    pub time: JournalTime,
}

/// The records of one transaction, at least one.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order polled.
    pub records: Vec<Record>,
    /// What it holds of each partition.
    pub spans: BTreeMap<Partition, Span>,
    /// Set if it was cut before a run of poison records beyond the bound.
    pub poison_run: Option<PoisonRun>,
    /// Bytes of each record.
    sizes: Vec<usize>,
    locations: usize,
    bytes: usize,
}

impl Batch {
    /// Adds the next record of its partition, as it is `assigned`, with the offset after the record before it.
    /// Records of an earlier assignment go: under this one they are polled again.
    pub fn push(&mut self, record: Record, bytes: usize, assigned: Assigned) {
        let Assigned { generation, persisted_below, expected } = assigned;
        let of = record.position.partition;
        if self.spans.get(&of).is_some_and(|span| span.generation != generation) {
            self.retain_partitions(|partition, _| partition != of);
        }
        self.locations += record.content.locations();
        self.bytes += bytes;
        self.sizes.push(bytes);
        let next = record.position.offset.next();
        let span = self.spans.entry(record.position.partition).or_insert(Span {
            generation,
            first_new: expected.max(persisted_below),
            next,
            time: record.time,
        });
        span.next = next;
        span.time = span.time.max(record.time);
        self.records.push(record);
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether a bound is reached.
    #[must_use]
    pub fn is_full(&self, bounds: Bounds) -> bool {
        self.records.len() >= bounds.records
            || self.locations >= bounds.locations
            || self.bytes >= bounds.bytes
    }

    /// Drops the records of partitions for which `keep` is false, such as those lost in a rebalance.
    pub fn retain_partitions(&mut self, keep: impl Fn(Partition, &Span) -> bool) {
        let before = self.spans.len();
        self.spans.retain(|partition, span| keep(*partition, span));
        if self.spans.len() == before {
            return;
        }
        let kept: BTreeSet<Partition> = self.spans.keys().copied().collect();
        self.retain_records(|record| kept.contains(&record.position.partition));
        self.poison_run.take_if(|run| !kept.contains(&run.partition));
    }

    fn retain_records(&mut self, keep: impl Fn(&Record) -> bool) {
        let mut sizes = std::mem::take(&mut self.sizes).into_iter();
        let kept = &mut self.sizes;
        self.records.retain(|record| {
            let (keep, size) = (keep(record), sizes.next());
            kept.extend(size.filter(|_| keep));
            keep
        });
        self.sum();
    }

    fn sum(&mut self) {
        self.locations = self.records.iter().map(|record| record.content.locations()).sum();
        self.bytes = self.sizes.iter().sum();
    }

    /// Cuts it in two by records: keeps the first half, and returns the rest, which goes on where the first half ends.
    /// `None` if there is one record only.
    pub fn halve(&mut self) -> Option<Self> {
        let half = self.records.len() / 2;
        if half == 0 {
            return None;
        }
        let mut rest = Self {
            records: self.records.split_off(half),
            sizes: self.sizes.split_off(half),
            poison_run: self.poison_run.take(),
            ..Self::default()
        };
        let (kept, left) = (ends(&self.records), ends(&rest.records));
        for (partition, span) in &mut self.spans {
            let (kept, left) = (kept.get(partition), left.get(partition));
            if let Some((_, time)) = left {
                let first_new = span.first_new.max(kept.map_or(span.first_new, |(next, _)| *next));
                rest.spans.insert(*partition, Span { first_new, time: *time, ..*span });
            }
            if let Some((next, time)) = kept {
                if left.is_some() {
                    span.next = *next;
                    span.first_new = span.first_new.min(*next);
                }
                span.time = *time;
            }
        }
        self.spans.retain(|partition, _| kept.contains_key(partition));
        self.sum();
        rest.sum();
        Some(rest)
    }

    /// Turns the uploads of accounts that do not exist into poison records.
    pub fn refuse_strangers(&mut self, exists: impl Fn(AccountId) -> bool) {
        for record in &mut self.records {
            let Some(poison) = record.stranger.take() else { continue };
            if matches!(&record.content, Content::Good(good) if !exists(good.account)) {
                self.locations -= record.content.locations();
                record.content = Content::Poison(*poison);
            }
        }
    }

    /// Drops what stopped partitions hold from where they stopped: by partition and assignment, the offset.
    pub fn leave_stopped(&mut self, stopped: &BTreeMap<(Partition, u64), Offset>) {
        for ((partition, generation), offset) in stopped {
            if self.spans.get(partition).is_some_and(|span| span.generation == *generation) {
                self.cut(*partition, *offset);
            }
        }
    }

    /// Drops the records of a partition from `offset` on, and with them the run of poison records behind them.
    pub fn cut(&mut self, partition: Partition, offset: Offset) {
        self.poison_run.take_if(|run| run.partition == partition);
        self.retain_records(|record| {
            record.position.partition != partition || record.position.offset < offset
        });
        match ends(&self.records).get(&partition) {
            // Right behind a record, not before the one that was cut: a hole may lie between them, and progress covers a hole
            // only when a record behind it is persisted.
            Some((next, time)) => {
                if let Some(span) = self.spans.get_mut(&partition) {
                    span.next = *next;
                    span.first_new = span.first_new.min(*next);
                    span.time = *time;
                }
            }
            None => drop(self.spans.remove(&partition)),
        }
    }

    /// Whether progress does not cover a record yet, so that it has to be decided and persisted.
    #[must_use]
    pub fn is_new(&self, record: &Record) -> bool {
        self.spans
            .get(&record.position.partition)
            .is_some_and(|span| !span.first_new.covers(record.position.offset))
    }
}

/// The offset after the last record of each partition, and the greatest journal time.
fn ends(records: &[Record]) -> BTreeMap<Partition, (NextOffset, JournalTime)> {
    let mut ends: BTreeMap<Partition, (NextOffset, JournalTime)> = BTreeMap::new();
    for record in records {
        let (next, time) = ends.entry(record.position.partition).or_insert((NextOffset::START, record.time));
        *next = record.position.offset.next();
        *time = (*time).max(record.time);
    }
    ends
}

/// Counts poison records in a row, per partition, so that a bad deploy stops the consumer instead of draining the topic into
/// `dead_letters`.
#[derive(Debug, Default, Clone)]
pub struct PoisonRuns(BTreeMap<Partition, usize>);

/// A run of poison records longer than the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "journal partition {partition} holds more than {max} records in a row that cannot be read, up to offset {offset}; \
     nothing from there on was moved to dead_letters. Fix their producer, or raise DEAD_LETTER_RUN_MAX to go on"
)]
pub struct PoisonRun {
    /// The journal partition.
    pub partition: Partition,
    /// The first record beyond the bound.
    pub offset: Offset,
    /// The bound.
    pub max: usize,
}

impl PoisonRuns {
    /// Continues a run that an earlier consumer left at the end of its progress, so that restarts do not drain the topic
    /// bound by bound.
    pub fn resume(&mut self, partition: Partition, length: usize) {
        self.0.insert(partition, length);
    }

    /// Goes over the new records of a batch and cuts it before the first record beyond the bound, which it returns and the
    /// batch remembers.
    pub fn bound(&mut self, batch: &mut Batch, max: usize) -> Option<PoisonRun> {
        let mut excess = None;
        for record in batch.records.iter().filter(|record| batch.is_new(record)) {
            let run = self.0.entry(record.position.partition).or_default();
            match record.content {
                Content::Good(_) => *run = 0,
                Content::Poison(_) if *run >= max => {
                    let (partition, offset) = (record.position.partition, record.position.offset);
                    excess = Some(PoisonRun { partition, offset, max });
                    break;
                }
                Content::Poison(_) => *run += 1,
            }
        }
        if let Some(run) = excess {
            batch.cut(run.partition, run.offset);
            batch.poison_run = excess;
        }
        excess
    }
}

#[cfg(test)]
mod tests {
    use milepost_shared::journal::key::KeyHash;
    use milepost_shared::journal::position::Position;
    use milepost_shared::journal::record::JournalRecord;
    use milepost_shared::location::fingerprint::Fingerprint;
    use milepost_shared::location::{Location, Upload};
    use uuid::Uuid;

    use super::*;
    use crate::journal::record::Poison;

    fn record(partition: i32, offset: i64, good: bool) -> Record {
        let content = if good {
            let upload = Upload { device: "d".to_owned(), locations: vec![Location::new(1, 2.0, 3.0)] };
            Content::Good(Box::new(JournalRecord {
                key_hash: KeyHash([0; 32]),
                account: AccountId(Uuid::nil()),
                fingerprint: Fingerprint::of(&upload),
                payload: upload.into(),
            }))
        } else {
            Content::Poison(Poison { reason: String::new(), key: None, value: None })
        };
        Record {
            position: Position::new(partition, offset),
            time: JournalTime(offset * 10),
            traceparent: None,
            content,
            stranger: None,
        }
    }

    /// Adds a record that follows on the one before it.
    fn push(batch: &mut Batch, record: Record, generation: u64, persisted_below: i64) {
        let expected = record.position.offset.0;
        batch.push(record, 100, assigned(generation, persisted_below, expected));
    }

    fn assigned(generation: u64, persisted_below: i64, expected: i64) -> Assigned {
        let (persisted_below, expected) = (NextOffset(persisted_below), NextOffset(expected));
        Assigned { generation, persisted_below, expected }
    }

    /// From where to where the new records of a partition go.
    fn ends_of(batch: &Batch, partition: i32) -> (i64, i64) {
        let Span { first_new, next, .. } = batch.spans[&Partition(partition)];
        (first_new.0, next.0)
    }

    fn batch(records: impl IntoIterator<Item = Record>, persisted_below: i64) -> Batch {
        let mut batch = Batch::default();
        for record in records {
            push(&mut batch, record, 1, persisted_below);
        }
        batch
    }

    #[test]
    fn a_span_separates_new_records_from_persisted_ones() {
        let whole = |below| ends_of(&batch((5..9).map(|offset| record(0, offset, true)), below), 0);
        assert_eq!(whole(0), (5, 9));
        assert_eq!(whole(7), (7, 9));
        let persisted = batch((5..9).map(|offset| record(0, offset, true)), 20);
        assert!(persisted.records.iter().all(|record| !persisted.is_new(record)));
        let mixed = batch((5..9).map(|offset| record(0, offset, true)), 7);
        let new: Vec<bool> = mixed.records.iter().map(|record| mixed.is_new(record)).collect();
        assert_eq!(new, [false, false, true, true]);
        assert_eq!(mixed.spans[&Partition(0)].time, JournalTime(80));
    }

    #[test]
    fn a_span_begins_where_the_consumer_left_the_progress_though_the_journal_has_a_hole_there() {
        let after_a_hole = |persisted_below, expected| {
            let mut batch = Batch::default();
            batch.push(record(0, 7, true), 100, assigned(1, persisted_below, expected));
            push(&mut batch, record(0, 8, true), 1, persisted_below);
            (ends_of(&batch, 0), batch.records.iter().all(|record| batch.is_new(record)))
        };
        assert_eq!(after_a_hole(0, 5), ((5, 9), true));
        assert_eq!(after_a_hole(5, 5), ((5, 9), true));
        // An operator has placed the progress inside of the hole.
        assert_eq!(after_a_hole(6, 5), ((6, 9), true));
        assert_eq!(after_a_hole(9, 5), ((9, 9), false));
    }

    #[test]
    fn each_bound_closes_a_batch() {
        let full = |records, locations, bytes| {
            batch((0..4).map(|offset| record(0, offset, true)), 0).is_full(Bounds {
                records,
                locations,
                bytes,
            })
        };
        assert!(!full(5, 5, 401));
        assert!(full(4, 5, 401));
        assert!(full(5, 4, 401));
        assert!(full(5, 5, 400));
    }

    #[test]
    fn a_partition_that_was_lost_and_regained_starts_over() {
        let mut batch = batch([record(0, 5, true), record(0, 6, true), record(1, 1, true)], 0);
        push(&mut batch, record(0, 5, true), 2, 5);
        assert_eq!((ends_of(&batch, 0), batch.records.len()), ((5, 6), 2));
        assert_eq!(batch.spans[&Partition(0)].generation, 2);
        assert_eq!(batch.spans[&Partition(1)].generation, 1);
    }

    #[test]
    fn what_stands_behind_a_stop_leaves_the_batch_in_the_assignment_that_was_stopped() {
        let batch = || batch((5..9).map(|offset| record(0, offset, true)).chain([record(1, 1, true)]), 0);
        let left = |generation, offset| {
            let mut batch = batch();
            batch.leave_stopped(&BTreeMap::from([((Partition(0), generation), Offset(offset))]));
            (batch.records.len(), batch.spans.get(&Partition(0)).map(|span| span.next.0))
        };
        assert_eq!(left(1, 7), (3, Some(7)));
        assert_eq!(left(1, 5), (1, None));
        assert_eq!(left(1, 20), (5, Some(9)));
        assert_eq!(left(2, 7), (5, Some(9)));
    }

    #[test]
    fn a_lost_partition_leaves_the_batch_and_the_others_stay() {
        let mut batch = batch([record(0, 1, true), record(1, 1, true), record(0, 2, true)], 0);
        batch.retain_partitions(|partition, _| partition == Partition(1));
        assert_eq!(batch.records.len(), 1);
        assert_eq!(batch.spans.keys().copied().collect::<Vec<_>>(), [Partition(1)]);
    }

    #[test]
    fn what_leaves_a_batch_makes_room_for_as_much() {
        let bounds = Bounds { records: 100, locations: 3, bytes: 300 };
        let mut batch = batch([record(0, 1, true), record(1, 1, true), record(0, 2, true)], 0);
        assert!(batch.is_full(bounds));
        batch.retain_partitions(|partition, _| partition == Partition(1));
        assert_eq!((batch.locations, batch.bytes), (1, 100));
        assert!(!batch.is_full(bounds));
        push(&mut batch, record(1, 2, true), 1, 0);
        push(&mut batch, record(1, 3, true), 1, 0);
        assert!(batch.is_full(bounds));
        batch.cut(Partition(1), Offset(3));
        assert_eq!((batch.locations, batch.bytes), (2, 200));
        // Won again: what was polled before goes.
        push(&mut batch, record(1, 2, true), 2, 0);
        assert_eq!((batch.records.len(), batch.locations, batch.bytes), (1, 1, 100));
        batch.records[0].stranger = Some(Box::new(Poison { reason: String::new(), key: None, value: None }));
        batch.refuse_strangers(|_| false);
        assert_eq!((batch.locations, batch.bytes), (0, 100));
    }

    #[test]
    fn a_batch_that_is_cut_behind_a_hole_ends_right_behind_its_last_record() {
        let mut batch = batch([record(0, 6, true)], 0);
        // Offset 7 is the mark of a transaction.
        batch.push(record(0, 8, false), 100, assigned(1, 0, 7));
        assert_eq!(ends_of(&batch, 0), (6, 9));
        batch.cut(Partition(0), Offset(8));
        assert_eq!((ends_of(&batch, 0), batch.spans[&Partition(0)].time.0), ((6, 7), 60));
        batch.leave_stopped(&BTreeMap::from([((Partition(0), 2), Offset(6))]));
        assert_eq!(batch.records.len(), 1, "another assignment was stopped");
        batch.leave_stopped(&BTreeMap::from([((Partition(0), 1), Offset(6))]));
        assert!(batch.is_empty() && batch.spans.is_empty());
    }

    #[test]
    fn the_halves_of_a_batch_follow_each_other_in_every_partition() {
        let records = [
            record(0, 5, true),
            record(1, 1, true),
            record(0, 6, true),
            record(0, 7, true),
            record(2, 3, true),
            record(0, 8, true),
        ];
        let mut first = batch(records, 7);
        let whole = first.spans.clone();
        let rest = first.halve().unwrap();
        let positions =
            |batch: &Batch| batch.records.iter().map(|record| record.position).collect::<Vec<_>>();
        let at = Position::new;
        assert_eq!(positions(&first), [at(0, 5), at(1, 1), at(0, 6)]);
        assert_eq!(positions(&rest), [at(0, 7), at(2, 3), at(0, 8)]);
        assert_eq!((first.locations, first.bytes, rest.locations, rest.bytes), (3, 300, 3, 300));
        // Of partition 0 all below 7 is persisted.
        let span = |batch: &Batch, partition| {
            let Span { first_new, next, time, generation } = batch.spans[&Partition(partition)];
            assert_eq!(generation, 1);
            (first_new.0, next.0, time.0)
        };
        assert_eq!((span(&first, 0), span(&rest, 0)), ((7, 7, 60), (7, 9, 80)));
        assert_eq!(
            (first.spans[&Partition(1)], rest.spans[&Partition(2)]),
            (whole[&Partition(1)], whole[&Partition(2)])
        );
        assert_eq!((first.spans.len(), rest.spans.len()), (2, 2));

        let mut new = batch((0..3).map(|offset| record(0, offset, true)), 0);
        let rest = new.halve().unwrap();
        assert_eq!((span(&new, 0), span(&rest, 0)), ((0, 1, 0), (1, 3, 20)));
        assert!(new.halve().is_none(), "one record is not cut");
        assert_eq!(new.records.len(), 1);
    }

    #[test]
    fn the_rest_of_a_batch_remembers_the_run_of_poison_behind_it_as_long_as_the_partition_is_there() {
        let all = [record(0, 0, true), record(1, 0, true), record(0, 1, false), record(0, 2, false)];
        let mut first = batch(all, 0);
        let run = PoisonRuns::default().bound(&mut first, 1).unwrap();
        assert_eq!(first.poison_run, Some(run));
        let mut rest = first.halve().unwrap();
        assert_eq!((first.poison_run, rest.poison_run), (None, Some(run)));
        rest.retain_partitions(|partition, _| partition == Partition(1));
        assert_eq!(rest.poison_run, None);
    }

    #[test]
    fn a_run_of_poison_is_cut_at_the_bound_and_remembered_across_batches_and_restarts() {
        let mut runs = PoisonRuns::default();
        let mut first =
            batch([record(0, 0, true), record(0, 1, false), record(1, 0, true), record(0, 2, false)], 0);
        assert_eq!(runs.bound(&mut first, 3), None);
        let mut second = batch([record(0, 3, false), record(0, 4, false), record(1, 1, true)], 0);
        assert_eq!(
            runs.bound(&mut second, 3),
            Some(PoisonRun { partition: Partition(0), offset: Offset(4), max: 3 })
        );
        assert_eq!((second.records.len(), ends_of(&second, 0).1), (2, 4));

        let mut restarted = PoisonRuns::default();
        restarted.resume(Partition(0), 3);
        let mut third = batch([record(0, 4, false)], 4);
        assert!(restarted.bound(&mut third, 3).is_some());
        assert!(third.is_empty() && third.spans.is_empty());
    }

    #[test]
    fn a_good_record_ends_a_run() {
        let mut runs = PoisonRuns::default();
        let good_every_third = (0..30).map(|offset| record(0, offset, offset % 3 == 0));
        assert_eq!(runs.bound(&mut batch(good_every_third, 0), 2), None);
    }
}
