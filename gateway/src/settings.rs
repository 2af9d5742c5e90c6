//! The gateway's settings; `milepost-gateway --help` is their reference.

use std::net::SocketAddr;

use clap::Parser;
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
