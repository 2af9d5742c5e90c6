//! To be written.

pub mod answers;
pub mod cache;
pub mod flight;
pub mod in_flight;
pub mod journal_clock;
pub mod late;
pub mod lookup;
pub mod mine;
pub mod outcome;
pub mod publish;
pub mod receipt;
pub mod tail;
