//! What an answer means and how long to pause before the next attempt. Pure but for the jitter.

use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder, ExponentialBuilder};
use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

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

/// The table of `docs/http-api.md`: 200 is final; 202 (in the journal, not final yet), 408 (the body came too slowly),
/// 429 and 5xx are tried again; anything else, also a redirect, is permanent.
#[must_use]
pub fn verdict(status: StatusCode) -> Verdict {
    match status {
        StatusCode::OK => Verdict::Final,
        StatusCode::ACCEPTED | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Verdict::Retry,
        status if status.is_server_error() => Verdict::Retry,
        _ => Verdict::Permanent,
    }
}

/// The `Retry-After` of an answer, in both of its forms: seconds, as Milepost sends it, or a date, as what stands in
/// front of it may. A date is compared with the answer's own `Date`, for that is the same clock, else with `now`; one
/// that has passed asks for no pause.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let asked = text(RETRY_AFTER)?;
    if !asked.is_empty() && asked.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(asked.parse().unwrap_or(u64::MAX)));
    }
    let until = httpdate::parse_http_date(asked).ok()?;
    let now = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or(now);
    Some(until.duration_since(now).unwrap_or_default())
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
            (Verdict::Retry, vec![202, 408, 429, 500, 501, 502, 503, 504, 599]),
            (Verdict::Permanent, vec![100, 201, 204, 301, 303, 304, 307]),
            (Verdict::Permanent, vec![400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 499]),
        ] {
            for status in statuses {
                let status = StatusCode::from_u16(status).expect("a three-digit number is a status");
                assert_eq!(verdict(status), verdict_expected, "{status}");
            }
        }
    }

    /// Wed, 21 Oct 2026 07:28:00 GMT.
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_792_567_680)
    }

    fn asked(retry_after_text: &'static str, date: Option<&'static str>) -> Option<Duration> {
        let date = date.map(|date| (DATE, HeaderValue::from_static(date)));
        let asked = (RETRY_AFTER, HeaderValue::from_static(retry_after_text));
        retry_after(&HeaderMap::from_iter([asked].into_iter().chain(date)), now())
    }

    #[test]
    fn retry_after_is_read_in_seconds() {
        for (text, seconds) in [
            ("0", Some(0)),
            ("17", Some(17)),
            (" 17 ", Some(17)),
            ("99999999999999999999", Some(u64::MAX)),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(asked(text, None), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now()), None);
    }

    #[test]
    fn retry_after_is_read_as_a_date_in_each_of_the_three_forms_of_http() {
        for (text, seconds) in [
            ("Wed, 21 Oct 2026 07:28:30 GMT", Some(30)),
            ("Wednesday, 21-Oct-26 07:28:30 GMT", Some(30)),
            ("Wed Oct 21 07:28:30 2026", Some(30)),
            ("Wed, 21 Oct 2026 07:27:59 GMT", Some(0)),
            ("Wed, 32 Oct 2026 07:28:30 GMT", None),
        ] {
            assert_eq!(asked(text, None), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn a_date_to_retry_after_is_compared_with_the_clock_that_wrote_it() {
        let until = "Wed, 21 Oct 2026 09:28:30 GMT";
        assert_eq!(asked(until, Some("Wed, 21 Oct 2026 09:28:00 GMT")), Some(Duration::from_secs(30)));
        assert_eq!(asked(until, Some("yesterday")), Some(Duration::from_secs(7230)));
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
