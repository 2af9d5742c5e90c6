//! The pages, and what every request passes on its way to one: a request id, a log line, and, once its body is
//! read, a place among those being served.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::Either;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, EXPECT, ORIGIN, VARY};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use milepost_shared::journal::clock::Clock;
use milepost_shared::location::Shape;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_http::cors::CorsLayer;
use uuid::Uuid;

use crate::admission::authenticate::ApiKeys;
use crate::admission::body::{Arriving, Bodies};
use crate::admission::media;
use crate::admission::rate::Rates;
use crate::answer::outcome::{Outcome, Unavailable};
use crate::answer::service::Answers;
use crate::http::ambiguity::Refused;
use crate::http::cors;
use crate::http::metric::HttpMetrics;
use crate::http::problem::{self, Problem};
use crate::http::refusals::Refusals;
use crate::native::decode::{Acceptance, Sent};
use crate::native::key;
use crate::native::prefer::Preference;
use crate::native::respond::{self, Asked};
use crate::native::status;
use crate::settings::UploadSettings;

const LOCATIONS: &str = "/api/v1/locations";
const BATCH: &str = "/api/v1/locations/batch";
const UPLOADS: &str = "/api/v1/uploads/";
/// The header that names a request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What a status page, which is the only one that is asked for by GET, depends on besides its address.
const STATUS_VARIES: HeaderValue = HeaderValue::from_static("accept, authorization, x-api-key");
/// The longest wait for a final answer once the gateway is stopping: the connection must end well before the
/// program.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(1);

/// All pages, and all that a request needs on its way to one. Made once.
pub struct Front {
    metrics: HttpMetrics,
    /// Who may.
    pub api_keys: ApiKeys,
    /// How fast.
    pub rates: Arc<Rates>,
    /// The middle of the gateway.
    pub answers: Answers,
    bodies: Bodies,
    acceptance: Acceptance,
    places: Semaphore,
    refusals: Refusals,
    clock: Clock,
    cors: Option<CorsLayer>,
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
        stop: CancellationToken,
    ) -> Self {
        let routes = [Route::Upload(Shape::Single), Route::Upload(Shape::Batch), Route::Status];
        Self {
            metrics: HttpMetrics::new(&routes.map(Route::name), Route::Nowhere.name()),
            api_keys,
            rates,
            answers,
            bodies: Bodies::new(settings),
            acceptance: Acceptance::new(settings, clock),
            places: Semaphore::new(usize::try_from(settings.requests_max).unwrap_or(usize::MAX)),
            refusals: Refusals::default(),
            clock,
            cors: cors::layer(&settings.cors_origins),
            settings: settings.clone(),
            stop,
        }
    }
}

/// What is told of a request besides its response.
#[derive(Debug, Clone, Copy)]
struct Told {
    /// How the upload ended.
    outcome: &'static str,
    /// Size of its body.
    bytes: usize,
    /// The body was read to its end, so another request can follow on the connection.
    body_ended: bool,
}

const NOTHING_TOLD: Told = Told { outcome: "none", bytes: 0, body_ended: false };

/// Where a path leads. Not by axum's router: through its boxes replays were 3 % slower (scenario 3 of the benchmark).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Upload(Shape),
    Status,
    Nowhere,
}

impl Route {
    fn of(path: &str) -> Self {
        match path {
            LOCATIONS => Self::Upload(Shape::Single),
            BATCH => Self::Upload(Shape::Batch),
            path if key_hash(path).is_some() => Self::Status,
            _ => Self::Nowhere,
        }
    }

    /// Its name in metrics and logs: a path is the client's own text.
    fn name(self) -> &'static str {
        match self {
            Self::Upload(Shape::Single) => LOCATIONS,
            Self::Upload(Shape::Batch) => BATCH,
            Self::Status => "/api/v1/uploads/{key_hash}",
            Self::Nowhere => "none",
        }
    }
}

/// The last part of the path of [`Route::Status`].
fn key_hash(path: &str) -> Option<&str> {
    path.strip_prefix(UPLOADS).filter(|key_hash| !key_hash.is_empty() && !key_hash.contains('/'))
}

impl Front {
    /// Names a request, times it, and tells of it in one log line, without anything the client chose. No layers of
    /// tower: each would put the request and its future into a box of its own.
    pub async fn answer<B>(self: Arc<Self>, request: http::Request<B>) -> Response
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let begun = Instant::now();
        let request_id = Uuid::now_v7();
        let method = method_name(request.method());
        let route = Route::of(request.uri().path());
        let (has_body, version) = (!request.body().is_end_stream(), request.version());
        let request = request.map(Body::new);
        let admitting = pin!(match &self.cors {
            None => Either::Left(self.admit(route, request)),
            Some(cors) => Either::Right(Box::pin(self.admit_page(cors, route, request))),
        });
        let answering = AssertUnwindSafe(admitting).catch_unwind();
        let (mut response, told) = answering.await.unwrap_or_else(|_| untold(Problem::Internal));
        if has_body && !told.body_ended || self.stop.is_cancelled() {
            // The connection is closed then; a client that is not told would send its next request there.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            // Or hyper would add to an answer to HTTP/1.0 what the client wishes.
            *response.version_mut() = version;
        }
        let code = problem::render(&mut response, request_id).unwrap_or_default();
        let mut text = Uuid::encode_buffer();
        if let Ok(value) = HeaderValue::from_str(request_id.as_hyphenated().encode_lower(&mut text)) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let status = response.status();
        let elapsed = begun.elapsed();
        let Told { outcome, bytes, .. } = told;
        let route = route.name();
        self.metrics.count(route, status, elapsed);
        let duration_ms = elapsed.as_millis();
        let status = status.as_u16();
        // What was refused is looked for by its request id; of all else the metrics tell, at less cost than a line each.
        if status < 400 {
            tracing::debug!(method, route, status, outcome, %request_id, duration_ms, bytes, "request");
        } else if let Some(left_out) = self.refusals.say(code, begun) {
            let left_out = Some(left_out).filter(|left_out| *left_out > 0);
            tracing::info!(method, route, status, code, outcome, %request_id, duration_ms, bytes, left_out, "request");
        }
        response
    }

    /// Tells of refusals that got no line of their own and that no later line has told of.
    pub fn tell_left_out(&self) {
        for (code, left_out) in self.refusals.left_out() {
            tracing::info!(code, left_out, "requests");
        }
    }

    /// The answer to a head that is refused before it becomes a request.
    #[must_use]
    pub fn refuse_head(&self, refused: &Refused) -> Bytes {
        let route = Route::Nowhere.name();
        self.metrics.count(route, refused.problem.status_and_code().0, Duration::ZERO);
        self.refuse(&refused.problem, refused.to_head)
    }

    /// The answer on a connection that there is no place for.
    #[must_use]
    pub fn refuse_connection(&self) -> Bytes {
        self.refuse(&Problem::Unavailable(Unavailable::Overload), false)
    }

    fn refuse(&self, problem: &Problem, to_head: bool) -> Bytes {
        let request_id = Uuid::now_v7();
        let (status, code) = problem.status_and_code();
        let (method, route, status) = ("none", Route::Nowhere.name(), status.as_u16());
        if let Some(left_out) = self.refusals.say(code, Instant::now()) {
            let left_out = Some(left_out).filter(|left_out| *left_out > 0);
            tracing::info!(method, route, status, code, %request_id, left_out, "request");
        }
        let now = UNIX_EPOCH + Duration::from_millis(self.clock.now_ms().try_into().unwrap_or_default());
        problem.raw(request_id, now, to_head).into()
    }

    /// Leads a request to its page, and tells a browser what other pages may do with the answer.
    async fn admit_page(&self, cors: &CorsLayer, route: Route, request: Request) -> (Response, Told) {
        let headers = request.headers();
        let is_asked = request.method() != Method::OPTIONS || cors::is_preflight(request.method(), headers);
        if !is_asked || !headers.contains_key(ORIGIN) {
            let (mut response, told) = self.admit(route, request).await;
            response.headers_mut().append(VARY, HeaderValue::from_static("origin"));
            return (response, told);
        }
        let admitting = service_fn(|request| async {
            let (mut response, told) = self.admit(route, request).await;
            response.extensions_mut().insert(told);
            Ok::<_, Infallible>(response)
        });
        // The layer answers by itself what a browser asks beforehand.
        let Ok(mut response) = cors.layer(admitting).oneshot(request).await;
        let told = response.extensions_mut().remove().unwrap_or(NOTHING_TOLD);
        (response, told)
    }

    /// Leads a request to its page.
    ///
    /// What is rare is boxed, here and below: hyper moves the future of every request, which is as large as its largest
    /// branch.
    async fn admit(&self, route: Route, request: Request) -> (Response, Told) {
        match (route, request.method()) {
            _ if self.places.available_permits() == 0 => {
                Box::pin(without_body(request, Problem::Unavailable(Unavailable::Overload))).await
            }
            (Route::Upload(shape), &Method::POST) => upload(self, shape, request).await,
            (Route::Status, &Method::GET | &Method::HEAD) => Box::pin(upload_status(self, request)).await,
            (Route::Upload(_), _) => {
                Box::pin(without_body(request, ([(ALLOW, "POST")], Problem::MethodNotAllowed))).await
            }
            (Route::Status, _) => {
                Box::pin(without_body(request, ([(ALLOW, "GET,HEAD")], Problem::MethodNotAllowed))).await
            }
            (Route::Nowhere, _) => Box::pin(without_body(request, Problem::NotFound)).await,
        }
    }

    /// A place among the requests being served.
    fn place(&self) -> Result<SemaphorePermit<'_>, Problem> {
        self.places.try_acquire().map_err(|_| Problem::Unavailable(Unavailable::Overload))
    }
}

/// The response to a request whose body does not count. It is read all the same, as after any refusal, so that the
/// connection can go on.
async fn without_body(request: Request, response: impl IntoResponse) -> (Response, Told) {
    let (response, (parts, body)) = (response.into_response(), request.into_parts());
    let body_ended = Arriving::new(body).discard(parts.headers.contains_key(EXPECT)).await;
    (response, Told { body_ended, ..NOTHING_TOLD })
}

fn untold(response: impl IntoResponse) -> (Response, Told) {
    (response.into_response(), NOTHING_TOLD)
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

async fn upload(front: &Front, shape: Shape, request: Request) -> (Response, Told) {
    let (parts, body) = request.into_parts();
    let mut body = Arriving::new(body);
    let (response, told) = match answer(front, shape, &parts, &mut body).await {
        Ok(answered) => answered,
        Err(problem) => untold(problem),
    };
    let body_ended = body.discard(parts.headers.contains_key(EXPECT)).await;
    (response, Told { body_ended, ..told })
}

async fn answer(
    front: &Front,
    shape: Shape,
    Parts { headers, .. }: &Parts,
    body: &mut Arriving,
) -> Result<(Response, Told), Problem> {
    let account = front.api_keys.authenticate(headers).await?;
    front.rates.check(account)?;
    media::check_accept(headers)?;
    let codings = media::check_content(headers)?;
    let key = key::parse(headers).map_err(Problem::InvalidKey)?;
    let held = front.bodies.read(body).await?;
    // Not before: a phone on a slow network would keep others from it.
    let _place = front.place()?;
    let bytes = held.bytes.len();
    let preference = Preference::of(headers);
    let (default, max) = front.waits();
    let patience = preference.patience(default, max);
    let sent = Sent { account, key: key.as_deref(), shape, headers, codings, patience };
    let (accepted, _held) = front.acceptance.accept(held, sent).await?;
    let asked = Asked { account, key_hash: accepted.key_hash, preference_applied: preference.applied(max) };
    let outcome = front.answers.answer(accepted).await;
    let told = Told { outcome: outcome_name(&outcome), bytes, ..NOTHING_TOLD };
    Ok((respond::respond(outcome, asked), told))
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

async fn upload_status(front: &Front, request: Request) -> (Response, Told) {
    let mut response = match status_page(front, request.headers(), request.uri()).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    };
    response.headers_mut().append(VARY, STATUS_VARIES);
    without_body(request, response).await
}

async fn status_page(front: &Front, headers: &HeaderMap, uri: &Uri) -> Result<Response, Problem> {
    let _place = front.place()?;
    let account = front.api_keys.authenticate(headers).await?;
    media::check_accept(headers)?;
    let key_hash = key_hash(uri.path()).unwrap_or_default();
    let (key_hash, receipt) = status::asked(key_hash, uri.query(), account)?;
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
