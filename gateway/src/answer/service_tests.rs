//! On a real Kafka and a real Postgres. The test plays the consumer, so that it can be late, silent, or say
//! anything.

use std::time::Duration;
use uuid::Uuid;

use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::answer::{self, KeyState};
use milepost_shared::journal::clock::{Clock, JournalTime};
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::position::Position;
use milepost_shared::journal::record::JournalRecord;
use milepost_shared::journal::result::ResultRecord;
use milepost_shared::kafka::names::TopicNames;
use milepost_shared::kafka::topics::TopicAdmin;
use milepost_shared::location::fingerprint::Fingerprint;
use milepost_shared::location::{Location, Upload};
use milepost_shared::store::testing::{Role, TestDatabase, database};
use milepost_shared::testing::eventually;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};

use super::*;

const ACCOUNT: AccountId = AccountId(Uuid::from_u128(1));
const TTL: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(20);
/// Nothing listens here.
const NOWHERE: &str = "127.0.0.1:9";

/// What a gateway works with: topics and a database of its own, and the consumer's part in the hands of the test.
struct Backend {
    database: TestDatabase,
    kafka: KafkaSettings,
    journal: BaseConsumer,
    results: FutureProducer,
}

impl Backend {
    async fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "tests have no settings struct")]
        let brokers = std::env::var("MILEPOST_TEST_KAFKA").unwrap_or_else(|_| {
            panic!("MILEPOST_TEST_KAFKA is not set; 'services/kafka start DIR PORT' starts what it names")
        });
        let kafka = KafkaSettings {
            topic_prefix: format!("answers-{}-", Uuid::new_v4().simple()),
            partitions: 2,
            idempotency_ttl: TTL,
            consumer_outage_max: TTL,
            ..KafkaSettings::at(&brokers)
        };
        TopicAdmin::new(&kafka).unwrap().create(&kafka, 1).await.unwrap();
        let client = |id: &str| {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", &brokers).set("group.id", id).set("enable.auto.commit", "false");
            config
        };
        let journal: BaseConsumer = client("test").create().unwrap();
        let mut partitions = TopicPartitionList::new();
        for partition in 0..kafka.partitions {
            let topic = TopicNames::new(&kafka.topic_prefix).uploads;
            partitions.add_partition_offset(&topic, partition, Offset::Beginning).unwrap();
        }
        journal.assign(&partitions).unwrap();
        let mut producer = ClientConfig::new();
        producer.set("bootstrap.servers", &brokers).set("partitioner", "murmur2_random");
        Self { database: database().await, kafka, journal, results: producer.create().unwrap() }
    }

    /// A gateway that is ready.
    async fn gateway(&self) -> (Answers, Readiness) {
        let readiness = Readiness::default();
        let answers = self.start(&readiness, &self.kafka, &self.database.url(Role::Gateway), "--warm-up=10m");
        eventually(PATIENCE, "the gateway is ready", async || Ok(readiness.is_ready().then_some(())))
            .await
            .unwrap();
        (answers, readiness)
    }

    fn start(&self, readiness: &Readiness, kafka: &KafkaSettings, url: &str, setting: &str) -> Answers {
        let database = Target::new(url, None, "milepost-gateway").unwrap();
        Answers::start(&settings(setting), kafka, &database, Clock::new(0), Default::default(), readiness)
            .unwrap()
    }

    /// The next record of the journal.
    async fn read(&self) -> (JournalRecord, Position, JournalTime) {
        eventually(PATIENCE, "the journal has a record", async || {
            let Some(message) = self.journal.poll(Duration::ZERO).transpose()? else { return Ok(None) };
            let record = JournalRecord::decode(message.key(), message.payload()).unwrap();
            let position = Position::new(message.partition(), message.offset());
            Ok(Some((record, position, JournalTime(message.timestamp().to_millis().unwrap()))))
        })
        .await
        .unwrap()
    }

    /// Decides the next record as new.
    async fn decide_next(&self) -> ResultRecord {
        let (record, position, time) = self.read().await;
        let state = KeyState {
            account: record.account,
            fingerprint: record.fingerprint,
            status: 200,
            body: answer::body(record.payload.locations().len()),
            accepted_at: time,
            expires_at: time.plus(TTL),
            source: position,
        };
        ResultRecord { key_hash: record.key_hash, record: position, state }
    }

    async fn emit(&self, result: &ResultRecord) {
        let topic = TopicNames::new(&self.kafka.topic_prefix).results;
        let (key, value) = (result.key_hash.to_string(), result.encode());
        let record = FutureRecord::to(&topic).key(&key).payload(&value);
        self.results.send_result(record).map_err(|(error, _)| error).unwrap().await.unwrap().unwrap();
    }

    async fn store(&self, result: &ResultRecord) {
        let mut owner = self.database.connect(Role::Owner).await;
        let state = &result.state;
        sqlx::query("SELECT ensure_partition('idempotency_keys', $1, interval '1 day')")
            .bind(state.accepted_at.to_datetime())
            .execute(&mut owner)
            .await
            .unwrap();
        sqlx::query("INSERT INTO idempotency_keys VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)")
            .bind(&result.key_hash.0[..])
            .bind(state.account)
            .bind(&state.fingerprint.0[..])
            .bind(i16::try_from(state.status).unwrap())
            .bind(&state.body[..])
            .bind(state.accepted_at.to_datetime())
            .bind(state.expires_at.to_datetime())
            .bind(state.source.partition)
            .bind(state.source.offset)
            .execute(&mut owner)
            .await
            .unwrap();
    }

    async fn progress(&self, Position { partition, offset }: Position) {
        let mut owner = self.database.connect(Role::Owner).await;
        sqlx::query("INSERT INTO partition_progress (topic, partition, next_offset) VALUES ($1, $2, $3)")
            .bind(TopicNames::new(&self.kafka.topic_prefix).uploads)
            .bind(partition)
            .bind(offset.next())
            .execute(&mut owner)
            .await
            .unwrap();
    }
}

fn settings(setting: &str) -> AnswerSettings {
    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        answers: AnswerSettings,
    }
    let arguments = ["test", "--answer-poll=100ms", "--publish-timeout=2s", setting];
    <Program as clap::Parser>::parse_from(arguments).answers
}

fn accepted(key: &str, latitude: f64, patience: Duration) -> Accepted {
    let upload = Upload { device: "d".to_owned(), locations: vec![Location::new(1, latitude, 16.0)] };
    Accepted {
        account: ACCOUNT,
        key_hash: KeyHash::new(ACCOUNT, key),
        has_key: true,
        fingerprint: Fingerprint::of(&upload),
        upload,
        traceparent: None,
        patience,
    }
}

fn answering(answers: &Answers, accepted: Accepted) -> tokio::task::JoinHandle<Outcome> {
    let answers = answers.clone();
    tokio::spawn(async move { answers.answer(accepted).await })
}

fn replayed(outcome: &Outcome, expected: &KeyState) -> bool {
    match outcome {
        Outcome::Final { state, replayed } if state == expected => *replayed,
        other => panic!("{other:?} instead of {expected:?}"),
    }
}

fn receipt(outcome: &Outcome) -> Receipt {
    let Outcome::Pending(receipt) = outcome else { panic!("{outcome:?} instead of pending") };
    *receipt
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_answer_is_no_replay_and_every_other_is() {
    let backend = Backend::new().await;
    let (first, _) = backend.gateway().await;
    let (second, _) = backend.gateway().await;
    let leader = answering(&first, accepted("k", 48.0, PATIENCE));
    let mine = backend.decide_next().await;
    let joined = answering(&first, accepted("k", 48.0, PATIENCE));
    let elsewhere = answering(&second, accepted("k", 48.0, PATIENCE));
    let other = answering(&first, accepted("k", 49.0, PATIENCE));
    // The two that did not join have records of their own, which find the key taken.
    let copies = [backend.read().await.1, backend.read().await.1];
    backend.emit(&mine).await;
    for record in copies {
        backend.emit(&ResultRecord { record, ..mine.clone() }).await;
    }
    assert!(!replayed(&leader.await.unwrap(), &mine.state));
    assert!(replayed(&joined.await.unwrap(), &mine.state));
    assert!(replayed(&elsewhere.await.unwrap(), &mine.state));
    assert!(matches!(other.await.unwrap(), Outcome::Conflict));
    assert!(replayed(&first.answer(accepted("k", 48.0, PATIENCE)).await, &mine.state), "from the cache");
    assert!(matches!(first.answer(accepted("k", 49.0, PATIENCE)).await, Outcome::Conflict));
    assert!(first.0.in_flight.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_acknowledgement_has_the_time_the_broker_stamped() {
    let backend = Backend::new().await;
    let (answers, _) = backend.gateway().await;
    let outcome = answers.answer(accepted("k", 48.0, Duration::ZERO)).await;
    let (record, position, time) = backend.read().await;
    let receipt = receipt(&outcome);
    assert_eq!((receipt.position, receipt.journal_time), (position, time));
    assert!(receipt.is_of(record.fingerprint));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_topic_is_silent_the_table_answers() {
    let backend = Backend::new().await;
    let (answers, _) = backend.gateway().await;
    let leader = answering(&answers, accepted("k", 48.0, PATIENCE));
    let mine = backend.decide_next().await;
    backend.store(&mine).await;
    assert!(!replayed(&leader.await.unwrap(), &mine.state));
    let (other, _) = backend.gateway().await;
    assert!(replayed(&other.answer(accepted("k", 48.0, PATIENCE)).await, &mine.state));
}

/// The result with a window that ends a millisecond after it began, once that is over.
async fn cut_short(mut result: ResultRecord) -> ResultRecord {
    result.state.expires_at = result.state.accepted_at.plus(MS);
    let over = result.state.expires_at;
    eventually(PATIENCE, "the window is over", async || Ok((Clock::new(0).now() > over).then_some(())))
        .await
        .unwrap();
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_window_a_key_goes_through_the_journal_again() {
    let backend = Backend::new().await;
    let (answers, _) = backend.gateway().await;
    let first = answering(&answers, accepted("k", 48.0, PATIENCE));
    let old = cut_short(backend.decide_next().await).await;
    backend.store(&old).await;
    backend.emit(&old).await;
    assert!(!replayed(&first.await.unwrap(), &old.state));

    // Neither the cache nor the table of a gateway without one may replay it, nor call another upload a conflict.
    let without_cache = Readiness::default();
    let url = backend.database.url(Role::Gateway);
    let without_cache = backend.start(&without_cache, &backend.kafka, &url, "--cache-entries=0");
    let second = answering(&answers, accepted("k", 49.0, PATIENCE));
    let new = backend.decide_next().await;
    let copy = answering(&without_cache, accepted("k", 49.0, PATIENCE));
    let (_, record, _) = backend.read().await;
    backend.store(&new).await;
    for record in [new.record, record] {
        backend.emit(&ResultRecord { record, ..new.clone() }).await;
    }
    assert!(!replayed(&second.await.unwrap(), &new.state));
    assert!(replayed(&copy.await.unwrap(), &new.state));

    // Of two windows in the table the newest counts. This gateway has seen no result.
    let readiness = Readiness::default();
    let started_after =
        backend.start(&readiness, &backend.kafka, &backend.database.url(Role::Gateway), "--warm-up=0s");
    eventually(PATIENCE, "the gateway is ready", async || Ok(readiness.is_ready().then_some(())))
        .await
        .unwrap();
    assert!(replayed(&started_after.answer(accepted("k", 49.0, PATIENCE)).await, &new.state));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_came_after_the_window_of_the_flight_it_joined_goes_through_the_journal_itself() {
    let backend = Backend::new().await;
    let (answers, _) = backend.gateway().await;
    let first = answering(&answers, accepted("k", 48.0, PATIENCE));
    let old = cut_short(backend.decide_next().await).await;
    let joined = answers.answer(accepted("k", 48.0, PATIENCE));
    tokio::pin!(joined);
    assert!(futures::poll!(joined.as_mut()).is_pending(), "it has joined");
    backend.emit(&old).await;
    assert!(!replayed(&first.await.unwrap(), &old.state));
    let consumer = async {
        let new = backend.decide_next().await;
        backend.emit(&new).await;
        new
    };
    let (outcome, new) = tokio::join!(joined, consumer);
    assert!(!replayed(&outcome, &new.state));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_cancels_nothing() {
    let backend = Backend::new().await;
    let (answers, _) = backend.gateway().await;
    let gone = timeout(Duration::ZERO, answers.answer(accepted("k", 48.0, PATIENCE))).await;
    assert!(gone.is_err(), "it must hang up before the answer");
    let mine = backend.decide_next().await;
    backend.emit(&mine).await;
    let key = mine.key_hash;
    eventually(PATIENCE, "the answer is known", async || Ok(answers.0.finder.cache.get(key))).await.unwrap();
    assert!(replayed(&answers.answer(accepted("k", 48.0, PATIENCE)).await, &mine.state));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_partition_is_late_nobody_waits_and_the_status_says_so() {
    let backend = Backend::new().await;
    let (answers, _) = backend.gateway().await;
    let key = KeyHash::new(ACCOUNT, "k");
    let pending = receipt(&answers.answer(accepted("k", 48.0, Duration::from_millis(200))).await);
    assert!(matches!(answers.status(ACCOUNT, key, Some(pending)).await, Status::Pending));
    let at_once = timeout(PATIENCE / 2, answers.answer(accepted("k", 48.0, PATIENCE))).await;
    let second = receipt(&at_once.expect("the partition is known to be late"));

    let mine = backend.decide_next().await;
    backend.store(&mine).await;
    let status = answers.status(ACCOUNT, key, Some(second)).await;
    assert!(matches!(status, Status::Final { state, conflict: false } if state == mine.state));
    backend.progress(pending.position).await;
    assert!(matches!(
        answers.status(AccountId(Uuid::from_u128(2)), key, Some(pending)).await,
        Status::Unknown
    ));
    assert!(matches!(answers.status(AccountId(Uuid::from_u128(2)), key, None).await, Status::Unknown));

    let partition = pending.position.partition;
    backend.emit(&ResultRecord { record: second.position, ..mine }).await;
    eventually(PATIENCE, "the answers have caught up", async || {
        Ok((!answers.0.lag.lock().is_late(partition)).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_gateway_is_warm_before_it_is_ready() {
    let backend = Backend::new().await;
    let (answers, _) = backend.gateway().await;
    let leader = answering(&answers, accepted("k", 48.0, PATIENCE));
    let mine = backend.decide_next().await;
    backend.emit(&mine).await;
    assert!(!replayed(&leader.await.unwrap(), &mine.state));
    answers.drain(PATIENCE).await;

    let (restarted, _) = backend.gateway().await;
    assert_eq!(restarted.0.finder.cache.get(mine.key_hash), Some(mine.state));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_the_journal_and_the_topic_are_enough() {
    let backend = Backend::new().await;
    let readiness = Readiness::default();
    let url = format!("postgres://milepost@{NOWHERE}/milepost");
    let answers = backend.start(&readiness, &backend.kafka, &url, "--lookup-timeout=200ms");
    eventually(PATIENCE, "the gateway is ready", async || Ok(readiness.is_ready().then_some(())))
        .await
        .unwrap();
    let leader = answering(&answers, accepted("k", 48.0, PATIENCE));
    let mine = backend.decide_next().await;
    backend.emit(&mine).await;
    assert!(!replayed(&leader.await.unwrap(), &mine.state));
    assert!(replayed(&answers.answer(accepted("k", 48.0, PATIENCE)).await, &mine.state));
    assert!(matches!(answers.status(ACCOUNT, KeyHash([0; 32]), None).await, Status::Unavailable));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_journal_known_keys_are_replayed_and_new_ones_refused_in_time() {
    let backend = Backend::new().await;
    let (answers, _) = backend.gateway().await;
    let leader = answering(&answers, accepted("k", 48.0, PATIENCE));
    let mine = backend.decide_next().await;
    backend.store(&mine).await;
    assert!(!replayed(&leader.await.unwrap(), &mine.state));

    let nowhere = KafkaSettings { kafka_brokers: NOWHERE.to_owned(), ..backend.kafka.clone() };
    let url = backend.database.url(Role::Gateway);
    let alone = backend.start(&Readiness::default(), &nowhere, &url, "--warm-up=0s");
    for _ in ["table", "cache"] {
        assert!(replayed(&alone.answer(accepted("k", 48.0, PATIENCE)).await, &mine.state));
    }
    let refused = timeout(PATIENCE / 2, alone.answer(accepted("new", 48.0, PATIENCE))).await.unwrap();
    assert!(matches!(refused, Outcome::Unavailable(Unavailable::Journal)));
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_answers_those_on_their_way_and_refuses_new_ones() {
    let backend = Backend::new().await;
    let (answers, _) = backend.gateway().await;
    let leader = answering(&answers, accepted("k", 48.0, PATIENCE));
    let mine = backend.decide_next().await;
    let draining = answers.clone();
    let draining = tokio::spawn(async move { draining.drain(PATIENCE).await });
    eventually(PATIENCE, "the gateway is draining", async || Ok(answers.0.flights.is_closed().then_some(())))
        .await
        .unwrap();
    let refused = answers.answer(accepted("new", 48.0, PATIENCE)).await;
    assert!(matches!(refused, Outcome::Unavailable(Unavailable::Draining)));
    backend.emit(&mine).await;
    assert!(!replayed(&leader.await.unwrap(), &mine.state));
    timeout(PATIENCE / 2, draining).await.expect("nothing is left to wait for").unwrap();
}
