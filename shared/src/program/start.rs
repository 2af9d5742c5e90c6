//! What must hold before a program may go on: topics that keep the rules, and a schema that this build was written for. The
//! number of partitions must hold as long as it runs.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::kafka::topics::{TopicAdmin, refuse_violations, watch_partitions};
use crate::program::backoff::Backoff;
use crate::program::pages::Readiness;
use crate::program::settings::KafkaSettings;
use crate::store::connect::Target;
use crate::store::{migrate, partitions, trouble};

/// Longest time for one attempt to read the schema's version.
const SCHEMA_TIMEOUT: Duration = Duration::from_secs(5);

/// What is configured, here or in the cluster, is not what it has to be: an operator has to act.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct BadConfiguration(anyhow::Error);

/// Checks that wait for servers that are not up yet, and report to `readiness` under the name they are given.
#[derive(Debug, Clone, Copy)]
pub struct Checks<'a> {
    /// Where the name is up once the check has passed.
    pub readiness: &'a Readiness,
    /// Ends the waits.
    pub stop: &'a CancellationToken,
    /// Longest pause between two attempts, before jitter.
    pub backoff_max: Duration,
}

/// What one attempt has found: nothing against it, or why nothing can be said yet.
type Found = Result<(), String>;

impl Checks<'_> {
    /// Compares the topics with the rules. False if `stop` came first.
    ///
    /// # Errors
    /// The violations.
    pub async fn topics(&self, kafka: &KafkaSettings, name: &'static str) -> Result<bool, BadConfiguration> {
        let topics = TopicAdmin::new(kafka).map_err(BadConfiguration)?;
        let check = || async {
            match topics.describe(kafka).await {
                Ok(actual) => refuse_violations(kafka, &actual).map(Ok),
                Err(error) => Ok(Err(format!("{error:#}"))),
            }
        };
        self.until_known(name, check).await
    }

    /// Looks until `stop` whether the topics keep their partitions.
    ///
    /// # Errors
    /// One of them has another number: the program must not go on.
    pub async fn watch_topics(
        &self,
        kafka: &KafkaSettings,
        name: &'static str,
    ) -> Result<(), BadConfiguration> {
        let watched = watch_partitions(kafka, self.stop).await;
        if let Err(violation) = &watched {
            self.readiness.down(name, violation.to_string());
        }
        watched.map_err(BadConfiguration)
    }

    /// Compares the schema's version with this build's and, if one is given, how long keys are kept with the TTL. False if
    /// `stop` came first.
    ///
    /// # Errors
    /// The schema is too old, or keys are not kept for long enough.
    pub async fn schema(
        &self,
        target: &Target,
        ttl: Option<Duration>,
        name: &'static str,
    ) -> Result<bool, BadConfiguration> {
        let ask = async |mut connection: PgConnection| {
            migrate::check_version(&mut connection).await?;
            match ttl {
                Some(ttl) => partitions::check_ttl(&mut connection, ttl).await,
                None => Ok(()),
            }
        };
        let check = || async {
            let connection = match target.connect().await {
                Ok(connection) => connection,
                Err(error) => return Ok(Err(trouble::in_words(&error))),
            };
            match timeout(SCHEMA_TIMEOUT, ask(connection)).await {
                Ok(Ok(())) => Ok(Ok(())),
                Ok(Err(error)) => match error.chain().find_map(|cause| cause.downcast_ref()) {
                    // Whatever the database itself says may heal, and a migration that is under way may end.
                    Some(cause) => {
                        Ok(Err(format!("cannot read the schema's version: {}", trouble::in_words(cause))))
                    }
                    None => Err(error),
                },
                Err(_) => Ok(Err("Postgres does not answer".to_owned())),
            }
        };
        self.until_known(name, check).await
    }

    // Not an `AsyncFn`: a future with one in it cannot be sent to another thread.
    async fn until_known<C>(
        &self,
        name: &'static str,
        check: impl Fn() -> C,
    ) -> Result<bool, BadConfiguration>
    where
        C: Future<Output = anyhow::Result<Found>>,
    {
        let mut backoff = Backoff::new(self.backoff_max);
        while let Some(found) = self.stop.run_until_cancelled(check()).await {
            match found.map_err(BadConfiguration)? {
                Ok(()) => {
                    self.readiness.up(name);
                    return Ok(true);
                }
                Err(why) => self.readiness.down(name, why),
            }
            backoff.pause(self.stop).await;
        }
        Ok(false)
    }
}
