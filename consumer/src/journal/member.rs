//! A member of the consumer group, as librdkafka sees it: it hears what the group says, and keeps it for the polling thread,
//! on which all of this is called.

use std::collections::BTreeMap;
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use metrics::gauge;
use milepost_shared::journal::position::{NextOffset, Partition};
use milepost_shared::kafka::client::are_forgotten;
use milepost_shared::kafka::trouble::Troubles;
use milepost_shared::program::pages::Readiness;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr as RebalanceCode;
use rdkafka::{ClientContext, Offset, Statistics, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use crate::journal::assign::Assignment;
use crate::metric;

/// Most rebalances that wait for the polling thread: librdkafka announces none until the one before it is answered.
pub const REBALANCES_MAX: usize = 4;
/// What can stand in trouble.
const LEADING: &str = "leading";
pub(crate) const COMMITTING: &str = "committing";

/// The client of a member.
pub type MemberConsumer = BaseConsumer<Member>;

/// What the group asks for; it waits until the client has assigned or unassigned the partitions.
#[derive(Debug)]
pub enum Rebalance {
    /// To take partitions.
    Assign(TopicPartitionList),
    /// To give partitions back.
    Revoke(TopicPartitionList),
}

/// Hears what the group and the client say.
pub struct Member {
    topic: String,
    assignment: Assignment,
    readiness: Readiness,
    troubles: Troubles,
    rebalances: SyncSender<Rebalance>,
    /// What the group has acknowledged of this member's commits.
    committed: Mutex<BTreeMap<Partition, NextOffset>>,
    /// Cancelled when no broker is known any more.
    pub(crate) lost: CancellationToken,
}

impl ClientContext for Member {
    fn stats(&self, statistics: Statistics) {
        match self.leaderless(&statistics) {
            Some(partition) => self.note(LEADING, &format!("partition {partition} has no leader")),
            None => self.troubles.over(LEADING),
        }
        if let Some(error) = self.troubles.standing(Instant::now()) {
            self.readiness.down("kafka", error);
        } else if statistics.brokers.values().any(|broker| broker.state == "UP") {
            self.readiness.up("kafka");
        }
        if are_forgotten(&statistics) {
            self.lost.cancel();
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.readiness.down("kafka", "all brokers are down");
        }
        tracing::warn!(%error, reason, "Kafka client");
    }
}

impl ConsumerContext for Member {
    fn rebalance(&self, consumer: &MemberConsumer, code: RebalanceCode, partitions: &mut TopicPartitionList) {
        let rebalance = match code {
            RebalanceCode::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Rebalance::Assign(partitions.clone()),
            _ => Rebalance::Revoke(partitions.clone()),
        };
        // Once the polling thread has ended, the member leaves the group.
        if let Err(refused) = self.rebalances.try_send(rebalance)
            && let std::sync::mpsc::TrySendError::Disconnected(Rebalance::Revoke(partitions)) = refused
        {
            self.forget(&partitions);
            if let Err(error) = consumer.incremental_unassign(&partitions) {
                tracing::info!(%error, "cannot give partitions back");
            }
        }
    }

    fn commit_callback(&self, result: Result<(), KafkaError>, offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::info!(%error, "group offset not committed; trying again");
            self.note(COMMITTING, &format!("group offset not committed: {error}"));
            return;
        }
        self.troubles.over(COMMITTING);
        let mut committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        for element in offsets.elements() {
            if let (Ok(()), Offset::Offset(offset)) = (element.error(), element.offset()) {
                committed.insert(Partition(element.partition()), NextOffset(offset));
            }
        }
    }
}

impl Member {
    /// A member without partitions, which sends on what the group asks for.
    #[must_use]
    pub fn new(
        topic: &str,
        assignment: &Assignment,
        readiness: &Readiness,
        troubles: &Troubles,
        rebalances: SyncSender<Rebalance>,
    ) -> Self {
        Self {
            topic: topic.to_owned(),
            assignment: assignment.clone(),
            readiness: readiness.clone(),
            troubles: troubles.clone(),
            rebalances,
            committed: Mutex::default(),
            lost: CancellationToken::new(),
        }
    }

    /// The offset of a partition that the group has last acknowledged to this member.
    pub(crate) fn committed(&self, partition: Partition) -> Option<NextOffset> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).get(&partition).copied()
    }

    /// Forgets partitions that are this member's no longer.
    pub(crate) fn forget(&self, partitions: &TopicPartitionList) {
        let mut committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        for element in partitions.elements() {
            let partition = Partition(element.partition());
            tracing::info!(partition = partition.0, "partition revoked");
            self.assignment.remove(partition);
            committed.remove(&partition);
        }
        // What was not committed of them is not this member's any more.
        self.troubles.over(COMMITTING);
        self.show();
    }

    /// Shows how many partitions are assigned.
    pub(crate) fn show(&self) {
        gauge!(metric::ASSIGNED).set(u32::try_from(self.assignment.partitions().len()).unwrap_or(0));
    }

    fn note(&self, what: &'static str, error: &str) {
        self.troubles.note(what, format!("{}: {error}", self.topic), Instant::now());
    }

    /// A partition of this consumer that no broker leads: nothing is read of it, and librdkafka says nothing.
    fn leaderless(&self, statistics: &Statistics) -> Option<Partition> {
        let topic = statistics.topics.get(&self.topic)?;
        let is_led =
            |partition: &Partition| topic.partitions.get(&partition.0).is_none_or(|one| one.leader >= 0);
        self.assignment.partitions().into_iter().find(|partition| !is_led(partition))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn a_member_says_so_when_it_knows_no_broker_any_more() {
        let (rebalances, _asked) = sync_channel(REBALANCES_MAX);
        let (readiness, troubles) = (Readiness::default(), Troubles::default());
        let member = Member::new("t", &Assignment::default(), &readiness, &troubles, rebalances);
        assert!(!member.lost.is_cancelled());
        member.stats(Statistics::default());
        assert!(member.lost.is_cancelled());
    }
}
