//! The gateway's settings; `milepost-gateway --help` is their reference.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser};
use http::HeaderValue;
use milepost_shared::location::LOCATIONS_MAX;
use milepost_shared::program::settings::{
    DatabaseSettings, KafkaSettings, Settings, TelemetrySettings, TestSettings, duration, socket_address,
};

use crate::admission::authenticate::ApiKeySettings;
use crate::answer::service::MiddleSettings;
use crate::http::cors;
use crate::http::server::ServerSettings;
use crate::native::decode::MEMORY_PER_BYTE;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Takes location uploads over HTTP, publishes them to the journal and answers each of them once and for all.
#[derive(Debug, Clone, Parser)]
#[command(name = "milepost-gateway", version)]
pub struct GatewaySettings {
    /// Address for uploads.
    #[arg(long, env, default_value = "127.0.0.1:8080", value_parser = socket_address)]
    pub listen: SocketAddr,

    /// Address of /livez, /readyz and /metrics, for operators only.
    #[arg(long, env, default_value = "127.0.0.1:8081", value_parser = socket_address)]
    pub ops_listen: SocketAddr,

    /// Where the journal is.
    #[command(flatten)]
    pub kafka: KafkaSettings,

    /// Where the tables are.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// Bounds of connections.
    #[command(flatten)]
    pub server: ServerSettings,

    /// Bounds of uploads.
    #[command(flatten)]
    pub uploads: UploadSettings,

    /// How API keys are known.
    #[command(flatten)]
    pub api_keys: ApiKeySettings,

    /// How answers are found and made.
    #[command(flatten)]
    pub middle: MiddleSettings,

    /// How the program tells what it does.
    #[command(flatten)]
    pub telemetry: TelemetrySettings,

    /// Switches for tests only.
    #[command(flatten)]
    pub tests: TestSettings,
}

/// The bounds of uploads and of the waits for their answers.
#[derive(Debug, Clone, Args)]
pub struct UploadSettings {
    /// Most requests being served at once, not counting bodies on their way; past it 503 [1..=1000000].
    #[arg(long, env, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub requests_max: u32,

    /// Largest body, bytes, also after decompression; past it 413 [1024..=2097152].
    #[arg(long, env, default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1024..=2 << 20))]
    pub body_bytes_max: u32,

    /// Memory for the bodies of all requests being served, KiB; past it 503 [4096..=67108864].
    #[arg(long, env, default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(4096..=64 << 20))]
    pub body_memory_kib: u32,

    /// Longest silence of a client that is sending a body; past it 408 [100ms..=5m].
    #[arg(long, env, default_value = "15s", value_parser = duration(100 * MS, 300 * SECOND))]
    pub body_silence: Duration,

    /// Longest wait for a whole body; past it 408 [100ms..=1h].
    #[arg(long, env, default_value = "5m", value_parser = duration(100 * MS, 3600 * SECOND))]
    pub body_timeout: Duration,

    /// Most locations of one upload; past it 413 [1..=10000].
    #[arg(long, env, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=LOCATIONS_MAX as i64))]
    pub locations_max: u32,

    /// Least time of a location, milliseconds since 1970: what is below is taken for seconds and refused. 0 takes any
    /// [0..=100000000000].
    #[arg(long, env, default_value_t = 100_000_000_000, value_parser = clap::value_parser!(i64).range(0..=100_000_000_000))]
    pub timestamp_min: i64,

    /// How far a location's time may be ahead of the gateway's clock [0s..=3650d].
    #[arg(long, env, default_value = "24h", value_parser = duration(Duration::ZERO, 3650 * DAY))]
    pub timestamp_ahead_max: Duration,

    /// How long an upload waits for its final answer before 202, if the client does not say [0ms..=5m].
    #[arg(long, env, default_value = "10s", value_parser = duration(Duration::ZERO, 300 * SECOND))]
    pub answer_wait: Duration,

    /// The longest such wait a client may ask for with 'Prefer: wait=N' [0ms..=5m].
    #[arg(long, env, default_value = "20s", value_parser = duration(Duration::ZERO, 300 * SECOND))]
    pub wait_max: Duration,

    /// Uploads per second of one account; past it 429. 0 is without limit [0..=1000000].
    #[arg(long, env, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub rate_limit: u32,

    /// Uploads that one account may send at once before the rate counts [1..=1000000].
    #[arg(long, env, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate_burst: u32,

    /// Origins of web pages that may send uploads, comma separated, such as `https://app.example,capacitor://localhost`;
    /// * is any. Without it a browser lets none.
    #[arg(long, env, value_delimiter = ',', value_parser = cors::origin)]
    pub cors_origins: Vec<HeaderValue>,
}

impl Settings for GatewaySettings {
    fn faults(&self) -> Vec<String> {
        let mut faults = self.middle.faults();
        if self.uploads.answer_wait > self.uploads.wait_max {
            faults.push("ANSWER_WAIT must not be longer than WAIT_MAX".to_owned());
        }
        // Else a request in flight could be cut off by the end instead of getting its 202.
        if self.uploads.wait_max >= self.server.drain_timeout {
            faults.push("WAIT_MAX must be shorter than DRAIN_TIMEOUT".to_owned());
        }
        // Else a body of the greatest size could never be read.
        let reading = u64::from(self.uploads.body_bytes_max) * (MEMORY_PER_BYTE as u64 + 1);
        if reading > u64::from(self.uploads.body_memory_kib) << 10 {
            faults.push("BODY_MEMORY_KIB must hold eight times BODY_BYTES_MAX".to_owned());
        }
        if self.listen == self.ops_listen && self.listen.port() != 0 {
            faults.push("LISTEN and OPS_LISTEN must differ".to_owned());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::CommandFactory as _;
    use milepost_shared::program::settings::{Refused, parse};

    use super::*;

    fn faults(arguments: &[&str]) -> Vec<String> {
        let arguments: Vec<OsString> =
            std::iter::once(&"milepost-gateway").chain(arguments).map(OsString::from).collect();
        match parse::<GatewaySettings>(&arguments) {
            Ok(_) => Vec::new(),
            Err(Refused::Faults(faults)) => faults,
            Err(Refused::Told(told)) => panic!("{told}"),
        }
    }

    #[test]
    fn the_command_line_is_sound_and_its_defaults_agree() {
        GatewaySettings::command().debug_assert();
        assert_eq!(faults(&[]), Vec::<String>::new());
    }

    #[test]
    fn settings_that_contradict_each_other_are_all_named() {
        let found = faults(&[
            "--answer-wait=21s",
            "--drain-timeout=5s",
            "--ops-listen=127.0.0.1:8080",
            "--publish-linger=1s",
            "--publish-timeout=1s",
            "--body-memory-kib=8191",
        ]);
        assert_eq!(found.len(), 5, "{found:?}");
    }
}
