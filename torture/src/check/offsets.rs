//! Offsets behind data: no group offset passes what is not persisted, and in the end both have passed all of the journal.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Verdict;
use super::case::Case;
use crate::fault::Fault;

pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let evidence = case.evidence;
    verdict.examined += evidence.observed.reads.get("offsets").copied().unwrap_or(0);
    for ahead in &evidence.observed.ahead {
        // The database forgot what it had persisted. That the consumer notices is seen by what is stored in the end.
        if !case.suffered(ahead.after, ahead.from, Duration::ZERO, |fault| fault == Fault::PutBack) {
            verdict.accuse(|| format!("during the run: {ahead:?}"));
        }
    }
    let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
    for entry in &evidence.journal {
        let end = ends.entry(entry.position.partition.0).or_default();
        *end = (entry.position.offset.next().0).max(*end);
    }
    for (partition, end) in ends {
        verdict.examined += 1;
        let next_offset = evidence.progress.get(&partition).copied().unwrap_or(0);
        let committed = evidence.committed.get(&partition).copied().unwrap_or(0);
        if committed > next_offset || next_offset != end || committed != end {
            verdict.accuse(|| {
                format!(
                    "partition {partition} ends at {end}, is persisted to {next_offset} and committed to {committed}"
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Run;
    use super::super::{Checker, Judgement};
    use super::*;
    use crate::evidence::Ahead;
    use crate::fault::Episode;

    #[test]
    fn an_offset_that_passes_what_is_persisted_is_seen_unless_the_database_was_put_back() {
        let mut run = Run::innocent();
        let [after, from, to] = [28, 30, 31].map(Duration::from_secs);
        run.evidence.observed.ahead.push(Ahead {
            partition: 0,
            after,
            from,
            to,
            committed: 9,
            next_offset: 8,
        });
        assert_eq!(run.judgement(Checker::Offsets), Judgement::Broken);
        let bite = Ok("40 rows lost".to_owned());
        run.episodes.push(Episode { fault: Fault::PutBack, began: 25.0, healed: 28.5, bite });
        assert_eq!(run.judgement(Checker::Offsets), Judgement::Held);
        run.evidence.observed.ahead[0].after = Duration::from_secs(29);
        assert_eq!(run.judgement(Checker::Offsets), Judgement::Broken);
    }

    #[test]
    fn both_offsets_must_come_to_the_journals_end() {
        for (committed, next_offset) in [(-1, 0), (0, -1), (1, 0)] {
            let mut run = Run::innocent();
            *run.evidence.committed.get_mut(&1).unwrap() += committed;
            *run.evidence.progress.get_mut(&1).unwrap() += next_offset;
            assert_eq!(run.judgement(Checker::Offsets), Judgement::Broken, "{committed} {next_offset}");
        }
    }
}
