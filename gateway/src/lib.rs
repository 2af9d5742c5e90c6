//! The gateway: POST in, answer out.
//!
//! In the order of the flow: [`server`] accepts connections ([`connection`] keeps their deadlines and judges heads by
//! [`strict_http`] and [`framing`], and they end with a [`linger`]),
//! [`router`] admits requests (of web pages by [`cors`]), [`authenticate`] and [`rate`] say who may, [`media`], [`coding`] and [`body`] read what
//! was sent, [`idempotency_key`], [`prefer`] and [`accept`] make an accepted upload of it. [`answers`] finds
//! or makes its answer: [`in_flight`], [`cache`], [`lookup`], [`publish`] (by a [`producer`]) and the results [`tail`], joined by
//! a [`flight`]. [`respond`] turns the [`outcome`] into HTTP, and [`status`] tells what became of a 202.
//! [`problem`] is every other answer ([`refusals`] says which get a log line), [`metric`] what is counted, [`settings`] the command line, [`start`] what is checked before.

pub mod accept;
pub mod answers;
pub mod authenticate;
pub mod body;
pub mod cache;
pub mod coding;
pub mod connection;
pub mod cors;
pub mod flight;
pub mod framing;
pub mod idempotency_key;
pub mod in_flight;
pub mod journal_clock;
pub mod late;
pub mod linger;
pub mod lookup;
pub mod media;
pub mod metric;
pub mod mine;
pub mod outcome;
pub mod prefer;
pub mod problem;
pub mod producer;
pub mod publish;
pub mod rate;
pub mod receipt;
pub mod refusals;
pub mod respond;
pub mod router;
pub mod server;
pub mod settings;
pub mod start;
pub mod status;
pub mod strict_http;
pub mod tail;

#[cfg(test)]
mod testing;
