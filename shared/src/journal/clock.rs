//! The two kinds of time, kept apart by type.
//!
//! [`JournalTime`] opens and closes windows: it is the LogAppendTime of a record in the journal, the same for every
//! reader and every replay. A [`Clock`] only serves what may be wrong without harm: whether a cached answer is worth
//! serving, whether a phone's time is too far ahead, how long something took.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// A moment of the journal: milliseconds since 1970, as the broker stamped the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JournalTime(pub i64);

impl JournalTime {
    /// This moment moved ahead; saturating.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// For a `timestamptz` column.
    ///
    /// # Panics
    /// Never for times of years 0 to 9999, which is all a broker can stamp.
    #[must_use]
    pub fn to_datetime(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .expect("a broker's time stamp lies within the years of a calendar")
    }

    /// From a `timestamptz` column; precision beyond a millisecond is cut.
    #[must_use]
    pub fn from_datetime(datetime: OffsetDateTime) -> Self {
        Self(i64::try_from(datetime.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap_or(i64::MAX))
    }
}

/// A duration in whole milliseconds, saturating.
#[must_use]
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The wall clock of this process, with an offset that tests set to make it wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    offset_ms: i64,
}

impl Clock {
    /// A clock that is `offset_ms` ahead of the machine's (0 in production).
    #[must_use]
    pub fn new(offset_ms: i64) -> Self {
        Self { offset_ms }
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn now_ms(self) -> i64 {
        #[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        millis(since_epoch).saturating_add(self.offset_ms)
    }

    /// Now, as an estimate of journal time. Never to decide with.
    #[must_use]
    pub fn now(self) -> JournalTime {
        JournalTime(self.now_ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_time_survives_the_database_type() {
        for ms in [0, 1, 1_773_480_413_123, 253_402_300_799_999] {
            assert_eq!(JournalTime::from_datetime(JournalTime(ms).to_datetime()), JournalTime(ms));
        }
    }

    #[test]
    fn a_wrong_clock_is_wrong_by_its_offset() {
        // The right one first: time goes on between the two.
        let right = Clock::new(0).now_ms();
        let difference = Clock::new(3_600_000).now_ms() - right;
        assert!((3_600_000..3_660_000).contains(&difference), "{difference}");
    }
}
