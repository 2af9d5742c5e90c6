//! The configuration of every Kafka client, by what it is for, and what a client says about itself.
//!
//! librdkafka's defaults are not the Java client's, so every property relied on is set. What a connection needs is set in
//! one place, for all of them.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, ClientContext, Statistics};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::journal::clock::millis;
use crate::kafka::names::{RECORD_BYTES_MAX, TopicNames};
use crate::program::settings::KafkaSettings;

/// Most records of one request, of one partition.
pub const REQUEST_RECORDS_MAX: i64 = 1000;
/// How long the group waits for a member whose thread does not poll.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(300);

/// What every client needs, by the name `id`, as brokers see it.
fn client(kafka: &KafkaSettings, id: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.kafka_brokers)
        .set("client.id", id)
        // Asking about a topic that was deleted must not create it again.
        .set("allow.auto.create.topics", "false")
        // A connection that a firewall forgot is found out by the kernel, if only after hours by Linux' default.
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        // Brokers come back sooner than the default of 10 s would notice.
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000");
    config
}

/// For administrative requests. Nothing polls such a client, so it has no statistics.
#[must_use]
pub fn admin(kafka: &KafkaSettings) -> ClientConfig {
    client(kafka, "milepost-topics")
}

/// A client whose statistics somebody hears: see [`are_forgotten`].
fn watched(kafka: &KafkaSettings, id: &str) -> ClientConfig {
    let mut config = client(kafka, id);
    config.set("statistics.interval.ms", "1000");
    config
}

/// A producer whose records wait so long for others.
fn producer(kafka: &KafkaSettings, id: &str, linger: Duration) -> ClientConfig {
    let mut config = watched(kafka, id);
    config
        // A 2xx promises that the upload survives the loss of a broker.
        .set("acks", "all")
        // librdkafka's own retries neither duplicate nor reorder.
        .set("enable.idempotence", "true")
        // One request after the other. What arrives while one is under way goes with the next: records gather by themselves
        // as the load grows (decision 8). And with two of a partition under way, a broker that has forgotten the producer's
        // id and refuses the first, for too few replicas, may take the second; the first, sent again, then looks like one
        // that was taken before, and counts as delivered.
        .set("max.in.flight.requests.per.connection", "1")
        .set("linger.ms", millis(linger).to_string())
        .set("compression.type", "lz4")
        .set("message.max.bytes", RECORD_BYTES_MAX.to_string())
        .set("topic.metadata.refresh.interval.ms", "30000");
    config
}

/// The bounds of a producer of uploads.
#[derive(Debug, Clone, Copy)]
pub struct UploadBounds {
    /// Longest wait for an acknowledgement.
    pub timeout: Duration,
    /// Most records on their way, those included that their request has given up. One more is refused at once.
    pub records: u32,
    /// Memory for them, KiB.
    pub kib: u32,
}

/// A producer of uploads: it gives a record up when nobody waits for it any more.
#[must_use]
pub fn uploads(kafka: &KafkaSettings, id: &str, linger: Duration, bounds: UploadBounds) -> ClientConfig {
    let UploadBounds { timeout, records, kib } = bounds;
    let timeout = millis(timeout).to_string();
    let mut config = producer(kafka, id, linger);
    config
        .set("message.timeout.ms", &timeout)
        .set("request.timeout.ms", &timeout)
        .set("retry.backoff.ms", "50")
        // Whether an offset is a record's is judged by it.
        .set("batch.num.messages", REQUEST_RECORDS_MAX.to_string())
        .set("queue.buffering.max.messages", records.to_string())
        .set("queue.buffering.max.kbytes", kib.to_string());
    config
}

/// A producer of results or facts: it gives up on no record, alone or by time, and leaves no hole.
#[must_use]
pub fn emissions(kafka: &KafkaSettings, id: &str, linger: Duration) -> ClientConfig {
    let mut config = producer(kafka, id, linger);
    config
        .set("enable.gapless.guarantee", "true")
        .set("message.timeout.ms", "0")
        // More than all that is pending; who finds it full waits.
        .set("queue.buffering.max.messages", "100000")
        .set("queue.buffering.max.kbytes", "65536");
    config
}

/// A reader. Nothing is committed but by an explicit list.
fn reader(kafka: &KafkaSettings, id: &str, group: &str) -> ClientConfig {
    let mut config = watched(kafka, id);
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // An open transaction, which is nobody's of Milepost, must not stall its partition; what it has written are records
        // as any other's.
        .set("isolation.level", "read_uncommitted");
    config
}

/// A reader of partitions that are assigned by hand, by the name `id`, which reports the end of a partition. librdkafka
/// demands a group's name, which nobody uses.
fn assigned(kafka: &KafkaSettings, id: &str) -> ClientConfig {
    let mut config = reader(kafka, id, &format!("{}{id}", kafka.topic_prefix));
    config.set("enable.partition.eof", "true");
    config
}

/// The gateway's reader of all results.
#[must_use]
pub fn results_tail(kafka: &KafkaSettings) -> ClientConfig {
    let mut config = assigned(kafka, "milepost-gateway-results");
    config
        // A position that retention has overtaken: go on with what is left.
        .set("auto.offset.reset", "earliest")
        // A result is answered to a waiting client: the broker sends the first byte it has.
        .set("fetch.min.bytes", "1")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.error.backoff.ms", "100")
        // Results are read as fast as they come; this bounds memory when they do not.
        .set("queued.max.messages.kbytes", "16384");
    config
}

/// The consumer's look at whether anything is left in the journal.
#[must_use]
pub fn journal_ends(kafka: &KafkaSettings) -> ClientConfig {
    let mut config = assigned(kafka, "milepost-consumer-expire");
    config
        .set("auto.offset.reset", "error")
        // One record is enough.
        .set("fetch.message.max.bytes", "65536")
        .set("queued.min.messages", "1");
    config
}

/// The administrator's look at single records.
#[must_use]
pub fn journal_show(kafka: &KafkaSettings) -> ClientConfig {
    let mut config = assigned(kafka, "milepost-admin");
    config
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        // What is fetched ahead and not asked for.
        .set("queued.max.messages.kbytes", "8192");
    config
}

/// A member of the consumer group, which gives it up when it has been silent for `session_timeout`.
#[must_use]
pub fn journal_member(kafka: &KafkaSettings, session_timeout: Duration) -> ClientConfig {
    let mut config = reader(kafka, "milepost-consumer", &TopicNames::group(&kafka.topic_prefix));
    config
        // Never skip: an offset that the journal does not hold is an error.
        .set("auto.offset.reset", "error")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", millis(session_timeout).to_string())
        .set("heartbeat.interval.ms", (millis(session_timeout) / 10).to_string())
        .set("max.poll.interval.ms", millis(MAX_POLL_INTERVAL).to_string())
        // An arriving record is fetched at once; these only bound empty waits and memory.
        .set("fetch.min.bytes", "1")
        .set("fetch.wait.max.ms", "500")
        .set("fetch.queue.backoff.ms", "50")
        .set("queued.min.messages", "10000")
        .set("queued.max.messages.kbytes", "32768")
        .set("fetch.message.max.bytes", RECORD_BYTES_MAX.to_string())
        // A request to a coordinator that has restarted may wait for an answer that never comes: with the default of a minute
        // nothing was consumed for so long.
        .set("socket.timeout.ms", "10000");
    config
}

/// Whether a client knows no broker any more, by its statistics.
///
/// A broker that shuts down, or has just begun, may answer a request for metadata with topics and without a single broker.
/// librdkafka (2.10 and later, confluentinc/librdkafka#5301) then drops every broker it knows, the bootstrap servers among
/// them, and never connects again: for a producer every record times out, a consumer hears nothing any more. Only a new
/// client helps, so each long-lived one looks at its own statistics.
#[must_use]
pub fn are_forgotten(statistics: &Statistics) -> bool {
    // The others are librdkafka's own place-holders.
    let is_real = |source: &str| matches!(source, "configured" | "learned");
    !statistics.brokers.values().any(|broker| is_real(&broker.source))
}

/// Hears what a client says about itself, and of no record.
#[derive(Debug, Clone, Default)]
pub struct Watching {
    /// Cancelled when the client knows no broker any more, and will never connect again.
    pub lost: CancellationToken,
    /// Notified when it is lost or broken, or when no broker can be reached.
    pub troubled: Arc<Notify>,
}

impl ClientContext for Watching {
    fn stats(&self, statistics: Statistics) {
        if are_forgotten(&statistics) {
            self.lost.cancel();
            self.troubled.notify_one();
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka client");
        let code = error.rdkafka_error_code();
        if matches!(code, Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::AllBrokersDown)) {
            self.troubled.notify_one();
        }
    }
}

impl ConsumerContext for Watching {}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::Broker;

    use super::*;

    #[test]
    fn place_holders_are_no_brokers() {
        let with = |sources: &[&str]| {
            let broker = |source: &&str| {
                let broker = Broker { source: (*source).to_owned(), ..Broker::default() };
                ((*source).to_owned(), broker)
            };
            Statistics { brokers: sources.iter().map(broker).collect(), ..Statistics::default() }
        };
        assert!(are_forgotten(&with(&[])));
        assert!(are_forgotten(&with(&["logical", "internal"])));
        assert!(!are_forgotten(&with(&["logical", "learned"])));
        assert!(!are_forgotten(&with(&["configured"])));
    }
}
