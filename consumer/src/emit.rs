//! Emit: results and facts leave in journal order, without holes, and then the group offset moves (design, section 6.3).
//!
//! A fact that failed alone while later ones got through could never be made good: subscribers would have seen a greater
//! offset. So the producer never gives up on a record, and after any failure a new producer emits the whole batch again.
//! Batches follow one another: the next one is not begun before the last is acknowledged.

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
    /// How long the producer waits for a fuller batch.
    pub linger: Duration,
    /// Longest pause between attempts.
    pub backoff_max: Duration,
    /// For tests.
    pub planted: Planted,
}

/// Emits batches, one after the other.
pub struct Emitter {
    settings: EmitSettings,
    producer: FutureProducer<Watching>,
    /// The producer knows no broker any more.
    lost: CancellationToken,
    readiness: Readiness,
    crash: Crash,
    stop: CancellationToken,
}

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

/// The program is stopping, and the batch is not wholly acknowledged.
#[derive(Debug, thiserror::Error)]
#[error("stopping")]
pub struct Stopped;

impl Emitter {
    /// # Errors
    /// The producer cannot be made from the settings.
    pub fn new(
        settings: EmitSettings,
        readiness: Readiness,
        crash: Crash,
        stop: CancellationToken,
    ) -> Result<Self, KafkaError> {
        let (producer, lost) = producer(&settings)?;
        Ok(Self { settings, producer, lost, readiness, crash, stop })
    }

    /// Emits a batch, for as long as that takes. Returns how far each of its partitions has come.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn emit(&mut self, batch: &[Emission]) -> Result<BTreeMap<i32, Emitted>, Stopped> {
        let begun = Instant::now();
        let mut backoff = Backoff::new(self.settings.backoff_max);
        let stop = self.stop.clone();
        while let Err(error) = stop.run_until_cancelled(self.attempt(batch)).await.ok_or(Stopped)? {
            let error = self.producer.client().fatal_error().map_or(error.to_string(), |(_, text)| text);
            self.readiness.down("emission", error.clone());
            tracing::warn!(error, "emission failed; a new producer emits the batch again");
            if !backoff.pause(&stop).await {
                return Err(Stopped);
            }
            counter!(metric::PRODUCER_REBUILDS).increment(1);
            match producer(&self.settings) {
                // The old one is dropped with whatever it still holds: all of the batch is emitted again.
                Ok((producer, lost)) => (self.producer, self.lost) = (producer, lost),
                Err(error) => tracing::error!(%error, "cannot make a producer"),
            }
        }
        self.readiness.up("emission");
        histogram!(metric::EMIT).record(begun.elapsed());
        self.crash.point(CrashPoint::AfterEmit);
        Ok(progress(batch))
    }

    /// Without brokers it would wait for ever, since no record is given up on.
    async fn attempt(&self, batch: &[Emission]) -> Result<(), KafkaError> {
        let lost = Err(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown));
        self.lost.run_until_cancelled(self.deliver(batch)).await.unwrap_or(lost)
    }

    async fn deliver(&self, batch: &[Emission]) -> Result<(), KafkaError> {
        let mut deliveries = VecDeque::with_capacity(2 * batch.len());
        for emission in batch {
            let Some((upload, state, is_fact)) = &emission.answer else { continue };
            let key = upload.key_hash.to_string();
            let result =
                ResultRecord { key_hash: upload.key_hash, record: emission.position, state: state.clone() }
                    .encode();
            self.enqueue(&mut deliveries, || {
                self.record(&self.settings.topics.results, emission, &key, &result)
            })
            .await?;
            let copies_too = self.settings.planted.is(PlantedBug::FactsForCopies);
            if *is_fact || copies_too && state.fingerprint == upload.fingerprint {
                let value = fact::encode(upload.account, emission.time, &upload.upload);
                let record = || {
                    self.record(&self.settings.topics.locations, emission, &key, &value)
                        .headers(headers(emission, upload))
                };
                self.enqueue(&mut deliveries, record).await?;
            }
        }
        self.crash.point(CrashPoint::Emitting);
        for delivery in deliveries {
            let delivered = acknowledged(delivery).await;
            if !self.settings.planted.is(PlantedBug::GiveUpOnAFact) {
                delivered?;
            }
        }
        for (topic, count) in [
            ("results", batch.iter().filter(|e| e.answer.is_some()).count()),
            ("locations", batch.iter().filter(|e| matches!(e.answer, Some((_, _, true)))).count()),
        ] {
            counter!(metric::EMITTED, "topic" => topic).increment(count as u64);
        }
        Ok(())
    }

    fn record<'a>(
        &self,
        topic: &'a str,
        emission: &Emission,
        key: &'a str,
        value: &'a [u8],
    ) -> FutureRecord<'a, str, [u8]> {
        // The partition of the journal, not one found again from the key: the one-integer rule rests on it.
        FutureRecord::to(topic).partition(emission.position.partition).key(key).payload(value)
    }

    /// Hands a record to the producer. A full queue is back-pressure: the oldest delivery is awaited, then it has room.
    async fn enqueue<'a>(
        &self,
        deliveries: &mut VecDeque<DeliveryFuture>,
        record: impl Fn() -> FutureRecord<'a, str, [u8]>,
    ) -> Result<(), KafkaError> {
        loop {
            match self.producer.send_result(record()) {
                Ok(delivery) => {
                    deliveries.push_back(delivery);
                    return Ok(());
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    match deliveries.pop_front() {
                        Some(delivery) => acknowledged(delivery).await?,
                        None => tokio::time::sleep(Duration::from_millis(10)).await,
                    }
                }
                Err((error, _)) => return Err(error),
            }
        }
    }
}

async fn acknowledged(delivery: DeliveryFuture) -> Result<(), KafkaError> {
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

fn producer(settings: &EmitSettings) -> Result<(FutureProducer<Watching>, CancellationToken), KafkaError> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", "milepost-consumer-emit")
        .set("acks", "all")
        // Order, and no doubles from the producer's own retries.
        .set("enable.idempotence", "true")
        // No record is ever given up on, alone or by time.
        .set("enable.gapless.guarantee", "true")
        .set("message.timeout.ms", "0")
        .set("linger.ms", settings.linger.as_millis().to_string())
        .set("compression.type", "lz4")
        .set("message.max.bytes", RECORD_BYTES_MAX.to_string())
        // One batch of emissions, with room; enqueue() waits when it is full.
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
    Ok((config.create_with_context(Watching { lost: lost.clone() })?, lost))
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
            linger: Duration::ZERO,
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
        let answer = Some((Box::new(record), state, true));
        let batch = [Emission { position, time, generation: 0, traceparent: None, answer }];

        let lost = emitter.lost.clone();
        Watching { lost: lost.clone() }.stats(Statistics::default());
        let emitted = tokio::time::timeout(Duration::from_secs(30), emitter.emit(&batch)).await;
        assert_eq!(emitted.unwrap().unwrap()[&0].next, 5);
        assert!(lost.is_cancelled() && !emitter.lost.is_cancelled());
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
