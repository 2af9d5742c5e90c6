//! What the gateway is made of: the protocols, what they ask of every request, and the HTTP around them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use milepost_shared::journal::clock::Clock;
use milepost_shared::program::pages::Readiness;
use milepost_shared::store::connect::Target;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::admission::authenticate::ApiKeys;
use crate::admission::body::Bodies;
use crate::admission::parse::Parsers;
use crate::admission::rate::Rates;
use crate::answer::service::Answers;
use crate::http::access_log::AccessLog;
use crate::http::cors;
use crate::http::metric::HttpMetrics;
use crate::http::refuser::Refuser;
use crate::http::router::Pipeline;
use crate::http::slots::Slots;
use crate::native::{self, Native};
use crate::phones::endpoints::{self, Phones};
use crate::settings::GatewaySettings;

/// What the server serves.
pub struct App {
    /// All routes.
    pub pipeline: Arc<Pipeline>,
    /// What it says to those that do not get that far.
    pub refuser: Arc<Refuser>,
}

impl App {
    /// Puts the layers together; `stop` is cancelled when the gateway begins to drain. To be called in a tokio runtime.
    ///
    /// # Errors
    /// Two routes have the same path.
    pub fn new(
        settings: &GatewaySettings,
        database: &Target,
        answers: Answers,
        readiness: &Readiness,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let clock = Clock::new(settings.tests.clock_offset_ms);
        let admission = admission(settings, database, readiness, clock, stop);
        let slots = Arc::clone(&admission.slots);
        let protocols = &settings.phones.phone_protocols;
        let of_phones = protocols.0.iter().copied().flat_map(endpoints::routes);
        let routes: Vec<&str> = native::ROUTES.into_iter().chain(of_phones).collect();
        let log = Arc::new(AccessLog::new(HttpMetrics::new(&routes).context("routes")?));
        let headers = [&native::REQUEST_HEADERS[..], &endpoints::REQUEST_HEADERS].concat();
        let cors = cors::layer(&settings.cors, &headers, &native::RESPONSE_HEADERS);
        let ahead = settings.native.decode.timestamp_ahead_max;
        let phones = Phones::new(protocols, ahead, admission.clone(), answers.clone(), clock);
        let native = Native::new(&settings.native, admission, answers, clock, stop.clone());
        let routes = native.routes().merge(phones.routes());
        let forgets = endpoints::forgets_at_any_answer;
        let pipeline = Arc::new(Pipeline::new(routes, forgets, cors, slots, Arc::clone(&log), stop.clone()));
        Ok(Self { pipeline, refuser: Arc::new(Refuser { log, clock }) })
    }
}

fn admission(
    settings: &GatewaySettings,
    database: &Target,
    readiness: &Readiness,
    clock: Clock,
    stop: &CancellationToken,
) -> Admission {
    let timeout = settings.api_keys.api_key_timeout.max(Duration::from_secs(5));
    let api_keys = ApiKeys::new(&settings.api_keys, database.bounded(timeout), readiness, clock);
    tokio::spawn(api_keys.clone().refresh(stop.clone()));
    let rates = Arc::new(Rates::new(&settings.rates));
    tokio::spawn({
        let (rates, stop) = (Arc::clone(&rates), stop.clone());
        async move { rates.forget(&stop).await }
    });
    let slots = Arc::new(Slots::new(settings.server.requests_max));
    let bodies = Bodies::new(&settings.bodies);
    let parsers = Parsers::new(bodies.bytes_max);
    Admission { api_keys, rates, bodies, parsers, slots }
}

#[cfg(test)]
#[path = "app_tests.rs"]
mod tests;
