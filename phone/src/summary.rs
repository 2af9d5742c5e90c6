//! What became of the uploads.

use comfy_table::{Table, presets};
use serde_json::{Value, json};

use crate::track::Survey;

/// The most failures that are listed; the rest is only counted.
pub const LISTED_MAX: usize = 20;

/// Why an upload failed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Failure {
    /// A permanent answer, in words.
    #[error("refused: {0}")]
    Refused(String),
    /// No final answer within the attempts and the time allowed.
    #[error("gave up after {attempts} attempts; the last: {last}")]
    GaveUp {
        /// How many attempts were made for this answer.
        attempts: u32,
        /// What came of the last one.
        last: String,
    },
    /// A 200 that does not confirm the locations sent.
    #[error("sent {sent} locations, but the answer is: {answer}")]
    Unconfirmed {
        /// How many locations the upload has.
        sent: usize,
        /// The answer in words.
        answer: String,
    },
    /// The copy sent on purpose got another status or other bytes than the first.
    #[error("answered differently: first {first}, then {then}")]
    AnsweredDifferently {
        /// The first answer in words.
        first: String,
        /// The second answer in words.
        then: String,
    },
}

/// What became of one upload, or of one request of an app and its retries.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// The upload's place among those played, from 0. (Its key is nothing to print.)
    pub ordinal: usize,
    /// HTTP requests made for it.
    pub attempts: u64,
    /// Locations in all of these together.
    pub sent: u64,
    /// Answers marked `Idempotency-Replayed: true`.
    pub replays: u64,
    /// Locations confirmed: of an upload once, however often it is sent; of an app's request each time it has success.
    pub locations: u64,
    /// What went wrong, if anything did.
    pub failure: Option<Failure>,
}

/// The sum of all outcomes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// Uploads, or requests of an app, brought to an end, good or bad.
    pub uploads: u64,
    /// HTTP requests made for them.
    pub attempts: u64,
    /// Locations in all of these together.
    pub sent: u64,
    /// Answers marked `Idempotency-Replayed: true`.
    pub replays: u64,
    /// Sum of the locations confirmed.
    pub locations: u64,
    /// The failed uploads: place from 0, and why.
    pub failures: Vec<(usize, Failure)>,
    /// Uploads, or points of an app, not brought to an end because the play was stopped.
    pub unfinished: usize,
}

/// A number with its heading in the table and its name in JSON.
struct Number(&'static str, &'static str, u64);

impl Summary {
    /// Adds one upload's outcome.
    pub fn add(&mut self, outcome: Outcome) {
        self.uploads += 1;
        self.attempts += outcome.attempts;
        self.sent += outcome.sent;
        self.replays += outcome.replays;
        self.locations += outcome.locations;
        self.failures.extend(outcome.failure.map(|failure| (outcome.ordinal, failure)));
    }

    /// The table shown at the end, followed by a line for each failure. Of `found` the points that were not sent are
    /// shown.
    #[must_use]
    pub fn table(&self, found: &Survey) -> String {
        self.tabulated(&self.numbers(found), "upload", "uploads not finished")
    }

    /// The same as one JSON object, for scripts.
    #[must_use]
    pub fn json(&self, found: &Survey) -> Value {
        self.objectified(found, &self.numbers(found), "upload")
    }

    /// Like [`Summary::table`], with what an app knows: it is told of no replay, and counts points.
    #[must_use]
    pub fn app_table(&self, found: &Survey) -> String {
        self.tabulated(&self.app_numbers(found), "request", "points not sent")
    }

    /// The same as one JSON object, for scripts.
    #[must_use]
    pub fn app_json(&self, found: &Survey) -> Value {
        self.objectified(found, &self.app_numbers(found), "request")
    }

    fn numbers(&self, found: &Survey) -> Vec<Number> {
        let own = [
            Number("uploads", "uploads", self.uploads),
            Number("attempts", "attempts", self.attempts),
            Number("replays", "replays", self.replays),
            Number("locations", "locations", self.locations),
        ];
        own.into_iter().chain(self.not_answered(found)).collect()
    }

    fn app_numbers(&self, found: &Survey) -> Vec<Number> {
        let own = [
            Number("points", "points", found.points as u64),
            Number("sent", "sent", self.sent),
            Number("answered", "answered", self.locations),
            Number("requests", "requests", self.uploads),
            Number("attempts", "attempts", self.attempts),
        ];
        own.into_iter().chain(self.not_answered(found)).collect()
    }

    fn not_answered(&self, found: &Survey) -> [Number; 3] {
        [
            Number("failures", "failures", self.failures.len() as u64),
            Number("points left out", "pointsLeftOut", found.without_time as u64),
            Number("bad points", "pointsBad", found.bad as u64),
        ]
    }

    fn tabulated(&self, numbers: &[Number], one: &str, unfinished: &str) -> String {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED);
        table.set_header(numbers.iter().map(|Number(heading, ..)| *heading));
        table.add_row(numbers.iter().map(|Number(.., value)| value.to_string()));
        let mut lines = vec![table.to_string()];
        if self.unfinished > 0 {
            lines.push(format!("stopped: {} {unfinished}", self.unfinished));
        }
        lines.extend(self.listed().map(|(ordinal, failure)| format!("{one} {ordinal}: {failure}")));
        if self.failures.len() > LISTED_MAX {
            lines.push(format!("and {} more failures", self.failures.len() - LISTED_MAX));
        }
        lines.join("\n")
    }

    fn objectified(&self, found: &Survey, numbers: &[Number], one: &str) -> Value {
        let listed = self.listed().map(|(ordinal, why)| json!({one: ordinal, "reason": why.to_string()}));
        let rest = [
            ("unfinished", self.unfinished.into()),
            ("cutOff", found.cut_off.is_some().into()),
            ("failed", listed.collect()),
        ];
        let numbers = numbers.iter().map(|Number(_, name, value)| (*name, Value::from(*value)));
        numbers.chain(rest).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The first failures, numbered from 1 as people count.
    fn listed(&self) -> impl Iterator<Item = (usize, &Failure)> {
        self.failures.iter().take(LISTED_MAX).map(|(ordinal, failure)| (ordinal + 1, failure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        let mut summary = Summary { unfinished: 2, ..Summary::default() };
        summary.add(Outcome { ordinal: 0, attempts: 3, sent: 150, replays: 1, locations: 50, failure: None });
        let failure = Some(Failure::Refused("401 unauthorized".to_owned()));
        summary.add(Outcome { ordinal: 1, attempts: 4, sent: 40, replays: 0, locations: 0, failure });
        summary
    }

    fn found() -> Survey {
        Survey { without_time: 7, bad: 3, cut_off: Some(9), ..Survey::default() }
    }

    #[test]
    fn outcomes_add_up_and_the_json_says_so() {
        assert_eq!(
            summary().json(&found()),
            json!({
                "uploads": 2, "attempts": 7, "replays": 1, "locations": 50, "failures": 1, "unfinished": 2,
                "pointsLeftOut": 7, "pointsBad": 3, "cutOff": true,
                "failed": [{"upload": 2, "reason": "refused: 401 unauthorized"}],
            })
        );
    }

    #[test]
    fn the_table_shows_every_sum_and_every_failure() {
        let table = summary().table(&found());
        let row = table.lines().find(|line| line.contains("50")).expect("the row of numbers is there");
        let numbers: Vec<&str> =
            row.split(['│', '┆']).map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(numbers, ["2", "7", "1", "50", "1", "7", "3"]);
        assert!(
            table.ends_with("stopped: 2 uploads not finished\nupload 2: refused: 401 unauthorized"),
            "{table}"
        );
    }

    #[test]
    fn of_an_app_the_points_sent_and_answered_are_told_and_no_replays() {
        let found = Survey { points: 60, ..found() };
        assert_eq!(
            summary().app_json(&found),
            json!({
                "points": 60, "sent": 190, "answered": 50, "requests": 2, "attempts": 7, "failures": 1, "unfinished": 2,
                "pointsLeftOut": 7, "pointsBad": 3, "cutOff": true,
                "failed": [{"request": 2, "reason": "refused: 401 unauthorized"}],
            })
        );
        let table = summary().app_table(&found);
        let row = table.lines().find(|line| line.contains("190")).expect("the row of numbers is there");
        let numbers: Vec<&str> =
            row.split(['│', '┆']).map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(numbers, ["60", "190", "50", "2", "7", "1", "7", "3"]);
        assert!(
            table.ends_with("stopped: 2 points not sent\nrequest 2: refused: 401 unauthorized"),
            "{table}"
        );
    }

    #[test]
    fn a_long_list_of_failures_is_cut() {
        let mut summary = summary();
        for ordinal in 2..40 {
            let failure = Some(Failure::Refused("401".to_owned()));
            summary.add(Outcome { ordinal, attempts: 1, sent: 1, replays: 0, locations: 0, failure });
        }
        assert!(summary.table(&found()).ends_with("and 19 more failures"));
        assert_eq!(summary.json(&found())["failed"].as_array().map(Vec::len), Some(LISTED_MAX));
        assert_eq!(summary.json(&found())["failures"], 39);
    }
}
