//! The journal and the group that reads it: poison records, deleted offsets, members that come and go.

use milepost_shared::journal::account::AccountId;
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::future::{join_all, try_join_all};
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::position::Position;
use milepost_shared::journal::record;
use milepost_shared::location::fingerprint::Fingerprint;
use milepost_tests::{Planted, eventually};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::SIGN;
use crate::system::System;

/// How long a third consumer stays once it has partitions.
const STAY: Duration = Duration::from_secs(2);

/// Of a record.
type KeyAndValue<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

impl System {
    pub(super) async fn delete_offsets(&self, lasts: Duration) -> anyhow::Result<String> {
        let (kafka, topic, group) = (&self.world().kafka, &self.world().topics.uploads, self.group());
        let mut consumers = join_all(self.consumers.iter().map(|slot| slot.program.lock())).await;
        let deleted = async {
            for consumer in &mut consumers {
                if consumer.is_running()? {
                    consumer.stop().await?;
                }
            }
            let offsets = kafka.committed(&group, topic).await?;
            ensure!(offsets.iter().any(Option::is_some), "there was no offset to delete");
            eventually(SIGN, "the group is empty and goes", async || {
                Ok(kafka.delete_group(&group).await.ok())
            })
            .await?;
            let offsets = kafka.committed(&group, topic).await?;
            ensure!(offsets.iter().all(Option::is_none), "offsets are left: {offsets:?}");
            sleep(lasts).await;
            anyhow::Ok(offsets.len())
        };
        let deleted = deleted.await;
        let revived = self.consumers.iter().zip(&mut consumers);
        try_join_all(revived.map(async |(slot, consumer)| self.revive(slot, consumer).await)).await?;
        Ok(format!("no offset committed in any of {} partitions", deleted?))
    }

    pub(super) async fn rebalance(&self, lasts: Duration) -> anyhow::Result<String> {
        let until = Instant::now() + lasts;
        let mut joined = 0;
        let came_and_went = async {
            while Instant::now() < until {
                let mut third = self.third.program.lock().await;
                self.third.wanted.store(true, std::sync::atomic::Ordering::Relaxed);
                third.start().await?;
                eventually(SIGN, "the third consumer is given partitions", async || {
                    let assigned = third.metric("milepost_consumer_assigned_partitions").await?;
                    Ok((assigned > 0.0).then_some(()))
                })
                .await?;
                joined += 1;
                sleep(STAY).await;
                // Every other time it leaves without saying so.
                if joined % 2 == 0 { third.kill().await? } else { third.stop().await? }
            }
            anyhow::Ok(())
        };
        let came_and_went = came_and_went.await;
        self.stop_third().await?;
        came_and_went?;
        Ok(format!("a third consumer was given partitions {joined} times"))
    }

    pub(super) async fn poison(&self, lasts: Duration) -> anyhow::Result<String> {
        let account = self.accounts()[0];
        // Not of this run, so that it would be seen to be stored.
        let planted = Planted::new();
        let upload = planted.upload(1);
        let of = |account| {
            let key = KeyHash::new(account, &planted.key()).to_string().into_bytes();
            (key, record::encode(account, Fingerprint::of(&upload), &upload))
        };
        let ((key, value), (strange_key, strange_value)) = (of(account), of(AccountId(Uuid::from_u128(7))));
        let poison: [KeyAndValue<'_>; 7] = [
            (Some(&key), Some(b"")),
            (Some(&key), Some(b"location,location")),
            (Some(&key), Some(&value[..value.len() / 2])),
            (Some(b"no hash"), Some(&value)),
            (None, Some(&value)),
            (Some(&strange_key), Some(&strange_value)),
            (Some(&key), None),
        ];
        let world = self.world();
        let partitions = usize::from(world.settings.partitions);
        let mut appended = BTreeSet::new();
        for (index, (key, value)) in poison.iter().enumerate() {
            let partition = i32::try_from(index % partitions)?;
            let offset = world.kafka.append(&world.topics.uploads, partition, *key, *value).await?;
            appended.insert(Position::new(partition, offset));
            sleep(lasts / 7).await;
        }
        let mut missing = appended.clone();
        let buried = eventually(SIGN, "the poison records are dead letters", async || {
            let letters = world.tables.dead_letters().await?;
            missing.retain(|position| !letters.iter().any(|letter| letter.position == *position));
            Ok(missing.is_empty().then_some(()))
        });
        buried.await.with_context(|| format!("{appended:?}"))?;
        Ok(format!("{} dead letters", appended.len()))
    }
}
