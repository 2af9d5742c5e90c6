//! The gateway: POST in, answer out. Its layers, each of which imports only those before it in this list:
//!
//! - [`answer`] finds or makes the answer to an accepted upload.
//! - [`http`] is HTTP/1.1 on connections: deadlines, heads that all readers understand alike, problems.
//! - [`admission`] says who may send, how fast and how much, and reads what was sent.
//! - [`native`] is the JSON API: it makes uploads of requests and responses of outcomes.
//! - [`phones`] reads what phone apps send as they are: points of requests.
//! - [`settings`] is the command line, [`app`] puts the layers together.

pub mod admission;
pub mod answer;
pub mod app;
pub mod http;
pub mod native;
pub mod phones;
pub mod settings;

#[cfg(test)]
mod testing;
