//! A producer of results or of facts: it keeps the order, and gives up on no record.

use std::time::Duration;

use milepost_shared::kafka::brokers;
use milepost_shared::kafka::topics::RECORD_BYTES_MAX;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, Producer as _};
use rdkafka::{ClientConfig, ClientContext, Statistics};
use tokio_util::sync::CancellationToken;

/// The producer itself.
pub type Producer = FutureProducer<Watching>;

/// A producer, and whether it knows no broker any more.
pub struct Client {
    /// The producer.
    pub producer: Producer,
    /// Cancelled when it will never connect again ([`milepost_shared::kafka::brokers`]).
    pub lost: CancellationToken,
}

/// Hears what a producer tells about itself.
pub struct Watching {
    lost: CancellationToken,
}

impl ClientContext for Watching {
    fn stats(&self, statistics: Statistics) {
        if brokers::are_forgotten(&statistics) {
            self.lost.cancel();
        }
    }
}

impl Client {
    /// A producer by the name `id` whose records wait so long for others.
    ///
    /// # Errors
    /// librdkafka refuses a property.
    pub fn new(id: &str, brokers: &str, linger: Duration) -> Result<Self, KafkaError> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", brokers)
            .set("client.id", id)
            .set("acks", "all")
            // Order, and no doubles from the producer's own retries.
            .set("enable.idempotence", "true")
            // One request after the other, as in the gateway. With two of a partition under way, a broker that has forgotten the
            // producer's id and refuses the first, for too few replicas, may take the second; the first, sent again, then looks
            // like one that was taken before, and counts as delivered.
            .set("max.in.flight.requests.per.connection", "1")
            // No record is ever given up on, alone or by time.
            .set("enable.gapless.guarantee", "true")
            .set("message.timeout.ms", "0")
            .set("linger.ms", linger.as_millis().to_string())
            .set("compression.type", "lz4")
            .set("message.max.bytes", RECORD_BYTES_MAX.to_string())
            // More than all that is pending; who finds it full waits.
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "65536")
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "2000")
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set("statistics.interval.ms", brokers::STATISTICS_INTERVAL_MS);
        let lost = CancellationToken::new();
        Ok(Self { producer: config.create_with_context(Watching { lost: lost.clone() })?, lost })
    }

    /// Waits for deliveries, unless the producer is lost: without brokers they would never come, since no record is given
    /// up on.
    ///
    /// # Errors
    /// Theirs, or that all brokers are down.
    pub async fn unless_lost<E: From<KafkaError>>(
        &self,
        delivering: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let lost = || Err(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown).into());
        self.lost.run_until_cancelled(delivering).await.unwrap_or_else(lost)
    }

    /// Why the producer can send nothing any more, if so.
    #[must_use]
    pub fn fatal_error(&self) -> Option<String> {
        self.producer.client().fatal_error().map(|(_, text)| text)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::FutureRecord;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_request_waits_until_the_one_before_it_is_acknowledged() {
        let (cluster, round_trip) = (MockCluster::new(1).unwrap(), Duration::from_millis(400));
        cluster.create_topic("locations", 1, 1).unwrap();
        let brokers = cluster.bootstrap_servers();
        let client = Client::new("test", &brokers, Duration::ZERO).unwrap();
        // Two of them do not fit into one request.
        let value = vec![b'x'; 700_000];
        let send =
            || client.producer.send_result(FutureRecord::to("locations").key("k").payload(&value)).unwrap();
        send().await.unwrap().unwrap();
        cluster.broker_round_trip_time(1, round_trip).unwrap();
        let begun = Instant::now();
        let deliveries: Vec<_> = (0..4).map(|_| send()).collect();
        for (offset, delivery) in (1..).zip(deliveries) {
            assert_eq!(delivery.await.unwrap().unwrap().offset, offset);
        }
        assert!(begun.elapsed() >= 4 * round_trip, "all within {:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn nothing_is_awaited_of_a_producer_that_knows_no_broker_any_more() {
        let client = Client::new("test", "127.0.0.1:1", Duration::ZERO).unwrap();
        assert_eq!(client.unless_lost::<KafkaError>(async { Ok(()) }).await, Ok(()));
        Watching { lost: client.lost.clone() }.stats(Statistics::default());
        let never = std::future::pending();
        let lost = Err(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown));
        assert_eq!(client.unless_lost(never).await, lost);
    }
}
