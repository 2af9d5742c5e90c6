//! What a gateway says to one attempt.

use std::error::Error;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use crate::retry;

/// The longest body read, in bytes. A 200 has about 40; a problem that names every fault of a large batch is
/// longer.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The longest piece of a gateway's text that is shown, in characters.
const SHOWN_CHARS_MAX: usize = 500;

/// One answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// `Idempotency-Replayed: true`: the answer was given before.
    pub replayed: bool,
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
    /// Whether `Content-Type` says that the body is JSON.
    pub is_json: bool,
    /// The body, byte for byte.
    pub body: Bytes,
}

/// The body of a 200.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Receipt {
    success: bool,
    processed_count: u64,
}

/// The members of an `application/problem+json` (RFC 9457) that are shown.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: Option<String>,
    title: Option<String>,
    detail: Option<String>,
}

impl Answer {
    /// Reads a response to its end.
    ///
    /// # Errors
    ///
    /// Says in words why there is no answer: the connection was lost, time ran out, or the body is longer
    /// than [`BODY_BYTES_MAX`].
    pub async fn read(mut response: Response) -> Result<Self, String> {
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(in_words)? {
            if body.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(format!("the answer is longer than {BODY_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        let replayed = response.headers().get("idempotency-replayed").is_some_and(|value| value == "true");
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = content_type.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
        let is_json = media_type.eq_ignore_ascii_case("application/json");
        #[expect(clippy::disallowed_methods, reason = "a phone has no other clock")]
        let retry_after = retry::retry_after(response.headers(), SystemTime::now());
        Ok(Self { status: response.status(), replayed, retry_after, is_json, body: body.freeze() })
    }

    /// The `processedCount` of a 200; nothing if the body is not `{"success":true,"processedCount":N}`.
    #[must_use]
    pub fn processed_count(&self) -> Option<u64> {
        let receipt: Receipt = serde_json::from_slice(&self.body).ok()?;
        receipt.success.then_some(receipt.processed_count)
    }

    /// Whether two answers are the same answer: invariant 3 compares status and body bytes.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.status == other.status && self.body == other.body
    }

    /// The answer in one line: status, then `code` and `detail` of the problem, or else the body.
    #[must_use]
    pub fn in_words(&self) -> String {
        let problem: Problem = serde_json::from_slice(&self.body).unwrap_or_default();
        let text = match (problem.code, problem.detail.or(problem.title)) {
            (Some(code), Some(detail)) => format!("{code}: {detail}"),
            (Some(text), None) | (None, Some(text)) => text,
            (None, None) => String::from_utf8_lossy(&self.body).into_owned(),
        };
        // A gateway, or whatever sits in front of it, does not get to write control sequences to a terminal.
        let shown = text.chars().take(SHOWN_CHARS_MAX).map(|char| if char.is_control() { ' ' } else { char });
        format!("{} {}", self.status.as_u16(), shown.collect::<String>()).trim_end().to_owned()
    }
}

/// Why an attempt has no answer, in words, without the address.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
pub fn in_words(error: reqwest::Error) -> String {
    if error.is_timeout() {
        "timed out".to_owned()
    } else if let Some(reason) = tls_failure(&error) {
        reason.to_owned()
    } else if error.is_connect() {
        "cannot connect".to_owned()
    } else {
        "the connection was lost".to_owned()
    }
}

/// What went wrong with TLS, if that did.
fn tls_failure(error: &reqwest::Error) -> Option<&'static str> {
    let mut causes = std::iter::successors(error.source(), |cause| inner(*cause));
    causes.find_map(|cause| cause.downcast_ref::<rustls::Error>()).map(|error| match error {
        rustls::Error::InvalidCertificate(_) => "the gateway's certificate is not trusted",
        _ => "the gateway does not speak TLS as it should",
    })
}

/// What an error wraps. The source of an I/O error is not what it wraps, but the source of that.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<std::io::Error>() {
        Some(io) => io.get_ref().map(|wrapped| wrapped as &(dyn Error + 'static)),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &'static str) -> Answer {
        let status = StatusCode::from_u16(status).expect("the test's status is valid");
        Answer {
            status,
            replayed: false,
            retry_after: None,
            is_json: true,
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn the_count_is_read_from_a_success_and_from_nothing_else() {
        for (body, count) in [
            (r#"{"success":true,"processedCount":3}"#, Some(3)),
            (r#"{"processedCount":3.0,"success":true}"#, None),
            (r#"{"success":false,"processedCount":3}"#, None),
            (r#"{"success":true}"#, None),
            ("", None),
        ] {
            assert_eq!(answer(200, body).processed_count(), count, "{body}");
        }
    }

    #[test]
    fn a_problem_is_shown_by_its_code_and_detail_and_other_bodies_as_they_are() {
        for (body, words) in [
            (
                r#"{"code":"key-reused","title":"Reused","detail":"used for another upload"}"#,
                "422 key-reused: used for another upload",
            ),
            (r#"{"code":"key-reused"}"#, "422 key-reused"),
            (r#"{"title":"Reused"}"#, "422 Reused"),
            ("<html>\u{1b}[31mno</html>\n", "422 <html> [31mno</html>"),
            ("", "422"),
        ] {
            assert_eq!(answer(422, body).in_words(), words);
        }
    }

    #[test]
    fn answers_are_the_same_when_status_and_bytes_are() {
        assert!(answer(200, "a").is_same(&answer(200, "a")));
        assert!(!answer(200, "a").is_same(&answer(200, "b")));
        assert!(!answer(200, "a").is_same(&answer(201, "a")));
    }
}
