//! How fast one account may upload.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::http::problem::Problem;
use crate::settings::UploadSettings;

/// How often accounts that are not limited at the moment are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// The rates of all accounts. As large as there are accounts that uploaded lately: only those that
/// authenticated count.
pub struct Rates(Option<DefaultKeyedRateLimiter<Uuid>>);

impl Rates {
    /// Everybody may begin with a burst.
    #[must_use]
    pub fn new(settings: &UploadSettings) -> Self {
        let burst = NonZeroU32::new(settings.rate_burst).unwrap_or(NonZeroU32::MIN);
        let quota = NonZeroU32::new(settings.rate_limit).map(Quota::per_second);
        Self(quota.map(|quota| RateLimiter::keyed(quota.allow_burst(burst))))
    }

    /// Counts one upload.
    ///
    /// # Errors
    /// [`Problem::RateLimited`] with the wait until the next one is allowed.
    pub fn check(&self, account: Uuid) -> Result<(), Problem> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        limiter.check_key(&account).map_err(|not_until| {
            Problem::RateLimited(not_until.wait_time_from(DefaultClock::default().now()))
        })
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
    use super::*;
    use crate::settings::GatewaySettings;

    fn rates(limit: u32, burst: u32) -> Rates {
        use clap::Parser as _;
        let settings = GatewaySettings::parse_from(["milepost-gateway"]);
        Rates::new(&UploadSettings { rate_limit: limit, rate_burst: burst, ..settings.uploads })
    }

    #[test]
    fn an_account_past_its_burst_is_told_when_to_come_back_and_others_go_on() {
        let rates = rates(1, 3);
        let (hasty, calm) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let allowed = (0..10).take_while(|_| rates.check(hasty).is_ok()).count();
        assert!((3..=4).contains(&allowed), "{allowed}");
        let Err(Problem::RateLimited(wait)) = rates.check(hasty) else { panic!("not limited") };
        assert!(wait <= Duration::from_secs(1) && !wait.is_zero(), "{wait:?}");
        assert_eq!(rates.check(calm), Ok(()));
    }

    #[test]
    fn zero_is_without_limit() {
        let rates = rates(0, 1);
        assert!((0..1000).all(|_| rates.check(Uuid::nil()).is_ok()));
    }
}
