//! Into the journal: an upload is published when the brokers have acknowledged its record.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use metrics::Histogram;
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::fact::HEADER_TRACEPARENT;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::partition;
use milepost_shared::journal::position::Position;
use milepost_shared::journal::record;
use milepost_shared::kafka::client::{self, REQUEST_RECORDS_MAX, UploadBounds};
use milepost_shared::kafka::names::TopicNames;
use milepost_shared::kafka::producer::Producer;
use milepost_shared::kafka::trouble::Troubles;
use milepost_shared::program::pages::Readiness;
use milepost_shared::program::settings::{KafkaSettings, duration};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders, Timestamp};
use rdkafka::producer::FutureRecord;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::answer::matching::UNKNOWN_TIME;
use crate::answer::outcome::{Accepted, Unavailable};

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
/// The dependency's name on `/readyz`.
pub const KAFKA: &str = "kafka";
/// How often the brokers are asked whether they are there, and how long one answer may take (a stop may wait
/// for it).
const WATCH_EVERY: Duration = Duration::from_secs(2);
const WATCH_TIMEOUT: Duration = Duration::from_secs(2);
/// A gateway that is not ready is sent no uploads: after so long without one its troubles count as over, and the next upload shows
/// whether they are.
const UNTRIED_MAX: Duration = Duration::from_secs(30);
const PUBLISHING: &str = "publishing";

/// The bounds of publishing.
#[derive(Debug, Clone, Args)]
pub struct PublishSettings {
    /// Longest wait for the journal's acknowledgement before 503 [100ms..=1m].
    #[arg(long, env, default_value = "5s", value_parser = duration(100 * MS, MINUTE))]
    pub publish_timeout: Duration,

    /// How long a record waits for others to be sent together when PUBLISH_LINGER_FROM are on their way [0ms..=1s].
    #[arg(long, env, default_value = "2ms", value_parser = duration(Duration::ZERO, 1000 * MS))]
    pub publish_linger: Duration,

    /// With so many uploads on their way to the journal a further record lingers [0..=1000000].
    #[arg(long, env, default_value_t = 16, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub publish_linger_from: u32,

    /// Most uploads on their way to the journal, of each of the two kinds (those that linger and those that do not); past it 503 [1..=1000000].
    #[arg(long, env, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub publish_in_flight: u32,

    /// Memory for uploads on their way to the journal, KiB, of each of the two kinds; past it 503 [8192..=2097151].
    #[arg(long, env, default_value_t = 131_072)]
    #[arg(value_parser = clap::value_parser!(u32).range(8192..=2_097_151))]
    pub publish_buffer_kib: u32,
}

impl PublishSettings {
    /// Faults that no single setting shows, one sentence each.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        (self.publish_linger >= self.publish_timeout)
            .then(|| "PUBLISH_LINGER must be shorter than PUBLISH_TIMEOUT".to_owned())
            .into_iter()
            .collect()
    }
}

/// Where the journal put a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Partition and offset.
    pub position: Position,
    /// LogAppendTime, from the broker's acknowledgement.
    pub time: JournalTime,
}

/// Publishes uploads. With few on their way each is sent as soon as it can be; with many, records wait for one another,
/// since what they cost a broker is the requests (decision 11).
pub struct Publisher {
    /// For few: nothing lingers.
    prompt: Producer,
    /// For many.
    gathering: Producer,
    /// How many on their way are many.
    many: u32,
    on_their_way: AtomicU32,
    readiness: Readiness,
    /// What the brokers have against records: they may answer, and know the topic, and take nothing.
    troubles: Troubles,
    topic: String,
    partitions: i32,
    deadline: Duration,
    /// From handing over to the acknowledgement.
    seconds: Histogram,
}

/// One more upload is on its way, until this is dropped.
struct OnItsWay<'a>(&'a AtomicU32);

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Publisher {
    /// Makes the producers; nothing is connected yet.
    ///
    /// # Errors
    /// librdkafka refuses a property.
    pub fn new(
        settings: &PublishSettings,
        kafka: &KafkaSettings,
        readiness: &Readiness,
    ) -> anyhow::Result<Self> {
        metrics::counter!("milepost_gateway_producer_rebuilds_total").absolute(0);
        metrics::counter!("milepost_gateway_journal_time_missing_total").absolute(0);
        readiness.register(KAFKA, true);
        let bounds = UploadBounds {
            timeout: settings.publish_timeout,
            records: settings.publish_in_flight,
            kib: settings.publish_buffer_kib,
        };
        let producer = |id, linger| {
            Producer::new(client::uploads(kafka, id, linger, bounds)).context("cannot make a Kafka producer")
        };
        Ok(Self {
            prompt: producer("milepost-gateway-prompt", Duration::ZERO)?,
            gathering: producer("milepost-gateway-gathering", settings.publish_linger)?,
            many: settings.publish_linger_from,
            on_their_way: AtomicU32::new(0),
            readiness: readiness.clone(),
            troubles: Troubles::default(),
            topic: TopicNames::new(&kafka.topic_prefix).uploads,
            partitions: kafka.partitions,
            deadline: settings.publish_timeout,
            seconds: metrics::histogram!("milepost_gateway_publish_seconds"),
        })
    }

    fn producers(&self) -> [&Producer; 2] {
        [&self.prompt, &self.gathering]
    }

    /// Publishes one upload and waits for the acknowledgement, at most the publish timeout.
    ///
    /// # Errors
    /// [`Unavailable`]; the record may be in the journal all the same, so only a retry with the same key is
    /// safe.
    pub async fn publish(&self, accepted: &Accepted) -> Result<Published, Unavailable> {
        let value = record::encode(accepted.account, accepted.fingerprint, &accepted.upload);
        self.publish_value(accepted.key_hash, value, accepted.traceparent.as_deref()).await
    }

    /// The same of any record, by its value.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn publish_value(
        &self,
        key_hash: KeyHash,
        value: Vec<u8>,
        traceparent: Option<&str>,
    ) -> Result<Published, Unavailable> {
        let key = key_hash.to_string();
        // Not the client's choice, which goes by what the brokers report.
        let partition = partition::of_key(key.as_bytes(), self.partitions);
        let mut record = FutureRecord::to(&self.topic).partition(partition.0).key(&key).payload(&value);
        if let Some(traceparent) = traceparent {
            let header = Header { key: HEADER_TRACEPARENT, value: Some(traceparent) };
            record = record.headers(OwnedHeaders::new_with_capacity(1).insert(header));
        }
        let begun = Instant::now();
        let others = self.on_their_way.fetch_add(1, Ordering::Relaxed);
        let on_its_way = OnItsWay(&self.on_their_way);
        let producer = if others < self.many { &self.prompt } else { &self.gathering };
        let delivery = producer.send(record).map_err(|error| self.failed(&error))?;
        drop((key, value));
        // librdkafka reports a time-out some seconds late.
        let delivery = match tokio::time::timeout(self.deadline, delivery).await {
            Ok(Ok(Ok(delivery))) => delivery,
            Ok(Ok(Err((error, _)))) => return Err(self.failed(&error)),
            Err(_) => {
                return Err(self.failed(&KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut)));
            }
            // The producer was rebuilt, and its queue thrown away.
            Ok(Err(_)) => return Err(Unavailable::Journal),
        };
        drop(on_its_way);
        self.troubles.over(PUBLISHING);
        let time = journal_time(delivery.timestamp);
        if !is_place(delivery.offset, time.is_some()) {
            tracing::debug!("record acknowledged without an offset");
            return Err(Unavailable::Journal);
        }
        self.seconds.record(begun.elapsed());
        let position = Position::new(delivery.partition, delivery.offset);
        let time = time.unwrap_or_else(|| {
            metrics::counter!("milepost_gateway_journal_time_missing_total").increment(1);
            UNKNOWN_TIME
        });
        Ok(Published { position, time })
    }

    /// Asks for the brokers every two seconds, for readiness, and makes a new producer for one that is beyond
    /// repair; until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let publisher = Arc::clone(&self);
            if tokio::task::spawn_blocking(move || publisher.look()).await.is_err() {
                tracing::error!("the watch over the producers panicked");
            }
            let woken = async {
                tokio::select! {
                    () = self.prompt.troubled() => {}
                    () = self.gathering.troubled() => {}
                    () = tokio::time::sleep(WATCH_EVERY) => {}
                }
            };
            stop.run_until_cancelled(woken).await;
        }
    }

    /// Blocks, at most [`WATCH_TIMEOUT`] and what it takes to drop the producers.
    fn look(&self) {
        let until = Instant::now() + WATCH_TIMEOUT;
        let mut rebuilt = false;
        for producer in self.producers() {
            if let Some(reason) = producer.beyond_repair() {
                rebuilt = true;
                self.readiness.down(KAFKA, "a producer failed and is rebuilt");
                match producer.rebuild() {
                    Ok(()) => {
                        metrics::counter!("milepost_gateway_producer_rebuilds_total").increment(1);
                        tracing::warn!(reason, producer = producer.id(), "producer rebuilt");
                    }
                    Err(error) => tracing::error!(%error, "cannot make a new producer"),
                }
            }
        }
        if rebuilt {
            return;
        }
        let ask = |producer: &Producer| {
            producer.ask_brokers(&self.topic, until.saturating_duration_since(Instant::now()))
        };
        let fault = self.producers().into_iter().find_map(ask);
        let now = std::time::Instant::now();
        if let Some(then) = now.checked_sub(UNTRIED_MAX) {
            self.troubles.over_since(PUBLISHING, then);
        }
        match fault.or_else(|| self.troubles.standing(now)) {
            // What is known can be replayed without it, to clients that a balancer goes on sending (decision 20).
            None => self.readiness.up_and_optional(KAFKA),
            Some(error) => self.readiness.down(KAFKA, error),
        }
    }

    fn failed(&self, error: &KafkaError) -> Unavailable {
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::QueueFull) {
            return Unavailable::Overload;
        }
        tracing::debug!(%error, "record not acknowledged");
        let error = code.map_or(error.to_string(), |code| code.to_string());
        self.troubles.note(PUBLISHING, format!("{}: {error}", self.topic), std::time::Instant::now());
        Unavailable::Journal
    }

    /// Waits until nothing is queued any more; what is still queued at the deadline is lost, and no client
    /// was promised otherwise.
    pub async fn flush(self: Arc<Self>, deadline: Duration) {
        let until = Instant::now() + deadline;
        let flushing = move || {
            self.producers()
                .into_iter()
                .try_for_each(|producer| producer.flush(until.saturating_duration_since(Instant::now())))
        };
        if !matches!(tokio::task::spawn_blocking(flushing).await, Ok(Ok(()))) {
            tracing::warn!("not all records were acknowledged before the end");
        }
    }
}

/// The rules of the topics make the brokers stamp the record; without a stamp only the record's own result
/// can count.
fn journal_time(timestamp: Timestamp) -> Option<JournalTime> {
    if let Timestamp::LogAppendTime(time) = timestamp { Some(JournalTime(time)) } else { None }
}

/// Whether the offset of an acknowledgement is the record's. It is not if the acknowledgement says no more than that the record
/// is in the journal already, or if a later one implied it: then librdkafka counts the offset up from -1 over the records of
/// the request, or leaves it at -1001. So the second record of a duplicate seems to stand at 0. It shows by the stamp,
/// which such an acknowledgement never has and every other one has, as long as the topic is as it has to be.
fn is_place(offset: i64, is_stamped: bool) -> bool {
    offset >= if is_stamped { 0 } else { REQUEST_RECORDS_MAX }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use milepost_shared::journal::account::AccountId;
    use milepost_shared::location::fingerprint::Fingerprint;
    use milepost_shared::location::{Location, Upload};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use uuid::Uuid;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        kafka: KafkaSettings,
        #[command(flatten)]
        publish: PublishSettings,
    }

    /// A real broker does not break a producer at will, so this one is librdkafka's own imitation.
    fn cluster() -> MockCluster<'static, DefaultProducerContext> {
        cluster_of(6)
    }

    fn cluster_of(partitions: i32) -> MockCluster<'static, DefaultProducerContext> {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("location-uploads", partitions, 1).unwrap();
        cluster
    }

    fn publisher(
        cluster: &MockCluster<'_, DefaultProducerContext>,
        readiness: &Readiness,
        settings: &[&str],
    ) -> Arc<Publisher> {
        let brokers = format!("--kafka-brokers={}", cluster.bootstrap_servers());
        let settings = Program::parse_from(["test", &brokers].iter().chain(settings));
        Arc::new(Publisher::new(&settings.publish, &settings.kafka, readiness).unwrap())
    }

    fn accepted() -> Accepted {
        accepted_with(KeyHash([0; 32]))
    }

    fn accepted_with(key_hash: KeyHash) -> Accepted {
        let upload = Upload { device: "d".to_owned(), locations: vec![Location::new(1, 48.0, 16.0)] };
        Accepted {
            account: AccountId(Uuid::nil()),
            key_hash,
            has_key: true,
            fingerprint: Fingerprint::of(&upload),
            upload,
            traceparent: None,
            patience: Duration::ZERO,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_producer_with_a_fatal_error_is_made_anew() {
        for linger_from in ["--publish-linger-from=16", "--publish-linger-from=0"] {
            let cluster = cluster();
            let readiness = Readiness::default();
            let publisher = publisher(&cluster, &readiness, &[linger_from]);
            assert_eq!(publisher.publish(&accepted()).await.unwrap().position.offset.0, 0);

            cluster.request_errors(
                RDKafkaApiKey::Produce,
                &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER],
            );
            assert_eq!(publisher.publish(&accepted()).await, Err(Unavailable::Journal));
            assert_eq!(
                publisher.publish(&accepted()).await,
                Err(Unavailable::Journal),
                "the error is for good"
            );
            let stop = CancellationToken::new();
            let watching = tokio::spawn(Arc::clone(&publisher).watch(stop.clone()));
            let until = Instant::now() + PATIENCE;
            let broken = || publisher.producers().iter().any(|producer| producer.beyond_repair().is_some());
            while broken() || !readiness.is_ready() {
                assert!(Instant::now() < until, "no new producer in time");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            publisher.publish(&accepted()).await.unwrap();
            stop.cancel();
            watching.await.unwrap();
        }
    }

    /// Waits until `kafka` is down, and returns why, or up.
    async fn kafka(readiness: &Readiness, up: bool) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let kafka = readiness.snapshot()[KAFKA].clone();
            if kafka.up == up {
                return kafka.detail;
            }
            assert!(Instant::now() < until, "{kafka:?}");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_topic_that_the_brokers_refuse_makes_kafka_down_by_its_name_until_they_do_not() {
        let (cluster, readiness, stop) = (cluster(), Readiness::default(), CancellationToken::new());
        let publisher = publisher(&cluster, &readiness, &[]);
        let watching = tokio::spawn(Arc::clone(&publisher).watch(stop.clone()));
        kafka(&readiness, true).await;
        for error in [
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
        ] {
            cluster.topic_error("location-uploads", error).unwrap();
            let detail = kafka(&readiness, false).await;
            let error = RDKafkaErrorCode::from(error).to_string();
            assert!(detail.contains("location-uploads") && detail.contains(&error), "{detail}");
            cluster.topic_error("location-uploads", RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
            kafka(&readiness, true).await;
        }
        stop.cancel();
        watching.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn records_that_are_refused_again_and_again_make_kafka_down_until_one_is_taken() {
        let (cluster, readiness, stop) = (cluster(), Readiness::default(), CancellationToken::new());
        let publisher = publisher(&cluster, &readiness, &[]);
        let watching = tokio::spawn(Arc::clone(&publisher).watch(stop.clone()));
        kafka(&readiness, true).await;
        publisher.publish(&accepted()).await.unwrap();
        let refusals = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS; 10_000];
        cluster.request_errors(RDKafkaApiKey::Produce, &refusals);
        // So that they last.
        cluster.broker_round_trip_time(1, Duration::from_millis(10)).unwrap();
        let until = Instant::now() + PATIENCE;
        while readiness.snapshot()[KAFKA].up {
            assert!(Instant::now() < until, "up, though nothing is taken");
            assert_eq!(publisher.publish(&accepted()).await, Err(Unavailable::Journal));
        }
        let detail = kafka(&readiness, false).await;
        assert!(detail.contains("location-uploads") && detail.contains("acks"), "{detail}");
        cluster.clear_request_errors(RDKafkaApiKey::Produce);
        while publisher.publish(&accepted()).await.is_err() {
            assert!(Instant::now() < until + PATIENCE, "nothing is taken");
        }
        kafka(&readiness, true).await;
        stop.cancel();
        watching.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_acknowledgement_without_an_offset_is_no_receipt_for_a_place_that_does_not_exist() {
        let cluster = cluster();
        let publisher = publisher(&cluster, &Readiness::default(), &[]);
        publisher.publish(&accepted()).await.unwrap();
        let duplicate = RDKafkaRespErr::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER;
        cluster.request_errors(RDKafkaApiKey::Produce, &[duplicate]);
        assert_eq!(publisher.publish(&accepted()).await, Err(Unavailable::Journal));
        assert_eq!(publisher.prompt.beyond_repair(), None);
        publisher.publish(&accepted()).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_first_acknowledgements_of_a_gateway_are_no_receipts_either_if_they_have_no_offset() {
        let cluster = cluster();
        let settings = ["--publish-linger-from=0", "--publish-linger=1s"];
        let publisher = publisher(&cluster, &Readiness::default(), &settings);
        let duplicate = RDKafkaRespErr::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER;
        cluster.request_errors(RDKafkaApiKey::Produce, &[duplicate]);
        let (one, other) = (accepted(), accepted());
        let both = tokio::join!(publisher.publish(&one), publisher.publish(&other));
        assert_eq!(both, (Err(Unavailable::Journal), Err(Unavailable::Journal)));
    }

    #[test]
    fn an_offset_that_was_only_counted_up_over_a_request_is_no_place() {
        for offset in [-1001, -1, 0, 998] {
            assert!(!is_place(offset, false), "{offset}");
        }
        assert!(is_place(0, true) && is_place(998, true));
        // A topic that has lost its stamps shows in a metric.
        assert!(is_place(1000, false));
        assert!(!is_place(-1, true));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_key_is_published_to_its_partition_of_as_many_as_are_set_though_the_topic_has_more() {
        let cluster = cluster_of(9);
        let publisher = publisher(&cluster, &Readiness::default(), &["--partitions=6"]);
        for byte in 0..24 {
            let accepted = accepted_with(KeyHash([byte; 32]));
            let partition = publisher.publish(&accepted).await.unwrap().position.partition;
            assert_eq!(partition, partition::of_key(accepted.key_hash.to_string().as_bytes(), 6));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_record_lingers_while_as_many_as_said_are_on_their_way_and_not_before() {
        let cluster = cluster();
        let publisher =
            publisher(&cluster, &Readiness::default(), &["--publish-linger-from=1", "--publish-linger=1s"]);
        let (one, other) = (accepted(), accepted());
        let seconds = async |accepted| {
            let begun = Instant::now();
            publisher.publish(accepted).await.unwrap();
            begun.elapsed().as_secs_f64()
        };
        // Each producer's first record may take a second: librdkafka looks for topics it did not know once a second.
        tokio::join!(biased; seconds(&one), seconds(&other));
        let (first, second) = tokio::join!(biased; seconds(&one), seconds(&other));
        assert!(first < 1.0 && second >= 1.0, "{first}, {second}");
        assert_eq!(publisher.on_their_way.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_lingers_is_sent_by_a_flush() {
        let cluster = cluster();
        let settings = ["--publish-linger-from=0", "--publish-linger=1s"];
        let publisher = publisher(&cluster, &Readiness::default(), &settings);
        let begun = Instant::now();
        let publishing = tokio::spawn({
            let publisher = Arc::clone(&publisher);
            async move { publisher.publish(&accepted()).await.unwrap() }
        });
        while publisher.gathering.queued() == 0 {
            assert!(begun.elapsed() < PATIENCE, "nothing is queued");
            tokio::task::yield_now().await;
        }
        Arc::clone(&publisher).flush(PATIENCE).await;
        assert_eq!(publisher.gathering.queued(), 0);
        publishing.await.unwrap();
    }
}
