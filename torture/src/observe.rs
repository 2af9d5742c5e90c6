//! The watchers: they look at the system from the side while it suffers, and write down what they see. They read the
//! servers themselves, not through the links that faults are on, and what does not answer is asked again.

mod connection;
mod offsets;
mod reader;
mod sampler;
mod subscriber;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use milepost_shared::journal::clock::{Clock, millis};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::evidence::{Footprint, Observed, Sample, Sources};
use crate::history::Recorder;

/// Longest time that a watcher takes to end.
const END: Duration = Duration::from_secs(120);

/// All watchers of a run.
#[derive(Debug)]
pub struct Watchers {
    begun_ms: i64,
    stop: DropGuard,
    samples: Arc<Mutex<Vec<Sample>>>,
    subscriber: JoinHandle<anyhow::Result<subscriber::Seen>>,
    reader: JoinHandle<reader::Seen>,
    offsets: JoinHandle<offsets::Seen>,
    sampler: JoinHandle<u64>,
}

impl Watchers {
    /// Starts them. `footprints` says what each program holds at the moment.
    ///
    /// # Errors
    /// The Kafka client cannot be made, or the topics do not exist.
    pub async fn start(
        sources: &Sources,
        recorder: &Recorder,
        footprints: impl Fn() -> BTreeMap<String, Footprint> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let samples = Arc::<Mutex<Vec<Sample>>>::default();
        let partitions = i32::try_from(sources.kafka.ends(&sources.topics.uploads).await?.len())?;
        let subscriber = subscriber::Subscriber::new(sources, partitions)?;
        let journal = offsets::Journal::new(sources, partitions)?;
        let sampler = sampler::Sampler::new(
            sources,
            journal.clone(),
            recorder.clone(),
            Arc::clone(&samples),
            footprints,
        );
        Ok(Self {
            begun_ms: Clock::default().now_ms() - millis(recorder.now()),
            samples,
            subscriber: tokio::task::spawn_blocking({
                let stop = stop.clone();
                move || subscriber.run(&stop)
            }),
            reader: tokio::spawn(reader::run(sources.clone(), stop.clone())),
            offsets: tokio::spawn(offsets::run(sources.clone(), journal, recorder.clone(), stop.clone())),
            sampler: tokio::spawn(sampler.run(stop.clone())),
            stop: stop.drop_guard(),
        })
    }

    /// The newest sample.
    #[must_use]
    pub fn latest(&self) -> Option<Sample> {
        lock(&self.samples).last().cloned()
    }

    /// Ends them; the subscriber first reads what there is.
    ///
    /// # Errors
    /// One does not end, or the subscriber cannot read to the end.
    pub async fn finish(self) -> anyhow::Result<Observed> {
        drop(self.stop);
        let ended = timeout(END, async {
            tokio::try_join!(self.subscriber, self.reader, self.offsets, self.sampler)
        });
        let (subscriber, reader, offsets, sampled) = ended.await.context("a watcher does not end")??;
        let subscriber = subscriber.context("the live subscriber")?;
        let reads = [
            ("facts", subscriber.reads),
            ("torn", reader.reads),
            ("offsets", offsets.reads),
            ("samples", sampled),
        ];
        Ok(Observed {
            begun_ms: self.begun_ms,
            facts: subscriber.facts,
            torn: reader.torn,
            ahead: offsets.ahead,
            samples: std::mem::take(&mut *lock(&self.samples)),
            reads: reads.into(),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
