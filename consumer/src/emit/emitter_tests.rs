//! On librdkafka's own imitation of a cluster, since a real one makes a client forget it when it likes.

use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::answer;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::location::fingerprint::Fingerprint;
use milepost_shared::location::{Location, Upload};
use milepost_shared::program::settings::KafkaSettings;
use milepost_shared::testing::eventually;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Headers as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use uuid::Uuid;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> Cluster {
    let (cluster, topics) = (MockCluster::new(1).unwrap(), TopicNames::new(""));
    for topic in [&topics.results, &topics.locations] {
        cluster.create_topic(topic, 2, 1).unwrap();
    }
    cluster
}

fn emitter(cluster: &Cluster, fact_linger: Duration) -> Emitter {
    stoppable(cluster, fact_linger, StoppedPartitions::default())
}

fn stoppable(cluster: &Cluster, fact_linger: Duration, stopped: StoppedPartitions) -> Emitter {
    let settings = EmitSettings {
        kafka: KafkaSettings::at(&cluster.bootstrap_servers()),
        topics: TopicNames::new(""),
        result_linger: Duration::ZERO,
        fact_linger,
        backoff_max: Duration::from_millis(100),
    };
    Emitter::new(settings, stopped, Readiness::default(), Crash::default(), CancellationToken::new()).unwrap()
}

/// A batch of one upload.
fn batch(offset: i64) -> Vec<Emission> {
    let upload = Upload { device: "d".to_owned(), locations: vec![Location::new(1, 48.0, 16.0)] };
    batch_of(Position::new(0, offset), upload)
}

fn batch_of(position: Position, upload: Upload) -> Vec<Emission> {
    let time = JournalTime(1);
    let (account, fingerprint) = (AccountId(Uuid::nil()), Fingerprint::of(&upload));
    let state = KeyState {
        account,
        fingerprint,
        status: 200,
        body: answer::body(1),
        accepted_at: time,
        expires_at: JournalTime(2),
        source: position,
    };
    let answer = Some(Answered { key_hash: KeyHash([0; 32]), state, fact: Some(upload) });
    vec![Emission { position, time, generation: 0, traceparent: None, answer }]
}

/// Emits a batch; its results must be acknowledged in time.
async fn emit(emitter: &mut Emitter, offset: i64) {
    tokio::time::timeout(PATIENCE, emitter.emit(batch(offset))).await.expect("results in time").unwrap();
}

/// Waits until everything pending is acknowledged. Returns how far each batch has brought the partition.
async fn all_acknowledged(emitter: &mut Emitter) -> Vec<i64> {
    let mut nexts = Vec::new();
    let acknowledging = async {
        while emitter.is_busy() {
            let acknowledged = emitter.facts_acknowledged().await;
            nexts.extend(
                emitter.acknowledge(acknowledged).await.unwrap().into_values().map(|emitted| emitted.next.0),
            );
        }
    };
    tokio::time::timeout(PATIENCE, acknowledging).await.expect("facts in time");
    nexts
}

/// Source offsets of all facts up to `last`, as the topic holds them.
fn facts(cluster: &Cluster, last: i64) -> Vec<i64> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "reader");
    let reader: BaseConsumer = config.create().unwrap();
    let mut all = TopicPartitionList::new();
    all.add_partition_offset(&TopicNames::new("").locations, 0, Offset::Beginning).unwrap();
    reader.assign(&all).unwrap();
    let (mut offsets, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    while offsets.last() != Some(&last) {
        assert!(Instant::now() < deadline, "only {offsets:?}");
        let Some(Ok(fact)) = reader.poll(SECOND) else { continue };
        let header = fact.headers().unwrap().iter().find(|header| header.key == HEADER_SOURCE_OFFSET);
        offsets.push(std::str::from_utf8(header.unwrap().value.unwrap()).unwrap().parse().unwrap());
    }
    offsets
}

#[tokio::test(flavor = "multi_thread")]
async fn producers_that_know_no_broker_any_more_are_replaced_and_the_batch_is_emitted() {
    let cluster = cluster();
    let mut emitter = emitter(&cluster, Duration::ZERO);
    for offset in [4, 5] {
        // First the producer of results, then that of facts.
        let producer = if offset == 4 { &emitter.results } else { &emitter.facts };
        producer.lost().cancel();
        emit(&mut emitter, offset).await;
        assert_eq!(all_acknowledged(&mut emitter).await, [offset + 1]);
        assert!(!emitter.results.lost().is_cancelled() && !emitter.facts.lost().is_cancelled());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_do_not_wait_for_facts_and_facts_that_got_lost_are_emitted_again_in_order() {
    let cluster = cluster();
    let mut emitter = emitter(&cluster, 5 * SECOND);
    // Whoever waits for a fact waits for five seconds.
    let begun = Instant::now();
    for offset in [4, 5, 6] {
        emit(&mut emitter, offset).await;
    }
    assert!(begun.elapsed() < 5 * SECOND, "{:?}", begun.elapsed());
    assert_eq!(emitter.pending.len(), 3);

    emitter.facts.lost().cancel();
    assert_eq!(all_acknowledged(&mut emitter).await, [5, 6, 7]);
    let emitted = facts(&cluster, 6);
    let mut greatest = 3;
    for offset in &emitted {
        assert!(*offset <= greatest + 1, "a hole in {emitted:?}");
        greatest = greatest.max(*offset);
    }
    assert_eq!(greatest, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_come_one_at_a_time_do_not_wait_for_the_facts_of_those_before() {
    let cluster = cluster();
    let mut emitter = emitter(&cluster, 5 * SECOND);
    let begun = Instant::now();
    for offset in 0..100 {
        assert!(emitter.has_room(), "for {offset}");
        emit(&mut emitter, offset).await;
    }
    assert!(begun.elapsed() < 5 * SECOND, "{:?}", begun.elapsed());
    assert_eq!(emitter.pending.len(), 100);
    assert_eq!(all_acknowledged(&mut emitter).await, (1..=100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_emitted_than_may_be_pending() {
    let cluster = cluster();
    let mut emitter = emitter(&cluster, SECOND);
    for offset in [0, 2, 4, 6, 8, 10] {
        assert!(emitter.has_room());
        let mut batch = batch(offset);
        let fact = &mut batch[0].answer.as_mut().unwrap().fact;
        fact.as_mut().unwrap().locations = vec![Location::new(1, 48.0, 16.0); PENDING_MAX / 6 - 1];
        // What leaves nothing behind takes room as well.
        let position = Position::new(0, offset + 1);
        batch.push(Emission {
            position,
            time: JournalTime(1),
            generation: 0,
            traceparent: None,
            answer: None,
        });
        emitter.emit(batch).await.unwrap();
    }
    assert_eq!((emitter.size(), emitter.has_room()), (PENDING_MAX, false));
    all_acknowledged(&mut emitter).await;
    assert!(emitter.has_room() && !emitter.is_busy() && emitter.size() == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_batches_are_emitted_than_may_be_pending() {
    let cluster = cluster();
    let mut emitter = emitter(&cluster, SECOND);
    let mut offset = 0;
    while emitter.has_room() {
        emit(&mut emitter, offset).await;
        offset += 1;
        assert!(emitter.pending.len() <= PENDING_BATCHES_MAX);
    }
    assert_eq!(emitter.pending.len(), PENDING_BATCHES_MAX);
    all_acknowledged(&mut emitter).await;
    assert!(emitter.has_room() && !emitter.is_busy());
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_that_do_not_come_make_emission_down_by_the_topics_name_until_they_do() {
    let cluster = cluster();
    let mut emitter = emitter(&cluster, Duration::ZERO);
    let readiness = emitter.readiness.clone();
    let down = async |topic: &str| {
        let reported = eventually(PATIENCE, "emission is down", async || {
            let snapshot = readiness.snapshot();
            let emission = snapshot.get("emission").filter(|emission| !emission.up);
            Ok(emission.filter(|emission| emission.detail.starts_with(topic)).map(|_| ()))
        });
        reported.await.unwrap();
        cluster.clear_request_errors(RDKafkaApiKey::Produce);
    };
    // Too few replicas: retried forever, silently.
    let refusals = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS; 10_000];
    cluster.request_errors(RDKafkaApiKey::Produce, &refusals);
    tokio::join!(emit(&mut emitter, 0), down("location-results"));
    all_acknowledged(&mut emitter).await;
    assert!(readiness.snapshot()["emission"].up);

    emit(&mut emitter, 1).await;
    cluster.request_errors(RDKafkaApiKey::Produce, &refusals);
    emitter.facts.lost().cancel();
    tokio::join!(all_acknowledged(&mut emitter), down("location"));
    assert!(readiness.snapshot()["emission"].up);
}

/// Emits the batches and waits until they are acknowledged. Returns how far each partition has come.
async fn emitted(
    emitter: &mut Emitter,
    batches: impl IntoIterator<Item = Vec<Emission>>,
) -> BTreeMap<i32, i64> {
    let mut nexts = BTreeMap::new();
    let emitting = async {
        for batch in batches {
            emitter.emit(batch).await.unwrap();
        }
        while emitter.is_busy() {
            let acknowledged = emitter.facts_acknowledged().await;
            let emitted = emitter.acknowledge(acknowledged).await.unwrap();
            nexts.extend(emitted.into_iter().map(|(partition, emitted)| (partition.0, emitted.next.0)));
        }
    };
    tokio::time::timeout(PATIENCE, emitting).await.expect("nothing is retried forever");
    nexts
}

fn stops(stopped: &StoppedPartitions) -> Vec<Position> {
    stopped.unreported().into_iter().map(|stop| stop.position).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fact_too_large_for_its_topic_stops_its_partition_before_it_and_no_other() {
    let (cluster, stopped) = (cluster(), StoppedPartitions::default());
    let mut emitter = stoppable(&cluster, Duration::ZERO, stopped.clone());
    let at = Position::new;
    let small = Upload { device: "d".to_owned(), locations: vec![Location::new(1, 48.0, 16.0)] };
    let label = Some("x".repeat(64));
    let location = Location { provider: label.clone(), network_type: label, ..small.locations[0].clone() };
    let large = Upload { locations: vec![location; 30_000], ..small.clone() };
    let both = |of_one: Vec<Emission>, of_other| of_one.into_iter().chain(of_other).collect::<Vec<_>>();
    let batches = [
        both(batch_of(at(0, 4), small.clone()), batch_of(at(0, 5), large)),
        both(batch_of(at(1, 9), small.clone()), batch_of(at(0, 6), small.clone())),
    ];
    assert_eq!(emitted(&mut emitter, batches).await, BTreeMap::from([(0, 5), (1, 10)]));
    assert_eq!(stops(&stopped), [at(0, 5)]);
    assert_eq!(facts(&cluster, 4), [4]);

    // Assigned again, it is tried again.
    let mut again = batch_of(at(0, 5), small);
    again[0].generation = 1;
    assert_eq!(emitted(&mut emitter, [again]).await, BTreeMap::from([(0, 6)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_refuses_a_record_for_good_stops_its_partition_and_no_other() {
    let (cluster, stopped) = (cluster(), StoppedPartitions::default());
    let mut emitter = stoppable(&cluster, Duration::ZERO, stopped.clone());
    let small = Upload { device: "d".to_owned(), locations: vec![Location::new(1, 48.0, 16.0)] };
    let at = Position::new;
    for (round, refusal) in (0..).zip([
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD,
    ]) {
        cluster.request_errors(RDKafkaApiKey::Produce, &[refusal]);
        let mut refused = batch_of(at(0, round), small.clone());
        refused[0].generation = u64::try_from(round).unwrap();
        assert_eq!(emitted(&mut emitter, [refused]).await, BTreeMap::new());
        assert_eq!(stops(&stopped), [at(0, round)]);
        let other = batch_of(at(1, round), small.clone());
        assert_eq!(emitted(&mut emitter, [other]).await, BTreeMap::from([(1, round + 1)]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_passes_stops_nothing() {
    let (cluster, stopped) = (cluster(), StoppedPartitions::default());
    let mut emitter = stoppable(&cluster, Duration::ZERO, stopped.clone());
    let passing = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::Produce, &[passing]);
    assert_eq!(emitted(&mut emitter, [batch(4)]).await, BTreeMap::from([(0, 5)]));
    assert!(stops(&stopped).is_empty());
}

#[test]
fn a_batch_brings_each_partition_to_the_offset_after_its_last_record() {
    let emission = |partition, offset, time| Emission {
        position: Position::new(partition, offset),
        time: JournalTime(time),
        generation: 7,
        traceparent: None,
        answer: None,
    };
    let emitted = progress(&[emission(0, 5, 50), emission(1, 9, 90), emission(0, 6, 40)]);
    assert_eq!(emitted[&Partition(0)], Emitted { generation: 7, next: NextOffset(7), time: JournalTime(50) });
    assert_eq!(
        emitted[&Partition(1)],
        Emitted { generation: 7, next: NextOffset(10), time: JournalTime(90) }
    );
}
