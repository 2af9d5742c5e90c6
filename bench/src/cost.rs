//! What work costs: CPU time by process, and bytes by store.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use milepost_tests::{Server, Tables};

/// Unit of CPU time in `/proc`: 1/100 s on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// A line of `/proc/PID/stat`, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: i32,
    /// Of the process itself.
    own: u32,
    /// Of its children that have ended.
    ended: u32,
}

/// The name in parentheses may hold anything, also parentheses.
fn stat(line: &str) -> Option<Stat> {
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u32>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own: ticks(11)? + ticks(12)?,
        ended: ticks(13)? + ticks(14)?,
    })
}

/// CPU time of a process and its children, also of those that have ended: Postgres has one for each connection.
///
/// # Errors
/// There is no such process.
pub fn cpu_time(pid: i32) -> anyhow::Result<Duration> {
    let read = |pid: i32| stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?);
    let own = read(pid).with_context(|| format!("there is no process {pid}"))?;
    let pids = std::fs::read_dir("/proc")?;
    let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let children: u32 =
        pids.filter_map(read).filter(|child| child.parent == pid).map(|child| child.own).sum();
    Ok(TICK * (own.own + own.ended + children))
}

/// The process of a development server.
///
/// # Errors
/// It does not run.
pub fn server_pid(server: &Server) -> anyhow::Result<i32> {
    let pid = std::fs::read_to_string(server.dir().join("pid")).context("the server does not run")?;
    Ok(pid.trim().parse()?)
}

/// CPU time of several programs, by what they are.
pub type CpuTimes = BTreeMap<&'static str, Duration>;

/// Adds up the CPU time of processes.
///
/// # Errors
/// One of them does not run.
pub fn cpu_times(processes: &[(&'static str, i32)]) -> anyhow::Result<CpuTimes> {
    let mut times = CpuTimes::new();
    for (name, pid) in processes {
        *times.entry(name).or_default() += cpu_time(*pid)?;
    }
    Ok(times)
}

/// What each has taken between two looks.
#[must_use]
pub fn spent(before: &CpuTimes, after: &CpuTimes) -> CpuTimes {
    let since = |(name, after): (&&'static str, &Duration)| {
        (*name, after.saturating_sub(before.get(name).copied().unwrap_or_default()))
    };
    after.iter().map(since).collect()
}

/// Bytes of all records in the topics whose names begin so.
///
/// # Errors
/// The broker's directory cannot be read.
pub fn kafka_bytes(kafka: &Server, prefix: &str) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for partition in std::fs::read_dir(kafka.dir().join("data"))? {
        let partition = partition?;
        if partition.file_name().to_string_lossy().starts_with(prefix) {
            bytes += segment_bytes(&partition.path())?;
        }
    }
    Ok(bytes)
}

/// Indexes are not counted: they are allocated ahead.
fn segment_bytes(partition: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for file in std::fs::read_dir(partition)? {
        let file = file?;
        if file.path().extension().is_some_and(|extension| extension == "log") {
            bytes += file.metadata()?.len();
        }
    }
    Ok(bytes)
}

/// Bytes of write-ahead log that the server has written since it was made.
///
/// # Errors
/// Postgres cannot be asked.
pub async fn wal_bytes(tables: &Tables) -> anyhow::Result<u64> {
    let bytes = tables.number("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint").await?;
    Ok(u64::try_from(bytes)?)
}

/// Bytes of all tables that uploads go into, and of their indexes.
///
/// # Errors
/// Postgres cannot be asked.
pub async fn table_bytes(tables: &Tables) -> anyhow::Result<(u64, u64)> {
    let sum = |size: &str| {
        format!(
            "SELECT sum({size}(relid))::bigint FROM (SELECT relid FROM pg_partition_tree('idempotency_keys') \
             UNION ALL SELECT relid FROM pg_partition_tree('locations') UNION ALL SELECT 'devices'::regclass) AS tables"
        )
    };
    let table = tables.number(&sum("pg_table_size")).await?;
    let index = tables.number(&sum("pg_indexes_size")).await?;
    Ok((u64::try_from(table)?, u64::try_from(index)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_parentheses_in_its_name_is_read() {
        let line = "12 (a) S (b) S 7 12 12 0 -1 4194304 1 2 0 0 30 12 5 6 20 0 1 0 100 1000 10";
        assert_eq!(stat(line), Some(Stat { parent: 7, own: 42, ended: 11 }));
        assert_eq!(stat("12 (a) S 7"), None);
    }

    #[test]
    fn only_segments_count_as_records() {
        let partition = std::env::temp_dir().join(format!("milepost-bench-{}", std::process::id()));
        std::fs::create_dir(&partition).unwrap();
        std::fs::write(partition.join("00.log"), "12345").unwrap();
        std::fs::write(partition.join("00.index"), "123").unwrap();
        let bytes = segment_bytes(&partition);
        std::fs::remove_dir_all(&partition).unwrap();
        assert_eq!(bytes.unwrap(), 5);
    }
}
