//! The system under test: real servers, gateways and consumers, every link between them through a proxy.

use milepost_shared::journal::account::AccountId;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use futures::future::try_join_all;
use milepost_shared::kafka::names::TopicNames;
use milepost_tests::{
    Account, Planted, Program, Role, Server, Services, Via, World, WorldSettings, eventually, free_port,
};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::sync::{MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::evidence::Footprint;
use crate::fault::{Fault, Link, Target};
use crate::operation::Marks;
use crate::proxy::{Mode, Proxy};
use crate::schedule::{Claims, Part};

/// Longest time a program may take to become ready, the other faults' included.
const READY: Duration = Duration::from_secs(90);
/// How often a program is looked for that has ended by itself.
const SUPERVISION: Duration = Duration::from_millis(500);
/// `PUBLISH_TIMEOUT`
pub(crate) const PUBLISH_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for the database by the harness itself.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where a replay can come from, as the gateways' metric has it.
const PATHS: [&str; 4] = ["cache", "table", "results", "joined"];
/// Settings that faults give to programs.
pub(crate) const OF_FAULTS: [&str; 3] = ["CRASH_AT", "CLOCK_OFFSET_MS", "CACHE_ENTRIES"];

/// What a system is to be like.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    /// Where `milepost-gateway` and the others are.
    pub bin_dir: PathBuf,
    /// `IDEMPOTENCY_TTL`.
    pub ttl: Duration,
    /// Partitions of the journal.
    pub partitions: u16,
    /// Consumers at work, the one that a rebalance brings not counted.
    pub consumers: usize,
    /// `BATCH_RECORDS_MAX`
    pub batch_records: u32,
    /// What no log may contain.
    pub marks: &'a Marks,
}

/// A program with its place in the system.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) name: String,
    /// Whether it is to run.
    pub(crate) wanted: AtomicBool,
    /// Locked by the fault that it suffers from.
    pub(crate) program: tokio::sync::Mutex<Program>,
}

/// Everything that runs. Ended when dropped.
#[derive(Debug)]
pub struct System {
    _supervisor: AbortOnDropHandle<()>,
    pub(crate) gateways: [Arc<Slot>; 2],
    pub(crate) consumers: Vec<Arc<Slot>>,
    pub(crate) third: Arc<Slot>,
    addresses: [SocketAddr; 2],
    accounts: [Account; 2],
    links: [(Link, Proxy); 4],
    parts: [(Part, RwLock<()>); Part::ALL.len()],
    next: AtomicUsize,
    unexpected: Arc<Mutex<Vec<String>>>,
    paths: Mutex<BTreeMap<&'static str, u64>>,
    /// Why no disk can be full.
    pub(crate) no_disk: Option<String>,
    // The world removes itself from the servers, so they are dropped after it.
    world: World,
    pub(crate) kafka: Server,
    pub(crate) postgres: Server,
}

/// The parts of a fault: those it breaks and those it needs.
pub(crate) type Claimed<'a> = (Vec<RwLockWriteGuard<'a, ()>>, Vec<RwLockReadGuard<'a, ()>>);

impl System {
    /// Starts all of it, and returns when gateways and consumers are ready.
    ///
    /// # Errors
    /// Something does not start.
    pub async fn start(setup: &Setup<'_>) -> anyhow::Result<Self> {
        let (for_gateways, for_consumers) = (free_port()?, free_port()?);
        let gateway_kafka = Proxy::start(([127, 0, 0, 1], for_gateways).into()).await?;
        let consumer_kafka = Proxy::start(([127, 0, 0, 1], for_consumers).into()).await?;
        let ways = [
            Via { name: "GATEWAY", listens: for_gateways, advertised: gateway_kafka.address().port() },
            Via { name: "CONSUMER", listens: for_consumers, advertised: consumer_kafka.address().port() },
        ];
        let (mut kafka, mut postgres) = tokio::try_join!(Server::kafka_via(&ways), Server::postgres())?;
        let limited = async { kafka.limit_disk().await.and(postgres.limit_disk().await) };
        let no_disk = limited.await.err().map(|error| format!("{error:#}"));
        let database = ([127, 0, 0, 1], postgres.port()).into();
        let (gateway_postgres, consumer_postgres) =
            (Proxy::start(database).await?, Proxy::start(database).await?);
        let services =
            Services { kafka: String::new(), database_url: String::new(), bin_dir: setup.bin_dir.clone() };
        let services = services.with_kafka(&kafka).with_postgres(&postgres);
        let settings =
            WorldSettings { ttl: setup.ttl, partitions: setup.partitions, ..WorldSettings::default() };
        let mut world = World::on(services, settings).await?;
        world.planted = Planted::with(&setup.marks.digits, &setup.marks.key);
        let second = world.new_account("second").await?;

        let mut gateways = Vec::new();
        for name in ["gateway 1", "gateway 2"] {
            let mut gateway = world.new_gateway()?;
            through(&mut gateway, &world, Role::Gateway, &gateway_kafka, &gateway_postgres)?;
            set_gateway(&mut gateway);
            gateways.push(slot(name.to_owned(), gateway));
        }
        let mut consumers = Vec::new();
        for number in 1..=setup.consumers + 1 {
            let mut consumer = world.new_consumer()?;
            through(&mut consumer, &world, Role::Consumer, &consumer_kafka, &consumer_postgres)?;
            set_consumer(&mut consumer, setup.batch_records);
            consumers.push(slot(format!("consumer {number}"), consumer));
        }
        let third = consumers.pop().context("one more than asked for")?;
        third.wanted.store(false, Ordering::Relaxed);
        let gateways: [Arc<Slot>; 2] = gateways.try_into().ok().context("two were made")?;
        try_join_all(
            gateways.iter().chain(&consumers).map(async |slot| slot.program.lock().await.start().await),
        )
        .await?;

        let mut addresses = Vec::new();
        for gateway in &gateways {
            addresses.push(gateway.program.lock().await.listen.context("a gateway listens")?);
        }
        let unexpected = Arc::<Mutex<Vec<String>>>::default();
        let supervised = gateways.iter().chain(&consumers).cloned().collect();
        let supervisor = tokio::spawn(supervise(supervised, Arc::clone(&unexpected)));
        Ok(Self {
            _supervisor: AbortOnDropHandle::new(supervisor),
            gateways,
            consumers,
            third,
            addresses: addresses.try_into().ok().context("two were made")?,
            accounts: [world.account.clone(), second],
            links: [
                (Link::GatewayKafka, gateway_kafka),
                (Link::GatewayPostgres, gateway_postgres),
                (Link::ConsumerKafka, consumer_kafka),
                (Link::ConsumerPostgres, consumer_postgres),
            ],
            parts: Part::ALL.map(|part| (part, RwLock::new(()))),
            next: AtomicUsize::new(0),
            unexpected,
            paths: Mutex::default(),
            no_disk,
            world,
            kafka,
            postgres,
        })
    }

    /// Where the gateways are, also while they are not there.
    #[must_use]
    pub fn gateways(&self) -> [SocketAddr; 2] {
        self.addresses
    }

    /// API keys of the two accounts.
    #[must_use]
    pub fn secrets(&self) -> [String; 2] {
        self.accounts.each_ref().map(|account| account.secret.clone())
    }

    /// The two accounts.
    #[must_use]
    pub fn accounts(&self) -> [AccountId; 2] {
        self.accounts.each_ref().map(|account| account.id)
    }

    /// Topics, tables and cluster, reached without a proxy.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The consumers' group.
    #[must_use]
    pub fn group(&self) -> String {
        TopicNames::group(&self.world.prefix)
    }

    /// All logs of programs.
    ///
    /// # Errors
    /// Their directory cannot be read.
    pub fn logs(&self) -> anyhow::Result<Vec<PathBuf>> {
        self.world.log_files()
    }

    /// What each program holds that runs and suffers from no fault at the moment.
    #[must_use]
    pub fn footprints(&self) -> BTreeMap<String, Footprint> {
        let all = self.gateways.iter().chain(&self.consumers);
        let footprint = |slot: &Arc<Slot>| {
            let program = slot.program.try_lock().ok()?;
            let footprint = Footprint { files: program.open_files().ok()?, memory: program.memory().ok()? };
            Some((slot.name.clone(), footprint))
        };
        all.filter_map(footprint).collect()
    }

    /// Programs that ended by themselves when no fault of theirs asked for it, with their status. They were started again.
    #[must_use]
    pub fn unexpected(&self) -> Vec<String> {
        self.unexpected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often each replay path was taken, as far as was known before a gateway ended.
    pub async fn replay_paths(&self) -> BTreeMap<&'static str, u64> {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for gateway in &self.gateways {
            for (path, count) in paths_of(&*gateway.program.lock().await).await {
                *paths.entry(path).or_default() += count;
            }
        }
        paths
    }

    /// Keeps what a gateway reports about its replay paths, since it is about to end. A consumer has none.
    pub(crate) async fn keep_paths(&self, gateway: &Program) {
        let counts = paths_of(gateway).await;
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, count) in counts {
            *paths.entry(path).or_default() += count;
        }
    }

    pub(crate) fn link(&self, link: Link) -> &Proxy {
        let found = self.links.iter().find(|(one, _)| *one == link);
        &found.expect("all four were made").1
    }

    /// Waits until all that a fault claims is its own.
    pub(crate) async fn claim(&self, fault: Fault) -> Claimed<'_> {
        let claims = Claims::of(fault);
        let (mut broken, mut needed) = Claimed::default();
        // In the order that all keep to, so that no two wait for each other.
        for (part, lock) in &self.parts {
            if claims.breaks.contains(part) {
                broken.push(lock.write().await);
            } else if claims.needs.contains(part) {
                needed.push(lock.read().await);
            }
        }
        (broken, needed)
    }

    /// One of the gateways, or of the consumers, each in its turn. It runs.
    pub(crate) async fn one(&self, target: Target) -> anyhow::Result<(&Slot, MutexGuard<'_, Program>)> {
        let slots = if target == Target::Gateway { &self.gateways[..] } else { &self.consumers[..] };
        let slot = &*slots[self.next.fetch_add(1, Ordering::Relaxed) % slots.len()];
        let mut program = slot.program.lock().await;
        if let Some(status) = program.ended()? {
            self.note(format!("{} ended by itself: {status}", slot.name));
        }
        if !program.is_running()? {
            program.spawn()?;
        }
        Ok((slot, program))
    }

    /// A connection of the database's owner.
    pub(crate) async fn owner(&self) -> anyhow::Result<PgConnection> {
        let url = self.world.database.url(Role::Owner);
        Ok(timeout(PATIENCE, PgConnection::connect(&url)).await.context("Postgres does not answer")??)
    }

    /// Brings a program back as it was before a fault, and waits until it is ready.
    ///
    /// # Errors
    /// It is not within 90 seconds.
    pub(crate) async fn revive(&self, slot: &Slot, program: &mut Program) -> anyhow::Result<()> {
        let changed = OF_FAULTS.map(|setting| program.unset(setting)).contains(&true);
        if changed && program.is_running()? {
            self.keep_paths(program).await;
            program.stop().await?;
        }
        eventually(READY, &format!("{} is ready", slot.name), async || {
            if let Some(status) = program.ended()? {
                self.note(format!("{} ended while starting: {status}", slot.name));
            }
            if !program.is_running()? {
                program.spawn()?;
            }
            Ok(program.is_whole().await.then_some(()))
        })
        .await
    }

    fn note(&self, what: String) {
        self.unexpected.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// Takes every fault back, whatever became of its episode, and waits until all is ready.
    ///
    /// # Errors
    /// Something does not become ready.
    pub async fn heal(&self) -> anyhow::Result<()> {
        for (_, link) in &self.links {
            link.set(Mode::Pass);
        }
        for server in [&self.kafka, &self.postgres] {
            server.free_disk().await?;
            server.resume();
            server.start().await?;
        }
        self.world.database.open().await?;
        let mut owner = self.owner().await?;
        let read_only: String =
            sqlx::query_scalar("SHOW default_transaction_read_only").fetch_one(&mut owner).await?;
        if read_only == "on" {
            self.world.database.set_read_only(false).await?;
        }
        if self.third.wanted.load(Ordering::Relaxed) {
            self.stop_third().await?;
        }
        try_join_all(self.gateways.iter().chain(&self.consumers).map(async |slot| {
            let mut program = slot.program.lock().await;
            slot.wanted.store(true, Ordering::Relaxed);
            self.revive(slot, &mut program).await
        }))
        .await?;
        Ok(())
    }

    pub(crate) async fn stop_third(&self) -> anyhow::Result<()> {
        let mut third = self.third.program.lock().await;
        self.third.wanted.store(false, Ordering::Relaxed);
        if third.is_running()? { third.stop().await } else { Ok(()) }
    }

    /// Waits until all of the journal is persisted and emitted.
    ///
    /// # Errors
    /// It is not within `deadline`, with how far it is.
    pub async fn caught_up(&self, deadline: Duration) -> anyhow::Result<()> {
        self.world.caught_up_within(deadline).await
    }

    /// Stops the gateways as an operator does.
    ///
    /// # Errors
    /// One does not end with status 0.
    pub async fn stop_gateways(&self) -> anyhow::Result<()> {
        for gateway in &self.gateways {
            let program = gateway.program.lock().await;
            self.keep_paths(&program).await;
        }
        stop_all(&self.gateways).await
    }

    /// Stops the consumers as an operator does.
    ///
    /// # Errors
    /// One does not end with status 0.
    pub async fn stop_consumers(&self) -> anyhow::Result<()> {
        stop_all(&self.consumers).await
    }

    /// Starts the consumers again.
    ///
    /// # Errors
    /// One does not become ready.
    pub async fn start_consumers(&self) -> anyhow::Result<()> {
        try_join_all(self.consumers.iter().map(async |slot| {
            let mut program = slot.program.lock().await;
            slot.wanted.store(true, Ordering::Relaxed);
            self.revive(slot, &mut program).await
        }))
        .await?;
        Ok(())
    }

    /// Ends all of it.
    ///
    /// # Errors
    /// A program does not end with status 0.
    pub async fn stop(self) -> anyhow::Result<()> {
        let stopped = stop_all(&self.gateways).await.and(stop_all(&self.consumers).await);
        self.world.leave();
        stopped
    }
}

async fn stop_all(slots: &[Arc<Slot>]) -> anyhow::Result<()> {
    try_join_all(slots.iter().map(async |slot| {
        let mut program = slot.program.lock().await;
        slot.wanted.store(false, Ordering::Relaxed);
        if program.is_running()? { program.stop().await } else { Ok(()) }
    }))
    .await?;
    Ok(())
}

/// Starts programs again that ended though nobody asked for it, as whoever operates them would.
async fn supervise(slots: Vec<Arc<Slot>>, unexpected: Arc<Mutex<Vec<String>>>) {
    let mut tick = interval(SUPERVISION);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for slot in &slots {
            // Taken: it is the business of the fault that has it.
            let Ok(mut program) = slot.program.try_lock() else { continue };
            if !slot.wanted.load(Ordering::Relaxed) {
                continue;
            }
            if let Ok(Some(status)) = program.ended() {
                let end = format!("{} ended by itself: {status}", slot.name);
                unexpected.lock().unwrap_or_else(PoisonError::into_inner).push(end);
            }
            if let Ok(false) = program.is_running() {
                // Tried again at the next look.
                let _ = program.spawn();
            }
        }
    }
}

async fn paths_of(gateway: &Program) -> Vec<(&'static str, u64)> {
    let mut paths = Vec::new();
    if gateway.listen.is_none() {
        return paths;
    }
    for path in PATHS {
        let source = format!("source=\"{path}\"");
        let count = gateway.metric_of("milepost_gateway_uploads_total", &source).await.unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter")]
        paths.push((path, count as u64));
    }
    paths
}

fn slot(name: String, program: Program) -> Arc<Slot> {
    Arc::new(Slot { name, wanted: AtomicBool::new(true), program: tokio::sync::Mutex::new(program) })
}

/// Has a program come by the proxies.
fn through(
    program: &mut Program,
    world: &World,
    role: Role,
    kafka: &Proxy,
    postgres: &Proxy,
) -> anyhow::Result<()> {
    program.set("KAFKA_BROKERS", &kafka.address().to_string());
    let mut url: reqwest::Url = world.database.url(role).parse()?;
    url.set_port(Some(postgres.address().port())).ok().context("the URL has no port")?;
    program.set("DATABASE_URL", url.as_str());
    // Enough to find anything that leaks, without the libraries' own words for each packet.
    program.set("MILEPOST_LOG", "info,milepost_shared=debug,milepost_gateway=debug,milepost_consumer=debug");
    Ok(())
}

fn set_gateway(gateway: &mut Program) {
    gateway.set("ANSWER_WAIT", "4s");
    gateway.set("WAIT_MAX", "6s");
    gateway.set("DRAIN_TIMEOUT", "10s");
    gateway.set("PUBLISH_TIMEOUT", &format!("{}s", PUBLISH_TIMEOUT.as_secs()));
}

fn set_consumer(consumer: &mut Program, batch_records: u32) {
    consumer.set("BATCH_RECORDS_MAX", &batch_records.to_string());
    consumer.set("PERSIST_TIMEOUT", "3s");
    consumer.set("DRAIN_TIMEOUT", "10s");
}
