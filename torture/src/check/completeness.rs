//! Completeness: every operation and every attempt came to an end, and to one of those that are promised.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::Verdict;
use super::case::{Case, describe};
use crate::history::{Ask, Attempt, Outcome};
use crate::operation::{Kind, UploadId};

/// How long around a hang-up nothing may have been wrong, if the upload has to be in the journal.
const AROUND: Duration = Duration::from_secs(10);

pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for operation in &case.history.unended {
        verdict.accuse(|| format!("operation {operation} did not come to its end"));
    }
    let mut begun: HashSet<u64> = case.history.unended.iter().copied().collect();
    for attempt in &case.history.attempts {
        verdict.examined += 1;
        begun.insert(attempt.upload.operation);
        if attempt.ended.saturating_sub(attempt.began) > case.demands.attempt {
            verdict.accuse(|| format!("it took too long: {}", describe(attempt)));
        }
        if attempt.status().is_some_and(|status| !may_answer(attempt.ask, status)) {
            verdict.accuse(|| format!("no such answer is promised: {}", describe(attempt)));
        }
    }
    for (operation, kind) in case.operations().filter(|(operation, _)| !begun.contains(operation)) {
        verdict
            .accuse(|| format!("operation {operation}, {kind:?}, was begun, and there is no attempt of it"));
    }
    for complaint in &case.history.complaints {
        if case.kind(complaint.upload.operation) != Some(Kind::Reuse) {
            verdict.accuse(|| format!("upload {}: {}", complaint.upload, complaint.text));
        }
    }
    check_hang_ups(case, verdict);
}

/// The answers of docs/http-api.md and docs/phones.md to what the clients send.
fn may_answer(ask: Ask, status: u16) -> bool {
    let again = matches!(status, 408 | 429 | 500..600);
    again
        || match ask {
            Ask::Post => matches!(status, 200 | 202 | 422),
            Ask::Point(_) => status == 200,
            Ask::PostMalformed => status == 400,
            Ask::Get | Ask::GetByStranger => matches!(status, 200 | 404),
        }
}

/// A client that hangs up cancels nothing: what it sent whole gets into the journal, if nothing is wrong.
fn check_hang_ups(case: &Case<'_>, verdict: &mut Verdict) {
    let mut alone: HashMap<UploadId, Option<&Attempt>> = HashMap::new();
    for attempt in &case.history.attempts {
        let first = attempt.outcome == Outcome::HungUp { whole: true };
        let first = first.then_some(attempt);
        alone.entry(attempt.upload).and_modify(|attempt| *attempt = None).or_insert(first);
    }
    let published: HashSet<UploadId> =
        case.evidence.journal.iter().filter_map(|entry| entry.upload).collect();
    for attempt in alone.into_values().flatten() {
        verdict.examined += 1;
        let is_quiet = !case.suffered(attempt.began, attempt.ended + AROUND, AROUND, |_| true);
        if is_quiet && !published.contains(&attempt.upload) {
            verdict.accuse(|| format!("sent whole and not in the journal: {}", describe(attempt)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Run;
    use super::super::{Checker, Judgement};
    use super::*;
    use crate::app::App;

    fn broken_by(change: impl FnOnce(&mut Run)) {
        let mut run = Run::innocent();
        change(&mut run);
        assert_eq!(run.judgement(Checker::Completeness), Judgement::Broken);
    }

    #[test]
    fn what_has_no_end_or_no_beginning_is_seen() {
        broken_by(|run| run.history.unended.push(3));
        broken_by(|run| run.history.attempts.retain(|attempt| attempt.upload.operation != 3));
        broken_by(|run| run.history.attempts[3].ended += Duration::from_secs(60));
    }

    #[test]
    fn an_answer_that_is_not_promised_is_seen() {
        for (ask, status) in [
            (Ask::Post, 400),
            (Ask::Post, 401),
            (Ask::PostMalformed, 200),
            (Ask::Get, 422),
            (Ask::Post, 304),
            (Ask::Point(App::Overland), 400),
            (Ask::Point(App::Traccar), 202),
        ] {
            broken_by(|run| {
                let mut attempt = run.history.attempts[3].clone();
                attempt.ask = ask;
                attempt.outcome = Outcome::Answer { status, body: std::sync::Arc::from([]), replayed: false };
                run.history.attempts.push(attempt);
            });
        }
    }

    #[test]
    fn what_was_sent_whole_must_be_in_the_journal_unless_something_was_wrong() {
        let mut run = Run::innocent();
        let is_alone = |run: &Run, upload| {
            run.history.attempts.iter().filter(|attempt| attempt.upload == upload).count() == 1
        };
        // The last one: the first ones are near a fault.
        let attempts = run.history.attempts.iter().rev();
        let mut hang_ups = attempts.filter(|attempt| attempt.outcome == Outcome::HungUp { whole: true });
        let upload = hang_ups.find(|attempt| is_alone(&run, attempt.upload)).unwrap().upload;
        run.evidence.journal.retain(|entry| entry.upload != Some(upload));
        assert_eq!(run.judgement(Checker::Completeness), Judgement::Broken);
        run.episodes[0].began = 0.0;
        run.episodes[0].healed = 10_000.0;
        assert_eq!(run.judgement(Checker::Completeness), Judgement::Held);
    }
}
