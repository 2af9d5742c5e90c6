//! The JSON API, Milepost's own protocol: how a request becomes an upload, and an outcome its response.
//!
//! Its [`key`] and what it may [`prefer`] make, with what [`decode`] reads, an accepted upload of a request. [`respond`] turns
//! an outcome into HTTP, with the [`receipt`] of a 202 whose [`status`] may be asked for later. What goes wrong is a
//! [`problem`].

pub mod decode;
pub mod key;
pub mod prefer;
pub mod problem;
pub mod receipt;
pub mod respond;
pub mod status;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use clap::Args;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, LOCATION, RETRY_AFTER,
    VARY, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use milepost_shared::journal::clock::Clock;
use milepost_shared::location::Shape;
use tokio_util::sync::CancellationToken;

use crate::admission::authenticate::{Identity, X_API_KEY};
use crate::admission::{Admission, media};
use crate::answer::service::Answers;
use crate::http::problem::Problem;
use crate::http::router::REQUEST_ID;
use crate::native::decode::{Acceptance, DecodeSettings, Sent};
use crate::native::prefer::{Preference, WaitSettings};
use crate::native::problem::invalid_key;
use crate::native::respond::Asked;

const LOCATIONS: &str = "/api/v1/locations";
const BATCH: &str = "/api/v1/locations/batch";
const UPLOAD: &str = "/api/v1/uploads/{key_hash}";
/// Its routes, by which its requests are counted.
pub const ROUTES: [&str; 3] = [LOCATIONS, BATCH, UPLOAD];
/// What a page of another origin may send.
pub const REQUEST_HEADERS: [HeaderName; 9] = [
    X_API_KEY,
    AUTHORIZATION,
    ACCEPT,
    CONTENT_TYPE,
    CONTENT_ENCODING,
    key::NAME,
    key::ALIAS,
    prefer::PREFER,
    decode::TRACEPARENT,
];
/// What it may read.
pub const RESPONSE_HEADERS: [HeaderName; 8] = [
    REQUEST_ID,
    respond::REPLAYED,
    respond::PREFERENCE_APPLIED,
    RETRY_AFTER,
    LOCATION,
    ALLOW,
    ACCEPT_ENCODING,
    WWW_AUTHENTICATE,
];
/// What a status page, which is the only one that is asked for by GET, depends on besides its address.
const STATUS_VARIES: HeaderValue = HeaderValue::from_static("accept, authorization, x-api-key");
/// The longest wait for a final answer once the gateway is stopping: the connection must end well before the
/// program.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(1);

/// The bounds of uploads and of the waits for their answers.
#[derive(Debug, Clone, Args)]
pub struct NativeSettings {
    /// What is an upload.
    #[command(flatten)]
    pub decode: DecodeSettings,

    /// How long one waits for its answer.
    #[command(flatten)]
    pub waits: WaitSettings,
}

/// What its requests need.
pub struct Native {
    admission: Admission,
    acceptance: Acceptance,
    answers: Answers,
    waits: WaitSettings,
    /// Cancelled when the gateway begins to drain.
    stop: CancellationToken,
}

impl Native {
    /// Admits requests and has their uploads answered.
    #[must_use]
    pub fn new(
        settings: &NativeSettings,
        admission: Admission,
        answers: Answers,
        clock: Clock,
        stop: CancellationToken,
    ) -> Self {
        let acceptance = Acceptance::new(&settings.decode, admission.parsers.clone(), clock);
        Self { admission, acceptance, answers, waits: settings.waits, stop }
    }

    /// Its routes.
    pub fn routes(self) -> Router {
        let upload = |shape| {
            post(async move |State(native): State<Arc<Self>>, request| native.upload(shape, request).await)
        };
        Router::new()
            .route(LOCATIONS, upload(Shape::Single))
            .route(BATCH, upload(Shape::Batch))
            .route(UPLOAD, get(status_page))
            .with_state(Arc::new(self))
    }

    async fn upload(&self, shape: Shape, request: Request) -> Result<Response, Problem> {
        let (parts, body) = request.into_parts();
        let headers = &parts.headers;
        let Identity { account, device } = self.admission.uploader(headers).await?;
        media::check_accept(headers)?;
        let codings = media::check_content(headers)?;
        let key = key::parse(headers).map_err(invalid_key)?;
        let held = self.admission.bodies.read(body).await?;
        let _slot = self.admission.slots.take()?;
        let preference = Preference::of(headers);
        let waits = self.waits();
        let patience = preference.patience(waits);
        let sent = Sent { account, device, key: key.as_deref(), shape, headers, codings, patience };
        let (accepted, _held) = self.acceptance.accept(held, sent).await?;
        let preference_applied = preference.applied(waits.wait_max);
        let asked = Asked { account, key_hash: accepted.key_hash, preference_applied };
        Ok(respond::respond(self.answers.answer(accepted).await, asked))
    }

    fn waits(&self) -> WaitSettings {
        if self.stop.is_cancelled() { self.waits.at_most(PATIENCE_AT_THE_END) } else { self.waits }
    }

    async fn status(
        &self,
        headers: &HeaderMap,
        key_hash: &str,
        query: Option<&str>,
    ) -> Result<Response, Problem> {
        let _slot = self.admission.slots.take()?;
        let Identity { account, .. } = self.admission.api_keys.authenticate(headers).await?;
        media::check_accept(headers)?;
        let (key_hash, receipt) = status::asked(key_hash, query, account)?;
        Ok(status::respond(self.answers.status(account, key_hash, receipt).await))
    }
}

async fn status_page(
    State(native): State<Arc<Native>>,
    headers: HeaderMap,
    key_hash: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Response {
    // What is not even text is no key hash either.
    let key_hash = key_hash.map_or_else(|_| String::new(), |Path(key_hash)| key_hash);
    let mut response = native.status(&headers, &key_hash, query.as_deref()).await.into_response();
    response.headers_mut().append(VARY, STATUS_VARIES);
    response
}
