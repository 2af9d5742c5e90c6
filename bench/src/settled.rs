//! A load, and what was left to do when the last answer was there: a point of a phone app is answered when the journal has it, and
//! a rate of answers alone would hide a consumer that falls behind.

use std::time::{Duration, Instant};

use crate::clients::Clients;
use crate::cost::{CpuTimes, cpu_times, spent};
use crate::installation::Installation;
use crate::tally::Tally;

/// A load after which all is persisted.
#[derive(Debug)]
pub struct Settled {
    /// Its answers.
    pub tally: Tally,
    /// Locations that the answers have brought.
    pub locations: u64,
    /// Records that were not persisted when the last answer was there.
    pub behind: i64,
    /// From the first request until all was persisted.
    pub elapsed: Duration,
    /// What all processes took for it, but for the load's.
    pub cpu: CpuTimes,
}

impl Settled {
    /// Loads an installation that is at rest, and waits until it is again.
    ///
    /// # Errors
    /// The load fails, or the consumer does not catch up.
    pub async fn load(
        clients: &mut Clients,
        milepost: &Installation,
        processes: &[(&'static str, i32)],
        duration: Duration,
    ) -> anyhow::Result<Self> {
        let before = cpu_times(processes)?;
        let begun = Instant::now();
        let tally = clients.closed(duration).await?;
        let behind = milepost.behind().await?;
        milepost.persisted().await?;
        let elapsed = begun.elapsed();
        let cpu = spent(&before, &cpu_times(processes)?);
        Ok(Self { locations: tally.answers() * clients.requests().locations(), tally, behind, elapsed, cpu })
    }

    /// Locations a second, by the answers.
    #[must_use]
    pub fn answered(&self) -> f64 {
        self.locations as f64 / self.tally.elapsed().as_secs_f64()
    }

    /// Locations a second, by when all were persisted.
    #[must_use]
    pub fn persisted(&self) -> f64 {
        self.locations as f64 / self.elapsed.as_secs_f64()
    }

    /// CPU time of a location, µs.
    #[must_use]
    pub fn cpu_us(&self) -> f64 {
        self.cpu.values().sum::<Duration>().as_secs_f64() * 1e6 / self.locations as f64
    }

    /// The same by process.
    #[must_use]
    pub fn cpu_by_process(&self) -> String {
        let each = |(name, spent): (&&str, &Duration)| {
            format!("{name} {:.1}", spent.as_secs_f64() * 1e6 / self.locations as f64)
        };
        format!("{} µs", self.cpu.iter().map(each).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_answered_faster_than_persisted_shows() {
        let mut tally = Tally::default().within(Duration::from_secs(2));
        (0..20).for_each(|_| tally.record(Duration::from_millis(1)));
        let cpu =
            CpuTimes::from([("gateway", Duration::from_millis(3)), ("Kafka", Duration::from_millis(1))]);
        let elapsed = Duration::from_secs(5);
        let settled = Settled { tally, locations: 1000, behind: 600, elapsed, cpu };
        assert!((settled.answered() - 500.0).abs() < 1e-9);
        assert!((settled.persisted() - 200.0).abs() < 1e-9);
        assert!((settled.cpu_us() - 4.0).abs() < 1e-9);
        assert_eq!(settled.cpu_by_process(), "Kafka 1.0, gateway 3.0 µs");
    }
}
