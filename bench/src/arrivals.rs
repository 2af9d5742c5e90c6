//! The arrivals of an open load: a fixed rate, whatever becomes of those that came before.

use std::time::Duration;

/// Arrivals at equal intervals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrivals {
    rate: f64,
    count: u64,
}

impl Arrivals {
    /// `rate` a second for this long; at least one.
    #[must_use]
    pub fn new(rate: f64, duration: Duration) -> Self {
        Self { rate, count: whole(rate * duration.as_secs_f64()).max(1) }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// When the arrival with this number, from 0, is due, counted from the start.
    #[must_use]
    pub fn at(&self, number: u64) -> Duration {
        Duration::from_secs_f64(number as f64 / self.rate)
    }

    /// How many are due after this much time.
    #[must_use]
    pub fn due(&self, elapsed: Duration) -> u64 {
        (whole(elapsed.as_secs_f64() * self.rate) + 1).min(self.count)
    }
}

/// The whole part; `as` saturates.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "that is what is asked for")]
fn whole(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_keep_their_distance() {
        let arrivals = Arrivals::new(250.0, Duration::from_secs(2));
        assert_eq!(arrivals.count(), 500);
        assert_eq!([0, 1, 250].map(|number| arrivals.at(number).as_millis()), [0, 4, 1000]);
    }

    #[test]
    fn an_arrival_is_due_from_its_time_on_and_none_comes_after_the_last() {
        let arrivals = Arrivals::new(100.0, Duration::from_millis(55));
        let due = [0, 9, 10, 11, 49, 50, 1000].map(|ms| arrivals.due(Duration::from_millis(ms)));
        assert_eq!(due, [1, 1, 2, 2, 5, 5, 5]);
    }

    #[test]
    fn the_slowest_load_has_one_arrival() {
        assert_eq!(Arrivals::new(0.5, Duration::from_secs(1)).count(), 1);
    }
}
