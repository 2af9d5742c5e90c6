//! The decision: what each record of the journal means. Pure, and made nowhere else; the model checker calls it too.
//!
//! Everything is in journal time, so that a late consumer, a replay and a rebuild all decide alike. A key's window is
//! `[t, t + TTL)` from the record that claims it; a record inside it is a copy or a conflict, and one outside claims the key.

use std::collections::HashMap;
use std::time::Duration;

use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::answer::{self, KeyState};
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::position::Position;
use milepost_shared::location::fingerprint::Fingerprint;

/// What a record asks for: its key, for what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The key.
    pub key_hash: KeyHash,
    /// The account the key belongs to.
    pub account: AccountId,
    /// The fingerprint of what the record carries.
    pub fingerprint: Fingerprint,
    /// How many locations are to be stored.
    pub locations: usize,
    /// Where the record stands.
    pub position: Position,
    /// When the broker appended it.
    pub time: JournalTime,
}

/// What a record turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It claims the key: persist it.
    New,
    /// The key's window is open and belongs to the same upload.
    Copy,
    /// The key's window is open and belongs to another upload.
    Conflict,
}

/// Decides about a record, given the newest window of its key.
#[must_use]
pub fn decide(claim: &Claim, newest: Option<&KeyState>) -> Decision {
    match newest {
        Some(state) if state.is_open_at(claim.time) => {
            if state.fingerprint == claim.fingerprint {
                Decision::Copy
            } else {
                Decision::Conflict
            }
        }
        _ => Decision::New,
    }
}

/// The state that a claim gives its key: `[t, t + ttl)`, already final.
#[must_use]
pub fn claimed(claim: &Claim, ttl: Duration) -> KeyState {
    KeyState {
        account: claim.account,
        fingerprint: claim.fingerprint,
        status: answer::STATUS,
        body: answer::body(claim.locations),
        accepted_at: claim.time,
        expires_at: claim.time.plus(ttl),
        source: claim.position,
    }
}

/// For a record that progress already covers: the state its key had then, and whether the record was the one persisted.
/// `None` if nothing is known of it any more: its answer was emitted before its window expired.
///
/// Any row of the key counts, not only the newest: the key may have been claimed again since.
#[must_use]
pub fn recall(position: Position, time: JournalTime, rows: &[KeyState]) -> Option<(KeyState, bool)> {
    let then = answer::met(position, time, rows)?;
    Some((then.clone(), (then.source, then.accepted_at) == (position, time)))
}

/// The windows of the keys in a batch: what the table holds, and what the batch itself has claimed so far.
#[derive(Debug, Default)]
pub struct Windows(HashMap<KeyHash, Vec<KeyState>>);

impl Windows {
    /// Adds a row of the table.
    pub fn insert(&mut self, key_hash: KeyHash, state: KeyState) {
        self.0.entry(key_hash).or_default().push(state);
    }

    /// Resolves the next record in journal order. If it is new, its window counts for the records after it. Returns the
    /// decision and the state of the key after it.
    pub fn resolve(&mut self, claim: &Claim, ttl: Duration) -> (Decision, KeyState) {
        let windows = self.0.entry(claim.key_hash).or_default();
        let newest = answer::newest(windows.iter());
        let decision = decide(claim, newest);
        match newest {
            Some(state) if decision != Decision::New => (decision, state.clone()),
            _ => {
                let state = claimed(claim, ttl);
                windows.push(state.clone());
                (decision, state)
            }
        }
    }

    /// As [`recall`], for a key of the batch.
    #[must_use]
    pub fn recall(
        &self,
        key_hash: &KeyHash,
        position: Position,
        time: JournalTime,
    ) -> Option<(KeyState, bool)> {
        recall(position, time, self.0.get(key_hash)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use uuid::Uuid;

    use super::*;

    const TTL: Duration = Duration::from_millis(100);

    fn claim(offset: i64, time: i64, upload: u8) -> Claim {
        Claim {
            key_hash: KeyHash([1; 32]),
            account: AccountId(Uuid::nil()),
            fingerprint: Fingerprint([upload; 32]),
            locations: usize::from(upload),
            position: Position::new(0, offset),
            time: JournalTime(time),
        }
    }

    fn resolve_all(claims: &[Claim]) -> Vec<(Decision, KeyState)> {
        let mut windows = Windows::default();
        claims.iter().map(|claim| windows.resolve(claim, TTL)).collect()
    }

    #[test]
    fn the_first_record_claims_the_key_and_the_window_ends_a_ttl_later() {
        let resolved =
            resolve_all(&[claim(0, 1000, 1), claim(1, 1099, 1), claim(2, 1099, 2), claim(3, 1100, 2)]);
        let decisions: Vec<Decision> = resolved.iter().map(|(decision, _)| *decision).collect();
        assert_eq!(decisions, [Decision::New, Decision::Copy, Decision::Conflict, Decision::New]);
        assert_eq!(
            (resolved[0].1.accepted_at, resolved[0].1.expires_at),
            (JournalTime(1000), JournalTime(1100))
        );
        assert_eq!(resolved[2].1, resolved[0].1);
        assert_eq!(resolved[3].1.source.offset.0, 3);
    }

    #[test]
    fn a_broker_clock_that_steps_back_does_not_free_a_key() {
        let resolved = resolve_all(&[claim(0, 1000, 1), claim(1, 500, 1)]);
        assert_eq!(resolved[1].0, Decision::Copy);
    }

    #[test]
    fn a_persisted_record_is_recalled_with_the_window_of_its_own_time() {
        let claims = [claim(0, 1000, 1), claim(1, 1050, 1), claim(2, 2000, 2), claim(3, 2001, 1)];
        let rows: Vec<KeyState> = [0, 2].map(|at| claimed(&claims[at], TTL)).to_vec();
        let recalled = |at: usize| recall(claims[at].position, claims[at].time, &rows).unwrap();
        assert_eq!(recalled(0), (rows[0].clone(), true));
        assert_eq!(recalled(1), (rows[0].clone(), false));
        assert_eq!(recalled(2), (rows[1].clone(), true));
        assert_eq!(recalled(3), (rows[1].clone(), false));
        assert_eq!(recall(Position::new(1, 9), JournalTime(2001), &rows), None);
        assert_eq!(recall(claims[1].position, claims[1].time, &rows[1..]), None);
        // Persisted at the same place before the journal was rewound.
        assert_eq!(recall(claims[0].position, JournalTime(1001), &rows), Some((rows[0].clone(), false)));
    }

    #[test]
    fn a_claim_in_a_rewound_journal_is_newer_than_an_expired_one_at_a_greater_offset() {
        let mut windows = Windows::default();
        windows.insert(KeyHash([1; 32]), claimed(&claim(500, 1000, 1), TTL));
        let decisions = [claim(3, 2000, 2), claim(4, 2001, 2), claim(5, 2002, 1)]
            .map(|claim| windows.resolve(&claim, TTL).0);
        assert_eq!(decisions, [Decision::New, Decision::Copy, Decision::Conflict]);
    }

    proptest! {
        /// Per key and window one upload is new; batches of any size decide alike; re-emission agrees with the decision.
        #[test]
        fn however_the_journal_is_cut_into_batches_the_decisions_are_the_same(
            steps in proptest::collection::vec((0..60i64, 1..4u8), 1..40),
            cut in 1..10usize,
        ) {
            let mut time = 0;
            let claims: Vec<Claim> = (0..).zip(&steps).map(|(offset, (step, upload))| {
                time += step;
                claim(offset, time, *upload)
            }).collect();
            let whole = resolve_all(&claims);

            let mut table: Vec<KeyState> = Vec::new();
            let mut pieces = Vec::new();
            for batch in claims.chunks(cut) {
                let mut windows = Windows::default();
                table.iter().for_each(|row| windows.insert(KeyHash([1; 32]), row.clone()));
                for claim in batch {
                    let (decision, state) = windows.resolve(claim, TTL);
                    if decision == Decision::New {
                        table.push(state.clone());
                    }
                    pieces.push((decision, state));
                }
            }
            prop_assert_eq!(&pieces, &whole);

            for (claim, (decision, state)) in claims.iter().zip(&whole) {
                let (recalled, persisted) = recall(claim.position, claim.time, &table).unwrap();
                prop_assert_eq!(&recalled, state);
                prop_assert_eq!(persisted, *decision == Decision::New);
            }
            for pair in table.windows(2) {
                prop_assert!(pair[1].accepted_at >= pair[0].expires_at);
            }
        }
    }
}
