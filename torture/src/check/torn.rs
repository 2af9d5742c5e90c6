//! Torn: all locations of an upload are there, bit for bit, or none; at the end, and whenever a reader looked.

use super::Verdict;
use super::case::{Case, at};

pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for stored in &case.evidence.stored {
        verdict.examined += 1;
        if let Some(fault) = &stored.fault {
            verdict.accuse(|| format!("{} is not stored as it was sent: {fault}", at(stored.position)));
        }
    }
    for seen in &case.evidence.observed.torn {
        verdict.accuse(|| format!("seen during the run: {seen}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Run;
    use super::super::{Checker, Judgement};

    #[test]
    fn an_upload_with_a_fault_and_one_seen_in_part_are_torn() {
        let mut run = Run::innocent();
        run.evidence.stored[5].fault = Some("location 3 is not there".to_owned());
        assert_eq!(run.judgement(Checker::Torn), Judgement::Broken);
        let mut run = Run::innocent();
        run.evidence.observed.torn.push("2 of 3 locations of 0/5".to_owned());
        assert_eq!(run.judgement(Checker::Torn), Judgement::Broken);
    }
}
