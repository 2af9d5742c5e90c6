//! What must hold at every moment, and what must be seen at some: a check of a protocol in which nothing interesting ever
//! happens proves nothing.

use milepost_shared::journal::answer::KeyState;
use stateright::Property;

use crate::gateway::{SKEWS, all_in_the_end, at_once, status};
use crate::journal::{TTL, at};
use crate::protocol::Protocol;
use crate::size::{Focus, Size};
use crate::universe::Universe;

/// Invariant 2: per key and window at most one upload is persisted.
pub const ONCE: &str = "once";
/// Invariant 3: all answers of a window are the promised one, byte for byte.
pub const ONE_ANSWER: &str = "one answer";
/// Invariant 5: another upload under a used key is answered 422 and never persisted.
pub const CONFLICT: &str = "conflict";
/// Invariant 8: no offset passes a record that is not persisted, and emitted, or recognised as a copy or conflict.
pub const OFFSETS_FOLLOW_DATA: &str = "offsets follow data";
/// Invariant 9: a subscriber gets each upload persisted once, in order, without a hole.
pub const FACTS: &str = "facts";

type Condition = fn(&Protocol, &Universe) -> bool;

/// All properties, as far as a universe of this size can show them.
#[must_use]
pub fn all(size: &Size) -> Vec<Property<Protocol>> {
    let records: usize = size.copies.iter().sum();
    let seen: fn(&'static str, Condition) -> Property<Protocol> = Property::sometimes;
    let mut properties = vec![
        Property::always(ONCE, |_, universe| once(universe)),
        Property::always(ONE_ANSWER, |_, universe| one_answer(universe)),
        Property::always(CONFLICT, |_, universe| conflict(universe)),
        Property::always(OFFSETS_FOLLOW_DATA, |_, universe| offsets_follow_data(universe)),
        Property::always(FACTS, |_, universe| facts(universe)),
        seen("a batch is fenced off", |_, universe| is_fenced_off(universe)),
        seen("a consumer lags by more than the TTL", |_, universe| lags(universe)),
        seen("a fact is emitted again", |_, universe| emits_again(universe)),
        seen("a key expires", |_, universe| has_expired(universe)),
        seen("a window expires and a later one is remembered", |_, universe| {
            has_expired(universe) && !universe.database.keys.is_empty()
        }),
    ];
    if size.focus == Focus::Answering {
        properties.push(seen("a cache knows what the table has forgotten", |_, universe| {
            universe.cache.get().is_some_and(|known| universe.database.keys.iter().all(|row| **row != *known))
        }));
    } else {
        properties.push(seen("persisting goes on while emission waits", |_, universe| {
            universe.in_transaction()
                && universe.consumers.iter().flatten().any(|session| !session.queue.is_empty())
        }));
    }
    if records > 2 {
        properties.push(seen("a copy in a later window is answered", |_, universe| {
            !all_in_the_end(universe, |offset, state| !(1..offset).contains(&state.source.offset.0))
        }));
    }
    if size.copies[1] > 0 {
        properties.push(seen("a conflict is answered", |_, universe| {
            !all_in_the_end(universe, |offset, state| {
                status(universe.journal.record(offset).upload, state) == 200
            })
        }));
    }
    if size.losses {
        properties
            .push(seen("what Postgres lost is persisted again", |_, universe| persists_again(universe)));
    }
    properties
}

fn once(universe: &Universe) -> bool {
    let mut times: Vec<_> =
        universe.database.locations.iter().map(|offset| universe.journal.record(*offset).time).collect();
    times.sort();
    times.windows(2).all(|pair| pair[0].plus(TTL) <= pair[1])
}

/// Whether a state is the one that its window was opened with.
fn is_promised(universe: &Universe, opener: i64, state: &KeyState) -> bool {
    let record = universe.journal.record(opener);
    state.source == at(opener)
        && (state.accepted_at, state.expires_at) == (record.time, record.time.plus(TTL))
        && (state.status, &state.body[..]) == (200, record.upload.body())
        && state.fingerprint == record.upload.fingerprint()
}

fn one_answer(universe: &Universe) -> bool {
    let promised: Vec<(i64, i64)> = universe.journal.promised().collect();
    let opener =
        |offset: i64| promised.iter().find(|(record, _)| *record == offset).map(|(_, opener)| *opener);
    // The slower gateway may serve an answer for as long after the window as its clock is behind.
    let earliest = universe.now.0 + SKEWS[0];
    at_once(universe).all(|state| {
        let source = state.source.offset.0;
        opener(source) == Some(source)
            && is_promised(universe, source, state)
            && state.expires_at.0 > earliest
    }) && all_in_the_end(universe, |offset, state| {
        opener(offset).is_some_and(|opener| is_promised(universe, opener, state))
    })
}

fn conflict(universe: &Universe) -> bool {
    let upload = |offset: i64| universe.journal.record(offset).upload;
    let conflicts: Vec<i64> = universe
        .journal
        .promised()
        .filter(|(offset, opener)| upload(*offset) != upload(*opener))
        .map(|(offset, _)| offset)
        .collect();
    conflicts.iter().all(|offset| !universe.database.locations.contains(offset))
        && all_in_the_end(universe, |offset, state| {
            let expected = if conflicts.contains(&offset) { 422 } else { 200 };
            status(upload(offset), state) == expected
        })
}

/// A group offset beyond the progress is of commits that Postgres lost: consumers begin at the smaller of the two.
fn offsets_follow_data(universe: &Universe) -> bool {
    let progress = &universe.database.progress;
    let begins = universe.group.unwrap_or(0).min(progress.next_offset.0);
    universe.journal.openers().all(|opener| {
        let is_persisted = universe.database.locations.contains(&opener);
        let is_emitted = universe.accepted.contains(&opener);
        (is_persisted || opener >= progress.next_offset.0)
            && (is_emitted || opener >= begins.max(progress.emitted_offset.0))
    })
}

/// What the subscriber has is the beginning of what is to be persisted: a hole would never be filled.
fn facts(universe: &Universe) -> bool {
    let mut openers = universe.journal.openers();
    universe.accepted.iter().all(|fact| openers.next() == Some(*fact))
}

fn is_fenced_off(universe: &Universe) -> bool {
    let (end, progress) = (universe.journal.end(), universe.database.progress.next_offset.0);
    universe.consumers.iter().flatten().any(|session| {
        session.next < end && session.transaction.is_none() && session.is_fenced_off(end, progress)
    })
}

fn lags(universe: &Universe) -> bool {
    let next = universe.database.progress.next_offset.0;
    next < universe.journal.end() && universe.journal.record(next).time.plus(TTL) <= universe.now
}

fn emits_again(universe: &Universe) -> bool {
    universe.consumers.iter().flatten().any(|session| {
        matches!(session.queue.front(), Some(Some((_, true))))
            && universe.accepted.contains(&session.emitted())
    })
}

fn has_expired(universe: &Universe) -> bool {
    universe.database.keys.len() < universe.database.locations.len()
}

fn persists_again(universe: &Universe) -> bool {
    let transactions = universe.consumers.iter().flatten().filter_map(|session| session.transaction.as_ref());
    transactions.flat_map(|open| &open.new).any(|row| universe.accepted.contains(&row.source.offset.0))
}
