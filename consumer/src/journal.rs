//! From the journal.
//!
//! [`poll`] reads it on a thread of its own, and [`record`] decodes. [`member`] hears what the
//! group says, [`membership`] answers, [`assign`] says where a
//! partition starts, [`stopped`] which partitions wait for an operator.

pub mod assign;
pub mod member;
pub mod membership;
pub mod poll;
pub mod record;
pub mod stopped;
