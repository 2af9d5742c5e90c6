//! How many uploads a second one account may send.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use milepost_shared::journal::account::AccountId;
use tokio_util::sync::CancellationToken;

use crate::admission::problem::rate_limited;
use crate::http::problem::Problem;

/// How often accounts that are not limited at the moment are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// How fast one account may upload.
#[derive(Debug, Clone, Args)]
pub struct RateSettings {
    /// Uploads per second of one account; past it 429. 0 is without limit [0..=1000000].
    #[arg(long, env, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub rate_limit: u32,

    /// Uploads that one account may send at once before the rate counts [1..=1000000].
    #[arg(long, env, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate_burst: u32,
}

/// The rates of all accounts. It grows with the number of accounts that uploaded lately, which must have authenticated.
pub struct Rates(Option<DefaultKeyedRateLimiter<AccountId>>);

impl Rates {
    /// Everybody may begin with a burst.
    #[must_use]
    pub fn new(settings: &RateSettings) -> Self {
        let burst = NonZeroU32::new(settings.rate_burst).unwrap_or(NonZeroU32::MIN);
        let quota = NonZeroU32::new(settings.rate_limit).map(Quota::per_second);
        Self(quota.map(|quota| RateLimiter::keyed(quota.allow_burst(burst))))
    }

    /// Counts one upload.
    ///
    /// # Errors
    /// [`rate_limited`] with the wait until the next one is allowed.
    pub fn check(&self, account: AccountId) -> Result<(), Problem> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        limiter
            .check_key(&account)
            .map_err(|not_until| rate_limited(not_until.wait_time_from(DefaultClock::default().now())))
    }

    /// Forgets accounts that have their whole burst again, every minute until `stop`.
    pub async fn forget(&self, stop: &CancellationToken) {
        let Some(limiter) = &self.0 else { return };
        while stop.run_until_cancelled(tokio::time::sleep(FORGET_INTERVAL)).await.is_some() {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::RETRY_AFTER;

    use uuid::Uuid;

    use super::*;

    #[test]
    fn an_account_past_its_burst_learns_when_to_come_back_and_others_go_on() {
        let rates = Rates::new(&RateSettings { rate_limit: 1, rate_burst: 3 });
        let (hasty, calm) = (AccountId(Uuid::from_u128(1)), AccountId(Uuid::from_u128(2)));
        let allowed = (0..10).take_while(|_| rates.check(hasty).is_ok()).count();
        assert!((3..=4).contains(&allowed), "{allowed}");
        let limited = rates.check(hasty).unwrap_err();
        assert_eq!(limited.header, Some(Box::new((RETRY_AFTER, "1".parse().unwrap()))));
        assert_eq!(rates.check(calm), Ok(()));
    }

    #[test]
    fn zero_is_without_limit() {
        let rates = Rates::new(&RateSettings { rate_limit: 0, rate_burst: 1 });
        assert!((0..1000).all(|_| rates.check(AccountId(Uuid::nil())).is_ok()));
    }
}
