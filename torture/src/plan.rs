//! Plans: how much load, which faults, how long. Pure; together with a seed a plan says everything about a run but what the
//! machine makes of it.

use std::time::Duration;

use crate::fault::{CrashKind, Fault, Link, Target, Trouble};

const SECOND: Duration = Duration::from_secs(1);

/// What a run does.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Its name on the command line.
    pub name: String,
    /// `IDEMPOTENCY_TTL`: some seconds, so that windows end during the run.
    pub ttl: Duration,
    /// Partitions of the journal.
    pub partitions: u16,
    /// Load goes on at least this long, and until all faults are over.
    pub lasts: Duration,
    /// And until this many operations have begun.
    pub operations: u64,
    /// Operations under way at once, at most.
    pub clients: usize,
    /// Operations begun per second, at most.
    pub pace: u32,
    /// How long load comes and then rests, again and again; `None` if it never rests.
    pub rhythm: Option<(Duration, Duration)>,
    /// Consumers at work.
    pub consumers: usize,
    /// `BATCH_RECORDS_MAX`: few, so that a batch is full soon and consumers pause.
    pub batch_records: u32,
    /// How often consumers must have paused.
    pub pauses: u64,
    /// The faults to choose from; each comes as often as it is here at least, in an order that the seed gives.
    pub faults: Vec<Fault>,
    /// How many episodes there are, the same fault again included; at least as many as `faults`.
    pub episodes: usize,
    /// Episodes under way at once, at most.
    pub at_once: usize,
    /// Shortest and longest time until a fault is healed.
    pub episode: (Duration, Duration),
}

/// The targets.
const TARGETS: [Target; 4] = [Target::Gateway, Target::Consumer, Target::Kafka, Target::Postgres];
/// The links.
const LINKS: [Link; 4] =
    [Link::GatewayKafka, Link::GatewayPostgres, Link::ConsumerKafka, Link::ConsumerPostgres];
/// The troubles of a link.
const TROUBLES: [Trouble; 5] =
    [Trouble::Cut, Trouble::Silent, Trouble::Slow, Trouble::Lossy, Trouble::ReplyLost];

/// Every kind of fault there is.
#[must_use]
pub fn all_faults() -> Vec<Fault> {
    let mut faults = Vec::new();
    for target in TARGETS {
        faults.extend([Fault::Kill(target), Fault::Pause(target), Fault::Restart(target)]);
    }
    faults.extend(
        (0..milepost_shared::program::crash::CrashPoint::ALL.len()).map(|at| Fault::Crash(CrashKind(at))),
    );
    for link in LINKS {
        faults.extend(TROUBLES.map(|trouble| Fault::Link(link, trouble)));
    }
    for target in [Target::Gateway, Target::Consumer] {
        faults.extend([Fault::ClockAhead(target), Fault::ClockBehind(target)]);
    }
    faults.extend([Target::Kafka, Target::Postgres].map(Fault::DiskFull));
    faults.extend([
        Fault::TerminateBackends,
        Fault::ReadOnly,
        Fault::TableLock,
        Fault::ConnectionsExhausted,
        Fault::OffsetsDeleted,
        Fault::Rebalances,
        Fault::TinyCache,
        Fault::Poison,
        Fault::PutBack,
    ]);
    faults
}

/// It takes one part away, for as short as is wanted.
fn is_brief(fault: Fault) -> bool {
    match fault {
        Fault::Link(..) => true,
        Fault::Kill(target) | Fault::Restart(target) => {
            matches!(target, Target::Gateway | Target::Consumer)
        }
        _ => false,
    }
}

impl Plan {
    /// For every change: three minutes at most with start and checks, a dozen faults.
    #[must_use]
    pub fn smoke() -> Self {
        Self {
            name: "smoke".to_owned(),
            ttl: 8 * SECOND,
            partitions: 4,
            lasts: 60 * SECOND,
            operations: 2000,
            clients: 60,
            pace: 100,
            rhythm: None,
            consumers: 2,
            batch_records: 10,
            pauses: 1,
            faults: vec![
                Fault::Kill(Target::Gateway),
                Fault::Kill(Target::Consumer),
                Fault::Kill(Target::Postgres),
                Fault::Restart(Target::Gateway),
                Fault::Restart(Target::Consumer),
                Fault::Pause(Target::Consumer),
                Fault::Crash(CrashKind(1)),
                Fault::Crash(CrashKind(6)),
                Fault::Link(Link::GatewayKafka, Trouble::Cut),
                Fault::Link(Link::ConsumerPostgres, Trouble::ReplyLost),
                Fault::TerminateBackends,
                Fault::TinyCache,
                Fault::Poison,
            ],
            episodes: 13,
            at_once: 2,
            episode: (2 * SECOND, 5 * SECOND),
        }
    }

    /// All faults, each at least once: about ten minutes.
    #[must_use]
    pub fn standard() -> Self {
        let faults = all_faults();
        Self {
            name: "default".to_owned(),
            ttl: 10 * SECOND,
            partitions: 6,
            lasts: 360 * SECOND,
            operations: 20_000,
            clients: 150,
            pace: 150,
            rhythm: None,
            consumers: 2,
            // At ten, retries during an outage outrun the consumers, and the journal of a few keys grows without end.
            batch_records: 100,
            pauses: 3,
            episodes: faults.len() + 25,
            faults,
            at_once: 3,
            episode: (3 * SECOND, 10 * SECOND),
        }
    }

    /// A million uploads and five hundred faults, most of them brief ones that leave each other alone: half an hour.
    #[must_use]
    pub fn long() -> Self {
        let mut faults = all_faults();
        let brief: Vec<Fault> = faults.iter().copied().filter(|fault| is_brief(*fault)).collect();
        faults.extend(brief.repeat(12));
        Self {
            name: "long".to_owned(),
            lasts: 600 * SECOND,
            operations: 920_000,
            clients: 500,
            pace: 1500,
            batch_records: 200,
            episodes: 520,
            faults,
            at_once: 4,
            episode: (SECOND, 4 * SECOND),
            ..Self::standard()
        }
    }

    /// By its name; `None` if there is no such plan.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::smoke(), Self::standard(), Self::long()].into_iter().find(|plan| plan.name == name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_at_least_thirty_kinds_of_fault_and_the_standard_plan_has_room_for_each() {
        let distinct: BTreeSet<Fault> = all_faults().into_iter().collect();
        assert_eq!(distinct.len(), all_faults().len());
        assert!(distinct.len() >= 30);
        for plan in [Plan::smoke(), Plan::standard(), Plan::long()] {
            assert!(plan.episodes >= plan.faults.len(), "{}", plan.name);
            assert_eq!(Plan::named(&plan.name), Some(plan));
        }
    }
}
