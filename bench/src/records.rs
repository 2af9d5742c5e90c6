//! Journal records made before anything is measured, as the gateway would publish them.

use std::sync::atomic::{AtomicU64, Ordering};

use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::record;
use milepost_shared::location::Upload;
use milepost_shared::location::fingerprint::Fingerprint;
use uuid::Uuid;

use crate::uploads::{DEVICES, Uploads};

/// An endless supply of records, each with a key of its own.
#[derive(Debug)]
pub struct Records {
    account: AccountId,
    /// Locations of each.
    pub locations: u64,
    uploads: Vec<(Upload, Fingerprint)>,
    values: Vec<Vec<u8>>,
    run: u64,
    next: AtomicU64,
}

impl Records {
    /// Of these uploads, sent by an account.
    #[must_use]
    pub fn new(uploads: &Uploads, account: AccountId) -> Self {
        let one = |number| {
            let upload = uploads.upload(number);
            let fingerprint = Fingerprint::of(&upload);
            (upload, fingerprint)
        };
        let of_devices: Vec<_> = (0..DEVICES).map(one).collect();
        let encode =
            |(upload, fingerprint): &(Upload, Fingerprint)| record::encode(account, *fingerprint, upload);
        Self {
            account,
            locations: uploads.locations,
            values: of_devices.iter().map(encode).collect(),
            uploads: of_devices,
            run: Uuid::new_v4().as_u64_pair().0,
            next: AtomicU64::new(0),
        }
    }

    /// The next record: key and value.
    #[must_use]
    pub fn next(&self) -> (String, &[u8]) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (self.key_hash(number).to_string(), &self.values[device(number)])
    }

    /// The key hash of the record with this number.
    #[must_use]
    pub fn key_hash(&self, number: u64) -> KeyHash {
        KeyHash::new(self.account, &Uuid::from_u64_pair(self.run, number).to_string())
    }

    /// Upload and fingerprint of the record with this number.
    #[must_use]
    pub fn upload(&self, number: u64) -> &(Upload, Fingerprint) {
        &self.uploads[device(number)]
    }
}

fn device(number: u64) -> usize {
    usize::try_from(number % DEVICES).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use milepost_shared::journal::record::JournalRecord;

    use super::*;

    #[test]
    fn records_are_those_of_the_gateway() {
        let records = Records::new(&Uploads::batches(3), AccountId(Uuid::from_u128(7)));
        for number in 0..3 {
            let (key, value) = records.next();
            let record = JournalRecord::decode(Some(key.as_bytes()), Some(value)).unwrap();
            assert_eq!(
                (record.key_hash, record.account),
                (records.key_hash(number), AccountId(Uuid::from_u128(7)))
            );
            let (upload, fingerprint) = records.upload(number);
            assert_eq!((record.upload(), record.fingerprint), (Some(upload), *fingerprint));
        }
    }
}
