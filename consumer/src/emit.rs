//! Emit: results and facts leave in journal order, without holes, and then the group offset moves (design, section 6.3).
//!
//! A fact that failed alone while later ones got through could never be made good: subscribers would have seen a greater
//! offset. So a producer never gives up on a record, and after any failure new producers emit again all that is not
//! acknowledged, in order.
//!
//! Results are waited for: answers wait for them. Facts are not: they gather for a while, over several batches, since
//! brokers pay for each request and partition (decision 9). How far emission has come is told when both are acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use milepost_shared::answer::{KeyState, Position};
use milepost_shared::backoff::Backoff;
use milepost_shared::brokers;
use milepost_shared::clock::JournalTime;
use milepost_shared::crash::{Crash, CrashPoint};
use milepost_shared::fact::{
    self, HEADER_ACCOUNT, HEADER_DEVICE, HEADER_SCHEMA, HEADER_SOURCE_OFFSET, HEADER_TRACEPARENT,
};
use milepost_shared::journal::JournalRecord;
use milepost_shared::ops::Readiness;
use milepost_shared::planted::{Planted, PlantedBug};
use milepost_shared::result::ResultRecord;
use milepost_shared::topics::{RECORD_BYTES_MAX, TopicNames};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _};
use rdkafka::{ClientConfig, ClientContext, Statistics};
use tokio_util::sync::CancellationToken;

use crate::metric;

/// Most batches, and locations in them, whose facts are not acknowledged.
const PENDING_BATCHES_MAX: usize = 16;
const PENDING_LOCATIONS_MAX: usize = 60_000;

/// What one journal record leaves behind.
#[derive(Debug)]
pub struct Emission {
    /// The record.
    pub position: Position,
    /// Its journal time.
    pub time: JournalTime,
    /// Which assignment of the partition it was polled under.
    pub generation: u64,
    /// Trace context of the request that brought it.
    pub traceparent: Option<String>,
    /// The upload, the state of its key, and whether the upload is a fact. `None` for garbage, and for records emitted
    /// before and forgotten since.
    pub answer: Option<(Box<JournalRecord>, KeyState, bool)>,
}

impl Emission {
    fn locations(&self) -> usize {
        self.answer.as_ref().map_or(0, |(upload, ..)| upload.upload.locations.len())
    }
}

/// How far a partition's emissions are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emitted {
    /// The assignment under which.
    pub generation: u64,
    /// The offset after the last.
    pub next: i64,
    /// The greatest journal time.
    pub time: JournalTime,
}

/// What the emitter is set to.
#[derive(Debug, Clone)]
pub struct EmitSettings {
    /// Kafka bootstrap servers.
    pub brokers: String,
    /// The topics.
    pub topics: TopicNames,
    /// How long the producer of results waits for a fuller batch.
    pub result_linger: Duration,
    /// How long the producer of facts does.
    pub fact_linger: Duration,
    /// Longest pause between attempts.
    pub backoff_max: Duration,
    /// For tests.
    pub planted: Planted,
}

/// Emits batches, one after the other.
pub struct Emitter {
    settings: EmitSettings,
    results: Client,
    facts: Client,
    /// Batches that are not wholly acknowledged, oldest first; but for the newest, the results are.
    pending: VecDeque<Pending>,
    /// Grows until a batch is wholly acknowledged: results that get through do not mend a topic of facts that fails.
    backoff: Backoff,
    readiness: Readiness,
    crash: Crash,
    stop: CancellationToken,
}

/// A batch and the deliveries of its facts that are still awaited.
struct Pending {
    batch: Vec<Emission>,
    locations: usize,
    begun: Instant,
    facts: VecDeque<DeliveryFuture>,
}

/// The program is stopping, and not all is acknowledged.
#[derive(Debug, thiserror::Error)]
#[error("stopping")]
pub struct Stopped;

impl Emitter {
    /// # Errors
    /// The producers cannot be made from the settings.
    pub fn new(
        settings: EmitSettings,
        readiness: Readiness,
        crash: Crash,
        stop: CancellationToken,
    ) -> Result<Self, KafkaError> {
        let [results, facts] = clients(&settings)?;
        let (pending, backoff) = (VecDeque::new(), Backoff::new(settings.backoff_max));
        Ok(Self { settings, results, facts, pending, backoff, readiness, crash, stop })
    }

    /// Whether another batch may be emitted before facts are acknowledged.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.pending.len() < PENDING_BATCHES_MAX
            && self.pending.iter().map(|pending| pending.locations).sum::<usize>() < PENDING_LOCATIONS_MAX
    }

    /// Whether acknowledgements are awaited.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Emits a batch, and waits for its results to be acknowledged for as long as that takes.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn emit(&mut self, batch: Vec<Emission>) -> Result<(), Stopped> {
        let locations = batch.iter().map(Emission::locations).sum();
        self.pending.push_back(Pending { batch, locations, begun: Instant::now(), facts: VecDeque::new() });
        self.persevere(self.pending.len() - 1).await
    }

    /// Waits for the facts of the oldest batch. May be dropped and called again.
    ///
    /// # Errors
    /// As the producer tells; to be handed to [`settle`](Self::settle).
    pub async fn facts_acknowledged(&mut self) -> Result<(), KafkaError> {
        let Some(Pending { facts, .. }) = self.pending.front_mut() else { return Ok(()) };
        let give_up = self.settings.planted.is(PlantedBug::GiveUpOnAFact);
        let all = async {
            while let Some(delivery) = facts.front_mut() {
                let delivered = acknowledged(delivery).await;
                facts.pop_front();
                if !give_up {
                    delivered?;
                }
            }
            Ok(())
        };
        self.facts.unless_lost(all).await
    }

    /// Takes what [`facts_acknowledged`](Self::facts_acknowledged) has told: how far each partition of the oldest batch has
    /// come, or, after a failure, emits all again that is pending, and tells nothing.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn settle(
        &mut self,
        acknowledged: Result<(), KafkaError>,
    ) -> Result<BTreeMap<i32, Emitted>, Stopped> {
        if let Err(error) = acknowledged {
            self.recover(&error).await?;
            self.persevere(0).await?;
            return Ok(BTreeMap::new());
        }
        let Some(Pending { batch, begun, .. }) = self.pending.pop_front() else { return Ok(BTreeMap::new()) };
        self.backoff = Backoff::new(self.settings.backoff_max);
        histogram!(metric::EMIT, "topic" => "locations").record(begun.elapsed());
        let facts = batch.iter().filter(|emission| matches!(emission.answer, Some((_, _, true)))).count();
        counter!(metric::EMITTED, "topic" => "locations").increment(facts as u64);
        self.crash.point(CrashPoint::AfterEmit);
        Ok(progress(&batch))
    }

    /// Planted ([`PlantedBug::NoFlushAtShutdown`]): drops what is not acknowledged, and tells how far that would have come.
    #[must_use]
    pub fn give_up(self) -> BTreeMap<i32, Emitted> {
        let Self { facts, pending, .. } = self;
        // First of all: while the other producer ends, what lingers in this one would be sent.
        drop(facts);
        pending.iter().flat_map(|pending| progress(&pending.batch)).collect()
    }

    /// Emits the batches from `first` on, until their results are acknowledged; after a failure, all that is pending.
    async fn persevere(&mut self, mut first: usize) -> Result<(), Stopped> {
        let stop = self.stop.clone();
        while let Err(error) = stop.run_until_cancelled(self.attempt(first)).await.ok_or(Stopped)? {
            self.recover(&error).await?;
            first = 0;
        }
        self.readiness.up("emission");
        Ok(())
    }

    /// Without brokers it would wait for ever, since no record is given up on.
    async fn attempt(&mut self, first: usize) -> Result<(), KafkaError> {
        let Self { settings, results, facts, pending, crash, .. } = self;
        let delivering = async {
            for pending in pending.range_mut(first..) {
                deliver(settings, (&results.producer, &facts.producer), pending, crash).await?;
            }
            Ok(())
        };
        results.unless_lost(facts.unless_lost(delivering)).await
    }

    /// Makes the producers anew, after a pause. The old ones are dropped with whatever they still hold.
    async fn recover(&mut self, error: &KafkaError) -> Result<(), Stopped> {
        let fatal = [&self.results, &self.facts].into_iter().find_map(Client::fatal_error);
        let error = fatal.unwrap_or_else(|| error.to_string());
        self.readiness.down("emission", error.clone());
        tracing::warn!(error, "emission failed; new producers emit all again that is not acknowledged");
        if !self.backoff.pause(&self.stop).await {
            return Err(Stopped);
        }
        counter!(metric::PRODUCER_REBUILDS).increment(1);
        match clients(&self.settings) {
            Ok([results, facts]) => (self.results, self.facts) = (results, facts),
            Err(error) => tracing::error!(%error, "cannot make a producer"),
        }
        Ok(())
    }
}

/// Hands all records of a batch to the producers, and waits until the results are acknowledged.
async fn deliver(
    settings: &EmitSettings,
    (results, facts): (&Producer, &Producer),
    pending: &mut Pending,
    crash: &Crash,
) -> Result<(), KafkaError> {
    let copies_too = settings.planted.is(PlantedBug::FactsForCopies);
    let mut deliveries = VecDeque::with_capacity(pending.batch.len());
    pending.facts.clear();
    for emission in &pending.batch {
        let Some((upload, state, is_fact)) = &emission.answer else { continue };
        let key = upload.key_hash.to_string();
        let result =
            ResultRecord { key_hash: upload.key_hash, record: emission.position, state: state.clone() }
                .encode();
        enqueue(results, &mut deliveries, || record(&settings.topics.results, emission, &key, &result))
            .await?;
        if *is_fact || copies_too && state.fingerprint == upload.fingerprint {
            let value = fact::encode(upload.account, emission.time, &upload.upload);
            let fact = || {
                record(&settings.topics.locations, emission, &key, &value).headers(headers(emission, upload))
            };
            enqueue(facts, &mut pending.facts, fact).await?;
        }
    }
    crash.point(CrashPoint::Emitting);
    counter!(metric::EMITTED, "topic" => "results").increment(deliveries.len() as u64);
    for mut delivery in deliveries {
        let delivered = acknowledged(&mut delivery).await;
        if !settings.planted.is(PlantedBug::GiveUpOnAFact) {
            delivered?;
        }
    }
    histogram!(metric::EMIT, "topic" => "results").record(pending.begun.elapsed());
    Ok(())
}

fn record<'a>(
    topic: &'a str,
    emission: &Emission,
    key: &'a str,
    value: &'a [u8],
) -> FutureRecord<'a, str, [u8]> {
    // The partition of the journal, not one found again from the key: the one-integer rule rests on it.
    FutureRecord::to(topic).partition(emission.position.partition).key(key).payload(value)
}

/// Hands a record to a producer. A full queue is back-pressure: the oldest delivery is awaited, then it has room.
async fn enqueue<'a>(
    producer: &Producer,
    deliveries: &mut VecDeque<DeliveryFuture>,
    record: impl Fn() -> FutureRecord<'a, str, [u8]>,
) -> Result<(), KafkaError> {
    loop {
        match producer.send_result(record()) {
            Ok(delivery) => {
                deliveries.push_back(delivery);
                return Ok(());
            }
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                match deliveries.pop_front() {
                    Some(mut delivery) => acknowledged(&mut delivery).await?,
                    None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
            Err((error, _)) => return Err(error),
        }
    }
}

async fn acknowledged(delivery: &mut DeliveryFuture) -> Result<(), KafkaError> {
    match delivery.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err((error, _))) => Err(error),
        Err(_) => Err(KafkaError::Canceled),
    }
}

fn headers(emission: &Emission, upload: &JournalRecord) -> OwnedHeaders {
    let headers = OwnedHeaders::new_with_capacity(5)
        .insert(header(HEADER_SOURCE_OFFSET, &emission.position.offset.to_string()))
        .insert(header(HEADER_ACCOUNT, &upload.account.to_string()))
        .insert(header(HEADER_DEVICE, &upload.upload.device))
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
pub(crate) fn progress(batch: &[Emission]) -> BTreeMap<i32, Emitted> {
    let mut emitted: BTreeMap<i32, Emitted> = BTreeMap::new();
    for Emission { position, time, generation, .. } in batch {
        let next = position.offset + 1;
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

/// A producer, and whether it knows no broker any more.
struct Client {
    producer: Producer,
    lost: CancellationToken,
}

type Producer = FutureProducer<Watching>;

/// Hears what a producer tells about itself.
struct Watching {
    lost: CancellationToken,
}

impl ClientContext for Watching {
    fn stats(&self, statistics: Statistics) {
        if brokers::are_forgotten(&statistics) {
            self.lost.cancel();
        }
    }
}

/// Those of results and of facts.
fn clients(settings: &EmitSettings) -> Result<[Client; 2], KafkaError> {
    Ok([
        Client::new("milepost-consumer-results", settings.result_linger, settings)?,
        Client::new("milepost-consumer-facts", settings.fact_linger, settings)?,
    ])
}

impl Client {
    fn new(id: &str, linger: Duration, settings: &EmitSettings) -> Result<Self, KafkaError> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &settings.brokers)
            .set("client.id", id)
            .set("acks", "all")
            // Order, and no doubles from the producer's own retries.
            .set("enable.idempotence", "true")
            // No record is ever given up on, alone or by time.
            .set("enable.gapless.guarantee", "true")
            .set("message.timeout.ms", "0")
            .set("linger.ms", linger.as_millis().to_string())
            .set("compression.type", "lz4")
            .set("message.max.bytes", RECORD_BYTES_MAX.to_string())
            // More than all that is pending; enqueue() waits when it is full.
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "65536")
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "2000")
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set("statistics.interval.ms", brokers::STATISTICS_INTERVAL_MS);
        if settings.planted.is(PlantedBug::GiveUpOnAFact) {
            config.set("enable.gapless.guarantee", "false").set("message.timeout.ms", "2000");
        }
        if settings.planted.is(PlantedBug::NoFlushAtShutdown) {
            config.set("linger.ms", "100");
        }
        let lost = CancellationToken::new();
        Ok(Self { producer: config.create_with_context(Watching { lost: lost.clone() })?, lost })
    }

    async fn unless_lost(
        &self,
        delivering: impl Future<Output = Result<(), KafkaError>>,
    ) -> Result<(), KafkaError> {
        let lost = Err(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown));
        self.lost.run_until_cancelled(delivering).await.unwrap_or(lost)
    }

    fn fatal_error(&self) -> Option<String> {
        self.producer.client().fatal_error().map(|(_, text)| text)
    }
}

/// How far emission has come in a session, for expiry.
#[derive(Debug, Clone, Default)]
pub struct EmittedOffsets(Arc<Mutex<BTreeMap<i32, Emitted>>>);

impl EmittedOffsets {
    /// Notes what was acknowledged.
    pub fn note(&self, emitted: &BTreeMap<i32, Emitted>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(emitted);
    }

    /// All that was noted.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<i32, Emitted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use milepost_shared::answer;
    use milepost_shared::fingerprint::Fingerprint;
    use milepost_shared::key::KeyHash;
    use milepost_shared::upload::{Location, Upload};
    use rdkafka::mocking::MockCluster;
    use uuid::Uuid;

    use super::*;

    /// On librdkafka's own imitation of a cluster, since a real one makes a client forget it when it likes.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_producer_that_knows_no_broker_any_more_is_made_anew_and_the_batch_is_emitted() {
        let cluster = MockCluster::new(1).unwrap();
        let topics = TopicNames::new("");
        for topic in [&topics.results, &topics.locations] {
            cluster.create_topic(topic, 1, 1).unwrap();
        }
        let settings = EmitSettings {
            brokers: cluster.bootstrap_servers(),
            topics,
            result_linger: Duration::ZERO,
            fact_linger: Duration::ZERO,
            backoff_max: Duration::from_millis(100),
            planted: Planted::default(),
        };
        let stop = CancellationToken::new();
        let mut emitter = Emitter::new(settings, Readiness::default(), Crash::default(), stop).unwrap();
        let upload = Upload { device: "d".to_owned(), locations: vec![Location::new(1, 48.0, 16.0)] };
        let (position, time) = (Position { partition: 0, offset: 4 }, JournalTime(1));
        let (account, fingerprint) = (Uuid::nil(), Fingerprint::of(&upload));
        let state = KeyState {
            account,
            fingerprint,
            status: 200,
            body: answer::body(1),
            accepted_at: time,
            expires_at: JournalTime(2),
            source: position,
        };
        let record = JournalRecord { key_hash: KeyHash([0; 32]), account, fingerprint, upload };
        let emission = |offset| {
            let answer = Some((Box::new(record.clone()), state.clone(), true));
            let position = Position { partition: 0, offset };
            Emission { position, time, generation: 0, traceparent: None, answer }
        };

        let mut emitted = Vec::new();
        for offset in [4, 5] {
            // First the producer of results, then that of facts.
            let client = if offset == 4 { &emitter.results } else { &emitter.facts };
            let lost = client.lost.clone();
            Watching { lost: lost.clone() }.stats(Statistics::default());
            let emitting = async {
                emitter.emit(vec![emission(offset)]).await.unwrap();
                while emitter.is_busy() {
                    let acknowledged = emitter.facts_acknowledged().await;
                    emitted.extend(emitter.settle(acknowledged).await.unwrap());
                }
            };
            tokio::time::timeout(Duration::from_secs(30), emitting).await.unwrap();
            assert!(lost.is_cancelled());
            assert!(!emitter.results.lost.is_cancelled() && !emitter.facts.lost.is_cancelled());
        }
        assert_eq!(emitted.iter().map(|(_, emitted)| emitted.next).collect::<Vec<_>>(), [5, 6]);
    }

    #[test]
    fn a_batch_brings_each_partition_to_the_offset_after_its_last_record() {
        let emission = |partition, offset, time| Emission {
            position: Position { partition, offset },
            time: JournalTime(time),
            generation: 7,
            traceparent: None,
            answer: None,
        };
        let emitted = progress(&[emission(0, 5, 50), emission(1, 9, 90), emission(0, 6, 40)]);
        assert_eq!(emitted[&0], Emitted { generation: 7, next: 7, time: JournalTime(50) });
        assert_eq!(emitted[&1], Emitted { generation: 7, next: 10, time: JournalTime(90) });
    }
}
