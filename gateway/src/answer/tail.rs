//! The results tail: every gateway reads all of `location-results`, into its cache and to whoever waits.
//!
//! On a thread of its own, without a consumer group: positions are chosen at start (some minutes back, to
//! warm the cache) and never committed. If it stands still, the table answers instead.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use metrics::Counter;
use milepost_shared::journal::clock::{Clock, JournalTime, millis};
use milepost_shared::journal::position::Partition;
use milepost_shared::journal::result::ResultRecord;
use milepost_shared::kafka::client::{self, Watching};
use milepost_shared::kafka::names::TopicNames;
use milepost_shared::kafka::reader::{self, Reader, Reading};
use milepost_shared::kafka::trouble::Troubles;
use milepost_shared::program::pages::Readiness;
use milepost_shared::program::settings::{KafkaSettings, duration};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message as _};
use tokio_util::sync::CancellationToken;

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
/// The dependency's name on `/readyz`: up once the tail has caught up at start, and down while results cannot be read.
pub const RESULTS: &str = "results";
/// Longest silence before the stop token is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Longest wait for the brokers to give offsets; a stop may wait for it.
const OFFSETS_TIMEOUT: Duration = Duration::from_secs(2);
/// What can stand in trouble, besides reading.
const BEGINNING: &str = "beginning";
/// Between two attempts to start.
const RETRY: Duration = Duration::from_millis(500);

/// How much of the results is read at start.
#[derive(Debug, Clone, Args)]
pub struct TailSettings {
    /// How far back the results topic is read at start to fill the cache [0s..=24h].
    #[arg(long, env, default_value = "10m", value_parser = duration(Duration::ZERO, 1440 * MINUTE))]
    pub warm_up: Duration,

    /// Longest time the gateway is kept from being ready by that [100ms..=10m].
    #[arg(long, env, default_value = "30s", value_parser = duration(100 * MS, 10 * MINUTE))]
    pub warm_up_max: Duration,
}

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
        settings: &TailSettings,
        kafka: &KafkaSettings,
    ) -> anyhow::Result<std::thread::JoinHandle<()>> {
        let counters = ["read", "unreadable"]
            .map(|result| metrics::counter!("milepost_gateway_tail_records_total", "result" => result));
        for counter in &counters {
            counter.absolute(0);
        }
        self.readiness.register(RESULTS, true);
        let config = client::results_tail(kafka);
        let open = move || -> KafkaResult<Reader> { config.create_with_context(Watching::default()) };
        let mut reader = open().context("cannot make a Kafka client")?;
        let topic = TopicNames::new(&kafka.topic_prefix).results;
        let partitions = kafka.partitions;
        let (warm_up, warm_up_max) = (settings.warm_up, settings.warm_up_max);
        std::thread::Builder::new()
            .name("results-tail".to_owned())
            .spawn(move || {
                let mut warming = Warming {
                    readiness: self.readiness.clone(),
                    troubles: Troubles::default(),
                    behind: Partition::all(partitions).collect(),
                    until: Instant::now() + warm_up_max,
                    done: false,
                    reported: None,
                };
                while !self.stop.is_cancelled() {
                    match self.assign(&reader, &topic, partitions, warm_up) {
                        Ok(()) => self.read(&reader, &topic, &mut warming, &counters),
                        Err(error) => {
                            tracing::debug!(%error, "cannot begin to read results");
                            warming.troubles.note(BEGINNING, format!("{topic}: {error}"), Instant::now());
                            // Statistics come with the events.
                            drop(reader.poll(RETRY));
                            warming.look();
                        }
                    }
                    if reader.context().lost.is_cancelled() {
                        tracing::warn!("no broker is known any more; results are read by a new client");
                        match open() {
                            Ok(new) => reader = new,
                            Err(error) => tracing::error!(%error, "cannot make a Kafka client"),
                        }
                    }
                }
            })
            .context("cannot start a thread")
    }

    /// Chooses where each partition begins: at the first record stamped within `warm_up`, else at the end.
    fn assign(&self, reader: &Reader, topic: &str, partitions: i32, warm_up: Duration) -> KafkaResult<()> {
        let since = self.clock.now_ms().saturating_sub(millis(warm_up));
        let times = Partition::all(partitions).map(|partition| (partition, since));
        reader::assign(reader, topic, reader::offsets_at(reader, topic, times, OFFSETS_TIMEOUT)?)
    }

    /// Reads until stopped, or until no broker is known any more. Else librdkafka reconnects by itself.
    fn read(&self, reader: &Reader, topic: &str, warming: &mut Warming, counters: &[Counter; 2]) {
        warming.troubles.over(BEGINNING);
        let mut reading = Reading::new(topic, &warming.troubles);
        while !self.stop.is_cancelled() && !reader.context().lost.is_cancelled() {
            match reader.poll(POLL) {
                Some(Ok(message)) => self.take(&message, counters),
                Some(Err(KafkaError::PartitionEOF(partition))) => warming.caught_up(Partition(partition)),
                Some(Err(error)) => reading.failed(&error),
                None => {}
            }
            if let Err(error) = reading.look_again(reader, || reader.assignment()) {
                tracing::debug!(%error, "cannot read results again");
            }
            warming.look();
        }
    }

    fn take(&self, message: &BorrowedMessage<'_>, [read, unreadable]: &[Counter; 2]) {
        let stamped = message.timestamp().to_millis().map(JournalTime);
        let result = ResultRecord::decode(Partition(message.partition()), message.key(), message.payload());
        match result {
            Some(result) => {
                read.increment(1);
                (self.hand_over)(&result, stamped);
            }
            None => unreadable.increment(1),
        }
    }
}

/// The first catching-up. A gateway that starts into a storm of retries must know what was answered in the
/// last minutes before it is sent any, but a topic that cannot be read does not keep it away for ever.
///
/// Afterwards it reports errors that stand. The gateway is ready all the same: the table answers.
struct Warming {
    readiness: Readiness,
    troubles: Troubles,
    behind: BTreeSet<Partition>,
    until: Instant,
    done: bool,
    /// The error on `/readyz`.
    reported: Option<String>,
}

impl Warming {
    fn caught_up(&mut self, partition: Partition) {
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
        if standing != self.reported {
            match &standing {
                Some(error) => self.readiness.down(RESULTS, error.clone()),
                None => self.readiness.up(RESULTS),
            }
            self.reported = standing;
        }
    }
}

#[cfg(test)]
mod tests {
    use milepost_shared::kafka::reader::READING;
    use milepost_shared::kafka::trouble;

    use super::*;

    fn warming(until: Instant) -> Warming {
        let readiness = Readiness::default();
        readiness.register(RESULTS, true);
        let (troubles, behind) = (Troubles::default(), Partition::all(2).collect());
        Warming { readiness, troubles, behind, until, done: false, reported: None }
    }

    #[test]
    fn the_gateway_is_not_ready_before_every_partition_is_read_to_its_end() {
        let mut warming = warming(Instant::now() + Duration::from_secs(3600));
        warming.caught_up(Partition(1));
        warming.look();
        assert!(!warming.readiness.is_ready());
        warming.caught_up(Partition(0));
        warming.look();
        assert!(warming.readiness.is_ready());
    }

    #[test]
    fn an_error_that_stands_is_reported_and_keeps_no_gateway_away() {
        let mut warming = warming(Instant::now());
        let long_ago = Instant::now().checked_sub(trouble::PATIENCE).unwrap();
        warming.troubles.note(READING, "location-results: refused", long_ago);
        warming.look();
        let results = warming.readiness.snapshot()[RESULTS].clone();
        assert_eq!((results.up, results.detail.as_str()), (false, "location-results: refused"));
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
