//! Points that the journal has acknowledged a short while ago. With the consumer or Postgres away an app sends its batch again and
//! again: what is in the journal already need not be published once more.

use std::time::Duration;

use clap::Args;
use milepost_shared::journal::key::KeyHash;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

/// Longest time for which a point counts as known because the journal has acknowledged it. By then it is in the cache or the
/// table, if a consumer runs.
const RECENT_FOR: Duration = Duration::from_secs(300);
/// It is also at most one part in so many of the time a key is remembered.
const RECENT_PART: u32 = 4;

/// The bound of what is remembered.
#[derive(Debug, Clone, Args)]
pub struct RecentSettings {
    /// Points of phone apps remembered for 5m from the journal's acknowledgement, so that one sent again is not published
    /// again; one takes about 150 bytes [0..=10000000].
    #[arg(long, env, default_value_t = 100_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    pub recent_points: u64,
}

/// What the journal has acknowledged a short while ago.
pub(crate) struct Recent(Option<Cache<KeyHash, ()>>);

impl Recent {
    pub fn new(settings: &RecentSettings, ttl: Duration) -> Self {
        let build = || {
            let cache = Cache::builder().max_capacity(settings.recent_points);
            cache
                .eviction_policy(EvictionPolicy::lru())
                .time_to_live(RECENT_FOR.min(ttl / RECENT_PART))
                .build()
        };
        Self((settings.recent_points > 0).then(build))
    }

    pub fn has(&self, key_hash: KeyHash) -> bool {
        self.0.as_ref().is_some_and(|recent| recent.contains_key(&key_hash))
    }

    pub fn insert(&self, key_hash: KeyHash) {
        if let Some(recent) = &self.0 {
            recent.insert(key_hash, ());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_is_remembered_within_its_bound_and_without_one_not_at_all() {
        let key = |n: u8| KeyHash([n; 32]);
        let recent = Recent::new(&RecentSettings { recent_points: 10 }, Duration::from_secs(3600));
        for n in 0..100 {
            recent.insert(key(n));
            recent.0.as_ref().unwrap().run_pending_tasks();
        }
        assert!(recent.has(key(99)) && !recent.has(key(0)));
        let none = Recent::new(&RecentSettings { recent_points: 0 }, Duration::from_secs(3600));
        none.insert(key(1));
        assert!(!none.has(key(1)));
    }
}
