//! The scenarios: each runs Milepost and what it is compared with, and gives figures of both.

mod app_batches;
mod app_points;
mod app_replays;
mod backlog;
mod batches;
mod cached_replays;
mod cost;
mod expiry;
mod keys_held;
mod latency;
mod memory;
mod one_connection;
mod respond_async;
mod retry_storm;
mod singles;
mod table_replays;
mod two_of_each;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use crate::figure::Figure;
use crate::setup::Setup;

/// What a scenario has found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Its figures.
    pub figures: Vec<Figure>,
    /// Its lines in a picture.
    pub curves: Vec<Curve>,
    /// What else is worth knowing, a sentence each.
    pub notes: Vec<String>,
}

/// One line of a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// The account.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// The scenario whose curves are latency (milliseconds) against load (uploads a second).
pub const LATENCY: u8 = 5;
/// The scenario whose curves are throughput (uploads a second) against keys held (millions).
pub const KEYS_HELD: u8 = 9;

/// Number and name of each scenario.
pub const SCENARIOS: [(u8, &str); 17] = [
    (1, "unique single uploads"),
    (2, "unique batches of 50"),
    (3, "replays from the cache"),
    (4, "replays from the table, without a cache"),
    (5, "latency at a fixed rate"),
    (6, "one connection, one upload at a time"),
    (7, "a backlog, the consumer alone"),
    (8, "accepted at once (202), the consumer stopped"),
    (9, "unique single uploads with live keys in the table"),
    (10, "expiry of a partition of keys under load"),
    (11, "a retry storm on two cold gateways"),
    (12, "memory with 1,000 connections"),
    (13, "cost of an upload"),
    (14, "two gateways and two consumers"),
    (15, "batches of a phone app (Overland)"),
    (16, "points of phone apps, alone and in batches"),
    (17, "a phone app's file again (GPSLogger)"),
];

/// Runs one scenario.
///
/// # Errors
/// A program or a load fails, or what is stored is not what was answered: then there are no figures.
pub async fn run(number: u8, setup: &Setup) -> anyhow::Result<Report> {
    match number {
        1 => singles::run(setup).await,
        2 => batches::run(setup).await,
        3 => cached_replays::run(setup).await,
        4 => table_replays::run(setup).await,
        5 => latency::run(setup).await,
        6 => one_connection::run(setup).await,
        7 => backlog::run(setup).await,
        8 => respond_async::run(setup).await,
        9 => keys_held::run(setup).await,
        10 => expiry::run(setup).await,
        11 => retry_storm::run(setup).await,
        12 => memory::run(setup).await,
        13 => cost::run(setup).await,
        14 => two_of_each::run(setup).await,
        15 => app_batches::run(setup).await,
        16 => app_points::run(setup).await,
        17 => app_replays::run(setup).await,
        _ => anyhow::bail!("there is no scenario {number}"),
    }
}

impl Report {
    /// Refuses figures that are not numbers: too little was measured.
    ///
    /// # Errors
    /// With the figure's name.
    pub fn checked(self) -> anyhow::Result<Self> {
        for figure in &self.figures {
            let numbers = !figure.rounds.is_empty() && figure.rounds.iter().all(|round| round.is_finite());
            ensure!(numbers, "too little was measured for {}: {:?}", figure.name, figure.rounds);
        }
        Ok(self)
    }

    /// One with figures only.
    #[must_use]
    pub fn of(figures: Vec<Figure>) -> Self {
        Self { figures, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_of_nothing_is_refused() {
        let report = |rounds: &[f64]| Report::of(vec![Figure::new("table", "of plain", rounds.to_vec())]);
        assert!(report(&[1.0, 2.0]).checked().is_ok());
        for rounds in [&[][..], &[f64::NAN], &[1.0, f64::INFINITY]] {
            assert!(report(rounds).checked().is_err(), "{rounds:?}");
        }
    }

    #[test]
    fn scenarios_are_numbered_in_their_order() {
        assert!(SCENARIOS.iter().map(|(number, _)| *number).eq(1..=17));
    }
}
