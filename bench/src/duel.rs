//! Two that are compared, loaded in turn: A B A B, so that changes of the machine affect both.

use crate::arrivals::Arrivals;
use crate::clients::Clients;
use crate::figure::{Figure, Spread};
use crate::size::Size;
use crate::tally::Tally;
use crate::warm_up::warm_up_both;

/// The rounds of a comparison.
#[derive(Debug)]
pub struct Duel {
    ours: Vec<Tally>,
    theirs: Vec<Tally>,
}

impl Duel {
    /// Both under a closed load, after a warm-up.
    ///
    /// # Errors
    /// A load fails.
    pub async fn closed(ours: &mut Clients, theirs: &mut Clients, size: Size) -> anyhow::Result<Self> {
        let mut duel = Self { ours: Vec::new(), theirs: Vec::new() };
        warm_up_both(ours, theirs, size.warm_up()).await?;
        for _ in 0..size.rounds() {
            duel.ours.push(ours.closed(size.slice()).await?);
            duel.theirs.push(theirs.closed(size.slice()).await?);
        }
        Ok(duel)
    }

    /// Both under the same open load; warm already.
    ///
    /// # Errors
    /// A load fails.
    pub async fn open(
        ours: &mut Clients,
        theirs: &mut Clients,
        arrivals: Arrivals,
        rounds: usize,
    ) -> anyhow::Result<Self> {
        let mut duel = Self { ours: Vec::new(), theirs: Vec::new() };
        for _ in 0..rounds {
            duel.ours.push(ours.open(arrivals).await?);
            duel.theirs.push(theirs.open(arrivals).await?);
        }
        Ok(duel)
    }

    fn ratios(&self, of: impl Fn(&Tally) -> f64) -> Vec<f64> {
        self.ours.iter().zip(&self.theirs).map(|(ours, theirs)| of(ours) / of(theirs)).collect()
    }

    /// The medians of both.
    #[must_use]
    pub fn medians(&self, of: impl Fn(&Tally) -> f64) -> (f64, f64) {
        let median = |tallies: &[Tally]| Spread::of(&tallies.iter().map(&of).collect::<Vec<_>>()).median;
        (median(&self.ours), median(&self.theirs))
    }

    /// Answers a second, as a ratio of ours to theirs.
    #[must_use]
    pub fn rates(&self, name: &str, of: &str) -> Figure {
        let (ours, theirs) = self.medians(Tally::rate);
        Figure::new(name, of, self.ratios(Tally::rate)).beside(format!("{ours:.0}/s against {theirs:.0}/s"))
    }

    /// The latency of a share of the answers, as a ratio of ours to theirs.
    #[must_use]
    pub fn latencies(&self, name: &str, of: &str, share: f64) -> Figure {
        let latency = |tally: &Tally| tally.latency_ms(share);
        let (ours, theirs) = self.medians(latency);
        Figure::new(name, of, self.ratios(latency)).beside(format!("{ours:.2} ms against {theirs:.2} ms"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tally(answers: u64, latency_ms: u64) -> Tally {
        let mut tally = Tally::default();
        (0..answers).for_each(|_| tally.record(Duration::from_millis(latency_ms)));
        tally.within(Duration::from_secs(1))
    }

    #[test]
    fn each_round_is_compared_with_its_own_neighbour() {
        let duel = Duel { ours: vec![tally(20, 4), tally(10, 8)], theirs: vec![tally(10, 2), tally(5, 2)] };
        let rates = duel.rates("a", "of plain");
        assert_eq!((rates.rounds, rates.beside.as_str()), (vec![2.0, 2.0], "15/s against 8/s"));
        let latencies = duel.latencies("b", "of plain", 0.5);
        assert!((latencies.rounds[0] - 2.0).abs() < 0.01 && (latencies.rounds[1] - 4.0).abs() < 0.01);
    }
}
