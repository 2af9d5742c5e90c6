//! Being operated: stopped, attacked and asked, the programs do what operators were promised.

use std::time::Duration;

use futures::future::try_join_all;
use milepost_tests::{Answer, Client, Post, Raw, Signal, World, WorldSettings, eventually};

use crate::load::Load;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn at_sigterm_under_load_both_programs_drain_and_end_with_0_and_nothing_answered_is_lost()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let mut gateways = [world.gateway().await?, world.gateway().await?];
    let clients = [world.client(&gateways[0])?, world.client(&gateways[1])?];
    let mut consumer = world.consumer().await?;

    let load = Load::new(&world, 300);
    let stops = async {
        for _ in 0..2 {
            gateways[1].restart().await?;
            consumer.restart().await?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(load.post_until_final(&clients, 16), stops)?;
    world.finish(&load.expected()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn at_sigterm_readiness_turns_false_and_requests_in_flight_get_answers() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let mut gateway = world.gateway().await?;
    let client = world.client(&gateway)?;
    let consumer = world.consumer().await?;
    let warm = Load::new(&world, 1);
    warm.post_until_final(std::slice::from_ref(&client), 1).await?;
    world.caught_up().await?;

    // Answers do not come, so all of them wait when the signal comes.
    consumer.signal(Signal::SIGSTOP)?;
    let load = Load::new(&world, 20);
    let in_flight = tokio::spawn({
        let (client, posts) = (client.clone(), load.posts.clone());
        let posts: Vec<Post> = posts.into_iter().map(|post| post.wait(4)).collect();
        async move { try_join_all(posts.iter().map(|post| client.post(post))).await }
    });
    eventually(MINUTE, "all are in the journal", async || {
        let ends = world.kafka.ends(&world.topics.uploads).await?;
        Ok((ends.iter().map(|(_, next)| next).sum::<i64>() == 21).then_some(()))
    })
    .await?;
    gateway.signal(Signal::SIGTERM)?;
    let status = {
        let ready_no_more = eventually(MINUTE, "readiness turns false", async || {
            let page = gateway.page("/readyz").await;
            Ok(page.is_some_and(|page| page.contains(r#""ready":false"#)).then_some(()))
        });
        ready_no_more.await?;
        gateway.wait_exit(Duration::from_secs(30)).await?
    };
    assert_eq!(status.code(), Some(0));
    let answers = in_flight.await??;
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [202; 20]);

    consumer.signal(Signal::SIGCONT)?;
    gateway.start().await?;
    let expected = [warm.expected(), load.expected()].concat();
    world.finish(&expected).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let mut gateway = world.gateway().await?;
    let client = world.client(&gateway)?;
    let upload = world.planted.upload(1);
    let post = Post::batch(&upload).key(&world.planted.key()).wait(20);
    let waiting = tokio::spawn(async move { client.post(&post).await });
    eventually(MINUTE, "it is in the journal", async || {
        let ends = world.kafka.ends(&world.topics.uploads).await?;
        Ok(ends.iter().any(|(_, next)| *next > 0).then_some(()))
    })
    .await?;
    gateway.signal(Signal::SIGTERM)?;
    eventually(MINUTE, "it has heard", async || {
        Ok(gateway.logged()?.contains("a second signal ends at once").then_some(()))
    })
    .await?;
    gateway.signal(Signal::SIGTERM)?;
    let status = gateway.wait_exit(Duration::from_secs(2)).await?;
    assert_eq!(status.code(), Some(130));
    assert!(waiting.await?.is_err());

    // The consumer, while a transaction waits.
    let mut consumer = world.consumer().await?;
    world.caught_up().await?;
    let mut lock = world.tables.pool.acquire().await?;
    sqlx::raw_sql("BEGIN; LOCK TABLE devices IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await?;
    gateway.start().await?;
    let second = world.planted.upload(1);
    let post = Post::batch(&second).key(&world.planted.key()).wait(0);
    assert_eq!(world.client(&gateway)?.post(&post).await?.status, 202);
    eventually(MINUTE, "a transaction waits", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                       AND datname = current_database() AND usename = 'milepost_consumer'";
        Ok((world.tables.number(waiting).await? > 0).then_some(()))
    })
    .await?;
    assert!(consumer.ready().await);
    consumer.signal(Signal::SIGTERM)?;
    eventually(MINUTE, "it has heard, and readiness turns false", async || {
        let page = consumer.page("/readyz").await.unwrap_or_default();
        Ok(page.contains(r#""detail":"stopping""#).then_some(()))
    })
    .await?;
    assert!(!consumer.ready().await);
    assert!(consumer.logged()?.contains("a second signal ends at once"));
    consumer.signal(Signal::SIGTERM)?;
    assert_eq!(consumer.wait_exit(Duration::from_secs(2)).await?.code(), Some(130));
    sqlx::raw_sql("ROLLBACK").execute(&mut *lock).await?;
    drop(lock);
    consumer.start().await?;
    world.finish(&[&upload, &second]).await
}

/// A refusal without what differs from request to request.
fn refusal(answer: &Answer) -> (u16, serde_json::Value, Option<String>) {
    let mut body = answer.json();
    body.as_object_mut().expect("a problem").remove("requestId").expect("a request id");
    (answer.status, body, answer.header("WWW-Authenticate").map(str::to_owned))
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_malformed_and_revoked_api_keys_get_the_same_401_a_revoked_one_within_60_seconds()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let doomed = world.new_secret(world.account.id).await?;
    let _consumer = world.consumer().await?;
    let gateway = world.gateway().await?;
    let address = world.client(&gateway)?.gateway();
    let upload = world.planted.upload(1);
    let post = Post::batch(&upload).key(&world.planted.key());

    let with = async |secret: &str| Client::new(address, secret)?.post(&post).await;
    assert_eq!(with(&doomed).await?.status, 200);
    let bearer = post.clone().header("Authorization", &format!("Bearer {doomed}"));
    assert_eq!(Client::new(address, "")?.post(&bearer).await?.status, 200);
    // Made after the gateway has loaded all keys.
    let late = world.new_secret(world.account.id).await?;
    assert_eq!(with(&late).await?.status, 200);

    let none = refusal(&with("").await?);
    assert_eq!(none.0, 401);
    assert!(none.2.is_some(), "WWW-Authenticate is required with 401");
    let mut unknown = doomed.clone();
    let last = if unknown.pop() == Some('A') { 'B' } else { 'A' };
    unknown.push(last);
    let twice = format!("{doomed}{doomed}");
    for bad in [&unknown, "mp_", "nonsense", &doomed[..20], &twice] {
        assert_eq!(refusal(&with(bad).await?), none, "{bad}");
    }

    world.administer(&["key", "revoke", &doomed[..11]]).await?;
    let revoked = eventually(MINUTE, "the revoked key stops working", async || {
        let answer = with(&doomed).await?;
        Ok((answer.status != 200).then_some(answer))
    })
    .await?;
    assert_eq!(refusal(&revoked), none);
    assert_eq!(with(&late).await?.status, 200);
    world.finish(&[&upload]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_handler_is_a_500_with_a_fixed_body() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let mut gateway = world.new_gateway()?;
    gateway.set("CRASH_AT", "answered=panic");
    gateway.start().await?;
    let client = world.client(&gateway)?;
    let upload = world.planted.upload(1);
    let post = Post::batch(&upload).key(&world.planted.key());

    let answer = client.post(&post).await?;
    let mut problem = answer.json();
    let id = problem.as_object_mut().and_then(|problem| problem.remove("requestId")).expect("a request id");
    assert_eq!(answer.header("Content-Type"), Some("application/problem+json"));
    assert_eq!(answer.header("X-Request-Id"), id.as_str());
    let wanted = serde_json::json!({
        "type": "about:blank", "title": "Internal Server Error", "status": 500, "code": "internal",
        "detail": "Something went wrong here. Try again with the same Idempotency-Key."
    });
    assert_eq!((answer.status, problem), (500, wanted));
    assert!(gateway.logged()?.contains(id.as_str().unwrap_or_default()));
    let answer = client.post(&post).await?;
    assert_eq!((answer.status, answer.replayed()), (200, true), "the gateway lives on");
    world.finish(&[&upload]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_most_verbose_log_level_no_coordinate_key_or_secret_is_in_any_log() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let mut consumer = world.new_consumer()?;
    let mut gateway = world.new_gateway()?;
    // Log lines for machines carry more fields.
    consumer.set("LOG_FORMAT", "json");
    gateway.set("LOG_FORMAT", "json");
    consumer.start().await?;
    gateway.start().await?;
    let client = world.client(&gateway)?;

    let (upload, other) = (world.planted.upload(2), world.planted.upload(2));
    let key = world.planted.key();
    let post = Post::batch(&upload).key(&key);
    let plain = String::from_utf8(post.body.clone())?;
    let location = client.post(&post.clone().respond_async()).await?;
    let location = location.header("Location").expect("a 202").to_owned();
    assert_eq!(client.post_until_final(&post, MINUTE).await?.status, 200);
    assert_eq!(client.get(&location).await?.status, 200);
    assert_eq!(client.post(&Post::batch(&other).key(&key)).await?.status, 422);

    // Whatever is refused is not quoted either.
    for bad in [
        Post::to(post.path, plain.replace("latitude", "lattitude")),
        Post::to(post.path, plain.replace(":1", ":91")),
        Post::to(post.path, &plain.as_bytes()[..plain.len() - 5]),
        Post::batch(&upload).key(&key).key(&key),
        Post::batch(&upload).header("Idempotency-Key", &format!("\"{key}")),
        Post::batch(&upload).header("Authorization", "Bearer other"),
        Post::to("/api/v1/locations", post.body.clone()),
    ] {
        let status = client.post(&bad).await?.status;
        assert!((400..500).contains(&status), "{status}");
    }
    let mut connection = Raw::connect(client.gateway()).await?;
    let request = Raw::request(&post, &world.account.secret, None);
    connection.send(&request[..request.len() - 30]).await?;
    drop(connection);

    // Nor what cannot be stored.
    let poison = format!(r#"{{"schema":1,"upload":{plain}"#);
    world.kafka.append(&world.topics.uploads, 0, Some(key.as_bytes()), Some(poison.as_bytes())).await?;
    world.caught_up().await?;
    assert_eq!(world.tables.dead_letters().await?.len(), 1);

    assert!(gateway.logged()?.contains(r#""level":"TRACE""#), "the log is as verbose as can be");
    assert!(consumer.logged()?.contains(r#""level":"DEBUG""#));
    gateway.stop().await?;
    consumer.stop().await?;
    consumer.start().await?;
    world.finish(&[&upload]).await
}
