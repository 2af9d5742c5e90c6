//! The gateways: what one remembers, and what any of them would say.
//!
//! An answer is not a step of the model. In every state, all answers that could be given at that moment are made and
//! checked: whoever waits, at whichever gateway, since whenever.

use std::sync::Arc;

use milepost_gateway::answer::matching::{self, UNKNOWN_TIME};
use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::result::ResultRecord;

use crate::journal::{KEY, Record, Upload, at};
use crate::universe::Universe;

/// How far the two gateways' estimates of journal time are off, in ticks: one is behind, one is ahead.
pub const SKEWS: [i64; 2] = [-1, 1];

/// The cache of either gateway. What one remembers has an influence on nothing but what it says, so that one cache, read
/// with both clocks, goes through all that two could hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Cache(Option<Arc<KeyState>>);

impl Cache {
    /// Remembers a state, unless a newer one is known.
    pub fn remember(&mut self, state: &Arc<KeyState>) {
        if self.0.as_ref().is_none_or(|known| known.source.offset < state.source.offset) {
            self.0 = Some(Arc::clone(state));
        }
    }

    /// What it remembers.
    #[must_use]
    pub fn get(&self) -> Option<&KeyState> {
        self.0.as_deref()
    }
}

/// The status of the answer to an upload: the state's own, if it is of the same upload.
#[must_use]
pub fn status(upload: Upload, state: &KeyState) -> u16 {
    if state.fingerprint == upload.fingerprint(None) { state.status } else { 422 }
}

/// The states that a gateway would answer from at once, without publishing: from its cache or the table.
pub fn at_once(universe: &Universe) -> impl Iterator<Item = &KeyState> {
    let known = [universe.cache.get(), universe.database.newest()].into_iter().flatten();
    known.filter(|state| SKEWS.iter().any(|skew| state.is_open_at(JournalTime(universe.now.0 + skew))))
}

/// Whether all that could be answered in the end is right: pairs of a record in the journal, by offset, and a state that
/// would answer it. These are the results of the topic that a gateway takes for the record's own, whether the broker gave
/// it the record's time or not; the newest row of the table; and what is shown when somebody asks for the record's status.
#[must_use]
pub fn all_in_the_end(universe: &Universe, is_right: impl Fn(i64, &KeyState) -> bool) -> bool {
    let rows: Vec<KeyState> = universe.database.keys.iter().map(|row| KeyState::clone(row)).collect();
    let results: Vec<ResultRecord> = universe
        .results
        .iter()
        .map(|(of, state)| ResultRecord { key_hash: KEY, record: at(*of), state: KeyState::clone(state) })
        .collect();
    universe.journal.records().all(|(offset, Record { time, .. })| {
        let record = at(offset);
        let is_result_for = |result: &&ResultRecord| {
            matching::is_result_for(record, time, result)
                || matching::is_result_for(record, UNKNOWN_TIME, result)
        };
        let known = [universe.cache.get(), rows.last()].into_iter().flatten();
        results
            .iter()
            .filter(is_result_for)
            .map(|result| &result.state)
            .chain(known.filter(|state| matching::is_answered_by(record, time, state)))
            .chain(matching::answer_of(record, time, &rows))
            .all(|state| is_right(offset, state))
    })
}
