//! What an answer means and how long to pause before the next attempt. Pure but for the jitter.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// What to do after an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// This is the answer of the upload.
    Final,
    /// Try again with the same key and the same bytes.
    Retry,
    /// The same request will never be accepted: report it.
    Permanent,
}

/// The table of `docs/http-api.md`: 200 is final; 202 (in the journal, not final yet), 429 and 5xx are tried
/// again; anything else, also a redirect, is permanent.
#[must_use]
pub fn verdict(status: StatusCode) -> Verdict {
    match status {
        StatusCode::OK => Verdict::Final,
        StatusCode::ACCEPTED | StatusCode::TOO_MANY_REQUESTS => Verdict::Retry,
        status if status.is_server_error() => Verdict::Retry,
        _ => Verdict::Permanent,
    }
}

/// The `Retry-After` of an answer. Milepost sends seconds; the other form, a date, depends on two clocks that
/// agree and counts as absent.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The pause before the next attempt: never shorter than what the answer asked for, as far as that is within
/// the bound.
#[must_use]
pub fn pause(backoff: Duration, retry_after: Option<Duration>, retry_after_max: Duration) -> Duration {
    backoff.max(retry_after.unwrap_or_default().min(retry_after_max))
}

/// The pauses of one upload, without end: `min`, twice that, and so on to `max`, each lengthened by a random
/// part of itself, so that phones that failed together do not come back together.
pub fn backoff(min: Duration, max: Duration) -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new()
        .with_min_delay(min)
        .with_max_delay(max)
        .without_max_times()
        .with_jitter()
        // Without its `std` feature backon seeds every jitter alike, and then there is none.
        .with_jitter_seed(rand::random())
        .build()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn each_status_has_its_verdict() {
        for (verdict_expected, statuses) in [
            (Verdict::Final, vec![200]),
            (Verdict::Retry, vec![202, 429, 500, 501, 502, 503, 504, 599]),
            (Verdict::Permanent, vec![100, 201, 204, 301, 303, 304, 307]),
            (Verdict::Permanent, vec![400, 401, 403, 404, 405, 406, 408, 409, 413, 415, 422, 499]),
        ] {
            for status in statuses {
                let status = StatusCode::from_u16(status).expect("a three-digit number is a status");
                assert_eq!(verdict(status), verdict_expected, "{status}");
            }
        }
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_nothing_else() {
        for (text, seconds) in [
            ("0", Some(0)),
            ("17", Some(17)),
            ("-1", None),
            ("1.5", None),
            ("Wed, 21 Oct 2026 07:28:00 GMT", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    proptest! {
        #[test]
        fn a_pause_is_never_shorter_than_asked_for_and_never_beyond_its_bounds(
            backoff in 0u64..100_000, asked in prop::option::of(0u64..1_000_000), bound in 0u64..100_000,
        ) {
            let [backoff, bound] = [backoff, bound].map(Duration::from_millis);
            let asked = asked.map(Duration::from_millis);
            let pause = pause(backoff, asked, bound);
            prop_assert!(pause >= backoff);
            prop_assert!(pause >= asked.unwrap_or_default().min(bound));
            prop_assert!(pause <= backoff.max(bound));
        }

        #[test]
        fn pauses_double_up_to_their_bound_and_carry_jitter(min in 1u64..1000, factor in 1u64..1000) {
            let [min, max] = [min, min * factor].map(Duration::from_millis);
            let mut floor = min;
            for pause in backoff(min, max).take(30) {
                prop_assert!(pause >= floor && pause <= 2 * floor, "{pause:?} for {floor:?}");
                floor = (2 * floor).min(max);
            }
        }
    }

    #[test]
    fn two_uploads_pause_differently() {
        let pauses = || backoff(Duration::from_secs(1), Duration::from_secs(60)).take(8).collect::<Vec<_>>();
        assert_ne!(pauses(), pauses());
    }
}
