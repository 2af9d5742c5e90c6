//! What the figures were measured on, and whether it had other work meanwhile.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::commit::commit_one_by_one;
use crate::cost::cpu_time;
use crate::setup::Setup;
use crate::warm_up::WarmUp;

/// How long bare commits are measured.
const COMMITS: Duration = Duration::from_secs(1);

/// A machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Its processor's name.
    pub processor: String,
    /// How many cores it has.
    pub cores: usize,
    /// Its memory, GiB.
    pub memory_gib: f64,
    /// Its Linux.
    pub linux: String,
    /// Version of Postgres.
    pub postgres: String,
    /// Median of a bare commit, which waits for the disk, milliseconds.
    pub commit_ms: f64,
    /// How much of all cores' time was taken by what is not the benchmark, 0 to 1.
    pub foreign: f64,
    /// How the warm-up of the servers ended; `None` in results from before it was noted.
    #[serde(default)]
    pub warm_up: Option<WarmUp>,
}

impl Machine {
    /// This one, with nothing foreign and no warm-up yet.
    ///
    /// # Errors
    /// `/proc` is not as on Linux, or Postgres is not there.
    pub async fn describe(setup: &Setup) -> anyhow::Result<Self> {
        let mut owner = setup.owner().await?;
        let commits = commit_one_by_one(&mut owner, COMMITS).await?;
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
        let meminfo = std::fs::read_to_string("/proc/meminfo")?;
        let kib: f64 = field(&meminfo, "MemTotal")
            .and_then(|kib| kib.trim_end_matches(" kB").parse().ok())
            .unwrap_or(0.0);
        Ok(Self {
            processor: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: (kib / 1_048_576.0).round(),
            linux: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            postgres: sqlx::query_scalar("SHOW server_version").fetch_one(&mut owner).await?,
            commit_ms: commits.latency_ms(0.5),
            foreign: 0.0,
            warm_up: None,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} cores, {} GiB; Linux {}, PostgreSQL {}; a bare commit takes {:.2} ms; other work took {:.0} % of the cores",
            self.processor,
            self.cores,
            self.memory_gib,
            self.linux,
            self.postgres,
            self.commit_ms,
            self.foreign * 100.0
        )?;
        self.warm_up
            .map_or(Ok(()), |warm_up| write!(f, "; throughput while the servers warmed up: {warm_up}"))
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start_matches([' ', '\t', ':']).trim())
}

/// CPU time of the whole machine and of the benchmark, from the moment it starts.
#[derive(Debug)]
pub struct Watch {
    begun: Instant,
    busy: Duration,
    ours: Duration,
}

impl Watch {
    /// Starts to watch.
    ///
    /// # Errors
    /// `/proc` is not as on Linux, or a server does not run.
    pub fn start(setup: &Setup) -> anyhow::Result<Self> {
        Ok(Self { begun: Instant::now(), busy: busy()?, ours: ours(setup)? })
    }

    /// How much of all cores' time something else has taken since, 0 to 1.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn foreign(&self, setup: &Setup, cores: usize) -> anyhow::Result<f64> {
        let all = self.begun.elapsed().mul_f64(cores as f64);
        let ours = ours(setup)?.saturating_sub(self.ours);
        Ok((busy()?.saturating_sub(self.busy).saturating_sub(ours)).div_duration_f64(all))
    }
}

/// This process with its children, and the servers.
fn ours(setup: &Setup) -> anyhow::Result<Duration> {
    let mut sum = cpu_time(i32::try_from(std::process::id())?)?;
    for (_, server) in setup.processes()? {
        sum += cpu_time(server)?;
    }
    Ok(sum)
}

/// CPU time of all processes and of the machine's host, where it was taken from this machine.
fn busy() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    busy_ticks(&stat).map(|ticks| Duration::from_millis(10 * ticks)).context("/proc/stat is not as on Linux")
}

/// Everything but idle (3) and waiting for disks (4); guests (8, 9) are in user time already.
fn busy_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let ticks: Vec<u64> = fields.take(8).map(|field| field.parse().ok()).collect::<Option<_>>()?;
    Some(ticks.iter().sum::<u64>() - ticks.get(3)? - ticks.get(4)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_taken_is_all_but_idle_and_disk() {
        let stat = "cpu  10 1 20 1000 500 2 3 4 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(40));
        assert_eq!(busy_ticks("intr 1"), None);
    }

    #[test]
    fn fields_are_found_with_and_without_blanks() {
        assert_eq!(field("model name\t: A B\nx", "model name"), Some("A B"));
        assert_eq!(field("MemTotal:       24680 kB", "MemTotal"), Some("24680 kB"));
    }
}
