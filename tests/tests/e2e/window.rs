//! The window: how long a key is remembered, and how it is forgotten.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use milepost_shared::journal::clock::{Clock, JournalTime};
use milepost_shared::journal::key::KeyHash;
use milepost_shared::kafka::topics::{TopicAdmin, creation};
use milepost_shared::program::settings::{EXIT_CONFIG, KafkaSettings};
use milepost_tests::{Post, Program, Server, Services, World, WorldSettings, eventually};

const MINUTE: Duration = Duration::from_secs(60);

fn now() -> JournalTime {
    Clock::new(0).now()
}

/// Waits until a moment is over by every clock of this machine.
pub async fn passed(moment: JournalTime) -> anyhow::Result<()> {
    eventually(MINUTE, "the moment is over", async || Ok((now() > moment).then_some(()))).await
}

/// Waits until a consumer that comes back after some TTLs has made coming table partitions, looked for expired ones after
/// that, and made one more: a TTL at most.
pub async fn maintained(world: &World) -> anyhow::Result<()> {
    let newest = "SELECT extract(epoch FROM max(lower_bound))::bigint FROM table_partitions \
                  WHERE parent = 'idempotency_keys' HAVING max(lower_bound) > now()";
    let mut seen = BTreeSet::new();
    eventually(MINUTE, "two table partitions are made, one after the other", async || {
        seen.extend(world.tables.number(newest).await.ok());
        Ok((seen.len() > 1).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn inside_the_ttl_a_retry_is_a_copy_and_after_it_32_clients_reuse_the_key_and_one_upload_is_stored()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings { ttl: Duration::from_secs(6), ..WorldSettings::default() }).await?;
    let _consumer = world.consumer().await?;
    let gateways = [world.gateway().await?, world.gateway().await?];
    let clients = [world.client(&gateways[0])?, world.client(&gateways[1])?];

    let upload = world.planted.upload(2);
    let post = Post::batch(&upload).key(&world.planted.key());
    let first = clients[0].post(&post).await?;
    assert_eq!((first.status, first.replayed()), (200, false));
    for client in &clients {
        let answer = client.post(&post).await?;
        assert_eq!((answer.status_and_body(), answer.replayed()), (first.status_and_body(), true));
    }
    let window = world.tables.keys().await?.pop().expect("the key has a row");
    assert_eq!(window.expires_at, window.accepted_at.plus(world.settings.ttl));

    passed(window.expires_at).await?;
    let answers = try_join_all((0..32).map(|copy| clients[copy % 2].post(&post))).await?;
    for answer in &answers {
        assert_eq!(answer.status_and_body(), first.status_and_body());
    }
    assert_eq!(answers.iter().filter(|answer| !answer.replayed()).count(), 1, "one of them claims the key");
    world.finish(&[&upload, &upload]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_clock_is_an_hour_behind_or_ahead_decides_nothing() -> anyhow::Result<()> {
    let world = World::new(WorldSettings { ttl: Duration::from_secs(5), ..WorldSettings::default() }).await?;
    let _consumer = world.consumer().await?;
    let mut gateways = [world.new_gateway()?, world.new_gateway()?];
    for (gateway, offset_ms) in gateways.iter_mut().zip(["-3600000", "3600000"]) {
        gateway.set("CLOCK_OFFSET_MS", offset_ms);
        gateway.start().await?;
    }
    let [slow, fast] = [world.client(&gateways[0])?, world.client(&gateways[1])?];

    let upload = world.planted.upload(1);
    let post = Post::batch(&upload).key(&world.planted.key());
    let first = slow.post(&post).await?;
    assert_eq!((first.status, first.replayed()), (200, false));
    for client in [&fast, &slow] {
        let answer = client.post(&post).await?;
        assert_eq!((answer.status_and_body(), answer.replayed()), (first.status_and_body(), true));
    }
    let window = world.tables.keys().await?.pop().expect("the key has a row");
    passed(window.expires_at).await?;
    let again = fast.post(&post).await?;
    assert_eq!((again.status_and_body(), again.replayed()), (first.status_and_body(), false));
    world.finish(&[&upload, &upload]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_keys_leave_the_table_by_dropped_partitions_and_the_answers_leave_their_topic()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings { ttl: Duration::from_secs(4), ..WorldSettings::default() }).await?;
    // No row is ever deleted: this would show, also for rows in partitions that are gone by then.
    world
        .tables
        .execute(
            "CREATE TABLE deleted (key_hash bytea); \
             CREATE FUNCTION note_deleted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS \
             $$ BEGIN INSERT INTO deleted VALUES (OLD.key_hash); RETURN OLD; END $$; \
             CREATE TRIGGER note_deleted AFTER DELETE ON idempotency_keys FOR EACH ROW \
             EXECUTE FUNCTION note_deleted()",
        )
        .await?;
    let consumer = world.consumer().await?;
    let gateway = world.gateway().await?;
    let client = world.client(&gateway)?;

    let uploads: Vec<_> = (0..9).map(|_| world.planted.upload(1)).collect();
    for upload in &uploads {
        assert_eq!(client.post(&Post::batch(upload).key(&world.planted.key())).await?.status, 200);
    }
    let keys = world.tables.keys().await?;
    assert_eq!(keys.len(), 9);
    assert_eq!(world.kafka.read(&world.topics.results).await?.len(), 9);
    let newest = keys.iter().map(|key| key.expires_at).max().expect("there are nine");
    let oldest = keys.iter().map(|key| key.expires_at).min().expect("there are nine");

    // The width of a table partition, the grace, and twice the interval of maintenance.
    let gone_at = newest.plus(world.settings.ttl + Duration::from_secs(1 + 1) + Duration::from_secs(5));
    eventually(MINUTE, "the keys are gone", async || {
        for table in ["idempotency_keys", "locations"] {
            let ahead = "SELECT count(*) FROM table_partitions WHERE NOT detached AND lower_bound > now()";
            let ahead = world.tables.number(&format!("{ahead} AND parent = '{table}'")).await?;
            assert!(ahead >= 1, "the next partition of {table} exists ahead of time");
        }
        // Looked at before the clock: a row that is gone here was gone then.
        let left = world.tables.keys().await?.len();
        assert!(left == 9 || now() >= oldest, "a key is gone before its window is over");
        assert!(left == 0 || now() < gone_at, "a key overstays its bound");
        Ok((left == 0).then_some(()))
    })
    .await?;
    assert!(consumer.metric("milepost_consumer_key_partitions_dropped_total").await? >= 1.0);
    assert_eq!(world.tables.number("SELECT count(*) FROM deleted").await?, 0, "rows were deleted");

    // A segment's time (a second here), the broker's look for old ones, every second, and its cleaner's.
    let gone_at = newest.plus(Duration::from_secs(1 + 1 + 1) + Duration::from_secs(10));
    eventually(MINUTE, "the answers are gone", async || {
        let left = world.kafka.read(&world.topics.results).await?.len();
        assert!(left == 0 || now() < gone_at, "an answer overstays its bound");
        Ok((left == 0).then_some(()))
    })
    .await?;
    world.finish(&uploads.iter().collect::<Vec<_>>()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_consumer_stopped_for_three_ttls_while_retries_go_on_the_upload_is_stored_once_per_window()
-> anyhow::Result<()> {
    let ttl = Duration::from_secs(5);
    let world = World::new(WorldSettings { ttl, ..WorldSettings::default() }).await?;
    let gateway = world.gateway().await?;
    let client = world.client(&gateway)?;

    // One is stored before the consumer stops, and retried while it is stopped, but within its window: when the consumer
    // goes on, every clock says that the key is free, and the journal that it was not.
    let before = world.planted.upload(3);
    let before_key = world.planted.key();
    let before_post = Post::batch(&before).key(&before_key);
    let mut cacheless = world.new_gateway()?;
    cacheless.set("CACHE_ENTRIES", "0");
    cacheless.set("CLOCK_OFFSET_MS", "3600000");
    cacheless.start().await?;
    let mut consumer = world.consumer().await?;
    assert_eq!(client.post(&before_post).await?.status, 200);
    world.caught_up().await?;
    consumer.kill().await?;
    let published = world.client(&cacheless)?.post(&before_post.wait(0)).await?;
    assert_eq!(published.status, 202, "to this gateway the window is over, so it asks the journal");

    // One is retried within its window, the other all the time: what comes after its window claims the key again.
    let (within, always) = (world.planted.upload(1), world.planted.upload(2));
    let keys = [world.planted.key(), world.planted.key()];
    let within_post = Post::batch(&within).key(&keys[0]).wait(0);
    let always_post = Post::batch(&always).key(&keys[1]).wait(0);
    let begun = now();
    eventually(MINUTE, "three TTLs are over", async || {
        assert_eq!(client.post(&always_post).await?.status, 202);
        if now() < begun.plus(ttl / 2) {
            assert_eq!(client.post(&within_post).await?.status, 202);
        }
        Ok((now() > begun.plus(ttl * 3)).then_some(()))
    })
    .await?;

    let journal = world.kafka.read(&world.topics.uploads).await?;
    let times = |key: &str| {
        let key = KeyHash::new(world.account.id, key).to_string().into_bytes();
        let of_key = journal.iter().filter(move |record| record.key.as_ref() == Some(&key));
        of_key.map(|record| JournalTime(record.time)).collect::<Vec<_>>()
    };
    let mut windows: Vec<JournalTime> = Vec::new();
    for time in times(&keys[1]) {
        if windows.last().is_none_or(|claimed| time >= claimed.plus(ttl)) {
            windows.push(time);
        }
    }
    assert!(times(&keys[0]).len() > 2 && times(&keys[1]).len() > 20, "the retries are in the journal");
    assert!(windows.len() >= 3);

    // Maintenance looks for what has expired before anything is persisted: that waits for the row of the fence.
    let before_key = KeyHash::new(world.account.id, &before_key).to_string();
    let of_before = journal.iter().find(|record| record.key.as_deref() == Some(before_key.as_bytes()));
    let partition = of_before.expect("its record is in the journal").partition;
    let mut fence = world.tables.pool.acquire().await?;
    let lock = format!("BEGIN; SELECT FROM partition_progress WHERE partition = {partition} FOR UPDATE");
    sqlx::raw_sql(&lock).execute(&mut *fence).await?;
    consumer.start().await?;
    maintained(&world).await?;
    let kept = world.tables.keys().await?.into_iter().any(|key| key.key_hash == before_key);
    assert!(kept, "a key is gone that journal time has not passed");
    sqlx::raw_sql("ROLLBACK").execute(&mut *fence).await?;
    drop(fence);
    let mut expected = vec![&before, &within];
    expected.extend(windows.iter().map(|_| &always));
    world.check(&expected).await?;
    let mut claimed: Vec<_> = world.tables.stored().await?.into_iter().collect();
    claimed.retain(|stored| stored.upload.device == always.device);
    assert_eq!(claimed.iter().map(|stored| stored.received_at).collect::<Vec<_>>(), windows);
    world.finish(&expected).await
}

/// As `pg_dump` does, or somebody's query.
#[tokio::test(flavor = "multi_thread")]
async fn while_somebody_reads_the_keys_for_long_expiry_waits_and_neither_uploads_nor_replays_do()
-> anyhow::Result<()> {
    let postgres = Server::postgres().await?;
    let services = Services::shared()?.with_postgres(&postgres);
    let world =
        World::on(services, WorldSettings { ttl: Duration::from_secs(3), ..WorldSettings::default() })
            .await?;
    // A wait for a lock that lasts longer is in the server's log. Expiry waits for 50 ms; the rest is for a busy machine.
    world.tables.execute("ALTER SYSTEM SET deadlock_timeout = '250ms'").await?;
    world.tables.execute("SELECT pg_reload_conf()").await?;
    let consumers = [world.consumer().await?, world.consumer().await?];
    let gateway = world.gateway().await?;
    let mut cacheless = world.new_gateway()?;
    cacheless.set("CACHE_ENTRIES", "0");
    cacheless.start().await?;
    let clients = [world.client(&gateway)?, world.client(&cacheless)?];

    let mut reader = world.tables.pool.acquire().await?;
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM idempotency_keys").execute(&mut *reader).await?;
    let mut uploads = Vec::new();
    let attempts = "SELECT max(attempts)::bigint FROM table_partitions";
    eventually(MINUTE, "expiry is tried in vain for a while", async || {
        let upload = world.planted.upload(1);
        let post = Post::batch(&upload).key(&world.planted.key());
        for client in &clients {
            assert_eq!(client.post(&post).await?.status, 200);
        }
        uploads.push(upload);
        let mut overdue: f64 = 0.0;
        for consumer in &consumers {
            overdue = overdue.max(consumer.metric("milepost_consumer_expiry_overdue_seconds").await?);
        }
        let tried = world.tables.number(attempts).await?;
        Ok((tried >= 4 && overdue > 5.0 && uploads.len() > 20).then_some(()))
    })
    .await?;
    let tried = world.tables.number(attempts).await?;
    assert!(tried < 10, "the pauses grow: tried {tried} times");
    for gateway in [&gateway, &cacheless] {
        let failed = gateway.metric_of("milepost_gateway_lookups_total", r#"result="failed""#).await?;
        assert_eq!((failed, gateway.metric("milepost_gateway_late_partitions").await?), (0.0, 0.0));
    }
    let log = postgres.logged()?;
    let waits: Vec<&str> = log.lines().filter(|line| line.contains("still waiting for")).collect();
    assert_eq!(waits, Vec::<&str>::new());

    sqlx::raw_sql("ROLLBACK").execute(&mut *reader).await?;
    drop(reader);
    eventually(MINUTE, "expiry catches up", async || {
        for consumer in &consumers {
            if consumer.metric("milepost_consumer_expiry_overdue_seconds").await? > 3.0 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await?;
    world.finish(&uploads.iter().collect::<Vec<_>>()).await
}

/// The topic, the setting, a value that contradicts the TTL of an hour and the outage of an hour, and its bound.
const CONTRADICTIONS: [(usize, &str, &str, &str); 12] = [
    (0, "cleanup.policy", "compact", "delete"),
    (0, "retention.ms", "7199999", "at least 7200000"),
    (0, "message.timestamp.type", "CreateTime", "LogAppendTime"),
    (0, "partitions", "2", "1 (the setting PARTITIONS)"),
    (1, "cleanup.policy", "delete", "compact,delete"),
    (1, "retention.ms", "3599999", "between 3600000 and 7200000"),
    (1, "message.timestamp.type", "CreateTime", "LogAppendTime"),
    (1, "partitions", "2", "1 (the setting PARTITIONS)"),
    (2, "cleanup.policy", "compact,delete", "delete"),
    (2, "retention.ms", "3599999", "at least 3600000"),
    (2, "message.timestamp.type", "CreateTime", "LogAppendTime"),
    (2, "partitions", "2", "1 (the setting PARTITIONS)"),
];

async fn refuses(mut program: Program, prefix: &str, violation: &str) -> anyhow::Result<()> {
    program.set("TOPIC_PREFIX", prefix);
    program.spawn()?;
    let status = program.wait_exit(MINUTE).await?;
    assert_eq!(status.code(), Some(EXIT_CONFIG), "{} with {violation}", program.name);
    assert!(program.logged()?.contains(violation), "{} does not report {violation}", program.name);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_that_contradicts_the_ttl_stops_both_programs_at_start_and_the_administrator_says_the_same()
-> anyhow::Result<()> {
    let settings = WorldSettings { partitions: 1, ..WorldSettings::default() };
    let world = World::new(settings).await?;
    let mut topics = Vec::new();
    for (index, (of, setting, value, bound)) in CONTRADICTIONS.iter().enumerate() {
        let prefix = format!("{}{index}.", world.prefix);
        let settings = KafkaSettings { topic_prefix: prefix.clone(), ..world.kafka_settings() };
        let mut violation = String::new();
        for (number, (topic, mut config)) in creation(&settings).into_iter().enumerate() {
            let mut partitions = 1;
            if number == *of {
                violation = format!("topic {topic}: {setting} is {value}, must be {bound}");
                if *setting == "partitions" {
                    partitions = value.parse()?;
                }
                for (name, configured) in &mut config {
                    if name == setting {
                        (*value).clone_into(configured);
                    }
                }
            }
            world.kafka.create(&topic, partitions, &config).await?;
            topics.push(topic);
        }
        let (gateway, consumer) = (world.new_gateway()?, world.new_consumer()?);
        let arguments = ["topics", "check", "--topic-prefix", &prefix];
        let refused = [refuses(gateway, &prefix, &violation), refuses(consumer, &prefix, &violation)];
        let (refused, checked) = tokio::join!(join_all(refused), world.admin(&arguments));
        refused.into_iter().collect::<anyhow::Result<()>>()?;
        let checked = checked?;
        assert!(!checked.status.success(), "the administrator accepts {violation}");
        let output = [checked.stdout, checked.stderr].concat();
        assert!(String::from_utf8_lossy(&output).contains(&violation), "not reported: {violation}");
    }
    world.kafka.delete_topics(&topics.iter().map(String::as_str).collect::<Vec<_>>()).await?;

    world.administer(&["topics", "check"]).await?;
    let _programs = (world.gateway().await?, world.consumer().await?);
    world.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn reconfiguring_topics_raises_what_the_rules_demand_and_leaves_a_longer_retention_alone()
-> anyhow::Result<()> {
    let world = World::without_topics(Services::shared()?, WorldSettings::default()).await?;
    let settings = world.kafka_settings();
    let longer =
        [("retention.ms", "31536000000"), ("segment.bytes", "33554432"), ("delete.retention.ms", "5")];
    for (topic, mut config) in creation(&settings) {
        if topic == world.topics.results {
            config.retain(|(name, _)| *name != "retention.ms");
            config.push(("retention.ms", "1000".to_owned()));
        } else {
            config.retain(|(name, _)| longer.iter().all(|(kept, _)| kept != name));
            config.extend(longer.map(|(name, value)| (name, value.to_owned())));
        }
        world.kafka.create(&topic, settings.partitions, &config).await?;
    }
    let printed = world.administer(&["topics", "create", "--reconfigure"]).await?;
    let change = format!("topic {}: retention.ms is 3600000 now, was 1000", world.topics.results);
    assert_eq!(printed.lines().filter(|line| line.contains(" now, was ")).collect::<Vec<_>>(), [change]);

    let admin = TopicAdmin::new(&settings)?;
    let actual = admin.describe(&settings).await?;
    for topic in [&world.topics.uploads, &world.topics.locations] {
        for (name, value) in longer {
            assert_eq!(actual[topic].settings[name], value, "{topic} {name}");
        }
    }
    let printed = world.administer(&["topics", "create", "--reconfigure"]).await?;
    assert!(!printed.contains(" now, was "), "{printed}");
    world.finish(&[]).await
}
