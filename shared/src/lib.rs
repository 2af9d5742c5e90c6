//! What Milepost's gateway and consumer must agree on, and nothing else.
//!
//! In the order of the flow: an [`upload`] arrives and is decoded, its [`key`] is hashed and its [`fingerprint`] taken,
//! it is published as a [`journal`] record in the [`partition`] of its key, finalized as an [`answer`] that travels as a
//! [`result`] record, and leaves as a [`fact`]. [`topics`] says how the three topics must be configured, [`store`] holds
//! every SQL statement, [`clock`] tells the two kinds of time apart. The rest is what any program needs: [`settings`],
//! [`telemetry`], the [`ops`] listener, [`backoff`], [`brokers`] that a client has forgotten, [`shutdown`], and, for tests,
//! named [`crash`] points.
//!
//! The modules up to `fact` are pure: no I/O, no clock.

pub mod answer;
pub mod backoff;
pub mod brokers;
pub mod clock;
pub mod crash;
pub mod fact;
pub mod fingerprint;
pub mod journal;
pub mod json;
pub mod key;
pub mod ops;
pub mod partition;
pub mod result;
pub mod settings;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod topics;
pub mod trouble;
pub mod upload;
