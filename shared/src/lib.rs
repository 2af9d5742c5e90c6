//! What Milepost's programs must agree on, and what each of them needs.
//!
//! In the order of the flow: an upload of one or more [`location`]s is decoded and its fingerprint taken; it travels through
//! the topics as the records of [`journal`], which [`kafka`] says how to reach and to keep; [`store`] holds every SQL
//! statement. [`program`] is what any program needs: settings, telemetry, pages for operators.
//!
//! `location` and `journal` are pure: no I/O, no clock.

pub mod journal;
pub mod kafka;
pub mod location;
pub mod program;
pub mod store;
#[cfg(any(test, feature = "test-support"))]
pub mod testing;
