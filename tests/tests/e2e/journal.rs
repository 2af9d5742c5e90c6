//! The journal as others leave it: with partitions added.

use std::time::Duration;

use milepost_shared::partition;
use milepost_shared::settings::EXIT_CONFIG;
use milepost_tests::{Plan, Post, Program, World, eventually};

use crate::load::Load;

const MINUTE: Duration = Duration::from_secs(60);

async fn refused(program: &mut Program, told: &str) -> anyhow::Result<()> {
    let status = program.wait_exit(MINUTE).await?;
    assert_eq!(status.code(), Some(EXIT_CONFIG), "{}", program.name);
    assert!(program.told()?.contains(told), "{} does not tell: {told}", program.name);
    Ok(())
}

/// Adds partitions to one of the topics, chosen by its name, while both programs run.
async fn with_partitions_added(to: &str) -> anyhow::Result<()> {
    let world = World::new(Plan::default()).await?;
    let (mut gateway, mut consumer) = (world.gateway().await?, world.consumer().await?);
    let client = world.client(&gateway)?;
    let load = Load::new(&world, 6);
    load.settle(std::slice::from_ref(&client), 3).await?;

    let topic = format!("{}{to}", world.prefix);
    world.kafka.add_partitions(&topic, 7).await?;
    // As long as the gateway takes any.
    let mut accepted = 0;
    eventually(MINUTE, "the gateway refuses to go on", async || {
        let upload = world.planted.upload(1);
        let post = Post::batch(&upload).key(&world.planted.key()).respond_async();
        let answer = client.post(&post).await;
        let taken = answer.is_ok_and(|answer| answer.status == 202);
        accepted += usize::from(taken);
        Ok((!taken).then_some(()))
    })
    .await?;
    let told = format!("topic {topic}: partitions is 7, must be 3 (the setting PARTITIONS)");
    for program in [&mut gateway, &mut consumer] {
        refused(program, &told).await?;
        program.spawn()?;
        refused(program, &told).await?;
    }

    let journal = world.kafka.read(&world.topics.uploads).await?;
    assert!(journal.len() >= 6 + accepted);
    let facts = world.kafka.read(&world.topics.locations).await?;
    for record in journal.iter().chain(&facts) {
        let key = record.key.as_deref().unwrap_or_default();
        assert_eq!(record.partition, partition::of_key(key, 3), "a key has moved");
    }
    world.check_logs()?;
    world.leave();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_added_to_a_topic_end_both_programs_with_78_at_a_start_and_while_they_run_and_no_key_moves()
-> anyhow::Result<()> {
    for topic in ["location-uploads", "location-results", "locations"] {
        with_partitions_added(topic).await?;
    }
    Ok(())
}
