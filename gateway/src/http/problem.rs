//! Every answer that is not a success: `application/problem+json` (RFC 9457) with a stable `code` and the request id.

use std::borrow::Cow;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, StatusCode, Uri};
use problem_details::ProblemDetails;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

/// When a 503 may be tried again.
pub const RETRY_UNAVAILABLE: Duration = Duration::from_secs(2);

/// No route leads there.
pub const NOT_FOUND: Problem = Problem::new(StatusCode::NOT_FOUND, "not-found", "There is nothing here.");
/// A route, but none for this method. axum's router adds `Allow`.
pub const METHOD_NOT_ALLOWED: Problem = Problem::new(
    StatusCode::METHOD_NOT_ALLOWED,
    "method-not-allowed",
    "The Allow header lists the methods of this address.",
);
/// Not HTTP/1 at all; the connection is closed.
pub const MALFORMED_REQUEST: Problem =
    Problem::new(StatusCode::BAD_REQUEST, "malformed-request", "This is not an HTTP/1.1 request.");
/// Too many bytes or fields; the connection is closed.
pub const HEAD_TOO_LARGE: Problem = Problem::new(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "head-too-large",
    "The head of a request may have at most 32 KiB and 100 fields.",
);
/// A fault of the gateway.
pub const INTERNAL: Problem = Problem::new(
    StatusCode::INTERNAL_SERVER_ERROR,
    "internal",
    "Something went wrong here. Try again with the same Idempotency-Key.",
);
/// A bound of the gateway is reached.
pub const OVERLOAD: Problem = Problem::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "overload",
    "The gateway is overloaded. Try again with the same Idempotency-Key.",
);

/// HTTP that different servers would read differently; the connection is closed.
#[must_use]
pub const fn ambiguous_request(detail: &'static str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "ambiguous-request", detail)
}

/// Why a request gets no answer of its own. As a response it has no body until [`render`] knows the request id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The status of the response.
    pub status: StatusCode,
    /// What clients may rely on.
    pub code: &'static str,
    /// One sentence for a person.
    pub detail: Cow<'static, str>,
    /// A header that belongs to it, besides those that its status demands.
    pub header: Option<Box<(HeaderName, HeaderValue)>>,
    /// Further members of the page.
    pub members: Option<Box<Map<String, Value>>>,
}

/// What our pages have besides the members of RFC 9457.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Members<'a> {
    code: &'a str,
    request_id: Uuid,
    #[serde(flatten)]
    further: Option<&'a Map<String, Value>>,
}

impl Problem {
    /// A problem with a fixed detail.
    #[must_use]
    pub const fn new(status: StatusCode, code: &'static str, detail: &'static str) -> Self {
        Self { status, code, detail: Cow::Borrowed(detail), header: None, members: None }
    }

    /// The same with a detail of this very request.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    /// The same with a header.
    #[must_use]
    pub fn with_header(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { header: Some(Box::new((name, value))), ..self }
    }

    /// The page, for this request.
    ///
    /// # Panics
    /// Never: it is made of strings and integers.
    #[must_use]
    pub fn page(&self, request_id: Uuid) -> Vec<u8> {
        let page = ProblemDetails::from_status_code(self.status)
            .with_type(Uri::from_static("about:blank"))
            .with_detail(&*self.detail)
            .with_extensions(Members { code: self.code, request_id, further: self.members.as_deref() });
        serde_json::to_vec(&page).expect("strings and integers are JSON")
    }

    /// The whole answer to what never became a request; the connection is closed after it.
    #[must_use]
    pub fn raw(&self, request_id: Uuid, now: SystemTime, to_head: bool) -> Vec<u8> {
        let (status, page) = (self.status, self.page(request_id));
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
        let mut headers: HeaderMap = self.header.iter().map(|header| (**header).clone()).collect();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"milepost\""));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.entry(RETRY_AFTER).or_insert_with(|| seconds(RETRY_UNAVAILABLE));
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
        let mut response = self.status.into_response();
        *response.headers_mut() = self.headers();
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the page of a response that is a problem, and returns its code; any other response is left as it is.
pub fn render(response: &mut Response, request_id: Uuid) -> Option<&'static str> {
    let problem = response.extensions_mut().remove::<Problem>()?;
    *response.body_mut() = Body::from(problem.page(request_id));
    // The router has measured the body that there was before.
    response.headers_mut().remove(CONTENT_LENGTH);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    Some(problem.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNAUTHORIZED: Problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Say who you are.");

    fn page(problem: &Problem) -> Value {
        serde_json::from_slice(&problem.page(Uuid::from_u128(7))).unwrap()
    }

    #[test]
    fn a_page_has_the_status_the_code_and_the_request() {
        assert_eq!(
            page(&NOT_FOUND),
            serde_json::json!({
                "type": "about:blank",
                "title": "Not Found",
                "status": 404,
                "detail": "There is nothing here.",
                "code": "not-found",
                "requestId": "00000000-0000-0000-0000-000000000007",
            })
        );
    }

    #[test]
    fn further_members_stand_beside_the_others() {
        let members = Map::from_iter([("faults".to_owned(), serde_json::json!([{"field": "a"}]))]);
        let page = page(&Problem { members: Some(Box::new(members)), ..NOT_FOUND });
        assert_eq!((&page["status"], &page["faults"][0]["field"]), (&404.into(), &"a".into()));
    }

    #[test]
    fn a_503_says_when_to_come_again_in_whole_seconds() {
        let retry_after = |problem: Problem| problem.into_response().headers().get(RETRY_AFTER).cloned();
        assert_eq!(retry_after(OVERLOAD).unwrap(), "2");
        assert_eq!(retry_after(NOT_FOUND), None);
        let limited = NOT_FOUND.with_header(RETRY_AFTER, seconds(Duration::from_millis(3001)));
        assert_eq!(retry_after(limited).unwrap(), "4");
        assert_eq!(seconds(Duration::ZERO), "1");
    }

    #[test]
    fn what_never_became_a_request_gets_a_whole_answer() {
        let answer = |to_head| OVERLOAD.raw(Uuid::from_u128(7), SystemTime::UNIX_EPOCH, to_head);
        let page = String::from_utf8(OVERLOAD.page(Uuid::from_u128(7))).unwrap();
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
        let mut response = UNAUTHORIZED.into_response();
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        assert_eq!(render(&mut response, Uuid::nil()), Some("unauthorized"));
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
        assert!(response.headers()[WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer"));
    }
}
