//! Kafka, as all programs use it.
//!
//! [`client`] configures every client, [`topics`] says how the three topics are named and must be configured, [`trouble`] what an
//! operator should read of errors that stand. [`producer`] sends, and [`reader`] is what
//! readers share.

pub mod client;
pub mod producer;
pub mod reader;
pub mod topics;
pub mod trouble;
