//! The results tail: every gateway reads all of `location-results`, into its cache and to whoever waits.
//!
//! On a thread of its own, without a consumer group: positions are chosen at start (some minutes back, to
//! warm the cache) and never committed. If it stands still, the table answers instead.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use metrics::Counter;
use milepost_shared::journal::clock::{Clock, JournalTime, millis};
use milepost_shared::journal::result::ResultRecord;
use milepost_shared::kafka::brokers;
use milepost_shared::kafka::topics::TopicNames;
use milepost_shared::kafka::trouble::{self, Doubt, Next, Troubles};
use milepost_shared::program::pages::Readiness;
use milepost_shared::program::settings::KafkaSettings;
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, Statistics, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use crate::answer::service::MiddleSettings;

/// The dependency's name on `/readyz`: up once the tail has caught up at start, and down while results cannot be read.
pub const RESULTS: &str = "results";
/// Longest silence before the stop token is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Longest wait for the brokers to tell offsets; a stop may wait for it.
const OFFSETS_TIMEOUT: Duration = Duration::from_secs(2);
/// What can stand in trouble.
const BEGINNING: &str = "beginning";
const READING: &str = "reading";
/// Between two attempts to start.
const RETRY: Duration = Duration::from_millis(500);

/// Errors reach the reader too, the end of a partition among them, which is none.
#[derive(Default)]
struct Quiet {
    /// No broker is known any more.
    lost: CancellationToken,
}

impl ClientContext for Quiet {
    fn stats(&self, statistics: Statistics) {
        if brokers::are_forgotten(&statistics) {
            self.lost.cancel();
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "results tail");
    }
}

impl ConsumerContext for Quiet {}

type Consumer = BaseConsumer<Quiet>;

/// What the tail needs to know.
pub struct Tail<H> {
    /// All results go here, oldest first within a partition, with the time the broker stamped them.
    pub hand_over: H,
    /// For the time to begin at.
    pub clock: Clock,
    /// Told when the tail has caught up.
    pub readiness: Readiness,
    /// Ends the thread, within some 100 ms when the brokers answer.
    pub stop: CancellationToken,
}

impl<H: Fn(&ResultRecord, Option<JournalTime>) + Send + 'static> Tail<H> {
    /// Starts the thread.
    ///
    /// # Errors
    /// librdkafka refuses a property, or there are no threads left.
    pub fn start(
        self,
        settings: &MiddleSettings,
        kafka: &KafkaSettings,
    ) -> anyhow::Result<std::thread::JoinHandle<()>> {
        let counters = ["read", "unreadable"]
            .map(|result| metrics::counter!("milepost_gateway_tail_records_total", "result" => result));
        for counter in &counters {
            counter.absolute(0);
        }
        self.readiness.register(RESULTS, true);
        let config = consumer_config(kafka);
        let consume =
            move || -> Result<Consumer, KafkaError> { config.create_with_context(Quiet::default()) };
        let mut consumer = consume().context("cannot make a Kafka consumer")?;
        let topic = TopicNames::new(&kafka.topic_prefix).results;
        let partitions = kafka.partitions;
        let (warm_up, warm_up_max) = (settings.warm_up, settings.warm_up_max);
        std::thread::Builder::new()
            .name("results-tail".to_owned())
            .spawn(move || {
                let mut warming = Warming {
                    readiness: self.readiness.clone(),
                    troubles: Troubles::default(),
                    behind: (0..partitions).collect(),
                    until: Instant::now() + warm_up_max,
                    done: false,
                    told: None,
                };
                while !self.stop.is_cancelled() {
                    match self.assign(&consumer, &topic, partitions, warm_up) {
                        Ok(()) => self.read((&consumer, &topic), &mut warming, &counters),
                        Err(error) => {
                            tracing::debug!(%error, "cannot begin to read results");
                            warming.troubles.note(BEGINNING, format!("{topic}: {error}"), Instant::now());
                            // Statistics come with the events.
                            drop(consumer.poll(RETRY));
                            warming.look();
                        }
                    }
                    if consumer.context().lost.is_cancelled() {
                        tracing::warn!("no broker is known any more; results are read by a new client");
                        match consume() {
                            Ok(new) => consumer = new,
                            Err(error) => tracing::error!(%error, "cannot make a Kafka consumer"),
                        }
                    }
                }
            })
            .context("cannot start a thread")
    }

    /// Chooses where each partition begins: at the first record stamped within `warm_up`, else at the end.
    fn assign(
        &self,
        consumer: &Consumer,
        topic: &str,
        partitions: i32,
        warm_up: Duration,
    ) -> Result<(), KafkaError> {
        let since = self.clock.now_ms().saturating_sub(millis(warm_up));
        let mut times = TopicPartitionList::new();
        for partition in 0..partitions {
            times.add_partition_offset(topic, partition, Offset::Offset(since))?;
        }
        let found = consumer.offsets_for_times(times, OFFSETS_TIMEOUT)?;
        let mut positions = TopicPartitionList::new();
        for element in found.elements() {
            element.error()?;
            positions.add_partition_offset(topic, element.partition(), element.offset())?;
        }
        consumer.assign(&positions)
    }

    /// Reads until stopped, or until no broker is known any more. Else librdkafka reconnects by itself.
    fn read(&self, (consumer, topic): (&Consumer, &str), warming: &mut Warming, counters: &[Counter; 2]) {
        warming.troubles.over(BEGINNING);
        let mut doubt: Option<Doubt> = None;
        while !self.stop.is_cancelled() && !consumer.context().lost.is_cancelled() {
            match consumer.poll(POLL) {
                Some(Ok(message)) => self.take(&message, counters),
                Some(Err(KafkaError::PartitionEOF(partition))) => warming.caught_up(partition),
                Some(Err(error)) => {
                    tracing::debug!(%error, "cannot read results");
                    let error = error.rdkafka_error_code().map_or(error.to_string(), |code| code.to_string());
                    warming.troubles.note(READING, format!("{topic}: {error}"), Instant::now());
                    doubt = Some(Doubt::new(Instant::now()));
                }
                None => {}
            }
            match doubt.as_mut().map_or(Next::Wait, |doubt| doubt.look(Instant::now())) {
                Next::Wait => {}
                Next::Ask => read_again(consumer),
                Next::Gone => match fault(consumer, topic) {
                    Some(fault) => warming.troubles.note(READING, fault, Instant::now()),
                    None => {
                        warming.troubles.over(READING);
                        doubt = None;
                    }
                },
            }
            warming.look();
        }
    }

    fn take(&self, message: &BorrowedMessage<'_>, [read, unreadable]: &[Counter; 2]) {
        let stamped = message.timestamp().to_millis().map(JournalTime);
        let result = ResultRecord::decode(message.partition(), message.key(), message.payload());
        match result {
            Some(result) => {
                read.increment(1);
                (self.hand_over)(&result, stamped);
            }
            None => unreadable.increment(1),
        }
    }
}

/// librdkafka tells many an error once: of partitions that are paused and resumed it tells again. Nothing read is lost.
fn read_again(consumer: &Consumer) {
    let again = consumer.assignment().and_then(|all| consumer.pause(&all).and(consumer.resume(&all)));
    if let Err(error) = again {
        tracing::debug!(%error, "cannot read results again");
    }
}

/// What is wrong with the topic, by the brokers' own word.
fn fault(consumer: &Consumer, topic: &str) -> Option<String> {
    match consumer.fetch_metadata(Some(topic), OFFSETS_TIMEOUT) {
        Ok(metadata) => trouble::of_topic(&metadata, topic),
        Err(error) => Some(format!("{topic}: {error}")),
    }
}

/// The first catching-up. A gateway that starts into a storm of retries must know what was answered in the
/// last minutes before it is sent any, but a topic that cannot be read does not keep it away for ever.
///
/// Afterwards it tells of errors that stand. The gateway is ready all the same: the table answers.
struct Warming {
    readiness: Readiness,
    troubles: Troubles,
    behind: BTreeSet<i32>,
    until: Instant,
    done: bool,
    /// The error that is told.
    told: Option<String>,
}

impl Warming {
    fn caught_up(&mut self, partition: i32) {
        self.behind.remove(&partition);
    }

    fn look(&mut self) {
        let now = Instant::now();
        if !self.done && (self.behind.is_empty() || self.until <= now) {
            self.done = true;
            self.readiness.register(RESULTS, false);
            self.readiness.up(RESULTS);
            tracing::info!(partitions_behind = self.behind.len(), "results tail is warm");
        }
        let standing = self.troubles.standing(now).filter(|_| self.done);
        if standing != self.told {
            match &standing {
                Some(error) => self.readiness.down(RESULTS, error.clone()),
                None => self.readiness.up(RESULTS),
            }
            self.told = standing;
        }
    }
}

fn consumer_config(kafka: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.kafka_brokers)
        .set("client.id", "milepost-gateway-results")
        // Demanded by librdkafka, used by nobody: partitions are assigned by hand, nothing is committed.
        .set("group.id", format!("{}milepost-gateway", kafka.topic_prefix))
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // A position that retention has overtaken: go on with what is left.
        .set("auto.offset.reset", "earliest")
        .set("enable.partition.eof", "true")
        // The producer of results uses no transactions.
        .set("isolation.level", "read_uncommitted")
        .set("allow.auto.create.topics", "false")
        // A result is answered to a waiting client: the broker sends the first byte it has.
        .set("fetch.min.bytes", "1")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.error.backoff.ms", "100")
        // Results are read as fast as they come; this bounds memory when they do not.
        .set("queued.max.messages.kbytes", "16384")
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("statistics.interval.ms", brokers::STATISTICS_INTERVAL_MS);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warming(until: Instant) -> Warming {
        let readiness = Readiness::default();
        readiness.register(RESULTS, true);
        let (troubles, behind) = (Troubles::default(), BTreeSet::from([0, 1]));
        Warming { readiness, troubles, behind, until, done: false, told: None }
    }

    #[test]
    fn the_gateway_is_not_ready_before_every_partition_is_read_to_its_end() {
        let mut warming = warming(Instant::now() + Duration::from_secs(3600));
        warming.caught_up(1);
        warming.look();
        assert!(!warming.readiness.is_ready());
        warming.caught_up(0);
        warming.look();
        assert!(warming.readiness.is_ready());
    }

    #[test]
    fn an_error_that_stands_is_told_and_keeps_no_gateway_away() {
        let mut warming = warming(Instant::now());
        let long_ago = Instant::now().checked_sub(trouble::PATIENCE).unwrap();
        warming.troubles.note(READING, "location-results: refused", long_ago);
        warming.look();
        let told = warming.readiness.snapshot()[RESULTS].clone();
        assert_eq!((told.up, told.detail.as_str()), (false, "location-results: refused"));
        assert!(warming.readiness.is_ready());
        warming.troubles.over(READING);
        warming.look();
        assert!(warming.readiness.snapshot()[RESULTS].up);
    }

    #[test]
    fn a_topic_that_cannot_be_read_does_not_keep_it_away_for_ever() {
        let mut warming = warming(Instant::now());
        warming.look();
        assert!(warming.readiness.is_ready());
    }
}
