//! The metrics of accepted uploads. Their series are looked up once: by name, each look-up would put name and labels
//! together first.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// How answers end, and where the answer of each can come from.
const ENDS: [(&str, &[&str]); 4] = [
    ("final", &["cache", "table", "results", "own", "joined"]),
    ("conflict", &["cache", "table", "results", "joined"]),
    ("pending", &["none"]),
    ("unavailable", &["none"]),
];

/// What is reported of every accepted upload. The series are few: to compare them all is quicker than to hash.
pub struct AnswerMetrics {
    uploads: Vec<(&'static str, &'static str, Counter)>,
    seconds: Vec<(&'static str, Histogram)>,
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
        if let Some((_, seconds)) = self.seconds.iter().find(|(of, _)| *of == outcome) {
            seconds.record(elapsed);
        }
    }
}

impl Default for AnswerMetrics {
    fn default() -> Self {
        Self::new()
    }
}
