//! The harness of the end-to-end tests: real servers, the real programs, and readers of all they leave behind.
//!
//! A test starts a [`World`] on the shared [`Services`]: a database, topics, accounts and API keys of its own. In it it
//! starts [`Program`]s, sends [`Post`]s through a [`Client`], waits with [`eventually`], and ends with
//! [`World::finish`], which compares everything stored and emitted with what should be, and searches every log for the
//! planted values. A test that ends in any other way has failed, and the ends of its logs are printed.

mod authority;
mod client;
mod database;
mod disk;
mod kafka;
mod lossy;
mod planted;
mod program;
mod raw;
mod server;
mod services;
mod subscriber;
mod tables;
mod world;

pub use authority::{Authority, Identity};
pub use client::{Answer, Client, Post, http};
pub use database::Database;
pub use kafka::{Kafka, Record, Transaction};
pub use lossy::Lossy;
pub use milepost_shared::store::testing::Role;
pub use milepost_shared::testing::eventually;
pub use planted::Planted;
pub use program::{Program, Signal};
pub use raw::Raw;
pub use server::{Server, Via, free_port};
pub use services::Services;
pub use subscriber::{Fact, Subscriber};
pub use tables::{DeadLetter, KeyRow, ProgressRow, Stored, Tables};
pub use world::{Account, World, WorldSettings, exact};

/// The example of the one-integer rule, run as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../../docs/topics.md")]
pub struct Topics;
