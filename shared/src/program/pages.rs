//! The second listener of each program: `/livez`, `/readyz` and `/metrics`, for operators only.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Longest time to end for requests under way when the program stops.
const LINGER: Duration = Duration::from_secs(1);
/// How often samples of histograms are gathered. Until then each takes memory: a gateway that nobody asked had grown by
/// 200 MiB after 3.6 million uploads (scenario 12 of the benchmark).
const UPKEEP_EVERY: Duration = Duration::from_secs(1);
/// 1 or 0 for each dependency.
const DEPENDENCY_UP: &str = "milepost_dependency_up";

/// What a dependency is like at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dependency {
    /// Whether it works.
    pub up: bool,
    /// Whether the program is not ready without it.
    pub required: bool,
    /// Why it is down, or what it is doing; empty when there is nothing to report.
    pub detail: String,
}

/// The state of all dependencies; each part of the program reports its own. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Dependency>>>);

impl Readiness {
    /// Registers a dependency as down until reported otherwise. A program is ready when all required ones are up.
    pub fn register(&self, name: &'static str, required: bool) {
        self.update(name, |dependency| dependency.required = required);
    }

    /// Reports that a dependency works.
    pub fn up(&self, name: &'static str) {
        self.update(name, |dependency| {
            dependency.up = true;
            dependency.detail.clear();
        });
    }

    /// Reports that a dependency does not work, and why. The text is for operators; no secret in it.
    pub fn down(&self, name: &'static str, detail: impl Into<String>) {
        let detail = detail.into();
        self.update(name, |dependency| {
            dependency.up = false;
            dependency.detail = detail;
        });
    }

    /// Reports that a dependency works, and that the program goes on without it from now on: while it is down, the program is
    /// ready, but degraded.
    pub fn up_and_optional(&self, name: &'static str) {
        self.update(name, |dependency| {
            *dependency = Dependency { up: true, required: false, detail: String::new() };
        });
    }

    /// Whether every required dependency is up.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        is_ready(&self.snapshot())
    }

    /// All dependencies as they are now.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<&'static str, Dependency> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, name: &'static str, change: impl FnOnce(&mut Dependency)) {
        let mut dependencies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let dependency = dependencies.entry(name).or_insert(Dependency {
            up: false,
            required: true,
            detail: "starting".to_owned(),
        });
        let was_up = dependency.up;
        change(dependency);
        metrics::gauge!(DEPENDENCY_UP, "dependency" => name).set(f64::from(u8::from(dependency.up)));
        if dependency.up != was_up {
            tracing::info!(
                dependency = name,
                up = dependency.up,
                detail = dependency.detail,
                "dependency changed"
            );
        }
    }
}

fn is_ready(dependencies: &BTreeMap<&'static str, Dependency>) -> bool {
    dependencies.values().all(|dependency| dependency.up || !dependency.required)
}

/// Binds the listener, so that a port in use is reported before anything else is started.
///
/// # Errors
/// The address cannot be bound.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Serves the three pages until `stop`, and keeps the metrics small if nobody asks for them. What has not been answered a
/// second later is cut off: a client that is silent must not keep the program from ending.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let upkeep = metrics.clone();
    let pages = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .with_state(readiness)
        .route(
            "/metrics",
            get(move || {
                metrics.run_upkeep();
                std::future::ready(metrics.render())
            }),
        );
    tracing::info!(address = %listener.local_addr()?, "operator pages listening");
    let serving = axum::serve(listener, pages).with_graceful_shutdown(stop.clone().cancelled_owned());
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        served = serving.into_future() => Ok(served?),
        () = overdue => Ok(()),
        () = repeat(UPKEEP_EVERY, || upkeep.run_upkeep()) => Ok(()),
    }
}

async fn repeat(every: Duration, work: impl Fn()) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        work();
    }
}

async fn readyz(State(readiness): State<Readiness>) -> impl IntoResponse {
    #[derive(Serialize)]
    struct Page {
        ready: bool,
        /// What is down that it can do without.
        degraded: Vec<&'static str>,
        dependencies: BTreeMap<&'static str, Dependency>,
    }
    let dependencies = readiness.snapshot();
    let ready = is_ready(&dependencies);
    let degraded = dependencies.iter().filter(|(_, one)| !one.up && !one.required).map(|(name, _)| *name);
    let degraded = degraded.collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Page { ready, degraded, dependencies }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_ready_when_all_it_requires_is_up() {
        let readiness = Readiness::default();
        readiness.register("kafka", true);
        readiness.register("postgres", false);
        assert!(!readiness.is_ready());
        readiness.up("kafka");
        assert!(readiness.is_ready());
        readiness.down("kafka", "gone");
        assert!(!readiness.is_ready());
        assert_eq!(readiness.snapshot()["kafka"].detail, "gone");
    }

    #[tokio::test]
    async fn a_program_that_can_do_without_what_is_down_is_ready_and_names_it() {
        let readiness = Readiness::default();
        readiness.register("kafka", true);
        readiness.up_and_optional("kafka");
        readiness.down("kafka", "gone");
        assert!(readiness.is_ready());
        let response = readyz(State(readiness)).await.into_response();
        assert_eq!(response.status(), StatusCode::OK);
        let page = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let page: serde_json::Value = serde_json::from_slice(&page).unwrap();
        assert_eq!(page["degraded"], serde_json::json!(["kafka"]));
        assert_eq!(page["dependencies"]["kafka"]["detail"], "gone");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_repeated_is_done_at_once_and_then_every_time() {
        let done = std::cell::Cell::new(0);
        let repeating = repeat(UPKEEP_EVERY, || done.set(done.get() + 1));
        let _ = tokio::time::timeout(UPKEEP_EVERY * 10 + UPKEEP_EVERY / 2, repeating).await;
        assert_eq!(done.get(), 11);
    }
}
