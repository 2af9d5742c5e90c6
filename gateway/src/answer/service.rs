//! Finds or makes the answer to an accepted upload (design, section 5, steps 5 to 8).
//!
//! A request only watches; the work is done by a [`flight`] in a task of its own, so that a client that hangs up
//! cancels nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Args;
use milepost_shared::journal::answer::{KeyState, Position};
use milepost_shared::journal::clock::{Clock, JournalTime};
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::result::ResultRecord;
use milepost_shared::kafka::topics::TopicNames;
use milepost_shared::location::fingerprint::Fingerprint;
use milepost_shared::program::crash::{Crash, CrashPoint};
use milepost_shared::program::pages::Readiness;
use milepost_shared::program::settings::{DatabaseSettings, KafkaSettings, duration};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::answer::cache::AnswerCache;
use crate::answer::flight;
use crate::answer::in_flight::{Boarded, InFlight, Progress, Settled, Source};
use crate::answer::journal_clock::JournalClock;
use crate::answer::lag::Late;
use crate::answer::lookup::{Found, Lookup};
use crate::answer::matching;
use crate::answer::outcome::{Accepted, Outcome, Status, Unavailable};
use crate::answer::publish::Publisher;
use crate::answer::tail::Tail;
use crate::http::metric::AnswerMetrics;
use crate::native::receipt::Receipt;

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The bounds of finding and making answers.
#[derive(Debug, Clone, Args)]
pub struct MiddleSettings {
    /// Answers kept in memory; one takes about 300 bytes. 0 turns the cache off [0..=100000000].
    #[arg(long, env, default_value_t = 1_000_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=100_000_000))]
    pub cache_entries: u64,

    /// How far back the results topic is read at start to fill the cache [0s..=24h].
    #[arg(long, env, default_value = "10m", value_parser = duration(Duration::ZERO, 1440 * MINUTE))]
    pub warm_up: Duration,

    /// Longest time the gateway is kept from being ready by that [100ms..=10m].
    #[arg(long, env, default_value = "30s", value_parser = duration(100 * MS, 10 * MINUTE))]
    pub warm_up_max: Duration,

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

    /// How often a waiting upload looks into the table, in case its result does not arrive [50ms..=1m].
    #[arg(long, env, default_value = "500ms", value_parser = duration(50 * MS, MINUTE))]
    pub answer_poll: Duration,

    /// Longest wait for a look-up in the table; without an answer the upload is published [10ms..=30s].
    #[arg(long, env, default_value = "1s", value_parser = duration(10 * MS, MINUTE / 2))]
    pub lookup_timeout: Duration,

    /// Most look-ups waiting; one more is taken as not known [1..=1000000].
    #[arg(long, env, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub lookup_queue: u32,

    /// Database connections for look-ups; one more is used to watch the consumer's progress [1..=100].
    #[arg(long, env, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub lookup_connections: u32,
}

impl MiddleSettings {
    /// Faults that no single setting shows, one sentence each.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        (self.publish_linger >= self.publish_timeout)
            .then(|| "PUBLISH_LINGER must be shorter than PUBLISH_TIMEOUT".to_owned())
            .into_iter()
            .collect()
    }
}

/// The way from an accepted upload to its outcome. Cheap to clone.
#[derive(Clone)]
pub struct Answers(Arc<Middle>);

/// What all flights share.
pub(crate) struct Middle {
    pub(crate) cache: AnswerCache,
    pub(crate) lookup: Lookup,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) journal_clock: JournalClock,
    pub(crate) crash: Crash,
    pub(crate) answer_poll: Duration,
    in_flight: InFlight,
    late: Mutex<Late>,
    metrics: AnswerMetrics,
    /// One for each flight; closed when draining.
    flights: TaskTracker,
    /// What runs as long as the gateway does.
    background: TaskTracker,
    stop: CancellationToken,
    tail: Mutex<Option<JoinHandle<()>>>,
}

impl Answers {
    /// Starts the producers, the results tail and the look-ups. Neither Kafka nor Postgres need be there;
    /// `readiness` tells about them. To be called in a tokio runtime.
    ///
    /// # Errors
    /// A setting cannot be used.
    pub fn start(
        settings: &MiddleSettings,
        kafka: &KafkaSettings,
        database: &DatabaseSettings,
        clock: Clock,
        crash: Crash,
        readiness: &Readiness,
    ) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let background = TaskTracker::new();
        let journal = TopicNames::new(&kafka.topic_prefix).uploads;
        let lookup = Lookup::start(settings, database, &journal, readiness, (&background, &stop))?;
        let publisher = Arc::new(Publisher::new(settings, kafka, readiness)?);
        let middle = Arc::new(Middle {
            cache: AnswerCache::new(settings.cache_entries),
            lookup,
            publisher,
            journal_clock: JournalClock::new(clock),
            crash,
            answer_poll: settings.answer_poll,
            in_flight: InFlight::default(),
            late: Mutex::default(),
            metrics: AnswerMetrics::new(),
            flights: TaskTracker::new(),
            background,
            stop: stop.clone(),
            tail: Mutex::default(),
        });
        middle.background.spawn(Arc::clone(&middle.publisher).watch(stop.clone()));
        let progress = Arc::clone(&middle);
        let progress = move |next_offsets: HashMap<i32, i64>| {
            for (partition, next_offset) in next_offsets {
                progress.answered(partition, next_offset - 1);
            }
        };
        middle.background.spawn(middle.lookup.clone().watch_progress(progress, stop.clone()));
        let results = Arc::clone(&middle);
        let tail = Tail {
            hand_over: move |result: &ResultRecord, stamped: Option<JournalTime>| {
                results.cache.insert(result.key_hash, &result.state);
                if let Some(stamped) = stamped {
                    results.journal_clock.saw(stamped);
                }
                results.in_flight.notify(result);
                results.answered(result.record.partition, result.record.offset);
            },
            clock,
            readiness: readiness.clone(),
            stop,
        };
        *lock(&middle.tail) = Some(tail.start(settings, kafka)?);
        Ok(Self(middle))
    }

    /// Brings an upload to its outcome: at once if its key is known, else through the journal. Waits for the
    /// final answer as long as the upload's patience, and whatever the patience until the journal has it or
    /// cannot be reached (a look-up and the publish timeout). Dropping the future does not cancel the upload.
    pub async fn answer(&self, accepted: Accepted) -> Outcome {
        let begun = Instant::now();
        let arrived = self.0.journal_clock.now();
        let (outcome, source) = match self.0.at_once(&accepted, arrived) {
            Some(known) => known,
            // Boxed, so that what is known does not carry the room for it.
            None => Box::pin(self.0.bring(accepted, begun, arrived)).await,
        };
        self.0.crash.point(CrashPoint::Answered);
        let name = match outcome {
            Outcome::Final { .. } => "final",
            Outcome::Conflict => "conflict",
            Outcome::Pending(_) => "pending",
            Outcome::Unavailable(_) => "unavailable",
        };
        self.0.metrics.count(name, source, begun.elapsed());
        outcome
    }

    /// What became of an upload of this account. With a receipt: of that very upload, even if its key has
    /// been used again since. Without: what the key stands for at the moment.
    pub async fn status(&self, account: Uuid, key_hash: KeyHash, receipt: Option<Receipt>) -> Status {
        let middle = &*self.0;
        let of_account = |state: &KeyState| state.account == account;
        let Some(receipt) = receipt else {
            let (newest, otherwise) = match middle.lookup.windows(key_hash).await {
                Found::Windows(windows) => (windows.into_iter().next_back(), Status::Unknown),
                Found::Unavailable => (middle.cache.get(key_hash), Status::Unavailable),
            };
            let now = middle.journal_clock.now();
            let open = newest.filter(of_account).filter(|state| state.is_open_at(now));
            return open.map_or(otherwise, |state| Status::Final { state, conflict: false });
        };
        let told = |state: KeyState| {
            let conflict = !receipt.is_of(state.fingerprint);
            Status::Final { state, conflict }
        };
        let (position, time) = (receipt.position, receipt.journal_time);
        let cached = middle.cache.get(key_hash).filter(of_account);
        if let Some(state) = cached.filter(|state| matching::is_answered_by(position, time, state)) {
            return told(state);
        }
        // Progress first: what it says is persisted, the windows read afterwards must show.
        let Some(next_offsets) = middle.lookup.next_offsets().await else { return Status::Unavailable };
        let Found::Windows(mut windows) = middle.lookup.windows(key_hash).await else {
            return Status::Unavailable;
        };
        windows.retain(of_account);
        match matching::answer_of(position, time, &windows) {
            Some(state) => told(state.clone()),
            // Forgotten, or given up by the consumer.
            None if next_offsets.get(&position.partition).is_some_and(|next| *next > position.offset) => {
                Status::Unknown
            }
            None => Status::Pending,
        }
    }

    /// Ends: new uploads are refused, those on their way get their answers, the producers are flushed. What has
    /// not ended at the deadline is given up.
    pub async fn drain(&self, deadline: Duration) {
        let middle = &self.0;
        let until = Instant::now() + deadline;
        middle.flights.close();
        if timeout_at(until, middle.flights.wait()).await.is_err() {
            tracing::warn!(uploads = middle.flights.len(), "uploads given up at the end");
        }
        let left = until.saturating_duration_since(Instant::now()).max(100 * MS);
        Arc::clone(&middle.publisher).flush(left).await;
        middle.stop.cancel();
        middle.background.close();
        let tail = lock(&middle.tail).take();
        let ended = async {
            middle.background.wait().await;
            if let Some(tail) = tail {
                let _ = tokio::task::spawn_blocking(move || tail.join()).await;
            }
        };
        let left = until.saturating_duration_since(Instant::now()).max(100 * MS);
        if timeout(left, ended).await.is_err() {
            tracing::warn!("not all background tasks ended in time");
        }
    }
}

impl Middle {
    /// The outcome, if it takes no wait: the usual retry, and the end of the gateway.
    fn at_once(&self, accepted: &Accepted, arrived: JournalTime) -> Option<(Outcome, &'static str)> {
        if self.flights.is_closed() {
            return Some((Outcome::Unavailable(Unavailable::Draining), "none"));
        }
        let settled = flight::cached(self, accepted, arrived)?;
        Some(outcome(Progress::Settled(settled), accepted.fingerprint, true))
    }

    /// Joins a copy in flight or takes off. What was not in the cache is looked for again once a flight is armed.
    async fn bring(
        self: &Arc<Self>,
        accepted: Accepted,
        begun: Instant,
        arrived: JournalTime,
    ) -> (Outcome, &'static str) {
        let (key_hash, fingerprint, patience) = (accepted.key_hash, accepted.fingerprint, accepted.patience);
        let mut boarded = self.in_flight.board(key_hash, fingerprint, true);
        if let Boarded::Joins(watching) = boarded {
            match self.wait(watching, begun, patience).await {
                // A flight that took off in a window that was over when this copy came does not count for it.
                Progress::Settled(Settled::Found { state, .. }) if !state.is_open_at(arrived) => {
                    boarded = self.in_flight.board(key_hash, fingerprint, false);
                }
                progress => return outcome(progress, fingerprint, false),
            }
        }
        let Boarded::Leads { flight, results, watching } = boarded else {
            return (Outcome::Unavailable(Unavailable::Journal), "none");
        };
        match flight::cached(self, &accepted, self.journal_clock.now()) {
            Some(settled) => flight.settle(settled),
            None => {
                let flying = flight::fly(Arc::clone(self), accepted, flight, results);
                drop(self.flights.spawn(flying));
            }
        }
        outcome(self.wait(watching, begun, patience).await, fingerprint, true)
    }

    /// Watches a flight until it is settled or, once it is published, patience has run out or is in vain.
    async fn wait(
        &self,
        mut watching: watch::Receiver<Progress>,
        begun: Instant,
        patience: Duration,
    ) -> Progress {
        loop {
            let progress = watching.borrow_and_update().clone();
            match &progress {
                Progress::Settled(_) => return progress,
                Progress::Started => {
                    // A flight that ended without a word has panicked.
                    if watching.changed().await.is_err() {
                        return progress;
                    }
                }
                Progress::Published(receipt) => {
                    let Position { partition, offset } = receipt.position;
                    if patience.is_zero() || lock(&self.late).is_late(partition) {
                        return progress;
                    }
                    match timeout_at(begun + patience, watching.changed()).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return progress,
                        Err(_) => {
                            self.missed(partition, offset);
                            return progress;
                        }
                    }
                }
            }
        }
    }

    fn missed(&self, partition: i32, offset: i64) {
        let mut late = lock(&self.late);
        late.missed(partition, offset);
        self.show_late(&late);
    }

    fn answered(&self, partition: i32, offset: i64) {
        let mut late = lock(&self.late);
        late.answered(partition, offset);
        self.show_late(&late);
    }

    fn show_late(&self, late: &Late) {
        #[expect(clippy::cast_precision_loss, reason = "a count of partitions")]
        self.metrics.late_partitions.set(late.count() as f64);
    }
}

/// Only who leads can own the answer that is no replay; all others, and all that come later, get copies.
fn outcome(progress: Progress, fingerprint: Fingerprint, leads: bool) -> (Outcome, &'static str) {
    let label = |source| match source {
        _ if !leads => "joined",
        Source::Cache => "cache",
        Source::Table => "table",
        Source::Results => "results",
        Source::Own => "own",
    };
    match progress {
        Progress::Settled(Settled::Found { state, source }) if state.fingerprint == fingerprint => {
            (Outcome::Final { state, replayed: !(leads && source == Source::Own) }, label(source))
        }
        Progress::Settled(Settled::Found { source, .. }) => (Outcome::Conflict, label(source)),
        Progress::Settled(Settled::Unavailable(why)) => (Outcome::Unavailable(why), "none"),
        Progress::Published(receipt) => (Outcome::Pending(receipt), "none"),
        Progress::Started => (Outcome::Unavailable(Unavailable::Journal), "none"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
