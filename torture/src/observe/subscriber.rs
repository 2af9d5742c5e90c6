//! The live subscriber: reads the facts as they are emitted, through every restart of the broker.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::ensure;
use milepost_tests::Record;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use crate::evidence::{SeenFact, Sources};
use crate::record::seen_fact;

/// Longest wait for one record.
const POLL: Duration = Duration::from_millis(200);
/// Longest wait for the broker to say where a partition ends.
const REQUEST: Duration = Duration::from_secs(5);
/// After so long without a record the client is replaced: one that has forgotten every broker never comes back
/// ([`milepost_shared::kafka::client::are_forgotten`]).
const SILENCE: Duration = Duration::from_secs(10);
/// Longest time to read to the end, once all is quiet.
const CATCH_UP: Duration = Duration::from_secs(90);

#[derive(Debug)]
pub(super) struct Seen {
    pub(super) facts: Vec<SeenFact>,
    pub(super) reads: u64,
}

pub(super) struct Subscriber {
    sources: Sources,
    consumer: BaseConsumer,
    /// By partition, the offset after the last record read.
    next: BTreeMap<i32, i64>,
    /// When there was a record, or a new client.
    heard: Instant,
    seen: Seen,
}

impl Subscriber {
    pub(super) fn new(sources: &Sources, partitions: i32) -> anyhow::Result<Self> {
        let next = (0..partitions).map(|partition| (partition, 0)).collect();
        Ok(Self {
            consumer: consumer(sources, &next)?,
            sources: sources.clone(),
            next,
            heard: Instant::now(),
            seen: Seen { facts: Vec::new(), reads: 0 },
        })
    }

    /// Reads until `stop`, and then to the end of what there is.
    pub(super) fn run(mut self, stop: &CancellationToken) -> anyhow::Result<Seen> {
        while !stop.is_cancelled() {
            self.read();
        }
        let begun = Instant::now();
        while !self.is_at_end() {
            ensure!(begun.elapsed() < CATCH_UP, "the end of the facts is not reached: {:?}", self.next);
            while self.read() {}
        }
        Ok(self.seen)
    }

    /// Whether there was a record. Errors are the broker's, which comes back.
    fn read(&mut self) -> bool {
        let Some(Ok(message)) = self.consumer.poll(POLL) else {
            if self.heard.elapsed() > SILENCE
                && let Ok(consumer) = consumer(&self.sources, &self.next)
            {
                (self.consumer, self.heard) = (consumer, Instant::now());
            }
            return false;
        };
        self.heard = Instant::now();
        self.next.insert(message.partition(), message.offset() + 1);
        self.seen.reads += 1;
        self.seen.facts.push(seen_fact(&self.sources, &Record::of(&message)));
        true
    }

    fn is_at_end(&self) -> bool {
        let end = |partition| {
            self.consumer.fetch_watermarks(&self.sources.topics.locations, partition, REQUEST).ok()
        };
        self.next.iter().all(|(partition, next)| end(*partition).is_some_and(|(_, end)| *next >= end))
    }
}

/// A client that begins at these offsets.
fn consumer(sources: &Sources, next: &BTreeMap<i32, i64>) -> anyhow::Result<BaseConsumer> {
    let consumer = sources.kafka.consumer("milepost-torture-subscriber")?;
    let mut list = TopicPartitionList::new();
    for (partition, offset) in next {
        list.add_partition_offset(&sources.topics.locations, *partition, Offset::Offset(*offset))?;
    }
    consumer.assign(&list)?;
    Ok(consumer)
}
