//! The answer to an accepted upload.
//!
//! [`service`] finds or makes it: known from the [`cache`], or by a [`lookup`] in the table; otherwise the one request of a key
//! that leads publishes it ([`publish`]), and the result that the [`tail`] reads is matched ([`matching`])
//! with what is [`in_flight`]. Others with the same key join its [`flight`]. [`journal_clock`] and [`lag`] know how far the
//! journal and its consumer are. The end is an [`outcome`], which [`metric`] counts. [`points`] takes uploads that come without
//! a client's key, and not those again that the journal has acknowledged in [`recent`] minutes; [`safety`] says when they are safe.

pub mod cache;
pub mod flight;
pub mod in_flight;
pub mod journal_clock;
pub mod lag;
pub mod lookup;
pub mod matching;
pub mod metric;
pub mod outcome;
pub mod points;
pub mod publish;
pub mod recent;
pub mod safety;
pub mod service;
pub mod tail;
