//! `topics`: the three topics, made and checked.

use std::time::Duration;

use milepost_shared::kafka::topics::{TopicAdmin, violations};
use milepost_shared::program::settings::KafkaSettings;
use tokio::time::{Instant, sleep};

use crate::arguments::CreateTopics;

/// Longest time until a broker knows a topic that the controller has just made.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(10);

pub async fn create(command: &CreateTopics) -> anyhow::Result<()> {
    let kafka = &command.kafka;
    let topics = TopicAdmin::new(kafka)?;
    let created = topics.create(kafka, command.replication_factor).await?;
    for name in &created {
        println!("created topic {name} with {} partitions", kafka.partitions);
    }
    if created.is_empty() {
        println!("all topics exist");
    }
    await_visible(&topics, kafka, &created).await?;
    if command.reconfigure {
        for change in topics.configure(kafka).await? {
            println!(
                "topic {}: {} is {} now, was {}",
                change.topic, change.setting, change.value, change.before
            );
        }
        await_kept(&topics, kafka).await?;
    }
    topics.check(kafka).await
}

pub async fn check(kafka: &KafkaSettings) -> anyhow::Result<()> {
    TopicAdmin::new(kafka)?.check(kafka).await?;
    println!("all topics keep the rules");
    Ok(())
}

/// A broker shows a changed configuration a moment after it was accepted.
async fn await_kept(topics: &TopicAdmin, kafka: &KafkaSettings) -> anyhow::Result<()> {
    let deadline = Instant::now() + VISIBLE_TIMEOUT;
    while !violations(kafka, &topics.describe(kafka).await?).is_empty() && Instant::now() < deadline {
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// The check that follows reports what is still missing at the end.
async fn await_visible(topics: &TopicAdmin, kafka: &KafkaSettings, names: &[String]) -> anyhow::Result<()> {
    let deadline = Instant::now() + VISIBLE_TIMEOUT;
    loop {
        let actual = topics.describe(kafka).await?;
        if names.iter().all(|name| actual.contains_key(name)) || Instant::now() >= deadline {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
}
