//! The journal as others leave it: made anew, or with partitions added.

use std::time::Duration;

use milepost_shared::partition;
use milepost_shared::settings::EXIT_CONFIG;
use milepost_tests::{Plan, Post, Program, World, eventually};

use crate::load::Load;

const MINUTE: Duration = Duration::from_secs(60);

fn one_partition() -> Plan {
    Plan { partitions: 1, ..Plan::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_made_anew_that_has_grown_past_the_progress_stops_the_consumer_until_it_is_told_where_to_go_on()
-> anyhow::Result<()> {
    let world = World::new(one_partition()).await?;
    let mut gateway = world.gateway().await?;
    let client = world.client(&gateway)?;
    let mut consumer = world.consumer().await?;
    let before = Load::new(&world, 3);
    let answers = before.settle(std::slice::from_ref(&client), 1).await?;
    world.settled().await?;
    let (_, progress) = world.kafka.ends(&world.topics.uploads).await?[0];
    consumer.stop().await?;
    gateway.stop().await?;

    let uploads = &world.topics.uploads;
    world.kafka.delete_topics(&[uploads]).await?;
    eventually(MINUTE, "the topic is gone", async || {
        Ok(world.kafka.ends(uploads).await.is_err().then_some(()))
    })
    .await?;
    world.administer(&["topics", "create"]).await?;
    gateway.start().await?;
    let after = Load::new(&world, usize::try_from(progress)? + 2);
    for post in &after.posts {
        assert_eq!(client.post(&post.clone().respond_async()).await?.status, 202);
    }

    consumer.spawn()?;
    assert!(!consumer.wait_exit(MINUTE).await?.success());
    let told = consumer.told()?;
    let expected = format!("partition 0 is not the one that was persisted: everything below {progress}");
    assert!(told.contains(&expected), "it is not told: {expected}");
    let cure = "milepost-admin progress set --partition 0 --offset 0 --force";
    assert!(told.contains(cure), "the cure is not told");
    assert_eq!(world.tables.keys().await?.len(), 3, "nothing of the other journal is stored");

    world.administer(&cure.split(' ').skip(1).collect::<Vec<_>>()).await?;
    consumer.start().await?;
    world.settled().await?;
    before.replay(&client, &answers).await?;
    let [keys, rows] = ["idempotency_keys", "locations"].map(|table| format!("SELECT count(*) FROM {table}"));
    let all = [before.expected(), after.expected()].concat();
    let locations: usize = all.iter().map(|upload| upload.locations.len()).sum();
    assert_eq!(world.tables.number(&keys).await?, i64::try_from(all.len())?);
    assert_eq!(world.tables.number(&rows).await?, i64::try_from(locations)?);
    world.check_logs()?;
    world.leave();
    Ok(())
}

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
