//! The consumer: journal in, rows, answers and facts out.
//!
//! In the order of the flow: [`journal`] reads and decodes records, [`persist`] decides and commits them in batches, [`emit`]
//! publishes their results and facts and moves the group offset. [`session`] is one membership of the group with all of these
//! in it; [`expire`] drops expired keys. [`settings`] is the command line, [`metric`] names what is counted.

pub mod emit;
pub mod expire;
pub mod journal;
pub mod metric;
pub mod persist;
pub mod session;
pub mod settings;
