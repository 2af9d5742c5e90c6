//! Lost: what was answered 200 or 202 is in the journal and stored.

use std::collections::HashSet;

use super::Verdict;
use super::case::{Case, Reach, describe};

pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let journal = case.evidence.journal.iter();
    let published: HashSet<_> = journal.filter_map(|entry| Some((entry.upload?, entry.account?))).collect();
    for attempt in case.answered(&[200, 202]) {
        verdict.examined += 1;
        let own = case.reach(attempt, attempt.upload.variant);
        let other = case.reach(attempt, attempt.upload.variant.other());
        // Answered 200 in a window of the other upload, it is a conflict that was not seen, and nothing was lost. A record
        // behind a 202 may have come to a window of either.
        let kept = match attempt.status() {
            Some(200) => own > Reach::Never || other == Reach::Open,
            _ => own.max(other) > Reach::Never,
        };
        if !kept {
            verdict.accuse(|| format!("acknowledged and not stored: {}", describe(attempt)));
        } else if attempt.status() == Some(202) && !published.contains(&(attempt.upload, attempt.account)) {
            verdict.accuse(|| format!("acknowledged and not in the journal: {}", describe(attempt)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Run;
    use super::super::{Checker, Judgement};
    use crate::operation::Kind;

    #[test]
    fn an_acknowledged_upload_that_is_not_stored_is_lost() {
        for kind in [Kind::Plain, Kind::Keyless, Kind::Status, Kind::Conflict] {
            let mut run = Run::innocent();
            let upload = run.first(kind);
            run.evidence.stored.retain(|stored| stored.upload != Some(upload));
            assert_eq!(run.judgement(Checker::Lost), Judgement::Broken, "{kind:?}");
        }
    }

    #[test]
    fn a_202_without_a_record_in_the_journal_is_lost() {
        let mut run = Run::innocent();
        let upload = run.first(Kind::Status);
        run.evidence.journal.retain(|entry| entry.upload != Some(upload));
        assert_eq!(run.judgement(Checker::Lost), Judgement::Broken);
    }

    #[test]
    fn what_was_stored_only_after_the_answer_was_lost_when_it_was_given() {
        let mut run = Run::innocent();
        let upload = run.first(Kind::Plain);
        for stored in run.evidence.stored.iter_mut().filter(|stored| stored.upload == Some(upload)) {
            stored.received_at.0 += 60_000;
        }
        assert_eq!(run.judgement(Checker::Lost), Judgement::Broken);
    }
}
