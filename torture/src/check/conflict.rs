//! Conflict: while a window belongs to one upload, another one under the same key is answered 422, and is not stored.

use super::Verdict;
use super::case::{Case, Reach, describe};
use crate::operation::Kind;

pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for ((key, account), openings) in case.keys() {
        verdict.examined += 1;
        for pair in openings.windows(2) {
            let is_inside = pair[1].time < pair[0].time.plus(case.evidence.ttl);
            if is_inside && pair[0].variant != pair[1].variant {
                verdict.accuse(|| {
                    let (first, second) = (pair[0], pair[1]);
                    format!("{key} of account {account}: {second} is stored in the window of {first}")
                });
            }
        }
    }
    for attempt in case.answered(&[200, 422]) {
        // Its two uploads are of two accounts: for the checker of strangers.
        if case.kind(attempt.upload.operation) == Some(Kind::Strangers) {
            continue;
        }
        verdict.examined += 1;
        let own = case.own(attempt);
        let other = case.other(attempt);
        if attempt.status() == Some(200) {
            if own == Reach::Never && other == Reach::Open {
                verdict.accuse(|| format!("answered in a window of the other upload: {}", describe(attempt)));
            }
        } else if other == Reach::Never {
            verdict.accuse(|| format!("the other upload has no window: {}", describe(attempt)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Run;
    use super::super::{Checker, Judgement};
    use crate::history::Outcome;
    use crate::operation::{Kind, UploadId, Variant};

    #[test]
    fn the_second_upload_under_a_key_must_be_refused() {
        let mut run = Run::innocent();
        let Outcome::Answer { status, .. } = &mut run.answered(Kind::Conflict, 422).outcome else {
            unreachable!()
        };
        *status = 200;
        assert_eq!(run.judgement(Checker::Conflict), Judgement::Broken);
        assert_eq!(run.judgement(Checker::Lost), Judgement::Held);
    }

    #[test]
    fn the_second_upload_under_a_key_must_not_be_stored() {
        let mut run = Run::innocent();
        let mut second = run.stored(run.first(Kind::Conflict)).clone();
        second.position.offset.0 += 1_000_000;
        second.received_at.0 += 100;
        second.upload = second.upload.map(|upload| UploadId { variant: Variant::B, ..upload });
        run.evidence.stored.push(second);
        assert_eq!(run.judgement(Checker::Conflict), Judgement::Broken);
    }

    #[test]
    fn a_422_needs_an_upload_to_be_in_conflict_with() {
        let mut run = Run::innocent();
        let Outcome::Answer { status, .. } = &mut run.answered(Kind::Plain, 200).outcome else {
            unreachable!()
        };
        *status = 422;
        assert_eq!(run.judgement(Checker::Conflict), Judgement::Broken);
    }
}
