//! What is in the topics, read by a client of the tests' own.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::eventually;

/// Longest wait for the cluster.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A record of any topic.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// When the broker appended it, milliseconds since 1970.
    pub time: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers.
    pub headers: BTreeMap<String, Vec<u8>>,
}

/// A cluster.
#[derive(Debug, Clone)]
pub struct Kafka {
    brokers: String,
}

impl Kafka {
    /// By its bootstrap servers.
    #[must_use]
    pub fn new(brokers: &str) -> Self {
        Self { brokers: brokers.to_owned() }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    /// A client that reads: from the beginning, unless it is given a position. It joins the group only if it subscribes.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn consumer(&self, group: &str) -> anyhow::Result<BaseConsumer> {
        let mut config = self.config();
        config.set("group.id", group).set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
        config.set("fetch.wait.max.ms", "50").set("enable.partition.eof", "false");
        // As Milepost reads: transactions are not Milepost's, and what they have written are records.
        config.set("isolation.level", "read_uncommitted");
        Ok(config.create()?)
    }

    fn admin(&self) -> anyhow::Result<AdminClient<DefaultClientContext>> {
        Ok(self.config().create()?)
    }

    /// The first offset and the next one of each partition.
    ///
    /// # Errors
    /// The cluster cannot be asked, or the topic does not exist.
    pub async fn ends(&self, topic: &str) -> anyhow::Result<Vec<(i64, i64)>> {
        let (kafka, topic) = (self.clone(), topic.to_owned());
        tokio::task::spawn_blocking(move || ends(&kafka.consumer("milepost-tests")?, &topic)).await?
    }

    /// Everything a topic holds now: by partition, in order.
    ///
    /// # Errors
    /// It cannot be read within 20 seconds.
    pub async fn read(&self, topic: &str) -> anyhow::Result<Vec<Record>> {
        let mut records = self
            .reduce(topic, TIMEOUT, Vec::new(), |mut records, record| {
                records.push(record);
                records
            })
            .await?;
        records.sort_by_key(|record| (record.partition, record.offset));
        Ok(records)
    }

    /// Reads everything a topic holds now, without keeping it: each partition in order, among the others.
    ///
    /// # Errors
    /// It cannot be read within `deadline`.
    pub async fn reduce<T: Send + 'static>(
        &self,
        topic: &str,
        deadline: Duration,
        start: T,
        reduce: impl FnMut(T, Record) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let (kafka, topic) = (self.clone(), topic.to_owned());
        tokio::task::spawn_blocking(move || {
            read(&kafka.consumer("milepost-tests")?, &topic, deadline, start, reduce)
        })
        .await?
    }

    /// What a group has committed of a topic, by partition; `None` where it has not.
    ///
    /// # Errors
    /// The cluster cannot be asked.
    pub async fn committed(&self, group: &str, topic: &str) -> anyhow::Result<Vec<Option<i64>>> {
        let (kafka, group, topic) = (self.clone(), group.to_owned(), topic.to_owned());
        tokio::task::spawn_blocking(move || {
            let consumer = kafka.consumer(&group)?;
            let partitions = ends(&consumer, &topic)?.len();
            let mut list = TopicPartitionList::new();
            list.add_partition_range(&topic, 0, i32::try_from(partitions)? - 1);
            let committed = consumer.committed_offsets(list, TIMEOUT)?;
            let offset = |offset| if let Offset::Offset(offset) = offset { Some(offset) } else { None };
            let mut committed: Vec<_> =
                committed.elements().iter().map(|one| (one.partition(), offset(one.offset()))).collect();
            committed.sort_unstable();
            Ok(committed.into_iter().map(|(_, offset)| offset).collect())
        })
        .await?
    }

    /// Appends any record. Returns where it stands.
    ///
    /// # Errors
    /// It is not acknowledged.
    pub async fn append(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> anyhow::Result<i64> {
        self.append_with(topic, partition, key, value, None).await
    }

    /// The same with a header, compressed, and as large as the broker accepts.
    ///
    /// # Errors
    /// It is not acknowledged.
    pub async fn append_with(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        header: Option<(&str, &[u8])>,
    ) -> anyhow::Result<i64> {
        let mut config = self.config();
        config.set("acks", "all").set("linger.ms", "0");
        config.set("compression.type", "lz4").set("message.max.bytes", "100000000");
        let producer: FutureProducer = config.create()?;
        let mut record = FutureRecord::<[u8], [u8]>::to(topic).partition(partition);
        record.key = key;
        record.payload = value;
        record.headers =
            header.map(|(key, value)| OwnedHeaders::new().insert(Header { key, value: Some(value) }));
        let delivered = producer.send(record, TIMEOUT).await.map_err(|(error, _)| error)?;
        Ok(delivered.offset)
    }

    /// Begins a transaction, as a producer other than Milepost's might, and appends a record in it.
    ///
    /// # Errors
    /// The cluster refuses, or does not acknowledge the record.
    pub async fn begin(
        &self,
        topic: &str,
        partition: i32,
        key: &[u8],
        value: &[u8],
    ) -> anyhow::Result<Transaction> {
        let mut config = self.config();
        let producer: FutureProducer =
            config.set("transactional.id", format!("{topic}-stranger")).create()?;
        let producer = tokio::task::spawn_blocking(move || {
            producer.init_transactions(TIMEOUT)?;
            producer.begin_transaction()?;
            anyhow::Ok(producer)
        })
        .await??;
        let record = FutureRecord::to(topic).partition(partition).key(key).payload(value);
        producer.send(record, TIMEOUT).await.map_err(|(error, _)| error)?;
        Ok(Transaction { kafka: self.clone(), producer, topic: topic.to_owned() })
    }

    /// Gives a topic more partitions, and waits until they are known.
    ///
    /// # Errors
    /// The cluster refuses.
    pub async fn add_partitions(&self, topic: &str, partitions: usize) -> anyhow::Result<()> {
        let more = NewPartitions::new(topic, partitions);
        let added = self.admin()?.create_partitions([&more], &patience()).await?;
        ensure!(added.iter().all(Result::is_ok), "cannot add partitions to {topic}: {added:?}");
        eventually(TIMEOUT, "the partitions are known to the broker", async || {
            Ok(self.ends(topic).await.ok().filter(|ends| ends.len() == partitions))
        })
        .await?;
        Ok(())
    }

    /// Creates a topic, and waits until it is known.
    ///
    /// # Errors
    /// The cluster refuses.
    pub async fn create(&self, name: &str, partitions: i32, config: &[(&str, String)]) -> anyhow::Result<()> {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let topic = config.iter().fold(topic, |topic, (setting, value)| topic.set(setting, value));
        let created = self.admin()?.create_topics([&topic], &patience()).await?;
        ensure!(created.iter().all(Result::is_ok), "cannot create {name}: {created:?}");
        // The controller has it; the broker that is asked next may learn of it later.
        eventually(TIMEOUT, "the topic is known to the broker", async || Ok(self.ends(name).await.ok()))
            .await?;
        Ok(())
    }

    /// Gives a topic these settings, and for all others the broker's own.
    ///
    /// # Errors
    /// The cluster refuses.
    pub async fn configure(&self, topic: &str, settings: &[(&str, &str)]) -> anyhow::Result<()> {
        let altered = AlterConfig::new(ResourceSpecifier::Topic(topic));
        let altered = settings.iter().fold(altered, |altered, (setting, value)| altered.set(setting, value));
        let results = self.admin()?.alter_configs([&altered], &patience()).await?;
        ensure!(results.iter().all(Result::is_ok), "cannot configure {topic}: {results:?}");
        Ok(())
    }

    /// Removes the records of a partition before `offset`.
    ///
    /// # Errors
    /// The cluster refuses.
    pub async fn delete_records(&self, topic: &str, partition: i32, offset: i64) -> anyhow::Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        self.admin()?.delete_records(&list, &patience()).await.context("cannot delete records")?;
        Ok(())
    }

    /// Deletes a group with its offsets; it must have no members.
    ///
    /// # Errors
    /// The cluster refuses.
    pub async fn delete_group(&self, group: &str) -> anyhow::Result<()> {
        let deleted = self.admin()?.delete_groups(&[group], &patience()).await?;
        ensure!(deleted.iter().all(Result::is_ok), "cannot delete group {group}: {deleted:?}");
        Ok(())
    }

    /// Deletes topics.
    ///
    /// # Errors
    /// The cluster cannot be reached.
    pub async fn delete_topics(&self, topics: &[&str]) -> anyhow::Result<()> {
        self.admin()?.delete_topics(topics, &patience()).await?;
        Ok(())
    }
}

/// A transaction with a record. Its end leaves a marker in the journal that is not a record.
pub struct Transaction {
    kafka: Kafka,
    producer: FutureProducer,
    topic: String,
}

impl Transaction {
    /// Commits it.
    ///
    /// # Errors
    /// The cluster refuses.
    pub async fn commit(self) -> anyhow::Result<()> {
        self.end(|producer| producer.commit_transaction(TIMEOUT)).await
    }

    /// Aborts it. Those who read uncommitted records still see its record.
    ///
    /// # Errors
    /// The cluster refuses.
    pub async fn abort(self) -> anyhow::Result<()> {
        self.end(|producer| producer.abort_transaction(TIMEOUT)).await
    }

    /// The coordinator answers before the marker is there.
    async fn end(
        self,
        end: impl FnOnce(&FutureProducer) -> KafkaResult<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let Self { kafka, producer, topic } = self;
        let before = kafka.ends(&topic).await?;
        tokio::task::spawn_blocking(move || end(&producer)).await??;
        eventually(TIMEOUT, "the transaction has left its mark", async || {
            Ok((kafka.ends(&topic).await? != before).then_some(()))
        })
        .await
    }
}

fn patience() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT))
}

fn ends(consumer: &BaseConsumer, topic: &str) -> anyhow::Result<Vec<(i64, i64)>> {
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    ensure!(partitions > 0, "there is no topic {topic}");
    (0..i32::try_from(partitions)?)
        .map(|partition| Ok(consumer.fetch_watermarks(topic, partition, TIMEOUT)?))
        .collect()
}

/// Compaction may have removed the last record of a partition; then the consumer's position shows when it is read.
fn read<T>(
    consumer: &BaseConsumer,
    topic: &str,
    deadline: Duration,
    start: T,
    mut reduce: impl FnMut(T, Record) -> T,
) -> anyhow::Result<T> {
    let mut left: BTreeMap<i32, i64> = BTreeMap::new();
    let mut list = TopicPartitionList::new();
    for (partition, (first, next)) in (0..).zip(ends(consumer, topic)?) {
        if first < next {
            left.insert(partition, next);
            list.add_partition_offset(topic, partition, Offset::Offset(first))?;
        }
    }
    consumer.assign(&list)?;
    let mut reduced = start;
    let begun = std::time::Instant::now();
    while !left.is_empty() {
        ensure!(begun.elapsed() < deadline, "{topic} cannot be read within {deadline:?}");
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message?;
            let (partition, next) = (message.partition(), message.offset() + 1);
            let Some(end) = left.get(&partition).copied() else { continue };
            if next <= end {
                reduced = reduce(reduced, Record::of(&message));
            }
            if next >= end {
                left.remove(&partition);
            }
        } else {
            let position = consumer.position()?;
            let at = |partition| match position.find_partition(topic, partition).map(|one| one.offset()) {
                Some(Offset::Offset(offset)) => offset,
                _ => -1,
            };
            left.retain(|partition, end| at(*partition) < *end);
        }
    }
    Ok(reduced)
}

impl Record {
    /// Detached from the client that read it.
    #[must_use]
    pub fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        Self {
            partition: message.partition(),
            offset: message.offset(),
            time: message.timestamp().to_millis().unwrap_or(-1),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers
                .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
                .collect(),
        }
    }
}
