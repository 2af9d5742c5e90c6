//! Membership in the consumer group: which partitions come and go, and where each one starts.
//!
//! All of it happens on the polling thread, between two polls, and so may block for Postgres.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::position::{NextOffset, Offset, Partition};
use milepost_shared::kafka::reader::{READING, offsets_at};
use milepost_shared::kafka::trouble::Troubles;
use milepost_shared::program::pages::Readiness;
use milepost_shared::store::connection::Connections;
use milepost_shared::store::progress::{self, Progress};
use milepost_shared::store::trouble;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, KafkaResult};
use sqlx::PgConnection;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::emit::emitter::{Emitted, EmittedOffsets};
use crate::journal::assign::{self, Assignment, Gap, Known};
use crate::journal::member::{COMMITTING, MemberConsumer, Rebalance};

/// Longest wait for a Kafka request inside a rebalance.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for Postgres inside a rebalance; well below `max.poll.interval.ms`.
const ASSIGN_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest wait for the batch in flight before a partition is given away.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(5);
/// What can stand in trouble.
const JOINING: &str = "joining";

/// Why polling ended by itself. All of them are for an operator, or for a new session, to fix.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// The journal lacks records that are needed.
    #[error(transparent)]
    Gap(#[from] Gap),
    /// The client is beyond repair; a new one may do.
    #[error("Kafka client failed: {0}")]
    Kafka(#[from] KafkaError),
    /// The client will never connect again ([`milepost_shared::kafka::client::are_forgotten`]).
    #[error("the Kafka client knows no broker any more")]
    NoBrokers,
    /// The journal ends before what was polled of it, or offsets are used a second time. The next session finds out at
    /// assignment whether that concerns what is persisted, and if so stops there.
    #[error("the journal was truncated: {0}")]
    LostEnd(String),
    /// Postgres did not say where to start.
    #[error("cannot read the progress of the partitions assigned: {0}")]
    Progress(String),
}

/// A run of poison records that ends at a partition's progress: the partition, and how long it is.
pub type RunBefore = (Partition, usize);

/// Answers rebalances.
pub struct Membership {
    pub(crate) runtime: Handle,
    pub(crate) connections: Connections,
    /// The journal's name.
    pub(crate) topic: String,
    /// Most poison in a row that is asked for.
    pub(crate) dead_letter_run_max: usize,
    pub(crate) assignment: Assignment,
    /// Held while a batch is in its transaction.
    pub(crate) persisting: Arc<Mutex<()>>,
    pub(crate) emitted: EmittedOffsets,
    pub(crate) readiness: Readiness,
    pub(crate) troubles: Troubles,
    pub(crate) stop: CancellationToken,
}

impl Membership {
    /// Does what the group asks for. Returns the poison runs before the partitions that have come.
    ///
    /// # Errors
    /// [`PollError`]; the partitions are not taken then.
    pub fn answer(
        &self,
        consumer: &MemberConsumer,
        rebalance: Rebalance,
    ) -> Result<Vec<RunBefore>, PollError> {
        let answered = match rebalance {
            Rebalance::Assign(partitions) => self.assign(consumer, partitions),
            Rebalance::Revoke(partitions) => {
                self.revoke(consumer, &partitions).map(|()| Vec::new()).map_err(PollError::from)
            }
        };
        consumer.context().show();
        if let Err(PollError::Kafka(error)) = &answered {
            self.troubles.note(JOINING, format!("{}: {error}", self.topic), Instant::now());
        }
        answered
    }

    /// Finds where each partition starts, then takes all of them at once: a second assign would start them twice.
    fn assign(
        &self,
        consumer: &MemberConsumer,
        mut partitions: TopicPartitionList,
    ) -> Result<Vec<RunBefore>, PollError> {
        let numbers: Vec<Partition> =
            partitions.elements().iter().map(|element| Partition(element.partition())).collect();
        let progress = self.runtime.block_on(self.progress(&numbers))?;
        let committed = consumer.committed_offsets(partitions.clone(), REQUEST_TIMEOUT)?;
        let topic = &self.topic;
        let stamped_later = self.stamped_later(consumer, &progress)?;
        let mut runs = Vec::with_capacity(numbers.len());
        for (partition, (progress, run)) in numbers.iter().copied().zip(progress) {
            let (low, high) = consumer.fetch_watermarks(topic, partition.0, REQUEST_TIMEOUT)?;
            let (journal_start, journal_end) = (NextOffset(low), NextOffset(high));
            let group =
                committed.find_partition(topic, partition.0).and_then(|element| match element.offset() {
                    rdkafka::Offset::Offset(offset) => Some(NextOffset(offset)),
                    _ => None,
                });
            let (next_offset, emitted) = (progress.next_offset, progress.emitted_offset);
            let stamped_later = stamped_later.get(&partition).copied();
            let known =
                Known { progress: next_offset, group, emitted, journal_start, journal_end, stamped_later };
            let start = assign::start(partition, known)?;
            tracing::info!(
                partition = partition.0,
                start = start.0,
                progress = next_offset.0,
                ?group,
                "partition assigned"
            );
            partitions.set_partition_offset(topic, partition.0, rdkafka::Offset::Offset(start.0))?;
            let generation = self.assignment.add(partition, next_offset, start);
            if let (Some(time), true) = (progress.log_time, start == next_offset) {
                self.emitted
                    .note(&BTreeMap::from([(partition, Emitted { generation, next: next_offset, time })]));
            }
            runs.push((partition, run));
        }
        consumer.incremental_assign(&partitions)?;
        self.troubles.over(JOINING);
        self.troubles.over(COMMITTING);
        if !numbers.is_empty() {
            // What still fails is reported again.
            self.troubles.over(READING);
        }
        Ok(runs)
    }

    /// The first offset of each partition that is stamped later than everything persisted. Absent if there is none, or if
    /// nothing says how late that is: nothing is persisted, or an operator has placed the progress.
    fn stamped_later(
        &self,
        consumer: &MemberConsumer,
        progress: &[(Progress, usize)],
    ) -> KafkaResult<BTreeMap<Partition, Offset>> {
        let times = progress.iter().filter_map(|(progress, _)| {
            let JournalTime(time) = progress.log_time?;
            Some((progress.partition, time + 1))
        });
        let found = offsets_at(consumer, &self.topic, times, REQUEST_TIMEOUT)?;
        let later = found.into_iter().filter_map(|(partition, place)| match place {
            rdkafka::Offset::Offset(offset) => Some((partition, Offset(offset))),
            _ => None,
        });
        Ok(later.collect())
    }

    /// Progress and poison run of each partition. Waits for Postgres, but not so long that the group gives this consumer up.
    async fn progress(&self, partitions: &[Partition]) -> Result<Vec<(Progress, usize)>, PollError> {
        let attempts = async {
            loop {
                let reason = match self.ask_progress(partitions).await {
                    Ok(progress) => return progress,
                    Err(error) => trouble::in_words(&error),
                };
                self.readiness.down("postgres", reason.clone());
                tracing::warn!(reason, "cannot read the progress; trying again");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        match self.stop.run_until_cancelled(tokio::time::timeout(ASSIGN_TIMEOUT, attempts)).await {
            Some(Ok(progress)) => Ok(progress),
            Some(Err(_)) => Err(PollError::Progress("Postgres is away for too long".to_owned())),
            None => Err(PollError::Progress("stopping".to_owned())),
        }
    }

    async fn ask_progress(&self, partitions: &[Partition]) -> sqlx::Result<Vec<(Progress, usize)>> {
        let asking = self.connections.ask(async |connection| self.ask(connection, partitions).await);
        let known = asking.await?;
        self.readiness.up("postgres");
        Ok(known)
    }

    async fn ask(
        &self,
        connection: &mut PgConnection,
        partitions: &[Partition],
    ) -> sqlx::Result<Vec<(Progress, usize)>> {
        let (topic, max) = (&self.topic, self.dead_letter_run_max);
        let mut known = Vec::with_capacity(partitions.len());
        for partition in partitions {
            progress::begin(connection, topic, *partition).await?;
        }
        let rows = progress::load(connection, topic).await?;
        for partition in partitions {
            let row = rows.iter().find(|row| row.partition == *partition).ok_or(sqlx::Error::RowNotFound)?;
            let run = progress::poison_run(connection, topic, *partition, row.next_offset, max).await?;
            known.push((*row, run));
        }
        Ok(known)
    }

    fn revoke(&self, consumer: &MemberConsumer, partitions: &TopicPartitionList) -> KafkaResult<()> {
        consumer.context().forget(partitions);
        // The next owner reads the progress: let the batch in flight finish first. If it does not, the fence decides.
        let finish = async { tokio::time::timeout(REVOKE_TIMEOUT, self.persisting.lock()).await.is_ok() };
        if !self.runtime.block_on(finish) {
            tracing::warn!("partitions were given away with a batch in flight");
        }
        // librdkafka would keep the pause for when they are won back, and resume only what is assigned then.
        consumer.resume(partitions)?;
        consumer.incremental_unassign(partitions)
    }
}
