//! One HTTP request, whatever it holds.

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::HeaderMap;

/// What one attempt sends. Has no `Debug`, because it holds the API key.
#[derive(Clone)]
pub struct Request {
    /// The HTTP method.
    pub method: Method,
    /// Path and query, below the address of the gateway.
    pub target: String,
    /// All headers that matter to the gateway.
    pub headers: HeaderMap,
    /// The body, which may be empty.
    pub body: Bytes,
}
