//! Kafka, as all programs use it.
//!
//! [`client`] configures every client, [`producer`] sends, and [`reader`] is what readers share. [`names`] and [`topics`] say how the three
//! topics are named and must be configured, [`trouble`] what an operator should read of errors that stand.

pub mod client;
pub mod names;
pub mod producer;
pub mod reader;
pub mod topics;
pub mod trouble;
