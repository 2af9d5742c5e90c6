//! One flight: look, publish, await. Runs to its end whoever hangs up.

use std::sync::Arc;
use std::time::Duration;

use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::result::ResultRecord;
use milepost_shared::program::crash::{Crash, CrashPoint};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::answer::cache::AnswerCache;
use crate::answer::in_flight::{End, Flight, Source};
use crate::answer::journal_clock::JournalClock;
use crate::answer::lookup::Lookup;
use crate::answer::matching;
use crate::answer::outcome::{Accepted, Receipt};
use crate::answer::publish::{Published, Publisher};
use crate::answer::recent::Recent;

/// Finds the answer of an upload: in the cache or the table, or by way of the journal. All flights share it.
pub(crate) struct Finder {
    pub cache: AnswerCache,
    pub recent: Recent,
    pub points_at_once: usize,
    pub lookup: Lookup,
    pub publisher: Arc<Publisher>,
    pub journal_clock: JournalClock,
    pub crash: Crash,
    pub answer_poll: Duration,
}

impl Finder {
    /// What the cache knows of the upload's key, if its window is open `now`. An upload without a client's key has
    /// none.
    pub fn cached(&self, accepted: &Accepted, now: JournalTime) -> Option<End> {
        let state = accepted.has_key.then(|| self.cache.get(accepted.key_hash)).flatten()?;
        hit(state, Source::Cache, now)
    }

    /// Brings the upload from "not in the cache" to its end, or as far as anybody waits for it.
    pub async fn find(
        self: Arc<Self>,
        accepted: Accepted,
        flight: Flight,
        mut results: mpsc::Receiver<Arc<ResultRecord>>,
    ) {
        if accepted.has_key
            && let Some(state) = self.lookup.windows(accepted.key_hash).await.newest()
            && let Some(end) = {
                self.cache.insert(accepted.key_hash, &state);
                hit(state, Source::Table, self.journal_clock.now())
            }
        {
            return flight.end(end);
        }
        self.crash.point(CrashPoint::Accepted);
        let published = match self.publisher.publish(&accepted).await {
            Ok(published) => published,
            Err(why) => return flight.end(End::Unavailable(why)),
        };
        self.crash.point(CrashPoint::Published);
        if published.time != matching::UNKNOWN_TIME {
            self.journal_clock.saw(published.time);
        }
        flight.published(Receipt::new(published.position, published.time, accepted.fingerprint));
        let end = tokio::select! {
            biased;
            end = self.result(accepted.key_hash, published, &mut results) => end,
            () = flight.abandoned() => return,
        };
        flight.end(end);
    }

    /// Awaits the result of the record, from the topic or, every so often, from the table. Results that came
    /// before the acknowledgement are looked at first.
    async fn result(
        &self,
        key_hash: KeyHash,
        Published { position, time }: Published,
        results: &mut mpsc::Receiver<Arc<ResultRecord>>,
    ) -> End {
        let found = |state: KeyState, otherwise| {
            let is_own = matching::is_claim_of(position, time, &state);
            let source = if is_own { Source::Own } else { otherwise };
            End::Found { state, source }
        };
        let mut poll = interval_at(Instant::now() + self.answer_poll, self.answer_poll);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(result) = results.recv() => {
                    if matching::is_result_for(position, time, &result) {
                        return found(result.state.clone(), Source::Results);
                    }
                }
                _ = poll.tick() => {
                    let newest = self.lookup.windows(key_hash).await.newest();
                    if let Some(state) = newest.filter(|state| matching::is_answered_by(position, time, state)) {
                        self.cache.insert(key_hash, &state);
                        return found(state, Source::Table);
                    }
                }
            }
        }
    }
}

/// A known state counts only while its window is open, as far as this gateway can know; else the journal
/// decides.
fn hit(state: KeyState, source: Source, now: JournalTime) -> Option<End> {
    state.is_open_at(now).then_some(End::Found { state, source })
}
