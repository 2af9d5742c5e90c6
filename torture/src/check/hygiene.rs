//! Hygiene: no transaction is left open, nothing grows, and no log holds what it must not.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Case, Verdict};
use crate::evidence::Footprint;

/// The stretch of time at a process's beginning and end whose median counts.
const STRETCH: Duration = Duration::from_secs(20);
/// Memory that a process needs to warm up is not growth.
const WARM_UP: Duration = Duration::from_secs(10);

pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let (samples, demands) = (&case.evidence.observed.samples, case.demands);
    for sample in samples {
        verdict.examined += 1;
        if let Some(idle) = sample.idle_longest.filter(|idle| *idle > demands.idle) {
            verdict
                .accuse(|| format!("at {:.0?} a session is idle in a transaction for {idle:.0?}", sample.at));
        }
    }
    match samples.iter().rev().find_map(|sample| sample.idle_in_transaction) {
        Some(0) => {}
        Some(left) => verdict.accuse(|| format!("at the end {left} sessions are idle in a transaction")),
        None => verdict.accuse(|| "nobody could see whether a session is idle in a transaction".to_owned()),
    }
    let mut processes: BTreeMap<&str, Vec<(Duration, Footprint)>> = BTreeMap::new();
    for sample in samples {
        for (name, footprint) in &sample.processes {
            processes.entry(name).or_default().push((sample.at, *footprint));
        }
    }
    for (name, footprints) in processes {
        check_growth(case, verdict, name, &footprints);
    }
    for ended in &case.evidence.unexpected {
        verdict.note(ended);
    }
    for fault in &case.evidence.log_faults {
        verdict.accuse(|| fault.clone());
    }
}

fn check_growth(case: &Case<'_>, verdict: &mut Verdict, name: &str, footprints: &[(Duration, Footprint)]) {
    let [(first, _), .., (last, _)] = footprints else { return };
    let early = *first + WARM_UP..*first + WARM_UP + STRETCH;
    let late = last.saturating_sub(STRETCH)..*last + Duration::from_millis(1);
    for (what, of, bound) in [
        ("open files", (|footprint| footprint.files) as fn(&Footprint) -> u64, case.demands.files),
        ("bytes of memory", |footprint| footprint.memory, case.demands.memory),
    ] {
        let median = |stretch: &std::ops::Range<Duration>| {
            let inside = footprints.iter().filter(|(at, _)| stretch.contains(at));
            let mut values: Vec<u64> = inside.map(|(_, footprint)| of(footprint)).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied()
        };
        let (Some(early), Some(late)) = (median(&early), median(&late)) else { continue };
        verdict.examined += 1;
        verdict.note(format!("{name}: {early} {what} at first, {late} at the end"));
        if late > early + bound {
            verdict.accuse(|| format!("{name} grew from {early} to {late} {what}, bound {bound} more"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Run;
    use super::super::{Checker, Judgement};
    use super::*;

    fn broken_by(change: impl FnOnce(&mut Run)) {
        let mut run = Run::innocent();
        change(&mut run);
        assert_eq!(run.judgement(Checker::Hygiene), Judgement::Broken);
    }

    #[test]
    fn a_transaction_left_open_is_seen() {
        broken_by(|run| run.evidence.observed.samples.last_mut().unwrap().idle_in_transaction = Some(1));
        broken_by(|run| run.evidence.observed.samples[9].idle_longest = Some(Duration::from_secs(21)));
        broken_by(|run| {
            run.evidence.observed.samples.iter_mut().for_each(|sample| sample.idle_in_transaction = None);
        });
    }

    #[test]
    fn what_grows_is_seen() {
        for grow in [(|it, by| it.files += by) as fn(&mut Footprint, u64), |it, by| it.memory += by << 20] {
            broken_by(|run| {
                for (second, sample) in (0..).zip(&mut run.evidence.observed.samples) {
                    sample.processes.values_mut().for_each(|footprint| grow(footprint, 10 * second));
                }
            });
        }
    }

    #[test]
    fn a_line_that_must_not_be_in_a_log_is_seen() {
        broken_by(|run| run.evidence.log_faults.push("gateway-1.log:7: a coordinate".to_owned()));
    }
}
