//! What must hold before a gateway may go on: topics that keep the rules, and a schema this build was written
//! for. The number of partitions must hold as long as it runs.

use std::time::Duration;

use milepost_shared::kafka::topics::{TopicAdmin, refuse_violations, watch_partitions};
use milepost_shared::program::backoff::Backoff;
use milepost_shared::program::pages::Readiness;
use milepost_shared::program::settings::KafkaSettings;
use milepost_shared::store::migrate;
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const TOPICS: &str = "topics";
const SCHEMA: &str = "schema";
/// Longest pause between attempts to reach a server, before jitter.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Longest time for one attempt to read the schema's version.
const SCHEMA_TIMEOUT: Duration = Duration::from_secs(5);

/// Registers what is checked. Postgres may be down when a gateway starts, so the schema does not keep it from
/// being ready.
pub fn register(readiness: &Readiness) {
    readiness.register(TOPICS, true);
    readiness.register(SCHEMA, false);
}

/// Compares the topics with the rules, trying until Kafka answers or `stop`.
///
/// # Errors
/// The violations; the gateway must not run.
pub async fn check_topics(
    settings: &KafkaSettings,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let topics = TopicAdmin::new(settings)?;
    let mut backoff = Backoff::new(BACKOFF_MAX);
    while let Some(described) = stop.run_until_cancelled(topics.describe(settings)).await {
        match described {
            Ok(actual) => {
                refuse_violations(settings, &actual)?;
                readiness.up(TOPICS);
                return Ok(());
            }
            Err(error) => readiness.down(TOPICS, format!("{error:#}")),
        }
        backoff.pause(stop).await;
    }
    Ok(())
}

/// Looks until `stop` whether the topics keep their partitions.
///
/// # Errors
/// One of them has another number; the gateway must not go on.
pub async fn watch_topics(
    settings: &KafkaSettings,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let watched = watch_partitions(settings, stop).await;
    if let Err(violation) = &watched {
        readiness.down(TOPICS, violation.to_string());
    }
    watched
}

/// Compares the schema's version with this build's, trying until Postgres tells it or `stop`.
///
/// # Errors
/// The schema is too old; the gateway must not run.
pub async fn check_schema(
    options: &PgConnectOptions,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut backoff = Backoff::new(BACKOFF_MAX);
    let check = async || {
        let mut connection = options.connect().await?;
        migrate::check_version(&mut connection).await
    };
    while let Some(checked) = stop.run_until_cancelled(timeout(SCHEMA_TIMEOUT, check())).await {
        match checked {
            Ok(Ok(())) => {
                readiness.up(SCHEMA);
                return Ok(());
            }
            // Whatever the database itself says may heal, and a migration that is under way may end.
            Ok(Err(error)) if error.chain().any(|cause| cause.is::<sqlx::Error>()) => {
                readiness.down(SCHEMA, "cannot be read");
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => readiness.down(SCHEMA, "Postgres does not answer"),
        }
        backoff.pause(stop).await;
    }
    Ok(())
}
