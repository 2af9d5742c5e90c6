//! Poll: reads the journal on a thread of its own and gathers batches.
//!
//! A thread, because a rebalance may block for Postgres ([`crate::journal::membership`]), and because `StreamConsumer` can
//! lose wake-ups (fede1024/rust-rdkafka#665). Polling never stops: when nobody takes the batches, the partitions are paused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use metrics::{counter, gauge};
use milepost_shared::journal::position::{NextOffset, Offset, Partition, Position};
use milepost_shared::kafka::client;
use milepost_shared::kafka::names::TopicNames;
use milepost_shared::kafka::reader::{Reading, is_out_of_range};
use milepost_shared::kafka::trouble::Troubles;
use milepost_shared::program::crash::{Crash, CrashPoint};
use milepost_shared::program::pages::Readiness;
use milepost_shared::program::settings::KafkaSettings;
use milepost_shared::store::connection::Connections;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use crate::emit::emitter::EmittedOffsets;
use crate::journal::assign::{Assigned, Assignment, Gap};
use crate::journal::member::{Member, MemberConsumer, REBALANCES_MAX, Rebalance};
use crate::journal::membership::{Membership, PollError, REQUEST_TIMEOUT};
use crate::journal::record::{self, NewerSchema};
use crate::journal::stopped::{Stop, StoppedPartitions};
use crate::metric;
use crate::persist::account::KnownAccounts;
use crate::persist::batch::{Batch, Bounds};

/// How long a full batch waits to be taken before the partitions are paused, which throws prefetched records away.
const FULL_WAIT: Duration = Duration::from_secs(2);
/// Longest poll while a batch waits to be taken; it is also how late the wish for one may be seen.
const POLL_WAITING: Duration = Duration::from_millis(1);
const POLL_IDLE: Duration = Duration::from_millis(100);
/// Poll while paused: only for rebalances and events.
const POLL_PAUSED: Duration = Duration::from_millis(20);

/// What the polling thread is made of.
#[derive(Debug, Clone)]
pub struct PollSettings {
    /// Where the journal is.
    pub kafka: KafkaSettings,
    /// The journal's topic name.
    pub topics: TopicNames,
    /// When the group gives a silent member up.
    pub session_timeout: Duration,
    /// Bounds of a batch.
    pub bounds: Bounds,
    /// Most poison records in a row that is asked for at assignment.
    pub dead_letter_run_max: usize,
}

/// A message from the polling thread.
pub enum Polled {
    /// Records to persist or to emit again.
    Batch(Batch),
    /// A partition was assigned whose progress ends in a run of poison records this long.
    PoisonRun(Partition, usize),
}

/// The polling thread's own state.
pub struct Poller {
    consumer: Arc<MemberConsumer>,
    membership: Membership,
    rebalances: Receiver<Rebalance>,
    polled: mpsc::Sender<Polled>,
    wanted: Arc<Semaphore>,
    crash: Crash,
    bounds: Bounds,
    batch: Batch,
    paused: bool,
    accounts: KnownAccounts,
    /// Partitions stopped at a record: the assignment in which they met it, and the reason.
    stopped: BTreeMap<Partition, (u64, String)>,
    /// Those stopped elsewhere.
    stopped_behind: StoppedPartitions,
    /// Errors of reading.
    reading: Reading,
}

/// What a poller shares with the rest of its session.
pub struct Shared {
    /// Written by the poller.
    pub assignment: Assignment,
    /// Held by the persister during a transaction.
    pub persisting: Arc<Mutex<()>>,
    /// A permit for each batch that the persister wants.
    pub wanted: Arc<Semaphore>,
    /// To the persister: room for one batch and one poison run for each partition.
    pub polled: mpsc::Sender<Polled>,
    /// How far emission has come.
    pub emitted: EmittedOffsets,
    /// Found by the persister.
    pub accounts: KnownAccounts,
    /// Told by persister and emitter.
    pub stopped: StoppedPartitions,
    /// Reports `kafka`, `postgres` and `journal`.
    pub readiness: Readiness,
    /// Errors that make `kafka` down when they stand.
    pub troubles: Troubles,
    /// Crash points.
    pub crash: Crash,
}

impl Poller {
    /// Joins the group.
    ///
    /// # Errors
    /// The client cannot be made from the settings.
    pub fn new(
        settings: &PollSettings,
        connections: &Connections,
        shared: &Shared,
        stop: CancellationToken,
    ) -> Result<Self, KafkaError> {
        let topic = &settings.topics.uploads;
        let (asked, rebalances) = sync_channel(REBALANCES_MAX);
        let member = Member::new(topic, &shared.assignment, &shared.readiness, &shared.troubles, asked);
        let config = client::journal_member(&settings.kafka, settings.session_timeout);
        let consumer: MemberConsumer = config.create_with_context(member)?;
        consumer.subscribe(&[topic])?;
        let membership = Membership {
            runtime: Handle::current(),
            connections: connections.clone(),
            topic: topic.clone(),
            dead_letter_run_max: settings.dead_letter_run_max,
            assignment: shared.assignment.clone(),
            persisting: Arc::clone(&shared.persisting),
            emitted: shared.emitted.clone(),
            readiness: shared.readiness.clone(),
            troubles: shared.troubles.clone(),
            stop,
        };
        Ok(Self {
            consumer: Arc::new(consumer),
            membership,
            rebalances,
            polled: shared.polled.clone(),
            wanted: Arc::clone(&shared.wanted),
            crash: shared.crash.clone(),
            bounds: settings.bounds,
            batch: Batch::default(),
            paused: false,
            accounts: shared.accounts.clone(),
            stopped: BTreeMap::new(),
            stopped_behind: shared.stopped.clone(),
            reading: Reading::new(topic, &shared.troubles),
        })
    }

    /// The client, for committing offsets elsewhere.
    #[must_use]
    pub fn consumer(&self) -> Arc<MemberConsumer> {
        Arc::clone(&self.consumer)
    }

    /// Polls until `stop`. What is gathered and not taken by then is polled again in another session.
    ///
    /// # Errors
    /// [`PollError`]
    pub fn run(mut self, stop: &CancellationToken) -> Result<(), PollError> {
        self.report_stopped();
        while !stop.is_cancelled() {
            if self.consumer.context().lost.is_cancelled() {
                return Err(PollError::NoBrokers);
            }
            for stop in self.stopped_behind.unreported() {
                self.stop_partition(stop)?;
            }
            if self.batch.is_full(self.bounds) && !self.wait_until_wanted()? {
                self.pause()?;
            }
            if self.paused {
                self.hand_over()?;
            }
            let consumer = Arc::clone(&self.consumer);
            let polled = match (self.paused, self.batch.is_empty()) {
                (true, _) => consumer.poll(POLL_PAUSED),
                (false, true) => consumer.poll(POLL_IDLE),
                // First all that is there, then the persister, then what comes.
                (false, false) => match consumer.poll(Duration::ZERO) {
                    None if self.hand_over()? => None,
                    None => consumer.poll(POLL_WAITING),
                    polled => polled,
                },
            };
            // First: what was polled may be of a partition that has gone since.
            self.follow()?;
            match polled {
                None => {}
                Some(Ok(message)) if self.paused => self.hold_back(&message)?,
                Some(Ok(message)) => self.gather(&message)?,
                Some(Err(error)) => self.judge(error)?,
            }
            self.forget_stopped();
            if !self.paused {
                let (consumer, stopped) = (&*self.consumer, &self.stopped);
                self.reading.look_again(consumer, || running(consumer, stopped))?;
            }
        }
        Ok(())
    }

    /// Does what the group has asked for in the last poll.
    fn follow(&mut self) -> Result<(), PollError> {
        while let Ok(rebalance) = self.rebalances.try_recv() {
            for (partition, length) in self.membership.answer(&self.consumer, rebalance)? {
                // The queue has room for one batch and a run for each partition.
                if self.polled.try_send(Polled::PoisonRun(partition, length)).is_err() {
                    return Err(PollError::Progress("the persister takes nothing".to_owned()));
                }
            }
        }
        Ok(())
    }

    fn gather(&mut self, message: &BorrowedMessage<'_>) -> Result<(), PollError> {
        let (partition, offset) = (Partition(message.partition()), Offset(message.offset()));
        let Some(assigned) = self.membership.assignment.polled(partition, offset) else { return Ok(()) };
        if self.stopped.get(&partition).is_some_and(|(generation, _)| *generation == assigned.generation) {
            return Ok(());
        }
        if offset.before() != assigned.expected {
            pass_hole(partition, offset, assigned)?;
        }
        self.crash.point(CrashPoint::Polled);
        match record::decode(message, &self.accounts, assigned.persisted_below) {
            Ok(record) => {
                let bytes = message.payload_len() + message.key_len();
                self.batch.push(record, bytes, assigned);
            }
            Err(newer @ NewerSchema { position, .. }) => {
                let (generation, reason) = (assigned.generation, newer.to_string());
                self.stop_partition(Stop { position, generation, reason })?;
            }
        }
        Ok(())
    }

    /// A record that only a later build can read, that no topic takes, or whose key cannot be read: its partition waits for an
    /// operator, the others go on.
    fn stop_partition(&mut self, stop: Stop) -> Result<(), PollError> {
        let Stop { position: Position { partition, offset }, generation, reason } = stop;
        if !self.membership.assignment.is_current(partition, generation) {
            return Ok(());
        }
        tracing::error!(partition = partition.0, offset = offset.0, "{reason}");
        self.stopped.insert(partition, (generation, reason));
        self.report_stopped();
        let mut one = TopicPartitionList::new();
        one.add_partition(&self.membership.topic, partition.0);
        self.consumer.pause(&one)?;
        Ok(())
    }

    /// A stopped partition that is another consumer's now, or was assigned again, is not this one's to report.
    fn forget_stopped(&mut self) {
        let assignment = &self.membership.assignment;
        let before = self.stopped.len();
        self.stopped.retain(|partition, (generation, _)| assignment.is_current(*partition, *generation));
        if self.stopped.len() != before {
            self.report_stopped();
        }
    }

    fn report_stopped(&self) {
        let readiness = &self.membership.readiness;
        gauge!(metric::STOPPED).set(u32::try_from(self.stopped.len()).unwrap_or(0));
        match self.stopped.values().next() {
            Some((_, reason)) => readiness.down("journal", reason.clone()),
            None => readiness.up("journal"),
        }
        // A program that stops has said so, and stays so.
        if self.membership.stop.is_cancelled() {
            readiness.down("journal", "stopping");
        }
    }

    /// Gives the batch to the persister if it wants one, and says whether. No batch waits for records that are not there.
    fn hand_over(&mut self) -> KafkaResult<bool> {
        let wanted = self.wanted.try_acquire().map(SemaphorePermit::forget).is_ok();
        if wanted {
            self.send()?;
        }
        Ok(wanted)
    }

    fn send(&mut self) -> KafkaResult<()> {
        let batch = std::mem::take(&mut self.batch);
        match self.polled.try_send(Polled::Batch(batch)) {
            Ok(()) => return self.resume(),
            // What assignments have sent fills it for a moment: the batch stays, and is wanted on.
            Err(TrySendError::Full(Polled::Batch(batch))) => {
                self.batch = batch;
                self.wanted.add_permits(1);
            }
            // The persister is gone, and the session ends.
            Err(_) => tracing::debug!("nobody takes the batch"),
        }
        Ok(())
    }

    fn wait_until_wanted(&mut self) -> KafkaResult<bool> {
        if self.paused {
            return Ok(false);
        }
        let wanted = Arc::clone(&self.wanted);
        let wait = async { tokio::time::timeout(FULL_WAIT, wanted.acquire()).await };
        let Ok(Ok(permit)) = self.membership.runtime.block_on(wait) else { return Ok(false) };
        permit.forget();
        self.send()?;
        Ok(true)
    }

    fn pause(&mut self) -> Result<(), KafkaError> {
        if !self.paused {
            tracing::debug!("paused: the persister is busy");
            counter!(metric::PAUSES).increment(1);
            self.consumer.pause(&self.consumer.assignment()?)?;
            self.paused = true;
            // What stands is reported again when the pause is over.
            self.reading.forget();
        }
        Ok(())
    }

    /// The first record of a partition that was won in a pause: the partition is paused as well, and goes on with it.
    fn hold_back(&self, message: &BorrowedMessage<'_>) -> Result<(), KafkaError> {
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        let mut one = TopicPartitionList::new();
        one.add_partition(topic, partition);
        self.consumer.pause(&one)?;
        self.consumer.seek(topic, partition, rdkafka::Offset::Offset(offset), REQUEST_TIMEOUT)?;
        tracing::debug!(partition, offset, "held back: the persister is busy");
        Ok(())
    }

    fn resume(&mut self) -> KafkaResult<()> {
        if !std::mem::take(&mut self.paused) {
            return Ok(());
        }
        self.consumer.resume(&running(&self.consumer, &self.stopped)?)
    }

    fn judge(&mut self, error: KafkaError) -> Result<(), PollError> {
        match error.rdkafka_error_code() {
            _ if is_out_of_range(&error) => self.find_gap(&error),
            Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::PollExceeded) => Err(error.into()),
            _ => {
                self.reading.failed(&error);
                Ok(())
            }
        }
    }

    /// The journal no longer holds the offset that a partition stands at: says which, or that the journal was truncated.
    fn find_gap(&self, error: &KafkaError) -> Result<(), PollError> {
        let Membership { assignment, topic, .. } = &self.membership;
        for partition in assignment.partitions() {
            let (start, _) = self.consumer.fetch_watermarks(topic, partition.0, REQUEST_TIMEOUT)?;
            let start = NextOffset(start);
            let Some(expected) = assignment.expected(partition) else { continue };
            if expected < start {
                return Err(Gap::Deleted { partition, from: expected, to: start }.into());
            }
        }
        Err(PollError::LostEnd(error.to_string()))
    }
}

/// What is assigned and not stopped.
fn running(
    consumer: &MemberConsumer,
    stopped: &BTreeMap<Partition, (u64, String)>,
) -> KafkaResult<TopicPartitionList> {
    let mut running = TopicPartitionList::new();
    for element in consumer.assignment()?.elements() {
        if !stopped.contains_key(&Partition(element.partition())) {
            running.add_partition(element.topic(), element.partition());
        }
    }
    Ok(running)
}

/// Offsets between two records that are nobody's: a transaction's end has one, and an aborted transaction was none of
/// Milepost's. What was deleted is no hole: the brokers report that a position lies before the journal's beginning.
fn pass_hole(partition: Partition, offset: Offset, assigned: Assigned) -> Result<(), PollError> {
    let Assigned { expected, persisted_below, .. } = assigned;
    if expected.covers(offset) {
        return Err(PollError::LostEnd(format!(
            "partition {partition} goes back from {expected} to {offset}"
        )));
    }
    // Below the progress it was met before.
    if offset.before() > persisted_below {
        counter!(metric::HOLES).increment(1);
        let (first, last) = (expected.0, offset.before().last().0);
        tracing::warn!(
            partition = partition.0,
            first,
            last,
            "the journal has a hole: these offsets hold no records, and are passed"
        );
    }
    Ok(())
}
