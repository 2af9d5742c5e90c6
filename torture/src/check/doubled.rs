//! Doubled: per key and window an upload is stored once, without a key once for its only request, and no record of the
//! journal twice.

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
    for ((operation, account), openings) in case.keys() {
        let has_key = case.kind(operation) != Some(Kind::Keyless);
        for variant in [Variant::A, Variant::B] {
            let of_upload: Vec<_> = openings.iter().filter(|opening| opening.variant == variant).collect();
            for pair in of_upload.windows(2) {
                if !has_key || pair[1].time < pair[0].time.plus(case.evidence.ttl) {
                    verdict.accuse(|| {
                        format!(
                            "operation {operation} of account {account} is stored as {} and {}",
                            pair[0], pair[1]
                        )
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
    fn a_record_stored_twice_is_doubled() {
        let mut run = Run::innocent();
        run.evidence.stored[7].copies = 2;
        assert_eq!(run.judgement(Checker::Doubled), Judgement::Broken);
    }
}
