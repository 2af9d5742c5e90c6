//! A database that ends its sessions, takes no writes, waits for a lock, lets nobody in, or is put back.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use milepost_tests::{Role, eventually};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use super::SIGN;
use crate::system::System;

/// What distinguishes the harness's own sessions from the programs'.
const OWN: &str = "milepost-torture";
/// More than a server lets in.
const CONNECTIONS_MAX: usize = 1000;
/// What PostgreSQL says when all connections are taken.
const TOO_MANY_CONNECTIONS: &str = "53300";
/// Ends the sessions of the programs and returns how many there were.
const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
     WHERE usename IN ('milepost_gateway', 'milepost_consumer') AND application_name <> 'milepost-torture'";

impl System {
    pub(super) async fn terminate_backends(&self, lasts: Duration) -> anyhow::Result<String> {
        let until = Instant::now() + lasts;
        let mut owner = self.owner().await?;
        let mut tick = interval(Duration::from_secs(1));
        let mut terminated = 0;
        while timeout_at(until, tick.tick()).await.is_ok() || terminated == 0 {
            terminated += number(&mut owner, TERMINATE).await?;
            ensure!(until.elapsed() < SIGN, "nobody had a session");
        }
        Ok(format!("{terminated} sessions terminated"))
    }

    pub(super) async fn read_only(&self, lasts: Duration) -> anyhow::Result<String> {
        let before = self.persist_retries().await;
        let retried = async {
            self.world().database.set_read_only(true).await?;
            sleep(lasts).await;
            self.retried_since(&before).await
        };
        let retried = retried.await;
        self.world().database.set_read_only(false).await?;
        Ok(format!("{} tried to persist again", retried?))
    }

    pub(super) async fn lock_table(&self, lasts: Duration) -> anyhow::Result<String> {
        let (mut locking, mut watching) = (self.owner().await?, self.owner().await?);
        let lock = "SET lock_timeout = '10s'; BEGIN; LOCK TABLE devices IN ACCESS EXCLUSIVE MODE";
        locking.execute(sqlx::raw_sql(lock)).await.context("cannot lock the table")?;
        let until = Instant::now() + lasts;
        let mut waited = 0;
        let waiting = "SELECT count(*) FROM pg_stat_activity \
             WHERE wait_event_type = 'Lock' AND usename = 'milepost_consumer'";
        let mut tick = interval(Duration::from_millis(200));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The end of the connection, also by an error, is the end of the lock.
        while timeout_at(until, tick.tick()).await.is_ok() {
            waited = waited.max(number(&mut watching, waiting).await?);
        }
        ensure!(waited > 0, "no consumer waited for the lock");
        locking.execute("ROLLBACK").await?;
        Ok(format!("consumers' sessions waiting for the lock: {waited}"))
    }

    pub(super) async fn exhaust_connections(&self, lasts: Duration) -> anyhow::Result<String> {
        // The owner is let in as long as the server keeps some connections for such as it.
        let mut owner = self.owner().await?;
        let before = self.persist_retries().await;
        let options: PgConnectOptions = self.world().database.url(Role::Gateway).parse()?;
        let options = options.application_name(OWN).disable_statement_logging();
        let until = Instant::now() + lasts;
        let mut held = Vec::new();
        let mut retried = None;
        while Instant::now() < until || retried.is_none() {
            number(&mut owner, TERMINATE).await?;
            // Whoever reconnects finds every connection taken.
            take_all(&options, &mut held).await?;
            retried = self.retried(&before).await;
            ensure!(until.elapsed() < SIGN, "no consumer noticed");
            sleep(Duration::from_millis(200)).await;
        }
        let name = retried.context("waited for")?;
        Ok(format!("{} connections held, the next refused; {name} tried to persist again", held.len()))
    }

    pub(super) async fn put_back(&self, lasts: Duration) -> anyhow::Result<String> {
        let database = &self.world().database;
        let lost = async {
            database.copy().await?;
            let copied = self.persisted_in(&format!("{}_copy", database.name())).await?;
            sleep(lasts).await;
            let lost = eventually(SIGN, "something was persisted in the meantime", async || {
                let lost = self.persisted_in(database.name()).await? - copied;
                Ok((lost > 0).then_some(lost))
            });
            let lost = lost.await?;
            database.put_back().await?;
            anyhow::Ok(lost)
        };
        let lost = lost.await;
        database.open().await?;
        Ok(format!("{} records of the journal no longer persisted", lost?))
    }

    /// How much of the journal is persisted in a database, records.
    async fn persisted_in(&self, database: &str) -> anyhow::Result<i64> {
        let options: PgConnectOptions = self.world().database.url(Role::Owner).parse()?;
        let options = options.database(database);
        let mut owner = options.connect().await.with_context(|| format!("cannot reach {database}"))?;
        let persisted = "SELECT coalesce(sum(next_offset), 0)::bigint FROM partition_progress";
        let persisted = number(&mut owner, persisted).await?;
        // Nobody may be in a database that is renamed.
        owner.close().await?;
        Ok(persisted)
    }

    /// How often each consumer that answers has tried again to persist a batch.
    async fn persist_retries(&self) -> BTreeMap<&str, f64> {
        let mut retries = BTreeMap::new();
        for slot in &self.consumers {
            // One that is taken suffers from something else.
            let Ok(consumer) = slot.program.try_lock() else { continue };
            if let Ok(count) = consumer.metric("milepost_consumer_persist_retries_total").await {
                retries.insert(slot.name.as_str(), count);
            }
        }
        retries
    }

    /// The consumer, if any, that has tried again more often than before.
    async fn retried(&self, before: &BTreeMap<&str, f64>) -> Option<String> {
        let rose = |(name, count): &(&str, f64)| before.get(name).is_some_and(|before| count > before);
        Some(self.persist_retries().await.into_iter().find(rose)?.0.to_owned())
    }

    async fn retried_since(&self, before: &BTreeMap<&str, f64>) -> anyhow::Result<String> {
        eventually(SIGN, "a consumer tries to persist again", async || Ok(self.retried(before).await)).await
    }
}

async fn number(connection: &mut PgConnection, query: &'static str) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar(query).fetch_one(connection).await?)
}

/// Opens connections until one is refused because there are too many.
async fn take_all(options: &PgConnectOptions, held: &mut Vec<PgConnection>) -> anyhow::Result<()> {
    while held.len() < CONNECTIONS_MAX {
        match options.connect().await {
            Ok(connection) => held.push(connection),
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(TOO_MANY_CONNECTIONS) => {
                return Ok(());
            }
            Err(error) => return Err(error).context("cannot take all connections"),
        }
    }
    anyhow::bail!("the server lets in more than {CONNECTIONS_MAX}")
}
