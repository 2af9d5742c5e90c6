//! The uploads in flight on this gateway: copies join, and the results tail finds who is waiting.
//!
//! One [`Flight`] per key hash and fingerprint does the work; any number of requests watch its [`Stage`].
//! It is registered ("armed") before anything is looked up, so that no result can pass unseen between looking
//! and waiting.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;

use metrics::Gauge;
use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::result::ResultRecord;
use milepost_shared::location::fingerprint::Fingerprint;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::answer::outcome::{Receipt, Unavailable};

/// Most results kept for one flight until it reads them. What overflows is found in the table.
const RESULTS_MAX: usize = 64;

/// How far an upload has come.
#[derive(Debug, Clone)]
pub enum Stage {
    /// Looked up, or on its way to the journal.
    Started,
    /// The journal has it.
    Published(Receipt),
    /// It ended.
    Ended(End),
}

/// How a flight ended.
#[derive(Debug, Clone)]
pub enum End {
    /// The state that answers it, of this upload or another under its key.
    Found {
        /// What the key stands for.
        state: KeyState,
        /// Where it was found.
        source: Source,
    },
    /// It could not be published.
    Unavailable(Unavailable),
}

/// Where an answer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// In the cache; nothing was published.
    Cache,
    /// In the table, before publishing or after.
    Table,
    /// On the results topic, for a record that turned out to be a copy.
    Results,
    /// The upload's own record claimed the key.
    Own,
}

struct Armed {
    id: u64,
    fingerprint: Fingerprint,
    stage: watch::Sender<Stage>,
    results: mpsc::Sender<Arc<ResultRecord>>,
}

#[derive(Default)]
struct Flights {
    by_key: HashMap<KeyHash, Vec<Armed>>,
    next_id: u64,
}

/// All flights. Cheap to clone. There are at most as many as requests in flight, which the server bounds, and records on
/// their way to the journal, which the publisher bounds.
#[derive(Clone)]
pub struct InFlight(Arc<Shared>);

struct Shared {
    flights: Mutex<Flights>,
    count: Gauge,
}

impl Default for InFlight {
    fn default() -> Self {
        let count = metrics::gauge!("milepost_gateway_in_flight");
        count.set(0);
        Self(Arc::new(Shared { flights: Mutex::default(), count }))
    }
}

/// The part that a request has in a flight.
pub enum Role {
    /// It is the first: it has to do the work.
    Leads {
        /// Its flight.
        flight: Flight,
        /// Results of the key, of any record, since the flight was armed.
        results: mpsc::Receiver<Arc<ResultRecord>>,
        /// How far the flight is.
        watching: watch::Receiver<Stage>,
    },
    /// A copy is on its way already.
    Joins(watch::Receiver<Stage>),
}

impl InFlight {
    /// Joins a copy in flight, if `may_join`, else arms a new flight.
    #[must_use]
    pub fn join_or_lead(&self, key_hash: KeyHash, fingerprint: Fingerprint, may_join: bool) -> Role {
        let mut flights = self.0.flights.lock();
        let id = flights.next_id;
        flights.next_id += 1;
        let armed = flights.by_key.entry(key_hash).or_default();
        if let Some(copy) = armed.iter().find(|copy| may_join && copy.fingerprint == fingerprint) {
            return Role::Joins(copy.stage.subscribe());
        }
        let (stage, watching) = watch::channel(Stage::Started);
        let (results, arriving) = mpsc::channel(RESULTS_MAX);
        armed.push(Armed { id, fingerprint, stage: stage.clone(), results });
        drop(flights);
        self.0.count.increment(1);
        let flight = Flight { in_flight: self.clone(), key_hash, id, stage };
        Role::Leads { flight, results: arriving, watching }
    }

    /// Hands a result to all flights of its key. Never waits for them.
    pub fn notify(&self, result: &ResultRecord) {
        let flights = self.0.flights.lock();
        let Some(armed) = flights.by_key.get(&result.key_hash) else { return };
        let result = Arc::new(result.clone());
        for flight in armed {
            // A flight that is full or gone does not need it: the table has it too.
            let _ = flight.results.try_send(Arc::clone(&result));
        }
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.flights.lock().by_key.is_empty()
    }

    /// Takes a flight off the list if `leave` agrees, given the number of requests watching it.
    fn remove(&self, key_hash: KeyHash, id: u64, leave: impl FnOnce(usize) -> bool) -> bool {
        let mut flights = self.0.flights.lock();
        let Slot::Occupied(mut armed) = flights.by_key.entry(key_hash) else { return true };
        let Some(at) = armed.get().iter().position(|flight| flight.id == id) else { return true };
        if !leave(armed.get()[at].stage.receiver_count()) {
            return false;
        }
        armed.get_mut().swap_remove(at);
        if armed.get().is_empty() {
            armed.remove();
        }
        self.0.count.decrement(1);
        true
    }
}

/// One upload on its way. Dropping it ends it, in a panic too: those who watch see that nothing more will come.
pub struct Flight {
    in_flight: InFlight,
    key_hash: KeyHash,
    id: u64,
    stage: watch::Sender<Stage>,
}

impl Flight {
    /// Lets all who watch know that the journal has the upload.
    pub fn published(&self, receipt: Receipt) {
        self.stage.send_replace(Stage::Published(receipt));
    }

    /// Lets all who watch know how it ended.
    pub fn end(self, end: End) {
        self.stage.send_replace(Stage::Ended(end));
    }

    /// Returns once nobody watches any more; then the flight is off the list and nobody can join.
    pub async fn abandoned(&self) {
        loop {
            self.stage.closed().await;
            if self.in_flight.remove(self.key_hash, self.id, |watching| watching == 0) {
                return;
            }
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.in_flight.remove(self.key_hash, self.id, |_| true);
    }
}

#[cfg(test)]
mod tests {
    use milepost_shared::journal::account::AccountId;
    use milepost_shared::journal::clock::JournalTime;
    use milepost_shared::journal::position::Position;
    use uuid::Uuid;

    use super::*;

    const KEY: KeyHash = KeyHash([1; 32]);
    const A: Fingerprint = Fingerprint([1; 32]);
    const B: Fingerprint = Fingerprint([2; 32]);

    fn lead(in_flight: &InFlight, fingerprint: Fingerprint) -> (Flight, watch::Receiver<Stage>) {
        let (flight, _, watching) = lead_with_results(in_flight, fingerprint);
        (flight, watching)
    }

    fn lead_with_results(
        in_flight: &InFlight,
        fingerprint: Fingerprint,
    ) -> (Flight, mpsc::Receiver<Arc<ResultRecord>>, watch::Receiver<Stage>) {
        match in_flight.join_or_lead(KEY, fingerprint, true) {
            Role::Leads { flight, results, watching } => (flight, results, watching),
            Role::Joins(_) => panic!("joined"),
        }
    }

    fn join(in_flight: &InFlight, fingerprint: Fingerprint) -> watch::Receiver<Stage> {
        match in_flight.join_or_lead(KEY, fingerprint, true) {
            Role::Leads { .. } => panic!("leads"),
            Role::Joins(watching) => watching,
        }
    }

    fn result(offset: i64) -> ResultRecord {
        let source = Position::new(0, offset);
        ResultRecord {
            key_hash: KEY,
            record: source,
            state: KeyState {
                account: AccountId(Uuid::nil()),
                fingerprint: A,
                status: 200,
                body: bytes::Bytes::new(),
                accepted_at: JournalTime(0),
                expires_at: JournalTime(9),
                source,
            },
        }
    }

    #[test]
    fn a_copy_joins_and_another_upload_under_the_key_does_not() {
        let in_flight = InFlight::default();
        let (first, _watching) = lead(&in_flight, A);
        let copy = join(&in_flight, A);
        let (_other, _) = lead(&in_flight, B);
        first.end(End::Unavailable(Unavailable::Journal));
        assert!(matches!(&*copy.borrow(), Stage::Ended(End::Unavailable(Unavailable::Journal))));
        let _ = lead(&in_flight, A);
    }

    #[test]
    fn a_flight_that_must_not_be_joined_is_not() {
        let in_flight = InFlight::default();
        let (_first, _) = lead(&in_flight, A);
        assert!(matches!(in_flight.join_or_lead(KEY, A, false), Role::Leads { .. }));
    }

    #[test]
    fn nothing_is_left_when_flights_end_however_they_end() {
        let in_flight = InFlight::default();
        let (first, watching) = lead(&in_flight, A);
        let (second, _) = lead(&in_flight, B);
        drop(first);
        assert!(watching.has_changed().is_err(), "who watched must see that the flight is gone");
        second.end(End::Unavailable(Unavailable::Overload));
        assert!(in_flight.is_empty());
    }

    #[test]
    fn everybody_under_the_key_gets_the_result_and_a_full_queue_keeps_the_first() {
        let in_flight = InFlight::default();
        let (_first, mut first, _) = lead_with_results(&in_flight, A);
        let (_second, mut second, _) = lead_with_results(&in_flight, B);
        for offset in 0..100 {
            in_flight.notify(&result(offset));
        }
        in_flight.notify(&ResultRecord { key_hash: KeyHash([9; 32]), ..result(0) });
        for results in [&mut first, &mut second] {
            assert_eq!(*results.try_recv().unwrap(), result(0));
            assert_eq!(results.len(), RESULTS_MAX - 1);
        }
    }

    #[tokio::test]
    async fn a_flight_is_abandoned_only_when_the_last_watcher_has_gone() {
        let in_flight = InFlight::default();
        let (flight, leader) = lead(&in_flight, A);
        let copy = join(&in_flight, A);
        let mut abandoned = tokio::spawn(async move { flight.abandoned().await });
        drop(leader);
        tokio::task::yield_now().await;
        assert!(!abandoned.is_finished());
        drop(copy);
        (&mut abandoned).await.unwrap();
        assert!(in_flight.is_empty());
    }
}
