//! One flight: look, publish, await. Runs to its end whoever hangs up.

use std::sync::Arc;

use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::result::ResultRecord;
use milepost_shared::program::crash::CrashPoint;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::answer::in_flight::{Flight, Settled, Source};
use crate::answer::matching;
use crate::answer::outcome::Accepted;
use crate::answer::publish::Published;
use crate::answer::service::Middle;
use crate::native::receipt::Receipt;

/// What the cache knows of the upload's key, if its window is open `now`. An upload without a client's key has
/// none.
pub(crate) fn cached(middle: &Middle, accepted: &Accepted, now: JournalTime) -> Option<Settled> {
    let state = accepted.has_key.then(|| middle.cache.get(accepted.key_hash)).flatten()?;
    hit(state, Source::Cache, now)
}

/// Brings the upload from "not in the cache" to its end, or as far as anybody waits for it.
pub(crate) async fn fly(
    middle: Arc<Middle>,
    accepted: Accepted,
    flight: Flight,
    mut results: mpsc::Receiver<Arc<ResultRecord>>,
) {
    if accepted.has_key
        && let Some(state) = middle.lookup.windows(accepted.key_hash).await.newest()
        && let Some(settled) = {
            middle.cache.insert(accepted.key_hash, &state);
            hit(state, Source::Table, middle.journal_clock.now())
        }
    {
        return flight.settle(settled);
    }
    middle.crash.point(CrashPoint::Accepted);
    let published = match middle.publisher.publish(&accepted).await {
        Ok(published) => published,
        Err(why) => return flight.settle(Settled::Unavailable(why)),
    };
    middle.crash.point(CrashPoint::Published);
    if published.time != matching::UNKNOWN_TIME {
        middle.journal_clock.saw(published.time);
    }
    flight.published(Receipt::new(published.position, published.time, accepted.fingerprint));
    let settled = tokio::select! {
        biased;
        settled = result(&middle, accepted.key_hash, published, &mut results) => settled,
        () = flight.abandoned() => return,
    };
    flight.settle(settled);
}

/// A known state counts only while its window is open, as far as this gateway can tell; else the journal
/// decides.
fn hit(state: KeyState, source: Source, now: JournalTime) -> Option<Settled> {
    state.is_open_at(now).then_some(Settled::Found { state, source })
}

/// Awaits the result of the record, from the topic or, every so often, from the table. Results that came
/// before the acknowledgement are looked at first.
async fn result(
    middle: &Middle,
    key_hash: KeyHash,
    Published { position, time }: Published,
    results: &mut mpsc::Receiver<Arc<ResultRecord>>,
) -> Settled {
    let found = |state: KeyState, otherwise| {
        let is_own = matching::is_claim_of(position, time, &state);
        let source = if is_own { Source::Own } else { otherwise };
        Settled::Found { state, source }
    };
    let mut poll = interval_at(Instant::now() + middle.answer_poll, middle.answer_poll);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            Some(result) = results.recv() => {
                if matching::is_mine(position, time, &result) {
                    return found(result.state.clone(), Source::Results);
                }
            }
            _ = poll.tick() => {
                let newest = middle.lookup.windows(key_hash).await.newest();
                if let Some(state) = newest.filter(|state| matching::is_answered_by(position, time, state)) {
                    middle.cache.insert(key_hash, &state);
                    return found(state, Source::Table);
                }
            }
        }
    }
}
