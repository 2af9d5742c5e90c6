//! A figure: a ratio to something measured in the same run, once a round.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The rounds of a figure, summed up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Half of the rounds lie on either side.
    pub median: f64,
    /// The lowest round.
    pub low: f64,
    /// The highest round.
    pub high: f64,
}

impl Spread {
    /// Of one round or more; of none, everything is NaN.
    #[must_use]
    pub fn of(rounds: &[f64]) -> Self {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let half = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { at(half) } else { f64::midpoint(at(half.wrapping_sub(1)), at(half)) };
        Self { median, low: at(0), high: at(sorted.len().wrapping_sub(1)) }
    }

    /// Whether each of the two medians lies outside of the other's rounds: more than chance moves them.
    #[must_use]
    pub fn has_moved(&self, from: &Self) -> bool {
        let outside = |median: f64, of: &Self| !(of.low..=of.high).contains(&median);
        outside(self.median, from) && outside(from.median, self)
    }
}

/// What a figure must reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Higher is better.
    AtLeast(f64),
    /// Lower is better.
    AtMost(f64),
}

impl Bound {
    /// Whether a number is within.
    #[must_use]
    pub fn holds(&self, number: f64) -> bool {
        match *self {
            Self::AtLeast(least) => number >= least,
            Self::AtMost(most) => number <= most,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

/// One figure of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What it is about, such as `256 connections`; distinguishes it from the scenario's other figures.
    pub name: String,
    /// What the numbers are of, such as `of plain`; or their unit.
    pub of: String,
    /// One number a round.
    pub rounds: Vec<f64>,
    /// What the median must reach; `None` if it is only reported.
    pub must: Option<Bound>,
    /// The absolute figures.
    pub beside: String,
}

impl Figure {
    /// A figure that is only reported.
    #[must_use]
    pub fn new(name: &str, of: &str, rounds: Vec<f64>) -> Self {
        Self { name: name.to_owned(), of: of.to_owned(), rounds, must: None, beside: String::new() }
    }

    /// With what it must reach.
    #[must_use]
    pub fn must(self, bound: Bound) -> Self {
        Self { must: Some(bound), ..self }
    }

    /// With its absolute figures.
    #[must_use]
    pub fn beside(self, text: impl Into<String>) -> Self {
        Self { beside: text.into(), ..self }
    }

    /// Median, lowest and highest round.
    #[must_use]
    pub fn spread(&self) -> Spread {
        Spread::of(&self.rounds)
    }

    /// Whether it reaches what it must; `None` if there is nothing to reach.
    #[must_use]
    pub fn reached(&self) -> Option<bool> {
        self.must.map(|bound| bound.holds(self.spread().median))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(median: f64, low: f64, high: f64) -> Spread {
        Spread { median, low, high }
    }

    #[test]
    fn the_median_lies_in_the_middle_of_odd_and_even_rounds() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), spread(2.0, 1.0, 3.0));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 8.0]), spread(3.0, 1.0, 8.0));
        assert_eq!(Spread::of(&[7.0]), spread(7.0, 7.0, 7.0));
        assert!(Spread::of(&[]).median.is_nan());
    }

    #[test]
    fn a_figure_moves_only_by_more_than_the_rounds_of_both() {
        let before = spread(2.0, 1.8, 2.2);
        assert!(spread(2.5, 2.3, 2.6).has_moved(&before));
        assert!(spread(1.5, 1.4, 1.7).has_moved(&before));
        assert!(!spread(2.1, 1.0, 3.0).has_moved(&before), "inside of the old rounds");
        assert!(!spread(2.5, 1.9, 2.6).has_moved(&before), "the old median is inside of the new rounds");
    }

    #[test]
    fn a_figure_is_judged_by_its_median() {
        let figure = Figure::new("a", "of plain", vec![1.0, 2.0, 5.0]);
        assert_eq!(figure.reached(), None);
        assert_eq!(figure.clone().must(Bound::AtLeast(2.0)).reached(), Some(true));
        assert_eq!(figure.clone().must(Bound::AtLeast(2.1)).reached(), Some(false));
        assert_eq!(figure.clone().must(Bound::AtMost(2.0)).reached(), Some(true));
        assert_eq!(figure.must(Bound::AtMost(1.9)).reached(), Some(false));
        let nothing = Figure::new("b", "of plain", Vec::new());
        assert_eq!(nothing.must(Bound::AtMost(1.0)).reached(), Some(false), "no rounds reach nothing");
    }
}
