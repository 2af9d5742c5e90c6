//! The consumer: killed, rolled back, fenced off, fed poison, it stores everything once and skips nothing.

use milepost_shared::journal::account::AccountId;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::try_join_all;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::position::{Partition, Position};
use milepost_shared::journal::record::{self, JournalRecord};
use milepost_shared::journal::result::ResultRecord;
use milepost_shared::journal::set_aside::SetAside;
use milepost_shared::kafka::names::TopicNames;
use milepost_shared::location::fingerprint::Fingerprint;
use milepost_shared::location::{Location, Upload};
use milepost_shared::program::crash::CrashPoint;
use milepost_tests::{
    DeadLetter, Post, Program, Record, Server, Services, Signal, World, WorldSettings, eventually, exact,
};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::load::Load;

const MINUTE: Duration = Duration::from_secs(60);

fn one_partition() -> WorldSettings {
    WorldSettings { partitions: 1, ..WorldSettings::default() }
}

/// Every crash point of the consumer.
const POINTS: [CrashPoint; 7] = [
    CrashPoint::Polled,
    CrashPoint::BeforeTransaction,
    CrashPoint::InTransaction,
    CrashPoint::AfterCommit,
    CrashPoint::Emitting,
    CrashPoint::AfterEmit,
    CrashPoint::BeforeOffsetCommit,
];

async fn killed_at(point: CrashPoint) -> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let gateway = world.gateway().await?;
    let client = [world.client(&gateway)?];
    let mut consumer = world.new_consumer()?;
    consumer.set("OFFSET_COMMIT_INTERVAL", "10ms");
    // Not the first time, so that there is something to go on from.
    consumer.set("CRASH_AT", &format!("{}:3", point.name()));
    consumer.start().await?;

    let load = Load::new(&world, 12);
    let restart = async {
        let status = consumer.wait_exit(MINUTE).await?;
        // No destructor ran, and nothing was flushed.
        anyhow::ensure!(
            status.signal() == Some(Signal::SIGKILL as i32),
            "no crash at {}, but {status}",
            point.name()
        );
        consumer.unset("CRASH_AT");
        consumer.start().await
    };
    let (answers, ()) = tokio::try_join!(load.post_until_final(&client, 2), restart)?;
    load.replay(&client[0], &answers).await?;
    world.finish(&load.expected()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_crash_point_and_restarted_it_stores_once_answers_the_same_and_emits_each_fact()
-> anyhow::Result<()> {
    let (early, late) = POINTS.split_at(4);
    for points in [early, late] {
        try_join_all(points.iter().copied().map(killed_at)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_groups_offsets_deleted_everything_is_stored_once_and_answered_the_same()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let gateway = world.gateway().await?;
    let clients = [world.client(&gateway)?];
    let mut consumer = world.consumer().await?;
    let before = Load::new(&world, 10);
    let answers = before.post_until_final(&clients, 5).await?;
    world.caught_up().await?;

    consumer.stop().await?;
    world.kafka.delete_group(&TopicNames::group(&world.prefix)).await?;
    let during = Load::new(&world, 10);
    for post in &during.posts {
        assert_eq!(clients[0].post(&post.clone().respond_async()).await?.status, 202);
    }
    consumer.start().await?;

    during.post_until_final(&clients, 5).await?;
    before.replay(&clients[0], &answers).await?;
    world.finish(&[before.expected(), during.expected()].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn emitted_again_a_key_claimed_in_two_windows_is_two_facts() -> anyhow::Result<()> {
    let world = World::new(WorldSettings { ttl: Duration::from_secs(2), ..one_partition() }).await?;
    let gateway = world.gateway().await?;
    let client = world.client(&gateway)?;
    let mut consumer = world.new_consumer()?;
    // The first window's row is still there, beside the second's.
    consumer.set("EXPIRY_GRACE", "1h");
    consumer.start().await?;
    let upload = world.planted.upload(1);
    let post = Post::batch(&upload).key(&world.planted.key());
    assert!(!client.post(&post).await?.replayed());
    eventually(MINUTE, "the key is free again", async || {
        let answer = client.post(&post).await?;
        Ok((answer.status == 200 && !answer.replayed()).then_some(()))
    })
    .await?;
    world.caught_up().await?;
    consumer.stop().await?;

    // As if neither had been emitted: the facts are gone, and the group knows nothing of them.
    let (_, facts) = world.kafka.ends(&world.topics.locations).await?[0];
    assert_eq!(facts, 2);
    world.kafka.delete_records(&world.topics.locations, 0, facts).await?;
    world.kafka.delete_group(&TopicNames::group(&world.prefix)).await?;
    consumer.start().await?;
    world.finish(&[&upload, &upload]).await
}

/// Rows and answers as they are now, to be compared with what they become.
async fn state(world: &World) -> anyhow::Result<(Vec<String>, Vec<milepost_tests::KeyRow>)> {
    let row = |stored: &milepost_tests::Stored| {
        format!("{:?} {:?} {} {}", stored.source, stored.received_at, stored.account, exact(&stored.upload))
    };
    Ok((world.tables.stored().await?.iter().map(row).collect(), world.tables.keys().await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn with_postgres_put_back_to_a_copy_taken_before_rows_and_answers_become_as_they_were()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let gateways = [world.gateway().await?, world.gateway().await?];
    let clients = [world.client(&gateways[0])?, world.client(&gateways[1])?];
    let _consumer = world.consumer().await?;

    let before = Load::new(&world, 10);
    let first = before.post_until_final(&clients, 5).await?;
    world.caught_up().await?;
    world.database.copy().await?;
    let after = Load::new(&world, 10);
    let second = after.post_until_final(&clients, 5).await?;
    world.caught_up().await?;
    let (rows, keys) = state(&world).await?;

    // Under the running programs, as a failover to a standby that lags behind.
    world.database.put_back().await?;
    world.caught_up().await?;
    assert_eq!(state(&world).await?, (rows, keys));
    before.replay(&clients[0], &first).await?;
    after.replay(&clients[1], &second).await?;
    world.finish(&[before.expected(), after.expected()].concat()).await
}

/// Whether a partition of the journal holds a record of this key.
async fn holds(world: &World, partition: i32, key: &str) -> anyhow::Result<bool> {
    let journal = world.kafka.read(&world.topics.uploads).await?;
    let of_key = |record: &&Record| record.key.as_deref() == Some(key.as_bytes());
    Ok(journal.iter().find(of_key).is_some_and(|record| record.partition == partition))
}

#[tokio::test(flavor = "multi_thread")]
async fn with_postgres_emptied_but_for_the_accounts_rows_and_answers_become_as_they_were()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings::default()).await?;
    let mut gateway = world.gateway().await?;
    let clients = [world.client(&gateway)?];
    let mut consumer = world.consumer().await?;
    let load = Load::new(&world, 20);
    let answers = load.post_until_final(&clients, 5).await?;
    // Copies and conflicts are in the journal too, and are decided again.
    let conflict = world.planted.upload(1);
    for (upload, key) in [(&load.uploads[0], &load.keys[0]), (&conflict, &load.keys[1])] {
        let value = record::encode(world.account.id, Fingerprint::of(upload), upload);
        let key = KeyHash::new(world.account.id, key).to_string();
        for partition in 0..3 {
            // Only in its own partition does it meet the first one.
            if holds(&world, partition, &key).await? {
                world
                    .kafka
                    .append(&world.topics.uploads, partition, Some(key.as_bytes()), Some(&value))
                    .await?;
            }
        }
    }
    world.caught_up().await?;
    let (rows, keys) = state(&world).await?;

    consumer.stop().await?;
    world
        .tables
        .execute("TRUNCATE idempotency_keys, locations, devices, partition_progress, dead_letters")
        .await?;
    gateway.restart().await?;
    consumer.start().await?;
    world.caught_up().await?;
    assert_eq!(state(&world).await?, (rows, keys));
    load.replay(&clients[0], &answers).await?;
    world.finish(&load.expected()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_consumer_that_believes_it_owns_the_partitions_is_fenced_off_counted_and_logged()
-> anyhow::Result<()> {
    let world = World::new(one_partition()).await?;
    let gateway = world.gateway().await?;
    let clients = [world.client(&gateway)?];
    let zombie = world.consumer().await?;
    let first = Load::new(&world, 3);
    first.post_until_final(&clients, 1).await?;

    // The zombie is stopped with a batch in hand: its transaction waits for the row of the fence.
    let mut fence = world.tables.pool.acquire().await?;
    sqlx::raw_sql("BEGIN; SELECT FROM partition_progress FOR UPDATE").execute(&mut *fence).await?;
    let second = Load::new(&world, 3);
    for post in &second.posts {
        assert_eq!(clients[0].post(&post.clone().respond_async()).await?.status, 202);
    }
    waits_for_a_lock(&world).await?;
    zombie.signal(Signal::SIGSTOP)?;
    // Its server learns that it is gone, as with a broken network.
    let end = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity \
               WHERE datname = current_database() AND usename = 'milepost_consumer'";
    assert!(world.tables.number(end).await? > 0);
    sqlx::raw_sql("ROLLBACK").execute(&mut *fence).await?;
    drop(fence);

    let successor = world.consumer().await?;
    second.post_until_final(&clients, 3).await?;
    let stored = state(&world).await?;
    assert_eq!(stored.0.len(), 6);

    zombie.signal(Signal::SIGCONT)?;
    eventually(MINUTE, "the zombie's batch is fenced off, and counted", async || {
        Ok((zombie.metric("milepost_consumer_fenced_total").await.unwrap_or(0.0) >= 1.0).then_some(()))
    })
    .await?;
    eventually(MINUTE, "it is logged", async || Ok(zombie.logged()?.contains("fenced off").then_some(())))
        .await?;
    assert_eq!(state(&world).await?, stored, "the zombie changes nothing");
    assert!((successor.metric("milepost_consumer_fenced_total").await?).abs() < 0.5);

    let third = Load::new(&world, 3);
    third.post_until_final(&clients, 3).await?;
    world.finish(&[first.expected(), second.expected(), third.expected()].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_consumers_join_and_leave_under_load_nothing_is_lost_and_nothing_is_stored_twice()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings { partitions: 6, ..WorldSettings::default() }).await?;
    let gateways = [world.gateway().await?, world.gateway().await?];
    let clients = [world.client(&gateways[0])?, world.client(&gateways[1])?];
    let mut first = world.consumer().await?;
    let (mut second, mut third) = (world.new_consumer()?, world.new_consumer()?);

    let over = Cell::new(false);
    let load = async {
        let mut loads: Vec<Load> = Vec::new();
        // As long as consumers come and go.
        while loads.is_empty() || !over.get() {
            let load = Load::new(&world, 40);
            load.post_until_final(&clients, 16).await?;
            loads.push(load);
        }
        anyhow::Ok(loads)
    };
    let comings = async {
        second.start().await?;
        third.start().await?;
        first.stop().await?;
        second.kill().await?;
        first.start().await?;
        third.signal(Signal::SIGSTOP)?;
        second.start().await?;
        third.signal(Signal::SIGCONT)?;
        third.stop().await?;
        third.start().await?;
        over.set(true);
        Ok(())
    };
    let (loads, ()) = tokio::try_join!(load, comings)?;
    world.finish(&loads.iter().flat_map(Load::expected).collect::<Vec<_>>()).await
}

async fn waits_for_a_lock(world: &World) -> anyhow::Result<()> {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                   AND datname = current_database() AND usename = 'milepost_consumer'";
    eventually(MINUTE, "a transaction of the consumer waits for a lock", async || {
        Ok((world.tables.number(waiting).await? > 0).then_some(()))
    })
    .await
}

/// A record as a gateway would write it.
fn record(world: &World, account: AccountId) -> JournalRecord {
    let upload = world.planted.upload(1);
    let key_hash = KeyHash::new(account, &world.planted.key());
    JournalRecord { key_hash, account, fingerprint: Fingerprint::of(&upload), payload: upload.into() }
}

fn upload(record: &JournalRecord) -> &Upload {
    record.upload().expect("it carries one")
}

/// The value of a record as the next build may write it: nothing of it but its schema is known.
fn newer_record() -> Vec<u8> {
    [&[0x0d][..], &(record::SCHEMA + 1).to_le_bytes(), b"strange"].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_goes_to_dead_letters_with_its_reason_in_the_batchs_transaction_and_the_partition_goes_on()
-> anyhow::Result<()> {
    let world = World::new(one_partition()).await?;
    let good = [record(&world, world.account.id), record(&world, world.account.id)];
    let stranger = record(&world, AccountId(Uuid::from_u128(7)));
    let key = good[0].key_hash.to_string().into_bytes();
    let value = good[0].encode();
    let unknown = (stranger.key_hash.to_string().into_bytes(), stranger.encode());
    let poison = [
        (&key[..], Some(&b""[..]), "no schema known"),
        (&key, Some(b"location,location"), "no schema known"),
        (&key, Some(&value[..value.len() / 2]), "not Protobuf"),
        (b"no hash", Some(&value), "the key is not 64 lower-case hex digits"),
        (&unknown.0, Some(&unknown.1), "unknown account"),
        (&key, None, "null value"),
    ];
    let uploads = &world.topics.uploads;
    let consumer = world.consumer().await?;
    // While the first record waits for the fence, the others gather to one batch.
    let before = record(&world, world.account.id);
    let before_key = before.key_hash.to_string();
    world.kafka.append(uploads, 0, Some(before_key.as_bytes()), Some(&before.encode())).await?;
    world.caught_up().await?;
    let mut fence = world.tables.pool.acquire().await?;
    sqlx::raw_sql("BEGIN; SELECT FROM partition_progress FOR UPDATE").execute(&mut *fence).await?;
    world.kafka.append(uploads, 0, Some(&key), Some(&value)).await?;
    waits_for_a_lock(&world).await?;
    for (key, value, _) in &poison {
        world.kafka.append(uploads, 0, Some(key), *value).await?;
    }
    let last = good[1].key_hash.to_string();
    world.kafka.append(uploads, 0, Some(last.as_bytes()), Some(&good[1].encode())).await?;
    sqlx::raw_sql("ROLLBACK").execute(&mut *fence).await?;
    drop(fence);
    world.caught_up().await?;
    let letters = world.tables.dead_letters().await?;
    assert_eq!(letters.len(), poison.len());
    for (offset, (letter, (key, value, reason))) in (2..).zip(letters.iter().zip(&poison)) {
        assert_eq!(letter.position, Position::new(0, offset));
        assert_eq!((letter.key.as_deref(), letter.value.as_deref()), (Some(*key), *value), "{reason}");
        assert!(letter.reason.starts_with(reason), "{} instead of {reason}", letter.reason);
    }
    // One transaction wrote them all, and the upload that came after them.
    let transactions = "SELECT count(DISTINCT xmin::text) FROM (SELECT xmin FROM dead_letters UNION ALL \
                        SELECT xmin FROM idempotency_keys WHERE source_offset = 8)";
    assert_eq!(world.tables.number(transactions).await?, 1);
    assert!((consumer.metric("milepost_consumer_dead_letters_total").await? - 6.0).abs() < 0.5);

    let gateway = world.gateway().await?;
    let load = Load::new(&world, 2);
    load.post_until_final(&[world.client(&gateway)?], 1).await?;
    world.finish(&[vec![upload(&before), upload(&good[0]), upload(&good[1])], load.expected()].concat()).await
}

/// A record of a point that its app's protocol does not allow, as a gateway would write it.
fn set_aside(world: &World, raw: &[u8]) -> JournalRecord {
    let point = SetAside::new("owntracks", Some("pixel8"), "latitude-out-of-range", Some("lat"), raw);
    let account = world.account.id;
    let key_hash = KeyHash::new(account, &world.planted.key());
    // Of what it is taken does not matter here.
    let fingerprint = Fingerprint::of(&world.planted.upload(1));
    JournalRecord { key_hash, account, fingerprint, payload: point.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_set_aside_is_one_dead_letter_though_it_comes_twice_and_the_consumer_is_killed_after_its_commit()
-> anyhow::Result<()> {
    let world = World::new(one_partition()).await?;
    let append = async |record: &JournalRecord| {
        let (key, value) = (record.key_hash.to_string(), record.encode());
        world.kafka.append(&world.topics.uploads, 0, Some(key.as_bytes()), Some(&value)).await
    };
    // The point has what is planted in it, which must not reach a log.
    let planted = serde_json::to_vec(&world.planted.upload(1))?;
    let [one, other] = [set_aside(&world, &planted), set_aside(&world, b"{\"lat\":91}")];
    let [before, behind] = [0; 2].map(|_| record(&world, world.account.id));
    let mut consumer = world.new_consumer()?;
    // As many as are no run of poison, however low its bound.
    consumer.set("DEAD_LETTER_RUN_MAX", "1");
    consumer.set("MILEPOST_LOG", "debug,librdkafka=off,rdkafka=off");
    for record in [&before, &one, &one, &other] {
        append(record).await?;
    }
    consumer.set("CRASH_AT", "after-commit");
    consumer.spawn()?;
    assert_eq!(consumer.wait_exit(MINUTE).await?.signal(), Some(Signal::SIGKILL as i32));
    let committed = world.tables.dead_letters().await?;
    assert!(world.facts().await?.is_empty(), "nothing was emitted");

    consumer.unset("CRASH_AT");
    consumer.start().await?;
    for record in [&other, &one, &behind] {
        append(record).await?;
    }
    world.caught_up().await?;
    let letters = world.tables.dead_letters().await?;
    assert!(letters.starts_with(&committed));
    let reason = "owntracks: latitude-out-of-range (lat)";
    let wanted =
        [(1, &one, &planted[..]), (3, &other, b"{\"lat\":91}")].map(|(offset, record, raw)| DeadLetter {
            position: Position::new(0, offset),
            key: Some(record.key_hash.to_string().into_bytes()),
            value: Some(raw.to_vec()),
            reason: reason.to_owned(),
            account: Some(world.account.id),
            device: Some("pixel8".to_owned()),
        });
    assert_eq!(letters, wanted);
    assert_eq!(world.tables.keys().await?.len(), 4);

    // Every record is answered, so that gateways learn the keys.
    let answers = world.kafka.read(&world.topics.results).await?;
    let read = |answer: &Record| {
        ResultRecord::decode(Partition(answer.partition), answer.key.as_deref(), answer.value.as_deref())
    };
    let answered: BTreeSet<_> = answers
        .iter()
        .filter_map(read)
        .map(|answer| (answer.record.offset.0, answer.state.source.offset.0))
        .collect();
    assert_eq!(answered, BTreeSet::from([(0, 0), (1, 1), (2, 1), (3, 3), (4, 3), (5, 1), (6, 6)]));

    let listed = world.administer(&["dead-letters", "list"]).await?;
    assert_eq!(listed.matches(reason).count(), 2, "{listed}");
    let show = ["dead-letters", "show", "--partition", "0", "--offset", "1"];
    assert_eq!(world.administer(&show).await?.as_bytes(), planted);
    let journal = ["journal", "show", "--partition", "0", "--offset", "3"];
    let shown: serde_json::Value = serde_json::from_str(&world.administer(&journal).await?)?;
    let expected = serde_json::json!({
        "app": "owntracks", "device": "pixel8", "reason": "latitude-out-of-range", "field": "lat",
        "raw": "{\"lat\":91}", "rawBase64": null, "rawLength": null,
    });
    assert_eq!(shown["setAside"], expected);

    // Counted by app and reason; a name that this build does not know is no label.
    let mut unknown = set_aside(&world, b"?");
    unknown.payload = SetAside::new("newapp", None, "new-reason", None, b"?").into();
    append(&unknown).await?;
    append(&set_aside(&world, b"!")).await?;
    world.caught_up().await?;
    let counted = async |labels| consumer.metric_of("milepost_consumer_set_aside_total", labels).await;
    assert!((counted(r#"app="owntracks",reason="latitude-out-of-range""#).await? - 1.0).abs() < 0.5);
    assert!((counted(r#"app="other",reason="other""#).await? - 1.0).abs() < 0.5);
    assert!((counted("").await? - 2.0).abs() < 0.5);
    assert!((consumer.metric("milepost_consumer_dead_letters_total").await? - 2.0).abs() < 0.5);
    world.finish(&[upload(&before), upload(&behind)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_gateway_would_have_written_is_a_dead_letter_and_its_partition_goes_on() -> anyhow::Result<()>
{
    let world = World::new(one_partition()).await?;
    let _consumer = world.consumer().await?;
    let [before, traced, mut large, behind] = [0; 4].map(|_| record(&world, world.account.id));
    // Each field is as long as a gateway allows.
    let label = Some("\u{1f4cd}".repeat(64));
    let location = &upload(&large).locations[0];
    let location = Location { provider: label.clone(), network_type: label, ..location.clone() };
    let locations = vec![location; 9000];
    large.payload = Upload { device: upload(&large).device.clone(), locations }.into();
    let endless = b"0".repeat(5_000_000);
    let uploads = &world.topics.uploads;
    for (record, header) in
        [(&before, None), (&traced, Some(("traceparent", &endless[..]))), (&large, None), (&behind, None)]
    {
        let (key, value) = (record.key_hash.to_string(), record.encode());
        world.kafka.append_with(uploads, 0, Some(key.as_bytes()), Some(&value), header).await?;
    }
    world.caught_up().await?;
    let letters = world.tables.dead_letters().await?;
    let bytes = large.encode();
    let reasons = [
        "the header traceparent is invalid".to_owned(),
        format!("the value has {} bytes, more than {}", bytes.len(), record::VALUE_BYTES_MAX),
    ];
    assert_eq!(letters.iter().map(|letter| &letter.reason).collect::<Vec<_>>(), reasons.each_ref());
    assert!(letters[1].value.as_deref() == Some(&bytes[..]), "it is whole");
    world.finish(&[upload(&before), upload(&behind)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_refuses_a_fact_stops_its_partition_with_a_clear_error_and_no_other()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings { partitions: 2, ..WorldSettings::default() }).await?;
    let mut consumer = world.consumer().await?;
    let append = async |partition: i32, record: &JournalRecord| {
        let key = record.key_hash.to_string();
        world
            .kafka
            .append(&world.topics.uploads, partition, Some(key.as_bytes()), Some(&record.encode()))
            .await
    };
    let configure = async |bytes: &str| {
        let settings = [("message.timestamp.type", "LogAppendTime"), ("max.message.bytes", bytes)];
        world.kafka.configure(&world.topics.locations, &settings).await
    };
    let [before, mut refused, behind, other, later] = [0; 5].map(|_| record(&world, world.account.id));
    refused.payload = world.planted.upload(500).into();
    append(0, &before).await?;
    world.caught_up().await?;
    configure("2000").await?;
    append(0, &refused).await?;
    append(1, &other).await?;
    eventually(MINUTE, "the error is logged", async || {
        let is_logged =
            |line: &str| line.contains("ERROR") && line.contains("partition 0 emits from offset 1 on");
        Ok(consumer.logged()?.lines().any(is_logged).then_some(()))
    })
    .await?;
    append(0, &behind).await?;
    append(1, &later).await?;
    eventually(MINUTE, "the other partition goes on", async || {
        let facts = world.facts().await?;
        let of = |partition| facts.iter().filter(|fact| fact.partition == partition).count();
        Ok((of(0) == 1 && of(1) == 2).then_some(()))
    })
    .await?;
    assert!(!consumer.ready().await, "an operator must see it");
    assert!((consumer.metric("milepost_consumer_stopped_partitions").await? - 1.0).abs() < 0.5);
    consumer.stop().await?;

    configure("4194304").await?;
    consumer.start().await?;
    world.finish(&[upload(&before), upload(&refused), upload(&behind), upload(&other), upload(&later)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_poison_longer_than_a_bound_stops_the_consumer_instead_of_draining_the_topic()
-> anyhow::Result<()> {
    let world = World::new(one_partition()).await?;
    let uploads = &world.topics.uploads;
    for _ in 0..30 {
        world.kafka.append(uploads, 0, Some(b"key"), Some(b"poison")).await?;
    }
    let mut consumer = world.new_consumer()?;
    consumer.set("DEAD_LETTER_RUN_MAX", "10");
    consumer.spawn()?;
    assert!(!consumer.wait_exit(MINUTE).await?.success());
    assert!(consumer.logged()?.contains("partition 0"), "it names the partition");
    let lost = world.tables.dead_letters().await?.len();
    assert!(lost <= 10, "{lost} records are dead letters");

    // Started again it has not forgotten the run.
    consumer.spawn()?;
    assert!(!consumer.wait_exit(MINUTE).await?.success());
    let lost = world.tables.dead_letters().await?.len();
    assert!(lost <= 10, "{lost} records are dead letters after a restart");

    // An operator who has seen that it is poison raises the bound.
    consumer.set("DEAD_LETTER_RUN_MAX", "100");
    consumer.start().await?;
    world.caught_up().await?;
    assert_eq!(world.tables.dead_letters().await?.len(), 30);
    world.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_newer_schema_stops_its_partition_with_a_clear_error_and_no_other() -> anyhow::Result<()>
{
    let world = World::new(WorldSettings { partitions: 2, ..WorldSettings::default() }).await?;
    let uploads = &world.topics.uploads;
    let (before, behind, other) = (
        record(&world, world.account.id),
        record(&world, world.account.id),
        record(&world, world.account.id),
    );
    let append = async |partition: i32, record: &JournalRecord| {
        let key = record.key_hash.to_string();
        let value = record.encode();
        world.kafka.append(uploads, partition, Some(key.as_bytes()), Some(&value)).await
    };
    append(0, &before).await?;
    let newer = newer_record();
    world.kafka.append(uploads, 0, Some(b"key"), Some(&newer)).await?;
    append(0, &behind).await?;
    append(1, &other).await?;

    let mut consumer = world.new_consumer()?;
    consumer.spawn()?;
    eventually(MINUTE, "the error is logged, and the rest is stored", async || {
        let log = consumer.logged()?;
        let error = log
            .lines()
            .any(|line| line.contains("ERROR") && line.contains("partition 0 has schema 2, newer"));
        Ok((error && world.tables.stored().await?.len() == 2).then_some(()))
    })
    .await?;
    let later = record(&world, world.account.id);
    append(1, &later).await?;
    eventually(MINUTE, "the other partition goes on", async || {
        Ok((world.tables.stored().await?.len() == 3).then_some(()))
    })
    .await?;
    let progress = world.tables.progress().await?;
    assert_eq!(progress.iter().map(|one| one.next_offset).collect::<Vec<_>>(), [1, 2]);
    assert!(world.tables.dead_letters().await?.is_empty(), "a newer record is not poison");
    assert!(!consumer.ready().await, "an operator must see it");
    consumer.stop().await?;

    // The build that can read it: here, the record's partition is begun behind it.
    let skip = ["progress", "set", "--partition", "0", "--offset", "2", "--force"];
    world.administer(&skip).await?;
    world.kafka.delete_group(&TopicNames::group(&world.prefix)).await?;
    world.kafka.delete_records(uploads, 0, 2).await?;
    consumer.start().await?;
    world.caught_up().await?;
    world.finish(&[upload(&before), upload(&behind), upload(&other), upload(&later)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_the_journal_stops_the_consumer_with_an_error_naming_partition_and_range()
-> anyhow::Result<()> {
    let world = World::new(one_partition()).await?;
    let gateway = world.gateway().await?;
    let clients = [world.client(&gateway)?];
    let mut consumer = world.consumer().await?;
    let stored = Load::new(&world, 3);
    stored.post_until_final(&clients, 1).await?;
    world.caught_up().await?;
    consumer.stop().await?;
    // Copies that a slow machine makes the client send are in the journal too.
    let (_, next) = world.kafka.ends(&world.topics.uploads).await?[0];

    let lost = Load::new(&world, 4);
    for post in &lost.posts {
        assert_eq!(clients[0].post(&post.clone().respond_async()).await?.status, 202);
    }
    let begin = next + 3;
    world.kafka.delete_records(&world.topics.uploads, 0, begin).await?;
    consumer.spawn()?;
    assert!(!consumer.wait_exit(MINUTE).await?.success());
    let log = consumer.logged()?;
    let range = format!("journal partition 0 lacks the offsets {next} to {}", begin - 1);
    assert!(log.contains(&range), "the range is not in the log: {range}");
    assert_eq!(world.tables.stored().await?.len(), 3, "nothing behind the gap is stored");

    // An operator accepts the loss.
    let begin = begin.to_string();
    world.administer(&["progress", "set", "--partition", "0", "--offset", &begin, "--force"]).await?;
    world.kafka.delete_group(&TopicNames::group(&world.prefix)).await?;
    consumer.start().await?;
    world.caught_up().await?;
    world.finish(&[stored.expected(), vec![&lost.uploads[3]]].concat()).await
}

/// Appends so many uploads to a partition, as gateways would.
async fn append(world: &World, partition: i32, count: usize) -> anyhow::Result<Vec<Upload>> {
    let records: Vec<JournalRecord> = (0..count).map(|_| record(world, world.account.id)).collect();
    for record in &records {
        let (key, value) = (record.key_hash.to_string(), record.encode());
        world.kafka.append(&world.topics.uploads, partition, Some(key.as_bytes()), Some(&value)).await?;
    }
    Ok(records.iter().map(|record| upload(record).clone()).collect())
}

/// A consumer whose batches are full with ten records, and whose transactions are patient.
fn of_ten(world: &World) -> anyhow::Result<Program> {
    let mut consumer = world.new_consumer()?;
    consumer.set("BATCH_RECORDS_MAX", "10");
    consumer.set("PERSIST_TIMEOUT", "2m");
    Ok(consumer)
}

/// Waits until a consumer has so many partitions.
async fn has_assigned(consumer: &Program, partitions: u32) -> anyhow::Result<()> {
    eventually(MINUTE, "the partitions are assigned", async || {
        let assigned = consumer.metric("milepost_consumer_assigned_partitions").await.unwrap_or(-1.0);
        Ok(((assigned - f64::from(partitions)).abs() < 0.5).then_some(()))
    })
    .await
}

/// The partition that was last assigned to a consumer, by its log.
fn last_assigned(consumer: &Program) -> anyhow::Result<i32> {
    let log = consumer.logged()?;
    let line = log.lines().rfind(|line| line.contains("partition assigned")).context("none was")?;
    let number = line.split_once(" partition=").context("it names no partition")?.1;
    Ok(number.split_whitespace().next().context("it names no partition")?.parse()?)
}

/// Locks the devices, and has a consumer stand with one record of a partition in its transaction and a full batch behind it.
async fn pause(
    world: &World,
    consumer: &Program,
    partition: i32,
) -> anyhow::Result<(PgConnection, Vec<Upload>)> {
    let mut lock = world.tables.pool.acquire().await?.detach();
    sqlx::raw_sql("BEGIN; LOCK TABLE devices IN ACCESS EXCLUSIVE MODE").execute(&mut lock).await?;
    let mut uploads = append(world, partition, 1).await?;
    waits_for_a_lock(world).await?;
    uploads.extend(append(world, partition, 12).await?);
    eventually(MINUTE, "the consumer pauses", async || {
        Ok((consumer.metric("milepost_consumer_pauses_total").await? > 0.0).then_some(()))
    })
    .await?;
    Ok((lock, uploads))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_lost_in_a_pause_and_won_back_is_read_on() -> anyhow::Result<()> {
    let world = World::new(WorldSettings { partitions: 2, ..WorldSettings::default() }).await?;
    let mut first = of_ten(&world)?;
    first.start().await?;
    has_assigned(&first, 2).await?;
    // Which of the two goes to another member.
    let mut second = of_ten(&world)?;
    second.start().await?;
    has_assigned(&second, 1).await?;
    let lent = last_assigned(&second)?;
    second.stop().await?;
    has_assigned(&first, 2).await?;

    let (mut lock, mut uploads) = pause(&world, &first, 1 - lent).await?;
    second.start().await?;
    has_assigned(&second, 1).await?;
    assert_eq!(last_assigned(&second)?, lent, "the one whose record is in the transaction went");
    assert_eq!(world.tables.number("SELECT count(*) FROM locations").await?, 0, "the pause was over early");
    // The pause ends while the partition is the other's.
    sqlx::raw_sql("ROLLBACK").execute(&mut lock).await?;
    world.caught_up().await?;
    second.stop().await?;
    has_assigned(&first, 2).await?;

    uploads.extend(append(&world, lent, 3).await?);
    world.caught_up().await?;
    assert!(!first.logged()?.contains("session ended"), "another session has healed it");
    world.finish(&uploads.iter().collect::<Vec<_>>()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_won_in_a_pause_wait_as_well_and_no_transaction_exceeds_its_bounds() -> anyhow::Result<()>
{
    let world = World::new(WorldSettings { partitions: 3, ..WorldSettings::default() }).await?;
    let mut second = of_ten(&world)?;
    second.start().await?;
    has_assigned(&second, 3).await?;
    let mut first = of_ten(&world)?;
    first.start().await?;
    has_assigned(&first, 1).await?;
    let own = last_assigned(&first)?;

    let (mut lock, mut uploads) = pause(&world, &first, own).await?;
    second.kill().await?;
    for partition in (0..3).filter(|partition| *partition != own) {
        uploads.extend(append(&world, partition, 40).await?);
    }
    has_assigned(&first, 3).await?;
    eventually(MINUTE, "both are held back", async || {
        Ok((first.logged()?.matches("held back").count() == 2).then_some(()))
    })
    .await?;
    sqlx::raw_sql("ROLLBACK").execute(&mut lock).await?;
    world.caught_up().await?;
    assert!(!first.logged()?.contains("session ended"));
    let largest =
        "SELECT max(records) FROM (SELECT count(*) AS records FROM idempotency_keys GROUP BY xmin::text)";
    assert_eq!(world.tables.number(largest).await?, 10);
    world.finish(&uploads.iter().collect::<Vec<_>>()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_partition_that_moves_to_another_consumer_is_reported_there_and_no_longer_here()
-> anyhow::Result<()> {
    let world = World::new(WorldSettings { partitions: 2, ..WorldSettings::default() }).await?;
    let (first, mut second) = (world.consumer().await?, world.new_consumer()?);
    has_assigned(&first, 2).await?;
    second.start().await?;
    has_assigned(&second, 1).await?;
    let lent = last_assigned(&second)?;
    second.stop().await?;
    has_assigned(&first, 2).await?;

    let newer = newer_record();
    world.kafka.append(&world.topics.uploads, lent, Some(b"key"), Some(&newer)).await?;
    let stopped = async |consumer: &Program, partitions: u32| {
        eventually(MINUTE, "stopped partitions and readiness agree with who has them", async || {
            let stopped = consumer.metric("milepost_consumer_stopped_partitions").await.unwrap_or(-1.0);
            let is_up = consumer.has_up("journal").await;
            Ok(((stopped - f64::from(partitions)).abs() < 0.5 && is_up == (partitions == 0)).then_some(()))
        })
        .await
    };
    stopped(&first, 1).await?;
    second.spawn()?;
    has_assigned(&second, 1).await?;
    stopped(&second, 1).await?;
    stopped(&first, 0).await?;
    assert!(first.ready().await);
    // And back again.
    second.stop().await?;
    stopped(&first, 1).await?;
    world.leave();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_gone_is_reported_by_its_name_where_an_operator_looks() -> anyhow::Result<()> {
    let world = World::new(one_partition()).await?;
    let (gateway, consumer) = (world.gateway().await?, world.consumer().await?);
    let load = Load::new(&world, 2);
    load.post_until_final(&[world.client(&gateway)?], 1).await?;
    world.caught_up().await?;
    let shows = async |program: &Program, dependency: &str, topic: &str| {
        eventually(2 * MINUTE, "it is reported", async || {
            let page = program.page("/readyz").await.unwrap_or_default();
            let page: serde_json::Value = serde_json::from_str(&page).unwrap_or_default();
            let one = &page["dependencies"][dependency];
            let detail = one["detail"].as_str().unwrap_or_default();
            let is_named = detail.contains(topic) && detail.contains("Unknown topic");
            Ok((one["up"] == false && is_named).then_some(()))
        })
        .await
    };
    let TopicNames { uploads, results, .. } = &world.topics;
    world.kafka.delete_topics(&[results]).await?;
    shows(&gateway, "results", results).await?;
    assert!(gateway.ready().await, "the table answers");
    world.kafka.delete_topics(&[uploads]).await?;
    shows(&gateway, "kafka", uploads).await?;
    shows(&consumer, "kafka", uploads).await?;
    world.leave();
    Ok(())
}

/// The consumer's transactions that hold something and do nothing.
async fn abandoned(world: &World) -> anyhow::Result<i64> {
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                AND usename = 'milepost_consumer' AND state LIKE 'idle in transaction%'";
    world.tables.number(idle).await
}

/// How long the consumer paused before each new attempt to persist, by its log.
fn pauses_ms(log: &str) -> Vec<u64> {
    log.lines()
        .filter(|line| line.contains("cannot persist"))
        .filter_map(|line| line.split_once("delay_ms=")?.1.split_whitespace().next()?.parse().ok())
        .collect()
}

/// Sends uploads, sees that they cannot be stored, and that everything goes on when `heal` has come.
async fn outage(world: &World, consumer: &Program, gateway: &Program) -> anyhow::Result<Load> {
    let load = Load::new(world, 5);
    for post in &load.posts {
        let client = world.client(gateway)?;
        assert_eq!(client.post(&post.clone().respond_async()).await?.status, 202);
    }
    let retries = consumer.metric("milepost_consumer_persist_retries_total").await?;
    eventually(MINUTE, "the consumer tries again and again", async || {
        let tried = consumer.metric("milepost_consumer_persist_retries_total").await?;
        Ok((tried >= retries + 3.0).then_some(()))
    })
    .await?;
    assert!(!consumer.ready().await, "an operator must see it");
    Ok(load)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_postgres_unreachable_read_only_or_slow_the_consumer_waits_and_goes_on_by_itself()
-> anyhow::Result<()> {
    let postgres = Server::postgres().await?;
    let world = World::on(Services::shared()?.with_postgres(&postgres), WorldSettings::default()).await?;
    let gateway = world.gateway().await?;
    let mut consumer = world.new_consumer()?;
    consumer.set("PERSIST_TIMEOUT", "1s");
    consumer.set("BACKOFF_MAX", "200ms");
    consumer.start().await?;
    let clients = [world.client(&gateway)?];
    let mut loads = Vec::new();
    let mut healed = async |load: Load| {
        load.post_until_final(&clients, 5).await?;
        assert_eq!(abandoned(&world).await?, 0, "a transaction was left behind");
        assert!(world.tables.dead_letters().await?.is_empty(), "an outage makes no dead letters");
        loads.push(load);
        anyhow::Ok(())
    };
    let load = Load::new(&world, 5);
    healed(load).await?;

    postgres.kill().await?;
    let load = outage(&world, &consumer, &gateway).await?;
    postgres.start().await?;
    healed(load).await?;

    world.database.set_read_only(true).await?;
    let load = outage(&world, &consumer, &gateway).await?;
    world.database.set_read_only(false).await?;
    healed(load).await?;

    let mut lock = world.tables.pool.acquire().await?;
    sqlx::raw_sql("BEGIN; LOCK TABLE devices IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await?;
    let load = outage(&world, &consumer, &gateway).await?;
    sqlx::raw_sql("ROLLBACK").execute(&mut *lock).await?;
    drop(lock);
    healed(load).await?;
    let pauses = pauses_ms(&consumer.logged()?);
    assert!(pauses.len() >= 9, "three outages with three attempts each: {pauses:?}");
    // Twice the bound by jitter.
    assert!(pauses.iter().all(|pause| (50..=400).contains(pause)), "{pauses:?}");
    assert!(pauses.iter().any(|pause| *pause >= 200), "the bound is never reached: {pauses:?}");
    world.finish(&loads.iter().flat_map(Load::expected).collect::<Vec<_>>()).await
}
