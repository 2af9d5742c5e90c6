//! The command line and the environment; `--help` is the reference.

use std::fs;
use std::path::PathBuf;

use clap::Parser;
use humantime::Duration;
use milepost_phone::settings::Faults;
use milepost_phone::{App, Settings};
use reqwest::Url;

/// Play a GPX file against Milepost, the way a phone uploads it
///
/// Cuts the track into uploads, gives each an idempotency key, and sends it until it has an answer: lost
/// connections, time-outs, 202, 408, 429 and 5xx are tried again with the same key and the same bytes, after a
/// jittered pause that doubles each time and is never shorter than the answer's Retry-After. Any other answer
/// but 200 is a failure. Points without a time are left out, and bad points are named by their lines; of a file
/// that is cut off the whole points are sent. Ends with a table on standard output.
///
/// Keys follow from the device and the points: after a crash run it again within the gateway's IDEMPOTENCY_TTL, with
/// the same file, device, batch size and batch gap, and every point is stored once.
///
/// With --app it plays the file as that app would, unmodified: to the app's endpoint, with its credentials, in its units and
/// its order, one request at a time. It takes for success what the app does, and sends again what the app sends: the same
/// request, or of Overland a larger batch. Apps send no keys: Milepost knows the points themselves.
///
/// Durations are numbers with a unit: 500ms, 35s, 10min, 1h 30min.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit status: 0 all uploads were answered, 1 something failed, 78 bad arguments, 130 stopped by Ctrl-C."
)]
pub struct Arguments {
    /// The GPX file, version 1.0 or 1.1: tracks are played first, then routes, then waypoints. It is read more than
    /// once, so it cannot be a pipe
    #[arg(value_name = "FILE")]
    pub gpx: PathBuf,

    /// Play the file as this app: owntracks (2.5.9, Android), overland (1.4, iOS), traccar (Traccar Client 10), traccar-9,
    /// traccar-8 (and before) or gpslogger. Without it, as Milepost's own client
    #[arg(long, env = "MILEPOST_APP", value_name = "APP")]
    pub app: Option<App>,

    /// A gateway, as http://host:port or https://host:port; may be given more than once, or several separated by commas. Uploads
    /// take them in turn, and a retry goes to the next
    #[arg(long, env = "MILEPOST_URL", value_name = "URL", value_delimiter = ',', required = true)]
    pub url: Vec<Url>,

    /// Trust the certificates in this file (PEM) too, besides those of the system, for gateways with https
    #[arg(long, env = "MILEPOST_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// The API key, sent as X-API-Key, or where --app has its own place for it. Better given by the environment: other users can see a command line
    #[arg(long, env = "MILEPOST_API_KEY", value_name = "KEY", hide_env_values = true)]
    #[arg(required_unless_present = "api_key_file", conflicts_with = "api_key_file")]
    pub api_key: Option<String>,

    /// A file that holds the API key, instead of the key itself
    #[arg(long, env = "MILEPOST_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// The deviceId of all uploads, or what --app calls its device
    #[arg(long, env = "MILEPOST_DEVICE_ID", value_name = "TEXT", default_value = "milepost-phone")]
    pub device_id: String,

    /// The most points in one upload, 1 to 10000. A gateway may allow fewer. A lone point goes to the
    /// endpoint for one. With --app overland as many gather between two of its batches, which hold no more than 200
    /// points, or this if it is more
    #[arg(long, env = "MILEPOST_BATCH_SIZE", value_name = "POINTS", default_value_t = 50)]
    pub batch_size: usize,

    /// Begin a new upload where the time between two points is longer than this, any duration
    #[arg(long, env = "MILEPOST_BATCH_GAP", value_name = "DURATION", default_value = "5min")]
    pub batch_gap: Duration,

    /// Uploads under way at once, 1 to 256. Each --app has one
    #[arg(long, env = "MILEPOST_CONCURRENCY", value_name = "UPLOADS", default_value_t = 4)]
    pub concurrency: usize,

    /// The most attempts for one answer, 1 to 1000
    #[arg(long, env = "MILEPOST_ATTEMPTS_MAX", value_name = "ATTEMPTS", default_value_t = 20)]
    pub attempts_max: u32,

    /// Time for one answer, all its attempts and pauses together, 1ms to 1day
    #[arg(long, env = "MILEPOST_DEADLINE", value_name = "DURATION", default_value = "10min")]
    pub deadline: Duration,

    /// Time for one attempt, 1ms to 1day
    #[arg(long, env = "MILEPOST_REQUEST_TIMEOUT", value_name = "DURATION", default_value = "35s")]
    pub request_timeout: Duration,

    /// Ask the gateway to wait this many seconds before it answers 202 (Prefer: wait=N), 0 to 300 and shorter
    /// than --request-timeout. Without it the gateway decides
    #[arg(long, env = "MILEPOST_WAIT", value_name = "SECONDS")]
    pub wait: Option<u32>,

    /// The first pause between two attempts, before jitter, 1ms to 1day
    #[arg(long, env = "MILEPOST_BACKOFF_MIN", value_name = "DURATION", default_value = "200ms")]
    pub backoff_min: Duration,

    /// The longest pause between two attempts, before jitter (which can double it), 1ms to 1day
    #[arg(long, env = "MILEPOST_BACKOFF_MAX", value_name = "DURATION", default_value = "10s")]
    pub backoff_max: Duration,

    /// The longest Retry-After that is followed, 1ms to 1day
    #[arg(long, env = "MILEPOST_RETRY_AFTER_MAX", value_name = "DURATION", default_value = "60s")]
    pub retry_after_max: Duration,

    /// Send each upload once more after it was answered, to the next gateway, and count the replays; an
    /// answer with another status or other bytes than the first is a failure. With --app all points are sent once
    /// more after the last one: by owntracks as pings, by overland in its largest batches, by gpslogger as the day's file
    #[arg(long)]
    pub twice: bool,

    /// Print the numbers of the table as one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Arguments {
    /// Reads the API key if a file holds it. The newline at its end is not part of it.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is empty.
    pub fn read_api_key(&mut self) -> Result<(), Faults> {
        let Some(file) = &self.api_key_file else { return Ok(()) };
        let fault = |what: &str| Faults(vec![format!("--api-key-file: {} {what}", file.display())]);
        let key =
            fs::read_to_string(file).map_err(|error| fault(&format!("cannot be read: {}", error.kind())))?;
        let key = key.strip_suffix('\n').unwrap_or(&key);
        let key = key.strip_suffix('\r').unwrap_or(key);
        if key.is_empty() {
            return Err(fault("is empty"));
        }
        self.api_key = Some(key.to_owned());
        Ok(())
    }

    /// Checks what is not the phone's to check, and all of its settings.
    ///
    /// # Errors
    ///
    /// All faults at once.
    pub fn check(&self) -> Result<(), Faults> {
        let mut faults = self.settings().check().err().map_or_else(Vec::new, |Faults(faults)| faults);
        if !(1..=10_000).contains(&self.batch_size) {
            faults.push("--batch-size must be 1 to 10000".to_owned());
        }
        if self.device_id.is_empty() {
            faults.push("--device-id must not be empty".to_owned());
        }
        if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
    }

    /// The phone's part.
    pub fn settings(&self) -> Settings {
        Settings {
            gateways: self.url.clone(),
            ca_file: self.ca_file.clone(),
            api_key: self.api_key.clone().unwrap_or_default(),
            concurrency: self.concurrency,
            attempts_max: self.attempts_max,
            deadline: *self.deadline,
            request_timeout: *self.request_timeout,
            wait_secs: self.wait,
            backoff_min: *self.backoff_min,
            backoff_max: *self.backoff_max,
            retry_after_max: *self.retry_after_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, FromArgMatches as _};

    use super::*;

    const NEEDED: [&str; 4] = ["milepost-phone", "--url", "http://a:1,http://b:2", "track.gpx"];

    fn parse(more: &[&str]) -> Arguments {
        parse_with(&[&["--api-key", "secret"], more].concat())
    }

    /// Without the environment that the test happens to run in.
    fn parse_with(more: &[&str]) -> Arguments {
        let command = Arguments::command().mut_args(|argument| argument.env(None::<&str>));
        let matches = command.try_get_matches_from(NEEDED.iter().chain(more));
        matches
            .and_then(|matches| Arguments::from_arg_matches(&matches))
            .unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_file_may_hold_the_api_key_instead() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let name = file.path().to_str().expect("its name is text");
        let from = |content: &str| {
            fs::write(file.path(), content).expect("the file is written");
            let mut arguments = parse_with(&["--api-key-file", name]);
            arguments
                .read_api_key()
                .map(|()| arguments.settings().api_key)
                .map_err(|faults| faults.to_string())
        };
        assert_eq!(from("secret\n"), Ok("secret".to_owned()));
        assert_eq!(from("\n"), Err(format!("--api-key-file: {name} is empty")));
        file.close().expect("the file is removed");
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let ours = parse(&[]).settings();
        let library = Settings::new(ours.gateways.clone(), "secret".to_owned());
        assert_eq!(ours.concurrency, library.concurrency);
        assert_eq!(ours.attempts_max, library.attempts_max);
        assert_eq!(ours.deadline, library.deadline);
        assert_eq!(ours.request_timeout, library.request_timeout);
        assert_eq!(ours.wait_secs, library.wait_secs);
        assert_eq!(ours.backoff_min, library.backoff_min);
        assert_eq!(ours.backoff_max, library.backoff_max);
        assert_eq!(ours.retry_after_max, library.retry_after_max);
    }

    #[test]
    fn an_app_is_asked_for_by_its_name() {
        assert_eq!(parse(&[]).app, None);
        assert_eq!(parse(&["--app", "traccar-9"]).app, Some(App::Traccar9));
    }

    #[test]
    fn several_gateways_may_be_given_either_way() {
        assert_eq!(parse(&["--url", "http://c:3"]).url.len(), 3);
    }

    #[test]
    fn all_bad_values_are_named_at_once() {
        let bad =
            parse(&["--batch-size", "0", "--device-id", "", "--concurrency", "0", "--backoff-max", "1ms"]);
        let faults = bad.check().expect_err("four options are wrong").0;
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(parse(&[]).check().is_ok());
    }

    #[test]
    fn every_option_with_a_value_has_an_environment_name_in_upper_case() {
        let command = Arguments::command();
        let options: Vec<_> = command
            .get_arguments()
            .filter(|option| option.get_action().takes_values() && !option.is_positional())
            .collect();
        assert_eq!(options.len(), 16);
        for option in options {
            let name = format!("MILEPOST_{}", option.get_id().as_str().to_uppercase());
            assert_eq!(option.get_env().and_then(|env| env.to_str()), Some(name.as_str()));
        }
    }
}
