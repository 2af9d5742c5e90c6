//! Recovery: soon after the last fault is healed, clients get answers again and nothing is left to persist.

use super::{Case, Verdict};

pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    verdict.examined += 2;
    let Some((first_answer, caught_up)) = case.evidence.recovered else {
        return verdict.accuse(|| "after the last fault all did not become well again".to_owned());
    };
    for (what, took, bound) in
        [("first 200", first_answer, case.demands.first_answer), ("lag 0", caught_up, case.demands.caught_up)]
    {
        verdict.note(format!("{what} {took:.1?} after the last heal, bound {bound:.0?}"));
        if took > bound {
            verdict.accuse(|| format!("{what} only {took:.1?} after the last heal, bound {bound:.0?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::Run;
    use super::super::{Checker, Judgement};

    #[test]
    fn both_bounds_are_held() {
        let minute = Duration::from_secs(61);
        for recovered in [None, Some((minute, Duration::ZERO)), Some((Duration::ZERO, minute))] {
            let mut run = Run::innocent();
            run.evidence.recovered = recovered;
            assert_eq!(run.judgement(Checker::Recovery), Judgement::Broken, "{recovered:?}");
        }
    }
}
