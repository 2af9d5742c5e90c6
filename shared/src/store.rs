//! Every SQL statement of Milepost, by who runs it: the gateway reads ([`lookup`], [`api_keys`]), the consumer writes
//! ([`batch`], [`copy`], [`progress`], [`partitions`]), the administrator manages ([`accounts`], [`dead_letters`], [`locations`],
//! [`migrate`], [`roles`]).
//!
//! [`connect`] is how programs connect, [`connection`] keeps connections from one query to the next, [`trouble`] says in words why
//! neither works.
//!
//! Time is a bind value, never `now()`. Not found is `None`.

pub mod accounts;
mod address;
pub mod api_keys;
pub mod batch;
pub mod connect;
pub mod connection;
pub mod copy;
pub mod dead_letters;
pub mod locations;
pub mod lookup;
pub mod migrate;
pub mod partitions;
mod passfile;
pub mod progress;
pub mod roles;
#[cfg(any(test, feature = "test-support"))]
pub mod testing;
pub mod trouble;

#[cfg(test)]
#[path = "store/statements_tests.rs"]
mod tests;
