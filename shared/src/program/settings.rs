//! Settings that programs share, and the value parsers for them. [`parse()`] reads them.
//!
//! Every setting of a program is a field of one `clap` struct, so `--help` is the reference.

pub mod parse;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::program::crash::CrashAt;
use crate::store::connect::{self, Target};

pub use parse::{EXIT_CONFIG, Refused, Settings, parse, read};

/// A value parser: a duration such as `24h`, `500ms` or `1m 30s` within bounds.
pub fn duration(
    min: Duration,
    max: Duration,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| {
        let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
        if (min..=max).contains(&duration) {
            return Ok(duration);
        }
        Err(format!("must be between {} and {}", in_words(min), in_words(max)))
    }
}

/// Days stay days: `humantime` would make months of them.
fn in_words(duration: Duration) -> String {
    if duration >= DAY && duration.as_secs().is_multiple_of(86_400) {
        return format!("{}days", duration.as_secs() / 86_400);
    }
    humantime::format_duration(duration).to_string()
}

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Where the journal is and how it must be kept.
#[derive(Debug, Clone, Args)]
pub struct KafkaSettings {
    /// Kafka bootstrap servers, host:port, comma separated.
    #[arg(long, env, default_value = "127.0.0.1:9092")]
    pub kafka_brokers: String,

    /// Put before the three topic names and the consumer group's name, so that installations can share a cluster.
    #[arg(long, env, default_value = "")]
    pub topic_prefix: String,

    /// Partitions of each of the three topics [1..=1000]. Fixed for the life of an installation: another count would move
    /// keys.
    #[arg(long, env, default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..=1000))]
    pub partitions: i32,

    /// How long a key is remembered, from the journal time of the record that claimed it [1s..=365d].
    #[arg(long, env, default_value = "24h", value_parser = duration(SECOND, 365 * DAY))]
    pub idempotency_ttl: Duration,

    /// Longest outage of the consumer that the journal's retention must cover besides the TTL [1s..=365d].
    #[arg(long, env, default_value = "6d", value_parser = duration(SECOND, 365 * DAY))]
    pub consumer_outage_max: Duration,
}

#[cfg(any(test, feature = "test-support"))]
impl KafkaSettings {
    /// For tests: the defaults, with these brokers.
    #[must_use]
    pub fn at(brokers: &str) -> Self {
        #[derive(clap::Parser)]
        struct Program {
            #[command(flatten)]
            kafka: KafkaSettings,
        }
        <Program as clap::Parser>::parse_from(["test", "--kafka-brokers", brokers]).kafka
    }
}

/// Where the database is.
#[derive(Debug, Clone, Args)]
pub struct DatabaseSettings {
    /// PostgreSQL URL. The password in it is never logged.
    #[arg(long, env, hide_env_values = true, default_value = "postgres://milepost@127.0.0.1:5433/milepost")]
    #[arg(value_parser = database_url)]
    pub database_url: String,

    /// Password of the role, instead of one in DATABASE_URL.
    #[arg(long, env, hide_env_values = true)]
    pub database_password: Option<String>,
}

impl DatabaseSettings {
    /// The database they name, for a program.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn target(&self, program: &str) -> anyhow::Result<Target> {
        Target::new(&self.database_url, self.database_password.as_deref(), program)
    }
}

#[cfg(any(test, feature = "test-support"))]
impl DatabaseSettings {
    /// For tests: this URL.
    #[must_use]
    pub fn at(database_url: &str) -> Self {
        Self { database_url: database_url.to_owned(), database_password: None }
    }
}

/// How the program reports what it does.
#[derive(Debug, Clone, Args)]
pub struct TelemetrySettings {
    /// Which log lines to write: a level, or `tracing` directives such as `info,milepost_gateway=debug`.
    #[arg(long, env = "MILEPOST_LOG", default_value = "info", value_parser = log_filter)]
    pub log: String,

    /// Form of log lines on standard error.
    #[arg(long, env, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Switches for tests only.
#[derive(Debug, Clone, Args)]
pub struct TestSettings {
    /// For tests: how far this program's clock is ahead of the machine's, milliseconds (negative: behind).
    #[arg(long, env, hide = true, default_value_t = 0, allow_negative_numbers = true)]
    pub clock_offset_ms: i64,

    /// For tests, in debug builds: die at a named crash point.
    #[arg(long, env, hide = true)]
    pub crash_at: Option<CrashAt>,
}

/// Whether the URL can be used shows only when its parts are read; it stays text, which its password goes with.
fn database_url(text: &str) -> Result<String, String> {
    connect::check(text).map(|()| text.to_owned())
}

fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Parses a socket address setting; a value parser of its own so that the message says what is wanted.
///
/// # Errors
/// The text is not `IP:PORT`.
pub fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "must be IP:PORT, such as 127.0.0.1:8080 or [::]:8080".to_owned())
}
