//! Logs and metrics, set up once by each program's `main`.
//!
//! A log line can be read alone: a lower-case message, values as fields, units in field names. Never in a log line: a
//! coordinate, a raw key, an API key, a body.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::program::settings::{LogFormat, TelemetrySettings};

/// Histogram bounds for durations, seconds: from a cache hit to the longest wait allowed.
const SECONDS_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Histogram bounds for sizes of batches, records.
const SIZE_BUCKETS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0];

/// Starts logging to standard error and returns what renders the metrics.
///
/// # Errors
/// The log filter cannot be parsed, or telemetry was started before.
pub fn start(settings: &TelemetrySettings) -> anyhow::Result<PrometheusHandle> {
    let filter = EnvFilter::try_new(&settings.log)?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Text => subscriber.with_ansi(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    }
    .map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))?;
    // A panic is a log line like any other failure; the default hook's message may hold values, so only its place is logged.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panic");
    }));
    let builder = PrometheusBuilder::new().set_buckets(SECONDS_BUCKETS)?.set_buckets_for_metric(
        metrics_exporter_prometheus::Matcher::Suffix("_records".into()),
        SIZE_BUCKETS,
    )?;
    Ok(builder.install_recorder()?)
}
