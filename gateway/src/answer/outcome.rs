//! What goes into and comes out of the middle of the gateway: the front accepts an upload and turns its outcome into HTTP,
//! the middle finds or makes the answer.

use std::time::Duration;

use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::location::Upload;
use milepost_shared::location::fingerprint::Fingerprint;
use uuid::Uuid;

use crate::native::receipt::Receipt;

/// An upload that was authenticated, validated, hashed and stamped. Nothing is stored of it yet.
#[derive(Debug)]
pub struct Accepted {
    /// Who sent it.
    pub account: Uuid,
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
    /// How long the client will wait for the final answer; zero for `Prefer: respond-async`.
    pub patience: Duration,
}

/// How it ended; exactly one for each accepted upload.
#[derive(Debug)]
pub enum Outcome {
    /// The key's window belongs to this upload: 200 with the state's bytes.
    Final {
        /// What the key stands for.
        state: KeyState,
        /// False for the one response to the record that claimed the key.
        replayed: bool,
    },
    /// The key's window belongs to another upload: 422.
    Conflict,
    /// In the journal, not known to be final: 202.
    Pending(Receipt),
    /// Perhaps not in the journal: 503, safe to retry with the same key.
    Unavailable(Unavailable),
}

/// Why an upload could not be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// The journal did not acknowledge in time.
    Journal,
    /// Too many uploads are in flight.
    Overload,
    /// The gateway is stopping.
    Draining,
}

/// What a `GET` on the `Location` of a 202 learns.
#[derive(Debug)]
pub enum Status {
    /// In the journal, not final yet.
    Pending,
    /// Final: the window's state, and whether it belongs to this upload (200) or to another (422).
    Final {
        /// What the key stands for.
        state: KeyState,
        /// Whether the upload lost its key to another one.
        conflict: bool,
    },
    /// Not known (any more), or not this account's: 404.
    Unknown,
    /// The database cannot be asked at the moment: 503.
    Unavailable,
}
