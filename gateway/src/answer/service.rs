//! Finds or makes the answer to an accepted upload.
//!
//! A request only watches; the work is done by a `Finder` in a task of its own, so that a client that hangs up
//! cancels nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Args;
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::clock::{Clock, JournalTime};
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::position::{NextOffset, Offset, Partition, Position};
use milepost_shared::journal::result::ResultRecord;
use milepost_shared::kafka::names::TopicNames;
use milepost_shared::location::fingerprint::Fingerprint;
use milepost_shared::program::crash::{Crash, CrashPoint};
use milepost_shared::program::pages::Readiness;
use milepost_shared::program::settings::{KafkaSettings, duration};
use milepost_shared::store::connect::Target;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::cache::AnswerCache;
use crate::answer::flight::Finder;
use crate::answer::in_flight::{End, InFlight, Role, Source, Stage};
use crate::answer::journal_clock::JournalClock;
use crate::answer::lag::Lag;
use crate::answer::lookup::{Found, Lookup, LookupSettings};
use crate::answer::matching;
use crate::answer::metric::AnswerMetrics;
use crate::answer::outcome::{Accepted, Outcome, Receipt, Status, Unavailable};
use crate::answer::points::{self, PointMetrics, Points};
use crate::answer::publish::{PublishSettings, Publisher};
use crate::answer::recent::{Recent, RecentSettings};
use crate::answer::tail::{Tail, TailSettings};

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The bounds of finding and making answers.
#[derive(Debug, Clone, Args)]
pub struct AnswerSettings {
    /// Answers kept in memory; one takes about 300 bytes. 0 turns the cache off [0..=100000000].
    #[arg(long, env, default_value_t = 1_000_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=100_000_000))]
    pub cache_entries: u64,

    /// How often a waiting upload looks into the table, in case its result does not arrive [50ms..=1m].
    #[arg(long, env, default_value = "500ms", value_parser = duration(50 * MS, MINUTE))]
    pub answer_poll: Duration,

    /// How the results are followed.
    #[command(flatten)]
    pub tail: TailSettings,

    /// How the table is asked.
    #[command(flatten)]
    pub lookup: LookupSettings,

    /// How uploads are published.
    #[command(flatten)]
    pub publish: PublishSettings,

    /// How points are taken.
    #[command(flatten)]
    pub recent: RecentSettings,
}

/// The way from an accepted upload to its outcome. Cheap to clone.
#[derive(Clone)]
pub struct Answers(Arc<Service>);

/// What all requests share.
struct Service {
    finder: Arc<Finder>,
    in_flight: InFlight,
    lag: Mutex<Lag>,
    metrics: AnswerMetrics,
    /// One for each flight; closed when draining.
    flights: TaskTracker,
    /// What runs as long as the gateway does.
    background: TaskTracker,
    stop: CancellationToken,
    tail: Mutex<Option<JoinHandle<()>>>,
}

impl Answers {
    /// Starts the producers, the results tail and the look-ups. Neither Kafka nor Postgres needs to be up;
    /// `readiness` shows whether they are. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// A setting cannot be used.
    pub fn start(
        settings: &AnswerSettings,
        kafka: &KafkaSettings,
        database: &Target,
        clock: Clock,
        crash: Crash,
        readiness: &Readiness,
    ) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let background = TaskTracker::new();
        let journal = TopicNames::new(&kafka.topic_prefix).uploads;
        let lookup = Lookup::start(&settings.lookup, database, &journal, readiness, &background, &stop)?;
        let finder = Arc::new(Finder {
            cache: AnswerCache::new(settings.cache_entries),
            recent: Recent::new(&settings.recent, kafka.idempotency_ttl),
            points_at_once: points::at_once(settings.publish.publish_in_flight),
            lookup,
            publisher: Arc::new(Publisher::new(&settings.publish, kafka, readiness)?),
            journal_clock: JournalClock::new(clock),
            crash,
            answer_poll: settings.answer_poll,
        });
        let service = Arc::new(Service {
            finder: Arc::clone(&finder),
            in_flight: InFlight::default(),
            lag: Mutex::default(),
            metrics: AnswerMetrics::new(),
            flights: TaskTracker::new(),
            background,
            stop: stop.clone(),
            tail: Mutex::default(),
        });
        service.background.spawn(Arc::clone(&finder.publisher).watch(stop.clone()));
        let persisted = Arc::clone(&service);
        let persisted = move |next_offsets: HashMap<Partition, NextOffset>| {
            for (partition, next_offset) in next_offsets {
                persisted.answered(partition, next_offset.last());
            }
        };
        service.background.spawn(finder.lookup.clone().watch_progress(persisted, stop.clone()));
        let results = Arc::clone(&service);
        let tail = Tail {
            hand_over: move |result: &ResultRecord, stamped: Option<JournalTime>| {
                results.finder.cache.insert(result.key_hash, &result.state);
                if let Some(stamped) = stamped {
                    results.finder.journal_clock.saw(stamped);
                }
                results.in_flight.notify(result);
                results.answered(result.record.partition, result.record.offset);
            },
            clock,
            readiness: readiness.clone(),
            stop,
        };
        *service.tail.lock() = Some(tail.start(&settings.tail, kafka)?);
        Ok(Self(service))
    }

    /// Finds the outcome of an upload: at once if its key is known, else through the journal. Waits for the final answer as
    /// long as the upload's patience lasts, and in any case until the journal has it or cannot be reached (at most a look-up
    /// and the publish timeout). Dropping the future does not cancel the upload.
    pub async fn answer(&self, accepted: Accepted) -> Outcome {
        let begun = Instant::now();
        let arrived = self.0.finder.journal_clock.now();
        let (outcome, source) = match self.0.at_once(&accepted, arrived) {
            Some(known) => known,
            // Boxed, so that the future of a known answer has no room for it.
            None => Box::pin(self.0.join_or_lead(accepted, begun, arrived)).await,
        };
        self.0.finder.crash.point(CrashPoint::Answered);
        let name = match outcome {
            Outcome::Final { .. } => "final",
            Outcome::Conflict => "conflict",
            Outcome::Pending(_) => "pending",
            Outcome::Unavailable(_) => "unavailable",
        };
        self.0.metrics.count(name, source, begun.elapsed());
        outcome
    }

    /// Takes the points of a request: each is in the journal then, or known. `held` is dropped when they have been, and they
    /// are taken even if this future is dropped.
    ///
    /// # Errors
    /// [`Unavailable`]: some of them may not be in the journal. To send all of them again is safe.
    pub async fn take(
        &self,
        points: Points,
        metrics: &Arc<PointMetrics>,
        held: impl Send + 'static,
    ) -> Result<(), Unavailable> {
        let service = &self.0;
        if service.flights.is_closed() {
            return Err(Unavailable::Draining);
        }
        let (finder, metrics) = (Arc::clone(&service.finder), Arc::clone(metrics));
        let taking = service.flights.spawn(async move {
            let taken = finder.take(points, &metrics).await;
            drop(held);
            taken
        });
        // One that is gone without an end has panicked.
        taking.await.unwrap_or(Err(Unavailable::Journal))
    }

    /// What became of an upload of this account. With a receipt, it is about that very upload, even if its key has been
    /// used again since; without one, about what the key stands for at the moment.
    pub async fn status(&self, account: AccountId, key_hash: KeyHash, receipt: Option<Receipt>) -> Status {
        let Finder { cache, lookup, journal_clock, .. } = &*self.0.finder;
        let of_account = |state: &KeyState| state.account == account;
        let Some(receipt) = receipt else {
            let (newest, otherwise) = match lookup.windows(key_hash).await {
                Found::Windows(windows) => (windows.into_iter().next_back(), Status::Unknown),
                Found::Unavailable => (cache.get(key_hash), Status::Unavailable),
            };
            let now = journal_clock.now();
            let open = newest.filter(of_account).filter(|state| state.is_open_at(now));
            return open.map_or(otherwise, |state| Status::Final { state, conflict: false });
        };
        let known = |state: KeyState| {
            let conflict = !receipt.is_of(state.fingerprint);
            Status::Final { state, conflict }
        };
        let (position, time) = (receipt.position, receipt.journal_time);
        let cached = cache.get(key_hash).filter(of_account);
        if let Some(state) = cached.filter(|state| matching::is_answered_by(position, time, state)) {
            return known(state);
        }
        // Progress first: the windows read after it must show all that it says is persisted.
        let Some(next_offsets) = lookup.next_offsets().await else { return Status::Unavailable };
        let Found::Windows(mut windows) = lookup.windows(key_hash).await else {
            return Status::Unavailable;
        };
        windows.retain(of_account);
        match matching::answer_of(position, time, &windows) {
            Some(state) => known(state.clone()),
            // Forgotten, or given up by the consumer.
            None if next_offsets
                .get(&position.partition)
                .is_some_and(|next| next.covers(position.offset)) =>
            {
                Status::Unknown
            }
            None => Status::Pending,
        }
    }

    /// Refuses new uploads, waits for the answers of those on their way, and flushes the producers. What has not
    /// ended at the deadline is given up.
    pub async fn drain(&self, deadline: Duration) {
        let service = &self.0;
        let until = Instant::now() + deadline;
        service.flights.close();
        if timeout_at(until, service.flights.wait()).await.is_err() {
            tracing::warn!(uploads = service.flights.len(), "uploads given up at the end");
        }
        let left = until.saturating_duration_since(Instant::now()).max(100 * MS);
        Arc::clone(&service.finder.publisher).flush(left).await;
        service.stop.cancel();
        service.background.close();
        let tail = service.tail.lock().take();
        let ended = async {
            service.background.wait().await;
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

impl Service {
    /// The outcome, if it is known without a wait: of most retries, and of all uploads once the gateway is stopping.
    fn at_once(&self, accepted: &Accepted, arrived: JournalTime) -> Option<(Outcome, &'static str)> {
        if self.flights.is_closed() {
            return Some((Outcome::Unavailable(Unavailable::Draining), "none"));
        }
        let end = self.finder.cached(accepted, arrived)?;
        Some(outcome(Stage::Ended(end), accepted.fingerprint, true))
    }

    /// Joins a copy in flight or leads a flight. Looks into the cache again once the flight is armed.
    async fn join_or_lead(
        &self,
        accepted: Accepted,
        begun: Instant,
        arrived: JournalTime,
    ) -> (Outcome, &'static str) {
        let (key_hash, fingerprint, patience) = (accepted.key_hash, accepted.fingerprint, accepted.patience);
        let mut role = self.in_flight.join_or_lead(key_hash, fingerprint, true);
        if let Role::Joins(watching) = role {
            match self.wait(watching, begun, patience).await {
                // A flight that began in a window that was over when this copy came does not count for it.
                Stage::Ended(End::Found { state, .. }) if !state.is_open_at(arrived) => {
                    role = self.in_flight.join_or_lead(key_hash, fingerprint, false);
                }
                stage => return outcome(stage, fingerprint, false),
            }
        }
        let Role::Leads { flight, results, watching } = role else {
            return (Outcome::Unavailable(Unavailable::Journal), "none");
        };
        match self.finder.cached(&accepted, self.finder.journal_clock.now()) {
            Some(end) => flight.end(end),
            None => {
                let finding = Arc::clone(&self.finder).find(accepted, flight, results);
                drop(self.flights.spawn(finding));
            }
        }
        outcome(self.wait(watching, begun, patience).await, fingerprint, true)
    }

    /// Watches a flight until it has ended or, once its upload is published, until patience runs out or is in vain.
    async fn wait(&self, mut watching: watch::Receiver<Stage>, begun: Instant, patience: Duration) -> Stage {
        loop {
            let stage = watching.borrow_and_update().clone();
            match &stage {
                Stage::Ended(_) => return stage,
                Stage::Started => {
                    // A flight that is gone without an end has panicked.
                    if watching.changed().await.is_err() {
                        return stage;
                    }
                }
                Stage::Published(receipt) => {
                    let Position { partition, offset } = receipt.position;
                    if patience.is_zero() || self.lag.lock().is_late(partition) {
                        return stage;
                    }
                    match timeout_at(begun + patience, watching.changed()).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return stage,
                        Err(_) => {
                            self.missed(partition, offset);
                            return stage;
                        }
                    }
                }
            }
        }
    }

    fn missed(&self, partition: Partition, offset: Offset) {
        let mut lag = self.lag.lock();
        lag.missed(partition, offset);
        self.show_lag(&lag);
    }

    fn answered(&self, partition: Partition, offset: Offset) {
        let mut lag = self.lag.lock();
        lag.answered(partition, offset);
        self.show_lag(&lag);
    }

    fn show_lag(&self, lag: &Lag) {
        #[expect(clippy::cast_precision_loss, reason = "a count of partitions")]
        self.metrics.late_partitions.set(lag.count() as f64);
    }
}

/// Only the request that leads can get an answer that is not a replay; all others get a copy.
fn outcome(stage: Stage, fingerprint: Fingerprint, leads: bool) -> (Outcome, &'static str) {
    let label = |source| match source {
        _ if !leads => "joined",
        Source::Cache => "cache",
        Source::Table => "table",
        Source::Results => "results",
        Source::Own => "own",
    };
    match stage {
        Stage::Ended(End::Found { state, source }) if state.fingerprint == fingerprint => {
            (Outcome::Final { state, replayed: !(leads && source == Source::Own) }, label(source))
        }
        Stage::Ended(End::Found { source, .. }) => (Outcome::Conflict, label(source)),
        Stage::Ended(End::Unavailable(why)) => (Outcome::Unavailable(why), "none"),
        Stage::Published(receipt) => (Outcome::Pending(receipt), "none"),
        Stage::Started => (Outcome::Unavailable(Unavailable::Journal), "none"),
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
