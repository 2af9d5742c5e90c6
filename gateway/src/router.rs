//! The pages, and what every request passes on its way to one: a request id, a log line, a place among those
//! in flight.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures::FutureExt as _;
use http::header::{CONNECTION, CONTENT_ENCODING, EXPECT};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use milepost_shared::clock::Clock;
use milepost_shared::planted::Planted;
use milepost_shared::upload::Shape;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};
use tower_http::decompression::RequestDecompressionLayer;
use uuid::Uuid;

use crate::accept::{Acceptance, Sent};
use crate::answers::Answers;
use crate::authenticate::ApiKeys;
use crate::body::{Arriving, Bodies};
use crate::idempotency_key;
use crate::media;
use crate::metric::HttpMetrics;
use crate::outcome::{Outcome, Unavailable};
use crate::prefer::Preference;
use crate::problem::{self, Problem};
use crate::rate::Rates;
use crate::respond::{self, Asked};
use crate::settings::UploadSettings;
use crate::{status, strict_http};

const LOCATIONS: &str = "/api/v1/locations";
const BATCH: &str = "/api/v1/locations/batch";
const UPLOAD: &str = "/api/v1/uploads/{key_hash}";
const UPLOADS: &str = "/api/v1/uploads/";
/// The route of a request that has no page.
const NO_ROUTE: &str = "none";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest wait for a final answer once the gateway is stopping: the connection must end well before the
/// program.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(1);

/// All that a request needs. Made once.
pub struct Front {
    /// Who may.
    pub api_keys: ApiKeys,
    /// How fast.
    pub rates: Arc<Rates>,
    /// The middle of the gateway.
    pub answers: Answers,
    bodies: Bodies,
    acceptance: Acceptance,
    places: Semaphore,
    settings: UploadSettings,
    stop: CancellationToken,
}

impl Front {
    /// `stop` is cancelled when the gateway begins to drain.
    #[must_use]
    pub fn new(
        settings: &UploadSettings,
        (api_keys, rates, answers): (ApiKeys, Arc<Rates>, Answers),
        clock: Clock,
        planted: Planted,
        stop: CancellationToken,
    ) -> Self {
        Self {
            api_keys,
            rates,
            answers,
            bodies: Bodies::new(settings),
            acceptance: Acceptance::new(settings, clock, planted),
            places: Semaphore::new(usize::try_from(settings.requests_max).unwrap_or(usize::MAX)),
            settings: settings.clone(),
            stop,
        }
    }
}

/// What the log tells of an upload besides; travels with the response.
#[derive(Clone, Copy)]
struct Told {
    outcome: &'static str,
    bytes: usize,
}

/// A mark on a response: the request's body was read to its end, so another request can follow on the
/// connection.
#[derive(Clone, Copy)]
struct BodyEnded;

/// All pages, and what every request passes on its way to one. Cheap to clone.
#[derive(Clone)]
pub struct Pages {
    front: Arc<Front>,
    router: Router,
    metrics: Arc<HttpMetrics>,
}

impl Pages {
    /// All pages.
    #[must_use]
    pub fn new(front: Arc<Front>) -> Self {
        let router = Router::new()
            .route(LOCATIONS, post(single))
            .route(BATCH, post(batch))
            .route(UPLOAD, get(upload_status))
            .fallback(|| std::future::ready(Problem::NotFound))
            .method_not_allowed_fallback(|| std::future::ready(Problem::MethodNotAllowed))
            .with_state(Arc::clone(&front));
        Self { front, router, metrics: Arc::new(HttpMetrics::new(&[LOCATIONS, BATCH, UPLOAD], NO_ROUTE)) }
    }

    /// Names a request, times it, and tells of it in one log line, without anything the client chose. No layers of
    /// tower: each would put the request and its future into a box of its own.
    pub async fn answer<B>(self, request: http::Request<B>) -> Response
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let begun = Instant::now();
        let request_id = Uuid::now_v7();
        let method = method_name(request.method());
        let route = route_name(request.uri().path());
        let has_body = !request.body().is_end_stream();
        let answering = AssertUnwindSafe(self.admit(request.map(Body::new))).catch_unwind();
        let mut response = answering.await.unwrap_or_else(|_| Problem::Internal.into_response());
        if has_body && response.extensions().get::<BodyEnded>().is_none() {
            // hyper closes it then; a client that is not told would send its next request there.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let code = problem::render(&mut response, request_id).unwrap_or_default();
        let mut text = Uuid::encode_buffer();
        if let Ok(value) = HeaderValue::from_str(request_id.as_hyphenated().encode_lower(&mut text)) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        let status = response.status();
        let elapsed = begun.elapsed();
        let told = response.extensions().get::<Told>().copied();
        let Told { outcome, bytes } = told.unwrap_or(Told { outcome: "none", bytes: 0 });
        self.metrics.count(route, status, elapsed);
        let duration_ms = elapsed.as_millis();
        let status = status.as_u16();
        // What was refused is looked for by its request id; of all else the metrics tell, at less cost than a line each.
        if status < 400 {
            tracing::debug!(method, route, status, outcome, %request_id, duration_ms, bytes, "request");
        } else {
            tracing::info!(method, route, status, code, outcome, %request_id, duration_ms, bytes, "request");
        }
        response
    }

    /// Lets a request in if it is plain HTTP and there is a place for it.
    async fn admit(&self, request: Request) -> Response {
        let Ok(_place) = self.front.places.try_acquire() else {
            return Problem::Unavailable(Unavailable::Overload).into_response();
        };
        if let Err(problem) = strict_http::check(request.version(), request.headers()) {
            return problem.into_response();
        }
        match self.router.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// A path is the client's own text unless it is one of the pages.
fn route_name(path: &str) -> &'static str {
    match path {
        LOCATIONS => LOCATIONS,
        BATCH => BATCH,
        path if path.strip_prefix(UPLOADS).is_some_and(|key| !key.is_empty() && !key.contains('/')) => UPLOAD,
        _ => NO_ROUTE,
    }
}

/// A method is the client's own text unless it is one of those HTTP names.
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

async fn single(State(front): State<Arc<Front>>, request: Request) -> Response {
    upload(&front, Shape::Single, request).await
}

async fn batch(State(front): State<Arc<Front>>, request: Request) -> Response {
    upload(&front, Shape::Batch, request).await
}

/// Only what says that it is encoded goes through the decoder, which would put every body into further boxes.
async fn upload(front: &Front, shape: Shape, request: Request) -> Response {
    if !request.headers().contains_key(CONTENT_ENCODING) {
        return take(front, shape, request).await;
    }
    // What is no gzip is left for the media check to refuse.
    let decoder = RequestDecompressionLayer::new().pass_through_unaccepted(true);
    let taking = service_fn(|request: http::Request<_>| async {
        Ok::<_, Infallible>(take(front, shape, request.map(Body::new)).await)
    });
    match decoder.layer(taking).oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(never) => {
            tracing::error!(error = %never, "the decoder failed");
            Problem::Internal.into_response()
        }
    }
}

async fn take(front: &Front, shape: Shape, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut body = Arriving::new(body);
    let mut response = match answer(front, shape, &parts, &mut body).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    };
    if body.discard(parts.headers.contains_key(EXPECT)).await {
        response.extensions_mut().insert(BodyEnded);
    }
    response
}

async fn answer(
    front: &Front,
    shape: Shape,
    Parts { headers, .. }: &Parts,
    body: &mut Arriving,
) -> Result<Response, Problem> {
    let account = front.api_keys.authenticate(headers).await?;
    front.rates.check(account)?;
    media::check_accept(headers)?;
    media::check_content(headers)?;
    let key = idempotency_key::parse(headers).map_err(Problem::InvalidKey)?;
    let held = front.bodies.read(body).await?;
    let preference = Preference::of(headers);
    let (default, max) = front.waits();
    let patience = preference.patience(default, max);
    let body = &held.bytes;
    let accepted =
        front.acceptance.accept(Sent { account, key: key.as_deref(), shape, headers, body, patience })?;
    let asked = Asked { account, key_hash: accepted.key_hash, preference_applied: preference.applied(max) };
    let outcome = front.answers.answer(accepted).await;
    let told = Told { outcome: outcome_name(&outcome), bytes: held.bytes.len() };
    let mut response = respond::respond(outcome, asked);
    response.extensions_mut().insert(told);
    Ok(response)
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Final { replayed: false, .. } => "final",
        Outcome::Final { replayed: true, .. } => "replayed",
        Outcome::Conflict => "conflict",
        Outcome::Pending(_) => "pending",
        Outcome::Unavailable(_) => "unavailable",
    }
}

async fn upload_status(
    State(front): State<Arc<Front>>,
    Path(key_hash): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let account = front.api_keys.authenticate(&headers).await?;
    media::check_accept(&headers)?;
    let (key_hash, receipt) = status::asked(&key_hash, query.as_deref(), account)?;
    Ok(status::respond(front.answers.status(account, key_hash, receipt).await))
}

impl Front {
    /// How long an upload waits without a preference, and with one at most.
    fn waits(&self) -> (Duration, Duration) {
        let (default, max) = (self.settings.answer_wait, self.settings.wait_max);
        if self.stop.is_cancelled() {
            return (default.min(PATIENCE_AT_THE_END), max.min(PATIENCE_AT_THE_END));
        }
        (default, max)
    }
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
