//! Kafka, as all programs use it.
//!
//! [`topics`] says how the three topics are named and must be configured, [`brokers`] when a client has forgotten all of them,
//! [`trouble`] what an operator should read of errors that stand.

pub mod brokers;
pub mod topics;
pub mod trouble;
