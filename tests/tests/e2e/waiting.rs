//! Waiting: what a client learns while the answer is not there yet.

use std::time::Duration;

use milepost_shared::journal::key::KeyHash;
use milepost_tests::{Answer, Client, Post, World, WorldSettings, eventually};
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);

/// What every 202 promises. Returns where to ask.
fn pending(answer: &Answer) -> String {
    assert_eq!(answer.status_and_body(), (202, r#"{"status":"pending"}"#.to_owned()));
    let seconds = answer.header("Retry-After").and_then(|text| text.parse::<u32>().ok());
    assert!(seconds.is_some_and(|seconds| seconds >= 1), "Retry-After: {seconds:?}");
    answer.header("Location").expect("a 202 says where to ask").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_consumer_stopped_an_upload_answers_202_and_its_location_shows_pending_and_later_the_answer()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let stranger = world.new_account("second").await?;
    let gateways = [world.gateway().await?, world.gateway().await?];
    let client = world.client(&gateways[0])?;
    let other_gateway = world.client(&gateways[1])?;

    let uploads = [1, 2, 3, 4].map(|count| world.planted.upload(count));
    let keys = [(); 4].map(|()| world.planted.key());
    let posts = [0, 1, 2, 3].map(|index| Post::batch(&uploads[index]).key(&keys[index]));

    // Nobody knows yet that answers are late: the whole wait asked for, and no more.
    let begun = Instant::now();
    let answer = client.post(&posts[0].clone().wait(2)).await?;
    let waited = begun.elapsed();
    assert!((Duration::from_millis(1900)..Duration::from_secs(4)).contains(&waited), "waited {waited:?}");
    let location = pending(&answer);
    let key_hash = KeyHash::new(world.account.id, &keys[0]);
    assert!(location.starts_with(&format!("/api/v1/uploads/{key_hash}")), "{location}");

    // Without waiting, because it is asked for.
    let begun = Instant::now();
    let answer = client.post(&posts[1].clone().respond_async()).await?;
    assert!(begun.elapsed() < Duration::from_secs(1), "respond-async waited {:?}", begun.elapsed());
    pending(&answer);
    assert_eq!(answer.header("Preference-Applied"), Some("respond-async"));

    for client in [&client, &other_gateway] {
        let status = client.get(&location).await?;
        assert_eq!((status.status, status.json()["status"].as_str()), (200, Some("pending")));
        assert!(status.header("Retry-After").is_some());
    }
    let stranger = Client::new(client.gateway(), &stranger.secret)?;
    assert_eq!(stranger.get(&location).await?.status, 404, "to another account it is unknown");
    let altered = location.replace(&key_hash.to_string(), &KeyHash([7; 32]).to_string());
    assert_eq!(client.get(&altered).await?.status, 404, "a receipt belongs to its key");

    // A retry while it is pending is no second upload.
    pending(&client.post(&posts[0].clone().wait(0)).await?);
    pending(&other_gateway.post(&posts[0].clone().wait(0)).await?);

    let _consumer = world.consumer().await?;
    let status = eventually(MINUTE, "the Location has the final answer", async || {
        let status = client.get(&location).await?;
        Ok((status.json()["status"] == "final").then_some(status))
    })
    .await?;
    let page = status.json();
    assert_eq!((status.status, &page["httpStatus"], &page["processedCount"]), (200, &200.into(), &1.into()));
    let (accepted, expires) = (page["acceptedAt"].as_i64(), page["expiresAt"].as_i64());
    let ttl = i64::try_from(world.settings.ttl.as_millis())?;
    assert_eq!(expires, accepted.map(|accepted| accepted + ttl));
    assert_eq!(stranger.get(&location).await?.status, 404, "final is unknown to another account too");
    assert_eq!(other_gateway.get(&location).await?.json(), page);
    let by_key = format!("/api/v1/uploads/{key_hash}");
    assert_eq!(client.get(&by_key).await?.json(), page, "the receipt only distinguishes uploads of one key");
    assert_eq!(stranger.get(&by_key).await?.status, 404, "nor is the key known to another account");

    let answer = client.post(&posts[0]).await?;
    assert_eq!(answer.status_and_body(), (200, r#"{"success":true,"processedCount":1}"#.to_owned()));
    assert!(answer.replayed());
    for index in [2, 3] {
        assert_eq!(client.post_until_final(&posts[index], MINUTE).await?.status, 200);
    }
    world.finish(&uploads.iter().collect::<Vec<_>>()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_answers_are_known_to_be_late_202_comes_at_once_and_200_again_after_the_consumer_caught_up()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings { partitions: 1, ..WorldSettings::default() }).await?;
    let gateway = world.gateway().await?;
    let mut consumer = world.consumer().await?;
    let client = world.client(&gateway)?;
    let uploads = [1, 2, 3].map(|count| world.planted.upload(count));
    let posts = [0, 1, 2].map(|index| Post::batch(&uploads[index]).key(&world.planted.key()));

    consumer.stop().await?;
    pending(&client.post(&posts[0].clone().wait(1)).await?);
    let begun = Instant::now();
    pending(&client.post(&posts[1]).await?);
    assert!(begun.elapsed() < Duration::from_secs(2), "waited {:?} for a late answer", begun.elapsed());

    consumer.start().await?;
    for post in &posts[..2] {
        assert_eq!(client.post_until_final(post, MINUTE).await?.status, 200);
    }
    let answer = client.post(&posts[2]).await?;
    assert_eq!((answer.status, answer.replayed()), (200, false));
    world.finish(&uploads.iter().collect::<Vec<_>>()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_behind_a_202_is_shown_at_its_location() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let gateway = world.gateway().await?;
    let client = world.client(&gateway)?;
    let (upload, other) = (world.planted.upload(1), world.planted.upload(1));
    let key = world.planted.key();
    let locations = [
        pending(&client.post(&Post::batch(&upload).key(&key).wait(0)).await?),
        pending(&client.post(&Post::batch(&other).key(&key).wait(0)).await?),
    ];

    let _consumer = world.consumer().await?;
    world.caught_up().await?;
    for (location, status) in locations.iter().zip([200, 422]) {
        let page = client.get(location).await?.json();
        assert_eq!((&page["status"], &page["httpStatus"]), (&"final".into(), &status.into()));
    }
    world.finish(&[&upload]).await
}
