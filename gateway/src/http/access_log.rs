//! What is counted and logged of every answer: some lines a second for each code, so that nobody can fill a disk by asking.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use http::StatusCode;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::http::metric::{HttpMetrics, Series};

/// Lines a second for each code.
pub const LINES_MAX: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);

/// The log of all requests, and their metrics.
pub struct AccessLog {
    /// Their metrics.
    pub metrics: HttpMetrics,
    limit: LineLimit,
}

/// One answer, without anything that the client chose.
#[derive(Debug)]
pub struct Answered {
    /// The method, if it is one of those that HTTP names.
    pub method: &'static str,
    /// The status.
    pub status: StatusCode,
    /// The code of a problem.
    pub code: &'static str,
    /// Names the request.
    pub request_id: Uuid,
    /// When it came.
    pub begun: Instant,
    /// How much of its body was read.
    pub bytes: u64,
}

impl AccessLog {
    /// Nothing is logged yet.
    #[must_use]
    pub fn new(metrics: HttpMetrics) -> Self {
        Self { metrics, limit: LineLimit::default() }
    }

    /// Counts and logs a request.
    pub fn request(&self, series: &Series, answered: &Answered) {
        series.count(answered.status, answered.begun.elapsed());
        self.log(series.route, answered);
    }

    /// Logs an answer. What was refused is looked for by its request id; of all else the metrics give an account, at less
    /// cost than a line each.
    pub fn log(&self, route: &'static str, answered: &Answered) {
        let Answered { method, status, code, request_id, begun, bytes } = answered;
        let (status, duration_ms) = (status.as_u16(), begun.elapsed().as_millis());
        if status < 400 {
            tracing::debug!(method, route, status, %request_id, duration_ms, bytes, "request");
        } else if let Some(left_out) = self.limit.admit(code, *begun) {
            let left_out = Some(left_out).filter(|left_out| *left_out > 0);
            tracing::info!(method, route, status, code, %request_id, duration_ms, bytes, left_out, "request");
        }
    }

    /// Reports refusals that got no line of their own and that no later line has reported.
    pub fn report_left_out(&self) {
        for (code, left_out) in self.limit.left_out() {
            tracing::info!(code, left_out, "requests");
        }
    }
}

/// How many lines there were, and what was left out. The codes are few: they are the gateway's own.
#[derive(Debug, Default)]
struct LineLimit(Mutex<HashMap<&'static str, Lines>>);

#[derive(Debug)]
struct Lines {
    since: Instant,
    count: u32,
    left_out: u64,
}

impl LineLimit {
    /// Whether a refusal with this code gets a line now, and if so how many got none since the last one.
    fn admit(&self, code: &'static str, now: Instant) -> Option<u64> {
        let mut codes = self.0.lock();
        let lines = codes.entry(code).or_insert(Lines { since: now, count: 0, left_out: 0 });
        if now.saturating_duration_since(lines.since) >= SECOND {
            (lines.since, lines.count) = (now, 0);
        }
        if lines.count >= LINES_MAX {
            lines.left_out += 1;
            return None;
        }
        lines.count += 1;
        Some(std::mem::take(&mut lines.left_out))
    }

    /// Forgets what was left out and is not reported yet; returns it.
    fn left_out(&self) -> Vec<(&'static str, u64)> {
        let mut codes = self.0.lock();
        let counts = codes.iter_mut().map(|(code, lines)| (*code, std::mem::take(&mut lines.left_out)));
        counts.filter(|(_, left_out)| *left_out > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_some_lines_a_second_and_the_rest_is_counted() {
        let (limit, begun) = (LineLimit::default(), Instant::now());
        let lines = |code, now| (0..1000).filter_map(|_| limit.admit(code, now)).collect::<Vec<u64>>();
        assert_eq!(lines("a", begun), [0; 10]);
        assert_eq!(lines("b", begun), [0; 10]);
        assert!(lines("a", begun + SECOND / 2).is_empty());
        let again = lines("a", begun + SECOND);
        assert_eq!((again.len(), again[0], &again[1..]), (10, 1990, &[0; 9][..]));
        let mut rest = limit.left_out();
        rest.sort_unstable();
        assert_eq!(rest, [("a", 990), ("b", 990)]);
        assert!(limit.left_out().is_empty());
    }
}
