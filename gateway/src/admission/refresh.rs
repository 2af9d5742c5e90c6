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
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
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
    options: PgConnectOptions,
    interval: Duration,
    readiness: &'a Readiness,
    rows: Counter,
    count: Gauge,
    pass: u32,
    failing: bool,
}

impl<'a> Refresh<'a> {
    /// Looks for changes once in each interval.
    pub fn new(
        known: &'a KnownKeys,
        options: PgConnectOptions,
        interval: Duration,
        readiness: &'a Readiness,
    ) -> Self {
        let rows = metrics::counter!("milepost_gateway_api_key_rows_total");
        let count = metrics::gauge!("milepost_gateway_api_keys");
        let options = api_keys::reader(options);
        Self { known, options, interval, readiness, rows, count, pass: 0, failing: false }
    }

    /// Does it, for ever. While it cannot, the keys known stay as they are.
    pub async fn run(mut self) -> Infallible {
        let mut first = true;
        loop {
            let Err(error) = self.follow(&mut first).await;
            if !self.failing {
                let error = format!("{error:#}");
                tracing::warn!(error, "cannot load API keys; those known go on working");
            }
            self.failing = true;
            if first {
                self.readiness.down(API_KEYS, "cannot load API keys from Postgres");
            }
            sleep(if first { FIRST_PAUSE } else { PAUSE }).await;
        }
    }

    /// The life of one connection.
    async fn follow(&mut self, first: &mut bool) -> anyhow::Result<Infallible> {
        let mut connection = bounded(self.options.connect()).await?;
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

async fn bounded<T>(asking: impl Future<Output = sqlx::Result<T>>) -> anyhow::Result<T> {
    Ok(timeout(STEP_TIMEOUT, asking).await.context("Postgres does not answer in time")??)
}
