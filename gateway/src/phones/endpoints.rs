//! The addresses of phone apps: who sends, what it holds, and the answer that the app takes for success.
//!
//! Paths and queries hold API keys, and bodies passwords: of a request no more than its route is logged or counted, and
//! what holds parts of it has no `Debug`.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request as Received, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, on};
use clap::Args;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{HeaderMap, HeaderName, Uri};
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::clock::{Clock, millis};

use super::answer::Forgets;
use super::metric::AppMetrics;
use super::problem::{NOT_THIS_PROTOCOL, unavailable};
use super::{Protocol, Reason, Record, Request, Rules, answer, credentials, decode};
use crate::admission::coding::Codings;
use crate::admission::known::Identity;
use crate::admission::{Admission, parse};
use crate::answer::points::Points;
use crate::answer::service::Answers;
use crate::http::problem::{INTERNAL, METHOD_NOT_ALLOWED, Problem};

/// The device of an app that names none.
pub const DEVICE: &str = "phone";
/// Names the user and the device in OwnTracks.
const X_LIMIT_U: HeaderName = HeaderName::from_static("x-limit-u");
const X_LIMIT_D: HeaderName = HeaderName::from_static("x-limit-d");
/// What a page of another origin may send, besides what it may send to the JSON API.
pub const REQUEST_HEADERS: [HeaderName; 2] = [X_LIMIT_U, X_LIMIT_D];
/// The most memory that reading a body may take per byte, besides the body itself (`gateway/tests/phones_memory.rs`).
pub const MEMORY_PER_BYTE: usize = 32;

/// The protocols of phone apps.
#[derive(Debug, Clone, Args)]
pub struct PhoneSettings {
    /// Apps whose requests are taken, comma separated, of owntracks, overland, traccar and gpslogger; empty takes none.
    #[arg(long, env, default_value = "owntracks,overland,traccar,gpslogger")]
    pub phone_protocols: Protocols,
}

/// Which protocols are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocols(pub Vec<Protocol>);

impl FromStr for Protocols {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let protocol = |name: &str| {
            let named = Protocol::ALL.into_iter().find(|protocol| protocol.name() == name);
            named.ok_or_else(|| {
                format!("no protocol {name:?}; {}", Protocol::ALL.map(Protocol::name).join(", "))
            })
        };
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let named = names.map(protocol).collect::<Result<Vec<_>, _>>()?;
        Ok(Self(Protocol::ALL.into_iter().filter(|protocol| named.contains(protocol)).collect()))
    }
}

/// The routes of a protocol, by which its requests are counted.
#[must_use]
pub const fn routes(protocol: Protocol) -> [&'static str; 3] {
    match protocol {
        Protocol::Owntracks => ["/owntracks", "/owntracks/", "/owntracks/{*rest}"],
        Protocol::Overland => ["/overland", "/overland/", "/overland/{*rest}"],
        Protocol::Traccar => ["/traccar", "/traccar/", "/traccar/{*key}"],
        Protocol::Gpslogger => ["/gpslogger", "/gpslogger/", "/gpslogger/{*key}"],
    }
}

/// Whether an app sends this that deletes what it has sent at any answer. Where it would be told to come again, its
/// connection must be closed instead.
#[must_use]
pub fn forgets_at_any_answer(uri: &Uri, headers: &HeaderMap) -> bool {
    let is_traccar = || {
        let below = uri.path().strip_prefix(routes(Protocol::Traccar)[0]);
        below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    };
    is_traccar() && Forgets::of(Protocol::Traccar, text(headers, &USER_AGENT)) == Forgets::Answered
}

/// How its apps send. What they put into the query is sent by any of the methods.
const fn methods(protocol: Protocol) -> MethodFilter {
    match protocol {
        Protocol::Owntracks | Protocol::Overland => MethodFilter::POST,
        Protocol::Traccar | Protocol::Gpslogger => {
            MethodFilter::GET.or(MethodFilter::POST).or(MethodFilter::PUT)
        }
    }
}

/// What the requests of phone apps need.
pub struct Phones {
    admission: Admission,
    parsers: parse::Parsers,
    answers: Answers,
    clock: Clock,
    timestamp_ahead_max: Duration,
    metrics: Vec<(Protocol, AppMetrics)>,
}

/// A request without its body.
struct Asked {
    protocol: Protocol,
    /// Below the route.
    path: String,
    query: String,
    user_agent: String,
    device: String,
}

impl Asked {
    fn new(protocol: Protocol, request: &Received) -> Self {
        let (uri, headers) = (request.uri(), request.headers());
        let below = uri.path().strip_prefix(routes(protocol)[0]).unwrap_or_default();
        Self {
            protocol,
            path: below.to_owned(),
            query: uri.query().unwrap_or_default().to_owned(),
            user_agent: text(headers, &USER_AGENT).to_owned(),
            device: text(headers, &X_LIMIT_D).to_owned(),
        }
    }

    fn with<'a>(&'a self, body: &'a [u8]) -> Request<'a> {
        let Self { protocol, path, query, user_agent, device } = self;
        Request { protocol: *protocol, path, query, user_agent, device_header: device, body }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok()).unwrap_or_default()
}

impl Phones {
    /// Admits requests of these protocols and has their points taken.
    #[must_use]
    pub fn new(
        protocols: &Protocols,
        timestamp_ahead_max: Duration,
        admission: Admission,
        answers: Answers,
        clock: Clock,
    ) -> Self {
        let parsers = admission.parsers.with_memory(MEMORY_PER_BYTE);
        let metrics =
            protocols.0.iter().map(|protocol| (*protocol, AppMetrics::new(protocol.name()))).collect();
        Self { admission, parsers, answers, clock, timestamp_ahead_max, metrics }
    }

    /// The routes of its protocols.
    pub fn routes(self) -> Router {
        let protocols: Vec<Protocol> = self.metrics.iter().map(|(protocol, _)| *protocol).collect();
        let mut router = Router::new();
        for protocol in protocols {
            let receive =
                async move |State(phones): State<Arc<Self>>, request| phones.receive(protocol, request).await;
            for route in routes(protocol) {
                let mut method = on(methods(protocol), receive);
                if methods(protocol) != MethodFilter::POST {
                    // axum would take HEAD for GET: who only looks at a link must not store what is in it.
                    method = method.head(async || ([(ALLOW, "GET,POST,PUT")], METHOD_NOT_ALLOWED));
                }
                router = router.route(route, method);
            }
        }
        router.with_state(Arc::new(self))
    }

    async fn receive(&self, protocol: Protocol, request: Received) -> Response {
        let asked = Arc::new(Asked::new(protocol, &request));
        match self.take(&asked, request).await {
            Ok(()) => success(answer::success(&asked.with(&[]))),
            Err(problem) => refused(&asked, problem).into_response(),
        }
    }

    async fn take(&self, asked: &Arc<Asked>, request: Received) -> Result<(), Problem> {
        let (parts, body) = request.into_parts();
        let headers = &parts.headers;
        let secret =
            credentials::find(asked.protocol, &asked.path, &asked.query, text(headers, &AUTHORIZATION));
        let Identity { account, device } = self.admission.uploader_by(secret.as_deref()).await?;
        let codings = Codings::of(headers)?;
        let held = self.admission.bodies.read(body).await?;
        let _slot = self.admission.slots.take()?;
        let (reading, arrival) = (Arc::clone(asked), self.clock.now_ms());
        let timestamp_max = arrival.saturating_add(millis(self.timestamp_ahead_max));
        let parsing = self.parsers.parse(held, codings, move |body| {
            let rules = Rules { bound: device.as_deref(), arrival, timestamp_max };
            read(&reading.with(body), &rules, account)
        });
        let ((points, beside), mut held) = parsing.await?;
        held.replace(points.heap_bytes())?;
        let metrics = self.metrics.iter().find(|(protocol, _)| *protocol == asked.protocol);
        // Never without its metrics, since its routes come with them; and nothing is answered that is not taken.
        let Some((_, metrics)) = metrics else { return Err(INTERNAL) };
        self.answers.take(points, &metrics.points, held).await.map_err(unavailable)?;
        metrics.count(&beside.set_aside, &beside.records);
        Ok(())
    }
}

/// What a request holds besides points.
pub struct Beside {
    /// Why points were set aside.
    pub set_aside: Vec<Reason>,
    /// What is no point.
    pub records: Vec<Record>,
}

/// What is taken of a request. Pure.
///
/// # Errors
/// It is of no app that sends there.
pub fn read(
    request: &Request<'_>,
    rules: &Rules<'_>,
    account: AccountId,
) -> Result<(Points, Beside), Problem> {
    let decoded = decode(request, rules).map_err(|_| NOT_THIS_PROTOCOL)?;
    let mut points = Points::of(account, decoded.points.len() + decoded.set_aside.len());
    for point in decoded.points {
        points.add(point.device.as_deref().unwrap_or(DEVICE), point.location);
    }
    for point in &decoded.set_aside {
        let path = point.path();
        let field = Some(path.as_str()).filter(|path| !path.is_empty());
        // As of a good one; a name that breaks a rule is none.
        let device = point.device.as_deref().or((point.reason != Reason::DeviceName).then_some(DEVICE));
        points.add_set_aside(request.protocol.name(), device, point.reason.name(), field, &point.raw);
    }
    let set_aside = decoded.set_aside.iter().map(|point| point.reason).collect();
    Ok((points, Beside { set_aside, records: decoded.records }))
}

fn success(success: answer::Success) -> Response {
    let mut response = Response::new(Body::from(success.body));
    *response.status_mut() = success.status;
    if let Some(content_type) = success.content_type {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    response
}

/// The problem with the status by which the app loses nothing.
fn refused(asked: &Asked, problem: Problem) -> Problem {
    let status = answer::refusal(asked.protocol, &asked.user_agent, problem.status);
    Problem { status, ..problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_named_and_may_be_none() {
        let parsed = |text: &str| text.parse::<Protocols>().map(|protocols| protocols.0);
        assert_eq!(parsed("traccar, owntracks ,traccar"), Ok(vec![Protocol::Owntracks, Protocol::Traccar]));
        assert_eq!(parsed(""), Ok(Vec::new()));
        assert!(parsed("owntracks,mqtt").unwrap_err().contains("mqtt"));
    }

    #[test]
    fn an_app_that_forgets_at_any_answer_is_known_by_its_name_and_its_address() {
        const IOS: &str = "TraccarClient/8 CFNetwork/1410.1 Darwin/22.6.0";
        for (path, user_agent, forgets) in [
            ("/traccar/key?id=1", IOS, true),
            ("/traccar", IOS, true),
            ("/traccars/key", IOS, false),
            ("/overland", IOS, false),
            ("/api/v1/locations", IOS, false),
            ("/traccar/key", "Dalvik/2.1.0 (Linux; U; Android 11)", false),
            ("/traccar/key", "okhttp/3.14.9", false),
            ("/traccar/key", "ktor-client", false),
            ("/owntracks", "OwnTracks/26.1.1 CFNetwork/3860.400.51 Darwin/25.3.0", false),
        ] {
            let headers = HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static(user_agent))]);
            assert_eq!(
                forgets_at_any_answer(&path.parse().unwrap(), &headers),
                forgets,
                "{path} {user_agent}"
            );
        }
        assert!(!forgets_at_any_answer(&Uri::from_static("/traccar/key"), &HeaderMap::new()));
    }

    #[test]
    fn every_route_of_a_protocol_begins_with_its_name() {
        for protocol in Protocol::ALL {
            let name = format!("/{}", protocol.name());
            assert!(routes(protocol).iter().all(|route| route.starts_with(&name)));
            assert_eq!(routes(protocol)[0], name);
        }
    }
}
