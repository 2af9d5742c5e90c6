//! A producer, which is rebuilt when it is beyond repair.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::ToBytes;
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::kafka::client::Watching;
use crate::kafka::trouble;

/// One of librdkafka's producers at a time.
pub struct Producer {
    config: ClientConfig,
    troubled: Arc<Notify>,
    current: ArcSwap<Current>,
}

struct Current {
    producer: FutureProducer<Watching>,
    lost: CancellationToken,
}

impl Producer {
    /// Makes one from a configuration of [`client`](crate::kafka::client); nothing is connected yet.
    ///
    /// # Errors
    /// librdkafka refuses a property.
    pub fn new(config: ClientConfig) -> Result<Self, KafkaError> {
        let troubled = Arc::default();
        let current = ArcSwap::from_pointee(create(&config, &troubled)?);
        Ok(Self { config, troubled, current })
    }

    /// Its name, as brokers see it.
    #[must_use]
    pub fn id(&self) -> &str {
        self.config.get("client.id").unwrap_or_default()
    }

    /// Queues a record. The future brings its acknowledgement, or nothing if the producer is rebuilt before.
    ///
    /// # Errors
    /// The queue is full, or librdkafka will never take a record again.
    pub fn send<K, P>(&self, record: FutureRecord<'_, K, P>) -> Result<DeliveryFuture, KafkaError>
    where
        K: ToBytes + ?Sized,
        P: ToBytes + ?Sized,
    {
        // Not `send`: with a full queue it would sleep in steps of 100 ms.
        self.current.load().producer.send_result(record).map_err(|(error, _)| error)
    }

    /// Waits for deliveries, unless the producer is lost: if it gives up on no record, they would never come.
    ///
    /// # Errors
    /// Theirs, or that all brokers are down.
    pub async fn unless_lost<E: From<KafkaError>>(
        &self,
        delivering: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let lost = || Err(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown).into());
        self.lost().run_until_cancelled_owned(delivering).await.unwrap_or_else(lost)
    }

    /// Cancelled when it knows no broker any more and will never connect again, until it is rebuilt.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        self.current.load().lost.clone()
    }

    /// Waits until it may be beyond repair, or no broker can be reached.
    pub async fn troubled(&self) {
        self.troubled.notified().await;
    }

    /// Why nothing will ever be sent through it again; `None` if that may still be.
    #[must_use]
    pub fn beyond_repair(&self) -> Option<String> {
        let current = self.current.load();
        let fatal = current.producer.client().fatal_error().map(|(_, text)| text);
        fatal.or_else(|| current.lost.is_cancelled().then(|| "no broker is known any more".to_owned()))
    }

    /// Puts a new one in its place. What was queued fails, and who sent it has to try again. Blocks while the old one is
    /// dropped.
    ///
    /// # Errors
    /// librdkafka cannot make one; the old one stays.
    pub fn rebuild(&self) -> Result<(), KafkaError> {
        let new = create(&self.config, &self.troubled)?;
        drop(self.current.swap(Arc::new(new)));
        Ok(())
    }

    /// What keeps the brokers from taking records of a topic, for operators; `None` if they answer, know the topic and lead
    /// all its partitions. Blocks up to `timeout`.
    #[must_use]
    pub fn ask_brokers(&self, topic: &str, timeout: Duration) -> Option<String> {
        trouble::ask(self.current.load_full().producer.client(), topic, timeout)
    }

    /// Records queued or under way.
    #[must_use]
    pub fn queued(&self) -> i32 {
        self.current.load().producer.in_flight_count()
    }

    /// Blocks until nothing is queued any more, at most so long.
    ///
    /// # Errors
    /// Something still is.
    pub fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        self.current.load_full().producer.flush(timeout)
    }
}

fn create(config: &ClientConfig, troubled: &Arc<Notify>) -> Result<Current, KafkaError> {
    let watching = Watching { lost: CancellationToken::new(), troubled: Arc::clone(troubled) };
    let lost = watching.lost.clone();
    Ok(Current { producer: config.create_with_context(watching)?, lost })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rdkafka::mocking::MockCluster;
    use rdkafka::{ClientContext as _, Statistics};

    use super::*;
    use crate::kafka::client::{self, UploadBounds};
    use crate::program::settings::KafkaSettings;

    const BOUNDS: UploadBounds =
        UploadBounds { timeout: Duration::from_secs(10), records: 1000, kib: 100_000 };

    fn of_facts(brokers: &str) -> ClientConfig {
        client::emissions(&KafkaSettings::at(brokers), "test", Duration::ZERO)
    }

    fn of_uploads(brokers: &str) -> ClientConfig {
        client::uploads(&KafkaSettings::at(brokers), "test", Duration::ZERO, BOUNDS)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_request_waits_until_the_one_before_it_is_acknowledged() {
        for config in [of_facts, of_uploads] {
            let (cluster, round_trip) = (MockCluster::new(1).unwrap(), Duration::from_millis(400));
            cluster.create_topic("locations", 1, 1).unwrap();
            let producer = Producer::new(config(&cluster.bootstrap_servers())).unwrap();
            // Two of them do not fit into one request.
            let value = vec![b'x'; 700_000];
            let send = || producer.send(FutureRecord::to("locations").key("k").payload(&value)).unwrap();
            send().await.unwrap().unwrap();
            cluster.broker_round_trip_time(1, round_trip).unwrap();
            let begun = Instant::now();
            let deliveries: Vec<_> = (0..4).map(|_| send()).collect();
            for (offset, delivery) in (1..).zip(deliveries) {
                assert_eq!(delivery.await.unwrap().unwrap().offset, offset);
            }
            assert!(begun.elapsed() >= 4 * round_trip, "all within {:?}", begun.elapsed());
        }
    }

    /// As if the statistics had no broker.
    fn lose(producer: &Producer) {
        let watching = Watching { lost: producer.lost(), troubled: Arc::clone(&producer.troubled) };
        watching.stats(Statistics::default());
    }

    #[tokio::test]
    async fn a_producer_that_knows_no_broker_any_more_says_so_until_it_is_rebuilt() {
        let producer = Producer::new(of_uploads("127.0.0.1:1")).unwrap();
        assert_eq!(producer.beyond_repair(), None);
        lose(&producer);
        producer.troubled().await;
        assert_eq!(producer.beyond_repair().as_deref(), Some("no broker is known any more"));
        producer.rebuild().unwrap();
        assert_eq!(producer.beyond_repair(), None);
    }

    #[tokio::test]
    async fn nothing_is_awaited_of_a_producer_that_knows_no_broker_any_more() {
        let producer = Producer::new(of_facts("127.0.0.1:1")).unwrap();
        assert_eq!(producer.unless_lost::<KafkaError>(async { Ok(()) }).await, Ok(()));
        lose(&producer);
        let never = std::future::pending();
        let lost = Err(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown));
        assert_eq!(producer.unless_lost(never).await, lost);
    }
}
