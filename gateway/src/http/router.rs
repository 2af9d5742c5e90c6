//! What every request passes on its way to its route and back: a request id, a log line, a bound, the end of its body.
//!
//! One future around axum's [`Router`] instead of a stack of layers: each layer of a router puts the request
//! and its future into boxes of their own.

use std::convert::Infallible;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::body::HttpBody;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::{BoxError, Router};
use bytes::Bytes;
use futures::FutureExt as _;
use http::header::{CACHE_CONTROL, CONNECTION, EXPECT, ORIGIN, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use tokio_util::sync::CancellationToken;
use tower::{Layer as _, Service as _, ServiceExt as _};
use tower_http::cors::CorsLayer;
use uuid::Uuid;

use crate::http::access_log::{AccessLog, Answered};
use crate::http::problem::{self, INTERNAL, METHOD_NOT_ALLOWED, NOT_FOUND, OVERLOAD};
use crate::http::slots::Slots;
use crate::http::{arriving, cors};

/// The header that names a request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Whether the client that sends this forgets it at any answer, even at one that says to come again.
pub type ForgetsAtAnyAnswer = fn(&Uri, &HeaderMap) -> bool;

/// A request that gets no answer: its connection is closed, since its client would take what could be said for success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered;

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed in place of an answer that the client would forget its request at")
    }
}

impl std::error::Error for Unanswered {}

/// All routes, and what every request passes on its way to one. Made once.
pub struct Pipeline {
    router: Router,
    forgets: ForgetsAtAnyAnswer,
    cors: Option<CorsLayer>,
    slots: Arc<Slots>,
    log: Arc<AccessLog>,
    /// Cancelled when the gateway begins to drain.
    stop: CancellationToken,
}

impl Pipeline {
    /// Around the routes of all protocols. What they have no route for, or not for its method, is a problem.
    #[must_use]
    pub fn new(
        routes: Router,
        forgets: ForgetsAtAnyAnswer,
        cors: Option<CorsLayer>,
        slots: Arc<Slots>,
        log: Arc<AccessLog>,
        stop: CancellationToken,
    ) -> Self {
        let router =
            routes.fallback(async || NOT_FOUND).method_not_allowed_fallback(async || METHOD_NOT_ALLOWED);
        Self { router, forgets, cors, slots, log, stop }
    }

    /// Answers one request, and logs that without anything the client chose.
    ///
    /// # Errors
    /// [`Unanswered`]: the answer would be that it failed here, and the client would forget the request for it.
    pub async fn answer<B>(self: Arc<Self>, request: http::Request<B>) -> Result<Response, Unanswered>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let begun = Instant::now();
        let request_id = Uuid::now_v7();
        let (method, version) = (method_name(request.method()), request.version());
        let series = self.log.metrics.of(request.uri().path());
        let forgets = (self.forgets)(request.uri(), request.headers());
        let expects_continue = request.headers().contains_key(EXPECT);
        let (parts, body) = request.into_parts();
        let (body, remainder) = arriving::lend(body);
        let serving = AssertUnwindSafe(self.serve(Request::from_parts(parts, body))).catch_unwind();
        let mut response = serving.await.unwrap_or_else(|_| INTERNAL.into_response());
        let read = remainder.discard(expects_continue).await;
        let code = problem::render(&mut response, request_id).unwrap_or_default();
        let status = response.status();
        if !read.ended || self.stop.is_cancelled() {
            // The connection is closed then; a client that does not know would send its next request there.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            // Or hyper would add to an answer to HTTP/1.0 what the client wishes.
            *response.version_mut() = version;
        }
        let mut text = Uuid::encode_buffer();
        if let Ok(value) = HeaderValue::from_str(request_id.as_hyphenated().encode_lower(&mut text)) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self.log.request(series, &Answered { method, status, code, request_id, begun, bytes: read.bytes });
        if forgets && status.is_server_error() { Err(Unanswered) } else { Ok(response) }
    }

    /// Leads a request to its route, if there is a slot for it.
    async fn serve(&self, request: Request) -> Response {
        if self.slots.are_taken() {
            return OVERLOAD.into_response();
        }
        let Ok(response) = match &self.cors {
            None => self.router.clone().call(request).await,
            Some(cors) => Box::pin(self.serve_page(cors, request)).await,
        };
        response
    }

    /// Leads a request to its route, and lets a browser know what pages of other origins may do with the answer.
    async fn serve_page(&self, cors: &CorsLayer, request: Request) -> Result<Response, Infallible> {
        let mut router = self.router.clone();
        let headers = request.headers();
        let is_cross_origin = headers.contains_key(ORIGIN)
            && (request.method() != Method::OPTIONS || cors::is_preflight(request.method(), headers));
        if is_cross_origin {
            // The layer answers by itself what a browser asks beforehand.
            return cors.layer(router).oneshot(request).await;
        }
        let mut response = router.call(request).await?;
        response.headers_mut().append(VARY, HeaderValue::from_static("origin"));
        Ok(response)
    }
}

/// A method is the client's own text unless it is one of those that HTTP names.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
