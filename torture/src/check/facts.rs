//! Facts: by the one-integer rule a subscriber sees the stored uploads exactly once and in journal order, whether it was
//! there all the time or begins at the end.

use std::collections::HashMap;

use milepost_shared::journal::position::Position;

use super::Verdict;
use super::case::{Case, at};
use crate::evidence::SeenFact;

pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let reads = [("live", &case.evidence.observed.facts), ("from the start", &case.evidence.facts)];
    for (read, facts) in reads {
        verdict.examined += u64::try_from(facts.len()).unwrap_or(u64::MAX);
        for fact in facts {
            if let Some(fault) = &fact.fault {
                verdict.accuse(|| format!("read {read}: {} is not as promised: {fault}", at(position(fact))));
            }
        }
        let mut kept = kept(facts);
        for stored in &case.evidence.stored {
            let wanted = (stored.account, stored.upload, stored.received_at);
            match kept.remove(&stored.position) {
                None => {
                    verdict.accuse(|| format!("read {read}: {} is stored and no fact", at(stored.position)))
                }
                Some(fact) => {
                    let seen = (fact.account, fact.upload, fact.received_at);
                    if seen != wanted {
                        let position = at(stored.position);
                        verdict.accuse(|| {
                            format!("read {read}: {position} is emitted as {seen:?}, stored as {wanted:?}")
                        });
                    }
                }
            }
        }
        for fact in kept.into_values() {
            verdict.accuse(|| format!("read {read}: {} is a fact and not stored", at(position(fact))));
        }
    }
}

fn position(fact: &SeenFact) -> Position {
    Position::new(fact.partition, fact.source_offset)
}

/// What is left by the rule of docs/topics.md: keep the greatest `source-offset` seen of each partition, and skip every fact
/// that is not greater.
fn kept(facts: &[SeenFact]) -> HashMap<Position, &SeenFact> {
    let mut greatest: HashMap<i32, i64> = HashMap::new();
    let mut kept = HashMap::new();
    for fact in facts {
        let seen = greatest.get(&fact.partition).copied();
        if seen.is_none_or(|seen| fact.source_offset > seen) {
            greatest.insert(fact.partition, fact.source_offset);
            kept.insert(position(fact), fact);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::super::testing::Run;
    use super::super::{Checker, Judgement};
    use crate::evidence::SeenFact;

    /// Applies it to both readings.
    fn both(change: impl Fn(&mut Vec<SeenFact>), judgement: Judgement) {
        for live in [true, false] {
            let mut run = Run::innocent();
            change(if live { &mut run.evidence.observed.facts } else { &mut run.evidence.facts });
            assert_eq!(run.judgement(Checker::Facts), judgement, "live: {live}");
        }
    }

    #[test]
    fn facts_emitted_again_in_order_are_seen_once() {
        both(|facts| facts.extend_from_within(10..40), Judgement::Held);
    }

    #[test]
    fn a_fact_that_is_missing_too_many_or_emitted_too_late_is_seen() {
        both(|facts| drop(facts.remove(10)), Judgement::Broken);
        both(
            |facts| {
                let late = facts.remove(10);
                facts.push(late);
            },
            Judgement::Broken,
        );
        both(
            |facts| {
                let last = facts.last().unwrap().clone();
                facts.push(SeenFact { source_offset: last.source_offset + 1_000_000, ..last });
            },
            Judgement::Broken,
        );
    }

    #[test]
    fn a_fact_that_holds_something_else_is_seen() {
        both(|facts| facts[10].upload = facts[11].upload, Judgement::Broken);
        both(|facts| facts[10].account = None, Judgement::Broken);
        both(|facts| facts[10].received_at.0 += 1, Judgement::Broken);
        both(|facts| facts[10].fault = Some("no header device".to_owned()), Judgement::Broken);
    }
}
