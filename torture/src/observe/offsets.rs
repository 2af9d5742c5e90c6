//! The watcher of offsets: a group offset never passes what is persisted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use milepost_shared::kafka::names::TopicNames;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use sqlx::PgConnection;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use crate::evidence::{Ahead, Sources};
use crate::history::Recorder;

/// How often it looks.
const EVERY: Duration = Duration::from_millis(200);
/// Longest wait for the broker.
const REQUEST: Duration = Duration::from_secs(3);

/// The journal and its group, as the broker reports them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Journal {
    client: Arc<BaseConsumer>,
    topics: TopicNames,
    partitions: i32,
}

impl Journal {
    pub(super) fn new(sources: &Sources, partitions: i32) -> anyhow::Result<Self> {
        let client = Arc::new(sources.kafka.consumer(&sources.group)?);
        Ok(Self { client, topics: sources.topics.clone(), partitions })
    }

    /// The group's offsets; a partition without one is absent. `None` if the broker does not answer.
    async fn committed(&self) -> Option<BTreeMap<i32, i64>> {
        let journal = self.clone();
        let asking = tokio::task::spawn_blocking(move || {
            let mut list = TopicPartitionList::new();
            list.add_partition_range(&journal.topics.uploads, 0, journal.partitions - 1);
            journal.client.committed_offsets(list, REQUEST)
        });
        let committed = asking.await.ok()?.ok()?;
        let offset = |offset| if let Offset::Offset(offset) = offset { Some(offset) } else { None };
        let committed = committed.elements();
        Some(committed.iter().filter_map(|one| Some((one.partition(), offset(one.offset())?))).collect())
    }

    /// How many records there are. `None` if the broker does not answer.
    pub(super) async fn ends(&self) -> Option<i64> {
        let journal = self.clone();
        let asking = tokio::task::spawn_blocking(move || {
            let end =
                |partition| journal.client.fetch_watermarks(&journal.topics.uploads, partition, REQUEST).ok();
            (0..journal.partitions).map(|partition| Some(end(partition)?.1)).sum()
        });
        asking.await.ok()?
    }
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) ahead: Vec<Ahead>,
    pub(super) reads: u64,
    /// By partition, the stretch that goes on, or when it was last seen not to be ahead.
    current: BTreeMap<i32, Current>,
}

#[derive(Debug)]
enum Current {
    Behind(Duration),
    Ahead(Ahead),
}

pub(super) async fn run(
    sources: Sources,
    journal: Journal,
    recorder: Recorder,
    stop: CancellationToken,
) -> Seen {
    let mut connection = Connection::new(&sources);
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Seen::default();
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        // In this order: what is persisted only grows, so it must have passed what was committed before.
        let Some(committed) = journal.committed().await else { continue };
        let Some(progress) = connection.ask(progress).await else { continue };
        seen.look(recorder.now(), &committed, &progress);
    }
    seen.end();
    seen
}

/// `partition_progress.next_offset` by partition.
pub(super) async fn progress(connection: &mut PgConnection) -> sqlx::Result<BTreeMap<i32, i64>> {
    let rows = sqlx::query_as("SELECT partition, next_offset FROM partition_progress");
    let rows: Vec<(i32, i64)> = rows.fetch_all(connection).await?;
    Ok(rows.into_iter().collect())
}

impl Seen {
    fn look(&mut self, now: Duration, committed: &BTreeMap<i32, i64>, progress: &BTreeMap<i32, i64>) {
        self.reads += 1;
        for (partition, committed) in committed {
            let next_offset = progress.get(partition).copied().unwrap_or(0);
            let current = self.current.remove(partition).unwrap_or(Current::Behind(Duration::ZERO));
            let current = match current {
                Current::Ahead(ahead) if *committed > next_offset => {
                    Current::Ahead(Ahead { to: now, ..ahead })
                }
                Current::Behind(after) if *committed > next_offset => Current::Ahead(Ahead {
                    partition: *partition,
                    after,
                    from: now,
                    to: now,
                    committed: *committed,
                    next_offset,
                }),
                Current::Ahead(ahead) => {
                    self.ahead.push(ahead);
                    Current::Behind(now)
                }
                Current::Behind(_) => Current::Behind(now),
            };
            self.current.insert(*partition, current);
        }
    }

    fn end(&mut self) {
        let current = std::mem::take(&mut self.current).into_values();
        self.ahead.extend(current.filter_map(|current| match current {
            Current::Ahead(ahead) => Some(ahead),
            Current::Behind(_) => None,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_that_follow_one_another_make_a_stretch() {
        let mut seen = Seen::default();
        let offsets = [(5, 5), (6, 5), (7, 5), (7, 7), (8, 7)];
        for (second, (committed, next_offset)) in (1..).zip(offsets) {
            let now = Duration::from_secs(second);
            seen.look(now, &BTreeMap::from([(0, committed)]), &BTreeMap::from([(0, next_offset)]));
        }
        seen.end();
        let stretch = |after, from, to, committed, next_offset| {
            let [after, from, to] = [after, from, to].map(Duration::from_secs);
            Ahead { partition: 0, after, from, to, committed, next_offset }
        };
        assert_eq!(seen.ahead, [stretch(1, 2, 3, 6, 5), stretch(4, 5, 5, 8, 7)]);
        assert_eq!(seen.reads, 5);
    }
}
