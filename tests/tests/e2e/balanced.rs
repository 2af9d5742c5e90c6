//! Behind a balancer that goes by readiness, and in a container.

use std::process::Stdio;
use std::time::{Duration, Instant};

use milepost_tests::{Post, Program, Server, Services, Signal, World, WorldSettings, eventually};
use tokio::process::Command;

const MINUTE: Duration = Duration::from_secs(60);
/// Enough for a readiness probe and one request, even on a busy machine.
const DELAY: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn while_kafka_is_away_a_gateway_that_was_ready_stays_ready_and_replays_what_it_knows()
-> anyhow::Result<()> {
    let kafka = Server::kafka().await?;
    let world = World::on(Services::shared()?.with_kafka(&kafka), WorldSettings::default()).await?;
    let (gateway, consumer) = (world.gateway().await?, world.consumer().await?);
    let client = world.client(&gateway)?;
    let (upload, new) = (world.planted.upload(1), world.planted.upload(1));
    let known = Post::batch(&upload).key(&world.planted.key()).wait(20);
    let first = client.post(&known).await?;
    assert_eq!(first.status, 200);
    world.caught_up().await?;

    kafka.kill().await?;
    let degraded = async || {
        let page = gateway.page("/readyz").await.unwrap_or_default();
        let page: serde_json::Value = serde_json::from_str(&page).unwrap_or_default();
        let names = page["degraded"].as_array().cloned().unwrap_or_default();
        names.contains(&"kafka".into()).then_some(page["dependencies"]["kafka"].clone())
    };
    let kafka_is = eventually(MINUTE, "it says that Kafka is away", async || Ok(degraded().await)).await?;
    assert!(kafka_is["detail"].as_str().is_some_and(|why| !why.is_empty()), "{kafka_is}");
    assert!(gateway.ready().await, "a balancer would have nobody left to send to");
    assert!((gateway.metric_of("milepost_dependency_up", "dependency=\"kafka\"").await? - 0.0).abs() < 0.5);
    let again = client.post(&known).await?;
    assert_eq!((again.status, &again.body), (200, &first.body));
    let post = Post::batch(&new).key(&world.planted.key()).wait(20);
    let refused = client.post(&post).await?;
    assert_eq!(refused.status, 503);
    assert!(refused.headers.contains_key("retry-after"));

    kafka.start().await?;
    eventually(2 * MINUTE, "nothing is degraded", async || {
        Ok((gateway.is_whole().await && consumer.ready().await).then_some(()))
    })
    .await?;
    eventually(MINUTE, "the retry is answered", async || {
        Ok((client.post(&post).await?.status == 200).then_some(()))
    })
    .await?;
    world.finish(&[&upload, &new]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_asked_to_stop_is_not_ready_and_serves_new_connections_until_the_balancer_has_heard()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let mut gateway = world.new_gateway()?;
    gateway.set("SHUTDOWN_DELAY", &format!("{}s", DELAY.as_secs()));
    gateway.start().await?;
    let consumer = world.consumer().await?;
    gateway.signal(Signal::SIGTERM)?;
    let asked = Instant::now();
    eventually(MINUTE, "it is not ready", async || Ok((!gateway.ready().await).then_some(()))).await?;
    // A client of its own, and so a connection that was made after the signal; its upload is new.
    let upload = world.planted.upload(1);
    let post = Post::batch(&upload).key(&world.planted.key()).wait(20);
    assert_eq!(world.client(&gateway)?.post(&post).await?.status, 200);
    assert!(gateway.wait_exit(MINUTE).await?.success());
    assert!(asked.elapsed() >= DELAY, "{:?}", asked.elapsed());
    drop(consumer);
    world.finish(&[&upload]).await
}

/// Runs the program's own health check, and returns its status and what it says.
async fn healthcheck(program: &Program, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let (binary, environment) = program.command_line();
    let mut command = Command::new(binary);
    command.env_clear().envs(environment).arg("healthcheck").args(arguments).stdin(Stdio::null());
    let output = command.output().await?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_asks_its_own_pages_whether_it_is_well_without_a_shell() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    for mut program in [world.new_gateway()?, world.new_consumer()?] {
        let (status, said) = healthcheck(&program, &[]).await?;
        assert!(status == Some(1) && said.contains("does not answer"), "{said}");
        // It waits for a server that is not there.
        program.set("KAFKA_BROKERS", "127.0.0.1:1");
        program.spawn()?;
        eventually(MINUTE, "it is alive", async || {
            Ok((healthcheck(&program, &["--live"]).await?.0 == Some(0)).then_some(()))
        })
        .await?;
        let (status, said) = healthcheck(&program, &[]).await?;
        assert!(status == Some(1) && said.contains("\"ready\":false"), "{said}");
        program.stop().await?;
        program.set("KAFKA_BROKERS", &world.services.kafka);
        program.start().await?;
        let (status, said) = healthcheck(&program, &[]).await?;
        assert!(status == Some(0) && said.contains("\"ready\":true"), "{said}");
    }
    world.finish(&[]).await
}

/// The soft and the hard limit of open files of a process that a shell has started with `limits`, and what it logs.
async fn limited(world: &World, limits: &str) -> anyhow::Result<(String, String)> {
    let gateway = world.new_gateway()?;
    let (binary, environment) = gateway.command_line();
    let log = tempfile::NamedTempFile::new()?;
    let mut command = Command::new("bash");
    command.arg("-c").arg(format!("{limits}; exec \"$0\"")).arg(binary);
    command.env_clear().envs(environment).stdin(Stdio::null()).stderr(log.reopen()?).kill_on_drop(true);
    let child = command.spawn()?;
    eventually(MINUTE, "it is ready", async || Ok(gateway.ready().await.then_some(()))).await?;
    let pid = child.id().unwrap_or_default();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let of_files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    Ok((of_files.split_whitespace().collect::<Vec<_>>().join(" "), std::fs::read_to_string(log.path())?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_raises_its_limit_of_open_files_and_says_when_that_is_not_enough() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let warning = "the hard limit of open files is too low";
    let (limits, log) = limited(&world, "ulimit -Sn 256; ulimit -Hn 4096").await?;
    assert_eq!(limits, "Max open files 4096 4096 files");
    let warned: Vec<&str> = log.lines().filter(|line| line.contains(warning)).collect();
    assert_eq!(warned.len(), 1, "{log}");
    assert!(warned[0].contains("limit=4096") && warned[0].contains("CONNECTIONS_MAX"), "{warned:?}");
    let (limits, log) = limited(&world, "ulimit -Sn 256; ulimit -Hn 16384").await?;
    assert_eq!(limits, "Max open files 16384 16384 files");
    assert!(!log.contains(warning), "{log}");
    world.finish(&[]).await
}
