//! The gateway's settings; `milepost-gateway --help` is their reference.

use std::net::SocketAddr;

use clap::Parser;
use milepost_shared::program::healthcheck::Command;
use milepost_shared::program::open_files::OpenFiles;
use milepost_shared::program::settings::{
    DatabaseSettings, KafkaSettings, Settings, TelemetrySettings, TestSettings, socket_address,
};

use crate::admission::authenticate::ApiKeySettings;
use crate::admission::body::BodySettings;
use crate::admission::parse::MEMORY_PER_BYTE;
use crate::admission::rate::RateSettings;
use crate::answer::service::AnswerSettings;
use crate::http::cors::CorsSettings;
use crate::http::server::ServerSettings;
use crate::native::NativeSettings;
use crate::phones::endpoints::{self, PhoneSettings};

/// Takes location uploads over HTTP, publishes them to the journal and answers each of them once and for all.
#[derive(Debug, Clone, Parser)]
#[command(name = "milepost-gateway", version, disable_help_subcommand = true)]
pub struct GatewaySettings {
    /// What to do instead.
    #[command(subcommand)]
    pub command: Option<Command>,

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

    /// Which web pages may use the API.
    #[command(flatten)]
    pub cors: CorsSettings,

    /// How API keys are known.
    #[command(flatten)]
    pub api_keys: ApiKeySettings,

    /// How fast accounts may be.
    #[command(flatten)]
    pub rates: RateSettings,

    /// Bounds of bodies.
    #[command(flatten)]
    pub bodies: BodySettings,

    /// The JSON API.
    #[command(flatten)]
    pub native: NativeSettings,

    /// The protocols of phone apps.
    #[command(flatten)]
    pub phones: PhoneSettings,

    /// How answers are found and made.
    #[command(flatten)]
    pub answers: AnswerSettings,

    /// What the program logs.
    #[command(flatten)]
    pub telemetry: TelemetrySettings,

    /// Switches for tests only.
    #[command(flatten)]
    pub tests: TestSettings,
}

/// Files and connections besides those of clients and of look-ups: to the brokers, to Postgres for other things, of operators.
const OPEN_FILES: u64 = 150;

impl GatewaySettings {
    /// What it opens at most.
    #[must_use]
    pub fn open_files(&self) -> OpenFiles {
        let lookups = self.answers.lookup.lookup_connections;
        let needed = self.server.open_files() + u64::from(lookups) + OPEN_FILES;
        OpenFiles { needed, setting: Some("CONNECTIONS_MAX") }
    }
}

impl Settings for GatewaySettings {
    fn faults(&self) -> Vec<String> {
        let mut faults = self.answers.publish.faults();
        let (bodies, waits) = (&self.bodies, &self.native.waits);
        if waits.answer_wait > waits.wait_max {
            faults.push("ANSWER_WAIT must not be longer than WAIT_MAX".to_owned());
        }
        // Else a request in flight could be cut off by the end instead of getting its 202.
        if waits.wait_max >= self.server.drain_timeout {
            faults.push("WAIT_MAX must be shorter than DRAIN_TIMEOUT".to_owned());
        }
        // Else a body of the greatest size could never be read.
        let holds = |memory_per_byte: usize| {
            let reading = u64::from(bodies.body_bytes_max) * (memory_per_byte as u64 + 1);
            reading <= u64::from(bodies.body_memory_kib) << 10
        };
        if !holds(MEMORY_PER_BYTE) {
            faults.push("BODY_MEMORY_KIB must hold eight times BODY_BYTES_MAX".to_owned());
        } else if !holds(endpoints::MEMORY_PER_BYTE) && !self.phones.phone_protocols.0.is_empty() {
            let rule = "BODY_MEMORY_KIB must hold 33 times BODY_BYTES_MAX, or PHONE_PROTOCOLS be empty";
            faults.push(rule.to_owned());
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
            Err(Refused::Help(help)) => panic!("{help}"),
        }
    }

    #[test]
    fn the_command_line_is_sound_and_its_defaults_agree() {
        GatewaySettings::command().debug_assert();
        assert_eq!(faults(&[]), Vec::<String>::new());
    }

    /// It may be a password, though it stands where a command could.
    #[test]
    fn the_value_of_a_mistyped_flag_is_not_shown() {
        let found = faults(&["--databse-url", "planted", "--connections-max=0"]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|fault| !fault.contains("planted")), "{found:?}");
        assert!(faults(&["planted"])[0].contains("planted"), "a command that does not exist");
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
        assert_eq!(faults(&["--body-memory-kib=33791"]).len(), 1);
        assert_eq!(faults(&["--body-memory-kib=33792"]), Vec::<String>::new());
        assert_eq!(faults(&["--body-memory-kib=8192", "--phone-protocols="]), Vec::<String>::new());
    }
}
