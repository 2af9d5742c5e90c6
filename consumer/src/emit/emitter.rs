//! Emit: results and facts leave in journal order, without holes, and then the group offset moves.
//!
//! A fact that failed alone while later ones got through could never be made good: subscribers would have seen a greater
//! offset. So a producer never gives up on a record, and after any failure new producers emit again, in order, everything that
//! is not acknowledged. A record that its topic will never accept stops its partition from there on, and no other.
//!
//! The emitter waits for results, since answers wait for them, but not for facts: those gather for a while, over several
//! batches, since brokers pay for each request and partition (decision 9). A batch is acknowledged when both are.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use metrics::{counter, histogram};
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::fact::{
    self, HEADER_ACCOUNT, HEADER_DEVICE, HEADER_SCHEMA, HEADER_SOURCE_OFFSET, HEADER_TRACEPARENT,
};
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::position::{NextOffset, Offset, Partition, Position};
use milepost_shared::journal::result::ResultRecord;
use milepost_shared::kafka::client;
use milepost_shared::kafka::names::TopicNames;
use milepost_shared::kafka::producer::Producer;
use milepost_shared::kafka::trouble::PATIENCE;
use milepost_shared::location::Upload;
use milepost_shared::program::backoff::Backoff;
use milepost_shared::program::crash::{Crash, CrashPoint};
use milepost_shared::program::pages::Readiness;
use milepost_shared::program::settings::KafkaSettings;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{DeliveryFuture, FutureRecord};
use tokio_util::sync::CancellationToken;

use crate::journal::stopped::{Stop, StoppedPartitions};
use crate::metric;

/// Most locations whose facts are not acknowledged, to bound memory; a record without any counts as one.
const PENDING_MAX: usize = 60_000;
/// Most such batches, since emitting them again takes a round trip for each. Uploads that come one at a time are a batch each,
/// and must not reach this bound within one [`fact_linger`](EmitSettings::fact_linger), which is a second at most.
const PENDING_BATCHES_MAX: usize = 1000;

/// What one journal record leaves behind.
#[derive(Debug)]
pub struct Emission {
    /// The record.
    pub position: Position,
    /// Its journal time.
    pub time: JournalTime,
    /// The assignment of the partition under which it was polled.
    pub generation: u64,
    /// Trace context of the request that brought it.
    pub traceparent: Option<String>,
    /// `None` for poison, and for records emitted before and forgotten since.
    pub answer: Option<Answered>,
}

/// The answer to a record.
#[derive(Debug)]
pub struct Answered {
    /// Its key.
    pub key_hash: KeyHash,
    /// The state of its key.
    pub state: KeyState,
    /// The upload, if it is a fact: it claimed the key, and is stored.
    pub fact: Option<Upload>,
}

impl Emission {
    /// Its part of [`PENDING_MAX`].
    fn size(&self) -> usize {
        let fact = self.answer.as_ref().and_then(|answered| answered.fact.as_ref());
        fact.map_or(1, |upload| upload.locations.len())
    }
}

/// How far a partition's emissions are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emitted {
    /// The assignment of the partition.
    pub generation: u64,
    /// The offset after the last.
    pub next: NextOffset,
    /// The greatest journal time.
    pub time: JournalTime,
}

/// The emitter's settings.
#[derive(Debug, Clone)]
pub struct EmitSettings {
    /// Where the topics are.
    pub kafka: KafkaSettings,
    /// The topics.
    pub topics: TopicNames,
    /// How long the producer of results waits for a fuller batch.
    pub result_linger: Duration,
    /// How long the producer of facts waits.
    pub fact_linger: Duration,
    /// Longest pause between attempts.
    pub backoff_max: Duration,
}

/// Emits batches, one after the other.
pub struct Emitter {
    settings: EmitSettings,
    results: Producer,
    facts: Producer,
    /// Batches that are not wholly acknowledged, oldest first. The results of all but the newest are.
    pending: VecDeque<Pending>,
    /// Grows until a batch is wholly acknowledged: results that get through do not repair a failing topic of facts.
    backoff: Backoff,
    stopped: StoppedPartitions,
    readiness: Readiness,
    crash: Crash,
    stop: CancellationToken,
}

/// A batch and the deliveries of its facts that are still awaited.
struct Pending {
    batch: Vec<Emission>,
    size: usize,
    begun: Instant,
    facts: VecDeque<DeliveryFuture>,
}

/// Why a record was not acknowledged.
#[derive(Debug)]
pub struct Failure {
    error: KafkaError,
    /// Set if its topic will never accept it: trying again would hold up all other partitions.
    refused: Option<Refused>,
}

#[derive(Debug)]
struct Refused {
    topic: String,
    partition: Partition,
    /// The journal record's; `None` if a broker refused a request, which may hold many records.
    offset: Option<Offset>,
}

impl From<KafkaError> for Failure {
    fn from(error: KafkaError) -> Self {
        Self { error, refused: None }
    }
}

impl Failure {
    fn new(error: KafkaError, topic: &str, partition: Partition, offset: Option<Offset>) -> Self {
        let topic = topic.to_owned();
        let refused = is_permanent(&error).then_some(Refused { topic, partition, offset });
        Self { error, refused }
    }

    /// The failure of a record that a producer has given up on.
    fn of((error, message): (KafkaError, OwnedMessage)) -> Self {
        Self::new(error, message.topic(), Partition(message.partition()), None)
    }
}

/// Whether a record fails every time, whatever the state of brokers and network.
fn is_permanent(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{InvalidMessageSize, InvalidRecord, MessageBatchTooLarge, MessageSizeTooLarge};
    let code = error.rdkafka_error_code();
    code.is_some_and(|code| {
        matches!(code, MessageSizeTooLarge | InvalidMessageSize | MessageBatchTooLarge | InvalidRecord)
    })
}

/// The program is stopping, and not everything is acknowledged.
#[derive(Debug, thiserror::Error)]
#[error("stopping")]
pub struct Stopped;

impl Emitter {
    /// # Errors
    /// The producers cannot be made from the settings.
    pub fn new(
        settings: EmitSettings,
        stopped: StoppedPartitions,
        readiness: Readiness,
        crash: Crash,
        stop: CancellationToken,
    ) -> Result<Self, KafkaError> {
        let [results, facts] = producers(&settings)?;
        // Nothing is late yet, and this session may not have to emit what an earlier one could not.
        readiness.up("emission");
        let (pending, backoff) = (VecDeque::new(), Backoff::new(settings.backoff_max));
        Ok(Self { settings, results, facts, pending, backoff, stopped, readiness, crash, stop })
    }

    /// Whether another batch may be emitted before facts are acknowledged.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.pending.len() < PENDING_BATCHES_MAX && self.size() < PENDING_MAX
    }

    /// The size of everything pending.
    fn size(&self) -> usize {
        self.pending.iter().map(|pending| pending.size).sum()
    }

    /// Whether it is waiting for acknowledgements.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Emits a batch, and waits for its results to be acknowledged for as long as that takes.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn emit(&mut self, mut batch: Vec<Emission>) -> Result<(), Stopped> {
        leave_stopped(&self.stopped, &mut batch);
        let size = batch.iter().map(Emission::size).sum();
        self.pending.push_back(Pending { batch, size, begun: Instant::now(), facts: VecDeque::new() });
        self.persevere(self.pending.len() - 1).await
    }

    /// Waits for the facts of the oldest batch. May be dropped and called again.
    ///
    /// # Errors
    /// The producer's, to be passed to [`acknowledge`](Self::acknowledge).
    pub async fn facts_acknowledged(&mut self) -> Result<(), Failure> {
        let Some(Pending { facts, begun, .. }) = self.pending.front_mut() else { return Ok(()) };
        let (late, topic) = (*begun + PATIENCE, &self.settings.topics.locations);
        let all = pin!(all_acknowledged(facts));
        report_if_late(late, &self.readiness, topic, self.facts.unless_lost(all)).await
    }

    /// Takes the result of [`facts_acknowledged`](Self::facts_acknowledged). Returns how far each partition of the oldest
    /// batch has come, or, after a failure, emits everything pending again and returns nothing.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn acknowledge(
        &mut self,
        acknowledged: Result<(), Failure>,
    ) -> Result<BTreeMap<Partition, Emitted>, Stopped> {
        if let Err(failure) = acknowledged {
            self.recover(failure).await?;
            self.persevere(0).await?;
            return Ok(BTreeMap::new());
        }
        let Some(Pending { batch, begun, .. }) = self.pending.pop_front() else { return Ok(BTreeMap::new()) };
        self.backoff = Backoff::new(self.settings.backoff_max);
        // Not earlier: results that get through do not repair a failing topic of facts.
        self.readiness.up("emission");
        histogram!(metric::EMIT, "topic" => "locations").record(begun.elapsed());
        let answered = batch.iter().filter_map(|emission| emission.answer.as_ref());
        let facts = answered.filter(|answered| answered.fact.is_some()).count();
        counter!(metric::EMITTED, "topic" => "locations").increment(facts as u64);
        self.crash.point(CrashPoint::AfterEmit);
        Ok(progress(&batch))
    }

    /// Emits the batches from `first` on until their results are acknowledged; after a failure, everything pending.
    async fn persevere(&mut self, mut first: usize) -> Result<(), Stopped> {
        let stop = self.stop.clone();
        while let Err(failure) = stop.run_until_cancelled(self.attempt(first)).await.ok_or(Stopped)? {
            self.recover(failure).await?;
            first = 0;
        }
        Ok(())
    }

    /// Without brokers it would wait forever, since no record is given up on.
    async fn attempt(&mut self, first: usize) -> Result<(), Failure> {
        let Self { settings, results, facts, pending, crash, readiness, .. } = self;
        let (late, topic) = (Instant::now() + PATIENCE, &settings.topics.results);
        let delivering = pin!(async {
            for pending in pending.range_mut(first..) {
                deliver(settings, results, facts, pending, crash).await?;
            }
            Ok(())
        });
        report_if_late(late, readiness, topic, results.unless_lost(facts.unless_lost(delivering))).await
    }

    /// Stops the partition of a record that was refused, since nothing after it may be emitted; the rest of the batch goes on.
    /// Uploads that are persisted already are emitted when the partition is assigned again.
    fn stop_refused(&mut self, Failure { error, refused }: &Failure) {
        // The producer fails all records after a refused one, and any of them may be reported first.
        let later = self.pending.iter_mut().find_map(|pending| refused_among(&mut pending.facts));
        let (error, refused) = match (refused, &later) {
            (Some(refused), _) => (error, refused),
            (None, Some(Failure { error, refused: Some(refused) })) => (error, refused),
            _ => return,
        };
        let of_partition = |emission: &&Emission| emission.position.partition == refused.partition;
        let mut pending = self.pending.iter().flat_map(|pending| &pending.batch).filter(of_partition);
        let is_it =
            |emission: &&Emission| refused.offset.is_none_or(|offset| emission.position.offset == offset);
        let Some(Emission { position, generation, .. }) = pending.find(is_it) else { return };
        let (topic, Position { partition, offset }) = (&refused.topic, position);
        let reason = format!(
            "topic {topic} refuses what journal partition {partition} emits from offset {offset} on: {error}. Correct the \
             topic's configuration and start the consumer again; nothing is lost"
        );
        self.stopped.stop(Stop { position: *position, generation: *generation, reason });
        for pending in &mut self.pending {
            leave_stopped(&self.stopped, &mut pending.batch);
        }
    }

    /// Replaces the producers, after a pause. The old ones are dropped with whatever they still hold.
    async fn recover(&mut self, failure: Failure) -> Result<(), Stopped> {
        self.stop_refused(&failure);
        let Failure { error, .. } = failure;
        let topics = &self.settings.topics;
        let of_topics = [(&self.results, &topics.results), (&self.facts, &topics.locations)];
        let broken = |(producer, topic): &(&Producer, &String)| {
            Some(format!("{topic}: {}", producer.beyond_repair()?))
        };
        let error = of_topics.iter().find_map(broken).unwrap_or_else(|| error.to_string());
        self.readiness.down("emission", error.clone());
        tracing::warn!(error, "emission failed; new producers emit again what is not acknowledged");
        if !self.backoff.pause(&self.stop).await {
            return Err(Stopped);
        }
        counter!(metric::PRODUCER_REBUILDS).increment(1);
        for producer in [&self.results, &self.facts] {
            if let Err(error) = producer.rebuild() {
                tracing::error!(%error, "cannot make a producer");
            }
        }
        Ok(())
    }
}

/// Waits for acknowledgements, and reports when they are late: a producer that gives up on no record is silent about errors
/// that it retries forever, such as too few replicas.
async fn report_if_late<T>(
    late: Instant,
    readiness: &Readiness,
    topic: &str,
    acknowledged: impl Future<Output = T>,
) -> T {
    let mut acknowledged = pin!(acknowledged);
    if let Ok(done) = tokio::time::timeout_at(late.into(), acknowledged.as_mut()).await {
        return done;
    }
    readiness.down("emission", format!("{topic}: no acknowledgement for {} s", PATIENCE.as_secs()));
    acknowledged.await
}

/// The producers of results and of facts.
fn producers(settings: &EmitSettings) -> Result<[Producer; 2], KafkaError> {
    let producer = |id, linger| Producer::new(client::emissions(&settings.kafka, id, linger));
    Ok([
        producer("milepost-consumer-results", settings.result_linger)?,
        producer("milepost-consumer-facts", settings.fact_linger)?,
    ])
}

/// Hands all records of a batch to the producers, and waits until the results are acknowledged.
async fn deliver(
    settings: &EmitSettings,
    results: &Producer,
    facts: &Producer,
    pending: &mut Pending,
    crash: &Crash,
) -> Result<(), Failure> {
    let mut deliveries = VecDeque::with_capacity(pending.batch.len());
    pending.facts.clear();
    for emission in &pending.batch {
        let Some(Answered { key_hash, state, fact }) = &emission.answer else { continue };
        let key = key_hash.to_string();
        let result =
            ResultRecord { key_hash: *key_hash, record: emission.position, state: state.clone() }.encode();
        let result = || record(&settings.topics.results, emission, &key, &result);
        enqueue(results, &mut deliveries, emission.position, result).await?;
        if let Some(upload) = fact {
            let value = fact::encode(state.account, emission.time, upload);
            let fact = || {
                record(&settings.topics.locations, emission, &key, &value).headers(headers(
                    emission,
                    state.account,
                    upload,
                ))
            };
            enqueue(facts, &mut pending.facts, emission.position, fact).await?;
        }
    }
    crash.point(CrashPoint::Emitting);
    counter!(metric::EMITTED, "topic" => "results").increment(deliveries.len() as u64);
    all_acknowledged(&mut deliveries).await?;
    histogram!(metric::EMIT, "topic" => "results").record(pending.begun.elapsed());
    Ok(())
}

fn record<'a>(
    topic: &'a str,
    emission: &Emission,
    key: &'a str,
    value: &'a [u8],
) -> FutureRecord<'a, str, [u8]> {
    // The journal's partition, not one computed from the key again: the one-integer rule depends on it.
    FutureRecord::to(topic).partition(emission.position.partition.0).key(key).payload(value)
}

/// Hands a record to a producer. A full queue is back-pressure: it waits for the oldest delivery, which makes room.
async fn enqueue<'a>(
    producer: &Producer,
    deliveries: &mut VecDeque<DeliveryFuture>,
    position: Position,
    record: impl Fn() -> FutureRecord<'a, str, [u8]>,
) -> Result<(), Failure> {
    loop {
        match producer.send(record()) {
            Ok(delivery) => {
                deliveries.push_back(delivery);
                return Ok(());
            }
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => match deliveries.pop_front() {
                Some(mut delivery) => acknowledged(&mut delivery).await?,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Err(error) => {
                let Position { partition, offset } = position;
                return Err(Failure::new(error, record().topic, partition, Some(offset)));
            }
        }
    }
}

async fn acknowledged(delivery: &mut DeliveryFuture) -> Result<(), Failure> {
    match delivery.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(given_up)) => Err(Failure::of(given_up)),
        Err(_) => Err(KafkaError::Canceled.into()),
    }
}

/// Waits for all of them; may be dropped and called again. It begins with the last: once that has come, most others have, and
/// each delivery that is awaited wakes this task.
async fn all_acknowledged(deliveries: &mut VecDeque<DeliveryFuture>) -> Result<(), Failure> {
    while let Some(delivery) = deliveries.back_mut() {
        let delivered = acknowledged(delivery).await;
        deliveries.pop_back();
        if let Err(failure) = delivered {
            let refused = failure.refused.is_none().then(|| refused_among(deliveries)).flatten();
            return Err(refused.unwrap_or(failure));
        }
    }
    Ok(())
}

/// A permanent failure among deliveries that have already been reported.
fn refused_among(deliveries: &mut VecDeque<DeliveryFuture>) -> Option<Failure> {
    deliveries.iter_mut().find_map(|delivery| match acknowledged(delivery).now_or_never()? {
        Err(failure) if failure.refused.is_some() => Some(failure),
        _ => None,
    })
}

/// Drops the emissions of stopped partitions.
fn leave_stopped(stopped: &StoppedPartitions, batch: &mut Vec<Emission>) {
    let stopped = stopped.snapshot();
    if !stopped.is_empty() {
        batch.retain(|Emission { position, generation, .. }| {
            stopped.get(&(position.partition, *generation)).is_none_or(|from| position.offset < *from)
        });
    }
}

fn headers(emission: &Emission, account: AccountId, upload: &Upload) -> OwnedHeaders {
    let headers = OwnedHeaders::new_with_capacity(5)
        .insert(header(HEADER_SOURCE_OFFSET, &emission.position.offset.to_string()))
        .insert(header(HEADER_ACCOUNT, &account.to_string()))
        .insert(header(HEADER_DEVICE, &upload.device))
        .insert(header(HEADER_SCHEMA, &fact::SCHEMA.to_string()));
    match &emission.traceparent {
        Some(traceparent) => headers.insert(header(HEADER_TRACEPARENT, traceparent)),
        None => headers,
    }
}

fn header<'a>(key: &'a str, value: &'a str) -> Header<'a, &'a str> {
    Header { key, value: Some(value) }
}

/// How far a batch brings each of its partitions once all of it is acknowledged.
pub(crate) fn progress(batch: &[Emission]) -> BTreeMap<Partition, Emitted> {
    let mut emitted: BTreeMap<Partition, Emitted> = BTreeMap::new();
    for Emission { position, time, generation, .. } in batch {
        let next = position.offset.next();
        emitted
            .entry(position.partition)
            .and_modify(|emitted| {
                emitted.next = emitted.next.max(next);
                emitted.time = emitted.time.max(*time);
            })
            .or_insert(Emitted { generation: *generation, next, time: *time });
    }
    emitted
}

/// How far emission has come in a session, for expiry.
#[derive(Debug, Clone, Default)]
pub struct EmittedOffsets(Arc<Mutex<BTreeMap<Partition, Emitted>>>);

impl EmittedOffsets {
    /// Notes what was acknowledged.
    pub fn note(&self, emitted: &BTreeMap<Partition, Emitted>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(emitted);
    }

    /// All that was noted.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<Partition, Emitted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
#[path = "emitter_tests.rs"]
mod tests;
