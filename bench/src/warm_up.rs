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

/// A warm-up as far as it has come.
#[derive(Debug, Default)]
struct Warming {
    rates: Vec<f64>,
    seconds: f64,
}

impl Warming {
    fn goes_on(&self, windows: Windows) -> bool {
        self.rates.len() < windows.most && !is_steady(&self.rates)
    }

    async fn window(&mut self, clients: &mut Clients, windows: Windows) -> anyhow::Result<()> {
        let tally = clients.closed(windows.length).await?;
        self.seconds += tally.elapsed().as_secs_f64();
        self.rates.push(tally.rate());
        Ok(())
    }

    fn end(&self) -> WarmUp {
        WarmUp { seconds: self.seconds, is_steady: is_steady(&self.rates) }
    }
}

/// A closed load until the throughput stands still, or for as many windows as allowed.
///
/// # Errors
/// As [`Clients::closed`].
pub async fn warm_up(clients: &mut Clients, windows: Windows) -> anyhow::Result<WarmUp> {
    let mut warming = Warming::default();
    while warming.goes_on(windows) {
        warming.window(clients, windows).await?;
    }
    Ok(warming.end())
}

/// The same for two that are compared, window by window in turn until both are steady: a gateway closes a connection that is
/// new and silent for longer than `HEADER_TIMEOUT`. Says so if one of them is not steady in the end.
///
/// # Errors
/// As [`Clients::closed`].
pub async fn warm_up_both(ours: &mut Clients, theirs: &mut Clients, windows: Windows) -> anyhow::Result<()> {
    let mut warming = [Warming::default(), Warming::default()];
    while warming.iter().any(|one| one.goes_on(windows)) {
        let [of_ours, of_theirs] = &mut warming;
        of_ours.window(ours, windows).await?;
        of_theirs.window(theirs, windows).await?;
    }
    warming.iter().for_each(|one| one.end().report());
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
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::routing::post;
    use milepost_shared::journal::answer;
    use tokio::net::TcpListener;

    use super::*;
    use crate::requests::Requests;
    use crate::uploads::Uploads;

    /// Of a server that notes its name at each upload that is not behind another of its own.
    async fn clients(name: char, turns: &Arc<Mutex<Vec<char>>>) -> Clients {
        let turns = Arc::clone(turns);
        let answer = async move || {
            let mut turns = turns.lock().unwrap();
            if turns.last() != Some(&name) {
                turns.push(name);
            }
            answer::body(1)
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        tokio::spawn(async {
            axum::serve(listener, Router::new().route("/api/v1/locations", post(answer))).await
        });
        let requests = Requests::new(&Arc::new(Uploads::singles()), "secret", &Arc::default());
        Clients::connect(&[target], 1, requests).await.unwrap()
    }

    #[tokio::test]
    async fn two_that_are_compared_warm_up_in_turn() {
        let turns = Arc::default();
        let (mut ours, mut theirs) = (clients('a', &turns).await, clients('b', &turns).await);
        let windows = Windows { length: Duration::from_millis(50), most: 3 };
        warm_up_both(&mut ours, &mut theirs, windows).await.unwrap();
        assert_eq!(turns.lock().unwrap()[..4], ['a', 'b', 'a', 'b']);
    }

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
