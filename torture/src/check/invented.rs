//! Invented: what is stored or in the journal was sent.

use super::Verdict;
use super::case::{Case, at};
use crate::fault::Fault;

pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for stored in &case.evidence.stored {
        verdict.examined += 1;
        match stored.upload {
            None => verdict.accuse(|| format!("{} is stored and no operation's", at(stored.position))),
            Some(upload) if ![0, 1].iter().any(|account| case.was_sent(upload, *account)) => {
                verdict.accuse(|| format!("{} is stored, upload {upload}, never sent", at(stored.position)));
            }
            Some(_) => {}
        }
    }
    let may_be_poison = case.episodes.iter().any(|episode| episode.fault == Fault::Poison);
    for entry in &case.evidence.journal {
        verdict.examined += 1;
        match (entry.upload, entry.account) {
            (Some(upload), Some(account)) if !case.was_sent(upload, account) => verdict.accuse(|| {
                let position = at(entry.position);
                format!("{position} in the journal is upload {upload}, never sent by account {account}")
            }),
            (Some(_), Some(_)) => {}
            _ if entry.is_set_aside => verdict.accuse(|| {
                format!("{} in the journal is a point set aside that no operation sent", at(entry.position))
            }),
            _ if may_be_poison => {}
            _ => verdict.accuse(|| format!("{} in the journal is poison", at(entry.position))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Run;
    use super::super::{Checker, Judgement};
    use crate::operation::{Kind, UploadId, Variant};

    #[test]
    fn what_no_operation_sent_is_invented() {
        let never_begun = UploadId { operation: 1_000_000, variant: Variant::A };
        let malformed = Run::innocent().first(Kind::Malformed);
        let never_sent = UploadId { variant: Variant::B, ..Run::innocent().first(Kind::Plain) };
        for upload in [None, Some(never_begun), Some(malformed), Some(never_sent)] {
            let mut run = Run::innocent();
            run.evidence.stored[3].upload = upload;
            assert_eq!(run.judgement(Checker::Invented), Judgement::Broken, "{upload:?}");

            let mut run = Run::innocent();
            run.evidence.journal[3].upload = upload;
            let poison_is_planted = upload.is_none();
            let expected = if poison_is_planted { Judgement::Held } else { Judgement::Broken };
            assert_eq!(run.judgement(Checker::Invented), expected, "{upload:?}");
            run.episodes.clear();
            assert_eq!(run.judgement(Checker::Invented), Judgement::Broken, "{upload:?}");
        }
    }

    #[test]
    fn a_point_that_was_in_no_request_is_invented_and_so_is_one_set_aside() {
        let mut run = Run::innocent();
        let last = *run.points(Kind::Superset).last().unwrap();
        run.history.attempts.retain(|attempt| attempt.upload != last);
        assert_eq!(run.judgement(Checker::Invented), Judgement::Broken);

        let mut run = Run::innocent();
        let bad = run.bad_point(Kind::Superset);
        let mut journal = run.evidence.journal.iter_mut();
        journal.find(|entry| entry.upload == Some(bad)).unwrap().upload = None;
        assert_eq!(run.judgement(Checker::Invented), Judgement::Broken);
    }

    #[test]
    fn a_client_that_was_given_up_may_have_sent() {
        let mut run = Run::innocent();
        let upload = run.first(Kind::Plain);
        run.history.attempts.retain(|attempt| attempt.upload != upload);
        assert_eq!(run.judgement(Checker::Invented), Judgement::Broken);
        run.history.unended.push(upload.operation);
        assert_eq!(run.judgement(Checker::Invented), Judgement::Held);
    }
}
