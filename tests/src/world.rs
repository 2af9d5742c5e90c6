//! One test's world: its database, topics, accounts and programs.

use milepost_shared::journal::account::AccountId;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::position::Position;
use milepost_shared::journal::record::JournalRecord;
use milepost_shared::kafka::names::TopicNames;
use milepost_shared::location::Upload;
use milepost_shared::program::settings::KafkaSettings;
use milepost_shared::store::testing::Role;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::client::Client;
use crate::database::Database;
use crate::eventually;
use crate::kafka::{Kafka, Record};
use crate::planted::Planted;
use crate::program::Program;
use crate::server::free_port;
use crate::services::Services;
use crate::subscriber::{Fact, Subscriber};
use crate::tables::{Stored, Tables};

/// Longest time until everything in the journal is persisted, emitted and committed.
const CAUGHT_UP: Duration = Duration::from_secs(60);
/// Longest time for a program that ends by itself.
const RUN: Duration = Duration::from_secs(120);
/// Longest time to remove a world from the servers.
const REMOVED: Duration = Duration::from_secs(10);
/// How much of a log is shown when its test fails, lines.
const TAIL_LINES: usize = 60;

/// What an installation is like.
#[derive(Debug, Clone)]
pub struct WorldSettings {
    /// `IDEMPOTENCY_TTL`.
    pub ttl: Duration,
    /// `CONSUMER_OUTAGE_MAX`.
    pub consumer_outage_max: Duration,
    /// `PARTITIONS`.
    pub partitions: u16,
}

impl Default for WorldSettings {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(3600), consumer_outage_max: Duration::from_secs(3600), partitions: 3 }
    }
}

/// An account with one API key.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its UUID.
    pub id: AccountId,
    /// Its name.
    pub name: String,
    /// The API key's secret.
    pub secret: String,
}

/// Everything one test has for itself. Its database and topics are removed when it is dropped.
#[derive(Debug)]
pub struct World {
    /// What the installation is like.
    pub settings: WorldSettings,
    /// The servers it is on.
    pub services: Services,
    /// Put before its topics and its group.
    pub prefix: String,
    /// Its topics.
    pub topics: TopicNames,
    /// Its cluster.
    pub kafka: Kafka,
    /// Its tables.
    pub tables: Tables,
    /// What no log may contain.
    pub planted: Planted,
    /// The first account.
    pub account: Account,
    /// Its database.
    pub database: Database,
    secrets: Mutex<Vec<String>>,
    logs: TempDir,
    programs: AtomicU32,
    finished: bool,
}

impl World {
    /// A world on the servers that all tests share.
    ///
    /// # Errors
    /// A server or `milepost-admin` fails.
    pub async fn new(settings: WorldSettings) -> anyhow::Result<Self> {
        Self::on(Services::shared()?, settings).await
    }

    /// A world on servers of the test's own.
    ///
    /// # Errors
    /// A server or `milepost-admin` fails.
    pub async fn on(services: Services, settings: WorldSettings) -> anyhow::Result<Self> {
        let world = Self::without_topics(services, settings).await?;
        world.administer(&["topics", "create"]).await?;
        Ok(world)
    }

    /// A world whose topics are still to be created.
    ///
    /// # Errors
    /// Postgres or `milepost-admin` fails.
    pub async fn without_topics(services: Services, settings: WorldSettings) -> anyhow::Result<Self> {
        let database = Database::create(&services.database_url).await?;
        let prefix = format!("{}.", database.name());
        let mut world = Self {
            settings,
            topics: TopicNames::new(&prefix),
            kafka: Kafka::new(&services.kafka),
            tables: Tables { pool: database.pool() },
            planted: Planted::new(),
            account: Account { id: AccountId(Uuid::nil()), name: String::new(), secret: String::new() },
            database,
            prefix,
            services,
            secrets: Mutex::default(),
            logs: tempfile::tempdir()?,
            programs: AtomicU32::new(0),
            finished: false,
        };
        world.administer(&["migrate"]).await?;
        world.account = world.new_account("first").await?;
        Ok(world)
    }

    /// The settings that all programs share.
    fn environment(&self, role: Role) -> BTreeMap<String, String> {
        let duration = |duration: Duration| format!("{}ms", duration.as_millis());
        [
            ("KAFKA_BROKERS", self.services.kafka.clone()),
            ("TOPIC_PREFIX", self.prefix.clone()),
            ("PARTITIONS", self.settings.partitions.to_string()),
            ("IDEMPOTENCY_TTL", duration(self.settings.ttl)),
            ("CONSUMER_OUTAGE_MAX", duration(self.settings.consumer_outage_max)),
            ("DATABASE_URL", self.database.url(role)),
            ("MILEPOST_LOG", "trace".to_owned()),
            ("REPLICATION_FACTOR", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// The settings of its topics, for a test that creates or checks them itself.
    #[must_use]
    pub fn kafka_settings(&self) -> KafkaSettings {
        KafkaSettings {
            topic_prefix: self.prefix.clone(),
            partitions: i32::from(self.settings.partitions),
            idempotency_ttl: self.settings.ttl,
            consumer_outage_max: self.settings.consumer_outage_max,
            ..KafkaSettings::at(&self.services.kafka)
        }
    }

    /// Runs `milepost-admin` as the database's owner.
    ///
    /// # Errors
    /// It cannot be started, or has not ended within two minutes.
    pub async fn admin(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.run("admin", arguments, self.environment(Role::Owner)).await
    }

    /// Runs `milepost-phone` with the first account's API key.
    ///
    /// # Errors
    /// It cannot be started, or has not ended within two minutes.
    pub async fn phone(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.run("phone", arguments, self.key_of_phone()).await
    }

    /// Starts `milepost-phone` likewise, to be killed. Its output is lost.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_phone(&self, arguments: &[&str]) -> anyhow::Result<Child> {
        let mut command = self.command("phone", arguments, self.key_of_phone());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("no milepost-phone: is it built?")
    }

    fn key_of_phone(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("MILEPOST_API_KEY".to_owned(), self.account.secret.clone())])
    }

    fn command(&self, program: &str, arguments: &[&str], environment: BTreeMap<String, String>) -> Command {
        let mut command = Command::new(self.services.bin_dir.join(format!("milepost-{program}")));
        command.args(arguments).env_clear().envs(environment).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs a program to its end. What it writes to standard error is a log; standard output may show secrets.
    async fn run(
        &self,
        program: &str,
        arguments: &[&str],
        environment: BTreeMap<String, String>,
    ) -> anyhow::Result<Output> {
        let mut command = self.command(program, arguments, environment);
        let output = tokio::time::timeout(RUN, command.output()).await;
        let output = output.with_context(|| format!("milepost-{program} does not end"))?;
        let output = output.with_context(|| format!("no milepost-{program}: is it built?"))?;
        std::fs::write(self.new_log(program), &output.stderr)?;
        Ok(output)
    }

    /// Runs `milepost-admin` and returns what it prints.
    ///
    /// # Errors
    /// It fails.
    pub async fn administer(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.admin(arguments).await?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "milepost-admin {arguments:?}: {}: {stderr}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Makes an account with an API key.
    ///
    /// # Errors
    /// `milepost-admin` fails.
    pub async fn new_account(&self, name: &str) -> anyhow::Result<Account> {
        let id = self.administer(&["account", "create", "--name", name]).await?;
        let id = id.trim().parse().context("milepost-admin shows no account id")?;
        Ok(Account { id, name: name.to_owned(), secret: self.new_secret(id).await? })
    }

    /// Makes one more API key for an account.
    ///
    /// # Errors
    /// `milepost-admin` fails.
    pub async fn new_secret(&self, account: AccountId) -> anyhow::Result<String> {
        let printed = self.administer(&["key", "create", "--account", &account.to_string()]).await?;
        let secret = printed.trim().to_owned();
        // The part behind the prefix, which is for display.
        let hidden = secret.get(12..32).context("milepost-admin shows no secret")?.to_owned();
        self.secrets.lock().expect("no test panics with the lock").push(hidden);
        Ok(secret)
    }

    fn new_log(&self, name: &str) -> PathBuf {
        self.logs.path().join(format!("{name}-{}.log", self.programs.fetch_add(1, Ordering::Relaxed)))
    }

    fn program(&self, binary: &str, role: Role, listens: bool) -> anyhow::Result<Program> {
        let log = self.new_log(binary);
        let name = log.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let address = || anyhow::Ok(([127, 0, 0, 1], free_port()?).into());
        let listen = if listens { Some(address()?) } else { None };
        let binary = self.services.bin_dir.join(format!("milepost-{binary}"));
        Program::new(name, binary, log, address()?, listen, self.environment(role))
    }

    /// A gateway that is not started yet.
    ///
    /// # Errors
    /// There is no free port.
    pub fn new_gateway(&self) -> anyhow::Result<Program> {
        self.program("gateway", Role::Gateway, true)
    }

    /// A consumer that is not started yet, with the short time-outs that tests need.
    ///
    /// # Errors
    /// There is no free port.
    pub fn new_consumer(&self) -> anyhow::Result<Program> {
        let mut consumer = self.program("consumer", Role::Consumer, false)?;
        consumer.set("SESSION_TIMEOUT", "6s");
        consumer.set("MAINTENANCE_INTERVAL", "500ms");
        consumer.set("EXPIRY_GRACE", "1s");
        consumer.set("BACKOFF_MAX", "500ms");
        Ok(consumer)
    }

    /// A gateway that is ready.
    ///
    /// # Errors
    /// It does not become ready.
    pub async fn gateway(&self) -> anyhow::Result<Program> {
        let mut gateway = self.new_gateway()?;
        gateway.start().await?;
        Ok(gateway)
    }

    /// A consumer that is ready.
    ///
    /// # Errors
    /// It does not become ready.
    pub async fn consumer(&self) -> anyhow::Result<Program> {
        let mut consumer = self.new_consumer()?;
        consumer.start().await?;
        Ok(consumer)
    }

    /// The first account's client of a gateway.
    ///
    /// # Errors
    /// The program is no gateway.
    pub fn client(&self, gateway: &Program) -> anyhow::Result<Client> {
        Client::new(gateway.listen.context("not a gateway")?, &self.account.secret)
    }

    /// Waits until all of the journal is persisted and emitted: the tables' progress and the group's offset have passed it.
    ///
    /// # Errors
    /// They have not within a minute; the error says how far they are.
    pub async fn caught_up(&self) -> anyhow::Result<()> {
        self.caught_up_within(CAUGHT_UP).await
    }

    /// The same, with a deadline of the caller's.
    ///
    /// # Errors
    /// They have not within `deadline`; the error says how far they are.
    pub async fn caught_up_within(&self, deadline: Duration) -> anyhow::Result<()> {
        let group = TopicNames::group(&self.prefix);
        let mut seen = String::new();
        let caught_up = eventually(deadline, "all of the journal is persisted and emitted", async || {
            let ends = self.kafka.ends(&self.topics.uploads);
            let committed = self.kafka.committed(&group, &self.topics.uploads);
            // A broker that has just come back does not lead its partitions yet.
            let (ends, committed) = match tokio::try_join!(ends, committed) {
                Ok(both) => both,
                Err(error) => {
                    seen = format!("{error:#}");
                    return Ok(None);
                }
            };
            // The database may be the one that is away.
            let progress = self.tables.progress().await.unwrap_or_default();
            seen = format!("ends {ends:?}, committed {committed:?}, progress {progress:?}");
            let done = (0..).zip(ends.iter().zip(&committed)).all(|(partition, ((_, next), committed))| {
                let of_partition = progress.iter().find(|progress| progress.partition == partition);
                let persisted = of_partition.map_or(0, |progress| progress.next_offset);
                committed.unwrap_or(0) >= *next && persisted >= *next
            });
            Ok(done.then_some(()))
        });
        let caught_up = caught_up.await;
        caught_up.with_context(|| seen)
    }

    /// The facts that a subscriber keeps, in order.
    ///
    /// # Errors
    /// They cannot be read, or are not as promised.
    pub async fn facts(&self) -> anyhow::Result<Vec<Fact>> {
        let mut subscriber = Subscriber::default();
        let mut kept = Vec::new();
        for record in self.kafka.read(&self.topics.locations).await? {
            let fact = Fact::read(&record)?;
            if subscriber.accepts(fact.partition, fact.source_offset) {
                kept.push(fact);
            }
        }
        Ok(kept)
    }

    /// Checks that exactly these uploads are stored, each as often as it is named, whole, bit for bit and in the order
    /// sent; that no record of the journal was skipped; and that the facts say the same.
    ///
    /// # Errors
    /// It is not so.
    pub async fn check(&self, expected: &[&Upload]) -> anyhow::Result<()> {
        self.caught_up().await?;
        let stored = self.tables.stored().await?;
        let in_rows: Vec<_> =
            stored.iter().map(|one| (one.account.to_string(), exact(&one.upload))).collect();
        same(
            "stored",
            expected.iter().map(|upload| exact(upload)),
            in_rows.iter().map(|(_, text)| text.clone()),
        )?;
        self.check_journal(&stored).await?;
        let facts = self.facts().await?;
        same(
            "facts of stored",
            stored.iter().zip(&in_rows).map(|(one, (account, text))| {
                format!("{}/{} {account} {text}", one.source.partition, one.source.offset)
            }),
            facts.iter().map(|fact| {
                format!("{}/{} {} {}", fact.partition, fact.source_offset, fact.account, fact.upload())
            }),
        )?;
        for fact in &facts {
            ensure!(
                fact.value["account"] == fact.account.as_str(),
                "a fact's header and value differ: account"
            );
            ensure!(
                fact.value["deviceId"] == fact.device.as_str(),
                "a fact's header and value differ: device"
            );
        }
        Ok(())
    }

    /// Checks that of each key the first record in the journal is the one persisted, unless it is a dead letter. A later one
    /// would mean that an accepted upload was lost, and only a retry made it good.
    async fn check_journal(&self, stored: &[Stored]) -> anyhow::Result<()> {
        let persisted: HashSet<Position> = stored.iter().map(|one| one.source).collect();
        let letters = self.tables.dead_letters().await?;
        let mut seen: HashSet<KeyHash> = letters
            .iter()
            .filter_map(|letter| std::str::from_utf8(letter.key.as_deref()?).ok()?.parse().ok())
            .collect();
        for Record { partition, offset, key, value, .. } in self.kafka.read(&self.topics.uploads).await? {
            let Ok(record) = JournalRecord::decode(key.as_deref(), value.as_deref()) else { continue };
            let position = Position::new(partition, offset);
            ensure!(
                !seen.insert(record.key_hash) || persisted.contains(&position),
                "the first record of a key, {position:?}, is not the one persisted"
            );
        }
        Ok(())
    }

    /// Searches every log for what was planted.
    ///
    /// # Errors
    /// Something is there, with the line.
    pub fn check_logs(&self) -> anyhow::Result<()> {
        let secrets = self.secrets.lock().expect("no test panics with the lock");
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        for log in self.log_files()? {
            if let Some(leak) = self.planted.leak(&log, &secrets)? {
                anyhow::bail!("planted values in a log: {leak}");
            }
        }
        Ok(())
    }

    /// Ends the test: [`check`](Self::check), and [`check_logs`](Self::check_logs).
    ///
    /// # Errors
    /// One of them fails.
    pub async fn finish(mut self, expected: &[&Upload]) -> anyhow::Result<()> {
        self.check(expected).await?;
        self.check_logs()?;
        self.finished = true;
        Ok(())
    }

    /// Ends it without checks of its own.
    pub fn leave(mut self) {
        self.finished = true;
    }

    /// All logs of programs.
    ///
    /// # Errors
    /// Their directory cannot be read.
    pub fn log_files(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut logs: Vec<PathBuf> = std::fs::read_dir(self.logs.path())?
            .map(|entry| Ok(entry?.path()))
            .collect::<anyhow::Result<_>>()?;
        logs.sort();
        Ok(logs)
    }

    async fn remove(&self) -> anyhow::Result<()> {
        self.tables.pool.close().await;
        let TopicNames { uploads, results, locations } = &self.topics;
        self.kafka.delete_topics(&[uploads, results, locations]).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !self.finished {
            for log in self.log_files().unwrap_or_default() {
                print_tail(&log);
            }
        }
        // On a thread and a runtime of its own: a test may be polling other worlds on this thread, and to block on a future
        // here would swallow their wake-ups; and no timer of a runtime that is shutting down fires any more. Best effort: the servers
        // themselves are thrown away after the tests.
        let remove = || -> anyhow::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { tokio::time::timeout(REMOVED, self.remove()).await })?
        };
        let _removed = tokio::task::block_in_place(|| std::thread::scope(|scope| scope.spawn(remove).join()));
    }
}

fn print_tail(log: &Path) {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    // librdkafka logs much, and what matters here is what the program did.
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains(" TRACE ")).collect();
    if lines.is_empty() {
        return;
    }
    eprintln!("---- the end of {}", log.file_name().unwrap_or_default().to_string_lossy());
    for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
        eprintln!("{line}");
    }
}

/// An upload as text, equal if and only if it is equal bit for bit.
///
/// # Panics
/// Never: an upload is JSON.
#[must_use]
pub fn exact(upload: &Upload) -> String {
    serde_json::to_value(upload).expect("an upload is JSON").to_string()
}

/// Compares without regard to order, and says what is missing and what is too many.
fn same(
    what: &str,
    wanted: impl Iterator<Item = String>,
    found: impl Iterator<Item = String>,
) -> anyhow::Result<()> {
    let mut balance: BTreeMap<String, i32> = BTreeMap::new();
    wanted.for_each(|one| *balance.entry(one).or_default() += 1);
    found.for_each(|one| *balance.entry(one).or_default() -= 1);
    let short =
        |(text, count): (&String, &i32)| format!("{count:+} {}", text.chars().take(160).collect::<String>());
    let wrong: Vec<String> = balance.iter().filter(|(_, count)| **count != 0).map(short).collect();
    ensure!(
        wrong.is_empty(),
        "{what} is not as expected (+ is missing, - is too many), {} in all:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    Ok(())
}
