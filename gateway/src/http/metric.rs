//! The metrics that every request moves. Their series are looked up once: by name, each look-up would put name and
//! labels together first.

use std::time::Duration;

use http::StatusCode;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// How answers end, and where the answer of each can come from.
const ENDS: [(&str, &[&str]); 4] = [
    ("final", &["cache", "table", "results", "own", "joined"]),
    ("conflict", &["cache", "table", "results", "joined"]),
    ("pending", &["none"]),
    ("unavailable", &["none"]),
];

/// Series by the value of a label. They are few: to compare them all is quicker than to hash.
type ByLabel<T> = Vec<(&'static str, T)>;

fn labelled<'a, T>(series: &'a ByLabel<T>, label: &str) -> Option<&'a T> {
    series.iter().find(|(of, _)| *of == label).map(|(_, series)| series)
}

/// What is told of every request.
pub struct HttpMetrics {
    /// Requests answered 200, by route. Other statuses are looked up by name.
    ok: ByLabel<Counter>,
    seconds: ByLabel<Histogram>,
}

impl HttpMetrics {
    /// The series of these routes, which exist from now on; `no_route` names all others.
    #[must_use]
    pub fn new(routes: &[&'static str], no_route: &'static str) -> Self {
        let ok: ByLabel<Counter> =
            routes.iter().map(|route| (*route, requests(route, StatusCode::OK))).collect();
        for (_, counter) in &ok {
            counter.absolute(0);
        }
        let seconds = |route| histogram!("milepost_gateway_http_request_seconds", "route" => route);
        let all = routes.iter().copied().chain([no_route]);
        Self { ok, seconds: all.map(|route| (route, seconds(route))).collect() }
    }

    /// Counts one request.
    pub fn count(&self, route: &'static str, status: StatusCode, elapsed: Duration) {
        match labelled(&self.ok, route).filter(|_| status == StatusCode::OK) {
            Some(counter) => counter.increment(1),
            None => requests(route, status).increment(1),
        }
        if let Some(seconds) = labelled(&self.seconds, route) {
            seconds.record(elapsed);
        }
    }
}

fn requests(route: &'static str, status: StatusCode) -> Counter {
    counter!("milepost_gateway_http_requests_total", "route" => route, "status" => status.as_str().to_owned())
}

/// What is told of every accepted upload.
pub struct AnswerMetrics {
    uploads: Vec<(&'static str, &'static str, Counter)>,
    seconds: ByLabel<Histogram>,
    /// Partitions whose answers are late.
    pub late_partitions: Gauge,
}

impl AnswerMetrics {
    /// The series, which exist from now on.
    #[must_use]
    pub fn new() -> Self {
        let mut uploads = Vec::new();
        for (outcome, sources) in ENDS {
            for source in sources {
                let counter =
                    counter!("milepost_gateway_uploads_total", "outcome" => outcome, "source" => *source);
                counter.absolute(0);
                uploads.push((outcome, *source, counter));
            }
        }
        let seconds = |outcome| histogram!("milepost_gateway_answer_seconds", "outcome" => outcome);
        let late_partitions = gauge!("milepost_gateway_late_partitions");
        late_partitions.set(0);
        Self {
            uploads,
            seconds: ENDS.map(|(outcome, _)| (outcome, seconds(outcome))).into(),
            late_partitions,
        }
    }

    /// Counts one upload.
    pub fn count(&self, outcome: &'static str, source: &'static str, elapsed: Duration) {
        if let Some((.., counter)) = self.uploads.iter().find(|(o, s, _)| (*o, *s) == (outcome, source)) {
            counter.increment(1);
        }
        if let Some(seconds) = labelled(&self.seconds, outcome) {
            seconds.record(elapsed);
        }
    }
}

impl Default for AnswerMetrics {
    fn default() -> Self {
        Self::new()
    }
}
