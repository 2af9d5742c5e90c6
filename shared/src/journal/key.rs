//! The key hash: what stands for a client's `Idempotency-Key` everywhere behind the gateway's front door.

use std::fmt;
use std::str::FromStr;

use crate::journal::account::AccountId;
use sha2::{Digest, Sha256};

/// Version of the hashing rule, part of what is hashed. A new rule needs a new number, and a time in which both count.
const VERSION: u8 = 1;

/// What the input of a hash begins with that stands for no client's key: a version of the rule for these is never 0.
const NO_CLIENTS: u8 = 0;
/// Behind it, what the hash stands for instead, and the version of its rule.
const POINT: [u8; 2] = [b'p', 1];
const SET_ASIDE: [u8; 2] = [b'a', 2];

/// SHA-256 of (version, account, key), length-prefixed, so that no two pairs share an input. As a Kafka key it is written
/// as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub [u8; 32]);

impl KeyHash {
    /// The hash of an account's key. Equal keys of two accounts have different hashes (invariant 6).
    #[must_use]
    pub fn new(account: AccountId, key: &str) -> Self {
        let mut hasher = Sha256::new();
        hasher.update([VERSION, 16]);
        hasher.update(account.0.as_bytes());
        push_text(&mut hasher, key);
        Self(hasher.finalize().into())
    }

    /// The hash of a point that came without a key: of an account's device, at a time, milliseconds since 1970, and a place.
    /// Nothing else of a point counts. Coordinates count bit by bit, but -0.0 is 0.0. No client's key has this hash.
    #[must_use]
    pub fn of_point(account: AccountId, device: &str, timestamp: i64, latitude: f64, longitude: f64) -> Self {
        let mut hasher = Self::without_key(POINT, account);
        push_text(&mut hasher, device);
        hasher.update(timestamp.to_be_bytes());
        for degrees in [latitude, longitude] {
            // The sum of -0.0 and 0.0 is 0.0; no other number changes.
            hasher.update((degrees + 0.0).to_bits().to_be_bytes());
        }
        Self(hasher.finalize().into())
    }

    /// The hash of a point that was set aside: of an account's app and device, for a reason, as it was sent. The device may
    /// stand nowhere in that: phones that were set up alike, and wrongly, send the same. No client's key and no point has this
    /// hash.
    #[must_use]
    pub fn of_set_aside(
        account: AccountId,
        app: &str,
        device: Option<&str>,
        reason: &str,
        raw: &str,
    ) -> Self {
        let mut hasher = Self::without_key(SET_ASIDE, account);
        // No device has an empty name.
        for text in [app, device.unwrap_or_default(), reason, raw] {
            push_text(&mut hasher, text);
        }
        Self(hasher.finalize().into())
    }

    fn without_key(of: [u8; 2], account: AccountId) -> Sha256 {
        let [what, version] = of;
        let mut hasher = Sha256::new();
        hasher.update([NO_CLIENTS, what, version, 16]);
        hasher.update(account.0.as_bytes());
        hasher
    }
}

/// With its length before it, so that neighbours do not run into each other.
fn push_text(hasher: &mut Sha256, text: &str) {
    hasher.update((text.len() as u64).to_be_bytes());
    hasher.update(text.as_bytes());
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
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const A: AccountId = AccountId(Uuid::from_u128(1));

    #[test]
    fn account_and_key_both_count_and_do_not_run_into_each_other() {
        let hashes = [
            KeyHash::new(A, "k"),
            KeyHash::new(AccountId(Uuid::from_u128(2)), "k"),
            KeyHash::new(A, "kk"),
            KeyHash::new(A, ""),
        ];
        for (i, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..i].contains(hash));
        }
    }

    #[test]
    fn the_rule_never_changes_for_keys_already_out_there() {
        let hash = KeyHash::new(AccountId(Uuid::from_u128(0x1234)), "order-66");
        assert_eq!(hash.to_string(), "1e14255a4530f6123ed2ff607be14e647905aab342003c5ef56df21561b72c13");
    }

    #[test]
    fn the_rule_for_points_never_changes_for_those_already_out_there() {
        let account = AccountId(Uuid::from_u128(0x1234));
        let point = KeyHash::of_point(account, "pixel8", 1_786_439_998_000, 48.2101001, 16.3700002);
        assert_eq!(point.to_string(), "fb873d3f0473fcbe5544333de2d4a72daea6084d7be71fdf20e77ecf54064fdc");
        let nowhere = KeyHash::of_point(account, "", 0, 0.0, 0.0);
        assert_eq!(nowhere.to_string(), "66739a054f675c7e5092bb0866e8c30e79f6a428e86fb895ee7ed82c634d8ae1");
        let aside = KeyHash::of_set_aside(account, "overland", Some("pixel8"), "no-time", "{}");
        assert_eq!(aside.to_string(), "b875a2ea57dd3e14a49af89a28463187a6c22bc95aea52ec80762bd298943c2d");
    }

    #[test]
    fn a_zero_has_no_sign() {
        let at = |latitude, longitude| KeyHash::of_point(A, "d", 1, latitude, longitude);
        assert_eq!(at(-0.0, 0.0), at(0.0, -0.0));
        assert_ne!(at(0.0, 1.0), at(-0.0, -1.0));
    }

    #[test]
    fn what_is_set_aside_is_known_by_all_that_is_said_of_it() {
        let of = |account, app, device, reason, raw| {
            KeyHash::of_set_aside(AccountId(Uuid::from_u128(account)), app, device, reason, raw)
        };
        let hashes = [
            of(1, "a", None, "b", "c"),
            of(2, "a", None, "b", "c"),
            of(1, "ab", None, "", "c"),
            of(1, "a", None, "bc", ""),
            of(1, "a", None, "b", ""),
            of(1, "a", Some("d"), "b", "c"),
            of(1, "a", Some("e"), "b", "c"),
            of(1, "ad", None, "b", "c"),
        ];
        for (i, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..i].contains(hash));
        }
    }

    /// What a point is known by.
    type Known = (u128, String, i64, f64, f64);

    fn known() -> impl Strategy<Value = Known> {
        // Few of each, so that some are often equal.
        let degrees = || prop_oneof![Just(0.0), Just(-0.0), Just(1.5), -90.0..=90.0f64];
        (0..2u128, "[ab]{0,2}", 0..2i64, degrees(), degrees())
    }

    proptest! {
        #[test]
        fn points_have_one_hash_if_and_only_if_they_are_one_point(a in known(), b in known()) {
            let hash = |(account, device, time, latitude, longitude): &Known| {
                KeyHash::of_point(AccountId(Uuid::from_u128(*account)), device, *time, *latitude, *longitude)
            };
            prop_assert_eq!(hash(&a) == hash(&b), a == b);
        }

        #[test]
        fn no_clients_key_is_a_point(key in "\\PC{0,60}", device in "\\PC{0,20}", time: i64) {
            prop_assert_ne!(KeyHash::new(A, &key), KeyHash::of_point(A, &device, time, 0.0, 0.0));
        }
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
