//! Answers to what never becomes a request: a head that is refused, a connection too many.

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use milepost_shared::journal::clock::Clock;
use uuid::Uuid;

use crate::http::access_log::{AccessLog, Answered};
use crate::http::ambiguity::RefusedHead;
use crate::http::metric::NO_ROUTE;
use crate::http::problem::{OVERLOAD, Problem};

/// Refuses in whole answers, and logs them.
pub struct Refuser {
    /// Where its refusals are logged.
    pub log: Arc<AccessLog>,
    /// For the `Date` of an answer.
    pub clock: Clock,
}

impl Refuser {
    /// The answer to a head.
    #[must_use]
    pub fn head(&self, refused: &RefusedHead) -> Bytes {
        self.log.metrics.of("").count(refused.problem.status, Duration::ZERO);
        self.refuse(&refused.problem, refused.to_head)
    }

    /// The answer on a connection that there is no slot for.
    #[must_use]
    pub fn connection(&self) -> Bytes {
        self.refuse(&OVERLOAD, false)
    }

    fn refuse(&self, problem: &Problem, to_head: bool) -> Bytes {
        let (request_id, begun) = (Uuid::now_v7(), Instant::now());
        let (status, code) = (problem.status, problem.code);
        self.log.log(NO_ROUTE, &Answered { method: "none", status, code, request_id, begun, bytes: 0 });
        let now = UNIX_EPOCH + Duration::from_millis(self.clock.now_ms().try_into().unwrap_or_default());
        problem.raw(request_id, now, to_head).into()
    }
}
