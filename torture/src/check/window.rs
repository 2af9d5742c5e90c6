//! Window: nothing is new or forgotten inside it, and after it, with some grace, the key is free.

use std::time::Duration;

use super::Verdict;
use super::case::{Case, Reach, describe};
use crate::fault::{Fault, Target};
use crate::history::{Ask, Attempt};
use crate::operation::Kind;

pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for ((key, account), openings) in case.keys() {
        verdict.examined += 1;
        for pair in openings.windows(2) {
            if pair[1].time < pair[0].time.plus(case.evidence.ttl) {
                verdict.accuse(|| {
                    let (first, second) = (pair[0], pair[1]);
                    format!("{key} of account {account}: {second} is new in the window of {first}")
                });
            }
        }
    }
    for attempt in case.answered(&[200, 422]) {
        verdict.examined += 1;
        if is_late(case, attempt) {
            verdict.accuse(|| format!("answered from a window that was over: {}", describe(attempt)));
        }
    }
    for attempt in &case.history.attempts {
        if attempt.ask == Ask::Get && attempt.status() == Some(404) && is_forgotten(case, attempt) {
            verdict.accuse(|| format!("forgotten inside its window: {}", describe(attempt)));
        }
    }
    check_complaints(case, verdict);
}

/// A gateway whose clock is behind goes by the newest journal time that it saw, which stands still when nothing is
/// published.
fn is_late(case: &Case<'_>, attempt: &Attempt) -> bool {
    let own = case.own(attempt);
    let other = case.other(attempt);
    let is_late = match attempt.status() {
        Some(422) => other == Reach::Over,
        _ => own == Reach::Over,
    };
    is_late
        && !case.suffered(attempt.began, attempt.ended, Duration::ZERO, |fault| {
            fault == Fault::ClockBehind(Target::Gateway)
        })
}

/// Of two windows it is not known which one the client asked for. A database that was put back knows less for a while than
/// it did.
fn is_forgotten(case: &Case<'_>, attempt: &Attempt) -> bool {
    let [opening] = case.openings(attempt.upload.key(), attempt.account) else { return false };
    let over = opening.time.plus(case.evidence.ttl);
    let is_inside = opening.time < case.wall(attempt.began) && case.wall(attempt.ended) < over;
    is_inside
        && !case
            .suffered(attempt.began, attempt.ended, case.demands.caught_up, |fault| fault == Fault::PutBack)
}

/// A client cannot see a window that a copy of its own opened, answered 202; the tables show it.
fn check_complaints(case: &Case<'_>, verdict: &mut Verdict) {
    for complaint in &case.history.complaints {
        let upload = complaint.upload;
        let was_stored_again = [0, 1].iter().any(|account| {
            let openings = case.openings(upload.key(), *account).iter();
            openings.filter(|opening| opening.variant == upload.variant).count() > 1
        });
        if case.kind(upload.operation) == Some(Kind::Reuse) && !was_stored_again {
            verdict.accuse(|| format!("upload {upload}: {}", complaint.text));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::Run;
    use super::super::{Checker, Judgement};
    use super::*;
    use crate::fault::Episode;
    use crate::history::{Complaint, Outcome};
    use crate::operation::{UploadId, Variant};

    #[test]
    fn nothing_is_new_inside_a_window() {
        for (later, variant, judgement) in [
            (7_999, Variant::A, Judgement::Broken),
            (7_999, Variant::B, Judgement::Broken),
            (8_000, Variant::B, Judgement::Held),
        ] {
            let mut run = Run::innocent();
            let mut again = run.stored(run.first(Kind::Conflict)).clone();
            again.position.offset.0 += 1_000_000;
            again.received_at.0 += later;
            again.upload = again.upload.map(|upload| UploadId { variant, ..upload });
            run.evidence.stored.push(again);
            assert_eq!(run.judgement(Checker::Window), judgement, "{later}");
        }
    }

    #[test]
    fn an_answer_from_a_window_that_is_long_over_is_late() {
        for (seconds, judgement) in [(10, Judgement::Held), (12, Judgement::Broken)] {
            let mut run = Run::innocent();
            let mut late = run.answered(Kind::Plain, 200).clone();
            late.began += Duration::from_secs(seconds);
            late.ended += Duration::from_secs(seconds);
            let (began, healed) = (late.began.as_secs_f64(), late.ended.as_secs_f64());
            run.history.attempts.push(late);
            assert_eq!(run.judgement(Checker::Window), judgement, "{seconds}");
            let fault = Fault::ClockBehind(Target::Gateway);
            run.episodes.push(Episode { fault, began, healed, bite: Ok("late".to_owned()) });
            assert_eq!(run.judgement(Checker::Window), Judgement::Held, "{seconds}");
        }
    }

    /// Of a window of eight seconds, a grace of three, and four in which the memory of a gateway may outlast it.
    #[test]
    fn a_point_is_stored_again_after_its_window_and_not_taken_from_it_for_long() {
        let point = Run::innocent().first_point(Kind::Renewed);
        for (seconds, again, judgement) in [
            (7, true, Judgement::Broken),
            (8, true, Judgement::Held),
            (14, false, Judgement::Held),
            (16, false, Judgement::Broken),
            (16, true, Judgement::Held),
        ] {
            let mut run = Run::innocent();
            let stored = run.stored(point).clone();
            let attempts = run.history.attempts.iter();
            let mut late = attempts.clone().find(|attempt| attempt.upload == point).unwrap().clone();
            let first = late.began;
            late.began = first + Duration::from_secs(seconds);
            late.ended = late.began + Duration::from_millis(50);
            late.outcome = Outcome::Answer { status: 200, body: Arc::from(*b"[]"), replayed: false };
            run.history.attempts.push(late);
            if again {
                let mut stored = stored;
                stored.position.offset.0 += 1_000_000;
                stored.received_at.0 += i64::try_from(seconds * 1000).unwrap();
                run.evidence.stored.push(stored);
            }
            assert_eq!(run.judgement(Checker::Window), judgement, "{seconds} {again}");
        }
    }

    #[test]
    fn a_status_page_that_is_gone_inside_the_window_was_forgotten() {
        for (seconds, judgement) in [(5, Judgement::Broken), (9, Judgement::Held)] {
            let mut run = Run::innocent();
            let mut gone = run.answered(Kind::Status, 202).clone();
            gone.ask = Ask::Get;
            gone.began += Duration::from_secs(seconds);
            gone.ended += Duration::from_secs(seconds);
            gone.outcome = Outcome::Answer { status: 404, body: Arc::from([]), replayed: false };
            run.history.attempts.push(gone);
            assert_eq!(run.judgement(Checker::Window), judgement, "{seconds}");
        }
    }

    #[test]
    fn a_complaint_counts_unless_the_upload_was_stored_again() {
        let mut run = Run::innocent();
        let upload = run.first(Kind::Reuse);
        run.history.complaints.push(Complaint { upload, text: "not free".to_owned() });
        assert_eq!(run.judgement(Checker::Window), Judgement::Held);
        let last = run.evidence.stored.iter().rposition(|stored| stored.upload == Some(upload)).unwrap();
        run.evidence.stored.remove(last);
        assert_eq!(run.judgement(Checker::Window), Judgement::Broken);
    }
}
