//! Uploads: what is sent is stored once, answered and told.

use milepost_tests::{Plan, Post, World};

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_any_size_is_answered_stored_and_told() -> anyhow::Result<()> {
    let world = World::new(Plan::default()).await?;
    let gateway = world.gateway().await?;
    let _consumer = world.consumer().await?;
    let client = world.client(&gateway)?;

    let single = world.planted.upload(1);
    let batches = [1, 2, 50, 1000].map(|count| world.planted.upload(count));
    let mut posts = vec![(1, Post::single(&single))];
    posts.extend(batches.iter().map(|batch| (batch.locations.len(), Post::batch(batch))));
    for (count, post) in posts {
        let answer = client.post(&post.key(&world.planted.key())).await?;
        assert_eq!(answer.told(), (200, format!(r#"{{"success":true,"processedCount":{count}}}"#)));
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
        assert!(!answer.replayed());
    }

    world.settled().await?;
    let facts = world.kafka.read(&world.topics.locations).await?;
    assert_eq!(facts.len(), 5, "one fact for each upload");
    let [one, two, fifty, thousand] = &batches;
    world.finish(&[&single, one, two, fifty, thousand]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_without_a_key_is_stored_once_per_request() -> anyhow::Result<()> {
    let world = World::new(Plan::default()).await?;
    let gateway = world.gateway().await?;
    let _consumer = world.consumer().await?;
    let client = world.client(&gateway)?;

    let upload = world.planted.upload(3);
    for _ in 0..2 {
        let answer = client.post(&Post::batch(&upload)).await?;
        assert_eq!(answer.told(), (200, r#"{"success":true,"processedCount":3}"#.to_owned()));
        assert!(!answer.replayed());
    }
    world.finish(&[&upload, &upload]).await
}
