//! Expire: table partitions are made ahead of time and dropped when every window in them is over.
//!
//! A partition of keys is dropped only when *journal* time has passed its last window in every partition of the journal,
//! and everything from it has been emitted. So expiry never overtakes a consumer that lags behind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use metrics::{counter, gauge};
use milepost_shared::journal::clock::{Clock, JournalTime};
use milepost_shared::journal::position::{NextOffset, Partition};
use milepost_shared::kafka::client::{self, Watching};
use milepost_shared::kafka::reader::{self, Reader};
use milepost_shared::program::settings::KafkaSettings;
use milepost_shared::store::connection::Connections;
use milepost_shared::store::partitions::{self, Expiry, KeyPartition, Partitioned};
use milepost_shared::store::progress::{self, Progress};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset};
use sqlx::PgConnection;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::emit::emitter::{Emitted, EmittedOffsets};
use crate::journal::assign::Assignment;
use crate::metric;
use crate::persist::transaction::LOCATIONS_NEEDED;

/// Longest wait for a watermark.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for one record.
const POLL: Duration = Duration::from_millis(100);
/// Table partitions that exist ahead of the current one.
const AHEAD: u32 = 2;

/// What maintenance is made of.
#[derive(Debug, Clone)]
pub struct ExpireSettings {
    /// Where the journal is, and how long a key is remembered.
    pub kafka: KafkaSettings,
    /// The journal's topic name.
    pub topic: String,
    /// How long after its last window a table partition is kept.
    pub grace: Duration,
    /// The consumer's wall clock.
    pub clock: Clock,
    /// How often to look.
    pub interval: Duration,
    /// Longest look.
    pub timeout: Duration,
}

/// What decides about expiry, of one journal partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalClock {
    /// Journal time has passed this moment; `None` if it never began.
    pub passed: Option<JournalTime>,
    /// Everything accepted before this moment has been emitted; `None` if nothing is.
    pub emitted: Option<JournalTime>,
}

/// Reads the clock of one journal partition.
///
/// `journal_end` is its high watermark, and `wall` a wall-clock time read *before* that: when nothing is left to persist,
/// whatever comes later is stamped later.
#[must_use]
pub fn journal_clock(
    progress: Option<&Progress>,
    journal_end: NextOffset,
    wall: JournalTime,
) -> JournalClock {
    let log_time = progress.and_then(|progress| progress.log_time);
    let passed = if is_drained(progress, journal_end) { log_time.max(Some(wall)) } else { log_time };
    let all_emitted = progress.is_none_or(|progress| progress.emitted_offset >= progress.next_offset);
    let emitted = if all_emitted { passed } else { progress.and_then(|progress| progress.emitted_time) };
    JournalClock { passed, emitted }
}

/// Whether nothing is left to persist.
fn is_drained(progress: Option<&Progress>, journal_end: NextOffset) -> bool {
    progress.map_or(NextOffset::START, |progress| progress.next_offset) >= journal_end
}

/// Whether a table partition of keys may go: all its windows are over in every journal partition, and its answers are out.
#[must_use]
pub fn may_expire(partition: &KeyPartition, clocks: &[JournalClock], grace: Duration) -> bool {
    let over = partition.keep_until.plus(grace);
    clocks.iter().all(|clock| {
        clock.passed.is_some_and(|passed| passed >= over)
            && clock.emitted.is_some_and(|emitted| emitted >= partition.accepted.end)
    })
}

/// The database's progress fell behind what this consumer has persisted: it was put back to an earlier state.
#[derive(Debug, thiserror::Error)]
#[error("the progress of journal partitions {0:?} was put back; what is missing is persisted again")]
pub struct PutBack(pub Vec<Partition>);

/// Looks after table partitions until `stop`. Each consumer of an installation does; the database makes them take turns.
///
/// # Errors
/// [`PutBack`], noticed here even when no record comes that would meet the fence.
pub async fn run(
    settings: ExpireSettings,
    connections: Connections,
    emitted: EmittedOffsets,
    assignment: Assignment,
    stop: CancellationToken,
) -> Result<(), PutBack> {
    let mut tick = tokio::time::interval(settings.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let look =
            connections.ask(async |connection| look(&settings, connection, &emitted, &assignment).await);
        match stop.run_until_cancelled(tokio::time::timeout(settings.timeout, look)).await {
            None => break,
            Some(Ok(Ok(put_back))) if put_back.is_empty() => {}
            Some(Ok(Ok(put_back))) => return Err(PutBack(put_back)),
            Some(Ok(Err(error))) => {
                tracing::warn!(error = format!("{error:#}"), "maintenance failed; trying again")
            }
            Some(Err(_)) => tracing::warn!("maintenance took too long; trying again"),
        }
    }
    Ok(())
}

/// One look. Returns this consumer's partitions whose progress was put back.
async fn look(
    settings: &ExpireSettings,
    connection: &mut PgConnection,
    emitted: &EmittedOffsets,
    assignment: &Assignment,
) -> anyhow::Result<Vec<Partition>> {
    let emitted = emitted.snapshot();
    let progress = progress::load(connection, &settings.topic).await?;
    let put_back = put_back(&emitted, &progress, assignment);
    if !put_back.is_empty() {
        return Ok(put_back);
    }
    for (partition, emitted) in emitted {
        progress::note_emitted(connection, &settings.topic, partition, emitted.next, emitted.time).await?;
    }
    let server = partitions::server_time(connection).await?;
    make_ahead(connection, settings, server).await?;
    let expired = expired(connection, settings, server).await?;
    for partition in expired.partitions {
        match partitions::expire(connection, &partition.name, &settings.topic, &expired.drained).await? {
            Expiry::Detached => {
                counter!(metric::EXPIRED).increment(1);
                tracing::info!(table = partition.name, "key partition expired");
            }
            Expiry::Busy => {
                tracing::warn!(
                    table = partition.name,
                    "a key partition cannot expire: somebody holds idempotency_keys; trying again, ever more rarely"
                );
                break;
            }
            Expiry::NotNow => {}
        }
    }
    partitions::drop_detached(connection).await?;
    let oldest = partitions::oldest_keep_until(connection).await?;
    gauge!(metric::OVERDUE).set(overdue(oldest, server, settings.grace));
    Ok(Vec::new())
}

/// For how long the oldest key partition could have been gone, seconds.
#[expect(clippy::cast_precision_loss, reason = "milliseconds of some thousand years are exact")]
fn overdue(oldest: Option<JournalTime>, now: JournalTime, grace: Duration) -> f64 {
    oldest.map_or(0.0, |keep_until| now.0.saturating_sub(keep_until.plus(grace).0).max(0) as f64 / 1000.0)
}

/// What was emitted was persisted before; if the table says otherwise, it is not the table it was.
fn put_back(
    emitted: &BTreeMap<Partition, Emitted>,
    progress: &[Progress],
    assignment: &Assignment,
) -> Vec<Partition> {
    emitted
        .iter()
        .filter(|(partition, emitted)| {
            let next_offset = progress
                .iter()
                .find(|row| row.partition == **partition)
                .map_or(NextOffset::START, |row| row.next_offset);
            assignment.is_current(**partition, emitted.generation) && next_offset < emitted.next
        })
        .map(|(partition, _)| *partition)
        .collect()
}

/// By the database's clock: a consumer's own may be wrong, and the database makes nothing for times that are far from its.
async fn make_ahead(
    connection: &mut PgConnection,
    settings: &ExpireSettings,
    server: JournalTime,
) -> sqlx::Result<()> {
    let tables =
        [(Partitioned::Keys, settings.kafka.idempotency_ttl), (Partitioned::Locations, LOCATIONS_NEEDED)];
    for (table, needed) in tables {
        let mut moment = server;
        for _ in 0..=AHEAD {
            moment = partitions::ensure(connection, table, moment, needed).await?.end;
        }
    }
    Ok(())
}

/// The key partitions that may go.
#[derive(Debug, Default)]
struct Expired {
    partitions: Vec<KeyPartition>,
    /// The partitions of the journal in which nothing is left to persist.
    drained: Vec<Partition>,
}

async fn expired(
    connection: &mut PgConnection,
    settings: &ExpireSettings,
    server: JournalTime,
) -> anyhow::Result<Expired> {
    // Two clocks, and the earlier one counts, so that one wrong clock cannot expire a key too early.
    let wall = settings.clock.now().min(server);
    let mut candidates = partitions::key_partitions(connection).await?;
    candidates.retain(|partition| partition.keep_until.plus(settings.grace) <= wall);
    candidates.retain(|partition| partition.retry_at.is_none_or(|retry_at| retry_at <= server));
    if candidates.is_empty() {
        return Ok(Expired::default());
    }
    // After the clock, before the progress: see `journal_clock`.
    let (watermarks, before) = (settings.clone(), progress::load(connection, &settings.topic).await?);
    let ends = tokio::task::spawn_blocking(move || journal_ends(&watermarks, &before)).await??;
    let progress = progress::load(connection, &settings.topic).await?;
    let of = |partition: Partition| progress.iter().find(|progress| progress.partition == partition);
    let clocks: Vec<JournalClock> =
        ends.iter().map(|(partition, end)| journal_clock(of(*partition), *end, wall)).collect();
    candidates.retain(|partition| may_expire(partition, &clocks, settings.grace));
    let drained = ends.iter().filter(|(partition, end)| is_drained(of(**partition), **end));
    // Partitions that were added once, and that no gateway publishes to.
    let added =
        progress.iter().map(|row| row.partition).filter(|partition| partition.0 >= settings.kafka.partitions);
    let drained = drained.map(|(partition, _)| *partition).chain(added).collect();
    Ok(Expired { partitions: candidates, drained })
}

/// Where each journal partition ends: behind its last record. The log's own end may lie further on, since a transaction
/// leaves a mark there that is no record; so where the progress has not come to it, the journal is asked for a record.
fn journal_ends(
    settings: &ExpireSettings,
    progress: &[Progress],
) -> anyhow::Result<BTreeMap<Partition, NextOffset>> {
    let reader: Reader = client::journal_ends(&settings.kafka)
        .create_with_context(Watching::default())
        .context("cannot make a Kafka client")?;
    let mut ends = Partition::all(settings.kafka.partitions)
        .map(|partition| {
            let watermarks = reader.fetch_watermarks(&settings.topic, partition.0, REQUEST_TIMEOUT);
            let (_, end) = watermarks.context("cannot read the journal's end")?;
            Ok((partition, NextOffset(end)))
        })
        .collect::<anyhow::Result<BTreeMap<Partition, NextOffset>>>()?;
    let next = |partition| {
        progress
            .iter()
            .find(|row| row.partition == partition)
            .map_or(NextOffset::START, |row| row.next_offset)
    };
    let undrained = ends.iter().map(|(partition, end)| (*partition, next(*partition), *end));
    let undrained =
        undrained.filter(|(_, next, end)| next < end).map(|(partition, next, _)| (partition, next));
    let empty = without_records(&reader, &settings.topic, undrained.collect())?;
    ends.extend(empty);
    Ok(ends)
}

/// Of partitions and offsets, those that hold no record from there on. What is not answered in time is not among them.
fn without_records(
    reader: &Reader,
    topic: &str,
    mut asked: BTreeMap<Partition, NextOffset>,
) -> anyhow::Result<BTreeMap<Partition, NextOffset>> {
    let places = asked.iter().map(|(partition, offset)| (*partition, Offset::Offset(offset.0)));
    reader::assign(reader, topic, places).context("cannot read the journal's end")?;
    let (mut empty, deadline) = (BTreeMap::new(), Instant::now() + REQUEST_TIMEOUT);
    while !asked.is_empty() && Instant::now() < deadline {
        match reader.poll(POLL) {
            Some(Ok(message)) => drop(asked.remove(&Partition(message.partition()))),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                let partition = Partition(partition);
                empty.extend(asked.remove(&partition).map(|offset| (partition, offset)));
            }
            // The journal begins behind it, at its end: whether records are gone that were not persisted, nobody knows here.
            Some(Err(error)) if reader::is_out_of_range(&error) => break,
            Some(Err(error)) => return Err(error).context("cannot read the journal's end"),
            None => {}
        }
    }
    Ok(empty)
}

#[cfg(test)]
mod tests {
    use milepost_shared::store::partitions::Stretch;

    use super::*;

    const WALL: JournalTime = JournalTime(10_000);

    fn progress(next_offset: i64, log_time: i64, emitted_offset: i64, emitted_time: i64) -> Progress {
        Progress {
            partition: Partition(0),
            next_offset: NextOffset(next_offset),
            log_time: Some(JournalTime(log_time)),
            emitted_offset: NextOffset(emitted_offset),
            emitted_time: Some(JournalTime(emitted_time)),
        }
    }

    /// Accepted in [0, 1000), windows of 1000.
    fn key_partition() -> KeyPartition {
        KeyPartition {
            name: String::new(),
            accepted: Stretch { start: JournalTime(0), end: JournalTime(1000) },
            keep_until: JournalTime(2000),
            retry_at: None,
        }
    }

    fn expires(progress: Option<&Progress>, journal_end: i64) -> bool {
        let clock = journal_clock(progress, NextOffset(journal_end), WALL);
        may_expire(&key_partition(), &[clock], Duration::from_millis(500))
    }

    #[test]
    fn a_lagging_consumer_keeps_its_keys_whatever_the_wall_clock_says() {
        assert!(!expires(Some(&progress(5, 1500, 5, 1500)), 6));
        assert!(expires(Some(&progress(5, 2500, 5, 2500)), 6));
        assert!(!expires(Some(&progress(5, 2499, 5, 2499)), 6));
        assert!(!expires(None, 6));
    }

    #[test]
    fn a_drained_partition_goes_by_the_wall_clock() {
        assert!(expires(Some(&progress(5, 1500, 5, 1500)), 5));
        assert!(expires(None, 0));
    }

    #[test]
    fn what_is_not_emitted_keeps_its_keys() {
        assert!(!expires(Some(&progress(5, 1500, 4, 900)), 5));
        assert!(expires(Some(&progress(5, 1500, 4, 1000)), 5));
    }

    #[test]
    fn a_table_put_back_is_noticed_for_the_partitions_that_are_this_consumers() {
        let assignment = Assignment::default();
        let generation = assignment.add(Partition(0), NextOffset::START, NextOffset::START);
        let emitted = |generation, next| {
            let next = NextOffset(next);
            BTreeMap::from([(Partition(0), Emitted { generation, next, time: WALL })])
        };
        let table = [progress(5, 0, 0, 0)];
        assert!(put_back(&emitted(generation, 5), &table, &assignment).is_empty());
        assert_eq!(put_back(&emitted(generation, 6), &table, &assignment), [Partition(0)]);
        assert_eq!(put_back(&emitted(generation, 6), &[], &assignment), [Partition(0)]);
        assert!(put_back(&emitted(generation + 1, 6), &table, &assignment).is_empty());
    }

    #[test]
    fn expiry_is_overdue_from_the_end_of_the_grace_on() {
        let (grace, at) = (Duration::from_millis(500), JournalTime);
        assert_eq!(overdue(None, at(9000), grace), 0.0);
        assert_eq!(overdue(Some(at(2000)), at(1000), grace), 0.0);
        assert_eq!(overdue(Some(at(2000)), at(2500), grace), 0.0);
        assert_eq!(overdue(Some(at(2000)), at(4750), grace), 2.25);
    }

    #[test]
    fn one_journal_partition_that_is_behind_holds_all_back() {
        let done = journal_clock(None, NextOffset::START, WALL);
        let behind = journal_clock(Some(&progress(5, 1500, 5, 1500)), NextOffset(9), WALL);
        assert!(may_expire(&key_partition(), &[done, done], Duration::ZERO));
        assert!(!may_expire(&key_partition(), &[done, behind], Duration::ZERO));
    }
}
