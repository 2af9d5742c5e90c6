//! Into the tables.
//!
//! [`batch`] gathers records, [`decide`] says what each upload is (pure; a model checker calls it too), [`resolve`] turns that
//! into rows and emissions, and [`transaction`] commits them. [`account`] knows which accounts exist.

pub mod account;
pub mod batch;
pub mod decide;
pub mod resolve;
pub mod transaction;
