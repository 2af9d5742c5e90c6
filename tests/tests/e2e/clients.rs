//! Clients that are slow, silent or too many: each has its deadline, and all together have their bounds.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::try_join_all;
use milepost_tests::{Answer, Client, Post, Raw, World, WorldSettings, eventually};

use crate::load::Load;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_silent_clients_are_closed_by_a_deadline() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let _consumer = world.consumer().await?;
    let mut gateway = world.new_gateway()?;
    for timeout in ["HEADER_TIMEOUT", "BODY_TIMEOUT", "WRITE_TIMEOUT"] {
        gateway.set(timeout, "1s");
    }
    gateway.start().await?;
    let address = world.client(&gateway)?.gateway();
    // Of its own, since an idle time-out as short would close the others too.
    let mut impatient = world.new_gateway()?;
    impatient.set("IDLE_TIMEOUT", "1s");
    impatient.set("HEADER_TIMEOUT", "1s");
    impatient.start().await?;
    let soon = Duration::from_secs(5);
    let upload = world.planted.upload(1);
    let post = Post::batch(&upload).key(&world.planted.key());
    let request = Raw::request(&post, &world.account.secret, None);
    let body_at = request.len() - post.body.len();

    let mut silent = Raw::connect(address).await?;
    silent.closed(soon).await.context("no bytes")?;
    let mut headers = Raw::connect(address).await?;
    headers.send(&request[..20]).await?;
    headers.drip(b"x", soon).await.context("header drip")?;
    let mut body = Raw::connect(address).await?;
    body.send(&request[..body_at]).await?;
    body.drip(b" ", soon).await.context("body drip")?;
    assert_eq!(body.answer(soon).await?.status, 408);
    let mut half = Raw::connect(address).await?;
    half.send(&request[..body_at + 5]).await?;
    half.closed(soon).await.context("half a body")?;
    let mut idle = Raw::connect(world.client(&impatient)?.gateway()).await?;
    idle.send(&request).await?;
    assert_eq!(idle.answer(soon).await?.status, 200);
    idle.closed(soon).await.context("idle keep-alive")?;
    world.finish(&[&upload]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_limit_of_connections_or_requests_in_flight_new_ones_get_503() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let mut gateway = world.new_gateway()?;
    gateway.set("CONNECTIONS_MAX", "100");
    gateway.set("REQUESTS_MAX", "10");
    gateway.start().await?;
    let address = world.client(&gateway)?.gateway();
    let load = Load::new(&world, 11);
    let client = world.client(&gateway)?;
    let waiting = tokio::spawn({
        let (client, posts) = (client.clone(), load.posts[..10].to_vec());
        async move { try_join_all(posts.into_iter().map(|post| send(client.clone(), post.wait(4)))).await }
    });
    eventually(MINUTE, "ten requests are in flight", async || {
        let ends = world.kafka.ends(&world.topics.uploads).await?;
        Ok((ends.iter().map(|(_, next)| next).sum::<i64>() == 10).then_some(()))
    })
    .await?;
    refused(&client.post(&load.posts[10]).await?);
    assert!(waiting.await??.iter().all(|answer| answer.status == 202));

    let mut open = Vec::new();
    let last = eventually(MINUTE, "the limit of connections", async || {
        let mut connection = Raw::connect(address).await?;
        // The first word is the gateway's only on a connection that it refuses.
        match connection.answer(Duration::from_millis(20)).await {
            Ok(answer) => Ok(Some(answer)),
            Err(_) => {
                open.push(connection);
                Ok(None)
            }
        }
    })
    .await?;
    refused(&last);
    assert!(open.len() <= 100, "{} connections are open", open.len());
    drop(open);
    let _consumer = world.consumer().await?;
    load.post_until_final(std::slice::from_ref(&client), 2).await?;
    world.finish(&load.expected()).await
}

async fn send(client: Client, post: Post) -> anyhow::Result<Answer> {
    client.post(&post).await
}

fn refused(answer: &Answer) {
    assert_eq!(answer.status, 503);
    assert!(answer.header("Retry-After").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_limit_of_memory_for_bodies_new_ones_get_503_and_memory_stays_bounded() -> anyhow::Result<()>
{
    let world = World::new(WorldSettings::default()).await?;
    let mut gateway = world.new_gateway()?;
    gateway.set("BODY_MEMORY_KIB", "8192");
    gateway.set("PHONE_PROTOCOLS", "");
    gateway.set("BODY_TIMEOUT", "10s");
    gateway.start().await?;
    let head = format!(
        "POST /api/v1/locations/batch HTTP/1.1\r\nHost: milepost\r\nX-API-Key: {}\r\n\
         Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n",
        world.account.secret
    );

    // Bodies that do not end: together they would take ten times what is allowed.
    let before = gateway.memory()?;
    let mut connections = Vec::new();
    for _ in 0..100 {
        let mut connection = Raw::connect(world.client(&gateway)?.gateway()).await?;
        connection.send(head.as_bytes()).await?;
        // Whoever is refused may be closed by then.
        let _sent = connection.send(&[b' '; 900_000]).await;
        connections.push(connection);
    }
    let answers = tokio::spawn(async move {
        try_join_all(connections.iter_mut().map(|connection| connection.answer(MINUTE))).await
    });
    let mut most = 0;
    eventually(MINUTE, "all are answered", async || {
        most = most.max(gateway.memory()?);
        Ok(answers.is_finished().then_some(()))
    })
    .await?;
    let answers = answers.await??;
    let given_up = answers.iter().filter(|answer| answer.status == 408).count();
    answers.iter().filter(|answer| answer.status != 408).for_each(refused);
    let grown = most.saturating_sub(before);
    assert!(grown < 72 << 20, "memory has grown by {grown} bytes");
    assert!((1..=20).contains(&given_up), "{given_up} bodies were waited for");

    let _consumer = world.consumer().await?;
    let load = Load::new(&world, 1);
    load.post_until_final(&[world.client(&gateway)?], 1).await?;
    world.finish(&load.expected()).await
}

/// Clients that send a piece of a body of 20,000 bytes now and then.
struct Slow {
    connections: Vec<Raw>,
    gone: usize,
}

impl Slow {
    async fn open(gateway: std::net::SocketAddr, secret: &str, count: usize) -> anyhow::Result<Self> {
        let head = format!(
            "POST /api/v1/locations HTTP/1.1\r\nHost: milepost\r\nX-API-Key: {secret}\r\n\
             Content-Type: application/json\r\nContent-Length: 20000\r\n\r\n"
        );
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            let mut connection = Raw::connect(gateway).await?;
            connection.send(head.as_bytes()).await?;
            connections.push(connection);
        }
        Ok(Self { connections, gone: 0 })
    }

    /// Sends a piece of each body. Those that are refused are gone.
    async fn send(&mut self, bytes: usize) {
        let (piece, before) = (vec![b' '; bytes], self.connections.len());
        let mut kept = Vec::with_capacity(before);
        for mut connection in self.connections.drain(..) {
            let refused = connection.answer(Duration::from_millis(1)).await.is_ok();
            if !refused && connection.send(&piece).await.is_ok() {
                kept.push(connection);
            }
        }
        self.gone += before - kept.len();
        self.connections = kept;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_come_slowly_keep_no_others_waiting() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let mut gateway = world.new_gateway()?;
    gateway.set("REQUESTS_MAX", "50");
    gateway.set("BODY_MEMORY_KIB", "4096");
    gateway.set("PHONE_PROTOCOLS", "");
    gateway.set("BODY_BYTES_MAX", "524288");
    gateway.start().await?;
    let _consumer = world.consumer().await?;
    let client = world.client(&gateway)?;
    let load = Load::new(&world, 100);

    // Four times as many as may be served at once, and more bytes than slow bodies have memory for.
    let mut slow = Slow::open(client.gateway(), &world.account.secret, 200).await?;
    let mut longest = Duration::ZERO;
    for posts in load.posts.chunks(20) {
        slow.send(500).await;
        for post in posts {
            let begun = std::time::Instant::now();
            let answer = client.post(post).await?;
            assert!([200, 202].contains(&answer.status), "{:?}", answer.status_and_body());
            longest = longest.max(begun.elapsed());
        }
    }
    eventually(MINUTE, "the slow that have no part of the memory are refused", async || {
        slow.send(1).await;
        Ok((slow.gone > 0).then_some(()))
    })
    .await?;
    assert!(slow.connections.len() >= 50, "{} are left", slow.connections.len());
    println!("{} slow bodies refused, {} left, longest wait {longest:?}", slow.gone, slow.connections.len());
    load.post_until_final(&[client], 1).await?;
    world.finish(&load.expected()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_again_and_again_fills_no_log_and_is_counted_there() -> anyhow::Result<()> {
    const REFUSALS: usize = 3000;
    let world = World::new(WorldSettings::default()).await?;
    let gateway = world.gateway().await?;
    let mut connection = Raw::connect(world.client(&gateway)?.gateway()).await?;
    let begun = std::time::Instant::now();
    for _ in 0..REFUSALS / 100 {
        connection.send("GET /api/v1/uploads/x HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100).as_bytes()).await?;
        for _ in 0..100 {
            assert_eq!(connection.answer(MINUTE).await?.status, 401);
        }
    }
    let seconds = usize::try_from(begun.elapsed().as_secs())? + 2;
    let counted = async || {
        let log = gateway.logged()?;
        let of_it = || log.lines().filter(|line| line.contains("unauthorized"));
        let left_out = |line: &str| {
            let (_, rest) = line.split_once("left_out=")?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok()
        };
        let lines = of_it().filter(|line| line.contains("request_id")).count();
        assert!(lines <= 10 * seconds, "{lines} lines in {seconds} s");
        Ok((lines + of_it().filter_map(left_out).sum::<usize>() == REFUSALS).then_some(()))
    };
    eventually(MINUTE, "every refusal is logged or counted", counted).await?;
    world.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kilobyte_of_gzip_takes_no_memory_and_holds_up_nobody() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let gateway = world.gateway().await?;
    let _consumer = world.consumer().await?;
    let objects = vec!["{}"; 349_000].join(",");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    write!(encoder, r#"{{"deviceId":"d","locations":[{objects}]}}"#)?;
    let body = encoder.finish()?;
    assert!(body.len() < 1200, "{}", body.len());

    let before = gateway.memory()?;
    let bombs = (0..50).map(|_| {
        let post = Post::to("/api/v1/locations/batch", body.clone()).header("Content-Encoding", "gzip");
        anyhow::Ok(tokio::spawn(send(world.client(&gateway)?, post)))
    });
    let bombs: Vec<_> = bombs.collect::<Result<_, _>>()?;
    let load = Load::new(&world, 1);
    load.post_until_final(&[world.client(&gateway)?], 1).await?;
    let mut most = 0;
    for bomb in bombs {
        let answer = bomb.await??;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (413, Some("too-many-locations")));
        most = most.max(gateway.memory()?);
    }
    let grown = most.saturating_sub(before);
    // A single one took 260 MB when it was built before it was judged.
    assert!(grown < 96 << 20, "memory has grown by {grown} bytes");
    world.finish(&load.expected()).await
}
