//! Keeps the known keys as they are in the database: on each connection first all keys, page by page, then what changes.
//!
//! The numbers by which changes are found grow for as long as a connection lives, and only then: a failover, or a restore
//! of the server, ends it. What no number tells, such as a row that was deleted, is found out by a pass through all keys
//! every few minutes.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use metrics::{Counter, Gauge};
use milepost_shared::program::pages::Readiness;
use milepost_shared::store::api_keys::{self, Changes, Horizon, PAGE};
use milepost_shared::store::connect::Target;
use milepost_shared::store::trouble;
use sqlx::PgConnection;
use tokio::time::{Instant, sleep, timeout};

use crate::admission::known::KnownKeys;

/// The dependency in `/readyz`.
pub const API_KEYS: &str = "api_keys";
/// Longest time to connect, or to read one page. With the longest refresh, a revoked key still stops within 60 seconds.
const STEP_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two passes through all keys.
const PASS_INTERVAL: Duration = Duration::from_secs(600);
/// Between two attempts, until all keys have been read for the first time, and after that.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_secs(1);

/// What keeps them.
pub struct Refresh<'a> {
    known: &'a KnownKeys,
    target: Target,
    interval: Duration,
    readiness: &'a Readiness,
    rows: Counter,
    count: Gauge,
    pass: u32,
    failing: bool,
}

impl<'a> Refresh<'a> {
    /// Looks for changes once in each interval.
    pub fn new(known: &'a KnownKeys, target: &Target, interval: Duration, readiness: &'a Readiness) -> Self {
        let rows = metrics::counter!("milepost_gateway_api_key_rows_total");
        let count = metrics::gauge!("milepost_gateway_api_keys");
        let target = api_keys::reader(target);
        Self { known, target, interval, readiness, rows, count, pass: 0, failing: false }
    }

    /// Does it, for ever. While it cannot, the keys known stay as they are.
    pub async fn run(mut self) -> Infallible {
        let mut first = true;
        loop {
            let why = match timeout(STEP_TIMEOUT, self.target.connect()).await {
                Ok(Ok(connection)) => {
                    let Err(error) = self.follow(connection, &mut first).await;
                    let why = in_words(&error);
                    if !self.failing {
                        tracing::warn!(error = why, "cannot load API keys; those known go on working");
                    }
                    why
                }
                // Why is in the log already: whoever connects says so.
                Ok(Err(error)) => self.not_connected(first, trouble::in_words(&error)),
                Err(_) => self.not_connected(first, "Postgres does not answer in time".to_owned()),
            };
            self.failing = true;
            if first {
                self.readiness.down(API_KEYS, format!("cannot load API keys from Postgres: {why}"));
            }
            sleep(if first { FIRST_PAUSE } else { PAUSE }).await;
        }
    }

    fn not_connected(&self, first: bool, why: String) -> String {
        if !first && !self.failing {
            tracing::warn!("cannot load API keys; those known go on working");
        }
        why
    }

    /// The life of one connection.
    async fn follow(&mut self, mut connection: PgConnection, first: &mut bool) -> anyhow::Result<Infallible> {
        let mut seen = bounded(api_keys::horizon(&mut connection)).await?;
        loop {
            self.pass(&mut connection, &mut seen).await?;
            self.readiness.up(API_KEYS);
            (*first, self.failing) = (false, false);
            let passed = Instant::now();
            while passed.elapsed() < PASS_INTERVAL {
                sleep(self.interval).await;
                self.changes(&mut connection, &mut seen).await?;
            }
        }
    }

    /// Reads all keys, and forgets those that are not there.
    async fn pass(&mut self, connection: &mut PgConnection, seen: &mut Horizon) -> anyhow::Result<()> {
        self.pass = self.pass.wrapping_add(1);
        let (mut all, mut looked) = (Changes::all(), Instant::now());
        while self.page(connection, &mut all).await? {
            if looked.elapsed() >= self.interval {
                self.changes(connection, seen).await?;
                looked = Instant::now();
            }
        }
        // A key that changed meanwhile has moved to the front, where this pass had been already.
        self.changes(connection, seen).await?;
        self.known.sweep(self.pass);
        self.count.set(self.known.count() as f64);
        Ok(())
    }

    async fn changes(&self, connection: &mut PgConnection, seen: &mut Horizon) -> anyhow::Result<()> {
        let now = bounded(api_keys::horizon(connection)).await?;
        ensure!(now.follows(seen), "the table is not the one it was; all keys are loaded again");
        let mut changes = Changes::between(seen, &now);
        while self.page(connection, &mut changes).await? {}
        *seen = now;
        self.count.set(self.known.count() as f64);
        Ok(())
    }

    /// Takes over one page; whether another one may follow.
    async fn page(&self, connection: &mut PgConnection, changes: &mut Changes) -> anyhow::Result<bool> {
        let keys = bounded(changes.page(connection)).await?;
        for key in &keys {
            self.known.apply(key, self.pass);
        }
        self.rows.increment(keys.len() as u64);
        Ok(keys.len() == PAGE)
    }
}

fn in_words(error: &anyhow::Error) -> String {
    error
        .chain()
        .find_map(|cause| cause.downcast_ref())
        .map_or_else(|| format!("{error:#}"), trouble::in_words)
}

async fn bounded<T>(asking: impl Future<Output = sqlx::Result<T>>) -> anyhow::Result<T> {
    Ok(timeout(STEP_TIMEOUT, asking).await.context("Postgres does not answer in time")??)
}
