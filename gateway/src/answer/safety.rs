//! When a point is safe, and when all the points of a request are. Pure; the model checker calls it too.
//!
//! A point is safe when it is in the journal. That is known of one whose key has an open window, whether the cache or the table
//! says so, and of one that the journal has acknowledged, a short while ago or just now.

use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::clock::JournalTime;

use crate::answer::outcome::Unavailable;

/// By what a point is known to be safe without being published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Known {
    /// The cache holds its key's state, and its window is open.
    Cache,
    /// The journal has acknowledged it a short while ago.
    Recent,
    /// The table does.
    Table,
}

/// By what a point is known without asking anybody: the state that the cache holds, and whether the journal has acknowledged the
/// point a short while ago.
#[must_use]
pub fn by_memory(
    cached: Option<&KeyState>,
    is_recent: impl FnOnce() -> bool,
    now: JournalTime,
) -> Option<Known> {
    let is_open = cached.is_some_and(|state| state.is_open_at(now));
    if is_open { Some(Known::Cache) } else { is_recent().then_some(Known::Recent) }
}

/// By what a point is known once the table has been asked for the newest window of its key.
#[must_use]
pub fn by_table(newest: Option<&KeyState>, now: JournalTime) -> Option<Known> {
    newest.is_some_and(|state| state.is_open_at(now)).then_some(Known::Table)
}

/// The points of a request that were not known: it waits for the journal's word on each of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Awaited {
    left: u64,
    failed: Option<Unavailable>,
}

impl Awaited {
    /// So many points are published.
    #[must_use]
    pub fn new(points: usize) -> Self {
        Self { left: points as u64, failed: None }
    }

    /// The journal's word on one more of them.
    pub fn hear(&mut self, published: Result<(), Unavailable>) {
        match published {
            Ok(()) => self.left = self.left.saturating_sub(1),
            Err(why) => self.failed = Some(why),
        }
    }

    /// How many have not been acknowledged.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The request's end; `None` as long as it waits.
    ///
    /// # Errors
    /// [`Unavailable`] as soon as one of the points is not acknowledged: it may not be in the journal.
    #[must_use]
    pub fn end(&self) -> Option<Result<(), Unavailable>> {
        match self.failed {
            Some(why) => Some(Err(why)),
            None => (self.left == 0).then_some(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use milepost_shared::journal::account::AccountId;
    use milepost_shared::journal::position::Position;
    use milepost_shared::location::fingerprint::Fingerprint;
    use uuid::Uuid;

    use super::*;

    fn open_until(time: i64) -> KeyState {
        KeyState {
            account: AccountId(Uuid::nil()),
            fingerprint: Fingerprint([0; 32]),
            status: 200,
            body: bytes::Bytes::new(),
            accepted_at: JournalTime(0),
            expires_at: JournalTime(time),
            source: Position::new(0, 0),
        }
    }

    #[test]
    fn a_point_is_known_by_an_open_window_or_by_what_was_just_acknowledged() {
        let (open, over, now) = (open_until(10), open_until(9), JournalTime(9));
        assert_eq!(by_memory(Some(&open), || true, now), Some(Known::Cache));
        assert_eq!(by_memory(Some(&over), || true, now), Some(Known::Recent));
        assert_eq!(by_memory(Some(&over), || false, now), None);
        assert_eq!(by_memory(None, || false, now), None);
        assert_eq!(by_table(Some(&open), now), Some(Known::Table));
        assert_eq!(by_table(Some(&over), now), None);
        assert_eq!(by_table(None, now), None);
    }

    #[test]
    fn a_request_ends_with_the_last_acknowledgement_or_the_first_failure() {
        assert_eq!(Awaited::new(0).end(), Some(Ok(())));
        let mut all = Awaited::new(2);
        all.hear(Ok(()));
        assert_eq!((all.end(), all.left()), (None, 1));
        let mut failed = all.clone();
        all.hear(Ok(()));
        assert_eq!(all.end(), Some(Ok(())));
        failed.hear(Err(Unavailable::Overload));
        assert_eq!((failed.end(), failed.left()), (Some(Err(Unavailable::Overload)), 1));
        failed.hear(Ok(()));
        assert_eq!(failed.end(), Some(Err(Unavailable::Overload)), "one that comes later makes up for none");
    }
}
