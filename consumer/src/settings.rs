//! The consumer's settings; `milepost-consumer --help` is their reference.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use milepost_shared::program::healthcheck::Command;
use milepost_shared::program::settings::{
    DatabaseSettings, KafkaSettings, Settings, TelemetrySettings, TestSettings, duration, socket_address,
};

use crate::persist::batch::Bounds;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Persists the uploads of the journal, finalizes their answers, and emits results and facts.
#[derive(Debug, Clone, Parser)]
#[command(name = "milepost-consumer", version, disable_help_subcommand = true)]
pub struct ConsumerSettings {
    /// What to do instead.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Where the journal is.
    #[command(flatten)]
    pub kafka: KafkaSettings,

    /// Where the tables are.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// Address of /livez, /readyz and /metrics, for operators only.
    #[arg(long, env, default_value = "127.0.0.1:8180", value_parser = socket_address)]
    pub ops_listen: SocketAddr,

    /// Most records of one transaction [1..=10000].
    #[arg(long, env, default_value_t = 4000, value_parser = count(1, 10_000))]
    pub batch_records_max: usize,

    /// Locations after which a transaction takes no further record [1..=100000].
    #[arg(long, env, default_value_t = 20_000, value_parser = count(1, 100_000))]
    pub batch_locations_max: usize,

    /// Bytes of record values after which a transaction takes no further record [1000..=100000000].
    #[arg(long, env, default_value_t = 8_000_000, value_parser = count(1000, 100_000_000))]
    pub batch_bytes_max: usize,

    /// Rows of a table from which a batch is written by COPY instead of INSERT [1..=100000].
    #[arg(long, env, default_value_t = 500, value_parser = count(1, 100_000))]
    pub copy_rows_min: usize,

    /// Unreadable records in a row, per journal partition, after which the consumer stops [1..=1000000].
    #[arg(long, env, default_value_t = 100, value_parser = count(1, 1_000_000))]
    pub dead_letter_run_max: usize,

    /// How long uploads of an account that the database does not know wait for it before they are dead letters [0s..=1m].
    #[arg(long, env, default_value = "3s", value_parser = duration(Duration::ZERO, 60 * SECOND))]
    pub unknown_account_wait: Duration,

    /// Longest a batch's transaction may take, and any statement in it [100ms..=5m].
    #[arg(long, env, default_value = "30s", value_parser = duration(100 * MILLISECOND, 300 * SECOND))]
    pub persist_timeout: Duration,

    /// Longest pause between attempts to reach a server that is away, before jitter (which can double it) [10ms..=1m].
    #[arg(long, env, default_value = "5s", value_parser = duration(10 * MILLISECOND, 60 * SECOND))]
    pub backoff_max: Duration,

    /// How long results wait for others to be sent together [0ms..=1s]. Every answer pays it.
    #[arg(long, env, default_value = "0ms", value_parser = duration(Duration::ZERO, SECOND))]
    pub result_linger: Duration,

    /// How long facts wait for others to be sent together [0ms..=1s]. Subscribers read them that much later.
    #[arg(long, env, default_value = "50ms", value_parser = duration(Duration::ZERO, SECOND))]
    pub fact_linger: Duration,

    /// How often the group offset is committed at most [10ms..=1m]. What lies in between is emitted again after a crash.
    #[arg(long, env, default_value = "500ms", value_parser = duration(10 * MILLISECOND, 60 * SECOND))]
    pub offset_commit_interval: Duration,

    /// How long the group waits for a silent consumer before its partitions go to others [6s..=5m].
    #[arg(long, env, default_value = "30s", value_parser = duration(6 * SECOND, 300 * SECOND))]
    pub session_timeout: Duration,

    /// How often expired keys are looked for and coming table partitions are made [100ms..=10m].
    #[arg(long, env, default_value = "10s", value_parser = duration(100 * MILLISECOND, 600 * SECOND))]
    pub maintenance_interval: Duration,

    /// How long after its last window's end a partition of keys is kept, against clocks that disagree [0s..=1d].
    #[arg(long, env, default_value = "5m", value_parser = duration(Duration::ZERO, 86_400 * SECOND))]
    pub expiry_grace: Duration,

    /// How long a stopping consumer waits for the batch in flight to be persisted and emitted [1s..=5m].
    #[arg(long, env, default_value = "20s", value_parser = duration(SECOND, 300 * SECOND))]
    pub drain_timeout: Duration,

    /// What the program logs, and how.
    #[command(flatten)]
    pub telemetry: TelemetrySettings,

    /// Switches for tests.
    #[command(flatten)]
    pub test: TestSettings,
}

impl ConsumerSettings {
    /// The bounds of a batch.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        Bounds {
            records: self.batch_records_max,
            locations: self.batch_locations_max,
            bytes: self.batch_bytes_max,
        }
    }
}

impl Settings for ConsumerSettings {
    fn faults(&self) -> Vec<String> {
        Vec::new()
    }
}

fn count(min: usize, max: usize) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| {
        let count = text.parse().map_err(|_| "must be a whole number".to_owned())?;
        if (min..=max).contains(&count) { Ok(count) } else { Err(format!("must be between {min} and {max}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        ConsumerSettings::command().debug_assert();
    }
}
