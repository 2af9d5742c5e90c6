//! Into the journal: an upload is published when the brokers have acknowledged its record.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use metrics::Histogram;
use milepost_shared::answer::Position;
use milepost_shared::brokers;
use milepost_shared::clock::{JournalTime, millis};
use milepost_shared::fact::HEADER_TRACEPARENT;
use milepost_shared::journal;
use milepost_shared::ops::Readiness;
use milepost_shared::settings::KafkaSettings;
use milepost_shared::topics::{RECORD_BYTES_MAX, TopicNames};
use rdkafka::Statistics;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders, Timestamp};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::answers::MiddleSettings;
use crate::mine::UNKNOWN_TIME;
use crate::outcome::{Accepted, Unavailable};

/// The dependency's name on `/readyz`.
pub const KAFKA: &str = "kafka";
/// How often the brokers are asked whether they are there, and how long one answer may take (a stop may wait
/// for it).
const WATCH_EVERY: Duration = Duration::from_secs(2);
const WATCH_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the journal put a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Partition and offset.
    pub position: Position,
    /// LogAppendTime, from the broker's acknowledgement.
    pub time: JournalTime,
}

/// The one producer of this gateway, made anew when it is beyond repair.
pub struct Publisher {
    config: ClientConfig,
    readiness: Readiness,
    /// The producer is beyond repair.
    broken: Arc<Notify>,
    client: ArcSwap<Client>,
    topic: String,
    deadline: Duration,
    /// From handing over to the acknowledgement.
    seconds: Histogram,
}

/// A producer, and whether it knows no broker any more.
struct Client {
    producer: FutureProducer<Watching>,
    lost: CancellationToken,
}

/// Hears of what belongs to no record.
struct Watching {
    readiness: Readiness,
    broken: Arc<Notify>,
    lost: CancellationToken,
}

impl ClientContext for Watching {
    fn stats(&self, statistics: Statistics) {
        if brokers::are_forgotten(&statistics) {
            self.lost.cancel();
            self.broken.notify_one();
        }
    }

    fn error(&self, error: KafkaError, _reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => self.broken.notify_one(),
            Some(RDKafkaErrorCode::AllBrokersDown) => self.readiness.down(KAFKA, "no broker can be reached"),
            _ => tracing::debug!(%error, "producer error"),
        }
    }
}

impl Client {
    fn new(config: &ClientConfig, readiness: &Readiness, broken: &Arc<Notify>) -> Result<Self, KafkaError> {
        let lost = CancellationToken::new();
        let (readiness, broken) = (readiness.clone(), Arc::clone(broken));
        let context = Watching { readiness, broken, lost: lost.clone() };
        Ok(Self { producer: FutureProducer::from_config_and_context(config, context)?, lost })
    }

    /// Why nothing will ever be published through it again; `None` if that may still be.
    fn beyond_repair(&self) -> Option<String> {
        let fatal = self.producer.client().fatal_error().map(|(code, _)| code.to_string());
        fatal.or_else(|| self.lost.is_cancelled().then(|| "no broker is known any more".to_owned()))
    }
}

impl Publisher {
    /// Makes the producer; nothing is connected yet.
    ///
    /// # Errors
    /// librdkafka refuses a property.
    pub fn new(
        settings: &MiddleSettings,
        kafka: &KafkaSettings,
        readiness: &Readiness,
    ) -> anyhow::Result<Self> {
        metrics::counter!("milepost_gateway_producer_rebuilds_total").absolute(0);
        metrics::counter!("milepost_gateway_journal_time_missing_total").absolute(0);
        readiness.register(KAFKA, true);
        let config = producer_config(settings, kafka);
        let broken = Arc::default();
        let client = Client::new(&config, readiness, &broken).context("cannot make a Kafka producer")?;
        Ok(Self {
            config,
            readiness: readiness.clone(),
            broken,
            client: ArcSwap::from_pointee(client),
            topic: TopicNames::new(&kafka.topic_prefix).uploads,
            deadline: settings.publish_timeout,
            seconds: metrics::histogram!("milepost_gateway_publish_seconds"),
        })
    }

    /// Publishes one upload and waits for the acknowledgement, at most the publish timeout.
    ///
    /// # Errors
    /// [`Unavailable`]; the record may be in the journal all the same, so only a retry with the same key is
    /// safe.
    pub async fn publish(&self, accepted: &Accepted) -> Result<Published, Unavailable> {
        let key = accepted.key_hash.to_string();
        let value = journal::encode(accepted.account, accepted.fingerprint, &accepted.upload);
        let mut record = FutureRecord::to(&self.topic).key(&key).payload(&value);
        if let Some(traceparent) = &accepted.traceparent {
            let header = Header { key: HEADER_TRACEPARENT, value: Some(traceparent) };
            record = record.headers(OwnedHeaders::new_with_capacity(1).insert(header));
        }
        let begun = Instant::now();
        // Not `send`: with a full queue it would sleep in steps of 100 ms.
        let delivery =
            self.client.load().producer.send_result(record).map_err(|(error, _)| failed(&error))?;
        drop((key, value));
        // librdkafka tells of a time-out some seconds late.
        let delivery = match tokio::time::timeout(self.deadline, delivery).await {
            Ok(Ok(Ok(delivery))) => delivery,
            Ok(Ok(Err((error, _)))) => return Err(failed(&error)),
            // Out of time, or the producer was made anew and its queue thrown away.
            Err(_) | Ok(Err(_)) => return Err(Unavailable::Journal),
        };
        self.seconds.record(begun.elapsed());
        let position = Position { partition: delivery.partition, offset: delivery.offset };
        Ok(Published { position, time: journal_time(delivery.timestamp) })
    }

    /// Asks for the brokers every two seconds, for readiness, and makes a new producer for one that is beyond
    /// repair; until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let publisher = Arc::clone(&self);
            if tokio::task::spawn_blocking(move || publisher.look()).await.is_err() {
                tracing::error!("the watch over the producer panicked");
            }
            let woken = async {
                tokio::select! {
                    () = self.broken.notified() => {}
                    () = tokio::time::sleep(WATCH_EVERY) => {}
                }
            };
            stop.run_until_cancelled(woken).await;
        }
    }

    /// Blocks, at most [`WATCH_TIMEOUT`] and what it takes to drop a producer.
    fn look(&self) {
        let client = self.client.load_full();
        if let Some(reason) = client.beyond_repair() {
            self.readiness.down(KAFKA, "the producer failed and is made anew");
            match Client::new(&self.config, &self.readiness, &self.broken) {
                Ok(new) => {
                    // What was queued fails, and its requests are told to try again.
                    drop(client);
                    drop(self.client.swap(Arc::new(new)));
                    metrics::counter!("milepost_gateway_producer_rebuilds_total").increment(1);
                    tracing::warn!(reason, "producer made anew");
                }
                Err(error) => tracing::error!(%error, "cannot make a new producer"),
            }
            return;
        }
        match client.producer.client().fetch_metadata(Some(&self.topic), WATCH_TIMEOUT) {
            Ok(_) => self.readiness.up(KAFKA),
            Err(error) => self.readiness.down(KAFKA, error.to_string()),
        }
    }

    /// Waits until nothing is queued any more; what is still queued at the deadline is lost, and nobody was
    /// told otherwise.
    pub async fn flush(self: Arc<Self>, deadline: Duration) {
        let flushed =
            tokio::task::spawn_blocking(move || self.client.load_full().producer.flush(deadline)).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("not all records were acknowledged before the end");
        }
    }
}

fn failed(error: &KafkaError) -> Unavailable {
    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) {
        return Unavailable::Overload;
    }
    tracing::debug!(%error, "record not acknowledged");
    Unavailable::Journal
}

/// The rules of the topics make the brokers stamp the record; without a stamp only the record's own result
/// can count.
fn journal_time(timestamp: Timestamp) -> JournalTime {
    if let Timestamp::LogAppendTime(time) = timestamp {
        return JournalTime(time);
    }
    metrics::counter!("milepost_gateway_journal_time_missing_total").increment(1);
    UNKNOWN_TIME
}

/// librdkafka's defaults are not the Java client's, so every property relied on is set.
fn producer_config(settings: &MiddleSettings, kafka: &KafkaSettings) -> ClientConfig {
    let timeout = millis(settings.publish_timeout).to_string();
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.kafka_brokers)
        .set("client.id", "milepost-gateway")
        // A 2xx promises that the upload survives the loss of a broker.
        .set("acks", "all")
        // librdkafka's own retries neither duplicate nor reorder.
        .set("enable.idempotence", "true")
        // What arrives while a request is under way goes with the next one: records gather by themselves as the load
        // grows, and a single one does not wait.
        .set("max.in.flight.requests.per.connection", "1")
        // All copies of a key into one partition, the one that Java clients would choose too.
        .set("partitioner", "murmur2_random")
        // Every waiting client pays it.
        .set("linger.ms", millis(settings.publish_linger).to_string())
        .set("compression.type", "lz4")
        // Nobody waits for a record longer than this, so it need not be tried longer either.
        .set("message.timeout.ms", &timeout)
        .set("request.timeout.ms", &timeout)
        .set("message.max.bytes", RECORD_BYTES_MAX.to_string())
        // The bound of uploads on their way, those given up by their request included. One more is refused at
        // once.
        .set("queue.buffering.max.messages", settings.publish_in_flight.to_string())
        .set("queue.buffering.max.kbytes", settings.publish_buffer_kib.to_string())
        // A connection that a firewall forgot must not be found out by the next upload.
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        // Brokers come back sooner than the default of 10 s would notice.
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("retry.backoff.ms", "50")
        .set("topic.metadata.refresh.interval.ms", "60000")
        .set("statistics.interval.ms", brokers::STATISTICS_INTERVAL_MS)
        .set("allow.auto.create.topics", "false");
    config
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use milepost_shared::fingerprint::Fingerprint;
    use milepost_shared::key::KeyHash;
    use milepost_shared::upload::{Location, Upload};
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use uuid::Uuid;

    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        kafka: KafkaSettings,
        #[command(flatten)]
        middle: MiddleSettings,
    }

    fn accepted() -> Accepted {
        let upload = Upload { device: "d".to_owned(), locations: vec![Location::new(1, 48.0, 16.0)] };
        Accepted {
            account: Uuid::nil(),
            key_hash: KeyHash([0; 32]),
            has_key: true,
            fingerprint: Fingerprint::of(&upload),
            upload,
            traceparent: None,
            patience: Duration::ZERO,
        }
    }

    async fn made_anew(publisher: &Publisher, broken: &Arc<Client>, readiness: &Readiness) {
        let until = Instant::now() + Duration::from_secs(20);
        while Arc::ptr_eq(broken, &publisher.client.load_full()) || !readiness.is_ready() {
            assert!(Instant::now() < until, "no new producer in time");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A real broker does not break a producer at will, so this one is librdkafka's own imitation.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_producer_with_a_fatal_error_or_without_brokers_is_made_anew() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("location-uploads", 1, 1).unwrap();
        let brokers = format!("--kafka-brokers={}", cluster.bootstrap_servers());
        let settings = Program::parse_from(["test", &brokers]);
        let readiness = Readiness::default();
        let publisher = Arc::new(Publisher::new(&settings.middle, &settings.kafka, &readiness).unwrap());
        assert_eq!(publisher.publish(&accepted()).await.unwrap().position.offset, 0);

        cluster.request_errors(
            RDKafkaApiKey::Produce,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER],
        );
        assert_eq!(publisher.publish(&accepted()).await, Err(Unavailable::Journal));
        assert_eq!(publisher.publish(&accepted()).await, Err(Unavailable::Journal), "the error is for good");
        let broken = publisher.client.load_full();
        let stop = CancellationToken::new();
        let watching = tokio::spawn(Arc::clone(&publisher).watch(stop.clone()));
        made_anew(&publisher, &broken, &readiness).await;
        publisher.publish(&accepted()).await.unwrap();

        // And one that has told that it knows no broker any more.
        let lost = publisher.client.load_full();
        let context = Watching {
            readiness: readiness.clone(),
            broken: Arc::clone(&publisher.broken),
            lost: lost.lost.clone(),
        };
        context.stats(Statistics::default());
        made_anew(&publisher, &lost, &readiness).await;
        publisher.publish(&accepted()).await.unwrap();
        stop.cancel();
        watching.await.unwrap();
    }
}
