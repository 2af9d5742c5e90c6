//! The cache of finalized answers: fed by the results tail and by look-ups, bounded, least recently used out
//! first.

use std::collections::HashSet;

use bytes::Bytes;
use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::key::KeyHash;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;

/// Longest body that is worth sharing, bytes.
const SHARED_BODY_MAX: usize = 256;
/// Most different bodies shared; there is about one for each number of locations an upload can have.
const SHARED_BODIES_MAX: usize = 1024;

/// The newest known state of each key. Its window may be over: the caller compares it with a time.
pub struct AnswerCache {
    /// Without a capacity there is no cache.
    states: Option<Cache<KeyHash, KeyState>>,
    bodies: Mutex<HashSet<Bytes>>,
}

impl AnswerCache {
    /// For at most `capacity` keys; 0 turns it off.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        // The default policy weighs how often a key was asked for, and would reject new keys in favour of old ones.
        let build = || Cache::builder().max_capacity(capacity).eviction_policy(EvictionPolicy::lru()).build();
        Self { states: (capacity > 0).then(build), bodies: Mutex::default() }
    }

    /// The state of a key, if known.
    #[must_use]
    pub fn get(&self, key_hash: KeyHash) -> Option<KeyState> {
        self.states.as_ref()?.get(&key_hash)
    }

    /// Remembers a state, unless a newer one of the key is known: results are emitted again after a crash,
    /// and a look-up may come back after a result.
    pub fn insert(&self, key_hash: KeyHash, state: &KeyState) {
        let Some(states) = &self.states else { return };
        states.entry(key_hash).and_compute_with(|known| match known {
            Some(known) if known.value().accepted_at >= state.accepted_at => Op::Nop,
            _ => Op::Put(KeyState { body: self.shared(&state.body), ..state.clone() }),
        });
    }

    /// Most answers have one of a few bodies; each is kept once.
    fn shared(&self, body: &Bytes) -> Bytes {
        if body.len() > SHARED_BODY_MAX {
            return body.clone();
        }
        let mut bodies = self.bodies.lock();
        if let Some(known) = bodies.get(body) {
            return known.clone();
        }
        if bodies.len() < SHARED_BODIES_MAX {
            bodies.insert(body.clone());
        }
        body.clone()
    }
}

#[cfg(test)]
mod tests {
    use milepost_shared::journal::account::AccountId;
    use milepost_shared::journal::answer;
    use milepost_shared::journal::clock::JournalTime;
    use milepost_shared::journal::position::Position;
    use milepost_shared::location::fingerprint::Fingerprint;
    use uuid::Uuid;

    use super::*;

    fn key(n: u8) -> KeyHash {
        KeyHash([n; 32])
    }

    fn state(offset: i64, count: usize) -> KeyState {
        KeyState {
            account: AccountId(Uuid::nil()),
            fingerprint: Fingerprint([0; 32]),
            status: 200,
            body: answer::body(count),
            accepted_at: JournalTime(offset),
            expires_at: JournalTime(offset + 1),
            source: Position::new(0, offset),
        }
    }

    #[test]
    fn an_older_state_never_replaces_a_newer_one() {
        let cache = AnswerCache::new(10);
        for offset in [5, 9, 5, 8] {
            cache.insert(key(1), &state(offset, 1));
        }
        assert_eq!(cache.get(key(1)), Some(state(9, 1)));
        assert_eq!(cache.get(key(2)), None);
    }

    #[test]
    fn a_claim_of_a_journal_that_was_made_anew_is_newer_whatever_its_offset() {
        let cache = AnswerCache::new(10);
        let newer = KeyState { source: Position::new(0, 2), ..state(9, 1) };
        cache.insert(key(1), &state(5, 1));
        cache.insert(key(1), &newer);
        assert_eq!(cache.get(key(1)), Some(newer));
    }

    #[test]
    fn without_capacity_nothing_is_kept() {
        let cache = AnswerCache::new(0);
        cache.insert(key(1), &state(5, 1));
        assert_eq!(cache.get(key(1)), None);
    }

    #[test]
    fn a_full_cache_keeps_the_new_and_forgets_the_old() {
        let cache = AnswerCache::new(10);
        for n in 0..100 {
            cache.insert(key(n), &state(5, 1));
            cache.states.as_ref().unwrap().run_pending_tasks();
        }
        assert_eq!(cache.get(key(0)), None);
        assert_eq!(cache.get(key(99)), Some(state(5, 1)));
    }

    #[test]
    fn equal_bodies_share_their_bytes() {
        let cache = AnswerCache::new(10);
        cache.insert(key(1), &state(5, 7));
        cache.insert(key(2), &state(6, 7));
        let bodies = [1, 2].map(|n| cache.get(key(n)).unwrap().body.as_ptr());
        assert_eq!(bodies[0], bodies[1]);
    }
}
