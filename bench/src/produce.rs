//! The limit of Kafka: a bare producer, as safe as the gateway's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, FutureProducer, FutureRecord, Producer as _, ProducerContext,
};

use crate::records::Records;
use crate::tally::Tally;

/// Longest wait for the last acknowledgement.
const FLUSH: Duration = Duration::from_secs(60);
/// Longest time without room for a record.
const ROOM: Duration = Duration::from_secs(5);

/// How much is produced.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// As much as fits into this time.
    Elapsed(Duration),
    /// This many records.
    Count(u64),
}

/// What was produced, all of it acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Produced {
    /// Records.
    pub records: u64,
    /// Until the last acknowledgement.
    pub elapsed: Duration,
}

impl Produced {
    /// Records a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.records as f64 / self.elapsed.as_secs_f64()
    }
}

/// Counts what is acknowledged.
#[derive(Clone, Default)]
struct Deliveries {
    acknowledged: Arc<AtomicU64>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, delivery: &DeliveryResult<'_>, (): ()) {
        if delivery.is_ok() {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What decides about safety is set as in the gateway; more requests may be under way.
fn config(brokers: &str, linger_ms: u32) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("max.in.flight.requests.per.connection", "5")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", linger_ms.to_string())
        .set("compression.type", "lz4")
        .set("message.max.bytes", "4194304")
        .set("queue.buffering.max.messages", "20000")
        .set("queue.buffering.max.kbytes", "131072");
    config
}

/// Produces with as many records under way as the gateway may have. Blocks.
///
/// # Errors
/// A record is refused or not acknowledged.
pub fn produce(brokers: &str, topic: &str, records: &Records, until: Until) -> anyhow::Result<Produced> {
    let deliveries = Deliveries::default();
    let producer: BaseProducer<Deliveries> =
        BaseProducer::from_config_and_context(&config(brokers, 5), deliveries.clone())?;
    // Connected before the clock runs.
    producer.client().fetch_metadata(Some(topic), FLUSH).context("Kafka is not there")?;
    let begun = Instant::now();
    let mut sent = 0;
    while match until {
        Until::Elapsed(duration) => begun.elapsed() < duration,
        Until::Count(count) => sent < count,
    } {
        let (key, value) = records.next();
        let mut record = BaseRecord::to(topic).key(&key).payload(value);
        let offered = Instant::now();
        while let Err((error, refused)) = producer.send(record) {
            ensure!(error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull), "refused: {error}");
            ensure!(offered.elapsed() < ROOM, "nothing is acknowledged any more");
            producer.poll(Duration::from_millis(1));
            record = refused;
        }
        sent += 1;
        if sent % 1000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(FLUSH)?;
    let elapsed = begun.elapsed();
    let acknowledged = deliveries.acknowledged.load(Ordering::Relaxed);
    ensure!(acknowledged == sent, "{acknowledged} of {sent} records were acknowledged");
    Ok(Produced { records: sent, elapsed })
}

/// Produces one record at a time, each after the acknowledgement of the one before, without linger.
///
/// # Errors
/// A record is not acknowledged.
pub async fn produce_one_by_one(
    brokers: &str,
    topic: &str,
    records: &Records,
    duration: Duration,
) -> anyhow::Result<Tally> {
    let producer: FutureProducer = config(brokers, 0).create()?;
    let mut tally = Tally::default();
    let begun = Instant::now();
    while begun.elapsed() < duration {
        let (key, value) = records.next();
        let sent = Instant::now();
        let delivery = producer.send_result(FutureRecord::to(topic).key(&key).payload(value));
        let delivery = delivery.map_err(|(error, _)| error)?.await?;
        delivery.map_err(|(error, _)| error)?;
        tally.record(sent.elapsed());
    }
    Ok(tally.within(begun.elapsed()))
}
