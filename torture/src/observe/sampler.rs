//! The sampler: lag, open transactions and footprints, every second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::lock;
use super::offsets::{Journal, progress};
use crate::evidence::{Footprint, Sample, Sources};
use crate::history::Recorder;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);

/// Sessions of the two programs' roles.
const IDLE: &str = "
    SELECT count(*), coalesce(max(extract(epoch FROM clock_timestamp() - state_change)), 0)::float8
    FROM pg_stat_activity
    WHERE state LIKE 'idle in transaction%' AND usename IN ('milepost_gateway', 'milepost_consumer')";

pub(super) struct Sampler<F> {
    connection: Connection,
    journal: Journal,
    recorder: Recorder,
    samples: Arc<Mutex<Vec<Sample>>>,
    footprints: F,
}

impl<F: Fn() -> BTreeMap<String, Footprint>> Sampler<F> {
    pub(super) fn new(
        sources: &Sources,
        journal: Journal,
        recorder: Recorder,
        samples: Arc<Mutex<Vec<Sample>>>,
        footprints: F,
    ) -> Self {
        Self { connection: Connection::new(sources), journal, recorder, samples, footprints }
    }

    /// Samples until `stop`. Returns how many samples were complete.
    pub(super) async fn run(mut self, stop: CancellationToken) -> u64 {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut complete = 0;
        while stop.run_until_cancelled(every.tick()).await.is_some() {
            let sample = self.sample().await;
            complete += u64::from(sample.lag.is_some() && sample.idle_in_transaction.is_some());
            lock(&self.samples).push(sample);
        }
        // The last one is of the quiet end.
        let last = self.sample().await;
        lock(&self.samples).push(last);
        complete
    }

    async fn sample(&mut self) -> Sample {
        let at = self.recorder.now();
        let processes = (self.footprints)();
        let ends = self.journal.ends().await;
        let progress = self.connection.ask(progress).await;
        let idle = self.connection.ask(idle).await;
        let persisted = progress.map(|progress| progress.values().sum::<i64>());
        Sample {
            at,
            lag: ends.zip(persisted).map(|(ends, persisted)| ends - persisted),
            idle_in_transaction: idle.map(|(sessions, _)| sessions),
            idle_longest: idle.map(|(_, longest)| longest),
            processes,
        }
    }
}

async fn idle(connection: &mut PgConnection) -> sqlx::Result<(i64, Duration)> {
    let (sessions, seconds): (i64, f64) = sqlx::query_as(IDLE).fetch_one(connection).await?;
    Ok((sessions, Duration::from_secs_f64(seconds.max(0.0))))
}
