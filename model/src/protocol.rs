//! The protocol as a transition system: what may happen next, in any universe.

use stateright::{Model, Property};

use crate::journal::Upload;
use crate::phones::Step;
use crate::planted::PlantedBug;
use crate::property;
use crate::size::{Focus, Size};
use crate::universe::Universe;

/// The protocol, within bounds, with a bug planted in it or none.
#[derive(Debug, Clone, Copy)]
pub struct Protocol {
    /// The bounds.
    pub size: Size,
    /// The bug.
    pub planted: Option<PlantedBug>,
}

/// A step. Consumers are numbered by how far they are, and so change places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Time passes.
    Tick,
    /// A gateway publishes an upload. It may do so with one that is known: its look-up was earlier, or failed.
    Publish(Upload),
    /// Something happens to the points of phone apps.
    Phones(Step),
    /// A gateway reads a result: the number in the topic.
    ReadResult(usize),
    /// A gateway looks into the table.
    LookUp,
    /// A gateway crashes and starts again with an empty cache. Who waited there comes again, or does not.
    CrashGateway,
    /// A consumer is assigned the partition.
    Assign(usize),
    /// The same, after the group has lost its offsets.
    AssignWithoutGroupOffset(usize),
    /// A consumer resolves the records before an offset in a transaction, up to its commit, or is fenced off.
    Transact {
        /// The consumer.
        consumer: usize,
        /// The offset after the batch's last record.
        end: i64,
    },
    /// A consumer's transaction commits.
    Commit(usize),
    /// A consumer emits.
    Emit(usize),
    /// A consumer emits a result and gives up on its fact. Planted.
    GiveUp(usize),
    /// A consumer commits the group offset.
    CommitOffset(usize),
    /// A consumer looks after the table partitions.
    Maintain(usize),
    /// A consumer crashes.
    CrashConsumer(usize),
    /// Postgres loses the commits of the records from an offset on, and all that maintenance did.
    PutBack(i64),
}

impl Model for Protocol {
    type State = Universe;
    type Action = Action;

    fn init_states(&self) -> Vec<Universe> {
        vec![if self.size.focus == Focus::Points { Universe::with_phones() } else { Universe::new() }]
    }

    fn actions(&self, universe: &Universe, actions: &mut Vec<Action>) {
        if self.size.focus == Focus::Points {
            return actions.extend(universe.steps(&self.size, self.planted).into_iter().map(Action::Phones));
        }
        for consumer in 0..universe.consumers.len() {
            self.actions_of_consumer(consumer, universe, actions);
        }
        // While a transaction is open, whatever else happens might as well happen before it or after it.
        if universe.in_transaction() {
            return;
        }
        let is_empty = universe.journal.end() == 0;
        // The first record comes in the first width of a table partition: later would be the same, but for the date.
        if universe.now.0 < if is_empty { 1 } else { self.size.until } {
            actions.push(Action::Tick);
        }
        // It is of the first upload: what the two are called does not matter.
        let uploads =
            [Upload::A, Upload::B].into_iter().zip(self.size.copies).take(if is_empty { 1 } else { 2 });
        let allowed = uploads.filter(|(upload, most)| universe.journal.copies(*upload) < *most);
        actions.extend(allowed.map(|(upload, _)| Action::Publish(upload)));
        if self.size.focus == Focus::Answering {
            actions.extend((0..universe.results.len()).map(Action::ReadResult));
            actions.extend([Action::LookUp, Action::CrashGateway]);
        }
        if self.size.losses {
            actions.extend((0..universe.database.progress.next_offset.0).map(Action::PutBack));
        }
    }

    fn next_state(&self, last: &Universe, action: Action) -> Option<Universe> {
        let mut universe = last.clone();
        match action {
            Action::Tick => universe.now.0 += 1,
            Action::Publish(upload) => universe.journal.append(upload, universe.now),
            Action::Phones(step) => universe.step(step, &self.size, self.planted)?,
            Action::ReadResult(result) => universe.cache.remember(&last.results[result].1),
            Action::LookUp => universe.cache.remember(last.database.keys.last()?),
            Action::CrashGateway => universe.cache = Default::default(),
            Action::Assign(consumer) => universe.assign(consumer, last.group)?,
            Action::AssignWithoutGroupOffset(consumer) => universe.assign(consumer, None)?,
            Action::Transact { consumer, end } => universe.transact(consumer, end, self.planted)?,
            Action::Commit(consumer) => universe.commit(consumer, self.planted)?,
            Action::Emit(consumer) if self.size.focus == Focus::Answering => universe.emit_all(consumer)?,
            Action::Emit(consumer) => universe.emit(consumer, false)?,
            Action::GiveUp(consumer) => universe.emit(consumer, true)?,
            Action::CommitOffset(consumer) => universe.commit_offset(consumer)?,
            Action::Maintain(consumer) => {
                // One without the partition takes part.
                let _ = universe.note_emitted(consumer);
                universe.database.expire(last.journal.end(), last.now, self.planted);
            }
            Action::CrashConsumer(consumer) => universe.consumers[consumer] = None,
            Action::PutBack(end) => universe.put_back(end),
        }
        // Which consumer is which does not matter either.
        universe.consumers.sort_by_key(|consumer| {
            consumer.as_ref().map(|session| {
                let queued = session.queue.len();
                (session.next, session.persisted_below, queued, session.transaction.is_some())
            })
        });
        (universe != *last).then_some(universe)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        property::all(&self.size)
    }
}

impl Protocol {
    fn actions_of_consumer(&self, consumer: usize, universe: &Universe, actions: &mut Vec<Action>) {
        let in_transaction = universe.in_transaction();
        let Some(session) = &universe.consumers[consumer] else {
            if !in_transaction {
                actions.extend([Action::Assign(consumer), Action::Maintain(consumer)]);
                actions.extend(self.size.losses.then_some(Action::AssignWithoutGroupOffset(consumer)));
            }
            return;
        };
        actions.push(Action::CrashConsumer(consumer));
        if session.transaction.is_some() {
            return actions.push(Action::Commit(consumer));
        }
        let journal_end = universe.journal.end();
        let first_end = match self.size.focus {
            Focus::Answering | Focus::Points => journal_end.max(session.next + 1),
            Focus::Emission => session.next + 1,
        };
        actions.extend((first_end..=journal_end).map(|end| Action::Transact { consumer, end }));
        if in_transaction {
            return;
        }
        actions.push(Action::Maintain(consumer));
        if !session.queue.is_empty() {
            actions.push(Action::Emit(consumer));
            actions.extend(
                (self.planted == Some(PlantedBug::GiveUpOnAFact)).then_some(Action::GiveUp(consumer)),
            );
        }
        if self.size.focus == Focus::Emission {
            actions.push(Action::CommitOffset(consumer));
        }
    }
}
