//! The answer: the finalized state of a key, as the table, the results topic and every cache hold it.

use bytes::Bytes;
use serde::Deserialize;

use crate::journal::account::AccountId;
use crate::journal::clock::JournalTime;
use crate::journal::position::Position;
use crate::location::fingerprint::Fingerprint;

/// HTTP status of every answer that was ever finalized.
pub const STATUS: u16 = 200;
/// Longest body of an answer, bytes: gateways keep a million of them. Those of this build have some 40.
pub const BODY_BYTES_MAX: usize = 4096;
/// The last millisecond of the year 9999.
const CALENDAR_END: JournalTime = JournalTime(253_402_300_799_999);

/// What a key stands for during one window. Made once, by the consumer, in the transaction that persists the upload.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyState {
    /// The account the key belongs to.
    pub account: AccountId,
    /// Of the upload that claimed the key.
    pub fingerprint: Fingerprint,
    /// HTTP status of every answer in the window: [`STATUS`].
    pub status: u16,
    /// Body of every answer in the window, byte for byte. Never made again from parts: an older build may have written
    /// it differently.
    pub body: Bytes,
    /// Start of the window: journal time of the record that claimed the key.
    pub accepted_at: JournalTime,
    /// End of the window, exclusive.
    pub expires_at: JournalTime,
    /// The record that claimed the key.
    pub source: Position,
}

impl KeyState {
    /// Whether a consumer can have made it. What a topic or a table holds besides was put there by somebody else: it is not
    /// readable, and nobody is answered by it.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let Self { account: _, fingerprint: _, status, body, accepted_at, expires_at, source } = self;
        *status == STATUS
            && body.len() <= BODY_BYTES_MAX
            && (JournalTime(0)..*expires_at).contains(accepted_at)
            && *expires_at <= CALENDAR_END
            && source.partition.0 >= 0
            && source.offset.0 >= 0
    }

    /// Whether the window is still open at `time`. A time before the window counts as inside: a broker's clock may step
    /// back, and the key is claimed all the same.
    #[must_use]
    pub fn is_open_at(&self, time: JournalTime) -> bool {
        time < self.expires_at
    }

    /// Whether the window contains `time`.
    #[must_use]
    pub fn contains(&self, time: JournalTime) -> bool {
        self.accepted_at <= time && self.is_open_at(time)
    }
}

/// Puts the windows of one key into their one order: journal time, in which each claim of a key is later than the one before.
/// Offsets do not give that order, since a rewound journal uses them a second time.
pub fn oldest_first(windows: &mut [KeyState]) {
    windows.sort_unstable_by_key(|state| state.accepted_at);
}

/// The last of the windows of one key, in the order of [`oldest_first`].
pub fn newest<'a>(windows: impl IntoIterator<Item = &'a KeyState>) -> Option<&'a KeyState> {
    windows.into_iter().max_by_key(|state| state.accepted_at)
}

/// The window that a record met, or opened: the newest of those claimed up to it, out of all windows of its key.
///
/// What is claimed up to a record stands before it. In a rewound journal an earlier claim may have any offset, and shows by its
/// time. In one journal both agree: a claim behind the record is later than the end of the window it met.
#[must_use]
pub fn met(record: Position, time: JournalTime, windows: &[KeyState]) -> Option<&KeyState> {
    newest(windows.iter().filter(|state| {
        state.source.partition == record.partition
            && (state.source.offset <= record.offset || state.accepted_at <= time)
    }))
}

/// The body of the answer to an accepted upload of `count` locations, the only place where it is made.
#[must_use]
pub fn body(count: usize) -> Bytes {
    Bytes::from(format!(r#"{{"success":true,"processedCount":{count}}}"#))
}

/// The `processedCount` in a stored body; `None` if a build unknown to this one wrote it in another way.
#[must_use]
pub fn processed_count(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Body {
        processed_count: u64,
    }
    serde_json::from_slice::<Body>(body).ok().map(|body| body.processed_count)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_body_is_the_one_promised() {
        assert_eq!(&body(7)[..], br#"{"success":true,"processedCount":7}"#);
        assert_eq!(processed_count(&body(7)), Some(7));
        assert_eq!(processed_count(b"{}"), None);
    }

    #[test]
    fn a_state_that_no_consumer_makes_is_not_sound() {
        let sound = state();
        assert!(sound.is_sound());
        let status = |status| KeyState { status, ..state() };
        let window =
            |from, to| KeyState { accepted_at: JournalTime(from), expires_at: JournalTime(to), ..state() };
        let source = |partition, offset| KeyState { source: Position::new(partition, offset), ..state() };
        let body = |bytes| KeyState { body: Bytes::from(vec![b' '; bytes]), ..state() };
        assert!(body(BODY_BYTES_MAX).is_sound() && window(0, CALENDAR_END.0).is_sound());
        for odd in [
            status(0),
            status(101),
            status(204),
            status(500),
            status(u16::MAX),
            window(200, 200),
            window(200, 100),
            window(-1, 200),
            window(100, i64::MAX),
            source(-1, 0),
            source(0, -1),
            body(BODY_BYTES_MAX + 1),
        ] {
            assert!(!odd.is_sound(), "{odd:?}");
        }
    }

    fn state() -> KeyState {
        KeyState {
            account: AccountId(Uuid::nil()),
            fingerprint: Fingerprint([0; 32]),
            status: 200,
            body: body(1),
            accepted_at: JournalTime(100),
            expires_at: JournalTime(200),
            source: Position::new(0, 0),
        }
    }

    #[test]
    fn a_window_contains_its_start_and_not_its_end() {
        let state = state();
        assert_eq!(
            [99, 100, 199, 200].map(|t| (state.contains(JournalTime(t)), state.is_open_at(JournalTime(t)))),
            [(false, true), (true, true), (true, true), (false, false)]
        );
    }
}
