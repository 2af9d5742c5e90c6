//! What travels through the topics.
//!
//! An upload's [`key`] is hashed with its [`account`]; it is published as a [`record`] in the [`partition`] of its key, finalized as an
//! [`answer`] that travels as a [`result`], and leaves as a [`fact`]; a point that was [`set_aside`] leaves none. [`schema`] lets the two
//! in between change. [`clock`] keeps the journal's time and a machine's apart, and [`position`] a record's offset and the next.

pub mod account;
pub mod answer;
pub mod clock;
pub mod fact;
pub mod key;
pub mod partition;
pub mod position;
pub mod record;
pub mod result;
pub mod schema;
pub mod set_aside;
