//! What must hold at every moment, and what must be seen at some: a check of a protocol in which nothing interesting ever
//! happens proves nothing.

use milepost_gateway::answer::safety::Known;
use milepost_shared::journal::answer::KeyState;
use stateright::Property;

use crate::gateway::{SKEWS, all_in_the_end, at_once, status};
use crate::journal::{TTL, at};
use crate::phones::{Request, Stage};
use crate::point::{App, Point};
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
/// Invariant 1: every point of a request that was answered with success is in the journal.
pub const SAFE: &str = "safe";
/// What is stored is what the journal holds first of a window.
pub const FIRST_STAYS: &str = "first stays";

type Condition = fn(&Protocol, &Universe) -> bool;

/// All properties, as far as a universe of this size can show them.
#[must_use]
pub fn all(size: &Size) -> Vec<Property<Protocol>> {
    let records: usize = size.copies.iter().sum();
    let seen: fn(&'static str, Condition) -> Property<Protocol> = Property::sometimes;
    let mut properties = vec![
        Property::always(ONCE, |_, universe| once(universe)),
        Property::always(FIRST_STAYS, |_, universe| first_stays(universe)),
        Property::always(OFFSETS_FOLLOW_DATA, |_, universe| offsets_follow_data(universe)),
        Property::always(FACTS, |_, universe| facts(universe)),
    ];
    if size.focus == Focus::Points {
        properties.push(Property::always(SAFE, |_, universe| safe(universe)));
        properties.extend(seen_of_points());
        properties.extend(if size.losses { seen_of_the_consumer() } else { seen_of_supersets() });
        return properties;
    }
    properties.extend([
        Property::always(ONE_ANSWER, |_, universe| one_answer(universe)),
        Property::always(CONFLICT, |_, universe| conflict(universe)),
        seen("a batch is fenced off", |_, universe| is_fenced_off(universe)),
        seen("a consumer lags by more than the TTL", |_, universe| lags(universe)),
        seen("a fact is emitted again", |_, universe| emits_again(universe)),
        seen("a key expires", |_, universe| has_expired(universe)),
        seen("a window expires and a later one is remembered", |_, universe| {
            has_expired(universe) && !universe.database.keys.is_empty()
        }),
    ]);
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

/// What must be seen where the points of phones are looked at.
fn seen_of_points() -> Vec<Property<Protocol>> {
    let seen: fn(&'static str, Condition) -> Property<Protocol> = Property::sometimes;
    vec![
        seen("both apps have published a point, through both gateways", |_, universe| {
            let is_published = |request: &&Request| request.points[0] == (Point::Shared, Stage::Published);
            let mut published = universe.phones.requests.iter().filter(is_published);
            published.next().is_some_and(|one| {
                published.any(|other| one.app != other.app && one.gateway != other.gateway)
            })
        }),
        seen("the journal holds a point from both apps", |_, universe| {
            let upload = |offset| universe.journal.record(offset).upload;
            universe.journal.promised().any(|(offset, opener)| upload(offset) != upload(opener))
        }),
        seen("a point is in the journal of which nobody was told", |_, universe| {
            let is_told = universe.phones.apps.iter().any(|sending| sending.safe > 0);
            universe.journal.end() > 0 && universe.phones.requests.is_empty() && !is_told
        }),
        seen("an answer is lost", |_, universe| {
            universe.phones.apps.iter().any(|sending| sending.deleted < sending.safe)
        }),
        seen("of a request some points are known and others published", |_, universe| {
            universe
                .phones
                .requests
                .iter()
                .any(|request| matches!(request.points[..], [(_, Stage::Known(_)), (_, Stage::Published)]))
        }),
        seen("both apps have heard that all is safe", |_, universe| {
            App::ALL.iter().all(|app| universe.phones.apps[*app as usize].deleted == app.points().len())
        }),
    ]
}

/// What must be seen besides where apps send again.
fn seen_of_supersets() -> Vec<Property<Protocol>> {
    let seen: fn(&'static str, Condition) -> Property<Protocol> = Property::sometimes;
    vec![
        seen("a superset is sent while the request before it goes on", |_, universe| {
            let of = |app| universe.phones.requests.iter().filter(move |request| request.app == app);
            App::ALL
                .into_iter()
                .any(|app| of(app).any(|one| of(app).any(|other| one.points.len() < other.points.len())))
        }),
        seen(
            "all points of a request are known by the acknowledgement, and not stored yet",
            |_, universe| universe.database.locations.is_empty() && is_answered_by(universe, Known::Recent),
        ),
        seen("all points of a request are known from the cache", |_, universe| {
            is_answered_by(universe, Known::Cache)
        }),
        seen("all points of a request are known from the table", |_, universe| {
            is_answered_by(universe, Known::Table)
        }),
    ]
}

/// What must be seen besides where windows end and the consumer crashes.
fn seen_of_the_consumer() -> Vec<Property<Protocol>> {
    let seen: fn(&'static str, Condition) -> Property<Protocol> = Property::sometimes;
    vec![
        seen("a point is stored again after its window", |_, universe| {
            let stored = |row: &i64| universe.journal.record(*row).upload.once();
            let rows = &universe.database.locations;
            rows.iter().any(|one| rows.iter().any(|other| one != other && stored(one) == stored(other)))
        }),
        seen("a fact is emitted again", |_, universe| emits_again(universe)),
        seen("a consumer lags by the TTL", |_, universe| lags(universe)),
    ]
}

/// Whether a request with more than one point is answered without publishing any.
fn is_answered_by(universe: &Universe, known: Known) -> bool {
    universe.phones.requests.iter().any(|request| {
        request.points.len() > 1 && request.points.iter().all(|(_, stage)| *stage == Stage::Known(known))
    })
}

fn safe(universe: &Universe) -> bool {
    App::ALL.into_iter().all(|app| {
        let safe = universe.phones.apps[app as usize].safe;
        app.points()[..safe].iter().all(|point| universe.journal.has(*point))
    })
}

fn first_stays(universe: &Universe) -> bool {
    universe.database.locations.iter().all(|row| universe.journal.openers().any(|opener| opener == *row))
}

fn once(universe: &Universe) -> bool {
    let mut stored: Vec<_> = (universe.database.locations.iter())
        .map(|offset| universe.journal.record(*offset))
        .map(|record| (record.upload.once(), record.time))
        .collect();
    stored.sort();
    stored.windows(2).all(|pair| pair[0].0 != pair[1].0 || pair[0].1.plus(TTL) <= pair[1].1)
}

/// Whether a state is the one that its window was opened with.
fn is_promised(universe: &Universe, opener: i64, state: &KeyState) -> bool {
    let record = universe.journal.record(opener);
    state.source == at(opener)
        && (state.accepted_at, state.expires_at) == (record.time, record.time.plus(TTL))
        && (state.status, &state.body[..]) == (200, record.upload.body())
        && state.fingerprint == record.upload.fingerprint(None)
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
