//! Being started: bad settings are refused, and the operators' listener shows what is there.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use milepost_shared::program::settings::EXIT_CONFIG;
use milepost_tests::{Post, Program, Raw, Server, Services, World, WorldSettings, eventually};

const MINUTE: Duration = Duration::from_secs(60);

/// Starts a program that ends because of its settings, and returns what it says.
async fn refused(mut program: Program, settings: &[(&str, &str)]) -> anyhow::Result<String> {
    for (name, value) in settings {
        program.set(name, value);
    }
    program.spawn()?;
    let status = program.wait_exit(MINUTE).await?;
    assert_eq!(status.code(), Some(EXIT_CONFIG), "{} with {settings:?}", program.name);
    program.logged()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_names_every_fault_at_once_and_ends_with_78() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let bad = [
        ("PARTITIONS", "none"),
        ("IDEMPOTENCY_TTL", "a day"),
        ("OPS_LISTEN", "here"),
        ("DATABASE_URL", "mysql://milepost:planted@127.0.0.1/milepost"),
        ("MILEPOST_LOG", "info,milepost=loud"),
    ];
    for program in [world.new_gateway()?, world.new_consumer()?] {
        let output = refused(program, &bad).await?;
        let faults: Vec<&str> = output.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(faults.len(), bad.len(), "{output}");
        for option in ["--partitions", "--idempotency-ttl", "--ops-listen", "--database-url", "--log"] {
            assert_eq!(faults.iter().filter(|fault| fault.contains(option)).count(), 1, "{option}: {output}");
        }
        assert!(!output.contains("planted"), "{output}");
    }
    let contradictions = [("ANSWER_WAIT", "30s"), ("WAIT_MAX", "25s"), ("DRAIN_TIMEOUT", "20s")];
    let output = refused(world.new_gateway()?, &[&contradictions[..], &bad].concat()).await?;
    assert_eq!(output.lines().filter(|line| line.starts_with("error: ")).count(), bad.len() + 2, "{output}");
    assert!(output.contains("ANSWER_WAIT must") && output.contains("WAIT_MAX must"), "{output}");
    world.finish(&[]).await
}

/// The names of the dependencies that a program shows, all of them up.
async fn dependencies(program: &Program) -> anyhow::Result<Vec<String>> {
    let page = program.page("/readyz").await.unwrap_or_default();
    let page: serde_json::Value = serde_json::from_str(&page)?;
    assert_eq!(page["ready"], true, "{page}");
    let dependencies = page["dependencies"].as_object().cloned().unwrap_or_default();
    assert!(dependencies.values().all(|dependency| dependency["up"] == true), "{page}");
    Ok(dependencies.keys().cloned().collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_listener_shows_life_readiness_by_dependency_and_metrics_and_the_first_shows_none()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let (gateway, consumer) = (world.gateway().await?, world.consumer().await?);
    for (program, names, metric) in [
        (
            &gateway,
            &["accepting", "api_keys", "kafka", "postgres", "results", "schema", "topics"][..],
            "# TYPE milepost_gateway_uploads_total counter",
        ),
        (
            &consumer,
            &["emission", "journal", "kafka", "postgres"],
            "# TYPE milepost_consumer_decided_total counter",
        ),
    ] {
        assert_eq!(program.page("/livez").await.as_deref(), Some("alive\n"));
        eventually(MINUTE, "everything is up", async || {
            let mut up = true;
            for name in names {
                up &= program.has_up(name).await;
            }
            Ok(up.then_some(()))
        })
        .await?;
        assert_eq!(dependencies(program).await?, names);
        let metrics = program.page("/metrics").await.unwrap_or_default();
        assert!(metrics.contains(metric), "{metrics}");
    }
    let client = world.client(&gateway)?;
    for page in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(client.get(page).await?.status, 404, "{page} is for operators only");
    }
    world.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_operators_pages_that_falls_silent_keeps_no_program_from_ending() -> anyhow::Result<()>
{
    let world = World::new(WorldSettings::default()).await?;
    for mut program in [world.gateway().await?, world.consumer().await?] {
        let mut silent = Raw::connect(program.ops).await?;
        let mut begun = Raw::connect(program.ops).await?;
        begun.send(b"GET /livez HT").await?;
        program.stop().await?;
        silent.closed(Duration::from_secs(1)).await?;
        begun.closed(Duration::from_secs(1)).await?;
    }
    world.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_started_before_its_servers_waits_for_them_and_a_schema_that_is_too_old_ends_it_with_78()
-> anyhow::Result<()> {
    let (kafka, postgres) = tokio::try_join!(Server::kafka(), Server::postgres())?;
    let services = Services::shared()?.with_kafka(&kafka).with_postgres(&postgres);
    let world = World::on(services, WorldSettings::default()).await?;
    kafka.kill().await?;
    postgres.kill().await?;
    let mut programs = [world.new_gateway()?, world.new_consumer()?];
    for program in &mut programs {
        program.spawn()?;
    }
    for program in &mut programs {
        eventually(MINUTE, "its pages are served, and say that it is not ready", async || {
            Ok((program.page("/livez").await.is_some() && !program.ready().await).then_some(()))
        })
        .await?;
    }
    postgres.start().await?;
    kafka.start().await?;
    let upload = world.planted.upload(1);
    for program in &mut programs {
        program.await_ready(MINUTE).await?;
    }
    let client = world.client(&programs[0])?;
    let answer = client.post(&Post::batch(&upload).key(&world.planted.key()).wait(20)).await?;
    assert_eq!(answer.status, 200);
    for program in &mut programs {
        program.stop().await?;
    }

    sqlx::raw_sql(
        "CREATE TABLE newest AS SELECT * FROM _sqlx_migrations ORDER BY version DESC LIMIT 1; \
        DELETE FROM _sqlx_migrations USING newest WHERE _sqlx_migrations.version = newest.version",
    )
    .execute(&world.tables.pool)
    .await?;
    for mut program in [world.new_gateway()?, world.new_consumer()?] {
        program.spawn()?;
        let status = program.wait_exit(MINUTE).await?;
        assert_eq!(status.code(), Some(EXIT_CONFIG), "{}", program.name);
        assert!(program.logged()?.contains("run 'milepost-admin migrate'"), "{}", program.name);
    }
    sqlx::raw_sql("INSERT INTO _sqlx_migrations SELECT * FROM newest; DROP TABLE newest")
        .execute(&world.tables.pool)
        .await?;
    world.finish(&[&upload]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_needs_keys_for_longer_than_the_database_keeps_them_ends_with_78_until_migrate_has_run()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let longer = [("IDEMPOTENCY_TTL", "90m"), ("CONSUMER_OUTAGE_MAX", "30m")];
    let arguments = ["--idempotency-ttl", "90m", "--consumer-outage-max", "30m"];
    world.administer(&[&["topics", "create", "--reconfigure"][..], &arguments].concat()).await?;
    let output = refused(world.new_consumer()?, &longer).await?;
    assert!(output.contains("keeps keys for 01:00:00, IDEMPOTENCY_TTL is 1h 30m"), "{output}");
    assert!(output.contains("run 'milepost-admin migrate'"), "{output}");

    world.administer(&["migrate", "--idempotency-ttl", "90m"]).await?;
    let mut consumer = world.new_consumer()?;
    longer.iter().for_each(|(name, value)| consumer.set(name, value));
    consumer.start().await?;
    world.finish(&[]).await
}

/// A proxy does not reach this machine's loopback.
#[tokio::test(flavor = "multi_thread")]
async fn the_scripts_find_a_program_ready_though_the_environment_names_an_http_proxy() -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let consumer = world.new_consumer()?;
    let (binary, environment) = consumer.command_line();
    let dir = tempfile::tempdir()?;
    let script = async |verb: &str| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../services/program");
        let mut command = tokio::process::Command::new(script);
        command.arg(verb).arg(dir.path()).arg(binary).arg(consumer.ops.port().to_string());
        command.envs(environment).env("http_proxy", "http://127.0.0.1:1").env_remove("no_proxy");
        command.stdin(Stdio::null()).output().await
    };
    let started = script("start").await?;
    script("kill").await?;
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    world.finish(&[]).await
}
