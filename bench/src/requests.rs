//! Requests by number, and what their answers must be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HOST};
use uuid::Uuid;

use crate::ledger::Ledger;
use crate::points::Points;
use crate::uploads::{DEVICES, Uploads};

/// Spreads consecutive numbers over hot keys: the golden ratio in 64 bits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What is sent.
#[derive(Debug, Clone)]
pub enum Sent {
    /// With a client's key.
    Uploads(Arc<Uploads>),
    /// As phone apps do, without one.
    Points(Arc<Points>),
}

impl From<&Arc<Uploads>> for Sent {
    fn from(uploads: &Arc<Uploads>) -> Self {
        Self::Uploads(Arc::clone(uploads))
    }
}

impl From<&Arc<Points>> for Sent {
    fn from(points: &Arc<Points>) -> Self {
        Self::Points(Arc::clone(points))
    }
}

/// An endless supply of requests.
#[derive(Debug)]
pub struct Requests {
    sent: Sent,
    secret: String,
    ledger: Arc<Ledger>,
    /// Half of every key, so that two supplies never share one. Points have none: what follows others is [`Requests::further`].
    run: u64,
    /// How many keys are sent again and again; `None` if each is sent once.
    hot: Option<u64>,
    respond_async: bool,
    next: AtomicU64,
}

impl Requests {
    /// Each with a key of its own, or points of its own. What is answered goes into the ledger.
    #[must_use]
    pub fn new(sent: impl Into<Sent>, secret: &str, ledger: &Arc<Ledger>) -> Self {
        Self {
            sent: sent.into(),
            secret: secret.to_owned(),
            ledger: Arc::clone(ledger),
            run: Uuid::new_v4().as_u64_pair().0,
            hot: None,
            respond_async: false,
            next: AtomicU64::new(0),
        }
    }

    /// The first `keys` of these requests, again and again.
    #[must_use]
    pub fn replays(&self, keys: u64) -> Self {
        Self { hot: Some(keys), ..self.again() }
    }

    /// Those behind these requests.
    #[must_use]
    pub fn further(&self) -> Self {
        Self { next: AtomicU64::new(self.next.load(Ordering::Relaxed)), ..self.again() }
    }

    fn again(&self) -> Self {
        Self { run: self.run, ..Self::new(self.sent.clone(), &self.secret, &self.ledger) }
    }

    /// Asks not to wait for the final answer.
    #[must_use]
    pub fn respond_async(self) -> Self {
        Self { respond_async: true, ..self }
    }

    /// The status of every answer.
    #[must_use]
    pub fn status(&self) -> u16 {
        if self.respond_async { 202 } else { 200 }
    }

    /// How many locations each request brings that no other has brought.
    #[must_use]
    pub fn locations(&self) -> u64 {
        match &self.sent {
            Sent::Uploads(uploads) => uploads.locations,
            Sent::Points(points) => points.new,
        }
    }

    /// How many uploads each request is: each point is one.
    fn uploads(&self) -> u64 {
        match &self.sent {
            Sent::Uploads(_) => 1,
            Sent::Points(points) => points.new,
        }
    }

    /// The next request.
    ///
    /// # Panics
    /// Never: its parts are well-formed.
    #[must_use]
    pub fn next(&self) -> Request<Full<Bytes>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let number = self.hot.map_or(number, |keys| (number.wrapping_mul(SPREAD) >> 32) % keys);
        match &self.sent {
            Sent::Uploads(uploads) => self.upload(uploads, number),
            Sent::Points(points) => points.request(number, &self.secret),
        }
    }

    fn upload(&self, uploads: &Uploads, number: u64) -> Request<Full<Bytes>> {
        let key = Uuid::from_u64_pair(self.run, number);
        let mut request = Request::post(uploads.path)
            .header(HOST, "milepost")
            .header(CONTENT_TYPE, "application/json")
            .header("x-api-key", &self.secret)
            .header("idempotency-key", format!("\"{key}\""));
        if self.respond_async {
            request = request.header("prefer", "respond-async");
        }
        request.body(Full::new(uploads.body(number % DEVICES))).expect("a request is well-formed")
    }

    /// Notes an answer in the ledger, unless it is a replay. False if it is not the one that must be.
    pub fn note(&self, status: u16, body: &[u8]) -> bool {
        let answer = match &self.sent {
            Sent::Uploads(uploads) => &uploads.answer,
            Sent::Points(points) => points.answer.as_bytes(),
        };
        let right = status == self.status() && (self.respond_async || body == answer);
        if right && self.hot.is_none() {
            self.ledger.add(self.uploads(), self.locations());
        }
        right
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn key(requests: &Requests) -> String {
        requests.next().headers()["idempotency-key"].to_str().unwrap().to_owned()
    }

    fn requests() -> Requests {
        Requests::new(&Arc::new(Uploads::singles()), "secret", &Arc::default())
    }

    #[test]
    fn no_two_requests_share_a_key() {
        let all = [requests(), requests()];
        let keys: HashSet<String> = all.iter().flat_map(|one| (0..1000).map(|_| key(one))).collect();
        assert_eq!(keys.len(), 2000);
    }

    #[test]
    fn replays_are_of_the_first_requests_and_reach_all_of_them() {
        let first = requests();
        let hot = first.replays(10);
        let sent: HashSet<String> = (0..10).map(|_| key(&first)).collect();
        let again: HashSet<String> = (0..1000).map(|_| key(&hot)).collect();
        assert_eq!(sent, again);
    }

    #[test]
    fn further_requests_begin_behind_those_taken() {
        let points = Arc::new(Points::gpslogger(10));
        let first = Requests::new(&points, "secret", &Arc::default());
        let taken = [first.next(), first.next()].map(|request| request.uri().clone());
        let further = first.further();
        assert!(!taken.contains(further.next().uri()));
        assert_eq!(further.next().uri(), points.request(3, "secret").uri());
    }

    #[test]
    fn only_the_answer_that_must_be_is_right() {
        let requests = requests();
        assert!(requests.note(200, br#"{"success":true,"processedCount":1}"#));
        assert!(!requests.note(200, br#"{"success":true,"processedCount":2}"#));
        assert!(!requests.note(202, b""));
        assert!(requests.respond_async().note(202, b""));
        let overland = Requests::new(&Arc::new(Points::overland(1)), "secret", &Arc::default());
        assert!(overland.note(200, br#"{"result":"ok"}"#) && !overland.note(200, b"[]"));
    }
}
