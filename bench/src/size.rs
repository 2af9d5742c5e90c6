//! How much is measured: a few minutes, some more, or everything.

use std::time::Duration;

use clap::ValueEnum;

use crate::warm_up::Windows;

/// The size of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Size {
    /// About three minutes: shows that it runs, and large changes.
    Quick,
    /// About twenty minutes.
    Standard,
    /// Every number of keys and a million locations: hours.
    Full,
}

impl Size {
    fn choose<T>(self, quick: T, standard: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Standard => standard,
            Self::Full => full,
        }
    }

    /// As it is written in file names and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.choose("quick", "standard", "full")
    }

    /// How the servers are warmed up before anything: a broker that has just started is slower than later, on a slow machine
    /// for minutes.
    #[must_use]
    pub fn servers_warm_up(self) -> Windows {
        Windows { length: Duration::from_secs(self.choose(5, 10, 20)), most: self.choose(12, 30, 30) }
    }

    /// How long each of the two that are compared is loaded in a round.
    #[must_use]
    pub fn slice(self) -> Duration {
        Duration::from_secs(self.choose(1, 5, 10))
    }

    /// How each is warmed up before the first round.
    #[must_use]
    pub fn warm_up(self) -> Windows {
        Windows { length: Duration::from_millis(self.choose(500, 2000, 5000)), most: self.choose(6, 10, 10) }
    }

    /// How many rounds both are measured.
    #[must_use]
    pub fn rounds(self) -> usize {
        self.choose(2, 5, 5)
    }

    /// Rounds of what takes long anyway.
    #[must_use]
    pub fn long_rounds(self) -> usize {
        self.choose(1, 3, 3)
    }

    /// Shares of the capacity at which latency is measured; a half must be among them.
    #[must_use]
    pub fn loads(self) -> &'static [f64] {
        self.choose(
            &[0.25, 0.5, 0.75],
            &[0.1, 0.25, 0.5, 0.75, 0.9],
            &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
        )
    }

    /// Locations of a backlog, sent in batches.
    #[must_use]
    pub fn backlog_in_batches(self) -> u64 {
        self.choose(100_000, 500_000, 1_000_000)
    }

    /// Locations of a backlog, sent one by one.
    #[must_use]
    pub fn backlog_of_singles(self) -> u64 {
        self.choose(20_000, 200_000, 1_000_000)
    }

    /// Numbers of live keys, growing.
    #[must_use]
    pub fn keys_held(self) -> &'static [u64] {
        self.choose(&[200_000], &[1_000_000, 3_000_000], &[1_000_000, 10_000_000, 50_000_000])
    }

    /// Keys in a table partition that expires.
    #[must_use]
    pub fn keys_expired(self) -> u64 {
        self.choose(200_000, 2_000_000, 10_000_000)
    }

    /// How long load goes on before and during an expiry.
    #[must_use]
    pub fn expiry(self) -> Duration {
        Duration::from_secs(self.choose(4, 15, 60))
    }

    /// Keys that are retried again and again.
    #[must_use]
    pub fn hot_keys(self) -> u64 {
        self.choose(1000, 10_000, 10_000)
    }

    /// How long retries storm, seconds.
    #[must_use]
    pub fn storm_seconds(self) -> usize {
        self.choose(4, 12, 20)
    }

    /// Uploads while memory is watched: an hour's worth is a thousand a second.
    #[must_use]
    pub fn uploads_watched(self) -> u64 {
        self.choose(30_000, 250_000, 3_600_000)
    }

    /// Longest time for one scenario, after which it has failed.
    #[must_use]
    pub fn scenario_deadline(self) -> Duration {
        Duration::from_secs(60 * self.choose(5, 20, 240))
    }
}
