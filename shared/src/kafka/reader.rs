//! What readers of a topic share: where they begin, and which of their errors stand.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use crate::journal::position::Partition;
use crate::kafka::client::Watching;
use crate::kafka::trouble::{self, Doubt, Next, Troubles};

/// Reads partitions that are assigned by hand.
pub type Reader = BaseConsumer<Watching>;

/// What stands in trouble while a topic cannot be read.
pub const READING: &str = "reading";
/// Longest wait for the brokers to describe the topic after an error. Nothing is read meanwhile.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Assigns partitions of a topic, each from an offset on, in place of those assigned before.
///
/// # Errors
/// An offset is none, or librdkafka refuses.
pub fn assign(
    reader: &Reader,
    topic: &str,
    places: impl IntoIterator<Item = (Partition, Offset)>,
) -> KafkaResult<()> {
    reader.assign(&list(topic, places)?)
}

/// Of each partition the first offset that is stamped at its time, in milliseconds, or later; [`Offset::End`] if none is.
/// Blocks up to `timeout`.
///
/// # Errors
/// The brokers do not answer, or one of them refuses.
pub fn offsets_at<C: ConsumerContext>(
    reader: &BaseConsumer<C>,
    topic: &str,
    times: impl IntoIterator<Item = (Partition, i64)>,
    timeout: Duration,
) -> KafkaResult<Vec<(Partition, Offset)>> {
    let times = list(topic, times.into_iter().map(|(partition, time)| (partition, Offset::Offset(time))))?;
    if times.count() == 0 {
        return Ok(Vec::new());
    }
    let found = reader.offsets_for_times(times, timeout)?;
    let place = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
        element.error().map(|()| (Partition(element.partition()), element.offset()))
    };
    found.elements().iter().map(place).collect()
}

fn list(
    topic: &str,
    places: impl IntoIterator<Item = (Partition, Offset)>,
) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in places {
        list.add_partition_offset(topic, partition.0, offset)?;
    }
    Ok(list)
}

/// What was asked for is no longer, or not yet, in the log.
#[must_use]
pub fn is_out_of_range(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(code, Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange))
}

/// Errors of reading a topic. Most are news of a connection that librdkafka restores by itself; what stands is for operators.
#[derive(Debug)]
pub struct Reading {
    topic: String,
    troubles: Troubles,
    /// About an error of which it is not known whether it stands.
    doubt: Option<Doubt>,
}

impl Reading {
    /// Nothing is wrong yet: an error that an earlier reader met, and that stands, this one meets as well.
    #[must_use]
    pub fn new(topic: &str, troubles: &Troubles) -> Self {
        let mut reading = Self { topic: topic.to_owned(), troubles: troubles.clone(), doubt: None };
        reading.forget();
        reading
    }

    /// Nothing is wrong any more, or what stands will be reported again.
    pub fn forget(&mut self) {
        self.doubt = None;
        self.troubles.over(READING);
    }

    /// Notes an error.
    pub fn failed(&mut self, error: &KafkaError) {
        let (code, now) = (error.rdkafka_error_code(), Instant::now());
        tracing::debug!(%error, topic = self.topic, "cannot read");
        let text = code.map_or(error.to_string(), |code| code.to_string());
        self.troubles.note(READING, format!("{}: {text}", self.topic), now);
        // Only the group can make that good, by giving out partitions.
        self.doubt = (code != Some(RDKafkaErrorCode::GroupAuthorizationFailed)).then(|| Doubt::new(now));
    }

    /// Asks about an error, since librdkafka reports many only once: a partition that is paused and resumed reports it again. If
    /// it does not, and the brokers know the topic, it is gone. Nothing that was read is lost. To be called after each poll.
    ///
    /// # Errors
    /// The running partitions cannot be found, paused or resumed.
    pub fn look_again<C: ConsumerContext>(
        &mut self,
        reader: &BaseConsumer<C>,
        running: impl FnOnce() -> KafkaResult<TopicPartitionList>,
    ) -> KafkaResult<()> {
        match self.doubt.as_mut().map_or(Next::Wait, |doubt| doubt.look(Instant::now())) {
            Next::Wait => Ok(()),
            Next::Ask => {
                let running = running()?;
                reader.pause(&running)?;
                reader.resume(&running)
            }
            Next::Gone => {
                match trouble::ask(reader.client(), &self.topic, ASK_TIMEOUT) {
                    Some(fault) => self.troubles.note(READING, fault, Instant::now()),
                    None => self.forget(),
                }
                Ok(())
            }
        }
    }
}
