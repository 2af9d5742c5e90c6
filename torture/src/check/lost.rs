//! Lost: what was answered 200 or 202 is in the journal and stored, each point of an app's request too; of bad points, set aside.

use std::collections::HashSet;

use super::Verdict;
use super::case::{Case, Reach, describe};

pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let journal = case.evidence.journal.iter();
    let published: HashSet<_> = journal.filter_map(|entry| Some((entry.upload?, entry.account?))).collect();
    for attempt in case.answered(&[200, 202]) {
        verdict.examined += 1;
        let own = case.own(attempt);
        let other = case.other(attempt);
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
    fn each_point_of_a_request_that_was_taken_is_owed() {
        for kind in [Kind::Superset, Kind::Shared, Kind::WholeFile, Kind::Renewed, Kind::Twins] {
            let mut run = Run::innocent();
            let upload = *run.points(kind).last().unwrap();
            run.evidence.stored.retain(|stored| stored.upload != Some(upload));
            assert_eq!(run.judgement(Checker::Lost), Judgement::Broken, "{kind:?}");
        }
    }

    #[test]
    fn a_bad_point_that_was_taken_and_is_no_dead_letter_is_lost() {
        let mut run = Run::innocent();
        let bad = run.bad_point(Kind::Superset);
        run.evidence.dead_letters.retain(|letter| letter.upload != Some(bad));
        assert_eq!(run.judgement(Checker::Lost), Judgement::Broken);
    }

    #[test]
    fn the_same_time_and_place_of_another_phone_does_not_stand_for_a_point() {
        let twins = Run::innocent().points(Kind::Twins);
        for (lost, other) in [(0, 1), (1, 0), (2, 0), (0, 2)] {
            let mut run = Run::innocent();
            run.evidence.stored.retain(|stored| stored.upload != Some(twins[lost]));
            assert!(run.evidence.stored.iter().any(|stored| stored.upload == Some(twins[other])));
            assert_eq!(run.judgement(Checker::Lost), Judgement::Broken, "{lost} {other}");
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
