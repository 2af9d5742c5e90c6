//! Accounts: which ones exist, and how long uploads of one that does not may wait for it.
//!
//! Accounts are never deleted. But a failover may lose a new one for a moment, so an unknown account is looked up again
//! before its uploads become dead letters.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use milepost_shared::journal::account::AccountId;

/// Longest pause before unknown accounts are looked up again.
pub const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How many accounts that were waited for in vain are remembered.
const STRANGERS_MAX: usize = 1000;
/// After a wait in vain no batch waits for so many times as long, whatever its accounts: other partitions wait with it.
const REST: u32 = 9;

/// Accounts known to exist, for one session.
#[derive(Debug, Clone, Default)]
pub struct KnownAccounts(Arc<RwLock<HashSet<AccountId>>>);

impl KnownAccounts {
    /// Whether an account is known to exist.
    #[must_use]
    pub fn contains(&self, account: AccountId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&account)
    }

    /// Adds accounts that exist.
    pub fn extend(&self, accounts: impl IntoIterator<Item = AccountId>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).extend(accounts);
    }
}

/// How long to wait for accounts that are not known.
#[derive(Debug)]
pub struct Waiting {
    max: Duration,
    in_vain: HashSet<AccountId>,
    rests_until: Option<Instant>,
}

impl Waiting {
    /// Waits for at most `max`.
    #[must_use]
    pub fn new(max: Duration) -> Self {
        Self { max, in_vain: HashSet::new(), rests_until: None }
    }

    /// Until when a batch waits for these accounts, which are not known at `now`; `None` if it does not.
    #[must_use]
    pub fn until(&self, now: Instant, strangers: &HashSet<AccountId>) -> Option<Instant> {
        let rests = self.rests_until.is_some_and(|until| now < until);
        let waits = !self.max.is_zero() && !rests && !strangers.is_subset(&self.in_vain);
        waits.then(|| now + self.max)
    }

    /// Notes that these accounts were waited for until `now` in vain, if there are any.
    pub fn end(&mut self, now: Instant, strangers: HashSet<AccountId>) {
        if strangers.is_empty() {
            return;
        }
        self.rests_until = Some(now + self.max * REST);
        if self.in_vain.len() + strangers.len() > STRANGERS_MAX {
            self.in_vain.clear();
        }
        self.in_vain.extend(strangers.into_iter().take(STRANGERS_MAX));
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn accounts(numbers: &[u128]) -> HashSet<AccountId> {
        numbers.iter().map(|number| AccountId(Uuid::from_u128(*number))).collect()
    }

    #[test]
    fn nobody_is_waited_for_twice_and_a_tenth_of_the_time_at_most() {
        let (begun, mut waiting) = (Instant::now(), Waiting::new(SECOND));
        assert_eq!(waiting.until(begun, &accounts(&[1])), Some(begun + SECOND));
        waiting.end(begun + SECOND, accounts(&[1]));
        let rested = begun + 10 * SECOND;
        assert_eq!(waiting.until(rested - SECOND / 2, &accounts(&[2])), None);
        assert_eq!(waiting.until(rested, &accounts(&[1])), None);
        assert_eq!(waiting.until(rested, &accounts(&[1, 2])), Some(rested + SECOND));
    }

    #[test]
    fn nobody_is_waited_for_if_there_is_no_time_for_it() {
        assert_eq!(Waiting::new(Duration::ZERO).until(Instant::now(), &accounts(&[1])), None);
    }

    #[test]
    fn of_those_waited_for_in_vain_a_bounded_number_is_remembered() {
        let mut waiting = Waiting::new(SECOND);
        for number in 0..3000 {
            waiting.end(Instant::now(), accounts(&[number]));
        }
        assert!(waiting.in_vain.len() <= STRANGERS_MAX && !waiting.in_vain.is_empty());
        waiting.end(Instant::now(), (0..3000).map(|number| AccountId(Uuid::from_u128(number))).collect());
        assert_eq!(waiting.in_vain.len(), STRANGERS_MAX);
    }
}
