//! A session: one membership in the consumer group, with its own poller, persister and emitter.
//!
//! Whatever is in doubt ends the session, and the next one starts from what Postgres and the group say. So there is one way
//! to recover, and it is the one taken at every start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use milepost_shared::journal::clock::Clock;
use milepost_shared::journal::position::Partition;
use milepost_shared::kafka::names::TopicNames;
use milepost_shared::kafka::trouble::Troubles;
use milepost_shared::program::backoff::Backoff;
use milepost_shared::program::crash::{Crash, CrashPoint};
use milepost_shared::program::pages::Readiness;
use milepost_shared::store::connect::Target;
use milepost_shared::store::connection::Connections;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::emit::emitter::{Emission, EmitSettings, Emitted, EmittedOffsets, Emitter};
use crate::expire::{self, ExpireSettings, PutBack};
use crate::journal::assign::Assignment;
use crate::journal::member::MemberConsumer;
use crate::journal::membership::PollError;
use crate::journal::poll::{PollSettings, Polled, Poller, Shared};
use crate::journal::stopped::StoppedPartitions;
use crate::persist::account::KnownAccounts;
use crate::persist::batch::Batch;
use crate::persist::transaction::{PersistError, PersistSettings, Persister};
use crate::settings::ConsumerSettings;

/// For persisting, for maintenance, and for what a rebalance asks.
const CONNECTIONS: usize = 3;
/// After so long a session counts as a good one.
const LASTING: Duration = Duration::from_secs(60);

/// All that sessions are made of.
#[derive(Clone)]
pub struct Parts {
    /// For the poller.
    pub poll: PollSettings,
    /// For the persister.
    pub persist: PersistSettings,
    /// For the emitter.
    pub emit: EmitSettings,
    /// For expiry.
    pub expire: ExpireSettings,
    /// How often the group offset is committed at most.
    pub offset_commit_interval: Duration,
    /// How long a stopping session waits for the batch in flight.
    pub drain_timeout: Duration,
    /// To Postgres.
    pub connections: Connections,
    /// Where dependencies are reported.
    pub readiness: Readiness,
    /// Errors of Kafka that stand, over several sessions too.
    pub troubles: Troubles,
    /// Crash points.
    pub crash: Crash,
}

/// Why a session ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// From the poller.
    #[error(transparent)]
    Poll(#[from] PollError),
    /// From the persister.
    #[error(transparent)]
    Persist(#[from] PersistError),
    /// From expiry.
    #[error(transparent)]
    PutBack(#[from] PutBack),
    /// The producer cannot be made.
    #[error("cannot make a Kafka client: {0}")]
    Kafka(#[from] KafkaError),
    /// A part panicked; the place is in the log.
    #[error("a part of the consumer panicked")]
    Panicked,
}

impl SessionError {
    /// Whether another session can go on by itself. If not, an operator has to act: nothing may be skipped.
    #[must_use]
    pub fn heals(&self) -> bool {
        !matches!(
            self,
            Self::Poll(PollError::Gap(_)) | Self::Persist(PersistError::PoisonRun(_)) | Self::Panicked
        )
    }
}

impl Parts {
    /// The parts that the settings ask for.
    #[must_use]
    pub fn new(settings: &ConsumerSettings, target: Target, readiness: Readiness) -> Self {
        let (kafka, topics) = (settings.kafka.clone(), TopicNames::new(&settings.kafka.topic_prefix));
        Self {
            poll: PollSettings {
                kafka: kafka.clone(),
                topics: topics.clone(),
                session_timeout: settings.session_timeout,
                bounds: settings.bounds(),
                dead_letter_run_max: settings.dead_letter_run_max,
            },
            persist: PersistSettings {
                topic: topics.uploads.clone(),
                ttl: settings.kafka.idempotency_ttl,
                timeout: settings.persist_timeout,
                backoff_max: settings.backoff_max,
                copy_rows_min: settings.copy_rows_min,
                dead_letter_run_max: settings.dead_letter_run_max,
                unknown_account_wait: settings.unknown_account_wait,
            },
            expire: ExpireSettings {
                kafka: kafka.clone(),
                topic: topics.uploads.clone(),
                grace: settings.expiry_grace,
                clock: Clock::new(settings.test.clock_offset_ms),
                interval: settings.maintenance_interval,
                timeout: settings.persist_timeout + Duration::from_secs(30),
            },
            emit: EmitSettings {
                kafka,
                topics,
                result_linger: settings.result_linger,
                fact_linger: settings.fact_linger,
                backoff_max: settings.backoff_max,
            },
            offset_commit_interval: settings.offset_commit_interval,
            drain_timeout: settings.drain_timeout,
            connections: Connections::new(target, CONNECTIONS),
            readiness,
            troubles: Troubles::default(),
            crash: Crash::new(settings.test.crash_at.clone()),
        }
    }
}

/// Runs sessions until `stop`, one after the other.
///
/// # Errors
/// What no other session heals.
pub async fn run_all(
    parts: &Parts,
    backoff_max: Duration,
    stop: &CancellationToken,
) -> Result<(), SessionError> {
    let mut backoff = Backoff::new(backoff_max);
    let mut begun = Instant::now();
    while !stop.is_cancelled() {
        let Err(error) = run(parts, stop).await else { continue };
        if !error.heals() {
            return Err(error);
        }
        tracing::warn!(%error, "session ended; another one starts from what is persisted");
        // A session that lasted was a good one: the next trouble is a new one.
        if begun.elapsed() > LASTING {
            backoff = Backoff::new(backoff_max);
        }
        begun = Instant::now();
        backoff.pause(stop).await;
    }
    Ok(())
}

/// Runs one session until `stop`, or until something is in doubt.
///
/// # Errors
/// [`SessionError`]; what was polled and not persisted is polled again in the next session.
async fn run(parts: &Parts, stop: &CancellationToken) -> Result<(), SessionError> {
    let session = stop.child_token();
    let hard = CancellationToken::new();
    let partitions = usize::try_from(parts.poll.kafka.partitions).unwrap_or(1);
    // One batch, and a poison run for each partition that is assigned.
    let (polled, to_persist) = mpsc::channel(2 + 2 * partitions);
    let (persisted, to_emit) = mpsc::channel(1);
    let shared = Shared {
        assignment: Assignment::default(),
        persisting: Arc::new(Mutex::new(())),
        wanted: Arc::new(Semaphore::new(0)),
        polled,
        emitted: EmittedOffsets::default(),
        accounts: KnownAccounts::default(),
        stopped: StoppedPartitions::default(),
        readiness: parts.readiness.clone(),
        troubles: parts.troubles.clone(),
        crash: parts.crash.clone(),
    };
    let poller = Poller::new(&parts.poll, &parts.connections, &shared, session.clone())?;
    let consumer = poller.consumer();
    let emitter = Emitter::new(
        parts.emit.clone(),
        shared.stopped.clone(),
        parts.readiness.clone(),
        parts.crash.clone(),
        hard.clone(),
    )?;

    let poll_stop = session.clone();
    let polling = tokio::task::spawn_blocking(move || {
        let result = poller.run(&poll_stop).map_err(SessionError::from);
        poll_stop.cancel();
        result
    });
    let offsets = Offsets {
        consumer,
        assignment: shared.assignment.clone(),
        topic: parts.poll.topics.uploads.clone(),
        crash: parts.crash.clone(),
    };
    let emitting = tokio::spawn(emit(
        emitter,
        hard.clone(),
        to_emit,
        offsets,
        shared.emitted.clone(),
        parts.offset_commit_interval,
    ));
    let expiring = tokio::spawn(maintain(
        parts.clone(),
        shared.emitted.clone(),
        shared.assignment.clone(),
        session.clone(),
    ));
    let persisting = tokio::spawn(persist(
        Persister::new(
            parts.persist.clone(),
            parts.connections.clone(),
            shared.accounts.clone(),
            shared.stopped.clone(),
            parts.readiness.clone(),
            parts.crash.clone(),
            hard.clone(),
        ),
        shared,
        to_persist,
        persisted,
        session.clone(),
    ));

    session.cancelled().await;
    let overrun = hard.clone();
    let drain_timeout = parts.drain_timeout;
    let deadline = tokio::spawn(async move {
        tokio::time::sleep(drain_timeout).await;
        overrun.cancel();
    });
    let (polling, persisting, emitting, expiring) = tokio::join!(polling, persisting, emitting, expiring);
    deadline.abort();
    // Leaving the group may block, and calls back into the runtime.
    let left = match emitting {
        Ok(consumer) => tokio::task::spawn_blocking(move || drop(consumer)).await,
        Err(panicked) => Err(panicked),
    };
    let panicked = |_| SessionError::Panicked;
    let results = [
        expiring.map_err(panicked).flatten(),
        persisting.map_err(panicked).flatten(),
        polling.map_err(panicked).flatten(),
        left.map_err(panicked),
    ];
    results.into_iter().find(Result::is_err).unwrap_or(Ok(()))
}

/// Looks after table partitions until the session ends.
async fn maintain(
    parts: Parts,
    emitted: EmittedOffsets,
    assignment: Assignment,
    session: CancellationToken,
) -> Result<(), SessionError> {
    let _end = session.clone().drop_guard();
    expire::run(parts.expire, parts.connections, emitted, assignment, session)
        .await
        .map_err(SessionError::from)
}

/// Persists what is polled until the session ends, then lets the emitter end.
async fn persist(
    mut persister: Persister,
    shared: Shared,
    mut polled: mpsc::Receiver<Polled>,
    persisted: mpsc::Sender<Vec<Emission>>,
    session: CancellationToken,
) -> Result<(), SessionError> {
    // However this ends, the rest of the session ends with it.
    let _end = session.clone().drop_guard();
    loop {
        shared.wanted.add_permits(1);
        let Some(batch) = next_batch(&mut persister, &mut polled, &session).await else { return Ok(()) };
        // One, unless it takes too long.
        let mut pieces = vec![batch];
        while let Some(mut batch) = pieces.pop() {
            let held = shared.persisting.lock().await;
            batch.retain_partitions(|partition, span| {
                shared.assignment.is_current(partition, span.generation)
            });
            batch.leave_stopped(&shared.stopped.snapshot());
            if batch.is_empty() {
                continue;
            }
            let result = persister.persist(batch).await;
            drop(held);
            let done = match result {
                Err(PersistError::Stopped) => return Ok(()),
                other => other?,
            };
            // The emitter takes the next batch when it has emitted the last, or is gone for good.
            if persisted.send(done.emissions).await.is_err() {
                return Ok(());
            }
            if let Some(run) = done.poison_run {
                return Err(PersistError::PoisonRun(run).into());
            }
            pieces.extend(done.rest);
        }
    }
}

async fn next_batch(
    persister: &mut Persister,
    polled: &mut mpsc::Receiver<Polled>,
    session: &CancellationToken,
) -> Option<Batch> {
    loop {
        match session.run_until_cancelled(polled.recv()).await?? {
            Polled::Batch(batch) => return Some(batch),
            Polled::PoisonRun(partition, length) => persister.resume_run(partition, length),
        }
    }
}

/// Emits what is persisted until no more comes, and commits the group offset behind it. Returns the consumer, whose last
/// owner must drop it outside of the runtime.
async fn emit(
    mut emitter: Emitter,
    until: CancellationToken,
    mut persisted: mpsc::Receiver<Vec<Emission>>,
    offsets: Offsets,
    emitted: EmittedOffsets,
    interval: Duration,
) -> Arc<MemberConsumer> {
    let mut uncommitted = BTreeMap::new();
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = true;
    while open || emitter.is_busy() {
        tokio::select! {
            batch = persisted.recv(), if open && emitter.has_room() => match batch {
                Some(batch) => if emitter.emit(batch).await.is_err() { break },
                None => open = false,
            },
            () = until.cancelled() => break,
            acknowledged = emitter.facts_acknowledged(), if emitter.is_busy() => {
                let Ok(done) = emitter.acknowledge(acknowledged).await else { break };
                emitted.note(&done);
                uncommitted.extend(done);
            }
            _ = tick.tick() => {
                // What the group has refused, as during a rebalance, is still there and committed again.
                uncommitted.retain(|partition, emitted| offsets.is_due(*partition, emitted));
                offsets.commit(&uncommitted, CommitMode::Async);
            }
        }
    }
    // Blocks for one round trip; a failure only means that some records are emitted again.
    tokio::task::block_in_place(|| offsets.commit(&uncommitted, CommitMode::Sync));
    offsets.consumer
}

/// Moves the group offset.
struct Offsets {
    consumer: Arc<MemberConsumer>,
    assignment: Assignment,
    topic: String,
    crash: Crash,
}

impl Offsets {
    /// Whether the group has still to hear of it, from this consumer.
    fn is_due(&self, partition: Partition, emitted: &Emitted) -> bool {
        self.assignment.is_current(partition, emitted.generation)
            && self.consumer.context().committed(partition) != Some(emitted.next)
    }

    fn commit(&self, emitted: &BTreeMap<Partition, Emitted>, mode: CommitMode) {
        let mut list = TopicPartitionList::new();
        for (partition, emitted) in emitted {
            if self.is_due(*partition, emitted) {
                let offset = Offset::Offset(emitted.next.0);
                // Only an invalid offset is refused, and this one came from the journal.
                let _ = list.add_partition_offset(&self.topic, partition.0, offset);
            }
        }
        if list.count() == 0 {
            return;
        }
        self.crash.point(CrashPoint::BeforeOffsetCommit);
        if let Err(error) = self.consumer.commit(&list, mode) {
            tracing::info!(%error, "group offset not committed; some records will be emitted again");
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
