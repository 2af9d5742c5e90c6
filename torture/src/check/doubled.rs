//! Doubled: per key and window an upload is stored once, without a key once for its only request, and no record of the
//! journal twice. A point is its own key, and a bad one is set aside once.

use std::collections::BTreeSet;

use super::Verdict;
use super::case::{Case, at};
use crate::operation::{Kind, Variant};

pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for stored in &case.evidence.stored {
        verdict.examined += 1;
        if stored.copies != 1 {
            verdict.accuse(|| format!("record {} is stored {} times", at(stored.position), stored.copies));
        }
    }
    for ((key, account), openings) in case.keys() {
        let has_key = case.kind(key.operation) != Some(Kind::Keyless);
        let variants: BTreeSet<Variant> = openings.iter().map(|opening| opening.variant).collect();
        for variant in variants {
            let of_upload: Vec<_> = openings.iter().filter(|opening| opening.variant == variant).collect();
            for pair in of_upload.windows(2) {
                if !has_key || pair[1].time < pair[0].time.plus(case.evidence.ttl) {
                    verdict.accuse(|| {
                        let (first, second) = (pair[0], pair[1]);
                        format!("{key} of account {account} is stored as {first} and {second}")
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Run;
    use super::super::{Checker, Judgement};
    use crate::evidence::DeadLetter;
    use crate::operation::Kind;

    #[test]
    fn an_upload_stored_again_inside_its_window_is_doubled() {
        for (later, judgement) in [(7_999, Judgement::Broken), (8_000, Judgement::Held)] {
            let mut run = Run::innocent();
            let mut again = run.stored(run.first(Kind::Plain)).clone();
            again.position.offset.0 += 1_000_000;
            again.received_at.0 += later;
            run.evidence.stored.push(again);
            assert_eq!(run.judgement(Checker::Doubled), judgement, "{later}");
        }
    }

    #[test]
    fn without_a_key_a_second_copy_is_doubled_whenever_it_comes() {
        let mut run = Run::innocent();
        let mut again = run.stored(run.first(Kind::Keyless)).clone();
        again.position.offset.0 += 1_000_000;
        again.received_at.0 += 60_000;
        run.evidence.stored.push(again);
        assert_eq!(run.judgement(Checker::Doubled), Judgement::Broken);
    }

    #[test]
    fn a_point_stored_again_inside_its_window_is_doubled() {
        for kind in [Kind::Superset, Kind::Shared, Kind::Twins] {
            for (later, judgement) in [(7_999, Judgement::Broken), (8_000, Judgement::Held)] {
                let mut run = Run::innocent();
                let mut again = run.stored(run.first_point(kind)).clone();
                again.position.offset.0 += 1_000_000;
                again.received_at.0 += later;
                run.evidence.stored.push(again);
                assert_eq!(run.judgement(Checker::Doubled), judgement, "{kind:?} {later}");
            }
        }
    }

    #[test]
    fn a_bad_point_set_aside_twice_is_doubled() {
        for (later, judgement) in [(100, Judgement::Broken), (8_000, Judgement::Held)] {
            let mut run = Run::innocent();
            let bad = run.bad_point(Kind::Shared);
            let mut journal = run.evidence.journal.iter();
            let mut entry = journal.find(|entry| entry.upload == Some(bad)).unwrap().clone();
            entry.position.offset.0 += 1_000_000;
            entry.time.0 += later;
            run.evidence.dead_letters.push(DeadLetter { position: entry.position, upload: Some(bad) });
            run.evidence.journal.push(entry);
            assert_eq!(run.judgement(Checker::Doubled), judgement, "{later}");
        }
    }

    #[test]
    fn a_record_stored_twice_is_doubled() {
        let mut run = Run::innocent();
        run.evidence.stored[7].copies = 2;
        assert_eq!(run.judgement(Checker::Doubled), Judgement::Broken);
    }
}
