//! The JSON API, Milepost's own protocol.
//!
//! Its [`key`] and what it may [`prefer`] make, with what [`decode`] reads, an accepted upload of a request. [`respond`] turns
//! an outcome into HTTP, with the [`receipt`] of a 202 whose [`status`] may be asked for later.

pub mod decode;
pub mod key;
pub mod prefer;
pub mod receipt;
pub mod respond;
pub mod status;
