//! Every answer that is not a success: `application/problem+json` (RFC 9457) with a stable `code` and the
//! request id.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use milepost_shared::location::{Fault, Invalid};
use serde::Serialize;
use uuid::Uuid;

use crate::admission::coding;
use crate::answer::outcome::Unavailable;

/// When a 503 may be tried again.
pub const RETRY_UNAVAILABLE: Duration = Duration::from_secs(2);

/// Why a request gets no answer of its own. As a response it has no body until [`render`] knows the request
/// id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// 400: HTTP that different servers would read differently; the connection is closed.
    AmbiguousRequest(&'static str),
    /// 400: no HTTP/1 at all; the connection is closed.
    MalformedRequest,
    /// 400: the body is no upload.
    InvalidUpload(Invalid),
    /// 400: the body cannot be read: broken chunks or a broken compression.
    UnreadableBody,
    /// 400: the `Idempotency-Key` is none; what is wrong with it.
    InvalidKey(String),
    /// 401: one answer for absent, malformed, unknown and revoked credentials.
    Unauthorized,
    /// 404: no such page.
    NotFound,
    /// 404: no upload is known there, or it is another account's.
    UnknownUpload,
    /// 405: `Allow` is set by the router.
    MethodNotAllowed,
    /// 406: the client does not take JSON.
    NotAcceptable,
    /// 408: the body did not arrive in time.
    BodyTimeout,
    /// 413: more bytes than this.
    BodyTooLarge(usize),
    /// 415: the body is not said to be JSON.
    UnsupportedMediaType,
    /// 415: neither plain nor compressed in a way known here.
    UnsupportedEncoding,
    /// 422: the key stands for another upload.
    KeyReused,
    /// 431: the head has too many bytes or fields; the connection is closed.
    HeadTooLarge,
    /// 429: the account sends too fast; when to come back.
    RateLimited(Duration),
    /// 500: a fault of the gateway.
    Internal,
    /// 503: the upload may not be in the journal.
    Unavailable(Unavailable),
    /// 503: the credentials are not among those known and the database cannot be asked.
    CredentialsUnverified,
    /// 503: the state of an upload cannot be looked up.
    StatusUnavailable,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: String,
    code: &'a str,
    request_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    faults: Option<&'a [Fault]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    faults_total: Option<usize>,
}

impl Problem {
    /// The status and the code, which clients may rely on.
    #[must_use]
    pub fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::AmbiguousRequest(_) => (StatusCode::BAD_REQUEST, "ambiguous-request"),
            Self::MalformedRequest => (StatusCode::BAD_REQUEST, "malformed-request"),
            Self::InvalidUpload(Invalid::Syntax { .. }) => (StatusCode::BAD_REQUEST, "malformed-json"),
            Self::InvalidUpload(Invalid::Faults { .. }) => (StatusCode::BAD_REQUEST, "invalid-upload"),
            Self::InvalidUpload(Invalid::TooMany { .. }) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too-many-locations")
            }
            Self::UnreadableBody => (StatusCode::BAD_REQUEST, "unreadable-body"),
            Self::InvalidKey(_) => (StatusCode::BAD_REQUEST, "invalid-idempotency-key"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found"),
            Self::UnknownUpload => (StatusCode::NOT_FOUND, "unknown-upload"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed"),
            Self::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "not-acceptable"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body-timeout"),
            Self::BodyTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large"),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type"),
            Self::UnsupportedEncoding => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-encoding"),
            Self::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "key-reused"),
            Self::HeadTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large"),
            Self::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "rate-limited"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            Self::Unavailable(Unavailable::Journal) => {
                (StatusCode::SERVICE_UNAVAILABLE, "journal-unavailable")
            }
            Self::Unavailable(Unavailable::Overload) => (StatusCode::SERVICE_UNAVAILABLE, "overload"),
            Self::Unavailable(Unavailable::Draining) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            Self::CredentialsUnverified => (StatusCode::SERVICE_UNAVAILABLE, "credentials-unverified"),
            Self::StatusUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "status-unavailable"),
        }
    }

    fn detail(&self) -> String {
        let text = match self {
            Self::AmbiguousRequest(what) => what,
            Self::InvalidKey(what) => return what.clone(),
            Self::InvalidUpload(Invalid::Faults { total, .. }) => {
                return format!("The upload has {total} {}.", if *total == 1 { "fault" } else { "faults" });
            }
            Self::InvalidUpload(Invalid::Syntax { line, column }) => {
                return format!("The body is not valid JSON at line {line}, column {column}.");
            }
            Self::InvalidUpload(Invalid::TooMany { max }) => {
                return format!("An upload may have {max} locations.");
            }
            Self::BodyTooLarge(max) => {
                return format!("A body may have {max} bytes, also after decompression.");
            }
            Self::MalformedRequest => "This is no HTTP/1.1 request.",
            Self::HeadTooLarge => "The head of a request may have 32768 bytes and 100 fields.",
            Self::UnreadableBody => "The body cannot be read to its end.",
            Self::Unauthorized => "Send a valid API key as X-API-Key or as Authorization: Bearer.",
            Self::NotFound => "There is nothing here.",
            Self::UnknownUpload => "No upload is known here, or it is forgotten.",
            Self::MethodNotAllowed => "The header Allow names the methods for this address.",
            Self::NotAcceptable => "Answers are application/json.",
            Self::BodyTimeout => "The body did not arrive in time.",
            Self::UnsupportedMediaType => "The body must be application/json in UTF-8.",
            Self::UnsupportedEncoding => {
                "The body may be sent as it is or with Content-Encoding: gzip, zstd, br or deflate."
            }
            Self::KeyReused => "This Idempotency-Key has been used for another upload.",
            Self::RateLimited(_) => "This account sends too many uploads; slow down.",
            Self::Internal => "Something went wrong here. Try again with the same Idempotency-Key.",
            Self::Unavailable(Unavailable::Journal) => {
                "The upload could not be stored. Try again with the same Idempotency-Key."
            }
            Self::Unavailable(Unavailable::Overload) => {
                "Too much is going on. Try again with the same Idempotency-Key."
            }
            Self::Unavailable(Unavailable::Draining) => {
                "This gateway is stopping. Try again with the same Idempotency-Key."
            }
            Self::CredentialsUnverified => "The API key cannot be verified at the moment. Try again.",
            Self::StatusUnavailable => "The upload cannot be looked up at the moment. Try again.",
        };
        text.to_owned()
    }

    /// The page, for this request.
    ///
    /// # Panics
    /// Never: it is made of strings and integers.
    #[must_use]
    pub fn page(&self, request_id: Uuid) -> Vec<u8> {
        let (status, code) = self.status_and_code();
        let (faults, faults_total) = match self {
            Self::InvalidUpload(Invalid::Faults { faults, total }) => (Some(faults.as_slice()), Some(*total)),
            _ => (None, None),
        };
        let page = Page {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: self.detail(),
            code,
            request_id,
            faults,
            faults_total,
        };
        serde_json::to_vec(&page).expect("strings and integers are JSON")
    }

    /// The whole answer to what never became a request; the connection is closed after it.
    #[must_use]
    pub fn raw(&self, request_id: Uuid, now: SystemTime, to_head: bool) -> Vec<u8> {
        let (status, page) = (self.status_and_code().0, self.page(request_id));
        let mut answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
             cache-control: no-store\r\nx-request-id: {request_id}\r\nconnection: close\r\ndate: {}\r\n",
            page.len(),
            httpdate::fmt_http_date(now),
        )
        .into_bytes();
        for (name, value) in &self.headers() {
            // Writing into memory does not fail.
            let _ = write!(answer, "{name}: ");
            answer.extend_from_slice(value.as_bytes());
            answer.extend_from_slice(b"\r\n");
        }
        answer.extend_from_slice(b"\r\n");
        if !to_head {
            answer.extend_from_slice(&page);
        }
        answer
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let retry_after = match self {
            Self::RateLimited(wait) => Some(*wait),
            _ if self.status_and_code().0 == StatusCode::SERVICE_UNAVAILABLE => Some(RETRY_UNAVAILABLE),
            _ => None,
        };
        if let Some(wait) = retry_after {
            headers.insert(RETRY_AFTER, seconds(wait));
        }
        match self {
            Self::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"milepost\""));
            }
            Self::UnsupportedEncoding => {
                headers.insert(http::header::ACCEPT_ENCODING, coding::ACCEPTED);
            }
            _ => {}
        }
        headers
    }
}

/// Whole seconds for `Retry-After`, rounded up, at least one.
#[must_use]
pub fn seconds(wait: Duration) -> HeaderValue {
    let rounded_up = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    HeaderValue::from(rounded_up.max(1))
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status_and_code().0.into_response();
        *response.headers_mut() = self.headers();
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the page of a response that is a problem, and returns its code; any other response is left as it
/// is.
pub fn render(response: &mut Response, request_id: Uuid) -> Option<&'static str> {
    let problem = response.extensions_mut().remove::<Problem>()?;
    *response.body_mut() = Body::from(problem.page(request_id));
    let content_type = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
    Some(problem.status_and_code().1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(problem: &Problem) -> serde_json::Value {
        serde_json::from_slice(&problem.page(Uuid::from_u128(7))).unwrap()
    }

    #[test]
    fn a_page_tells_status_code_and_request() {
        assert_eq!(
            page(&Problem::KeyReused),
            serde_json::json!({
                "type": "about:blank",
                "title": "Unprocessable Entity",
                "status": 422,
                "detail": "This Idempotency-Key has been used for another upload.",
                "code": "key-reused",
                "requestId": "00000000-0000-0000-0000-000000000007",
            })
        );
    }

    #[test]
    fn faults_are_listed_and_counted() {
        let fault =
            Fault { field: "locations[3].latitude".to_owned(), message: "must be a number".to_owned() };
        let page = page(&Problem::InvalidUpload(Invalid::Faults { faults: vec![fault], total: 120 }));
        assert_eq!(page["status"], 400);
        assert_eq!(page["faults"][0]["field"], "locations[3].latitude");
        assert_eq!(page["faultsTotal"], 120);
    }

    #[test]
    fn whoever_may_come_again_is_told_when() {
        let retry_after = |problem: Problem| {
            let response = problem.into_response();
            response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned())
        };
        for why in [Unavailable::Journal, Unavailable::Overload, Unavailable::Draining] {
            assert_eq!(retry_after(Problem::Unavailable(why)).as_deref(), Some("2"));
        }
        assert_eq!(retry_after(Problem::CredentialsUnverified).as_deref(), Some("2"));
        assert_eq!(retry_after(Problem::StatusUnavailable).as_deref(), Some("2"));
        assert_eq!(retry_after(Problem::RateLimited(Duration::from_millis(3001))).as_deref(), Some("4"));
        assert_eq!(retry_after(Problem::RateLimited(Duration::ZERO)).as_deref(), Some("1"));
        assert_eq!(retry_after(Problem::KeyReused), None);
    }

    #[test]
    fn what_never_became_a_request_gets_a_whole_answer() {
        let overload = Problem::Unavailable(Unavailable::Overload);
        let answer = |to_head| overload.raw(Uuid::from_u128(7), SystemTime::UNIX_EPOCH, to_head);
        let page = String::from_utf8(overload.page(Uuid::from_u128(7))).unwrap();
        let head = format!(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
             content-length: {}\r\ncache-control: no-store\r\n\
             x-request-id: 00000000-0000-0000-0000-000000000007\r\nconnection: close\r\n\
             date: Thu, 01 Jan 1970 00:00:00 GMT\r\nretry-after: 2\r\n\r\n",
            page.len()
        );
        assert_eq!(String::from_utf8(answer(true)).unwrap(), head);
        assert_eq!(String::from_utf8(answer(false)).unwrap(), head + &page);
    }

    #[test]
    fn only_a_problem_is_rendered() {
        let mut response = "fine".into_response();
        assert_eq!(render(&mut response, Uuid::nil()), None);
        let mut response = Problem::Unauthorized.into_response();
        assert_eq!(render(&mut response, Uuid::nil()), Some("unauthorized"));
        assert_eq!(response.headers()[http::header::CONTENT_TYPE], "application/problem+json");
        assert!(response.headers()[WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer"));
    }
}
