//! The key hash: what stands for a client's `Idempotency-Key` everywhere behind the gateway's front door.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Version of the hashing rule, part of what is hashed. A new rule needs a new number, and a time in which both count.
const VERSION: u8 = 1;

/// SHA-256 of (version, account, key), length-prefixed, so that no two pairs share an input. As a Kafka key it is written
/// as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub [u8; 32]);

impl KeyHash {
    /// The hash of an account's key. Equal keys of two accounts have different hashes (invariant 6).
    #[must_use]
    pub fn new(account: Uuid, key: &str) -> Self {
        let mut hasher = Sha256::new();
        hasher.update([VERSION, 16]);
        hasher.update(account.as_bytes());
        hasher.update((key.len() as u64).to_be_bytes());
        hasher.update(key.as_bytes());
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(hex::Buffer::<32>::new().format(&self.0))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({self})")
    }
}

/// Not 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not 64 lower-case hex digits")]
pub struct NotAHash;

/// Reads 64 lower-case hex digits; upper case is refused, so that a hash has one spelling.
pub(crate) fn parse_hash(text: &[u8]) -> Result<[u8; 32], NotAHash> {
    // The decoder would take an `0x` before the digits, and both cases.
    if text.len() != 64 || text.iter().any(u8::is_ascii_uppercase) {
        return Err(NotAHash);
    }
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).map_err(|_| NotAHash)?;
    Ok(hash)
}

impl FromStr for KeyHash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        parse_hash(text.as_bytes()).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid::from_u128(1);

    #[test]
    fn account_and_key_both_count_and_do_not_run_into_each_other() {
        let hashes = [
            KeyHash::new(A, "k"),
            KeyHash::new(Uuid::from_u128(2), "k"),
            KeyHash::new(A, "kk"),
            KeyHash::new(A, ""),
        ];
        for (i, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..i].contains(hash));
        }
    }

    #[test]
    fn the_rule_never_changes_for_keys_already_out_there() {
        let hash = KeyHash::new(Uuid::from_u128(0x1234), "order-66");
        assert_eq!(hash.to_string(), "1e14255a4530f6123ed2ff607be14e647905aab342003c5ef56df21561b72c13");
    }

    #[test]
    fn a_hash_has_one_spelling() {
        let text = KeyHash::new(A, "k").to_string();
        assert_eq!(text.parse(), Ok(KeyHash::new(A, "k")));
        assert_eq!(text.to_uppercase().parse::<KeyHash>(), Err(NotAHash));
        assert_eq!(text[1..].parse::<KeyHash>(), Err(NotAHash));
        assert_eq!(format!("0x{text}").parse::<KeyHash>(), Err(NotAHash));
        assert_eq!(format!("0x{}", &text[2..]).parse::<KeyHash>(), Err(NotAHash));
    }
}
