//! Replays: whatever becomes of servers and programs, a retry gets the first answer.

use std::time::Duration;

use futures::future::try_join_all;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use milepost_shared::journal::key::KeyHash;
use milepost_shared::location::Upload;
use milepost_shared::location::fingerprint::Fingerprint;
use milepost_tests::{Answer, Client, Post, Raw, Services, World, WorldSettings, eventually};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_answers_the_same_status_and_bytes_whatever_is_restarted_or_stopped() -> anyhow::Result<()> {
    let (services, kafka, postgres) = Services::dedicated().await?;
    let world = World::on(services, WorldSettings::default()).await?;
    let mut consumer = world.consumer().await?;
    let mut gateways = [world.gateway().await?, world.gateway().await?];
    let mut cacheless = world.new_gateway()?;
    cacheless.set("CACHE_ENTRIES", "0");
    cacheless.start().await?;
    let clients = [world.client(&gateways[0])?, world.client(&gateways[1])?];
    let of_cacheless = world.client(&cacheless)?;

    let upload = world.planted.upload(2);
    let post = Post::batch(&upload).key(&world.planted.key());
    let first = clients[0].post(&post).await?;
    assert_eq!(first.status_and_body(), (200, r#"{"success":true,"processedCount":2}"#.to_owned()));
    assert!(!first.replayed());
    let replays = async |when: &str, clients: &[&Client]| {
        for client in clients {
            let answer = client.post(&post).await?;
            assert_eq!(answer.status_and_body(), first.status_and_body(), "{when}");
            assert_eq!(answer.header("Content-Type"), first.header("Content-Type"), "{when}");
            assert!(answer.replayed(), "{when}");
        }
        anyhow::Ok(())
    };

    replays("at once", &[&clients[0]]).await?;
    replays("from the other gateway", &[&clients[1]]).await?;
    for gateway in &mut gateways {
        gateway.restart().await?;
    }
    replays("after both gateways restarted", &[&clients[0], &clients[1]]).await?;
    replays("with the cache turned off", &[&of_cacheless]).await?;
    consumer.stop().await?;
    replays("with the consumer stopped", &[&clients[0], &clients[1], &of_cacheless]).await?;
    consumer.start().await?;
    postgres.stop().await?;
    replays("with Postgres stopped", &[&clients[0], &clients[1]]).await?;
    postgres.start().await?;
    // Each look-up may meet a connection of before.
    let found = async || cacheless.metric_of("milepost_gateway_uploads_total", r#"source="table""#).await;
    let before = found().await?;
    eventually(MINUTE, "the gateway finds answers in the table again", async || {
        of_cacheless.post_until_final(&post, MINUTE).await?;
        Ok((found().await? >= before + 3.0).then_some(()))
    })
    .await?;
    kafka.stop().await?;
    replays("with Kafka stopped, from the cache", &[&clients[0], &clients[1]]).await?;
    replays("with Kafka stopped, from the table", &[&of_cacheless]).await?;
    kafka.start().await?;
    world.finish(&[&upload]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_copies_at_once_over_two_gateways_all_get_one_answer_and_exactly_one_is_no_replay()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let gateways = [world.gateway().await?, world.gateway().await?];
    let clients = [world.client(&gateways[0])?, world.client(&gateways[1])?];

    let upload = world.planted.upload(5);
    let post = Post::batch(&upload).key(&world.planted.key());
    let answers: Vec<Answer> = try_join_all((0..64).map(|copy| clients[copy % 2].post(&post))).await?;
    for answer in &answers {
        assert_eq!(answer.status_and_body(), (200, r#"{"success":true,"processedCount":5}"#.to_owned()));
    }
    assert_eq!(answers.iter().filter(|answer| !answer.replayed()).count(), 1);
    world.finish(&[&upload]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_written_differently_is_a_copy() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let gateway = world.gateway().await?;
    let client = world.client(&gateway)?;

    let mut upload = world.planted.upload(2);
    upload.locations[0].accuracy = Some(5.0);
    let key = world.planted.key();
    let post = Post::batch(&upload).key(&key);
    let first = client.post(&post).await?;
    assert_eq!((first.status, first.replayed()), (200, false));
    let copied = |what: &str, answer: &Answer| {
        assert_eq!((answer.status_and_body(), answer.replayed()), (first.status_and_body(), true), "{what}");
    };

    let plain = String::from_utf8(post.body.clone())?;
    let sorted = serde_json::to_value(&upload)?.to_string();
    let snake = plain.replace("deviceId", "device_id").replace("batteryLevel", "battery_level");
    let snake = snake.replace("networkType", "network_type");
    let integer = plain.replace(r#""accuracy":5.0"#, r#""accuracy":5"#);
    let timestamp = upload.locations[0].timestamp;
    let float = integer.replace(&timestamp.to_string(), &format!("{timestamp}.0"));
    for (what, body) in [
        ("white space", serde_json::to_string_pretty(&upload)?),
        ("field order", sorted),
        ("spelling of names", snake),
        ("5 for 5.0", integer),
        ("a float for an integer", float),
    ] {
        assert_ne!(body, plain, "{what}");
        copied(what, &client.post(&Post::to(post.path, body).key(&key)).await?);
    }
    let mut connection = Raw::connect(client.gateway()).await?;
    connection.send(&Raw::request(&post, &world.account.secret, Some(7))).await?;
    copied("chunked", &connection.answer(Duration::from_secs(10)).await?);

    let compressed = Post { body: gzip(&post.body)?, ..post.clone() }.header("Content-Encoding", "gzip");
    copied("compressed", &client.post(&compressed).await?);
    world.finish(&[&upload]).await
}

fn gzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_upload_under_a_used_key_answers_422_and_is_not_stored() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let gateways = [world.gateway().await?, world.gateway().await?];
    let clients = [world.client(&gateways[0])?, world.client(&gateways[1])?];

    let (upload, other) = (world.planted.upload(2), world.planted.upload(2));
    let key = world.planted.key();
    let first = clients[0].post(&Post::batch(&upload).key(&key)).await?;
    assert_eq!(first.status, 200);
    for client in &clients {
        let answer = client.post(&Post::batch(&other).key(&key)).await?;
        assert_eq!(answer.status, 422);
        assert_eq!(answer.header("Content-Type"), Some("application/problem+json"));
        assert!(!answer.replayed());
        let answer = client.post(&Post::batch(&upload).key(&key)).await?;
        assert_eq!(answer.status_and_body(), first.status_and_body(), "the first upload's answer stays");
    }
    world.finish(&[&upload]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_uploads_racing_for_one_key_on_two_gateways_one_gets_200_and_the_other_422_in_200_races()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let gateways = [world.gateway().await?, world.gateway().await?];
    let clients = [world.client(&gateways[0])?, world.client(&gateways[1])?];

    let races = stream::iter(0..200).map(|_| async {
        let uploads = [world.planted.upload(1), world.planted.upload(1)];
        let key = world.planted.key();
        let posts = [Post::batch(&uploads[0]).key(&key), Post::batch(&uploads[1]).key(&key)];
        let (one, two) = tokio::try_join!(clients[0].post(&posts[0]), clients[1].post(&posts[1]))?;
        let [first, second] = uploads;
        match (one.status, two.status) {
            (200, 422) => Ok(first),
            (422, 200) => Ok(second),
            other => anyhow::bail!("a race ended with {other:?}"),
        }
    });
    let winners: Vec<Upload> = races.buffer_unordered(10).try_collect().await?;
    assert_eq!(winners.len(), 200);
    world.finish(&winners.iter().collect::<Vec<_>>()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_in_two_accounts_is_two_uploads() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let second = world.new_account("second").await?;
    let _consumer = world.consumer().await?;
    let gateway = world.gateway().await?;
    let clients = [world.client(&gateway)?, Client::new(world.client(&gateway)?.gateway(), &second.secret)?];

    let upload = world.planted.upload(2);
    let post = Post::batch(&upload).key(&world.planted.key());
    for client in &clients {
        let answer = client.post(&post).await?;
        assert_eq!((answer.status, answer.replayed()), (200, false));
    }
    world.caught_up().await?;
    let mut accounts: Vec<_> = world.tables.stored().await?.iter().map(|stored| stored.account).collect();
    let mut wanted = vec![world.account.id, second.id];
    accounts.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(accounts, wanted);
    world.finish(&[&upload, &upload]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn quoted_and_bare_forms_are_one_key_255_characters_pass_and_bad_keys_answer_400() -> anyhow::Result<()>
{
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let gateway = world.gateway().await?;
    let client = world.client(&gateway)?;

    let upload = world.planted.upload(1);
    let bare = Post::batch(&upload);
    let key = world.planted.key();
    let quoted = client.post(&bare.clone().key(&key)).await?;
    let unquoted = client.post(&bare.clone().header("Idempotency-Key", &key)).await?;
    assert_eq!((quoted.status, unquoted.status_and_body()), (200, quoted.status_and_body()));
    assert!(unquoted.replayed());

    let long = world.planted.upload(1);
    let longest = format!("{key:x<255}");
    let answer = client.post(&Post::batch(&long).header("Idempotency-Key", &longest)).await?;
    assert_eq!((answer.status, answer.replayed()), (200, false));

    let refused = world.planted.upload(1);
    let refused = Post::batch(&refused);
    for bad in ["", "\"\"", &format!("{longest}x"), "a\tb", "schl\u{fc}ssel", &format!("\"{key}")] {
        let answer = client.post(&refused.clone().header("Idempotency-Key", bad)).await?;
        assert_eq!(answer.status, 400, "{bad:?}");
    }
    let twice = refused.header("Idempotency-Key", &key).header("Idempotency-Key", &key);
    assert_eq!(client.post(&twice).await?.status, 400, "two headers");
    world.finish(&[&upload, &long]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_stored_by_an_older_build_is_replayed_byte_for_byte() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let gateway = world.gateway().await?;

    let upload = world.planted.upload(2);
    let key = world.planted.key();
    let body = "{ \"processedCount\": 2,\n  \"success\": true, \"build\": \"0.0.9\" }\n";
    world.tables.execute("SELECT ensure_partition('idempotency_keys', now(), '1 hour')").await?;
    sqlx::query(
        "INSERT INTO idempotency_keys VALUES ($1, $2, $3, 200, $4, now(), now() + interval '1 hour', 0, 0)",
    )
    .bind(&KeyHash::new(world.account.id, &key).0[..])
    .bind(world.account.id)
    .bind(&Fingerprint::of(&upload).0[..])
    .bind(body.as_bytes())
    .execute(&world.tables.pool)
    .await?;

    for _ in 0..2 {
        let answer = world.client(&gateway)?.post(&Post::batch(&upload).key(&key)).await?;
        assert_eq!(answer.status_and_body(), (200, body.to_owned()));
        assert!(answer.replayed());
    }
    world.finish(&[]).await
}
