//! Look-ups in the table, gathered: what concurrent uploads ask for goes out as one query.
//!
//! A database that is down or slow costs little: each query has a deadline, and after a failure nothing is
//! asked for a while, so that uploads go straight to the journal, which decides anyway.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::position::{NextOffset, Partition};
use milepost_shared::program::pages::Readiness;
use milepost_shared::program::settings::duration;
use milepost_shared::store::connect::Target;
use milepost_shared::store::connection::Connections;
use milepost_shared::store::{lookup, trouble};
use parking_lot::{Mutex, MutexGuard};
use sqlx::PgConnection;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
/// The dependency's name on `/readyz`. Not required: without it new uploads are answered by 202.
pub const POSTGRES: &str = "postgres";
/// Most keys of one query that are asked for one by one.
const BATCH_MAX: usize = 256;
/// Most keys of one query that are asked for together: it takes far less than the deadline.
const TOGETHER_MAX: usize = 4096;
/// How often progress is read: it shows that the database works, and clears partitions known to be late.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// How long nothing is asked after a failure, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The bounds of look-ups.
#[derive(Debug, Clone, Args)]
pub struct LookupSettings {
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

/// What the table knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The windows it holds, oldest first; none if it does not know the key.
    Windows(Vec<KeyState>),
    /// It cannot be asked at the moment, or not fast enough.
    Unavailable,
}

impl Found {
    /// The newest window, if one is known.
    #[must_use]
    pub fn newest(self) -> Option<KeyState> {
        match self {
            Self::Windows(windows) => windows.into_iter().next_back(),
            Self::Unavailable => None,
        }
    }
}

type Question = (KeyHash, oneshot::Sender<Found>);

/// Asks the table. Cheap to clone.
#[derive(Clone)]
pub struct Lookup {
    questions: mpsc::Sender<Question>,
    database: Arc<Database>,
}

struct Database {
    /// As many at most as there may be look-ups at a time, and one more for progress.
    connections: Connections,
    /// Longest wait for a connection and a query together.
    deadline: Duration,
    circuit: Mutex<Circuit>,
    /// One permit for each look-up.
    lookups: Arc<Semaphore>,
    /// A flood of status requests must not take the connections from the uploads.
    progress: Arc<Semaphore>,
    journal: String,
    readiness: Readiness,
}

impl Lookup {
    /// Starts gathering; ends when `stop` is cancelled. Connects when first asked.
    ///
    /// # Errors
    /// The URL cannot be parsed.
    pub fn start(
        settings: &LookupSettings,
        database: &Target,
        journal: &str,
        readiness: &Readiness,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        drop(metrics::histogram!("milepost_gateway_lookup_batch_records"));
        for result in ["ok", "failed"] {
            metrics::counter!("milepost_gateway_lookups_total", "result" => result).absolute(0);
        }
        readiness.register(POSTGRES, false);
        let lookups = usize::try_from(settings.lookup_connections).unwrap_or(1);
        let database = Arc::new(Database {
            connections: Connections::new(database.bounded(settings.lookup_timeout), lookups + 1),
            deadline: settings.lookup_timeout,
            circuit: Mutex::default(),
            lookups: Arc::new(Semaphore::new(lookups)),
            progress: Arc::new(Semaphore::new(1)),
            journal: journal.to_owned(),
            readiness: readiness.clone(),
        });
        let (questions, asked) = mpsc::channel(usize::try_from(settings.lookup_queue).unwrap_or(1));
        let answering = answer_all(asked, Arc::clone(&database));
        let stop = stop.clone();
        tasks.spawn(async move { stop.run_until_cancelled(answering).await });
        Ok(Self { questions, database })
    }

    /// The windows of a key. Answers within the look-up timeout, however many others ask.
    pub async fn windows(&self, key_hash: KeyHash) -> Found {
        if self.database.circuit().is_open(Instant::now()) {
            return Found::Unavailable;
        }
        let (answer, answered) = oneshot::channel();
        if self.questions.try_send((key_hash, answer)).is_err() {
            return Found::Unavailable;
        }
        match timeout(self.database.deadline, answered).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) | Err(_) => Found::Unavailable,
        }
    }

    /// The newest window of each of these keys; a key that is not known is absent, and so are all that the table cannot be
    /// asked for. One query for some thousand keys; each answers within twice the look-up timeout.
    pub async fn newest_of(&self, keys: Vec<KeyHash>) -> HashMap<KeyHash, KeyState> {
        // With others that ask for one.
        if let [key_hash] = keys[..] {
            let newest = self.windows(key_hash).await.newest();
            return newest.map(|state| (key_hash, state)).into_iter().collect();
        }
        let mut newest = HashMap::new();
        for keys in keys.chunks(TOGETHER_MAX) {
            let Some(found) = self.together(keys.to_owned()).await else { break };
            let last = |(key_hash, windows): (KeyHash, Vec<KeyState>)| {
                Some((key_hash, windows.into_iter().next_back()?))
            };
            newest.extend(found.into_iter().filter_map(last));
        }
        newest
    }

    /// The windows of keys, by one query.
    async fn together(&self, keys: Vec<KeyHash>) -> Option<HashMap<KeyHash, Vec<KeyState>>> {
        let lookups = &self.database.lookups;
        self.ask_alone(lookups, async move |database| {
            record_batch(keys.len());
            database.ask(async |connection| lookup::windows(connection, &keys).await).await
        })
        .await
    }

    /// How far each partition of the journal is persisted; `None` if the database cannot be asked.
    pub async fn next_offsets(&self) -> Option<HashMap<Partition, NextOffset>> {
        let progress = &self.database.progress;
        self.ask_alone(progress, async |database| {
            let journal = database.journal.as_str();
            database.ask(async |connection| lookup::next_offsets(connection, journal).await).await
        })
        .await
    }

    /// Asks once a permit is there, within the deadline.
    async fn ask_alone<T, F>(
        &self,
        permits: &Arc<Semaphore>,
        ask: impl FnOnce(Arc<Database>) -> F,
    ) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = Option<T>> + Send + 'static,
    {
        if self.database.circuit().is_open(Instant::now()) {
            return None;
        }
        let permit = Arc::clone(permits).acquire_owned();
        let permit = timeout(self.database.deadline, permit).await.ok()?.ok()?;
        let asking = ask(Arc::clone(&self.database));
        // In a task of its own: a client that hangs up must not leave a connection in the middle of a query.
        let asking = tokio::spawn(async move {
            let answer = asking.await;
            drop(permit);
            answer
        });
        asking.await.ok().flatten()
    }

    /// Reads progress every second, for readiness and for `report`, until `stop`.
    pub async fn watch_progress(
        self,
        report: impl Fn(HashMap<Partition, NextOffset>),
        stop: CancellationToken,
    ) {
        let mut every = tokio::time::interval(PROGRESS_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(every.tick()).await.is_some() {
            if let Some(next_offsets) = self.next_offsets().await {
                report(next_offsets);
            }
        }
    }
}

/// One query after the other on each connection. Questions that come while all are busy make the next batch.
async fn answer_all(mut asked: mpsc::Receiver<Question>, database: Arc<Database>) {
    loop {
        let Ok(connection) = Arc::clone(&database.lookups).acquire_owned().await else { return };
        let Some(batch) = gather(&mut asked).await else { return };
        let database = Arc::clone(&database);
        tokio::spawn(async move {
            database.answer(batch).await;
            drop(connection);
        });
    }
}

/// The first question, and all that are asked by then.
async fn gather(asked: &mut mpsc::Receiver<Question>) -> Option<Vec<Question>> {
    let mut batch = vec![asked.recv().await?];
    // Who is ready to ask as well asks first: the first question woke this task before their turn came.
    tokio::task::yield_now().await;
    while batch.len() < BATCH_MAX
        && let Ok(question) = asked.try_recv()
    {
        batch.push(question);
    }
    Some(batch)
}

fn record_batch(keys: usize) {
    #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
    metrics::histogram!("milepost_gateway_lookup_batch_records").record(keys as f64);
}

impl Database {
    async fn answer(&self, batch: Vec<Question>) {
        record_batch(batch.len());
        let mut keys: Vec<KeyHash> = batch.iter().map(|(key_hash, _)| *key_hash).collect();
        keys.sort_unstable();
        keys.dedup();
        let found = if self.circuit().is_open(Instant::now()) {
            None
        } else {
            self.ask(async |connection| lookup::windows(connection, &keys).await).await
        };
        for (key_hash, answer) in batch {
            let windows = found.as_ref().map(|found| found.get(&key_hash).cloned().unwrap_or_default());
            // Who asked may have gone.
            let _ = answer.send(windows.map_or(Found::Unavailable, Found::Windows));
        }
    }

    /// Runs a query with the deadline, and keeps circuit and readiness.
    async fn ask<T>(&self, query: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>) -> Option<T> {
        match timeout(self.deadline, self.connections.ask(query))
            .await
            .unwrap_or_else(|_| Err(sqlx::Error::Io(ErrorKind::TimedOut.into())))
        {
            Ok(answer) => {
                self.circuit().close();
                self.readiness.up(POSTGRES);
                metrics::counter!("milepost_gateway_lookups_total", "result" => "ok").increment(1);
                Some(answer)
            }
            Err(error) => {
                self.connections.forget();
                self.circuit().open(Instant::now());
                self.readiness.down(POSTGRES, trouble::in_words(&error));
                metrics::counter!("milepost_gateway_lookups_total", "result" => "failed").increment(1);
                tracing::debug!(%error, "look-up failed");
                None
            }
        }
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock()
    }
}

/// After a failure nothing is asked for a while, longer after each failure in a row.
#[derive(Debug, Default)]
struct Circuit {
    until: Option<Instant>,
    pause: Duration,
}

impl Circuit {
    fn is_open(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    fn close(&mut self) {
        *self = Self::default();
    }

    fn open(&mut self, now: Instant) {
        // Queries that were under way together fail together: that is one failure.
        if !self.is_open(now) {
            self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            self.until = Some(now + self.pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_question_that_nobody_comes_to_is_given_up_at_the_deadline() {
        let (circuit, readiness, journal) = Default::default();
        let nobody_asked = Target::new("postgres://127.0.0.1:1/none", None, "test").unwrap();
        let connections = Connections::new(nobody_asked, 1);
        let (deadline, progress) = (Duration::from_secs(1), Arc::new(Semaphore::new(1)));
        let lookups = Arc::clone(&progress);
        let database = Database { connections, deadline, circuit, lookups, progress, journal, readiness };
        let (questions, _asked) = mpsc::channel(1);
        let lookup = Lookup { questions, database: Arc::new(database) };
        let begun = Instant::now();
        assert_eq!(lookup.windows(KeyHash([1; 32])).await, Found::Unavailable);
        assert_eq!(begun.elapsed(), deadline);
    }

    // One worker, so that it decides alone whose turn it is.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn questions_of_those_who_are_ready_to_ask_make_one_batch() {
        const ASKING: usize = 10;
        let (questions, mut asked) = mpsc::channel::<Question>(ASKING);
        let gathering = tokio::spawn(async move { gather(&mut asked).await });
        let asking = tokio::spawn(async move {
            for _ in 0..ASKING {
                let questions = questions.clone();
                tokio::spawn(async move { questions.send((KeyHash([1; 32]), oneshot::channel().0)).await });
            }
        });
        asking.await.unwrap();
        assert_eq!(gathering.await.unwrap().unwrap().len(), ASKING);
    }

    #[test]
    fn the_pause_doubles_with_each_failure_in_a_row_up_to_a_bound() {
        let mut circuit = Circuit::default();
        let mut now = Instant::now();
        assert!(!circuit.is_open(now));
        for pause_ms in [500, 1000, 2000, 4000, 5000, 5000] {
            circuit.open(now);
            circuit.open(now);
            now += Duration::from_millis(pause_ms - 1);
            assert!(circuit.is_open(now), "{pause_ms}");
            now += Duration::from_millis(1);
            assert!(!circuit.is_open(now), "{pause_ms}");
        }
        circuit.close();
        circuit.open(now);
        assert!(!circuit.is_open(now + PAUSE_MIN));
    }
}
