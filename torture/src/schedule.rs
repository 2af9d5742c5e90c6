//! When which fault comes: a function of plan and seed, and of nothing else.

use std::time::Duration;

use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::fault::{Fault, Link, Target, Trouble};
use crate::plan::Plan;

/// Load comes for so long before anything breaks.
const QUIET_FIRST: Duration = Duration::from_secs(5);
/// Shortest and longest rest before the next fault.
const REST: (f64, f64) = (0.3, 1.5);
/// From how many faults the next one is chosen.
const CHOICE: usize = 16;
/// How long a consumer must be paused so that the group goes on without it, the session time-out included.
const PAUSED: Duration = Duration::from_secs(9);
/// As long as the fault's name says.
const TABLE_LOCKED: Duration = Duration::from_secs(20);
/// Time for a third consumer to come and go more than once.
const REBALANCES: Duration = Duration::from_secs(12);

/// One fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// When it begins, since the run did.
    pub at: Duration,
    /// Time until it is healed; healing takes some time besides.
    pub lasts: Duration,
    /// What.
    pub fault: Fault,
}

/// A part of the system that a fault can take away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// One of the two gateways; the other one is left.
    Gateway,
    /// One of the consumers, or all.
    Consumer,
    /// The third consumer.
    Third,
    /// The broker.
    Kafka,
    /// The database server.
    Postgres,
    /// Gateways to the broker.
    GatewayKafka,
    /// Gateways to the database.
    GatewayPostgres,
    /// Consumers to the broker.
    ConsumerKafka,
    /// Consumers to the database.
    ConsumerPostgres,
}

impl Part {
    /// All of them, in the order in which they are to be claimed.
    pub const ALL: [Self; 9] = [
        Self::Gateway,
        Self::Consumer,
        Self::Third,
        Self::Kafka,
        Self::Postgres,
        Self::GatewayKafka,
        Self::GatewayPostgres,
        Self::ConsumerKafka,
        Self::ConsumerPostgres,
    ];

    /// What uploads need on their way to the tables.
    const FLOW: [Self; 5] =
        [Self::Kafka, Self::Postgres, Self::GatewayKafka, Self::ConsumerKafka, Self::ConsumerPostgres];
    const OF_KAFKA: [Self; 3] = [Self::Kafka, Self::GatewayKafka, Self::ConsumerKafka];
    const OF_POSTGRES: [Self; 3] = [Self::Postgres, Self::GatewayPostgres, Self::ConsumerPostgres];
}

/// What a fault takes away, and what must be there for it to be seen to bite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Taken away: no other fault's.
    pub breaks: Vec<Part>,
    /// Needed.
    pub needs: Vec<Part>,
}

impl Claims {
    /// What a fault claims.
    #[must_use]
    pub fn of(fault: Fault) -> Self {
        let claims = |breaks: &[Part], needs: &[Part]| Self {
            breaks: breaks.to_vec(),
            needs: needs.iter().copied().filter(|part| !breaks.contains(part)).collect(),
        };
        match fault {
            Fault::Kill(target) | Fault::Restart(target) | Fault::Pause(target) => {
                claims(of_target(target), &[])
            }
            Fault::DiskFull(target) => claims(of_target(target), &Part::FLOW),
            Fault::Crash(kind) => claims(of_target(kind.target()), &Part::FLOW),
            Fault::ClockAhead(target) | Fault::ClockBehind(target) => claims(of_target(target), &Part::FLOW),
            Fault::TinyCache => {
                claims(&[Part::Gateway], &[&Part::FLOW[..], &[Part::GatewayPostgres]].concat())
            }
            Fault::Link(link, _) => claims(&[of_link(link)], &[]),
            Fault::TerminateBackends => claims(&[], &Part::OF_POSTGRES),
            Fault::ReadOnly | Fault::TableLock | Fault::ConnectionsExhausted => {
                claims(&Part::OF_POSTGRES, &Part::FLOW)
            }
            Fault::PutBack => claims(&Part::OF_POSTGRES, &Part::FLOW),
            Fault::OffsetsDeleted => claims(
                &[Part::Consumer, Part::Third, Part::ConsumerKafka, Part::ConsumerPostgres],
                &[Part::Kafka],
            ),
            Fault::Rebalances => claims(&[Part::Third], &Part::FLOW),
            Fault::Poison => claims(&[], &Part::FLOW),
        }
    }

    /// Whether both may be under way at once.
    #[must_use]
    pub fn agree_with(&self, other: &Self) -> bool {
        let broken =
            |by: &Self, of: &Self| of.breaks.iter().chain(&of.needs).any(|part| by.breaks.contains(part));
        !broken(self, other) && !broken(other, self)
    }
}

fn of_target(target: Target) -> &'static [Part] {
    match target {
        Target::Gateway => &[Part::Gateway],
        Target::Consumer => &[Part::Consumer],
        Target::Kafka => &Part::OF_KAFKA,
        Target::Postgres => &Part::OF_POSTGRES,
    }
}

fn of_link(link: Link) -> Part {
    match link {
        Link::GatewayKafka => Part::GatewayKafka,
        Link::GatewayPostgres => Part::GatewayPostgres,
        Link::ConsumerKafka => Part::ConsumerKafka,
        Link::ConsumerPostgres => Part::ConsumerPostgres,
    }
}

/// The shortest time in which a fault can be seen to bite.
pub(crate) fn shortest(fault: Fault) -> Duration {
    match fault {
        Fault::Pause(Target::Consumer) => PAUSED,
        Fault::Rebalances => REBALANCES,
        Fault::TableLock => TABLE_LOCKED,
        // Nobody notices a silence that is shorter than patience.
        Fault::Link(_, Trouble::Silent | Trouble::Lossy) => Duration::from_secs(4),
        _ => Duration::ZERO,
    }
}

/// About how long a fault is still felt after its time: until what ended is ready again.
fn healing(fault: Fault) -> Duration {
    let seconds = match fault {
        Fault::Kill(Target::Kafka) | Fault::Restart(Target::Kafka) | Fault::DiskFull(_) => 12,
        Fault::OffsetsDeleted => 8,
        Fault::Kill(Target::Postgres) | Fault::PutBack | Fault::Crash(_) => 5,
        Fault::Link(..) | Fault::TerminateBackends | Fault::Poison => 1,
        _ => 3,
    };
    Duration::from_secs(seconds)
}

/// The faults of a run, in order of time: each of the plan's at least once, as many as it has episodes, no more at once than
/// it says, and at any time only such as [agree](Claims::agree_with).
#[must_use]
pub fn schedule(plan: &Plan, seed: u64) -> Vec<Planned> {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x7363_6865);
    let mut faults = plan.faults.clone();
    while !plan.faults.is_empty() && faults.len() < plan.episodes {
        faults.push(plan.faults[random.random_range(0..plan.faults.len())]);
    }
    faults.shuffle(&mut random);
    let at_once = plan.at_once.max(1);
    let mut planned: Vec<Planned> = Vec::with_capacity(faults.len());
    let mut from = QUIET_FIRST;
    while !faults.is_empty() {
        // Of the next few, whichever has to wait the least: else most of them would wait for the first.
        let wait = |fault: &Fault| earliest(&planned, *fault, from, at_once);
        let next = (0..faults.len().min(CHOICE)).min_by_key(|index| wait(&faults[*index]));
        let fault = faults.remove(next.unwrap_or_default());
        let (least, most) = plan.episode;
        let lasts = random.random_range(least..=most).max(shortest(fault));
        let rest = Duration::from_secs_f64(random.random_range(REST.0..REST.1));
        from = earliest(&planned, fault, from, at_once) + rest;
        planned.push(Planned { at: from, lasts, fault });
    }
    planned
}

/// The first moment, not before `from`, from which on a fault meets few enough others, and only such as it agrees with.
fn earliest(planned: &[Planned], fault: Fault, from: Duration, at_once: usize) -> Duration {
    let claims = Claims::of(fault);
    let mut at = from;
    loop {
        let meets: Vec<&Planned> = planned.iter().filter(|other| until(other) > at).collect();
        let hindered = meets.iter().filter(|other| !Claims::of(other.fault).agree_with(&claims));
        let latest = hindered.map(|other| until(other)).max();
        // Faults come one after the other, so whatever is met at the beginning is all that is met.
        let full = (meets.len() >= at_once).then(|| meets.iter().map(|other| until(other)).min()).flatten();
        match latest.max(full) {
            Some(later) => at = later,
            None => return at,
        }
    }
}

fn until(planned: &Planned) -> Duration {
    planned.at + planned.lasts + healing(planned.fault)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn each_fault_comes_as_often_as_planned_and_none_meets_one_it_does_not_agree_with(seed: u64) {
            for plan in [Plan::smoke(), Plan::standard()] {
                let planned = schedule(&plan, seed);
                prop_assert_eq!(&planned, &schedule(&plan, seed));
                prop_assert_eq!(planned.len(), plan.episodes);
                for fault in &plan.faults {
                    prop_assert!(planned.iter().any(|one| one.fault == *fault), "{:?}", fault);
                }
                prop_assert!(planned.is_sorted_by_key(|one| one.at));
                for (index, one) in planned.iter().enumerate() {
                    prop_assert!(one.lasts >= plan.episode.0);
                    prop_assert!(one.lasts <= plan.episode.1.max(shortest(one.fault)));
                    let met = planned[..index].iter().filter(|other| until(other) > one.at);
                    let met: Vec<_> = met.collect();
                    prop_assert!(met.len() < plan.at_once, "{:?} meets {:?}", one, met);
                    for other in met {
                        prop_assert!(Claims::of(one.fault).agree_with(&Claims::of(other.fault)));
                    }
                }
            }
        }
    }

    #[test]
    fn another_seed_gives_another_schedule() {
        assert_ne!(schedule(&Plan::smoke(), 1), schedule(&Plan::smoke(), 2));
    }

    #[test]
    fn a_fault_of_a_server_agrees_with_none_on_its_links() {
        let kill = Claims::of(Fault::Kill(Target::Kafka));
        assert!(!kill.agree_with(&Claims::of(Fault::Link(Link::GatewayKafka, Trouble::Cut))));
        assert!(!Claims::of(Fault::Poison).agree_with(&kill));
        assert!(kill.agree_with(&Claims::of(Fault::Link(Link::GatewayPostgres, Trouble::Cut))));
        assert!(kill.agree_with(&Claims::of(Fault::Kill(Target::Consumer))));
        assert!(!kill.agree_with(&kill));
    }
}
