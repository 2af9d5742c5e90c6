//! What all scenarios share: the servers, the uploads, and how much is measured.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use milepost_tests::{Server, Services, WorldSettings};
use sqlx::{Connection as _, PgConnection};

use crate::arguments::Arguments;
use crate::cost;
use crate::size::Size;
use crate::uploads::Uploads;

/// Locations of each upload in a batch.
pub const BATCH_LOCATIONS: u64 = 50;
/// Connections of most scenarios.
pub const CONNECTIONS: usize = 256;

/// A Kafka and a Postgres that run, and what is sent.
#[derive(Debug)]
pub struct Setup {
    /// How much is measured.
    pub size: Size,
    /// Where the servers and the programs are.
    pub services: Services,
    /// The Kafka.
    pub kafka: Server,
    /// The Postgres.
    pub postgres: Server,
    /// One location each.
    pub singles: Arc<Uploads>,
    /// [`BATCH_LOCATIONS`] locations each.
    pub batches: Arc<Uploads>,
    /// Database connections of *plain*.
    pub plain_connections: u32,
    /// Settings of gateways and consumers that are not the defaults.
    pub tried: Vec<(String, String)>,
    /// Partitions of each topic.
    pub partitions: u16,
}

impl Setup {
    /// Starts the servers, and makes the uploads.
    ///
    /// # Errors
    /// A server does not start, or Postgres does not wait for its disk.
    pub async fn start(arguments: &Arguments) -> anyhow::Result<Self> {
        let (kafka, postgres) = tokio::try_join!(Server::kafka(), Server::postgres())?;
        let this = std::env::current_exe()?;
        let services = Services {
            kafka: kafka.address(),
            database_url: format!("postgres://milepost@{}/milepost", postgres.address()),
            bin_dir: this.parent().context("this program lies in no directory")?.to_owned(),
        };
        let setup = Self {
            size: arguments.size,
            services,
            kafka,
            postgres,
            singles: Arc::new(Uploads::singles()),
            batches: Arc::new(Uploads::batches(BATCH_LOCATIONS)),
            plain_connections: arguments.plain_connections,
            tried: arguments.tried.clone(),
            partitions: arguments.partitions,
        };
        let mut owner = setup.owner().await?;
        for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
            let value: String = sqlx::query_scalar(&format!("SHOW {setting}")).fetch_one(&mut owner).await?;
            ensure!(value == "on", "{setting} of Postgres is {value}: nothing measured here would count");
        }
        Ok(setup)
    }

    /// A connection to the owner's own database.
    ///
    /// # Errors
    /// Postgres is not there.
    pub async fn owner(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect(&self.services.database_url).await?)
    }

    /// The settings of every installation: the programs' defaults.
    #[must_use]
    pub fn world_settings(&self) -> WorldSettings {
        let day = Duration::from_secs(86_400);
        WorldSettings { ttl: day, consumer_outage_max: day * 6, partitions: self.partitions }
    }

    /// The processes of the servers, for [`cost::cpu_times`].
    ///
    /// # Errors
    /// One of them does not run.
    pub fn processes(&self) -> anyhow::Result<Vec<(&'static str, i32)>> {
        Ok(vec![("Kafka", cost::server_pid(&self.kafka)?), ("Postgres", cost::server_pid(&self.postgres)?)])
    }
}
