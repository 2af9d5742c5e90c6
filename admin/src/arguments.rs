//! The commands and their settings.

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use http::Uri;
use milepost_shared::journal::account::AccountId;
use milepost_shared::location::DEVICE_CHARS_MAX;
use milepost_shared::program::settings::{self, DatabaseSettings, KafkaSettings, Settings};
use milepost_shared::store::accounts::{LABEL_CHARS_MAX, NAME_CHARS_MAX};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// What an operator does by hand: the schema, the topics, accounts and their API keys, and a look at the consumer's work.
///
/// Ends with 0 for success, 1 for a failure and 78 for a bad configuration.
#[derive(Debug, Parser)]
#[command(name = "milepost-admin", version, arg_required_else_help = false)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

impl Settings for Arguments {
    fn faults(&self) -> Vec<String> {
        match &self.command {
            Command::Progress(ProgressCommand::Set(SetProgress { kafka, partition, .. }))
            | Command::Journal(JournalCommand::Show(ShowJournal { kafka, partition, .. }))
            | Command::DeadLetters(DeadLettersCommand::Show(ShowDeadLetter { kafka, partition, .. }))
                if *partition >= kafka.partitions =>
            {
                let partitions = kafka.partitions;
                vec![format!("--partition is {partition}, must be below PARTITIONS, which is {partitions}")]
            }
            _ => Vec::new(),
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring the database's schema up to this build's version. Doing it again changes nothing.
    Migrate(Migrate),
    /// The three Kafka topics.
    #[command(subcommand, arg_required_else_help = false)]
    Topics(TopicsCommand),
    /// Accounts, which own API keys, devices and idempotency keys.
    #[command(subcommand, arg_required_else_help = false)]
    Account(AccountCommand),
    /// API keys.
    #[command(subcommand, arg_required_else_help = false)]
    Key(KeyCommand),
    /// Devices with API keys of their own.
    #[command(subcommand, arg_required_else_help = false)]
    Device(DeviceCommand),
    /// How far the consumer has come in each partition of the journal.
    #[command(subcommand, arg_required_else_help = false)]
    Progress(ProgressCommand),
    /// What is stored.
    #[command(subcommand, arg_required_else_help = false)]
    Locations(LocationsCommand),
    /// The topics that only the programs read.
    #[command(subcommand, arg_required_else_help = false)]
    Journal(JournalCommand),
    /// Records of the journal that could not be persisted, and points of apps that were set aside.
    #[command(subcommand, arg_required_else_help = false)]
    DeadLetters(DeadLettersCommand),
}

#[derive(Debug, Args)]
pub struct Migrate {
    /// Where the tables are, as their owner, who may create roles.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// How long a key is remembered, and how wide table partitions of keys are made; both stay as they are if absent (24h at
    /// first) [1s..=365d].
    #[arg(long, env, value_parser = settings::duration(SECOND, 365 * DAY))]
    pub idempotency_ttl: Option<Duration>,

    /// Password to give the role milepost_gateway; the role keeps its own if absent.
    #[arg(long, env, hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub gateway_db_password: Option<String>,

    /// Password to give the role milepost_consumer; the role keeps its own if absent.
    #[arg(long, env, hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub consumer_db_password: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum TopicsCommand {
    /// Create the topics that are missing, print their names, and check all three.
    Create(CreateTopics),
    /// Compare the topics with the rules that gateway and consumer insist on; name every violation.
    Check {
        /// Where the journal is.
        #[command(flatten)]
        kafka: KafkaSettings,
    },
}

#[derive(Debug, Args)]
pub struct CreateTopics {
    /// Where the journal is.
    #[command(flatten)]
    pub kafka: KafkaSettings,

    /// Brokers that hold a copy of each partition [1..=32]: 3 for a cluster that must lose nothing, 1 for a single broker.
    #[arg(long, env = "REPLICATION_FACTOR", value_parser = clap::value_parser!(i32).range(1..=32))]
    pub replication_factor: i32,

    /// Also make topics that exist keep the rules, as after a change of the TTL. What keeps them already stays as it is.
    #[arg(long)]
    pub reconfigure: bool,
}

#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Create an account and print its id, nothing else.
    Create(CreateAccount),
    /// List the accounts.
    List {
        /// Where the tables are.
        #[command(flatten)]
        database: DatabaseSettings,
    },
}

#[derive(Debug, Args)]
pub struct CreateAccount {
    /// Where the tables are.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// Name of the account, for people; no other account may have it [1..=100 characters].
    #[arg(long, value_parser = text(NAME_CHARS_MAX))]
    pub name: String,
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Create an API key and print its secret, nothing else. It is shown this once: only its hash is stored.
    Create(CreateKey),
    /// List API keys, without their secrets.
    List(ListKeys),
    /// Revoke an API key; gateways refuse it within 60 seconds. Doing it again changes nothing.
    Revoke(RevokeKey),
}

#[derive(Debug, Args)]
pub struct CreateKey {
    /// What the key is like.
    #[command(flatten)]
    pub key: NewKey,
}

/// What keys for any device and for one have in common.
#[derive(Debug, Args)]
pub struct NewKey {
    /// Where the tables are.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// Id of the account.
    #[arg(long)]
    pub account: AccountId,

    /// What the key is for, for people [1..=100 characters].
    #[arg(long, value_parser = text(LABEL_CHARS_MAX))]
    pub label: Option<String>,

    /// After how long gateways refuse the key, such as 30d; never if absent [1s..=3650d].
    #[arg(long, value_parser = settings::duration(SECOND, 3650 * DAY))]
    pub expires: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct ListKeys {
    /// Where the tables are.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// Only the keys of this account, by its id.
    #[arg(long)]
    pub account: Option<AccountId>,
}

#[derive(Debug, Args)]
pub struct RevokeKey {
    /// Where the tables are.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// The key's prefix, as 'key list' shows it: mp_ and 8 characters.
    pub prefix: String,
}

#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Create an API key that is bound to a device, and print how each app is set up with it.
    ///
    /// What such a key sends is this device's, whatever the app says. The key is shown this once: only its hash is stored.
    Create(CreateDevice),
    /// List the keys of an account that are bound to devices, without their secrets.
    List(ListDevices),
    /// Revoke all keys that are bound to a device, such as one that was lost; gateways refuse them within 60 seconds.
    Revoke(RevokeDevice),
}

#[derive(Debug, Args)]
pub struct CreateDevice {
    /// What the key is like.
    #[command(flatten)]
    pub key: NewKey,

    /// Name of the device. It may have several keys [1..=128 characters].
    #[arg(long, value_parser = text(DEVICE_CHARS_MAX))]
    pub name: String,

    /// Where the phone finds a gateway, as http://host:port or https://host, with a path if a proxy in front takes it off.
    #[arg(long, env, default_value = "http://127.0.0.1:8080", value_parser = gateway_url)]
    pub gateway_url: String,

    /// Also print QR codes to scan with the phone.
    #[arg(long)]
    pub qr: bool,
}

#[derive(Debug, Args)]
pub struct ListDevices {
    /// Where the tables are.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// Id of the account.
    #[arg(long)]
    pub account: AccountId,
}

#[derive(Debug, Args)]
pub struct RevokeDevice {
    /// Where the tables are.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// Id of the account.
    #[arg(long)]
    pub account: AccountId,

    /// Name of the device, as 'device list' shows it.
    #[arg(long)]
    pub name: String,
}

#[derive(Debug, Subcommand)]
pub enum ProgressCommand {
    /// List each partition's next offset, the journal time reached, and the offset up to which facts are out.
    List(ListProgress),
    /// Say at which offset the consumer begins a partition.
    ///
    /// A partition without progress begins at offset 0. If the journal no longer begins there (its retention has passed,
    /// and the database is new or restored from an old copy), the consumer stops rather than skip records. This command
    /// says that nothing before the offset will be persisted. Stop the consumers first.
    Set(SetProgress),
}

#[derive(Debug, Args)]
pub struct ListProgress {
    /// Where the tables are.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// Where the journal is; it is not asked.
    #[command(flatten)]
    pub kafka: KafkaSettings,
}

#[derive(Debug, Args)]
pub struct SetProgress {
    /// Where the tables are.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// Where the journal is; it is not asked.
    #[command(flatten)]
    pub kafka: KafkaSettings,

    /// Partition of the journal, below PARTITIONS.
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..1000))]
    pub partition: i32,

    /// First offset that the consumer is to persist.
    #[arg(long, value_parser = clap::value_parser!(i64).range(0..))]
    pub offset: i64,

    /// Move a progress that exists. Forward, the uploads in between are never stored; backward, uploads whose window is
    /// over are stored a second time.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Subcommand)]
pub enum LocationsCommand {
    /// Count the locations and the uploads they came in. Reads the whole table, for at most 30 seconds.
    Count {
        /// Where the tables are.
        #[command(flatten)]
        database: DatabaseSettings,
    },
}

#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Print records as JSON, one a line, with the locations that are in them.
    ///
    /// Reads as a stranger: no consumer or gateway is disturbed. What this build cannot read is printed with the reason, and
    /// whole, in base64.
    Show(ShowJournal),
}

#[derive(Debug, Args)]
pub struct ShowJournal {
    /// Where the journal is.
    #[command(flatten)]
    pub kafka: KafkaSettings,

    /// Which topic: uploads, the journal itself, or results, the answers.
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = PrivateTopic::Uploads)]
    pub topic: PrivateTopic,

    /// Partition, below PARTITIONS.
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..1000))]
    pub partition: i32,

    /// Offset of the first record.
    #[arg(long, value_parser = clap::value_parser!(i64).range(0..))]
    pub offset: i64,

    /// How many records at most [1..=10000].
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub count: u32,
}

/// A topic that is private to Milepost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrivateTopic {
    /// `location-uploads`
    Uploads,
    /// `location-results`
    Results,
}

#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List the newest: topic, partition, offset, time and reason, never the record itself.
    List(ListDeadLetters),
    /// Print what is kept of one, byte for byte: the point that was set aside, or else the record's value.
    Show(ShowDeadLetter),
}

#[derive(Debug, Args)]
pub struct ListDeadLetters {
    /// Where the tables are.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// How many at most [1..=100000].
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

#[derive(Debug, Args)]
pub struct ShowDeadLetter {
    /// Where the tables are.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// Where the journal is; it is not asked.
    #[command(flatten)]
    pub kafka: KafkaSettings,

    /// Partition, below PARTITIONS.
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..1000))]
    pub partition: i32,

    /// Offset of the record.
    #[arg(long, value_parser = clap::value_parser!(i64).range(0..))]
    pub offset: i64,
}

/// A value parser: so many characters, none of them a control character.
fn text(chars_max: usize) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync + 'static {
    move |text| {
        if !(1..=chars_max).contains(&text.chars().count()) {
            return Err(format!("must have 1 to {chars_max} characters"));
        }
        if text.chars().any(char::is_control) {
            return Err("must not contain control characters".to_owned());
        }
        Ok(text.to_owned())
    }
}

/// Without the slash at its end. A link that a phone opens has to hold it, whole.
fn gateway_url(text: &str) -> Result<String, String> {
    let wrong = || "must be a URL such as http://192.168.1.2:8080 or https://host/path".to_owned();
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let scheme = uri.scheme_str().is_some_and(|scheme| scheme == "http" || scheme == "https");
    let host = uri
        .authority()
        .is_some_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'));
    if scheme && host && uri.query().is_none() && !text.contains('#') && text.len() <= 500 {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        Err(wrong())
    }
}
