//! One answer: whoever asks, of whatever gateway, gets the same bytes, with the right count; one of all answers of a window
//! is no replay.

use std::collections::HashMap;

use milepost_shared::journal::position::Position;
use serde::Deserialize;

use super::Verdict;
use super::case::{Case, at, describe};
use crate::history::{Ask, Attempt, Outcome};
use crate::operation::{self, UploadId};

/// The page at the `Location` of a 202, once the answer is final.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Final {
    http_status: u16,
    processed_count: Option<usize>,
    accepted_at: i64,
    expires_at: i64,
}

pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let mut first_answers: HashMap<(UploadId, usize), usize> = HashMap::new();
    for attempt in &case.history.attempts {
        let Outcome::Answer { status: 200, body, replayed } = &attempt.outcome else { continue };
        match attempt.ask {
            Ask::Post => {
                verdict.examined += 1;
                let expected = promised(operation::count(case.evidence.seed, attempt.upload));
                if **body != *expected.as_bytes() {
                    let body = String::from_utf8_lossy(body);
                    verdict.accuse(|| format!("{body} instead of {expected}: {}", describe(attempt)));
                }
                if !replayed {
                    *first_answers.entry((attempt.upload, attempt.account)).or_default() += 1;
                }
            }
            Ask::Point(app) => {
                verdict.examined += 1;
                let expected = app.success();
                if **body != *expected.as_bytes() {
                    let body = String::from_utf8_lossy(body);
                    verdict.accuse(|| {
                        format!("{body} instead of {expected:?}, success to its app: {}", describe(attempt))
                    });
                }
            }
            Ask::Get => check_status_page(case, verdict, attempt, body),
            Ask::PostMalformed | Ask::GetByStranger => {}
        }
    }
    for ((upload, account), answers) in first_answers {
        let openings = case.openings(upload.key(), account).iter();
        let windows = openings.filter(|opening| opening.variant == upload.variant).count();
        if answers > windows {
            verdict.accuse(|| {
                format!(
                    "upload {upload} of account {account} has {windows} windows and {answers} answers that are no replay"
                )
            });
        }
    }
    check_keys(case, verdict);
}

/// What the gateway promises for an upload of so many locations (docs/http-api.md).
pub(super) fn promised(count: usize) -> String {
    format!(r#"{{"success":true,"processedCount":{count}}}"#)
}

/// Only one upload is sent under the key of an operation that asks for its status, so it can only be stored.
fn check_status_page(case: &Case<'_>, verdict: &mut Verdict, attempt: &Attempt, body: &[u8]) {
    let page: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    if page["status"] == "pending" {
        return;
    }
    verdict.examined += 1;
    let count = operation::count(case.evidence.seed, attempt.upload);
    let windows = case.openings(attempt.upload.key(), attempt.account);
    let is_right = Final::deserialize(&page).is_ok_and(|page| {
        (page.http_status, page.processed_count) == (200, Some(count))
            && windows.iter().any(|opening| {
                let end = opening.time.plus(case.evidence.ttl);
                (page.accepted_at, page.expires_at) == (opening.time.0, end.0)
            })
    });
    if !is_right {
        verdict.accuse(|| format!("{page} is not the answer to {count} locations: {}", describe(attempt)));
    }
}

fn check_keys(case: &Case<'_>, verdict: &mut Verdict) {
    let stored = case.evidence.stored.iter();
    let stored = stored
        .filter_map(|stored| Some((stored.position, operation::count(case.evidence.seed, stored.upload?))));
    let set_aside = case.evidence.journal.iter().filter(|entry| entry.is_set_aside);
    let counts: HashMap<Position, usize> = stored.chain(set_aside.map(|entry| (entry.position, 0))).collect();
    for key in &case.evidence.keys {
        verdict.examined += 1;
        let expected = counts.get(&key.source).map(|count| promised(*count));
        let is_right =
            expected.is_some_and(|expected| (key.status, &key.body[..]) == (200, expected.as_bytes()));
        if !is_right {
            let (source, body) = (at(key.source), String::from_utf8_lossy(&key.body));
            verdict.accuse(|| format!("the key that {source} claimed says {} {body}", key.status));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::Run;
    use super::super::{Checker, Judgement};
    use super::*;
    use crate::operation::Kind;

    fn broken_by(change: impl FnOnce(&mut Run)) {
        let mut run = Run::innocent();
        change(&mut run);
        assert_eq!(run.judgement(Checker::OneAnswer), Judgement::Broken);
    }

    #[test]
    fn other_bytes_are_another_answer() {
        broken_by(|run| {
            let attempt = run.answered(Kind::Plain, 200);
            let Outcome::Answer { body, .. } = &mut attempt.outcome else { unreachable!() };
            *body = Arc::from([body, &b" "[..]].concat());
        });
    }

    #[test]
    fn other_bytes_are_no_success_to_an_app() {
        for kind in [Kind::Superset, Kind::WholeFile, Kind::Renewed, Kind::Twins] {
            broken_by(|run| {
                let Outcome::Answer { body, .. } = &mut run.answered(kind, 200).outcome else {
                    unreachable!()
                };
                *body = Arc::from(*b"{}");
            });
        }
    }

    #[test]
    fn two_answers_of_a_window_that_are_no_replays_are_one_too_many() {
        broken_by(|run| {
            let attempt = run.answered(Kind::Plain, 200).clone();
            run.history.attempts.push(attempt);
        });
    }

    #[test]
    fn a_key_must_hold_the_answer_of_the_upload_that_claimed_it() {
        broken_by(|run| run.evidence.keys[2].body.push(b' '));
        broken_by(|run| run.evidence.keys[2].status = 202);
        broken_by(|run| run.evidence.keys[2].source.offset.0 += 1_000_000);
    }

    #[test]
    fn a_status_page_must_say_the_same() {
        for (from, to) in [("final\",\"httpStatus\":200", "final\",\"httpStatus\":422"), ("At\":1", "At\":2")]
        {
            broken_by(|run| {
                let pages = run.history.attempts.iter_mut().filter(|attempt| attempt.ask == Ask::Get);
                let Some(Outcome::Answer { body, .. }) = pages.map(|page| &mut page.outcome).next_back()
                else {
                    unreachable!()
                };
                let text = String::from_utf8_lossy(body).into_owned();
                assert!(text.contains(from));
                *body = Arc::from(text.replacen(from, to, 1).as_bytes());
            });
        }
    }
}
