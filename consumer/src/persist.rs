//! Into the tables.
//!
//! [`batch`] gathers records, [`decide`] says of each upload what it is (pure; a model checker calls it too), [`resolve`] makes
//! rows and emissions of that, and [`transaction`] commits them. [`account`] knows who exists.

pub mod account;
pub mod batch;
pub mod decide;
pub mod resolve;
pub mod transaction;
