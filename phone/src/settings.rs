//! How a phone behaves: where it sends, how patient it is.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;

/// The bounds of [`Settings::concurrency`].
pub const CONCURRENCY: RangeInclusive<usize> = 1..=256;
/// The bounds of [`Settings::attempts_max`].
pub const ATTEMPTS_MAX: RangeInclusive<u32> = 1..=1000;
/// The bounds of [`Settings::wait_secs`].
pub const WAIT_SECS: RangeInclusive<u32> = 0..=300;
/// The bounds of every duration: from a millisecond to a day.
pub const DURATION: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 60 * 60);

/// The settings of a [`Phone`](crate::Phone). Has no `Debug`, because it holds the API key.
#[derive(Clone)]
pub struct Settings {
    /// The gateways, at least one, `http` or `https`. A retry goes to the next.
    pub gateways: Vec<Url>,
    /// Certificates that are trusted besides those of the system, in PEM; none.
    pub ca_file: Option<PathBuf>,
    /// The secret sent as `X-API-Key`.
    pub api_key: String,
    /// Uploads under way at once, 1..=256; 4.
    pub concurrency: usize,
    /// Attempts for one answer, 1..=1000; 20.
    pub attempts_max: u32,
    /// Time for one answer, all its attempts and pauses together; 10 min.
    pub deadline: Duration,
    /// Time for one attempt; 35 s, a little longer than a gateway waits before it answers 202.
    pub request_timeout: Duration,
    /// The seconds of `Prefer: wait=N`, 0..=300 and less than the request's time-out; not sent when absent.
    pub wait_secs: Option<u32>,
    /// The first pause, without its jitter; 200 ms.
    pub backoff_min: Duration,
    /// The longest pause, without its jitter; 10 s.
    pub backoff_max: Duration,
    /// The longest `Retry-After` that is followed; 60 s.
    pub retry_after_max: Duration,
}

/// Everything that is wrong with a [`Settings`], each fault in one sentence.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Faults(pub Vec<String>);

impl Settings {
    /// The defaults, for these gateways and this API key.
    #[must_use]
    pub const fn new(gateways: Vec<Url>, api_key: String) -> Self {
        Self {
            gateways,
            ca_file: None,
            api_key,
            concurrency: 4,
            attempts_max: 20,
            deadline: Duration::from_secs(600),
            request_timeout: Duration::from_secs(35),
            wait_secs: None,
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(10),
            retry_after_max: Duration::from_secs(60),
        }
    }

    /// Checks every bound.
    ///
    /// # Errors
    ///
    /// All faults at once, by the names of the program's options.
    pub fn check(&self) -> Result<(), Faults> {
        let mut faults = Vec::new();
        let mut demand = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        demand(!self.gateways.is_empty(), "--url is missing: name at least one gateway");
        // The address itself is not repeated: it may carry a password.
        demand(
            self.gateways.iter().all(is_gateway),
            "--url must be http://host:port or https://host:port, with no query and no password",
        );
        let is_header = HeaderValue::from_str(&self.api_key).is_ok();
        demand(
            is_header && !self.api_key.is_empty(),
            "--api-key must be visible ASCII, at least one character",
        );
        demand(CONCURRENCY.contains(&self.concurrency), "--concurrency must be 1 to 256");
        demand(ATTEMPTS_MAX.contains(&self.attempts_max), "--attempts-max must be 1 to 1000");
        for (option, duration) in [
            ("--deadline", self.deadline),
            ("--request-timeout", self.request_timeout),
            ("--backoff-min", self.backoff_min),
            ("--backoff-max", self.backoff_max),
            ("--retry-after-max", self.retry_after_max),
        ] {
            demand(DURATION.contains(&duration), &format!("{option} must be 1ms to 1day"));
        }
        demand(self.backoff_min <= self.backoff_max, "--backoff-min must not be longer than --backoff-max");
        if let Some(wait) = self.wait_secs {
            demand(WAIT_SECS.contains(&wait), "--wait must be 0 to 300 seconds");
            let is_shorter = Duration::from_secs(wait.into()) < self.request_timeout;
            demand(is_shorter, "--wait must be shorter than --request-timeout, or no 202 is ever seen");
        }
        if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
    }
}

fn is_gateway(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let gateway = Url::parse("http://localhost:8080").expect("the test's address is valid");
        Settings::new(vec![gateway], "secret".to_owned())
    }

    #[test]
    fn the_defaults_are_within_their_bounds() {
        assert_eq!(settings().check(), Ok(()));
    }

    #[test]
    fn all_faults_are_named_at_once() {
        let faults = Settings {
            gateways: vec![],
            api_key: "line\nbreak".to_owned(),
            concurrency: 257,
            attempts_max: 0,
            deadline: Duration::ZERO,
            wait_secs: Some(301),
            backoff_min: Duration::from_secs(11),
            ..settings()
        };
        let faults = faults.check().expect_err("nearly everything is wrong").0;
        for option in
            ["--url", "--api-key", "--concurrency", "--attempts-max", "--deadline", "--wait", "--backoff-min"]
        {
            assert!(faults.iter().any(|fault| fault.starts_with(option)), "{option} in {faults:?}");
        }
    }

    #[test]
    fn a_gateway_is_an_address_and_nothing_more() {
        for (url, is_good) in [
            ("http://[::1]:8080/prefix/", true),
            ("https://localhost", true),
            ("ftp://localhost", false),
            ("localhost:8080", false),
            ("http://user:word@localhost", false),
            ("http://localhost/?a=b", false),
        ] {
            let gateways = vec![Url::parse(url).expect("the test's address is valid")];
            assert_eq!(Settings { gateways, ..settings() }.check().is_ok(), is_good, "{url}");
        }
    }
}
