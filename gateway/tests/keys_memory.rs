//! What the API keys of a gateway cost in memory.
//!
//! A test program of its own, since counting replaces its allocator.

use milepost_gateway::admission::known::KnownKeys;
use milepost_shared::journal::account::AccountId;
use milepost_shared::store::api_keys::{Key, Sha256};
use sha2::Digest as _;
use uuid::Uuid;

const KEYS: usize = 1_000_000;
/// What docs/operations.md says; it is read again in place.
const BYTES_MAX: usize = 250;

fn key(number: usize) -> Key {
    Key {
        secret_sha256: Sha256(sha2::Sha256::digest(number.to_le_bytes()).into()),
        account_id: AccountId(Uuid::from_u128(number as u128)),
        // As long as the names that phones have.
        device: Some(format!("device-{number:09}")),
        expires_at: None,
        last_used_at: None,
        revoked: false,
    }
}

#[test]
fn a_million_keys_take_at_most_250_bytes_each_also_while_they_are_read_again() {
    let keys = KnownKeys::default();
    let measured = allocation_counter::measure(|| {
        for pass in 1..=2 {
            (0..KEYS).for_each(|number| keys.apply(&key(number), pass));
            keys.sweep(pass);
        }
    });
    assert_eq!(keys.count(), KEYS);
    let each = |bytes: i64| usize::try_from(bytes).expect("fits") / KEYS;
    let (kept, peak) = (each(measured.bytes_current), each(i64::try_from(measured.bytes_max).expect("fits")));
    println!("{kept} bytes a key, {peak} at most");
    assert!(kept > 100 && peak <= BYTES_MAX, "{kept} bytes a key, {peak} at most");

    let measured = allocation_counter::measure(|| {
        assert!(
            (0..KEYS)
                .step_by(1000)
                .all(|number| { keys.find(&key(number).secret_sha256.0, 0, |_| true).is_some() })
        );
    });
    assert_eq!(measured.bytes_current, 0, "a look-up keeps nothing");
}
