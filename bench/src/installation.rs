//! Milepost itself: a database, topics, gateways and consumers, as the programs' defaults set them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use milepost_tests::{Program, Services, World, eventually};

use crate::clients::Clients;
use crate::ledger::Ledger;
use crate::requests::{Requests, Sent};
use crate::setup::Setup;

/// Longest time until the consumer has caught up.
const PERSISTED: Duration = Duration::from_secs(600);

/// One installation.
#[derive(Debug)]
pub struct Installation {
    /// Its database and topics.
    pub world: World,
    /// Its gateways.
    pub gateways: Vec<Program>,
    /// Its consumers.
    pub consumers: Vec<Program>,
    /// What it has answered.
    pub ledger: Arc<Ledger>,
    tried: Vec<(String, String)>,
}

impl Installation {
    /// Without programs.
    ///
    /// # Errors
    /// The database or the topics cannot be made.
    pub async fn new(setup: &Setup) -> anyhow::Result<Self> {
        let world = World::on(setup.services.clone(), setup.world_settings()).await?;
        Ok(Self {
            world,
            gateways: Vec::new(),
            consumers: Vec::new(),
            ledger: Arc::default(),
            tried: setup.tried.clone(),
        })
    }

    /// With so many gateways and as many consumers, all ready. `settings` are the gateways'.
    ///
    /// # Errors
    /// One of them does not become ready.
    pub async fn start(setup: &Setup, of_each: usize, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut installation = Self::new(setup).await?;
        for _ in 0..of_each {
            installation.add_consumer(&[]).await?;
        }
        for _ in 0..of_each {
            installation.add_gateway(settings).await?;
        }
        Ok(installation)
    }

    /// One gateway and one consumer of another build, as its defaults set them.
    ///
    /// # Errors
    /// One of them does not become ready.
    pub async fn start_before(setup: &Setup, programs: &Path) -> anyhow::Result<Self> {
        let services = Services { bin_dir: programs.to_owned(), ..setup.services.clone() };
        let world = World::on(services, setup.world_settings()).await?;
        let (gateways, consumers, ledger, tried) = Default::default();
        let mut installation = Self { world, gateways, consumers, ledger, tried };
        installation.add_consumer(&[]).await?;
        installation.add_gateway(&[]).await?;
        Ok(installation)
    }

    /// One more gateway.
    ///
    /// # Errors
    /// It does not become ready.
    pub async fn add_gateway(&mut self, settings: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut gateway = self.world.new_gateway()?;
        gateway.set("MILEPOST_LOG", "info");
        for (name, value) in settings {
            gateway.set(name, value);
        }
        self.try_out(&mut gateway);
        gateway.start().await?;
        self.gateways.push(gateway);
        Ok(())
    }

    /// One more consumer.
    ///
    /// # Errors
    /// It does not become ready.
    pub async fn add_consumer(&mut self, settings: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut consumer = self.new_consumer()?;
        for (name, value) in settings {
            consumer.set(name, value);
        }
        consumer.start().await?;
        self.consumers.push(consumer);
        Ok(())
    }

    /// A consumer that is not started yet, with the default settings: not impatient as in tests.
    ///
    /// # Errors
    /// There is no free port.
    pub fn new_consumer(&self) -> anyhow::Result<Program> {
        let mut consumer = self.world.new_consumer()?;
        consumer.set("MILEPOST_LOG", "info");
        for name in ["SESSION_TIMEOUT", "MAINTENANCE_INTERVAL", "EXPIRY_GRACE", "BACKOFF_MAX"] {
            consumer.unset(name);
        }
        self.try_out(&mut consumer);
        Ok(consumer)
    }

    fn try_out(&self, program: &mut Program) {
        for (name, value) in &self.tried {
            program.set(name, value);
        }
    }

    /// Where the gateways listen.
    #[must_use]
    pub fn targets(&self) -> Vec<SocketAddr> {
        self.gateways.iter().filter_map(|gateway| gateway.listen).collect()
    }

    /// What sends these, each with a key or points of its own.
    #[must_use]
    pub fn requests(&self, sent: impl Into<Sent>) -> Requests {
        Requests::new(sent, &self.world.account.secret, &self.ledger)
    }

    /// Connections to all gateways that send these.
    ///
    /// # Errors
    /// A gateway refuses.
    pub async fn clients(&self, count: usize, sent: impl Into<Sent>) -> anyhow::Result<Clients> {
        self.connect(count, self.requests(sent)).await
    }

    /// Connections to all gateways that send these requests.
    ///
    /// # Errors
    /// A gateway refuses.
    pub async fn connect(&self, count: usize, requests: Requests) -> anyhow::Result<Clients> {
        Clients::connect(&self.targets(), count, requests).await
    }

    /// The processes that do the work, by what they are, including the servers.
    ///
    /// # Errors
    /// One of them does not run.
    pub fn processes(&self, setup: &Setup) -> anyhow::Result<Vec<(&'static str, i32)>> {
        let mut processes = setup.processes()?;
        for gateway in &self.gateways {
            processes.push(("gateway", gateway.pid()?));
        }
        for consumer in &self.consumers {
            processes.push(("consumer", consumer.pid()?));
        }
        Ok(processes)
    }

    /// Waits until all of the journal is persisted.
    ///
    /// # Errors
    /// It is not within ten minutes.
    pub async fn persisted(&self) -> anyhow::Result<()> {
        let records = self.records().await?;
        eventually(PERSISTED, "all of the journal is persisted", async || {
            Ok((self.records_persisted().await? >= records).then_some(()))
        })
        .await
    }

    /// How many records the journal has.
    async fn records(&self) -> anyhow::Result<i64> {
        let ends = self.world.kafka.ends(&self.world.topics.uploads).await?;
        Ok(ends.iter().map(|(_, next)| next).sum())
    }

    /// How many records of the journal are not persisted.
    ///
    /// # Errors
    /// Kafka or Postgres cannot be asked.
    pub async fn behind(&self) -> anyhow::Result<i64> {
        Ok(self.records().await? - self.records_persisted().await?)
    }

    /// How many records of the journal are persisted.
    ///
    /// # Errors
    /// Postgres cannot be asked.
    pub async fn records_persisted(&self) -> anyhow::Result<i64> {
        self.world.tables.number("SELECT coalesce(sum(next_offset), 0)::bigint FROM partition_progress").await
    }

    /// Ends it. What it has stored must be what it answered.
    ///
    /// # Errors
    /// It is not, or a program does not end well.
    pub async fn end(mut self) -> anyhow::Result<()> {
        for gateway in &mut self.gateways {
            gateway.stop().await?;
        }
        self.persisted().await?;
        for consumer in &mut self.consumers {
            consumer.stop().await?;
        }
        self.ledger.check(&self.world.tables).await.context("Milepost")?;
        self.world.leave();
        Ok(())
    }
}
