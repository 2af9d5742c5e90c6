//! A producer of the journal's records, made anew when it is beyond repair.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use milepost_shared::journal::clock::millis;
use milepost_shared::kafka::brokers;
use milepost_shared::kafka::topics::RECORD_BYTES_MAX;
use milepost_shared::kafka::trouble;
use milepost_shared::program::pages::Readiness;
use milepost_shared::program::settings::KafkaSettings;
use rdkafka::Statistics;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::answer::service::MiddleSettings;

/// The dependency's name on `/readyz`.
pub const KAFKA: &str = "kafka";
/// Most records of one request, of one partition.
pub const REQUEST_RECORDS_MAX: i64 = 1000;

/// A producer whose records wait up to a linger for others.
pub struct Producer {
    id: &'static str,
    config: ClientConfig,
    readiness: Readiness,
    /// Told when it is beyond repair.
    broken: Arc<Notify>,
    client: ArcSwap<Client>,
}

/// One of librdkafka's producers, and whether it knows no broker any more.
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
}

impl Producer {
    /// Makes one by the name `id`; nothing is connected yet. `broken` is told when it has to be made anew.
    ///
    /// # Errors
    /// librdkafka refuses a property.
    pub fn new(
        id: &'static str,
        settings: &MiddleSettings,
        kafka: &KafkaSettings,
        linger: Duration,
        (readiness, broken): (&Readiness, &Arc<Notify>),
    ) -> Result<Self, KafkaError> {
        let mut config = config(settings, kafka, linger);
        config.set("client.id", id);
        let client = ArcSwap::from_pointee(Client::new(&config, readiness, broken)?);
        Ok(Self { id, config, readiness: readiness.clone(), broken: Arc::clone(broken), client })
    }

    /// Its name, as brokers see it.
    #[must_use]
    pub fn id(&self) -> &'static str {
        self.id
    }

    /// Queues a record. The future brings its acknowledgement, or nothing if the producer is made anew before.
    ///
    /// # Errors
    /// The queue is full, or librdkafka will never take a record again.
    pub fn send(&self, record: FutureRecord<'_, String, Vec<u8>>) -> Result<DeliveryFuture, KafkaError> {
        // Not `send`: with a full queue it would sleep in steps of 100 ms.
        self.client.load().producer.send_result(record).map_err(|(error, _)| error)
    }

    /// Why nothing will ever be published through it again; `None` if that may still be.
    #[must_use]
    pub fn beyond_repair(&self) -> Option<String> {
        let client = self.client.load();
        let fatal = client.producer.client().fatal_error().map(|(code, _)| code.to_string());
        fatal.or_else(|| client.lost.is_cancelled().then(|| "no broker is known any more".to_owned()))
    }

    /// Puts a new one in its place. What was queued fails, and its requests are told to try again. Blocks while the old one
    /// is dropped.
    ///
    /// # Errors
    /// librdkafka cannot make one; the old one stays.
    pub fn make_anew(&self) -> Result<(), KafkaError> {
        let new = Client::new(&self.config, &self.readiness, &self.broken)?;
        drop(self.client.swap(Arc::new(new)));
        Ok(())
    }

    /// Whether the brokers answer, know the topic and lead all its partitions. Blocks up to `timeout`.
    ///
    /// # Errors
    /// They do not; what an operator should read.
    pub fn ask_brokers(&self, topic: &str, timeout: Duration) -> Result<(), String> {
        let client = self.client.load_full();
        let metadata = client.producer.client().fetch_metadata(Some(topic), timeout);
        let metadata = metadata.map_err(|error| error.to_string())?;
        trouble::of_topic(&metadata, topic).map_or(Ok(()), Err)
    }

    /// Records queued or under way.
    #[cfg(test)]
    pub fn queued(&self) -> i32 {
        self.client.load().producer.in_flight_count()
    }

    /// Blocks until nothing is queued any more, at most so long.
    ///
    /// # Errors
    /// Something still is.
    pub fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        self.client.load_full().producer.flush(timeout)
    }
}

/// librdkafka's defaults are not the Java client's, so every property relied on is set.
fn config(settings: &MiddleSettings, kafka: &KafkaSettings, linger: Duration) -> ClientConfig {
    let timeout = millis(settings.publish_timeout).to_string();
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.kafka_brokers)
        // A 2xx promises that the upload survives the loss of a broker.
        .set("acks", "all")
        // librdkafka's own retries neither duplicate nor reorder.
        .set("enable.idempotence", "true")
        // What arrives while a request is under way goes with the next one: records gather by themselves as the load
        // grows (decision 8).
        .set("max.in.flight.requests.per.connection", "1")
        // See `publish::is_place`.
        .set("batch.num.messages", REQUEST_RECORDS_MAX.to_string())
        .set("linger.ms", millis(linger).to_string())
        .set("compression.type", "lz4")
        // Nobody waits for a record longer than this, so it need not be tried longer either.
        .set("message.timeout.ms", &timeout)
        .set("request.timeout.ms", &timeout)
        .set("message.max.bytes", RECORD_BYTES_MAX.to_string())
        // The bound of what this producer has on its way, uploads given up by their request included. One more is
        // refused at once.
        .set("queue.buffering.max.messages", settings.publish_in_flight.to_string())
        .set("queue.buffering.max.kbytes", settings.publish_buffer_kib.to_string())
        // A connection that a firewall forgot is found out by the kernel, if only after hours by Linux' default.
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

    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        kafka: KafkaSettings,
        #[command(flatten)]
        middle: MiddleSettings,
    }

    #[tokio::test]
    async fn a_producer_that_knows_no_broker_any_more_says_so_until_it_is_made_anew() {
        let settings = Program::parse_from(["test", "--kafka-brokers=127.0.0.1:1"]);
        let (readiness, broken) = (Readiness::default(), Arc::default());
        let producer =
            Producer::new("test", &settings.middle, &settings.kafka, Duration::ZERO, (&readiness, &broken))
                .unwrap();
        assert_eq!(producer.beyond_repair(), None);
        let lost = producer.client.load().lost.clone();
        let watching = Watching { readiness, broken: Arc::clone(&broken), lost };
        watching.stats(Statistics::default());
        broken.notified().await;
        assert_eq!(producer.beyond_repair().as_deref(), Some("no broker is known any more"));
        producer.make_anew().unwrap();
        assert_eq!(producer.beyond_repair(), None);
    }
}
