//! Warming up until the throughput stands still. How long that takes differs from machine to machine, and half of a warm
//! system's throughput looks like a result.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clients::Clients;

/// The throughput stands still when two windows in a row differ by no more than this.
const STILL: f64 = 0.05;

/// How a warm-up goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// How long each window is.
    pub length: Duration,
    /// How many there are at most, two or more.
    pub most: usize,
}

/// How a warm-up ended.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WarmUp {
    /// How long it took, seconds.
    pub seconds: f64,
    /// Whether the throughput stood still in the end.
    pub is_steady: bool,
}

impl fmt::Display for WarmUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_steady {
            write!(f, "steady after {:.0} s", self.seconds)
        } else {
            write!(f, "NOT steady after {:.0} s", self.seconds)
        }
    }
}

/// A closed load until the throughput stands still, or for as many windows as allowed.
///
/// # Errors
/// As [`Clients::closed`].
pub async fn warm_up(clients: &mut Clients, windows: Windows) -> anyhow::Result<WarmUp> {
    let (mut rates, mut seconds) = (Vec::new(), 0.0);
    while rates.len() < windows.most && !is_steady(&rates) {
        let tally = clients.closed(windows.length).await?;
        seconds += tally.elapsed().as_secs_f64();
        rates.push(tally.rate());
    }
    Ok(WarmUp { seconds, is_steady: is_steady(&rates) })
}

/// The same for two that are compared, one after the other. Says so if one of them is not steady in the end.
///
/// # Errors
/// As [`Clients::closed`].
pub async fn warm_up_both(ours: &mut Clients, theirs: &mut Clients, windows: Windows) -> anyhow::Result<()> {
    for clients in [ours, theirs] {
        warm_up(clients, windows).await?.report();
    }
    Ok(())
}

impl WarmUp {
    /// Says so on standard error if the throughput did not stand still.
    pub fn report(self) {
        if !self.is_steady {
            eprint!(" (throughput {self})");
        }
    }
}

fn is_steady(rates: &[f64]) -> bool {
    match rates {
        [.., before, last] => (last - before).abs() <= STILL * before.max(*last),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_throughput_stands_still_when_the_last_two_windows_are_within_5_percent() {
        assert!(!is_steady(&[]) && !is_steady(&[100.0]));
        assert!(is_steady(&[100.0, 105.0]) && is_steady(&[50.0, 100.0, 96.0]));
        assert!(!is_steady(&[100.0, 100.0, 110.0]) && !is_steady(&[100.0, 90.0]));
        // Nothing is as steady as nothing.
        assert!(is_steady(&[0.0, 0.0]));
    }

    #[test]
    fn a_warm_up_that_has_not_become_steady_says_so() {
        let warm_up = |is_steady| WarmUp { seconds: 12.3, is_steady }.to_string();
        assert_eq!([warm_up(true), warm_up(false)], ["steady after 12 s", "NOT steady after 12 s"]);
    }
}
