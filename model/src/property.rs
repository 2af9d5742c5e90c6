//! What must hold at every moment, and what must be seen at some: a check of a protocol in which nothing interesting ever
//! happens proves nothing.

use milepost_shared::journal::answer::KeyState;
use stateright::Property;

use crate::gateway::{SKEWS, all_in_the_end, at_once, status};
use crate::journal::{TTL, at};
use crate::protocol::Protocol;
use crate::size::{Focus, Size};
use crate::world::World;

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

type Condition = fn(&Protocol, &World) -> bool;

/// All properties, as far as a world of this size can show them.
#[must_use]
pub fn all(size: &Size) -> Vec<Property<Protocol>> {
    let records: usize = size.copies.iter().sum();
    let seen: fn(&'static str, Condition) -> Property<Protocol> = Property::sometimes;
    let mut properties = vec![
        Property::always(ONCE, |_, world| once(world)),
        Property::always(ONE_ANSWER, |_, world| one_answer(world)),
        Property::always(CONFLICT, |_, world| conflict(world)),
        Property::always(OFFSETS_FOLLOW_DATA, |_, world| offsets_follow_data(world)),
        Property::always(FACTS, |_, world| facts(world)),
        seen("a batch is fenced off", |_, world| is_fenced_off(world)),
        seen("a consumer lags by more than the TTL", |_, world| lags(world)),
        seen("a fact is emitted again", |_, world| emits_again(world)),
        seen("a key expires", |_, world| has_expired(world)),
        seen("a window expires and a later one is remembered", |_, world| {
            has_expired(world) && !world.database.keys.is_empty()
        }),
    ];
    if size.focus == Focus::Answering {
        properties.push(seen("a cache knows what the table has forgotten", |_, world| {
            world.cache.get().is_some_and(|known| world.database.keys.iter().all(|row| **row != *known))
        }));
    } else {
        properties.push(seen("persisting goes on while emission waits", |_, world| {
            world.in_transaction()
                && world.consumers.iter().flatten().any(|session| !session.queue.is_empty())
        }));
    }
    if records > 2 {
        properties.push(seen("a copy in a later window is answered", |_, world| {
            !all_in_the_end(world, |offset, state| !(1..offset).contains(&state.source.offset))
        }));
    }
    if size.copies[1] > 0 {
        properties.push(seen("a conflict is answered", |_, world| {
            !all_in_the_end(world, |offset, state| status(world.journal.record(offset).upload, state) == 200)
        }));
    }
    if size.losses {
        properties.push(seen("what Postgres lost is persisted again", |_, world| persists_again(world)));
    }
    properties
}

fn once(world: &World) -> bool {
    let mut times: Vec<_> =
        world.database.locations.iter().map(|offset| world.journal.record(*offset).time).collect();
    times.sort();
    times.windows(2).all(|pair| pair[0].plus(TTL) <= pair[1])
}

/// Whether a state is the one that its window was opened with.
fn is_promised(world: &World, opener: i64, state: &KeyState) -> bool {
    let record = world.journal.record(opener);
    state.source == at(opener)
        && (state.accepted_at, state.expires_at) == (record.time, record.time.plus(TTL))
        && (state.status, &state.body[..]) == (200, record.upload.body())
        && state.fingerprint == record.upload.fingerprint()
}

fn one_answer(world: &World) -> bool {
    let promised: Vec<(i64, i64)> = world.journal.promised().collect();
    let opener =
        |offset: i64| promised.iter().find(|(record, _)| *record == offset).map(|(_, opener)| *opener);
    // The slower gateway may serve an answer for as long after the window as its clock is behind.
    let earliest = world.now.0 + SKEWS[0];
    at_once(world).all(|state| {
        let source = state.source.offset;
        opener(source) == Some(source) && is_promised(world, source, state) && state.expires_at.0 > earliest
    }) && all_in_the_end(world, |offset, state| {
        opener(offset).is_some_and(|opener| is_promised(world, opener, state))
    })
}

fn conflict(world: &World) -> bool {
    let upload = |offset: i64| world.journal.record(offset).upload;
    let conflicts: Vec<i64> = world
        .journal
        .promised()
        .filter(|(offset, opener)| upload(*offset) != upload(*opener))
        .map(|(offset, _)| offset)
        .collect();
    conflicts.iter().all(|offset| !world.database.locations.contains(offset))
        && all_in_the_end(world, |offset, state| {
            let expected = if conflicts.contains(&offset) { 422 } else { 200 };
            status(upload(offset), state) == expected
        })
}

/// A group offset beyond the progress is of commits that Postgres lost: consumers begin at the smaller of the two.
fn offsets_follow_data(world: &World) -> bool {
    let progress = &world.database.progress;
    let begins = world.group.unwrap_or(0).min(progress.next_offset);
    world.journal.openers().all(|opener| {
        let is_persisted = world.database.locations.contains(&opener);
        let is_emitted = world.accepted.contains(&opener);
        (is_persisted || opener >= progress.next_offset)
            && (is_emitted || opener >= begins.max(progress.emitted_offset))
    })
}

/// What the subscriber has is the beginning of what is to be persisted: a hole would never be filled.
fn facts(world: &World) -> bool {
    let mut openers = world.journal.openers();
    world.accepted.iter().all(|fact| openers.next() == Some(*fact))
}

fn is_fenced_off(world: &World) -> bool {
    let (end, progress) = (world.journal.end(), world.database.progress.next_offset);
    world.consumers.iter().flatten().any(|session| {
        session.next < end && session.transaction.is_none() && session.is_fenced_off(end, progress)
    })
}

fn lags(world: &World) -> bool {
    let next = world.database.progress.next_offset;
    next < world.journal.end() && world.journal.record(next).time.plus(TTL) <= world.now
}

fn emits_again(world: &World) -> bool {
    world.consumers.iter().flatten().any(|session| {
        matches!(session.queue.front(), Some(Some((_, true)))) && world.accepted.contains(&session.emitted())
    })
}

fn has_expired(world: &World) -> bool {
    world.database.keys.len() < world.database.locations.len()
}

fn persists_again(world: &World) -> bool {
    let transactions = world.consumers.iter().flatten().filter_map(|session| session.transaction.as_ref());
    transactions.flat_map(|open| &open.new).any(|row| world.accepted.contains(&row.source.offset))
}
