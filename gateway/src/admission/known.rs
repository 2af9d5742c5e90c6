//! The API keys that a gateway holds in memory: all of them that are not revoked, by the SHA-256 of their secrets.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::store::api_keys::Key;
use parking_lot::RwLock;

/// By the first byte of the hash: so that one that grows holds up few requests, and is not a second table of all keys.
const SHARDS: usize = 256;
const HOUR_MS: i64 = 3_600_000;

/// SHA-256 of a secret.
pub type Hash = [u8; 32];

/// Whom a key speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who sends.
    pub account: AccountId,
    /// The one device that the key is bound to: what it sends is this one's, whatever the request says.
    pub device: Option<Arc<str>>,
}

/// What is known of a key that is not revoked.
#[derive(Debug, Clone)]
pub struct Known {
    identity: Identity,
    /// From when on it is refused, milliseconds since 1970.
    expires_at: i64,
}

impl Known {
    /// Of a row that is not revoked.
    #[must_use]
    pub fn new(key: &Key) -> Self {
        let expires_at = key.expires_at.map_or(i64::MAX, |at| JournalTime::from_datetime(at).0);
        Self {
            identity: Identity { account: key.account_id, device: key.device.as_deref().map(Arc::from) },
            expires_at,
        }
    }

    /// Whom it speaks for, unless it has expired.
    #[must_use]
    pub fn identity(self, now_ms: i64) -> Option<Identity> {
        (now_ms < self.expires_at).then_some(self.identity)
    }
}

struct Entry {
    known: Known,
    /// The last hour whose use was noted or is about to be, counted since 1970.
    used: AtomicU32,
    /// The last time all keys were read in which it was among them.
    pass: u32,
}

/// All keys that are not revoked.
pub struct KnownKeys(Box<[RwLock<HashMap<Hash, Entry>>]>);

impl KnownKeys {
    /// Takes over a row that was read during or after a pass through all keys.
    pub fn apply(&self, key: &Key, pass: u32) {
        let hash = key.secret_sha256.0;
        let mut shard = self.shard(&hash).write();
        if key.revoked {
            shard.remove(&hash);
            return;
        }
        let noted = key.last_used_at.map_or(0, |at| hour(JournalTime::from_datetime(at).0));
        let used = shard.get(&hash).map_or(noted, |entry| noted.max(entry.used.load(Ordering::Relaxed)));
        shard.insert(hash, Entry { known: Known::new(key), used: used.into(), pass });
    }

    /// Forgets the keys that were not in a pass through all of them.
    pub fn sweep(&self, pass: u32) {
        for shard in &self.0 {
            shard.write().retain(|_, entry| entry.pass == pass);
        }
    }

    /// A key. If it is used for the first time in this hour, that is handed to `note`, which says whether it took it.
    pub fn find(&self, hash: &Hash, now_ms: i64, note: impl FnOnce(Hash) -> bool) -> Option<Known> {
        let shard = self.shard(hash).read();
        let entry = shard.get(hash)?;
        let (used, now) = (entry.used.load(Ordering::Relaxed), hour(now_ms));
        // One of those that come at once notes it.
        let first = used < now
            && now_ms < entry.known.expires_at
            && entry.used.compare_exchange(used, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if first && !note(*hash) {
            entry.used.store(used, Ordering::Relaxed);
        }
        Some(entry.known.clone())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|shard| shard.read().len()).sum()
    }

    fn shard(&self, hash: &Hash) -> &RwLock<HashMap<Hash, Entry>> {
        &self.0[usize::from(hash[0])]
    }
}

impl Default for KnownKeys {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| RwLock::default()).collect())
    }
}

fn hour(ms: i64) -> u32 {
    u32::try_from(ms / HOUR_MS).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use milepost_shared::store::api_keys::Sha256;
    use sqlx::types::time::OffsetDateTime;
    use uuid::Uuid;

    use super::*;

    const HASH: Hash = [7; 32];

    fn key() -> Key {
        Key {
            secret_sha256: Sha256(HASH),
            account_id: AccountId(Uuid::from_u128(1)),
            device: Some("pixel8".to_owned()),
            expires_at: None,
            last_used_at: None,
            revoked: false,
        }
    }

    fn at(ms: i64) -> Option<OffsetDateTime> {
        Some(JournalTime(ms).to_datetime())
    }

    fn has(keys: &KnownKeys) -> bool {
        keys.find(&HASH, 0, |_| true).is_some()
    }

    #[test]
    fn a_key_is_known_until_it_is_revoked_or_missing_in_a_whole_pass() {
        let keys = KnownKeys::default();
        assert!(!has(&keys));
        keys.apply(&key(), 1);
        keys.sweep(1);
        assert!(has(&keys) && keys.count() == 1);
        keys.apply(&Key { revoked: true, ..key() }, 1);
        assert!(!has(&keys));
        keys.apply(&key(), 1);
        keys.sweep(2);
        assert!(!has(&keys) && keys.count() == 0);
    }

    #[test]
    fn it_speaks_for_its_account_and_device_until_the_millisecond_when_it_expires() {
        let keys = KnownKeys::default();
        keys.apply(&Key { expires_at: at(5000), ..key() }, 1);
        let identity = |now| keys.find(&HASH, now, |_| true).and_then(|known| known.identity(now));
        let wanted = Identity { account: AccountId(Uuid::from_u128(1)), device: Some("pixel8".into()) };
        assert_eq!(identity(4999), Some(wanted));
        assert_eq!(identity(5000), None);
    }

    #[test]
    fn a_use_is_handed_on_once_an_hour_and_again_if_it_was_not_taken() {
        let keys = KnownKeys::default();
        keys.apply(&key(), 1);
        let noted = |now, taken| {
            let mut noted = false;
            keys.find(&HASH, now, |_| {
                noted = true;
                taken
            });
            noted
        };
        let hour = |count| count * HOUR_MS;
        assert!(noted(hour(5), false) && noted(hour(5), true) && !noted(hour(6) - 1, true));
        assert!(noted(hour(6), true) && !noted(hour(6), true));
        // What other gateways have noted is known from the next pass on, and what this one has is not forgotten.
        keys.apply(&Key { last_used_at: at(hour(7)), ..key() }, 2);
        assert!(!noted(hour(7), true) && noted(hour(8), true));
        keys.apply(&Key { last_used_at: at(hour(7)), ..key() }, 3);
        assert!(!noted(hour(8), true));
    }

    #[test]
    fn the_use_of_an_expired_key_is_none() {
        let keys = KnownKeys::default();
        keys.apply(&Key { expires_at: at(1), ..key() }, 1);
        keys.find(&HASH, 9 * HOUR_MS, |_| panic!("it is noted"));
    }
}
