//! Pauses between attempts to reach a server that is away. Pure but for the jitter.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

/// The first pause, unless the longest is shorter. A server that restarts is away for longer; one lost connection is not.
const FIRST: Duration = Duration::from_millis(50);

/// Pauses without end: each is twice as long as the one before, up to a bound, and up to twice that by jitter, so that
/// programs that lost the same server do not come back in step.
#[derive(Debug)]
pub struct Backoff {
    max: Duration,
    delays: ExponentialBackoff,
}

impl Backoff {
    /// Begins with the shortest pause; `max` is the longest, before jitter.
    #[must_use]
    pub fn new(max: Duration) -> Self {
        Self::between(FIRST, max)
    }

    /// The same, with another shortest pause.
    #[must_use]
    pub fn between(first: Duration, max: Duration) -> Self {
        let delays = ExponentialBuilder::default()
            .with_min_delay(first.min(max))
            .with_max_delay(max)
            .with_jitter()
            // Without its `std` feature backon seeds every jitter alike, and then there is none.
            .with_jitter_seed(rand::random())
            .without_max_times()
            .build();
        Self { max, delays }
    }

    /// The next pause.
    pub fn delay(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.max)
    }

    /// Pauses. False if `stop` came first.
    pub async fn pause(&mut self, stop: &CancellationToken) -> bool {
        stop.run_until_cancelled(tokio::time::sleep(self.delay())).await.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pauses_double_from_the_first_to_the_bound_and_stay_there(max_ms in 10_u64..60_000) {
            let max = Duration::from_millis(max_ms);
            let mut backoff = Backoff::new(max);
            let mut plain = FIRST.min(max);
            for _ in 0..20 {
                let delay = backoff.delay();
                prop_assert!(plain <= delay && delay <= plain * 2, "{delay:?} instead of {plain:?} and jitter");
                plain = (plain * 2).min(max);
            }
        }
    }

    #[test]
    fn two_consumers_do_not_pause_alike() {
        let pauses = || {
            let mut backoff = Backoff::new(Duration::from_secs(5));
            [(); 8].map(|()| backoff.delay())
        };
        assert_ne!(pauses(), pauses());
    }
}
