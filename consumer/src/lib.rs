//! The consumer: journal in, rows, answers and facts out.
//!
//! In the order of the flow: [`poll`] reads the journal on a thread of its own, [`record`] decodes, [`batch`] gathers,
//! [`decide`] says of each upload what it is (pure; a model checker calls it too), [`settle`] makes rows and emissions of
//! that, [`persist`] commits a batch in one transaction, [`emit`] publishes results and facts (each by a [`producer`]) and
//! moves the group offset.
//! [`account`] knows who exists, [`stopped`] which partitions wait for an operator.
//! [`assign`] says where a partition starts, [`membership`] follows rebalances, [`session`] is one membership with all of
//! these in it, [`expire`] lets keys go. [`settings`] is the command line.

pub mod account;
pub mod assign;
pub mod batch;
pub mod decide;
pub mod emit;
pub mod expire;
pub mod membership;
pub mod metric;
pub mod persist;
pub mod poll;
pub mod producer;
pub mod record;
pub mod session;
pub mod settings;
pub mod settle;
pub mod stopped;
