//! What goes into and comes out of the service that finds or makes answers: a protocol accepts an upload and turns its
//! outcome into a response.

use std::time::Duration;

use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::position::Position;
use milepost_shared::location::Upload;
use milepost_shared::location::fingerprint::Fingerprint;

/// An upload that was authenticated, validated, hashed and stamped. Nothing is stored of it yet.
#[derive(Debug)]
pub struct Accepted {
    /// Who sent it.
    pub account: AccountId,
    /// What it is keyed by; of a random key if the client gave none.
    pub key_hash: KeyHash,
    /// Whether the client gave the key. Without one nothing can be known of it, so it is not looked up.
    pub has_key: bool,
    /// Of `upload`.
    pub fingerprint: Fingerprint,
    /// The upload.
    pub upload: Upload,
    /// `traceparent` of the request, handed on to the journal; valid W3C Trace Context.
    pub traceparent: Option<String>,
    /// How long the client will wait for the final answer; zero if it does not wish to.
    pub patience: Duration,
}

/// How an upload ended; exactly one for each accepted one.
#[derive(Debug)]
pub enum Outcome {
    /// The key's window belongs to this upload, which is answered with the state's bytes.
    Final {
        /// What the key stands for.
        state: KeyState,
        /// False for the one response to the record that claimed the key.
        replayed: bool,
    },
    /// The key's window belongs to another upload.
    Conflict,
    /// In the journal, not known to be final.
    Pending(Receipt),
    /// Perhaps not in the journal; safe to retry with the same key.
    Unavailable(Unavailable),
}

/// Where a pending upload stands in the journal: by it any gateway finds out what became of the upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The record.
    pub position: Position,
    /// Its journal time; [`crate::answer::matching::UNKNOWN_TIME`] if the broker did not say.
    pub journal_time: JournalTime,
    /// The first half of the upload's fingerprint: enough to distinguish it from another upload.
    pub fingerprint: [u8; 16],
}

impl Receipt {
    /// Of an upload that the journal acknowledged.
    #[must_use]
    pub fn new(position: Position, journal_time: JournalTime, fingerprint: Fingerprint) -> Self {
        let mut half = [0; 16];
        half.copy_from_slice(&fingerprint.0[..16]);
        Self { position, journal_time, fingerprint: half }
    }

    /// Whether this is the receipt of an upload with that fingerprint.
    #[must_use]
    pub fn is_of(&self, fingerprint: Fingerprint) -> bool {
        fingerprint.0.starts_with(&self.fingerprint)
    }
}

/// Why an upload could not be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unavailable {
    /// The journal did not acknowledge in time.
    Journal,
    /// Too many uploads are in flight.
    Overload,
    /// The gateway is stopping.
    Draining,
}

/// What became of an upload, or of what its key stands for.
#[derive(Debug)]
pub enum Status {
    /// In the journal, not final yet.
    Pending,
    /// Final: the window's state, and whether it belongs to this upload or to another.
    Final {
        /// What the key stands for.
        state: KeyState,
        /// Whether the upload lost its key to another one.
        conflict: bool,
    },
    /// Not known (any more), or not this account's.
    Unknown,
    /// The database cannot be asked at the moment.
    Unavailable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_of_the_upload_it_was_made_for() {
        let mut fingerprint = [3; 32];
        let receipt = Receipt::new(Position::new(0, 0), JournalTime(0), Fingerprint(fingerprint));
        assert!(receipt.is_of(Fingerprint(fingerprint)));
        fingerprint[15] = 4;
        assert!(!receipt.is_of(Fingerprint(fingerprint)));
    }
}
