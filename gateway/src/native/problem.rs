//! Why an upload, or a question about one, has no other answer.

use http::StatusCode;
use milepost_shared::location::Invalid;
use serde_json::{Map, json};

use crate::answer::outcome::Unavailable;
use crate::http::problem::{OVERLOAD, Problem};

/// The key stands for another upload.
pub const KEY_REUSED: Problem = Problem::new(
    StatusCode::UNPROCESSABLE_ENTITY,
    "key-reused",
    "This Idempotency-Key has been used for another upload.",
);
/// No upload is known there, or it is another account's.
pub const UNKNOWN_UPLOAD: Problem = Problem::new(
    StatusCode::NOT_FOUND,
    "unknown-upload",
    "No such upload is known, or it has been forgotten.",
);
/// The state of an upload cannot be looked up.
pub const STATUS_UNAVAILABLE: Problem = Problem::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "status-unavailable",
    "The upload cannot be looked up at the moment. Try again.",
);
/// The upload may not be in the journal.
pub const JOURNAL_UNAVAILABLE: Problem = Problem::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "journal-unavailable",
    "The upload could not be stored. Try again with the same Idempotency-Key.",
);
/// The gateway takes no more uploads.
pub const DRAINING: Problem = Problem::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "draining",
    "This gateway is stopping. Try again with the same Idempotency-Key.",
);

/// The `Idempotency-Key` cannot be read; what is wrong with it.
#[must_use]
pub fn invalid_key(why: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid-idempotency-key", "").with_detail(why)
}

/// Why an upload could not be published.
#[must_use]
pub fn unavailable(why: Unavailable) -> Problem {
    match why {
        Unavailable::Journal => JOURNAL_UNAVAILABLE,
        Unavailable::Overload => OVERLOAD,
        Unavailable::Draining => DRAINING,
    }
}

/// The body is not an upload.
#[must_use]
pub fn invalid_upload(invalid: &Invalid) -> Problem {
    match invalid {
        Invalid::Syntax { line, column } => Problem::new(StatusCode::BAD_REQUEST, "malformed-json", "")
            .with_detail(format!("The body is not valid JSON at line {line}, column {column}.")),
        Invalid::TooMany { max } => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-many-locations", "")
            .with_detail(format!("An upload may have at most {max} locations.")),
        Invalid::Faults { faults, total } => {
            let noun = if *total == 1 { "fault" } else { "faults" };
            let members = [("faults", json!(faults)), ("faultsTotal", json!(total))];
            let members = Map::from_iter(members.map(|(name, value)| (name.to_owned(), value)));
            let problem = Problem::new(StatusCode::BAD_REQUEST, "invalid-upload", "")
                .with_detail(format!("The upload has {total} {noun}."));
            Problem { members: Some(Box::new(members)), ..problem }
        }
    }
}

#[cfg(test)]
mod tests {
    use milepost_shared::location::Fault;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn faults_are_listed_and_counted() {
        let fault =
            Fault { field: "locations[3].latitude".to_owned(), message: "must be a number".to_owned() };
        let problem = invalid_upload(&Invalid::Faults { faults: vec![fault], total: 120 });
        let page: serde_json::Value = serde_json::from_slice(&problem.page(Uuid::nil())).unwrap();
        assert_eq!(page["status"], 400);
        assert_eq!(page["detail"], "The upload has 120 faults.");
        assert_eq!(page["faults"][0]["field"], "locations[3].latitude");
        assert_eq!(page["faultsTotal"], 120);
    }
}
