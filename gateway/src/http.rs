//! HTTP/1.1, as far as it is not hyper's.
//!
//! [`server`] accepts connections. A [`connection`] keeps their deadlines and judges each head by [`ambiguity`] and
//! [`framing`] before hyper sees it, and they end with a [`linger`]. [`router`] leads a request to its page, a web page's
//! by [`cors`]. [`problem`] is every answer that is no success; [`refusals`] says which of them get a log line, [`metric`]
//! counts.

pub mod ambiguity;
pub mod connection;
pub mod cors;
pub mod framing;
pub mod linger;
pub mod metric;
pub mod problem;
pub mod refusals;
pub mod router;
pub mod server;
