//! Which state of a key answers which record. Pure: the consumer's decision seen from outside.

use milepost_shared::journal::answer::{self, KeyState};
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::position::Position;
use milepost_shared::journal::result::ResultRecord;

/// Stands for a journal time that the broker did not say: no window contains it and none is open at it, so only
/// the record's own result counts.
pub const UNKNOWN_TIME: JournalTime = JournalTime(i64::MAX);

/// Whether a result answers the record at `record`, stamped `time`: it is this record's own result, or the
/// key's window contains the record's time. A result of another record must not count merely because it is of
/// the same key: it may be of an earlier window, emitted again or late.
#[must_use]
pub fn is_result_for(record: Position, time: JournalTime, result: &ResultRecord) -> bool {
    result.record == record || is_answered_by(record, time, &result.state)
}

/// Whether the state of the record's key, wherever it was found, answers the record.
#[must_use]
pub fn is_answered_by(record: Position, time: JournalTime, state: &KeyState) -> bool {
    is_claim_of(record, time, state) || state.contains(time)
}

/// Whether the record is the one that claimed the key. The position alone does not prove it, since a journal that was
/// recreated uses it a second time; without a time it has to do.
#[must_use]
pub fn is_claim_of(record: Position, time: JournalTime, state: &KeyState) -> bool {
    state.source == record && (state.accepted_at == time || time == UNKNOWN_TIME)
}

/// The state that answers the record, out of all windows of its key that the table still holds; `None` if the
/// record is not decided yet, or the window is forgotten.
///
/// This is the consumer's own rule: the newest claim up to the record decides, and a broker's clock that
/// stepped back behind the claim does not matter.
#[must_use]
pub fn answer_of(record: Position, time: JournalTime, windows: &[KeyState]) -> Option<&KeyState> {
    // No claim is known to come before a time that is not known.
    let claimed_by = if time == UNKNOWN_TIME { JournalTime(i64::MIN) } else { time };
    answer::met(record, claimed_by, windows)
        .filter(|state| is_claim_of(record, time, state) || state.is_open_at(time))
}

#[cfg(test)]
mod tests {
    use milepost_shared::journal::account::AccountId;
    use milepost_shared::journal::key::KeyHash;
    use milepost_shared::location::fingerprint::Fingerprint;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const TTL: i64 = 10;

    fn at(offset: i64) -> Position {
        Position::new(1, offset)
    }

    fn window(source: i64, accepted_at: i64) -> KeyState {
        KeyState {
            account: AccountId(Uuid::nil()),
            fingerprint: Fingerprint([0; 32]),
            status: 200,
            body: bytes::Bytes::new(),
            accepted_at: JournalTime(accepted_at),
            expires_at: JournalTime(accepted_at + TTL),
            source: at(source),
        }
    }

    fn result(record: i64, state: KeyState) -> ResultRecord {
        ResultRecord { key_hash: KeyHash([0; 32]), record: at(record), state }
    }

    #[test]
    fn the_result_of_the_record_itself_counts_whatever_the_time() {
        let own = result(7, window(3, 100));
        assert!(is_result_for(at(7), JournalTime(50), &own));
        assert!(is_result_for(at(7), UNKNOWN_TIME, &own));
    }

    #[test]
    fn a_window_around_the_records_time_counts_whoever_claimed_it() {
        let other = result(9, window(3, 100));
        assert!(is_result_for(at(7), JournalTime(100), &other));
        assert!(is_result_for(at(7), JournalTime(109), &other));
        assert!(!is_result_for(at(7), JournalTime(110), &other), "the window's end is outside");
        assert!(!is_result_for(at(7), JournalTime(99), &other));
        assert!(!is_result_for(at(7), UNKNOWN_TIME, &other));
    }

    #[test]
    fn the_same_offset_of_another_partition_is_another_record() {
        let mut other = result(7, window(3, 100));
        other.record.partition.0 = 2;
        assert!(!is_result_for(at(7), JournalTime(200), &other));
    }

    #[test]
    fn a_clock_that_stepped_back_behind_the_claim_does_not_matter_to_the_table() {
        let windows = [window(3, 100)];
        assert_eq!(answer_of(at(7), JournalTime(99), &windows), Some(&windows[0]));
    }

    #[test]
    fn a_later_window_does_not_answer_an_earlier_record() {
        let windows = [window(9, 120)];
        assert_eq!(answer_of(at(7), JournalTime(100), &windows), None);
    }

    #[test]
    fn a_claim_at_the_same_position_of_an_earlier_journal_is_no_answer() {
        let claim = window(7, 100);
        assert!(
            is_answered_by(at(7), JournalTime(100), &claim) && is_answered_by(at(7), UNKNOWN_TIME, &claim)
        );
        assert!(!is_answered_by(at(7), JournalTime(110), &claim));
        assert_eq!(answer_of(at(7), JournalTime(110), std::slice::from_ref(&claim)), None);
        assert!(!is_claim_of(at(7), JournalTime(105), &claim), "it is a copy");
    }

    #[test]
    fn the_claims_of_a_journal_that_was_made_anew_answer_its_records_whatever_their_offsets() {
        let windows = [window(5, 100), window(3, 120)];
        assert_eq!(answer_of(at(7), JournalTime(121), &windows), Some(&windows[1]));
        // A copy in a window that was claimed before, at an offset that the new journal has not reached yet.
        assert_eq!(answer_of(at(2), JournalTime(105), &windows), Some(&windows[0]));
    }

    /// The consumer as it should be: decides records of one key in order, returns the claims and for
    /// each record the index of its answer.
    fn decide(times: &[i64]) -> (Vec<KeyState>, Vec<usize>) {
        let mut claims: Vec<KeyState> = Vec::new();
        let mut answers = Vec::new();
        for (offset, time) in (0..).zip(times) {
            if !claims.last().is_some_and(|claim| claim.is_open_at(JournalTime(*time))) {
                claims.push(window(offset, *time));
            }
            answers.push(claims.len() - 1);
        }
        (claims, answers)
    }

    proptest! {
        #[test]
        fn the_answer_from_the_table_is_the_consumers(times in prop::collection::vec(0..60i64, 1..20)) {
            let (claims, answers) = decide(&times);
            for (offset, time) in (0..).zip(&times) {
                let expected = &claims[answers[usize::try_from(offset).unwrap()]];
                prop_assert_eq!(answer_of(at(offset), JournalTime(*time), &claims), Some(expected));
            }
        }

        #[test]
        fn with_a_broker_clock_that_does_not_step_back_no_result_is_mistaken(
            steps in prop::collection::vec(0..6i64, 1..20),
        ) {
            let times: Vec<i64> =
                steps.iter().scan(0, |now, step| { *now += step; Some(*now) }).collect();
            let (claims, answers) = decide(&times);
            for (offset, time) in (0..).zip(&times) {
                for (record, answer) in (0..).zip(&answers) {
                    let result = result(record, claims[*answer].clone());
                    let is_taken = is_result_for(at(offset), JournalTime(*time), &result);
                    prop_assert_eq!(is_taken, *answer == answers[usize::try_from(offset).unwrap()]);
                }
            }
        }
    }
}
