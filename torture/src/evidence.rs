//! The evidence: what journal, topics and tables hold when all is healed and quiet, reduced to what the checkers need.

use milepost_shared::journal::account::AccountId;
use std::collections::BTreeMap;
use std::time::Duration;

use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::position::Position;
use milepost_shared::kafka::names::TopicNames;
use milepost_tests::{Kafka, Tables};

use crate::operation::UploadId;

/// Where evidence is read: the servers themselves, not the links that suffer from faults.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The run's seed: everything that was sent is made again from it.
    pub seed: u64,
    /// `IDEMPOTENCY_TTL`.
    pub ttl: Duration,
    /// The two accounts.
    pub accounts: [AccountId; 2],
    /// The cluster.
    pub kafka: Kafka,
    /// The topics.
    pub topics: TopicNames,
    /// The consumers' group.
    pub group: String,
    /// The tables.
    pub tables: Tables,
}

impl Sources {
    /// The number of an account; `None` for a stranger.
    #[must_use]
    pub fn account(&self, id: AccountId) -> Option<usize> {
        self.accounts.iter().position(|account| *account == id)
    }
}

/// A record of the journal.
#[derive(Debug, Clone)]
pub struct JournalEntry {
    /// Where it stands.
    pub position: Position,
    /// LogAppendTime.
    pub time: JournalTime,
    /// Its key, hex; empty if it has none or an unreadable one.
    pub key_hash: String,
    /// The account, 0 or 1; `None` for poison.
    pub account: Option<usize>,
    /// The upload; `None` for poison, which includes an upload that no operation has, and for a point set aside that no operation
    /// has.
    pub upload: Option<UploadId>,
    /// Whether it is a point that was set aside: decided as an upload is, and a dead letter if it is new.
    pub is_set_aside: bool,
}

/// The rows of `locations` that came from one journal record.
#[derive(Debug, Clone)]
pub struct StoredUpload {
    /// The record they came from.
    pub position: Position,
    /// Journal time of that record.
    pub received_at: JournalTime,
    /// The account, 0 or 1.
    pub account: Option<usize>,
    /// The upload, by the first row's capture time.
    pub upload: Option<UploadId>,
    /// What differs, bit for bit, from the upload that the operation sent: a location missing, twice, changed or of another
    /// upload. `None` if nothing does.
    pub fault: Option<String>,
    /// How often the whole of it is there.
    pub copies: usize,
}

/// A row of `idempotency_keys` that is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// SHA-256, hex.
    pub key_hash: String,
    /// The account, 0 or 1.
    pub account: Option<usize>,
    /// HTTP status of the answer.
    pub status: u16,
    /// Its bytes.
    pub body: Vec<u8>,
    /// Start of the window.
    pub accepted_at: JournalTime,
    /// Its end.
    pub expires_at: JournalTime,
    /// The record that claimed it.
    pub source: Position,
}

/// A row of `dead_letters`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetter {
    /// The record that it holds.
    pub position: Position,
    /// The bad point that it is, with the reason that such a point has; `None` for poison.
    pub upload: Option<UploadId>,
}

/// A fact as a subscriber saw it, in the order seen.
#[derive(Debug, Clone)]
pub struct SeenFact {
    /// Its partition.
    pub partition: i32,
    /// Header `source-offset`.
    pub source_offset: i64,
    /// The account, 0 or 1.
    pub account: Option<usize>,
    /// The upload.
    pub upload: Option<UploadId>,
    /// `receivedAt`.
    pub received_at: JournalTime,
    /// What differs from the upload that the operation sent, or from the documented form.
    pub fault: Option<String>,
}

/// A stretch of time in which every look found a group offset beyond what was persisted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ahead {
    /// Partition of the journal.
    pub partition: i32,
    /// The last look before it, since the run began.
    pub after: Duration,
    /// The first look at it.
    pub from: Duration,
    /// The last one.
    pub to: Duration,
    /// The group's offset at the first.
    pub committed: i64,
    /// `partition_progress.next_offset` at the first.
    pub next_offset: i64,
}

/// What the watchers saw during the run.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The wall clock when the run's time was 0, milliseconds since 1970. Journal time is by the same machine's.
    pub begun_ms: i64,
    /// Facts, read live.
    pub facts: Vec<SeenFact>,
    /// Uploads of which a reader saw some rows and not others.
    pub torn: Vec<String>,
    /// Times in which a group offset had passed what was persisted.
    pub ahead: Vec<Ahead>,
    /// Samples, in order.
    pub samples: Vec<Sample>,
    /// Reads of each watcher that worked.
    pub reads: BTreeMap<&'static str, u64>,
}

/// One look at the system from the side.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Since the run began.
    pub at: Duration,
    /// Journal records not yet persisted; `None` if Kafka or Postgres did not answer.
    pub lag: Option<i64>,
    /// Sessions idle in a transaction, of both programs' roles.
    pub idle_in_transaction: Option<i64>,
    /// How long the longest of them has been so.
    pub idle_longest: Option<Duration>,
    /// Open files and resident bytes by process name.
    pub processes: BTreeMap<String, Footprint>,
}

/// What a process holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Footprint {
    /// Open files.
    pub files: u64,
    /// Resident memory, bytes.
    pub memory: u64,
}

/// All that is known at the end of a run, besides the history.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The run's seed: everything that was sent is made again from it.
    pub seed: u64,
    /// `IDEMPOTENCY_TTL`.
    pub ttl: Duration,
    /// The wall clock when all this was read, milliseconds since 1970.
    pub gathered_ms: i64,
    /// The journal, by partition in order.
    pub journal: Vec<JournalEntry>,
    /// The rows of `locations`, by journal position.
    pub stored: Vec<StoredUpload>,
    /// The rows of `idempotency_keys`.
    pub keys: Vec<StoredKey>,
    /// The rows of `dead_letters`.
    pub dead_letters: Vec<DeadLetter>,
    /// Facts, read from the start of the topic at the end of the run.
    pub facts: Vec<SeenFact>,
    /// `partition_progress.next_offset` by partition.
    pub progress: BTreeMap<i32, i64>,
    /// The group's offset by partition.
    pub committed: BTreeMap<i32, i64>,
    /// What the watchers saw.
    pub observed: Observed,
    /// Lines of the programs' logs that must not be there: panics, planted values, secrets.
    pub log_faults: Vec<String>,
    /// What differs after the tables were emptied and built again from the journal; `None` if that was not tried.
    pub rebuilt: Option<Vec<String>>,
    /// From the last heal to the first 200, and to lag 0.
    pub recovered: Option<(Duration, Duration)>,
    /// How often each replay path was taken: cache, table, results, joined.
    pub replay_paths: BTreeMap<&'static str, u64>,
    /// How often a consumer paused, its batch being full.
    pub pauses: u64,
    /// Programs that ended though nobody asked for it.
    pub unexpected: Vec<String>,
}
