//! Poll: reads the journal on a thread of its own and gathers batches.
//!
//! A thread, because a rebalance callback may block for Postgres ([`crate::journal::membership`]), and because `StreamConsumer` can
//! lose wake-ups (fede1024/rust-rdkafka#665). Polling never stops: when nobody takes the batches, the partitions are paused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use milepost_shared::journal::answer::Position;
use milepost_shared::kafka::client;
use milepost_shared::kafka::topics::TopicNames;
use milepost_shared::kafka::trouble::{self, Doubt, Next, Troubles};
use milepost_shared::program::crash::{Crash, CrashPoint};
use milepost_shared::program::pages::Readiness;
use milepost_shared::program::settings::KafkaSettings;
use milepost_shared::store::connection::Connections;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use crate::emit::emitter::EmittedOffsets;
use crate::journal::assign::{Assigned, Assignment, Gap};
use crate::journal::membership::{Membership, READING, REQUEST_TIMEOUT};
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
/// Longest wait for the brokers to tell of the topic after an error. Nothing is polled meanwhile.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Why polling ended by itself. All of them are for an operator, or for a new session, to mend.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// The journal lacks records that are needed.
    #[error(transparent)]
    Gap(#[from] Gap),
    /// The client is beyond repair; a new one may do.
    #[error("Kafka client failed: {0}")]
    Kafka(#[from] KafkaError),
    /// The client will never connect again ([`client::are_forgotten`]).
    #[error("the Kafka client knows no broker any more")]
    NoBrokers,
    /// The journal ends before what was polled of it, or offsets are used a second time. The next session finds out at
    /// assignment whether that concerns what is persisted, and if so stops there.
    #[error("the journal was truncated: {0}")]
    LostEnd(String),
    /// Postgres did not tell where to start.
    #[error("cannot read the progress of the partitions assigned: {0}")]
    Progress(String),
}

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
    PoisonRun(i32, usize),
}

/// The polling thread's own state.
pub struct Poller {
    consumer: Arc<BaseConsumer<Membership>>,
    polled: mpsc::Sender<Polled>,
    wanted: Arc<Semaphore>,
    runtime: Handle,
    crash: Crash,
    batch: Batch,
    paused: bool,
    accounts: KnownAccounts,
    /// Partitions stopped at a record: the assignment in which they met it, and the reason.
    stopped: BTreeMap<i32, (u64, String)>,
    /// Those stopped elsewhere.
    stopped_behind: StoppedPartitions,
    /// An error of reading, of which it is not known whether it stands.
    doubt: Option<Doubt>,
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
        let membership = Membership::new(settings, connections, shared, stop);
        let config = client::journal_member(&settings.kafka, settings.session_timeout);
        let consumer: BaseConsumer<Membership> = config.create_with_context(membership)?;
        consumer.subscribe(&[&settings.topics.uploads])?;
        // What an earlier session was told, and stands, this one is told as well.
        shared.troubles.over(READING);
        Ok(Self {
            consumer: Arc::new(consumer),
            polled: shared.polled.clone(),
            wanted: Arc::clone(&shared.wanted),
            runtime: Handle::current(),
            crash: shared.crash.clone(),
            batch: Batch::default(),
            paused: false,
            accounts: shared.accounts.clone(),
            stopped: BTreeMap::new(),
            stopped_behind: shared.stopped.clone(),
            doubt: None,
        })
    }

    /// The client, for committing offsets elsewhere.
    #[must_use]
    pub fn consumer(&self) -> Arc<BaseConsumer<Membership>> {
        Arc::clone(&self.consumer)
    }

    /// Polls until `stop`. What is gathered and not taken by then is polled again in another session.
    ///
    /// # Errors
    /// [`PollError`]
    pub fn run(mut self, stop: &CancellationToken) -> Result<(), PollError> {
        let bounds = self.consumer.context().settings.bounds;
        self.tell_stopped();
        while !stop.is_cancelled() {
            if let Some(failure) = self.consumer.context().take_failure() {
                return Err(failure);
            }
            for stop in self.stopped_behind.unreported() {
                self.stop_partition(stop)?;
            }
            if self.batch.is_full(bounds) && !self.wait_until_wanted() {
                self.pause()?;
            }
            if self.paused {
                self.hand_over();
            }
            let consumer = Arc::clone(&self.consumer);
            let polled = match (self.paused, self.batch.is_empty()) {
                (true, _) => consumer.poll(POLL_PAUSED),
                (false, true) => consumer.poll(POLL_IDLE),
                // First all that is there, then the persister, then what comes.
                (false, false) => match consumer.poll(Duration::ZERO) {
                    None if self.hand_over() => None,
                    None => consumer.poll(POLL_WAITING),
                    polled => polled,
                },
            };
            match polled {
                None => {}
                Some(Ok(message)) if self.paused => self.hold_back(&message)?,
                Some(Ok(message)) => self.gather(&message)?,
                Some(Err(error)) => self.judge(error)?,
            }
            self.forget_stopped();
            self.look_again()?;
        }
        Ok(())
    }

    fn gather(&mut self, message: &BorrowedMessage<'_>) -> Result<(), PollError> {
        let (partition, offset) = (message.partition(), message.offset());
        let context = self.consumer.context();
        let Some(assigned) = context.assignment.polled(partition, offset) else { return Ok(()) };
        if self.stopped.get(&partition).is_some_and(|(generation, _)| *generation == assigned.generation) {
            return Ok(());
        }
        if offset != assigned.expected {
            pass_hole(partition, offset, assigned)?;
        }
        self.crash.point(CrashPoint::Polled);
        match record::decode(message, &self.accounts) {
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
        if !self.consumer.context().assignment.is_current(partition, generation) {
            return Ok(());
        }
        tracing::error!(partition, offset, "{reason}");
        self.stopped.insert(partition, (generation, reason));
        self.tell_stopped();
        let mut one = TopicPartitionList::new();
        one.add_partition(&self.consumer.context().settings.topics.uploads, partition);
        self.consumer.pause(&one)?;
        Ok(())
    }

    /// A stopped partition that is another consumer's now, or was assigned again, is not this one's to tell of.
    fn forget_stopped(&mut self) {
        let assignment = &self.consumer.context().assignment;
        let before = self.stopped.len();
        self.stopped.retain(|partition, (generation, _)| assignment.is_current(*partition, *generation));
        if self.stopped.len() != before {
            self.tell_stopped();
        }
    }

    fn tell_stopped(&self) {
        let context = self.consumer.context();
        gauge!(metric::STOPPED).set(u32::try_from(self.stopped.len()).unwrap_or(0));
        match self.stopped.values().next() {
            Some((_, reason)) => context.readiness.down("journal", reason.clone()),
            None => context.readiness.up("journal"),
        }
        // A program that stops has said so, and stays so.
        if context.stop.is_cancelled() {
            context.readiness.down("journal", "stopping");
        }
    }

    /// Gives the batch to the persister if it wants one, and tells whether. No batch waits for records that are not there.
    fn hand_over(&mut self) -> bool {
        let wanted = self.wanted.try_acquire().map(SemaphorePermit::forget).is_ok();
        if wanted {
            self.send();
        }
        wanted
    }

    fn send(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        match self.polled.try_send(Polled::Batch(batch)) {
            Ok(()) => self.resume(),
            // What assignments have told fills it for a moment: the batch stays, and is wanted on.
            Err(TrySendError::Full(Polled::Batch(batch))) => {
                self.batch = batch;
                self.wanted.add_permits(1);
            }
            // The persister is gone, and the session ends.
            Err(_) => tracing::debug!("nobody takes the batch"),
        }
    }

    fn wait_until_wanted(&mut self) -> bool {
        if self.paused {
            return false;
        }
        let wanted = Arc::clone(&self.wanted);
        let wait = async { tokio::time::timeout(FULL_WAIT, wanted.acquire()).await };
        let Ok(Ok(permit)) = self.runtime.block_on(wait) else { return false };
        permit.forget();
        self.send();
        true
    }

    fn pause(&mut self) -> Result<(), KafkaError> {
        if !self.paused {
            tracing::debug!("paused: the persister is busy");
            counter!(metric::PAUSES).increment(1);
            self.consumer.pause(&self.consumer.assignment()?)?;
            self.paused = true;
            // What stands is told again when the pause is over.
            self.doubt = None;
            self.consumer.context().troubles.over(READING);
        }
        Ok(())
    }

    /// The first record of a partition that was won in a pause: the partition is paused as well, and goes on with it.
    fn hold_back(&self, message: &BorrowedMessage<'_>) -> Result<(), KafkaError> {
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        let mut one = TopicPartitionList::new();
        one.add_partition(topic, partition);
        self.consumer.pause(&one)?;
        self.consumer.seek(topic, partition, Offset::Offset(offset), REQUEST_TIMEOUT)?;
        tracing::debug!(partition, offset, "held back: the persister is busy");
        Ok(())
    }

    fn resume(&mut self) {
        if !std::mem::take(&mut self.paused) {
            return;
        }
        if let Err(error) = self.running().and_then(|running| self.consumer.resume(&running)) {
            self.consumer.context().fail(error.into());
        }
    }

    /// What is assigned and not stopped.
    fn running(&self) -> Result<TopicPartitionList, KafkaError> {
        let mut running = TopicPartitionList::new();
        for element in self.consumer.assignment()?.elements() {
            if !self.stopped.contains_key(&element.partition()) {
                running.add_partition(element.topic(), element.partition());
            }
        }
        Ok(running)
    }

    /// Most errors are news of a connection that librdkafka mends itself. What stands is told to operators.
    fn judge(&mut self, error: KafkaError) -> Result<(), PollError> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                self.find_gap(&error)
            }
            Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::PollExceeded) => Err(error.into()),
            code => {
                tracing::debug!(%error, "poll");
                self.consumer
                    .context()
                    .note(READING, code.map_or(error.to_string(), |code| code.to_string()));
                // Only the group can make that good, by giving out partitions.
                self.doubt = (code != Some(RDKafkaErrorCode::GroupAuthorizationFailed))
                    .then(|| Doubt::new(Instant::now()));
                Ok(())
            }
        }
    }

    /// Asks about an error, since librdkafka tells many only once: a partition that is paused and resumed tells it again. If it
    /// does not, and the brokers know the topic, it is gone.
    fn look_again(&mut self) -> Result<(), KafkaError> {
        let Some(doubt) = self.doubt.as_mut().filter(|_| !self.paused) else { return Ok(()) };
        let next = doubt.look(Instant::now());
        if next == Next::Ask {
            let running = self.running()?;
            self.consumer.pause(&running)?;
            self.consumer.resume(&running)?;
        } else if next == Next::Gone {
            let context = self.consumer.context();
            let topic = &context.settings.topics.uploads;
            let fault = match self.consumer.fetch_metadata(Some(topic), ASK_TIMEOUT) {
                Ok(metadata) => trouble::of_topic(&metadata, topic),
                Err(error) => Some(format!("{topic}: {error}")),
            };
            match fault {
                Some(fault) => context.troubles.note(READING, fault, Instant::now()),
                None => {
                    context.troubles.over(READING);
                    self.doubt = None;
                }
            }
        }
        Ok(())
    }

    /// The journal no longer holds the offset that a partition stands at: says which, or that the journal was truncated.
    fn find_gap(&self, error: &KafkaError) -> Result<(), PollError> {
        let context = self.consumer.context();
        for partition in context.assignment.partitions() {
            let topic = &context.settings.topics.uploads;
            let (start, _) = self.consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT)?;
            let Some(expected) = context.assignment.expected(partition) else { continue };
            if expected < start {
                return Err(Gap::Deleted { partition, from: expected, to: start }.into());
            }
        }
        Err(PollError::LostEnd(error.to_string()))
    }
}

/// Offsets between two records that are nobody's: a transaction's end has one, and an aborted transaction was none of
/// Milepost's. What was deleted is no hole: the brokers tell that a position lies before the journal's beginning.
fn pass_hole(partition: i32, offset: i64, assigned: Assigned) -> Result<(), PollError> {
    let Assigned { expected, persisted_below, .. } = assigned;
    if offset < expected {
        return Err(PollError::LostEnd(format!(
            "partition {partition} goes back from {expected} to {offset}"
        )));
    }
    // Below the progress it was met before.
    if offset > persisted_below {
        counter!(metric::HOLES).increment(1);
        let (first, last) = (expected, offset - 1);
        tracing::warn!(
            partition,
            first,
            last,
            "the journal has a hole: these offsets hold no records, and are passed"
        );
    }
    Ok(())
}
