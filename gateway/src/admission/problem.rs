//! Why a request is not admitted.

use std::time::Duration;

use http::StatusCode;
use http::header::{ACCEPT_ENCODING, HeaderValue, RETRY_AFTER};

use crate::http::problem::{Problem, seconds};

/// One answer for absent, malformed, unknown and revoked credentials.
pub const UNAUTHORIZED: Problem = Problem::new(
    StatusCode::UNAUTHORIZED,
    "unauthorized",
    "Send a valid API key as X-API-Key or as Authorization: Bearer.",
);
/// The credentials are not among those known and the database cannot be asked.
pub const CREDENTIALS_UNVERIFIED: Problem = Problem::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "credentials-unverified",
    "The API key cannot be verified at the moment. Try again.",
);
/// The client does not take JSON.
pub const NOT_ACCEPTABLE: Problem =
    Problem::new(StatusCode::NOT_ACCEPTABLE, "not-acceptable", "Answers are application/json.");
/// The body is not said to be JSON.
pub const UNSUPPORTED_MEDIA_TYPE: Problem = Problem::new(
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    "unsupported-media-type",
    "The body must be application/json in UTF-8.",
);
/// The body did not arrive in time.
pub const BODY_TIMEOUT: Problem =
    Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", "The body did not arrive in time.");
/// The body cannot be read: broken chunks or a broken compression.
pub const UNREADABLE_BODY: Problem =
    Problem::new(StatusCode::BAD_REQUEST, "unreadable-body", "The body cannot be read to its end.");

/// Neither plain nor compressed in a way known here.
#[must_use]
pub fn unsupported_encoding() -> Problem {
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported-encoding",
        "The body may be sent as it is or with Content-Encoding: gzip, zstd, br or deflate.",
    )
    .with_header(ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd, br, deflate"))
}

/// More bytes than this.
#[must_use]
pub fn body_too_large(bytes_max: usize) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "")
        .with_detail(format!("A body may have at most {}, also after decompression.", in_words(bytes_max)))
}

/// The account sends too fast; when to come back.
#[must_use]
pub fn rate_limited(wait: Duration) -> Problem {
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "rate-limited",
        "This account sends too many uploads; slow down.",
    )
    .with_header(RETRY_AFTER, seconds(wait))
}

/// In the largest unit of which there is a whole number.
fn in_words(bytes: usize) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_said_in_the_unit_that_people_use() {
        for (bytes, words) in [(1 << 20, "1 MiB"), (1500, "1500 bytes"), (3 << 10, "3 KiB")] {
            assert!(body_too_large(bytes).detail.contains(words), "{words}");
        }
    }
}
