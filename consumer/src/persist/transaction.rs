//! Persist and finalize: one transaction per batch, whose first write is the fence: it moves the progress of each partition
//! from where this consumer left it, or fails.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::position::{NextOffset, Partition, Position};
use milepost_shared::program::backoff::Backoff;
use milepost_shared::program::crash::{Crash, CrashPoint};
use milepost_shared::program::pages::Readiness;
use milepost_shared::store::batch::Advance;
use milepost_shared::store::connection::Connections;
use milepost_shared::store::copy::{copy_in, encode_keys, encode_locations};
use milepost_shared::store::partitions::{Partitioned, Stretch};
use milepost_shared::store::{batch as statements, copy, partitions, progress, trouble};
use sqlx::error::DatabaseError;
use sqlx::{Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::emit::emitter::Emission;
use crate::journal::record::Record;
use crate::journal::stopped::{Stop, StoppedPartitions};
use crate::metric;
use crate::persist::account::{ASK_AGAIN, KnownAccounts, Waiting};
use crate::persist::batch::{Batch, PoisonRun, PoisonRuns};
use crate::persist::decide::Windows;
use crate::persist::resolve::{self, Resolution};

/// How long a consumer needs locations. They are kept as long as their owner has set: expiry drops none.
pub const LOCATIONS_NEEDED: Duration = Duration::ZERO;
/// How many stretches of journal time are remembered as covered by a table partition.
const COVERED_MAX: usize = 64;

/// SQLSTATEs of a statement, a wait for a lock, or a transaction that took too long.
const TIMEOUTS: [&str; 4] = ["57014", "55P03", "25P03", "25P04"];

/// The persister's settings.
#[derive(Debug, Clone)]
pub struct PersistSettings {
    /// The journal's topic name.
    pub topic: String,
    /// How long a key is remembered.
    pub ttl: Duration,
    /// Longest attempt.
    pub timeout: Duration,
    /// Longest pause between attempts.
    pub backoff_max: Duration,
    /// Rows of a table from which COPY is used.
    pub copy_rows_min: usize,
    /// Most poison records in a row.
    pub dead_letter_run_max: usize,
    /// Longest wait for an account that is not known.
    pub unknown_account_wait: Duration,
}

/// Why the persister gave up on a batch, which then changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// Another consumer has moved these partitions on, or the database is an earlier state: start over from its progress.
    #[error("fenced off: the progress of journal partitions {0:?} is not where this consumer left it")]
    Fenced(Vec<Partition>),
    /// Too many poison records in a row. What came before it is persisted.
    #[error(transparent)]
    PoisonRun(#[from] PoisonRun),
    /// An account that was known is gone: the database is an earlier state. Start over, and look it up again.
    #[error("the database no longer knows an account that it knew before")]
    AccountLost,
    /// The program is stopping.
    #[error("stopping")]
    Stopped,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Persisted {
    /// What to emit, in journal order per partition.
    pub emissions: Vec<Emission>,
    /// Set if the batch ended before a run of poison records beyond the bound.
    pub poison_run: Option<PoisonRun>,
    /// What is still to be persisted, the next batch last: a batch that timed out was cut.
    pub rest: Vec<Batch>,
}

/// Persists batches, one at a time.
pub struct Persister {
    settings: PersistSettings,
    connections: Connections,
    readiness: Readiness,
    crash: Crash,
    stop: CancellationToken,
    accounts: KnownAccounts,
    waiting: Waiting,
    stopped: StoppedPartitions,
    runs: PoisonRuns,
    covered: Vec<(Partitioned, Stretch)>,
}

/// What was read, or the keys that have rows which no build writes.
type Readable<T> = Result<T, Vec<KeyHash>>;

enum Failure {
    Database(sqlx::Error),
    Fenced(Vec<Partition>),
    TimedOut,
}

impl Failure {
    /// Whether less work might have finished in time.
    fn is_of_time(&self) -> bool {
        match self {
            Self::TimedOut => true,
            Self::Database(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| TIMEOUTS.contains(&&*code))
            }
            Self::Database(_) | Self::Fenced(_) => false,
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl Persister {
    /// A persister for one session. `stop` ends its waits.
    #[must_use]
    pub fn new(
        settings: PersistSettings,
        connections: Connections,
        accounts: KnownAccounts,
        stopped: StoppedPartitions,
        readiness: Readiness,
        crash: Crash,
        stop: CancellationToken,
    ) -> Self {
        let waiting = Waiting::new(settings.unknown_account_wait);
        let (runs, covered) = Default::default();
        Self { settings, connections, readiness, crash, stop, accounts, waiting, stopped, runs, covered }
    }

    /// Continues a run of poison records that ends at a partition's progress.
    pub fn resume_run(&mut self, partition: Partition, length: usize) {
        self.runs.resume(partition, length);
    }

    /// Persists a batch, and keeps trying while the database is down, read-only or slow. If it times out, only its beginning
    /// is persisted, and the rest is returned.
    ///
    /// # Errors
    /// [`PersistError`]; nothing of the batch is persisted then.
    pub async fn persist(&mut self, mut batch: Batch) -> Result<Persisted, PersistError> {
        let mut rest = Vec::new();
        self.refuse_strangers(&mut batch, &mut rest).await?;
        let (runs, max) = (self.runs.clone(), self.settings.dead_letter_run_max);
        self.runs.bound(&mut batch, max);
        if batch.is_empty() {
            return match batch.poison_run {
                Some(run) => Err(run.into()),
                None => Ok(Persisted { rest, ..Persisted::default() }),
            };
        }
        let whole = batch.records.len();
        let resolutions = loop {
            let step = async |this: &mut Self, batch: &mut Batch| this.transact(batch).await;
            match self.retry(&mut batch, &mut rest, step).await? {
                Ok(resolutions) => break resolutions,
                Err(keys) => self.stop_at(&mut batch, &keys),
            }
            if batch.is_empty() {
                return match batch.poison_run {
                    Some(run) => Err(run.into()),
                    None => {
                        self.runs = runs;
                        Ok(Persisted { rest, ..Persisted::default() })
                    }
                };
            }
        };
        if batch.records.len() < whole {
            // The rest is counted when its turn comes.
            self.runs = runs;
            self.runs.bound(&mut batch, max);
        }
        histogram!(metric::BATCH).record(count(batch.records.len()));
        resolve::count(&batch, &resolutions);
        let poison_run = batch.poison_run;
        Ok(Persisted { emissions: resolve::emissions(batch, resolutions), poison_run, rest })
    }

    /// Repeats a step until it succeeds, halving the batch each time it takes too long. No database error makes a dead letter:
    /// what was decoded can be stored, so an error is a condition of the database, and passes.
    async fn retry<T>(
        &mut self,
        batch: &mut Batch,
        rest: &mut Vec<Batch>,
        step: impl AsyncFn(&mut Self, &mut Batch) -> Result<T, Failure>,
    ) -> Result<T, PersistError> {
        let mut backoff = Backoff::new(self.settings.backoff_max);
        loop {
            let timeout = self.settings.timeout + Duration::from_secs(5);
            let attempt = match tokio::time::timeout(timeout, step(self, batch)).await {
                Ok(result) => result,
                Err(_) => Err(Failure::TimedOut),
            };
            if attempt.as_ref().is_err_and(Failure::is_of_time)
                && let Some(left) = batch.halve()
            {
                counter!(metric::CUT).increment(1);
                rest.push(left);
            }
            let reason = match attempt {
                Ok(done) => {
                    self.readiness.up("postgres");
                    return Ok(done);
                }
                Err(Failure::Fenced(partitions)) => {
                    counter!(metric::FENCED).increment(1);
                    return Err(PersistError::Fenced(partitions));
                }
                Err(Failure::TimedOut) => "no answer in time".to_owned(),
                Err(Failure::Database(error)) => {
                    if error.as_database_error().is_some_and(DatabaseError::is_foreign_key_violation) {
                        return Err(PersistError::AccountLost);
                    }
                    trouble::in_words(&error)
                }
            };
            self.covered.clear();
            counter!(metric::PERSIST_RETRIES).increment(1);
            self.readiness.down("postgres", reason.clone());
            let delay = backoff.delay();
            let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(reason, delay_ms, "cannot persist; the batch is tried again");
            if self.stop.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
                return Err(PersistError::Stopped);
            }
        }
    }

    /// Turns uploads of unknown accounts into poison records, after those that are new have waited for them.
    async fn refuse_strangers(
        &mut self,
        batch: &mut Batch,
        rest: &mut Vec<Batch>,
    ) -> Result<(), PersistError> {
        let ask = async |this: &mut Self, batch: &mut Batch| this.strangers(batch).await;
        let mut strangers = self.retry(batch, rest, ask).await?;
        if let Some(until) = self.waiting.until(Instant::now(), &strangers) {
            tracing::warn!(accounts = strangers.len(), "uploads of unknown accounts wait for them");
            while !strangers.is_empty() && Instant::now() < until {
                let pause = ASK_AGAIN.min(until.saturating_duration_since(Instant::now()));
                if self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    return Err(PersistError::Stopped);
                }
                strangers = self.retry(batch, rest, ask).await?;
            }
            self.waiting.end(Instant::now(), strangers);
        }
        batch.refuse_strangers(|account| self.accounts.contains(account));
        Ok(())
    }

    /// Looks up the accounts that are not known yet. Returns those of new uploads that do not exist.
    async fn strangers(&mut self, batch: &Batch) -> Result<HashSet<AccountId>, Failure> {
        let unknown = |account: &AccountId| !self.accounts.contains(*account);
        let asked: HashSet<AccountId> =
            resolve::good_records(batch).map(|(_, upload)| upload.account).filter(unknown).collect();
        if asked.is_empty() {
            return Ok(asked);
        }
        let asked: Vec<AccountId> = asked.into_iter().collect();
        let known = self
            .connections
            .ask(async |connection| statements::known_accounts(connection, &asked).await)
            .await?;
        self.accounts.extend(known);
        let new = resolve::good_records(batch).filter(|(record, _)| batch.is_new(record));
        let unknown = |account: &AccountId| !self.accounts.contains(*account);
        Ok(new.map(|(_, upload)| upload.account).filter(unknown).collect())
    }

    /// Stops partitions before the first upload of a key whose rows cannot be read: decided without them, an upload might be
    /// stored twice.
    fn stop_at(&self, batch: &mut Batch, keys: &[KeyHash]) {
        let mut seen = HashSet::new();
        for (Record { position, .. }, upload) in resolve::good_records(batch) {
            let Some(span) = batch.spans.get(&position.partition) else { continue };
            if !keys.contains(&upload.key_hash) || !seen.insert(position.partition) {
                continue;
            }
            let (key_hash, Position { partition, offset }) = (upload.key_hash, *position);
            let reason = format!(
                "idempotency_keys has a row that no consumer writes, of the key {key_hash}; record {offset} of journal \
                 partition {partition} cannot be decided. Delete or correct the row, and start the consumer again"
            );
            self.stopped.stop(Stop { position: *position, generation: span.generation, reason });
        }
        batch.leave_stopped(&self.stopped.snapshot());
    }

    /// Whatever the transaction's state, after a failure its connection is closed, which ends it.
    async fn transact(&mut self, batch: &Batch) -> Result<Readable<Vec<Resolution>>, Failure> {
        let connections = self.connections.clone();
        connections.ask(async |connection| self.transact_on(connection, batch).await).await
    }

    async fn transact_on(
        &mut self,
        connection: &mut PgConnection,
        batch: &Batch,
    ) -> Result<Readable<Vec<Resolution>>, Failure> {
        self.crash.point(CrashPoint::BeforeTransaction);
        let begun = Instant::now();
        self.cover(connection, batch).await?;
        let mut transaction = connection.begin().await?;
        let windows = match self.fence(&mut transaction, batch).await? {
            Ok(windows) => windows,
            Err(keys) => {
                transaction.rollback().await?;
                return Ok(Err(keys));
            }
        };
        let resolutions = resolve::resolve(batch, windows, self.settings.ttl);
        self.write(&mut transaction, batch, &resolutions).await?;
        self.crash.point(CrashPoint::InTransaction);
        transaction.commit().await?;
        histogram!(metric::PERSIST).record(begun.elapsed());
        self.crash.point(CrashPoint::AfterCommit);
        Ok(Ok(resolutions))
    }

    /// Makes the table partitions that the batch needs, ahead of its transaction. Maintenance has normally made them long
    /// ago; a replay of an old journal needs old ones.
    async fn cover(&mut self, connection: &mut PgConnection, batch: &Batch) -> sqlx::Result<()> {
        let tables = [(Partitioned::Keys, self.settings.ttl), (Partitioned::Locations, LOCATIONS_NEEDED)];
        for (record, _) in resolve::good_records(batch).filter(|(record, _)| batch.is_new(record)) {
            for (table, needed) in tables {
                if self.covered.iter().any(|(of, stretch)| *of == table && stretch.contains(record.time)) {
                    continue;
                }
                let stretch = partitions::ensure(connection, table, record.time, needed).await?;
                if self.covered.len() == COVERED_MAX {
                    self.covered.remove(0);
                }
                self.covered.push((table, stretch));
            }
        }
        Ok(())
    }

    /// Moves the progress from where this consumer left it, and reads what the table knows of the batch's keys.
    ///
    /// What is only emitted again needs a progress that still covers it: a table that was put back does not know what was
    /// persisted, and would give the state of an earlier window, or none.
    async fn fence(
        &self,
        connection: &mut PgConnection,
        batch: &Batch,
    ) -> Result<Readable<Windows>, Failure> {
        let topic = &self.settings.topic;
        let (new, again): (Vec<_>, Vec<_>) =
            batch.spans.iter().partition(|(_, span)| span.first_new < span.next);
        let advances: Vec<Advance> = new
            .into_iter()
            .map(|(partition, span)| Advance {
                partition: *partition,
                expected: span.first_new,
                next: span.next,
                time: span.time,
            })
            .collect();
        let again: Vec<(Partition, NextOffset)> =
            again.into_iter().map(|(partition, span)| (*partition, span.next)).collect();
        // Before the keys are read: once progress covers a record, it keeps covering it.
        let refused = progress::behind(connection, topic, &again).await?;
        if !refused.is_empty() {
            return Err(Failure::Fenced(refused));
        }
        let keys: HashSet<KeyHash> =
            resolve::good_records(batch).map(|(_, upload)| upload.key_hash).collect();
        let keys: Vec<KeyHash> = keys.into_iter().collect();
        let fence = statements::fence(connection, topic, &advances, &keys).await?;
        if !fence.refused.is_empty() {
            return Err(Failure::Fenced(fence.refused));
        }
        if !fence.unreadable.is_empty() {
            return Ok(Err(fence.unreadable));
        }
        let mut windows = Windows::default();
        for (key_hash, state) in fence.windows {
            windows.insert(key_hash, state);
        }
        Ok(Ok(windows))
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        batch: &Batch,
        resolutions: &[Resolution],
    ) -> sqlx::Result<()> {
        let new = resolve::new_records(batch, resolutions);
        if !new.is_empty() {
            let copy_min = self.settings.copy_rows_min;
            let mut keys = resolve::keys(&new);
            if keys.len() >= copy_min {
                // Drained, so that nothing copied is inserted too.
                copy_in(connection, copy::KEYS, &encode_keys(keys.drain(..))).await?;
            }
            let devices = resolve::sightings(&new);
            let ids = statements::insert_keys_and_devices(connection, &keys, &devices).await?;
            let rows = resolve::rows(&new, &ids);
            if rows.len() >= copy_min {
                copy_in(connection, &copy::LOCATIONS, &encode_locations(&rows)).await?;
            } else if !rows.is_empty() {
                statements::insert_locations(connection, &rows).await?;
            }
        }
        let letters = resolve::dead_letters(batch, &new);
        if !letters.is_empty() {
            statements::insert_dead_letters(connection, &self.settings.topic, &letters).await?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "a batch holds at most 10,000 records")]
fn count(records: usize) -> f64 {
    records as f64
}

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
