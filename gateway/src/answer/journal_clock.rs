//! The gateway's estimate of journal time.

use std::sync::atomic::{AtomicI64, Ordering};

use milepost_shared::journal::clock::{Clock, JournalTime};

/// The wall clock, but never behind the newest time that a broker was seen to stamp: a gateway whose clock is slow must
/// not serve an answer long after its window. If the clock is fast, copies are published and the consumer resolves them.
#[derive(Debug)]
pub struct JournalClock {
    clock: Clock,
    newest_ms: AtomicI64,
}

impl JournalClock {
    /// No stamp has been seen yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, newest_ms: AtomicI64::new(i64::MIN) }
    }

    /// A broker stamped a record with this time.
    pub fn saw(&self, time: JournalTime) {
        self.newest_ms.fetch_max(time.0, Ordering::Relaxed);
    }

    /// Now, as far as known. Good enough to serve known answers, never to decide.
    #[must_use]
    pub fn now(&self) -> JournalTime {
        self.clock.now().max(JournalTime(self.newest_ms.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_behind_what_the_brokers_stamped() {
        let behind = JournalClock::new(Clock::new(-3_600_000));
        let stamped = Clock::new(0).now();
        assert!(behind.now() < stamped);
        behind.saw(stamped);
        behind.saw(JournalTime(5));
        assert_eq!(behind.now(), stamped);
    }
}
