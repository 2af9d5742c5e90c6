//! The journal as others leave it: with transactions of strangers in it, rewound, or with partitions added.

use std::time::Duration;

use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::partition;
use milepost_shared::journal::record::JournalRecord;
use milepost_shared::location::Upload;
use milepost_shared::location::fingerprint::Fingerprint;
use milepost_shared::program::settings::EXIT_CONFIG;
use milepost_tests::{Post, Program, Transaction, World, WorldSettings, eventually, exact};

use crate::load::Load;

const MINUTE: Duration = Duration::from_secs(60);
const HOLES: &str = "milepost_consumer_journal_holes_total";

fn one_partition() -> WorldSettings {
    WorldSettings { partitions: 1, ..WorldSettings::default() }
}

/// A transaction of a stranger, with a record as a gateway would write it.
async fn begin(world: &World) -> anyhow::Result<(Transaction, Upload)> {
    let (account, upload) = (world.account.id, world.planted.upload(1));
    let key_hash = KeyHash::new(account, &world.planted.key());
    let fingerprint = Fingerprint::of(&upload);
    let record = JournalRecord { key_hash, account, fingerprint, payload: upload.clone().into() };
    let key = key_hash.to_string();
    let transaction = world.kafka.begin(&world.topics.uploads, 0, key.as_bytes(), &record.encode()).await?;
    Ok((transaction, upload))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hole_that_a_transaction_leaves_is_passed_counted_and_logged_and_an_open_one_stalls_nothing()
-> anyhow::Result<()> {
    let world = World::new(one_partition()).await?;
    let gateway = world.gateway().await?;
    let clients = [world.client(&gateway)?];
    let mut consumer = world.consumer().await?;
    let before = Load::new(&world, 2);
    before.post_until_final(&clients, 1).await?;

    let (transaction, committed) = begin(&world).await?;
    transaction.commit().await?;
    let behind = Load::new(&world, 2);
    behind.post_until_final(&clients, 1).await?;
    assert!((consumer.metric(HOLES).await? - 1.0).abs() < 0.5);
    assert_eq!(consumer.logged()?.matches("the journal has a hole").count(), 1);

    // A consumer that starts in front of one.
    let (transaction, aborted) = begin(&world).await?;
    transaction.abort().await?;
    consumer.restart().await?;
    let after = Load::new(&world, 2);
    after.post_until_final(&clients, 1).await?;
    assert!((consumer.metric(HOLES).await? - 1.0).abs() < 0.5);

    let (transaction, open) = begin(&world).await?;
    let meanwhile = Load::new(&world, 2);
    meanwhile.post_until_final(&clients, 1).await?;
    transaction.commit().await?;
    let last = Load::new(&world, 1);
    last.post_until_final(&clients, 1).await?;

    // With the whole journal to be emitted again, holes included, each fact is seen once by the one-integer rule.
    world.caught_up().await?;
    consumer.stop().await?;
    world.kafka.delete_group(&milepost_shared::kafka::names::TopicNames::group(&world.prefix)).await?;
    consumer.start().await?;
    let loads = [before, behind, after, meanwhile, last];
    let mut expected: Vec<&Upload> = loads.iter().flat_map(Load::expected).collect();
    expected.extend([&committed, &aborted, &open]);
    world.finish(&expected).await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_expire_though_the_journal_ends_with_a_hole() -> anyhow::Result<()> {
    let world = World::new(WorldSettings { ttl: Duration::from_secs(2), ..one_partition() }).await?;
    let consumer = world.consumer().await?;
    let (transaction, upload) = begin(&world).await?;
    transaction.commit().await?;
    eventually(
        MINUTE,
        "the key is there",
        async || Ok((world.tables.keys().await?.len() == 1).then_some(())),
    )
    .await?;
    eventually(MINUTE, "the key is gone", async || Ok(world.tables.keys().await?.is_empty().then_some(())))
        .await?;
    assert!(consumer.metric("milepost_consumer_key_partitions_dropped_total").await? >= 1.0);

    let gateway = world.gateway().await?;
    let last = Load::new(&world, 1);
    last.post_until_final(&[world.client(&gateway)?], 1).await?;
    world.finish(&[vec![&upload], last.expected()].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewound_journal_that_has_grown_past_the_progress_stops_the_consumer_until_the_progress_is_set()
-> anyhow::Result<()> {
    let world = World::new(one_partition()).await?;
    let mut gateway = world.gateway().await?;
    let client = world.client(&gateway)?;
    let mut consumer = world.consumer().await?;
    let before = Load::new(&world, 3);
    let answers = before.post_until_final(std::slice::from_ref(&client), 1).await?;
    world.caught_up().await?;
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
    let log = consumer.logged()?;
    let expected = format!("partition 0 is not the one that was persisted: everything below {progress}");
    assert!(log.contains(&expected), "it is not in the log: {expected}");
    let fix = "milepost-admin progress set --partition 0 --offset 0 --force";
    assert!(log.contains(fix), "the way out is not in the log");
    assert_eq!(world.tables.keys().await?.len(), 3, "nothing of the other journal is stored");

    world.administer(&fix.split(' ').skip(1).collect::<Vec<_>>()).await?;
    consumer.start().await?;
    world.caught_up().await?;
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

async fn refused(program: &mut Program, violation: &str) -> anyhow::Result<()> {
    let status = program.wait_exit(MINUTE).await?;
    assert_eq!(status.code(), Some(EXIT_CONFIG), "{}", program.name);
    assert!(program.logged()?.contains(violation), "{} does not log: {violation}", program.name);
    Ok(())
}

/// Adds partitions to one of the topics, chosen by its name, while both programs run.
async fn with_partitions_added(to: &str) -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let (mut gateway, mut consumer) = (world.gateway().await?, world.consumer().await?);
    let client = world.client(&gateway)?;
    let load = Load::new(&world, 6);
    load.post_until_final(std::slice::from_ref(&client), 3).await?;

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
    let violation = format!("topic {topic}: partitions is 7, must be 3 (the setting PARTITIONS)");
    for program in [&mut gateway, &mut consumer] {
        refused(program, &violation).await?;
        program.spawn()?;
        refused(program, &violation).await?;
    }

    let journal = world.kafka.read(&world.topics.uploads).await?;
    assert!(journal.len() >= 6 + accepted);
    let facts = world.kafka.read(&world.topics.locations).await?;
    for record in journal.iter().chain(&facts) {
        let key = record.key.as_deref().unwrap_or_default();
        assert_eq!(record.partition, partition::of_key(key, 3).0, "a key has moved");
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

/// What `milepost-admin journal show` prints of partition 0.
async fn shown(world: &World, arguments: &[&str]) -> anyhow::Result<Vec<serde_json::Value>> {
    let printed = world.administer(&[&["journal", "show", "--partition", "0"], arguments].concat()).await?;
    Ok(printed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_reads_journal_and_answers_as_json_and_learns_what_is_no_longer_there()
-> anyhow::Result<()> {
    let world = World::new(one_partition()).await?;
    let gateway = world.gateway().await?;
    let _consumer = world.consumer().await?;
    let load = Load::new(&world, 3);
    load.post_until_final(&[world.client(&gateway)?], 1).await?;
    let uploads = &world.topics.uploads;
    world.kafka.append(uploads, 0, Some(b"no hash"), Some(b"nothing of ours")).await?;
    world.caught_up().await?;

    let records = shown(&world, &["--offset", "0", "--count", "10000"]).await?;
    assert_eq!(records.len(), 4);
    for (offset, (record, upload)) in records.iter().zip(&load.uploads).enumerate() {
        assert_eq!(
            (&record["offset"], &record["partition"], &record["schema"]),
            (&offset.into(), &0.into(), &1.into())
        );
        assert_eq!(record["upload"].to_string(), exact(upload));
        let key_hash = KeyHash::new(world.account.id, &load.keys[offset]).to_string();
        assert_eq!(
            (record["keyHash"].as_str(), record["account"].as_str()),
            (Some(&key_hash[..]), Some(&world.account.id.to_string()[..]))
        );
        assert_eq!(record["fingerprint"], Fingerprint::of(upload).to_string());
    }
    assert_eq!(records[3]["unreadable"], "no schema known");
    assert_eq!(
        (&records[3]["key"], &records[3]["value"]),
        (&"bm8gaGFzaA==".into(), &"bm90aGluZyBvZiBvdXJz".into())
    );

    let results = shown(&world, &["--topic", "results", "--offset", "1", "--count", "2"]).await?;
    assert_eq!(results.iter().map(|result| &result["recordOffset"]).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(results[0]["keyHash"], records[1]["keyHash"]);
    assert_eq!(results[0]["body"], r#"{"success":true,"processedCount":2}"#);
    assert_eq!(shown(&world, &["--offset", "2"]).await?.len(), 1, "one by default");

    world.kafka.delete_records(uploads, 0, 2).await?;
    for (offset, reason) in
        [("1", "no longer holds record 1: it begins at 2"), ("4", "has no record 4 yet: it ends before 4")]
    {
        let output = world.admin(&["journal", "show", "--partition", "0", "--offset", offset]).await?;
        let error = String::from_utf8(output.stderr)?;
        assert!(output.status.code() == Some(1) && error.contains(reason), "{error}");
    }
    assert_eq!(shown(&world, &["--offset", "2", "--count", "9"]).await?, records[2..]);
    world.finish(&load.expected()).await
}
