//! HTTP/1 that different servers would read differently is refused, not guessed at.
//!
//! What hyper 1.12 settles before a request gets here: a body with both `Content-Length` and
//! `Transfer-Encoding` is read by the latter and the connection closed after the answer (RFC 9112 section
//! 6.3), so nothing can be smuggled behind it; differing `Content-Length`s, a last coding that is not
//! `chunked`, and folded headers are a 400.

use http::header::HOST;
use http::{HeaderMap, Version};

use crate::problem::Problem;

/// Refuses a request that names no host or more than one (RFC 9112 section 3.2).
///
/// # Errors
/// [`Problem::AmbiguousRequest`], which also closes the connection.
pub fn check(version: Version, headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get_all(HOST).iter().count() {
        1 => Ok(()),
        0 if version < Version::HTTP_11 => Ok(()),
        0 => Err(Problem::AmbiguousRequest("The header Host is missing.")),
        _ => Err(Problem::AmbiguousRequest("The header Host is given more than once.")),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_request_names_one_host() {
        let mut headers = HeaderMap::new();
        assert_eq!(check(Version::HTTP_10, &headers), Ok(()));
        assert!(check(Version::HTTP_11, &headers).is_err());
        headers.append(HOST, HeaderValue::from_static("a"));
        assert_eq!(check(Version::HTTP_11, &headers), Ok(()));
        headers.append(HOST, HeaderValue::from_static("a"));
        assert!(check(Version::HTTP_11, &headers).is_err());
        assert!(check(Version::HTTP_10, &headers).is_err());
    }
}
