//! The bounds of finding and making answers.

use std::time::Duration;

use clap::Args;
use milepost_shared::program::settings::duration;

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The bounds of finding and making answers.
#[derive(Debug, Clone, Args)]
pub struct AnswerSettings {
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

impl AnswerSettings {
    /// Faults that no single setting shows, one sentence each.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        (self.publish_linger >= self.publish_timeout)
            .then(|| "PUBLISH_LINGER must be shorter than PUBLISH_TIMEOUT".to_owned())
            .into_iter()
            .collect()
    }
}
