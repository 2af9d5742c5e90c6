//! The `Prefer` header (RFC 7240): how long a client will wait for the final answer.

use std::time::Duration;

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue};
use milepost_shared::program::settings::duration;

/// The header's name.
pub const PREFER: HeaderName = HeaderName::from_static("prefer");

/// How long an upload waits for its final answer.
#[derive(Debug, Clone, Copy, Args)]
pub struct WaitSettings {
    /// How long an upload waits for its final answer before 202, if the client does not say [0ms..=5m].
    #[arg(long, env, default_value = "10s", value_parser = duration(Duration::ZERO, Duration::from_secs(300)))]
    pub answer_wait: Duration,

    /// The longest such wait a client may ask for with 'Prefer: wait=N' [0ms..=5m].
    #[arg(long, env, default_value = "20s", value_parser = duration(Duration::ZERO, Duration::from_secs(300)))]
    pub wait_max: Duration,
}

impl WaitSettings {
    /// Neither is longer than this.
    #[must_use]
    pub fn at_most(self, most: Duration) -> Self {
        Self { answer_wait: self.answer_wait.min(most), wait_max: self.wait_max.min(most) }
    }
}

/// What a client prefers. What cannot be read is ignored, as RFC 7240 section 2 demands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Preference {
    /// `respond-async`: take 202 rather than a wait.
    pub respond_async: bool,
    /// `wait=N`.
    pub wait: Option<Duration>,
}

impl Preference {
    /// Reads all `Prefer` headers of a request. Of a preference given twice the first counts.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut preference = Self::default();
        let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        for entry in values.flat_map(|value| split_unquoted(value, ',')) {
            let entry = split_unquoted(entry, ';').next().unwrap_or_default();
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "respond-async" => preference.respond_async = true,
                "wait" => preference.wait = preference.wait.or_else(|| seconds(value.trim())),
                _ => {}
            }
        }
        preference
    }

    /// How long to wait for the final answer: what was asked for, within the bound; the default without a preference. Both preferences together mean to respond asynchronously after the wait (RFC 7240 section
    /// 4.3).
    #[must_use]
    pub fn patience(&self, waits: WaitSettings) -> Duration {
        match self.wait {
            Some(wait) => wait.min(waits.wait_max),
            None if self.respond_async => Duration::ZERO,
            None => waits.answer_wait,
        }
    }

    /// `Preference-Applied` for an answer that was given after at most `max`; `None` if nothing was honoured.
    #[must_use]
    pub fn applied(&self, max: Duration) -> Option<HeaderValue> {
        let wait = self.wait.filter(|wait| *wait <= max).map(|wait| format!("wait={}", wait.as_secs()));
        let text = match (self.respond_async, wait) {
            (true, Some(wait)) => format!("respond-async, {wait}"),
            (true, None) => "respond-async".to_owned(),
            (false, wait) => wait?,
        };
        HeaderValue::try_from(text).ok()
    }
}

/// The number may be a quoted string, like any preference's value.
fn seconds(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // More than fits is still a long wait.
    Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)))
}

/// Splits at a separator that does not stand inside quotes.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let splits = c == separator && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && quoted && !escaped;
        splits
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const WAITS: WaitSettings =
        WaitSettings { answer_wait: Duration::from_secs(10), wait_max: Duration::from_secs(30) };

    fn of(values: &[&str]) -> Preference {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("prefer", HeaderValue::from_str(value).unwrap());
        }
        Preference::of(&headers)
    }

    #[test]
    fn preferences_are_read_however_they_are_written() {
        let wait = |seconds| Preference { respond_async: false, wait: Some(seconds * SECOND) };
        let both = Preference { respond_async: true, wait: Some(5 * SECOND) };
        let cases: [(&[&str], Preference); 12] = [
            (&[], Preference::default()),
            (&["wait=5"], wait(5)),
            (&["Wait = \"5\" ; x=y"], wait(5)),
            (&["wait=0"], wait(0)),
            (&["respond-async"], Preference { respond_async: true, wait: None }),
            (&["RESPOND-ASYNC, wait=5"], both),
            (&["wait=5", "respond-async"], both),
            (&["wait=5, wait=6"], wait(5)),
            (&["return=minimal; a=\"wait=7, wait=8\", wait=5"], wait(5)),
            (&["x=\"a\\\", wait=9\", wait=5"], wait(5)),
            (&["wait=, wait=-1, wait=1.5, wait=soon, handling=strict"], Preference::default()),
            (&["respond-asynchronously"], Preference::default()),
        ];
        for (values, preference) in cases {
            assert_eq!(of(values), preference, "{values:?}");
        }
    }

    #[test]
    fn patience_is_what_was_asked_for_within_the_bound() {
        let patience = |values: &[&str]| of(values).patience(WAITS);
        assert_eq!(patience(&[]), 10 * SECOND);
        assert_eq!(patience(&["wait=3"]), 3 * SECOND);
        assert_eq!(patience(&["wait=31"]), 30 * SECOND);
        assert_eq!(patience(&["wait=99999999999999999999999"]), 30 * SECOND);
        assert_eq!(patience(&["respond-async"]), Duration::ZERO);
        assert_eq!(patience(&["respond-async, wait=3"]), 3 * SECOND);
    }

    #[test]
    fn only_what_was_honoured_is_called_applied() {
        let applied =
            |values: &[&str]| of(values).applied(30 * SECOND).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(applied(&[]), None);
        assert_eq!(applied(&["wait=3"]).as_deref(), Some("wait=3"));
        assert_eq!(applied(&["wait=31"]), None);
        assert_eq!(applied(&["respond-async"]).as_deref(), Some("respond-async"));
        assert_eq!(applied(&["wait=3, respond-async"]).as_deref(), Some("respond-async, wait=3"));
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic_or_wait_too_long(value in "[ -~]{0,60}") {
            prop_assert!(of(&[&value]).patience(WAITS) <= 30 * SECOND);
        }
    }
}
