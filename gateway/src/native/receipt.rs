//! The receipt: what the `Location` of a 202 carries, so that any gateway can find out what became of the upload.
//!
//! It names the record in the journal, which no gateway remembers. A tag binds it to the account and the key,
//! so that a receipt that was altered, or shown by another account, is simply not known. The tag is no
//! secret: who forges one learns nothing, because the state of a key is only ever shown to its own account.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::position::Position;
use sha2::{Digest, Sha256};

use crate::answer::outcome::Receipt;

const VERSION: u8 = 1;
/// What the tag is a hash of begins with this, so that it is a hash of nothing else.
const DOMAIN: &[u8] = b"milepost receipt";
const FIELDS: usize = 1 + 4 + 8 + 8 + 16;
const TAG: usize = 16;

/// The text for the `Location`: base64url without padding, 71 characters.
#[must_use]
pub fn encode(receipt: &Receipt, account: AccountId, key_hash: KeyHash) -> String {
    let mut bytes = Vec::with_capacity(FIELDS + TAG);
    bytes.push(VERSION);
    bytes.extend_from_slice(&receipt.position.partition.0.to_be_bytes());
    bytes.extend_from_slice(&receipt.position.offset.0.to_be_bytes());
    bytes.extend_from_slice(&receipt.journal_time.0.to_be_bytes());
    bytes.extend_from_slice(&receipt.fingerprint);
    bytes.extend_from_slice(&tag(&bytes, account, key_hash));
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a text back; `None` if it was not made for this account and key, was altered, or is of another version.
#[must_use]
pub fn decode(text: &str, account: AccountId, key_hash: KeyHash) -> Option<Receipt> {
    let bytes: [u8; FIELDS + TAG] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
    let (fields, given) = bytes.split_at(FIELDS);
    if fields[0] != VERSION || given != tag(fields, account, key_hash) {
        return None;
    }
    Some(Receipt {
        position: Position::new(
            i32::from_be_bytes(fields[1..5].try_into().ok()?),
            i64::from_be_bytes(fields[5..13].try_into().ok()?),
        ),
        journal_time: JournalTime(i64::from_be_bytes(fields[13..21].try_into().ok()?)),
        fingerprint: fields[21..].try_into().ok()?,
    })
}

/// All parts have fixed lengths, so none runs into its neighbour.
fn tag(fields: &[u8], account: AccountId, key_hash: KeyHash) -> [u8; TAG] {
    let mut hasher = Sha256::new();
    hasher.update(DOMAIN);
    hasher.update(account.0.as_bytes());
    hasher.update(key_hash.0);
    hasher.update(fields);
    let mut tag = [0; TAG];
    tag.copy_from_slice(&hasher.finalize()[..TAG]);
    tag
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use uuid::Uuid;

    use super::*;

    fn receipts() -> impl Strategy<Value = (Receipt, AccountId, KeyHash)> {
        (any::<(i32, i64, i64)>(), any::<[u8; 16]>(), any::<u128>(), any::<[u8; 32]>()).prop_map(
            |((partition, offset, time), fingerprint, account, key)| {
                let position = Position::new(partition, offset);
                let receipt = Receipt { position, journal_time: JournalTime(time), fingerprint };
                (receipt, AccountId(Uuid::from_u128(account)), KeyHash(key))
            },
        )
    }

    proptest! {
        #[test]
        fn a_receipt_survives_the_location((receipt, account, key) in receipts()) {
            let text = encode(&receipt, account, key);
            prop_assert_eq!(text.len(), 71);
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(decode(&text, account, key), Some(receipt));
        }

        #[test]
        fn an_altered_receipt_is_not_known(
            (receipt, account, key) in receipts(), at in 0..53usize, bit in 0..8u8,
        ) {
            let mut bytes = URL_SAFE_NO_PAD.decode(encode(&receipt, account, key)).unwrap();
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(decode(&URL_SAFE_NO_PAD.encode(bytes), account, key), None);
        }

        #[test]
        fn another_account_or_key_does_not_know_it(
            (receipt, account, key) in receipts(), (_, other, other_key) in receipts(),
        ) {
            let text = encode(&receipt, account, key);
            prop_assume!(account != other && key != other_key);
            prop_assert_eq!(decode(&text, other, key), None);
            prop_assert_eq!(decode(&text, account, other_key), None);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,100}") {
            prop_assert_eq!(decode(&text, AccountId(Uuid::nil()), KeyHash([0; 32])), None);
        }
    }
}
