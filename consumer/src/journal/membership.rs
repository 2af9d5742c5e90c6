//! Membership in the consumer group: which partitions come and go, and where each one starts.
//!
//! The callbacks run on the polling thread, inside `poll`, and so may block for Postgres.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use metrics::gauge;
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::kafka::client::are_forgotten;
use milepost_shared::kafka::trouble::Troubles;
use milepost_shared::program::pages::Readiness;
use milepost_shared::store::connection::Connections;
use milepost_shared::store::progress::{self, Progress};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr as RebalanceCode;
use rdkafka::{ClientContext, Offset, Statistics, TopicPartitionList};
use sqlx::PgConnection;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use crate::emit::emitter::{Emitted, EmittedOffsets};
use crate::journal::assign::{self, Assignment, Known};
use crate::journal::poll::{PollError, PollSettings, Polled, Shared};
use crate::metric;

/// Longest wait for a Kafka request inside a rebalance.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for Postgres inside a rebalance; well below `max.poll.interval.ms`.
const ASSIGN_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest wait for the batch in flight before a partition is given away.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(5);

/// What can stand in trouble.
pub(crate) const READING: &str = "reading";
const LEADING: &str = "leading";
const COMMITTING: &str = "committing";
const JOINING: &str = "joining";

/// Follows rebalances. Its callbacks run on the polling thread, inside `poll`.
pub struct Membership {
    runtime: Handle,
    connections: Connections,
    pub(crate) settings: PollSettings,
    pub(crate) assignment: Assignment,
    /// Held while a batch is in its transaction.
    persisting: Arc<Mutex<()>>,
    pub(crate) readiness: Readiness,
    pub(crate) troubles: Troubles,
    pub(crate) stop: CancellationToken,
    polled: mpsc::Sender<Polled>,
    emitted: EmittedOffsets,
    /// What the group has acknowledged of this member's commits.
    committed: std::sync::Mutex<BTreeMap<i32, i64>>,
    failure: std::sync::Mutex<Option<PollError>>,
}

impl ClientContext for Membership {
    fn stats(&self, statistics: Statistics) {
        match self.leaderless(&statistics) {
            Some(partition) => self.note(LEADING, format!("partition {partition} has no leader")),
            None => self.troubles.over(LEADING),
        }
        if let Some(error) = self.troubles.standing(Instant::now()) {
            self.readiness.down("kafka", error);
        } else if statistics.brokers.values().any(|broker| broker.state == "UP") {
            self.readiness.up("kafka");
        }
        if are_forgotten(&statistics) {
            self.fail(PollError::NoBrokers);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.readiness.down("kafka", "all brokers are down");
        }
        tracing::warn!(%error, reason, "Kafka client");
    }
}

impl ConsumerContext for Membership {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RebalanceCode,
        partitions: &mut TopicPartitionList,
    ) {
        let result = match code {
            RebalanceCode::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, partitions),
            _ => self.revoke(consumer, partitions).map_err(PollError::from),
        };
        gauge!(metric::ASSIGNED).set(u32::try_from(self.assignment.partitions().len()).unwrap_or(0));
        if let Err(error) = result {
            self.fail(error);
        }
    }

    fn commit_callback(&self, result: Result<(), KafkaError>, offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::info!(%error, "group offset not committed; trying again");
            self.note(COMMITTING, format!("group offset not committed: {error}"));
            return;
        }
        self.troubles.over(COMMITTING);
        let mut committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        for element in offsets.elements() {
            if let (Ok(()), Offset::Offset(offset)) = (element.error(), element.offset()) {
                committed.insert(element.partition(), offset);
            }
        }
    }
}

impl Membership {
    /// A member of a session. To be called in a tokio runtime.
    #[must_use]
    pub fn new(
        settings: &PollSettings,
        connections: &Connections,
        shared: &Shared,
        stop: CancellationToken,
    ) -> Self {
        Self {
            runtime: Handle::current(),
            connections: connections.clone(),
            settings: settings.clone(),
            assignment: shared.assignment.clone(),
            persisting: Arc::clone(&shared.persisting),
            readiness: shared.readiness.clone(),
            troubles: shared.troubles.clone(),
            stop,
            polled: shared.polled.clone(),
            emitted: shared.emitted.clone(),
            committed: std::sync::Mutex::default(),
            failure: std::sync::Mutex::default(),
        }
    }

    /// The offset of a partition that the group has last acknowledged to this member.
    pub(crate) fn committed(&self, partition: i32) -> Option<i64> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).get(&partition).copied()
    }

    /// Notes an error of the journal's topic.
    pub(crate) fn note(&self, what: &'static str, error: impl Display) {
        let topic = &self.settings.topics.uploads;
        self.troubles.note(what, format!("{topic}: {error}"), Instant::now());
    }

    /// A partition of this consumer that no broker leads: nothing is read of it, and librdkafka says nothing.
    fn leaderless(&self, statistics: &Statistics) -> Option<i32> {
        let topic = statistics.topics.get(&self.settings.topics.uploads)?;
        let is_led = |partition: &i32| topic.partitions.get(partition).is_none_or(|one| one.leader >= 0);
        self.assignment.partitions().into_iter().find(|partition| !is_led(partition))
    }

    /// Notes why the session cannot go on; the first reason counts.
    pub(crate) fn fail(&self, error: PollError) {
        if let PollError::Kafka(error) = &error {
            self.note(JOINING, error);
        }
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    pub(crate) fn take_failure(&self) -> Option<PollError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Finds where each partition starts, then takes all of them at once: a second assign would start them twice.
    fn assign(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &mut TopicPartitionList,
    ) -> Result<(), PollError> {
        let numbers: Vec<i32> = partitions.elements().iter().map(|element| element.partition()).collect();
        let progress = self.runtime.block_on(self.progress(&numbers))?;
        let committed = consumer.committed_offsets(partitions.clone(), REQUEST_TIMEOUT)?;
        let topic = &self.settings.topics.uploads;
        let stamped_later = self.stamped_later(consumer, &progress)?;
        for (partition, (progress, run)) in numbers.iter().copied().zip(progress) {
            let (journal_start, journal_end) =
                consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT)?;
            let group =
                committed.find_partition(topic, partition).and_then(|element| match element.offset() {
                    Offset::Offset(offset) => Some(offset),
                    _ => None,
                });
            let (next_offset, emitted) = (progress.next_offset, progress.emitted_offset);
            let stamped_later = stamped_later.get(&partition).copied();
            let known =
                Known { progress: next_offset, group, emitted, journal_start, journal_end, stamped_later };
            let start = assign::start(partition, known)?;
            tracing::info!(partition, start, progress = next_offset, ?group, "partition assigned");
            partitions.set_partition_offset(topic, partition, Offset::Offset(start))?;
            let generation = self.assignment.add(partition, next_offset, start);
            if let (Some(time), true) = (progress.log_time, start == next_offset) {
                self.emitted
                    .note(&BTreeMap::from([(partition, Emitted { generation, next: next_offset, time })]));
            }
            // The queue has room for one batch and a run for each partition.
            if self.polled.try_send(Polled::PoisonRun(partition, run)).is_err() {
                return Err(PollError::Progress("the persister takes nothing".to_owned()));
            }
        }
        consumer.incremental_assign(partitions)?;
        self.troubles.over(JOINING);
        self.troubles.over(COMMITTING);
        if !numbers.is_empty() {
            // What still fails is told again.
            self.troubles.over(READING);
        }
        Ok(())
    }

    /// The first offset of each partition that is stamped later than everything persisted. Absent if there is none, or if
    /// nothing tells how late that is: nothing is persisted, or an operator has placed the progress.
    fn stamped_later(
        &self,
        consumer: &BaseConsumer<Self>,
        progress: &[(Progress, usize)],
    ) -> Result<BTreeMap<i32, i64>, KafkaError> {
        let topic = &self.settings.topics.uploads;
        let mut times = TopicPartitionList::new();
        for (Progress { partition, log_time, .. }, _) in progress {
            if let Some(JournalTime(time)) = log_time {
                times.add_partition_offset(topic, *partition, Offset::Offset(time + 1))?;
            }
        }
        if times.count() == 0 {
            return Ok(BTreeMap::new());
        }
        let found = consumer.offsets_for_times(times, REQUEST_TIMEOUT)?;
        let mut later = BTreeMap::new();
        for element in found.elements() {
            element.error()?;
            if let Offset::Offset(offset) = element.offset() {
                later.insert(element.partition(), offset);
            }
        }
        Ok(later)
    }

    /// Progress and poison run of each partition. Waits for Postgres, but not so long that the group gives this consumer up.
    async fn progress(&self, partitions: &[i32]) -> Result<Vec<(Progress, usize)>, PollError> {
        let attempts = async {
            loop {
                let reason = match self.ask_progress(partitions).await {
                    Ok(progress) => return progress,
                    Err(sqlx::Error::Database(error)) => error.code().unwrap_or_default().into_owned(),
                    Err(other) => other.to_string(),
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

    async fn ask_progress(&self, partitions: &[i32]) -> sqlx::Result<Vec<(Progress, usize)>> {
        let asking = self.connections.ask(async |connection| self.ask(connection, partitions).await);
        let known = asking.await?;
        self.readiness.up("postgres");
        Ok(known)
    }

    async fn ask(
        &self,
        connection: &mut PgConnection,
        partitions: &[i32],
    ) -> sqlx::Result<Vec<(Progress, usize)>> {
        let (topic, max) = (&self.settings.topics.uploads, self.settings.dead_letter_run_max);
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

    fn revoke(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &TopicPartitionList,
    ) -> Result<(), KafkaError> {
        for element in partitions.elements() {
            tracing::info!(partition = element.partition(), "partition revoked");
            self.assignment.remove(element.partition());
            self.committed.lock().unwrap_or_else(PoisonError::into_inner).remove(&element.partition());
        }
        // What was not committed of them is not this member's any more.
        self.troubles.over(COMMITTING);
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

#[cfg(test)]
mod tests {
    use milepost_shared::kafka::topics::TopicNames;
    use milepost_shared::program::crash::Crash;
    use milepost_shared::program::settings::KafkaSettings;
    use sqlx::postgres::PgConnectOptions;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::journal::stopped::StoppedPartitions;
    use crate::persist::account::KnownAccounts;
    use crate::persist::batch::Bounds;
    use crate::session::SessionError;

    #[tokio::test]
    async fn a_member_that_knows_no_broker_any_more_gives_way_to_a_new_session() {
        let settings = PollSettings {
            kafka: KafkaSettings::at(""),
            topics: TopicNames::new(""),
            session_timeout: Duration::from_secs(6),
            bounds: Bounds { records: 1, locations: 1, bytes: 1 },
            dead_letter_run_max: 1,
        };
        let shared = Shared {
            assignment: Assignment::default(),
            persisting: Arc::default(),
            wanted: Arc::new(Semaphore::new(0)),
            polled: mpsc::channel(1).0,
            emitted: EmittedOffsets::default(),
            accounts: KnownAccounts::default(),
            stopped: StoppedPartitions::default(),
            readiness: Readiness::default(),
            troubles: Troubles::default(),
            crash: Crash::default(),
        };
        let stop = CancellationToken::new();
        let member = Membership::new(&settings, &Connections::new(PgConnectOptions::new(), 1), &shared, stop);
        assert!(member.take_failure().is_none());
        member.stats(Statistics::default());
        let failure = member.take_failure().unwrap();
        assert!(matches!(failure, PollError::NoBrokers) && SessionError::from(failure).heals());
    }
}
