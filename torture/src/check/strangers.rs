//! Strangers: nothing that one account sends changes what the other one sees.

use std::collections::HashMap;

use super::Verdict;
use super::case::{Case, at, describe};
use crate::history::Ask;
use crate::operation::Kind;

pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for attempt in &case.history.attempts {
        let Some(status) = attempt.status() else { continue };
        match attempt.ask {
            Ask::GetByStranger => {
                verdict.examined += 1;
                if !matches!(status, 404 | 408 | 429 | 500..) {
                    verdict
                        .accuse(|| format!("an upload of another account is shown: {}", describe(attempt)));
                }
            }
            Ask::Post if case.kind(attempt.upload.operation) == Some(Kind::Strangers) => {
                verdict.examined += 1;
                if status == 422 {
                    verdict.accuse(|| format!("another account's key is in the way: {}", describe(attempt)));
                }
            }
            Ask::Post | Ask::PostMalformed | Ask::Get | Ask::Point(_) => {}
        }
    }
    for stored in &case.evidence.stored {
        let Some(upload) = stored.upload else { continue };
        verdict.examined += 1;
        let was_sent = |account| case.was_sent(upload, account);
        let is_its_own = stored.account.is_some_and(was_sent);
        if !is_its_own && [0, 1].into_iter().any(was_sent) {
            verdict.accuse(|| {
                let (position, account) = (at(stored.position), stored.account);
                format!(
                    "{position}, upload {upload}, is stored under account {account:?}, which did not send it"
                )
            });
        }
    }
    let mut owners: HashMap<&str, usize> = HashMap::new();
    for entry in &case.evidence.journal {
        let (Some(account), Some(_)) = (entry.account, entry.upload) else { continue };
        verdict.examined += 1;
        if *owners.entry(&entry.key_hash).or_insert(account) != account {
            verdict.accuse(|| format!("{} in the journal has a key of another account", at(entry.position)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Run;
    use super::super::{Checker, Judgement};
    use super::*;
    use crate::history::Outcome;

    fn broken_by(change: impl FnOnce(&mut Run)) {
        let mut run = Run::innocent();
        change(&mut run);
        assert_eq!(run.judgement(Checker::Strangers), Judgement::Broken);
    }

    fn answer_with(attempt: &mut crate::history::Attempt, with: u16) {
        let Outcome::Answer { status, .. } = &mut attempt.outcome else { unreachable!() };
        *status = with;
    }

    #[test]
    fn a_422_for_a_key_that_another_account_used_is_seen() {
        broken_by(|run| answer_with(run.answered(Kind::Strangers, 200), 422));
    }

    #[test]
    fn a_status_page_shown_to_a_stranger_is_seen() {
        broken_by(|run| {
            let mut attempts = run.history.attempts.iter_mut();
            answer_with(attempts.find(|attempt| attempt.ask == Ask::GetByStranger).unwrap(), 200);
        });
    }

    #[test]
    fn an_upload_under_the_wrong_account_is_seen() {
        broken_by(|run| {
            let upload = run.first(Kind::Plain);
            let mut stored = run.evidence.stored.iter_mut();
            let stored = stored.find(|stored| stored.upload == Some(upload)).unwrap();
            stored.account = stored.account.map(|account| 1 - account);
        });
    }

    #[test]
    fn a_point_under_the_account_of_a_namesake_is_seen() {
        broken_by(|run| {
            let [first, ..] = run.points(Kind::Twins)[..] else { unreachable!() };
            let mut stored = run.evidence.stored.iter_mut();
            let stored = stored.find(|stored| stored.upload == Some(first)).unwrap();
            stored.account = stored.account.map(|account| 1 - account);
        });
    }

    #[test]
    fn one_key_of_two_accounts_is_seen() {
        broken_by(|run| {
            let journal = &mut run.evidence.journal;
            let other = journal.iter().position(|entry| entry.account != journal[0].account).unwrap();
            journal[other].key_hash = journal[0].key_hash.clone();
        });
    }
}
