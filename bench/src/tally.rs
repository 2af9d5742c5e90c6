//! How a load was answered, and how fast.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest latency distinguished from longer ones, µs.
const LATENCY_MAX_US: u64 = 120_000_000;

/// The right answers to a load; a load with a wrong one has no tally.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Latencies, µs.
    latency: Histogram<u64>,
    elapsed: Duration,
}

impl Default for Tally {
    /// Of nothing.
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("the bounds are sound");
        Self { latency, elapsed: Duration::ZERO }
    }
}

impl Tally {
    /// Adds one answer.
    pub fn record(&mut self, latency: Duration) {
        self.latency.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// The same answers, given within this time.
    #[must_use]
    pub fn within(self, elapsed: Duration) -> Self {
        Self { elapsed, ..self }
    }

    /// From the first request to the last answer.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// How many.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.latency.len()
    }

    /// Answers a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.latency.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The mean latency, milliseconds.
    #[must_use]
    pub fn mean_ms(&self) -> f64 {
        self.latency.mean() / 1000.0
    }

    /// The latency that a share of the answers, such as 0.99, did not exceed, milliseconds.
    #[must_use]
    pub fn latency_ms(&self, share: f64) -> f64 {
        self.latency.value_at_quantile(share) as f64 / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_latencies_are_of_the_answers() {
        let mut tally = Tally::default().within(Duration::from_secs(2));
        (1..=100).for_each(|ms| tally.record(Duration::from_millis(ms)));
        assert!((tally.rate() - 50.0).abs() < 1e-9);
        assert!((tally.mean_ms() - 50.5).abs() < 0.1, "{}", tally.mean_ms());
        assert!((tally.latency_ms(0.5) - 50.0).abs() < 0.1, "{}", tally.latency_ms(0.5));
        assert!((tally.latency_ms(0.99) - 99.0).abs() < 0.1, "{}", tally.latency_ms(0.99));
    }

    #[test]
    fn an_endless_latency_counts_as_the_longest() {
        let mut tally = Tally::default();
        tally.record(Duration::from_secs(10_000));
        assert!((tally.latency_ms(1.0) - 120_000.0).abs() < 200.0, "{}", tally.latency_ms(1.0));
    }
}
