//! Which refusals get a line in the log: some a second for each code, so that nobody can fill a disk by asking.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines a second for each code.
pub const LINES_MAX: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);

/// What was told and left out. The codes are few: they are the gateway's own.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<HashMap<&'static str, Said>>);

#[derive(Debug)]
struct Said {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Refusals {
    /// Whether a refusal with this code gets a line now, and if so how many got none since the last one.
    pub fn say(&self, code: &'static str, now: Instant) -> Option<u64> {
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let said = codes.entry(code).or_insert(Said { since: now, lines: 0, left_out: 0 });
        if now.saturating_duration_since(said.since) >= SECOND {
            (said.since, said.lines) = (now, 0);
        }
        if said.lines >= LINES_MAX {
            said.left_out += 1;
            return None;
        }
        said.lines += 1;
        Some(std::mem::take(&mut said.left_out))
    }

    /// Forgets what was left out and is not told yet; returns it.
    pub fn left_out(&self) -> Vec<(&'static str, u64)> {
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = codes.iter_mut().map(|(code, said)| (*code, std::mem::take(&mut said.left_out)));
        counts.filter(|(_, left_out)| *left_out > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_some_lines_a_second_and_the_rest_is_counted() {
        let (refusals, begun) = (Refusals::default(), Instant::now());
        let lines = |code, now| (0..1000).filter_map(|_| refusals.say(code, now)).collect::<Vec<u64>>();
        assert_eq!(lines("a", begun), [0; 10]);
        assert_eq!(lines("b", begun), [0; 10]);
        assert!(lines("a", begun + SECOND / 2).is_empty());
        let again = lines("a", begun + SECOND);
        assert_eq!((again.len(), again[0], &again[1..]), (10, 1990, &[0; 9][..]));
        let mut rest = refusals.left_out();
        rest.sort_unstable();
        assert_eq!(rest, [("a", 990), ("b", 990)]);
        assert!(refusals.left_out().is_empty());
    }
}
