//! A session on a real Postgres, and on librdkafka's own imitation of a cluster: a real one does not refuse at will.

use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::record::JournalRecord;
use milepost_shared::location::fingerprint::Fingerprint;
use milepost_shared::location::{Location, Upload};
use milepost_shared::program::settings::KafkaSettings;
use milepost_shared::store::accounts::{self, Account};
use milepost_shared::store::testing::{Role, TestDatabase, database};
use milepost_shared::testing::eventually;
use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use time::OffsetDateTime;
use uuid::Uuid;

use super::*;
use crate::persist::batch::Bounds;

const ACCOUNT: AccountId = AccountId(Uuid::from_u128(7));
const SECOND: Duration = Duration::from_secs(1);

fn parts(brokers: &str, database: &TestDatabase) -> Parts {
    let topics = TopicNames::new("");
    let (ttl, backoff_max) = (3600 * SECOND, SECOND / 10);
    let kafka = KafkaSettings { partitions: 1, idempotency_ttl: ttl, ..KafkaSettings::at(brokers) };
    let bounds = Bounds { records: 10, locations: 10, bytes: 10_000 };
    Parts {
        poll: PollSettings {
            kafka: kafka.clone(),
            topics: topics.clone(),
            session_timeout: 6 * SECOND,
            bounds,
            dead_letter_run_max: 1,
        },
        persist: PersistSettings {
            topic: topics.uploads.clone(),
            ttl,
            timeout: 10 * SECOND,
            backoff_max,
            copy_rows_min: 500,
            dead_letter_run_max: 1,
            unknown_account_wait: SECOND,
        },
        expire: ExpireSettings {
            kafka: kafka.clone(),
            topic: topics.uploads.clone(),
            grace: SECOND,
            clock: Clock::new(0),
            interval: SECOND,
            timeout: 10 * SECOND,
        },
        emit: EmitSettings {
            kafka,
            topics,
            result_linger: Duration::ZERO,
            fact_linger: Duration::ZERO,
            backoff_max,
        },
        offset_commit_interval: SECOND / 20,
        drain_timeout: 10 * SECOND,
        connections: Connections::new(database.options(Role::Consumer).into(), CONNECTIONS),
        readiness: Readiness::default(),
        troubles: Troubles::default(),
        crash: Crash::default(),
    }
}

fn record() -> JournalRecord {
    let upload = Upload { device: "d".to_owned(), locations: vec![Location::new(1, 48.0, 16.0)] };
    let (key_hash, fingerprint) = (KeyHash::new(ACCOUNT, "k"), Fingerprint::of(&upload));
    JournalRecord { key_hash, account: ACCOUNT, fingerprint, payload: upload.into() }
}

/// Waits until `kafka` is down, and returns why, or up.
async fn kafka(readiness: &Readiness, up: bool) -> String {
    let detail = eventually(60 * SECOND, "kafka changes", async || {
        Ok(readiness.snapshot().get("kafka").filter(|kafka| kafka.up == up).map(|kafka| kafka.detail.clone()))
    });
    detail.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_reading_makes_kafka_down_with_topic_and_error_as_long_as_it_stands() {
    let cluster = MockCluster::new(1).unwrap();
    for topic in ["location-uploads", "location-results", "locations"] {
        cluster.create_topic(topic, 1, 1).unwrap();
    }
    // The mock reports errors of partitions, as a real cluster does, only in versions that have no error of the request.
    cluster.apiversion(RDKafkaApiKey::Fetch, Some(0), Some(6)).unwrap();
    let database = database().await;
    let (parts, stop) = (parts(&cluster.bootstrap_servers(), &database), CancellationToken::new());
    let readiness = parts.readiness.clone();
    let session = tokio::spawn({
        let stop = stop.clone();
        async move { run(&parts, &stop).await }
    });
    kafka(&readiness, true).await;
    // The first is reported once, the second at each attempt.
    for (error, text) in [
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "Topic authorization failed"),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_MSG, "Invalid message"),
    ] {
        cluster.request_errors(RDKafkaApiKey::Fetch, &[error; 10_000]);
        let detail = kafka(&readiness, false).await;
        assert!(detail.contains("location-uploads") && detail.contains(text), "{detail}");
        cluster.clear_request_errors(RDKafkaApiKey::Fetch);
        kafka(&readiness, true).await;
    }
    stop.cancel();
    session.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_offset_that_the_group_refused_is_committed_again_though_no_record_follows() {
    let cluster = MockCluster::new(1).unwrap();
    for topic in ["location-uploads", "location-results", "locations"] {
        cluster.create_topic(topic, 1, 1).unwrap();
    }
    let brokers = cluster.bootstrap_servers();
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &brokers).set("group.id", TopicNames::group(""));
    let database = database().await;
    let account = Account { id: ACCOUNT, name: "tests".to_owned(), created_at: OffsetDateTime::UNIX_EPOCH };
    let mut owner = database.connect(Role::Owner).await;
    assert!(accounts::create_account(&mut owner, &account).await.unwrap());
    let (key, value) = (record().key_hash.to_string(), record().encode());
    let producer: FutureProducer = client.create().unwrap();
    producer.send(FutureRecord::to("location-uploads").key(&key).payload(&value), 10 * SECOND).await.unwrap();

    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE;
    cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[refusal]);
    let (parts, stop) = (parts(&brokers, &database), CancellationToken::new());
    let session = tokio::spawn({
        let stop = stop.clone();
        async move { run(&parts, &stop).await }
    });
    let committed = eventually(30 * SECOND, "the group offset is committed", async || {
        let asking: BaseConsumer = client.create()?;
        let mut of_group = TopicPartitionList::new();
        of_group.add_partition("location-uploads", 0);
        let committed = tokio::task::spawn_blocking(move || asking.committed_offsets(of_group, 10 * SECOND));
        Ok((committed.await??.elements()[0].offset() == Offset::Offset(1)).then_some(()))
    });
    committed.await.unwrap();
    stop.cancel();
    session.await.unwrap().unwrap();
}
