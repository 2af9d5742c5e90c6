//! HTTP/1.1, as far as it is not hyper's.
//!
//! [`server`] accepts connections. A [`connection`] keeps their deadlines and judges each head by [`ambiguity`] and
//! [`framing`] before hyper sees it, and they end with a [`linger`]; a [`refuser`] answers what never becomes a request.
//! [`router`] is what every request passes: a bound of them ([`slots`]), the end of its body ([`arriving`]), a web page's
//! [`cors`]. [`problem`] is every answer that is not a success; [`access_log`] counts ([`metric`]) and logs them.

pub mod access_log;
pub mod ambiguity;
pub mod arriving;
pub mod connection;
pub mod cors;
pub mod framing;
pub mod linger;
pub mod metric;
pub mod problem;
pub mod refuser;
pub mod router;
pub mod server;
pub mod slots;
