//! Uploads: what is sent is stored once, answered and published.

use std::time::Duration;

use milepost_shared::kafka::topics::creation;
use milepost_tests::{Post, Raw, Services, World, WorldSettings, eventually};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_single_upload_and_batches_of_1_2_50_and_1000_are_answered_stored_in_order_and_published_as_one_fact()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let gateway = world.gateway().await?;
    let _consumer = world.consumer().await?;
    let client = world.client(&gateway)?;

    let single = world.planted.upload(1);
    let batches = [1, 2, 50, 1000].map(|count| world.planted.upload(count));
    let mut posts = vec![(1, Post::single(&single))];
    posts.extend(batches.iter().map(|batch| (batch.locations.len(), Post::batch(batch))));
    for (count, post) in posts {
        let answer = client.post(&post.key(&world.planted.key())).await?;
        assert_eq!(
            answer.status_and_body(),
            (200, format!(r#"{{"success":true,"processedCount":{count}}}"#))
        );
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
        assert!(!answer.replayed());
    }

    world.caught_up().await?;
    let facts = world.kafka.read(&world.topics.locations).await?;
    assert_eq!(facts.len(), 5, "one fact for each upload");
    let [one, two, fifty, thousand] = &batches;
    world.finish(&[&single, one, two, fifty, thousand]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_without_a_key_is_stored_once_per_request_also_when_two_have_the_same_body()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let gateway = world.gateway().await?;
    let _consumer = world.consumer().await?;
    let client = world.client(&gateway)?;

    let upload = world.planted.upload(3);
    for _ in 0..2 {
        let answer = client.post(&Post::batch(&upload)).await?;
        assert_eq!(answer.status_and_body(), (200, r#"{"success":true,"processedCount":3}"#.to_owned()));
        assert!(!answer.replayed());
    }
    world.finish(&[&upload, &upload]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_with_faults_in_locations_3_and_7_names_each_by_its_path_and_nothing_is_stored_or_published()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let gateway = world.gateway().await?;
    let _consumer = world.consumer().await?;

    let mut body = serde_json::to_value(world.planted.upload(9))?;
    body["locations"][3]["latitude"] = json!(90.5);
    body["locations"][3]["accuracy"] = json!(1e9);
    body["locations"][7]["timestamp"] = json!("yesterday");
    body["locations"][7]["colour"] = json!("red");
    let post = Post::to("/api/v1/locations/batch", body.to_string()).key(&world.planted.key());
    let answer = world.client(&gateway)?.post(&post).await?;

    assert_eq!(answer.status, 400);
    assert_eq!(answer.header("Content-Type"), Some("application/problem+json"));
    let problem = answer.json();
    let faults = problem["faults"].as_array().expect("a list of faults");
    let mut fields: Vec<&str> = faults.iter().filter_map(|fault| fault["field"].as_str()).collect();
    fields.sort_unstable();
    let wanted =
        ["locations[3].accuracy", "locations[3].latitude", "locations[7].colour", "locations[7].timestamp"];
    assert_eq!(fields, wanted);
    assert_eq!(problem["faultsTotal"], 4);
    assert!(faults.iter().all(|fault| fault["message"].as_str().is_some_and(|text| !text.is_empty())));

    let published = world.kafka.read(&world.topics.uploads).await?;
    assert!(published.is_empty(), "nothing is published");
    world.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_right_after_sending_has_its_upload_stored_once_and_its_retry_answered()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let gateway = world.gateway().await?;
    let _consumer = world.consumer().await?;
    let client = world.client(&gateway)?;

    let uploads: Vec<_> = (0..20).map(|_| world.planted.upload(2)).collect();
    let posts: Vec<Post> =
        uploads.iter().map(|upload| Post::batch(upload).key(&world.planted.key())).collect();
    for post in &posts {
        let mut connection = Raw::connect(client.gateway()).await?;
        connection.send(&Raw::request(post, &world.account.secret, None)).await?;
        drop(connection);
    }
    eventually(Duration::from_secs(10), "all 20 uploads are stored, without a retry", async || {
        Ok((world.tables.stored().await?.len() == uploads.len()).then_some(()))
    })
    .await?;
    for post in &posts {
        let answer = client.post(post).await?;
        assert_eq!(answer.status_and_body(), (200, r#"{"success":true,"processedCount":2}"#.to_owned()));
        assert!(answer.replayed());
    }
    world.finish(&uploads.iter().collect::<Vec<_>>()).await
}

/// What a client's build cannot decompress is an error to it forever.
#[tokio::test(flavor = "multi_thread")]
async fn topics_that_the_brokers_compress_in_any_way_are_read_by_consumer_gateway_and_subscribers()
-> anyhow::Result<()> {
    for compression in ["gzip", "snappy", "lz4", "zstd"] {
        let world = World::without_topics(Services::shared()?, WorldSettings::default()).await?;
        for (topic, mut config) in creation(&world.kafka_settings()) {
            config.push(("compression.type", compression.to_owned()));
            world.kafka.create(&topic, i32::from(world.settings.partitions), &config).await?;
        }
        world.administer(&["topics", "check"]).await?;
        let _consumer = world.consumer().await?;
        let gateway = world.gateway().await?;
        let upload = world.planted.upload(20);
        let post = Post::batch(&upload).key(&world.planted.key());
        let answer = world.client(&gateway)?.post(&post).await?;
        assert_eq!((answer.status, answer.replayed()), (200, false), "{compression}");

        // Nor is a later gateway kept from warming its cache by it.
        let later = world.gateway().await?;
        let read = later.metric_of("milepost_gateway_tail_records_total", r#"result="read""#).await?;
        assert!(read >= 1.0, "{compression}: no answer was read from location-results");
        world.finish(&[&upload]).await?;
    }
    Ok(())
}
