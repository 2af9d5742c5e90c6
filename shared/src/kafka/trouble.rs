//! Troubles: errors that stand, and so are reported to operators, and errors that pass, and are not.
//!
//! Clients of Kafka report many an error only once, however long it lasts (an authorization that was taken away, a topic that
//! is gone), and others at every attempt, for ever. Both look like a program that has nothing to do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::{Metadata, MetadataPartition};

/// How long an error stands before operators see it. Longer than a [`Doubt`] may last, so that they never see one that
/// was reported once and has passed.
pub const PATIENCE: Duration = Duration::from_secs(8);
/// How long a [`Doubt`] lasts before it is asked about, and how long the answer may take.
const ASK_AFTER: Duration = Duration::from_secs(3);

/// The errors of a program's parts. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Troubles(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Spares callers the lock when all is well, which they say many times a second.
    any: AtomicBool,
    troubles: Mutex<BTreeMap<&'static str, Trouble>>,
}

#[derive(Debug)]
struct Trouble {
    first: Instant,
    last: Instant,
    error: String,
}

impl Troubles {
    /// Notes that something fails, and why. It counts from the first time on.
    pub fn note(&self, what: &'static str, error: impl Into<String>, now: Instant) {
        let mut troubles = self.0.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Trouble { first: now, last: now, error: String::new() };
        let trouble = troubles.entry(what).or_insert(new);
        (trouble.last, trouble.error) = (now, error.into());
        self.0.any.store(true, Ordering::Release);
    }

    /// Notes that something works again.
    pub fn over(&self, what: &'static str) {
        self.forget(|of, _| of == what);
    }

    /// Forgets what has not failed since then: nobody has tried it, maybe.
    pub fn over_since(&self, what: &'static str, then: Instant) {
        self.forget(|of, trouble| of == what && trouble.last < then);
    }

    fn forget(&self, is_over: impl Fn(&str, &Trouble) -> bool) {
        if self.0.any.load(Ordering::Acquire) {
            let mut troubles = self.0.troubles.lock().unwrap_or_else(PoisonError::into_inner);
            troubles.retain(|what, trouble| !is_over(what, trouble));
            self.0.any.store(!troubles.is_empty(), Ordering::Release);
        }
    }

    /// The error that has stood longest, if that is [`PATIENCE`].
    #[must_use]
    pub fn standing(&self, now: Instant) -> Option<String> {
        let troubles = self.0.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = troubles.values().min_by_key(|trouble| trouble.first)?;
        (now.saturating_duration_since(trouble.first) >= PATIENCE).then(|| trouble.error.clone())
    }
}

/// What is wrong with a topic, by the brokers' own word, or with the brokers; names the topic. Blocks up to `timeout`.
pub fn ask<C: ClientContext>(client: &Client<C>, topic: &str, timeout: Duration) -> Option<String> {
    match client.fetch_metadata(Some(topic), timeout) {
        Ok(metadata) => of_topic(&metadata, topic),
        Err(error) => Some(format!("{topic}: {error}")),
    }
}

fn of_topic(metadata: &Metadata, topic: &str) -> Option<String> {
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Some(format!("{topic}: the brokers do not list it"));
    };
    if let Some(error) = found.error() {
        return Some(format!("{topic}: {}", RDKafkaErrorCode::from(error)));
    }
    let fault = |partition: &MetadataPartition| {
        let error = RDKafkaErrorCode::from(partition.error()?);
        Some(format!("{topic}, partition {}: {error}", partition.id()))
    };
    found.partitions().iter().filter(|partition| partition.leader() < 0).find_map(fault)
}

/// Whether an error that the client reported once still stands: it is asked about, and gone if it is not reported again.
#[derive(Debug, Clone, Copy)]
pub struct Doubt {
    since: Instant,
    asked: bool,
}

/// What to do about a [`Doubt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing yet.
    Wait,
    /// Have the client try once more what failed, so that it reports the error again if it stands.
    Ask,
    /// It was not reported again.
    Gone,
}

impl Doubt {
    /// An error was reported.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { since: now, asked: false }
    }

    /// What to do now.
    pub fn look(&mut self, now: Instant) -> Next {
        if now.saturating_duration_since(self.since) < ASK_AFTER {
            return Next::Wait;
        }
        let next = if self.asked { Next::Gone } else { Next::Ask };
        *self = Self { since: now, asked: true };
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_reported_when_it_has_stood_for_long_enough_and_no_longer_than_it_stands() {
        let (troubles, begun) = (Troubles::default(), Instant::now());
        assert_eq!(troubles.standing(begun), None);
        troubles.note("reading", "first", begun);
        troubles.note("reading", "again", begun + PATIENCE / 2);
        troubles.note("committing", "later", begun + PATIENCE);
        assert_eq!(troubles.standing(begun + PATIENCE / 2), None);
        assert_eq!(troubles.standing(begun + PATIENCE).as_deref(), Some("again"));
        troubles.over("reading");
        assert_eq!(troubles.standing(begun + PATIENCE), None);
        assert_eq!(troubles.standing(begun + 2 * PATIENCE).as_deref(), Some("later"));
        troubles.over_since("committing", begun + PATIENCE);
        assert!(troubles.standing(begun + 2 * PATIENCE).is_some());
        troubles.over_since("committing", begun + 2 * PATIENCE);
        assert_eq!(troubles.standing(begun + 2 * PATIENCE), None);
    }

    #[test]
    fn an_error_that_was_reported_once_and_has_passed_is_gone_before_operators_see_it() {
        let (troubles, begun) = (Troubles::default(), Instant::now());
        let mut doubt = Doubt::new(begun);
        troubles.note("reading", "once", begun);
        let gone = (0..).map(|tenths| begun + Duration::from_millis(100 * tenths)).find(|now| {
            assert_eq!(troubles.standing(*now), None);
            doubt.look(*now) == Next::Gone
        });
        assert!(gone.is_some());
    }

    #[test]
    fn an_error_that_is_reported_once_is_asked_about_and_gone_only_if_it_is_not_reported_again() {
        let begun = Instant::now();
        let mut doubt = Doubt::new(begun);
        assert_eq!(doubt.look(begun + ASK_AFTER / 2), Next::Wait);
        assert_eq!(doubt.look(begun + ASK_AFTER), Next::Ask);
        assert_eq!(doubt.look(begun + ASK_AFTER), Next::Wait);
        let mut told_again = Doubt::new(begun + ASK_AFTER);
        assert_eq!(doubt.look(begun + 2 * ASK_AFTER), Next::Gone);
        assert_eq!(told_again.look(begun + 2 * ASK_AFTER), Next::Ask);
    }
}
