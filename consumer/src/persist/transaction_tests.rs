//! Batches on a real Postgres, with the consumer's own role.

use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::position::{NextOffset, Offset, Partition, Position};
use milepost_shared::journal::record::{JournalRecord, Payload};
use milepost_shared::journal::set_aside::SetAside;
use milepost_shared::location::fingerprint::Fingerprint;
use milepost_shared::location::{Location, Upload};
use milepost_shared::store::accounts::{self, Account};
use milepost_shared::store::partitions::Expiry;
use milepost_shared::store::testing::{Role, TestDatabase, database};
use milepost_shared::testing::eventually;
use sqlx::Row as _;
use time::OffsetDateTime;
use uuid::Uuid;

use super::*;
use crate::journal::assign::Assigned;
use crate::journal::record::{Content, Poison, Record};

const TTL: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "location-uploads";
const ACCOUNT: AccountId = AccountId(Uuid::from_u128(7));
/// Journal time of offset 0; each record is a second later.
const START_MS: i64 = 1_773_480_413_000;

struct Fixture {
    database: TestDatabase,
    connection: PgConnection,
}

impl Fixture {
    async fn new() -> Self {
        let database = database().await;
        let mut connection = database.connect(Role::Owner).await;
        let account =
            Account { id: ACCOUNT, name: "tests".to_owned(), created_at: OffsetDateTime::UNIX_EPOCH };
        assert!(accounts::create_account(&mut connection, &account).await.unwrap());
        for partition in Partition::all(2) {
            progress::begin(&mut connection, TOPIC, partition).await.unwrap();
        }
        Self { database, connection }
    }

    fn persister(&self, copy_rows_min: usize) -> Persister {
        self.patient_persister(copy_rows_min, Duration::ZERO)
    }

    fn patient_persister(&self, copy_rows_min: usize, unknown_account_wait: Duration) -> Persister {
        let settings = PersistSettings {
            topic: TOPIC.to_owned(),
            ttl: TTL,
            timeout: Duration::from_secs(10),
            backoff_max: Duration::from_millis(50),
            copy_rows_min,
            dead_letter_run_max: 3,
            unknown_account_wait,
        };
        let (accounts, stopped, readiness, crash, stop) = Default::default();
        let connections = Connections::new(self.database.options(Role::Consumer).into(), 1);
        Persister::new(settings, connections, accounts, stopped, readiness, crash, stop)
    }

    /// Connections with a shorter bound.
    fn bounded(&self, bound: &str, value: &str) -> Connections {
        Connections::new(self.database.options(Role::Consumer).options([(bound, value)]).into(), 1)
    }

    /// Every row of every table that a rebuild must give again, as text in a fixed order.
    async fn rows(&mut self) -> Vec<String> {
        let statement = "SELECT x FROM ( \
            SELECT 1 AS t, to_jsonb(l) - 'device_id' || jsonb_build_object('device', d.device) AS x \
              FROM locations l JOIN devices d ON d.id = l.device_id \
            UNION ALL SELECT 2, to_jsonb(k) FROM idempotency_keys k \
            UNION ALL SELECT 3, to_jsonb(d) - 'id' FROM devices d \
            UNION ALL SELECT 4, to_jsonb(p) FROM partition_progress p \
            UNION ALL SELECT 5, to_jsonb(g) FROM dead_letters g) AS rows ORDER BY t, x::text";
        let rows = sqlx::query(statement).fetch_all(&mut self.connection).await.unwrap();
        rows.iter().map(|row| row.get::<serde_json::Value, _>(0).to_string()).collect()
    }

    async fn count(&mut self, table: &str) -> i64 {
        let statement = format!("SELECT count(*) FROM {table}");
        sqlx::query_scalar(&statement).fetch_one(&mut self.connection).await.unwrap()
    }

    /// Puts partition 0 back to when its records before `next_offset` had been persisted.
    async fn put_back(&mut self, next_offset: i64) {
        for table in ["idempotency_keys", "locations"] {
            let statement = format!("DELETE FROM {table} WHERE source_partition = 0 AND source_offset >= $1");
            sqlx::query(&statement).bind(next_offset).execute(&mut self.connection).await.unwrap();
        }
        progress::place(&mut self.connection, TOPIC, Partition(0), NextOffset(next_offset), true)
            .await
            .unwrap();
    }

    async fn until_a_lock_is_waited_for(&mut self) {
        let statement = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
            AND wait_event_type = 'Lock'";
        self.until_some(statement, "somebody waits for a lock").await;
    }

    /// Waits until a query counts something.
    async fn until_some(&mut self, query: &str, what: &str) {
        let some = eventually(PATIENCE, what, async || {
            let count: i64 = sqlx::query_scalar(query).fetch_one(&mut self.connection).await?;
            Ok((count > 0).then_some(()))
        });
        some.await.unwrap();
    }

    async fn next_offset(&mut self, partition: i32) -> i64 {
        let rows = progress::load(&mut self.connection, TOPIC).await.unwrap();
        rows.iter().find(|row| row.partition.0 == partition).unwrap().next_offset.0
    }
}

/// An upload of `locations` points under the key `key`, whose content depends on `body`.
fn upload(partition: i32, offset: i64, key: u8, body: u8, locations: i64) -> Record {
    let points = (0..locations).map(|i| Location {
        accuracy: (i % 2 == 0).then_some(5.5),
        altitude: Some(-3.25),
        provider: (i % 3 == 0).then(|| "gps".to_owned()),
        network_type: Some(String::new()),
        ..Location::new(1000 * i, 48.208_174_3 + f64::from(body), 16.373_818_9)
    });
    let upload = Upload { device: format!("device-{body}"), locations: points.collect() };
    let content = Content::Good(Box::new(JournalRecord {
        key_hash: KeyHash([key; 32]),
        account: ACCOUNT,
        fingerprint: Fingerprint::of(&upload),
        payload: upload.into(),
    }));
    record(partition, offset, content)
}

fn poison(offset: i64) -> Record {
    poison_of(0, offset)
}

fn poison_of(partition: i32, offset: i64) -> Record {
    let poison = Poison { reason: "not JSON".to_owned(), key: None, value: Some(b"\0{".to_vec()) };
    record(partition, offset, Content::Poison(poison))
}

fn record(partition: i32, offset: i64, content: Content) -> Record {
    let time = JournalTime(START_MS + 1000 * offset);
    Record { position: Position::new(partition, offset), time, traceparent: None, content, stranger: None }
}

/// A point set aside under the key `key`.
fn set_aside(offset: i64, key: u8, raw: &[u8]) -> Record {
    let point = SetAside::new("owntracks", Some("d"), "latitude-out-of-range", Some("lat"), raw);
    let content = Content::Good(Box::new(JournalRecord {
        key_hash: KeyHash([key; 32]),
        account: ACCOUNT,
        fingerprint: Fingerprint([raw.len().try_into().unwrap(); 32]),
        payload: point.into(),
    }));
    record(0, offset, content)
}

/// An upload of an account that nobody has created, as decoding leaves it.
fn stranger(offset: i64, account: AccountId) -> Record {
    let mut record = upload(0, offset, 1, 1, 1);
    if let Content::Good(good) = &mut record.content {
        good.account = account;
    }
    let poison = Poison::new("unknown account".to_owned(), Some(b"own key"), Some(b"own bytes"));
    record.stranger = Some(Box::new(poison));
    record
}

/// Persists; fails instead of trying forever.
async fn persist(persister: &mut Persister, batch: Batch) -> Result<Persisted, PersistError> {
    tokio::time::timeout(Duration::from_secs(30), persister.persist(batch)).await.expect("retried forever")
}

fn batch(persisted_below: i64, records: impl IntoIterator<Item = Record>) -> Batch {
    let mut batch = Batch::default();
    for record in records {
        let (persisted_below, expected) = (NextOffset(persisted_below), record.position.offset.before());
        batch.push(record, 100, Assigned { generation: 1, persisted_below, expected });
    }
    batch
}

fn facts(persisted: &Persisted) -> Vec<bool> {
    let is_fact =
        |emission: &Emission| emission.answer.as_ref().is_some_and(|answered| answered.fact.is_some());
    persisted.emissions.iter().map(is_fact).collect()
}

#[tokio::test]
async fn a_batch_is_persisted_whole_and_copies_and_conflicts_leave_no_rows() {
    let mut fixture = Fixture::new().await;
    let mut persister = fixture.persister(1000);
    let records = [
        upload(0, 0, 1, 1, 3),
        upload(1, 0, 2, 2, 1),
        upload(0, 1, 1, 1, 3),
        upload(0, 2, 1, 9, 5),
        upload(1, 1, 3, 2, 2),
    ];
    let persisted = persister.persist(batch(0, records)).await.unwrap();
    assert_eq!(facts(&persisted), [true, true, false, false, true]);
    let states: Vec<&KeyState> =
        persisted.emissions.iter().map(|emission| &emission.answer.as_ref().unwrap().state).collect();
    assert_eq!(states[0], states[2]);
    assert_eq!(states[0], states[3]);
    assert_eq!(&states[0].body[..], br#"{"success":true,"processedCount":3}"#);
    assert_eq!(fixture.count("locations").await, 6);
    assert_eq!(fixture.count("idempotency_keys").await, 3);
    assert_eq!(fixture.count("devices").await, 2);
    assert_eq!((fixture.next_offset(0).await, fixture.next_offset(1).await), (3, 2));

    // The next batch finds the window in the table, until its end in journal time.
    let late = 3600;
    let records = [upload(0, 3, 1, 1, 3)].into_iter().chain((4..late).map(poison).take(2));
    let persisted = persister.persist(batch(0, records)).await.unwrap();
    assert_eq!(facts(&persisted), [false, false, false]);
}

#[tokio::test]
async fn copy_and_insert_write_the_same_rows_and_a_rebuild_gives_them_again() {
    let mut written = Vec::new();
    for copy_rows_min in [1, 100_000] {
        let mut fixture = Fixture::new().await;
        let mut persister = fixture.persister(copy_rows_min);
        // Cut into batches differently, too.
        let records =
            || (0..6_u8).map(|i| upload(i32::from(i % 2), i64::from(i / 2), i, i, i64::from(i) + 1));
        if copy_rows_min == 1 {
            persister.persist(batch(0, records())).await.unwrap();
        } else {
            for record in records() {
                persister.persist(batch(0, [record])).await.unwrap();
            }
        }
        written.push(fixture.rows().await);
    }
    assert_eq!(written[0].len(), 21 + 6 + 6 + 2);
    assert_eq!(written[0], written[1]);
    assert!(written[0][0].contains("48.2081743") || written[0][0].contains("48.208174"), "{}", written[0][0]);
}

#[tokio::test]
async fn a_second_consumer_that_believes_it_owns_the_same_partitions_changes_nothing() {
    let mut fixture = Fixture::new().await;
    let (mut owner, mut zombie) = (fixture.persister(1000), fixture.persister(1000));
    owner.persist(batch(0, [upload(0, 0, 1, 1, 2)])).await.unwrap();
    let before = fixture.rows().await;
    let result = zombie.persist(batch(0, [upload(1, 0, 5, 5, 1), upload(0, 0, 1, 1, 2)])).await;
    assert!(
        matches!(&result, Err(PersistError::Fenced(partitions)) if partitions == &[Partition(0)]),
        "{result:?}"
    );
    assert_eq!(fixture.rows().await, before);

    // And the owner goes on, also past what the zombie would have claimed.
    owner.persist(batch(0, [upload(0, 1, 2, 2, 1)])).await.unwrap();
    let result = zombie.persist(batch(0, [upload(0, 1, 3, 3, 1)])).await;
    assert!(matches!(result, Err(PersistError::Fenced(_))));
    assert_eq!(fixture.next_offset(0).await, 2);
}

/// The fence's statement has its snapshot by then: what it reads of the keys must not count if the lock was waited for in vain.
#[tokio::test]
async fn who_waits_for_the_fence_goes_on_only_if_the_other_rolls_back() {
    let mut fixture = Fixture::new().await;
    fixture.persister(1000).persist(batch(0, [upload(0, 0, 1, 1, 1)])).await.unwrap();
    for commits in [false, true] {
        let mut other = fixture.database.connect(Role::Owner).await;
        sqlx::raw_sql("BEGIN; UPDATE partition_progress SET next_offset = 2 WHERE partition = 0")
            .execute(&mut other)
            .await
            .unwrap();
        let mut persister = fixture.persister(1000);
        // What is not committed yet is not expected by anybody: no wait, no row.
        let early = fixture.persister(1000).persist(batch(0, [upload(0, 2, 3, 3, 1)])).await;
        assert!(matches!(early, Err(PersistError::Fenced(_))), "{early:?}");
        let new = batch(0, [upload(0, 1, 2, 2, 1)]);
        let waiting = tokio::spawn(async move { persister.persist(new).await });
        fixture.until_a_lock_is_waited_for().await;
        sqlx::raw_sql(if commits { "COMMIT" } else { "ROLLBACK" }).execute(&mut other).await.unwrap();
        let result = waiting.await.unwrap();
        if commits {
            assert!(
                matches!(&result, Err(PersistError::Fenced(partitions)) if partitions == &[Partition(0)]),
                "{result:?}"
            );
        } else {
            assert_eq!(facts(&result.unwrap()), [true]);
            fixture.put_back(1).await;
        }
    }
    assert_eq!(fixture.count("idempotency_keys").await, 1);
}

#[tokio::test]
async fn records_below_the_progress_are_recalled_and_not_written_again() {
    let mut fixture = Fixture::new().await;
    let records = || [upload(0, 0, 1, 1, 2), upload(0, 1, 1, 1, 2), upload(0, 2, 1, 9, 1), poison(3)];
    let first = fixture.persister(1000).persist(batch(0, records())).await.unwrap();
    let before = fixture.rows().await;

    let again = fixture.persister(1000).persist(batch(4, records())).await.unwrap();
    assert_eq!(fixture.rows().await, before);
    assert_eq!(facts(&again), facts(&first));
    for (first, again) in first.emissions.iter().zip(&again.emissions) {
        assert_eq!(
            first.answer.as_ref().map(|answered| &answered.state),
            again.answer.as_ref().map(|answered| &answered.state)
        );
    }

    // Half persisted already, half new.
    let mixed = records().into_iter().chain([upload(0, 4, 4, 4, 1)]);
    let mixed = fixture.persister(1000).persist(batch(4, mixed)).await.unwrap();
    assert_eq!(facts(&mixed), [true, false, false, false, true]);
    assert_eq!(fixture.next_offset(0).await, 5);
}

#[tokio::test]
async fn what_is_only_emitted_again_meets_the_fence_when_the_table_was_put_back() {
    let mut fixture = Fixture::new().await;
    let records = || [upload(0, 0, 1, 1, 2), upload(0, 1, 2, 2, 1)];
    fixture.persister(1000).persist(batch(0, records())).await.unwrap();
    fixture.put_back(1).await;

    let again = fixture.persister(1000).persist(batch(2, records())).await;
    assert!(
        matches!(&again, Err(PersistError::Fenced(partitions)) if partitions == &[Partition(0)]),
        "{again:?}"
    );
    let covered = fixture.persister(1000).persist(batch(2, [upload(0, 0, 1, 1, 2)])).await.unwrap();
    assert_eq!(facts(&covered), [true]);
    let healed = fixture.persister(1000).persist(batch(1, records())).await.unwrap();
    assert_eq!(facts(&healed), [true, true]);
}

#[tokio::test]
async fn a_key_is_free_when_its_window_is_over_and_both_windows_are_remembered() {
    let mut fixture = Fixture::new().await;
    let mut persister = fixture.persister(1000);
    persister.persist(batch(0, [upload(0, 0, 1, 1, 1)])).await.unwrap();
    let in_its_last_second = batch(0, (1..3600).map(|offset| upload(0, offset, 1, 1, 1)));
    let persisted = persister.persist(in_its_last_second).await.unwrap();
    assert!(facts(&persisted).iter().all(|fact| !fact));
    let persisted = persister.persist(batch(0, [upload(0, 3600, 1, 2, 1)])).await.unwrap();
    assert_eq!(facts(&persisted), [true]);
    assert_eq!(fixture.count("idempotency_keys").await, 2);

    // Recalled by any row of the key, not only the newest.
    let again = batch(3601, [upload(0, 0, 1, 1, 1), upload(0, 1, 1, 1, 1), upload(0, 3600, 1, 2, 1)]);
    let again = persister.persist(again).await.unwrap();
    assert_eq!(facts(&again), [true, false, true]);
}

#[tokio::test]
async fn poison_and_unknown_accounts_go_to_dead_letters_with_their_reason_and_a_long_run_stops() {
    let mut fixture = Fixture::new().await;
    let mut persister = fixture.persister(1000);
    let records = [poison(0), stranger(1, AccountId(Uuid::from_u128(8))), upload(0, 2, 1, 1, 1)];
    let persisted = persister.persist(batch(0, records)).await.unwrap();
    assert_eq!(facts(&persisted), [false, false, true]);
    let reasons: Vec<String> = sqlx::query_scalar("SELECT reason FROM dead_letters ORDER BY \"offset\"")
        .fetch_all(&mut fixture.connection)
        .await
        .unwrap();
    assert_eq!(reasons, ["not JSON", "unknown account"]);

    let run = persister.persist(batch(0, (3..9).map(poison))).await.unwrap();
    let stopped = run.poison_run.unwrap();
    assert_eq!((stopped.partition, stopped.offset), (Partition(0), Offset(6)));
    assert_eq!(fixture.next_offset(0).await, 6);
    assert_eq!(fixture.count("dead_letters").await, 5);

    // A restart does not drain another three.
    let mut restarted = fixture.persister(1000);
    let length =
        progress::poison_run(&mut fixture.connection, TOPIC, Partition(0), NextOffset(6), 3).await.unwrap();
    restarted.resume_run(Partition(0), length);
    let result = restarted.persist(batch(6, (6..9).map(poison))).await;
    assert!(matches!(result, Err(PersistError::PoisonRun(_))), "{result:?}");
    assert_eq!(fixture.next_offset(0).await, 6);
}

#[tokio::test]
async fn a_point_set_aside_claims_its_key_and_leaves_a_dead_letter_and_no_location_device_or_fact() {
    let mut fixture = Fixture::new().await;
    let mut persister = fixture.persister(1);
    let persisted = persister.persist(batch(0, [set_aside(0, 1, b"{\"lat\":91}")])).await.unwrap();
    let answered = persisted.emissions[0].answer.as_ref().unwrap();
    assert_eq!((answered.key_hash, answered.fact.is_none()), (KeyHash([1; 32]), true));
    assert_eq!(&answered.state.body[..], br#"{"success":true,"processedCount":0}"#);
    assert!(answered.state.is_sound());
    let counts = async |fixture: &mut Fixture| {
        let mut counts = [0; 4];
        for (count, table) in
            counts.iter_mut().zip(["dead_letters", "idempotency_keys", "locations", "devices"])
        {
            *count = fixture.count(table).await;
        }
        counts
    };
    assert_eq!(counts(&mut fixture).await, [1, 1, 0, 0]);
    let letter: (i64, Vec<u8>, Vec<u8>, String) =
        sqlx::query_as("SELECT \"offset\", record_key, record_value, reason FROM dead_letters")
            .fetch_one(&mut fixture.connection)
            .await
            .unwrap();
    let (key, raw) = (KeyHash([1; 32]).to_string().into_bytes(), br#"{"lat":91}"#.to_vec());
    assert_eq!(letter, (0, key, raw, "owntracks: latitude-out-of-range (lat)".to_owned()));

    // A copy, a conflict, and an upload under its key; in its batch and in another one.
    let behind = [set_aside(1, 1, b"{\"lat\":91}"), set_aside(2, 1, b"{}"), upload(0, 3, 1, 1, 2)];
    let twice = [set_aside(4, 2, b"?"), set_aside(5, 2, b"?"), upload(0, 6, 3, 3, 2), set_aside(7, 3, b"?")];
    let persisted = persister.persist(batch(0, behind.into_iter().chain(twice))).await.unwrap();
    assert_eq!(facts(&persisted), [false, false, false, false, false, true, false]);
    assert!(persisted.emissions.iter().all(|emission| emission.answer.is_some()));
    assert_eq!(counts(&mut fixture).await, [2, 3, 2, 1]);

    // When its window is over it is another one.
    let mut late = set_aside(8, 1, b"{\"lat\":91}");
    late.time = JournalTime(START_MS).plus(TTL);
    persister.persist(batch(0, [late])).await.unwrap();
    assert_eq!(counts(&mut fixture).await, [3, 4, 2, 1]);
}

#[tokio::test]
async fn a_point_set_aside_that_was_committed_and_not_emitted_is_emitted_again_and_is_no_second_dead_letter()
{
    let mut fixture = Fixture::new().await;
    let records = || [set_aside(0, 1, b"?"), set_aside(1, 1, b"?"), upload(0, 2, 2, 2, 1)];
    let first = fixture.persister(1000).persist(batch(0, records())).await.unwrap();
    let before = fixture.rows().await;
    let again = fixture.persister(1000).persist(batch(3, records())).await.unwrap();
    let answered = |persisted: &Persisted| {
        let answer = |emission: &Emission| emission.answer.as_ref().unwrap().state.clone();
        persisted.emissions.iter().map(answer).collect::<Vec<_>>()
    };
    assert_eq!((answered(&again), facts(&again)), (answered(&first), vec![false, false, true]));
    assert_eq!(fixture.rows().await, before);

    // And if the progress alone was put back.
    progress::place(&mut fixture.connection, TOPIC, Partition(0), NextOffset::START, true).await.unwrap();
    persist(&mut fixture.persister(1000), batch(0, records())).await.unwrap();
    assert_eq!(fixture.count("dead_letters").await, 1);
}

#[tokio::test]
async fn points_set_aside_are_no_run_of_poison_and_end_one() {
    let mut fixture = Fixture::new().await;
    let mut persister = fixture.persister(1000);
    let many = (0..10).map(|key| set_aside(key.into(), key, b"?"));
    let persisted = persister.persist(batch(0, many)).await.unwrap();
    assert_eq!((persisted.poison_run, fixture.count("dead_letters").await), (None, 10));
    let run = async |fixture: &mut Fixture, next_offset| {
        progress::poison_run(&mut fixture.connection, TOPIC, Partition(0), NextOffset(next_offset), 9)
            .await
            .unwrap()
    };
    assert_eq!(run(&mut fixture, 10).await, 0);

    let between = [poison(10), poison(11), poison(12), set_aside(13, 13, b"?"), poison(14), poison(15)];
    let persisted = persister.persist(batch(0, between)).await.unwrap();
    assert_eq!((persisted.poison_run, fixture.next_offset(0).await), (None, 16));
    assert_eq!(run(&mut fixture, 16).await, 2);
}

#[tokio::test]
async fn a_point_set_aside_of_an_unknown_account_is_a_dead_letter_as_an_upload_of_it_is() {
    let mut fixture = Fixture::new().await;
    let mut record = set_aside(0, 1, b"?");
    if let Content::Good(good) = &mut record.content {
        good.account = AccountId(Uuid::from_u128(8));
    }
    record.stranger =
        Some(Box::new(Poison::new("unknown account".to_owned(), Some(b"own key"), Some(b"own bytes"))));
    let persisted = persist(&mut fixture.persister(1000), batch(0, [record])).await.unwrap();
    assert!(persisted.emissions[0].answer.is_none());
    let letter: (Vec<u8>, String) = sqlx::query_as("SELECT record_value, reason FROM dead_letters")
        .fetch_one(&mut fixture.connection)
        .await
        .unwrap();
    assert_eq!(letter, (b"own bytes".to_vec(), "unknown account".to_owned()));
    assert_eq!(fixture.count("idempotency_keys").await, 0);
}

/// Persists a batch and whatever is cut off it. Returns the facts in order, and the sizes of the transactions.
async fn persist_in_pieces(persister: &mut Persister, whole: Batch) -> (Vec<Position>, Vec<usize>) {
    let (mut positions, mut sizes, mut pieces) = (Vec::new(), Vec::new(), vec![whole]);
    while let Some(piece) = pieces.pop() {
        let persisted = persister.persist(piece).await.unwrap();
        sizes.push(persisted.emissions.len());
        positions.extend(persisted.emissions.iter().map(|emission| emission.position));
        pieces.extend(persisted.rest);
    }
    (positions, sizes)
}

#[tokio::test]
async fn a_batch_too_large_for_the_time_it_may_take_is_cut_until_its_pieces_are_small_enough() {
    let mut fixture = Fixture::new().await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN PERFORM pg_sleep(0.05); RETURN NEW; END $$; \
        CREATE TRIGGER slow BEFORE INSERT ON devices FOR EACH ROW EXECUTE FUNCTION slow()";
    sqlx::raw_sql(slow).execute(&mut fixture.connection).await.unwrap();
    let mut persister = fixture.persister(1000);
    persister.connections = fixture.bounded("statement_timeout", "500ms");
    let records = || {
        let two = |i: u8| [upload(0, i64::from(i), i, i, 1), upload(1, i64::from(i), 100 + i, 100 + i, 1)];
        (0..16_u8).flat_map(two)
    };
    let whole = batch(0, records());
    let deadline = Duration::from_secs(60);
    let (positions, sizes) = tokio::time::timeout(deadline, persist_in_pieces(&mut persister, whole))
        .await
        .expect("it is retried forever");
    assert_eq!(positions, records().map(|record| record.position).collect::<Vec<_>>());
    assert!(sizes.len() > 2 && sizes.iter().all(|size| *size <= 16), "{sizes:?}");
    assert_eq!((fixture.next_offset(0).await, fixture.next_offset(1).await), (16, 16));
    assert_eq!((fixture.count("locations").await, fixture.count("idempotency_keys").await), (32, 32));
}

#[tokio::test]
async fn one_record_whose_device_is_locked_does_not_keep_those_before_it_and_is_tried_until_it_is_free() {
    let mut fixture = Fixture::new().await;
    fixture.persister(1000).persist(batch(0, [upload(0, 0, 0, 7, 1)])).await.unwrap();
    let mut other = fixture.database.connect(Role::Owner).await;
    sqlx::raw_sql("BEGIN; SELECT FROM devices WHERE device = 'device-7' FOR UPDATE")
        .execute(&mut other)
        .await
        .unwrap();
    let mut persister = fixture.persister(1000);
    persister.connections = fixture.bounded("lock_timeout", "200ms");
    let records = (1..9_u8).map(|i| upload(0, i64::from(i), i, i, 1));
    let whole = batch(0, records);
    let persisting = tokio::spawn(async move { persist_in_pieces(&mut persister, whole).await });
    let persisted = eventually(PATIENCE, "those before it are persisted", async || {
        Ok((fixture.next_offset(0).await >= 7).then_some(()))
    });
    persisted.await.unwrap();
    fixture.until_a_lock_is_waited_for().await;
    assert_eq!(fixture.next_offset(0).await, 7);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    let (positions, _) = persisting.await.unwrap();
    assert_eq!(
        positions.iter().map(|position| position.offset.0).collect::<Vec<_>>(),
        (1..9).collect::<Vec<_>>()
    );
    assert_eq!(fixture.count("idempotency_keys").await, 9);
}

#[tokio::test]
async fn poison_in_a_batch_that_is_cut_is_counted_once_and_its_run_still_stops() {
    let mut fixture = Fixture::new().await;
    fixture.persister(1000).persist(batch(0, [upload(0, 0, 0, 7, 1)])).await.unwrap();
    let mut other = fixture.database.connect(Role::Owner).await;
    sqlx::raw_sql("BEGIN; SELECT FROM devices WHERE device = 'device-7' FOR UPDATE")
        .execute(&mut other)
        .await
        .unwrap();
    let mut persister = fixture.persister(1000);
    persister.connections = fixture.bounded("lock_timeout", "200ms");
    // Two, which is allowed, and after a good one four, which is one more than that.
    let records = [poison(1), poison(2), upload(0, 3, 3, 3, 1), upload(0, 4, 4, 7, 1)];
    let whole = batch(0, records.into_iter().chain((5..9).map(poison)));
    let mut first = persister.persist(whole).await.unwrap();
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(first.poison_run, None);
    let (mut stopped, mut pieces) = (None, std::mem::take(&mut first.rest));
    assert!(!pieces.is_empty(), "it was not cut");
    while let Some(piece) = pieces.pop() {
        let persisted = persister.persist(piece).await.unwrap();
        stopped = stopped.or(persisted.poison_run);
        pieces.extend(persisted.rest);
    }
    let stopped = stopped.expect("the run is forgotten");
    assert_eq!((stopped.partition, stopped.offset), (Partition(0), Offset(8)));
    assert_eq!((fixture.next_offset(0).await, fixture.count("dead_letters").await), (8, 5));
}

#[tokio::test]
async fn a_batch_behind_a_hole_in_the_journal_meets_the_progress_where_it_was_left() {
    let mut fixture = Fixture::new().await;
    let mut persister = fixture.persister(1000);
    persister.persist(batch(0, [upload(0, 0, 1, 1, 1), poison(1)])).await.unwrap();
    // Offset 2 is the mark of a transaction.
    let mut behind = Batch::default();
    behind.push(
        poison(3),
        100,
        Assigned { generation: 1, persisted_below: NextOffset(0), expected: NextOffset(2) },
    );
    persister.persist(behind).await.unwrap();
    assert_eq!(fixture.next_offset(0).await, 4);
    let run =
        progress::poison_run(&mut fixture.connection, TOPIC, Partition(0), NextOffset(4), 9).await.unwrap();
    assert_eq!(run, 2, "the mark does not end a run of poison records");
    let run =
        progress::poison_run(&mut fixture.connection, TOPIC, Partition(0), NextOffset(5), 9).await.unwrap();
    assert_eq!(run, 0, "the record just before the progress does");
}

#[tokio::test]
async fn a_dead_letter_that_is_there_already_stays_and_its_batch_goes_on() {
    let mut fixture = Fixture::new().await;
    let records = || [upload(0, 0, 1, 1, 1), poison(1), poison(2), upload(0, 3, 2, 2, 1)];
    persist(&mut fixture.persister(1000), batch(0, records())).await.unwrap();
    let before = fixture.rows().await;
    // Behind the upload: its row stands for it.
    progress::place(&mut fixture.connection, TOPIC, Partition(0), NextOffset(1), true).await.unwrap();
    let again = persist(&mut fixture.persister(1000), batch(1, records())).await.unwrap();
    assert_eq!(facts(&again), [true, false, false, false]);
    assert_eq!((fixture.next_offset(0).await, fixture.count("dead_letters").await), (4, 2));
    let letters = |rows: Vec<String>| rows.into_iter().filter(|row| row.contains("record_value")).collect();
    let (before, after): (Vec<String>, Vec<String>) = (letters(before), letters(fixture.rows().await));
    assert_eq!((before.len(), before), (2, after));
}

#[tokio::test]
async fn a_dead_letter_of_a_rewound_journal_is_stored_beside_the_one_before_it_and_belongs_to_no_run_of_that()
{
    let mut fixture = Fixture::new().await;
    persist(&mut fixture.persister(1000), batch(0, [poison(0), poison(1), poison(2)])).await.unwrap();
    progress::place(&mut fixture.connection, TOPIC, Partition(0), NextOffset(0), true).await.unwrap();
    let hour_later = |mut record: Record| {
        record.time = record.time.plus(Duration::from_secs(3600));
        record
    };
    let rewound = [poison(0), upload(0, 1, 1, 1, 1), upload(0, 2, 2, 2, 1)].map(hour_later);
    persist(&mut fixture.persister(1000), batch(0, rewound)).await.unwrap();
    assert_eq!(fixture.count("dead_letters").await, 4);
    let run =
        progress::poison_run(&mut fixture.connection, TOPIC, Partition(0), NextOffset(3), 9).await.unwrap();
    assert_eq!(run, 0, "those just below the progress are of the journal before");
    persist(&mut fixture.persister(1000), batch(3, [hour_later(poison(3))])).await.unwrap();
    assert!(
        progress::poison_run(&mut fixture.connection, TOPIC, Partition(0), NextOffset(4), 9).await.unwrap()
            > 0
    );
}

#[tokio::test]
async fn a_dead_letter_as_large_as_decoding_leaves_it_is_stored() {
    use milepost_shared::store::batch::DEAD_LETTER_BYTES_MAX;
    let mut fixture = Fixture::new().await;
    let endless = vec![0; DEAD_LETTER_BYTES_MAX + 1];
    let letter = Poison::new("why".to_owned(), Some(&endless), Some(&endless));
    persist(&mut fixture.persister(1000), batch(0, [record(0, 0, Content::Poison(letter))])).await.unwrap();
    let (bytes, reason): (i32, String) = sqlx::query_as(
        "SELECT octet_length(record_key) + octet_length(record_value), reason FROM dead_letters",
    )
    .fetch_one(&mut fixture.connection)
    .await
    .unwrap();
    assert_eq!(usize::try_from(bytes).unwrap(), 2 * DEAD_LETTER_BYTES_MAX);
    assert!(reason.contains("is truncated to"), "{reason}");
}

#[tokio::test]
async fn an_upload_is_stored_whatever_time_a_broker_with_a_wrong_clock_has_stamped() {
    let mut fixture = Fixture::new().await;
    let mut persister = fixture.persister(1000);
    for (key, time) in [(0, START_MS), (1, 0), (2, START_MS + 31_536_000_000), (3, 221_845_392_000_000)] {
        let mut record = upload(0, i64::from(key), key, 1, 1);
        record.time = JournalTime(time);
        let persisting = persister.persist(batch(0, [record]));
        tokio::time::timeout(Duration::from_secs(60), persisting).await.expect("it is refused").unwrap();
    }
    assert_eq!((fixture.count("locations").await, fixture.count("idempotency_keys").await), (4, 4));
}

#[tokio::test]
async fn poison_of_whatever_time_makes_no_table_partition() {
    let mut fixture = Fixture::new().await;
    let mut untimed = poison(0);
    untimed.time = JournalTime(0);
    persist(&mut fixture.persister(1000), batch(0, [untimed])).await.unwrap();
    assert_eq!((fixture.count("dead_letters").await, fixture.count("table_partitions").await), (1, 0));
}

#[tokio::test]
async fn an_account_that_comes_while_its_upload_waits_for_it_is_no_stranger() {
    let mut fixture = Fixture::new().await;
    let mut persister = fixture.patient_persister(1000, Duration::from_secs(60));
    let account = Account {
        id: AccountId(Uuid::from_u128(8)),
        name: "late".to_owned(),
        created_at: OffsetDateTime::UNIX_EPOCH,
    };
    let new = batch(0, [stranger(0, account.id)]);
    let waiting = tokio::spawn(async move { persist(&mut persister, new).await });
    let asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle' \
        AND query LIKE '%FROM accounts WHERE%'";
    fixture.until_some(asked, "somebody looks the account up").await;
    assert!(accounts::create_account(&mut fixture.connection, &account).await.unwrap());
    assert_eq!(facts(&waiting.await.unwrap().unwrap()), [true]);
    assert_eq!(fixture.count("dead_letters").await, 0);
}

#[tokio::test]
async fn an_upload_that_has_waited_for_its_account_in_vain_is_a_dead_letter_of_its_own_bytes() {
    let mut fixture = Fixture::new().await;
    let mut persister = fixture.patient_persister(1000, Duration::from_millis(200));
    let begun = Instant::now();
    let records = [upload(0, 0, 2, 2, 1), stranger(1, AccountId(Uuid::from_u128(8))), upload(0, 2, 3, 3, 1)];
    let persisted = persist(&mut persister, batch(0, records)).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_eq!(facts(&persisted), [true, false, true]);
    let letter: (Vec<u8>, Vec<u8>, String) =
        sqlx::query_as("SELECT record_key, record_value, reason FROM dead_letters")
            .fetch_one(&mut fixture.connection)
            .await
            .unwrap();
    assert_eq!(letter, (b"own key".to_vec(), b"own bytes".to_vec(), "unknown account".to_owned()));
}

#[tokio::test]
async fn a_database_that_has_lost_an_account_ends_the_session_instead_of_refusing_forever() {
    let mut fixture = Fixture::new().await;
    let mut persister = fixture.persister(1000);
    // Known, since it was asked for; no row refers to it yet.
    persist(&mut persister, batch(0, [upload(0, 0, 1, 1, 1)])).await.unwrap();
    sqlx::raw_sql("TRUNCATE devices").execute(&mut fixture.connection).await.unwrap();
    sqlx::raw_sql("DELETE FROM accounts").execute(&mut fixture.connection).await.unwrap();
    let result = persist(&mut persister, batch(0, [upload(0, 1, 2, 2, 1)])).await;
    assert!(matches!(result, Err(PersistError::AccountLost)), "{result:?}");
    assert!(crate::session::SessionError::from(PersistError::AccountLost).heals());
    assert_eq!(fixture.next_offset(0).await, 1);
}

#[tokio::test]
async fn a_row_that_no_consumer_writes_stops_the_partition_of_its_key_and_no_other() {
    for odd in ["response_status = 101", "expires_at = 'infinity'", "source_offset = -1"] {
        let mut fixture = Fixture::new().await;
        persist(&mut fixture.persister(1000), batch(0, [upload(0, 0, 1, 1, 1)])).await.unwrap();
        let (expires_at, spoil): (OffsetDateTime, _) = (
            sqlx::query_scalar("SELECT expires_at FROM idempotency_keys")
                .fetch_one(&mut fixture.connection)
                .await
                .unwrap(),
            format!("UPDATE idempotency_keys SET {odd}"),
        );
        sqlx::query(&spoil).execute(&mut fixture.connection).await.unwrap();
        let of_partition_0 = || [upload(0, 1, 2, 2, 1), upload(0, 2, 1, 1, 1), upload(0, 3, 3, 3, 1)];
        let new = of_partition_0().into_iter().chain([upload(1, 0, 4, 4, 1)]);
        let mut persister = fixture.persister(1000);
        let persisted = persist(&mut persister, batch(0, new)).await.unwrap();
        assert_eq!(facts(&persisted), [true, true], "{odd}");
        assert_eq!((fixture.next_offset(0).await, fixture.next_offset(1).await), (2, 1));
        let positions: Vec<Position> =
            persister.stopped.unreported().into_iter().map(|stop| stop.position).collect();
        assert_eq!(positions, [Position::new(0, 2)], "{odd}");
        // Nothing but such records is nothing to do.
        let left = || batch(2, of_partition_0().into_iter().skip(1));
        assert!(persist(&mut fixture.persister(1000), left()).await.unwrap().emissions.is_empty());
        // But what else was cut off is not forgotten.
        let mut with_run = left();
        with_run.push(
            poison_of(1, 1),
            100,
            Assigned { generation: 1, persisted_below: NextOffset(1), expected: NextOffset(1) },
        );
        let mut persister = fixture.persister(1000);
        persister.resume_run(Partition(1), 1000);
        let stopped = persist(&mut persister, with_run).await;
        assert!(matches!(
            stopped,
            Err(PersistError::PoisonRun(PoisonRun { partition: Partition(1), offset: Offset(1), .. }))
        ));

        let repair = "UPDATE idempotency_keys SET response_status = 200, source_offset = 0, expires_at = $1 \
            WHERE source_partition = 0 AND source_offset < 1";
        sqlx::query(repair).bind(expires_at).execute(&mut fixture.connection).await.unwrap();
        let repaired = persist(&mut fixture.persister(1000), left()).await.unwrap();
        assert_eq!(facts(&repaired), [false, true], "{odd}");
    }
}

#[tokio::test]
async fn a_device_ends_where_it_was_last_whatever_the_order() {
    let mut ends = Vec::new();
    for order in [[0, 1], [1, 0]] {
        let mut fixture = Fixture::new().await;
        let mut persister = fixture.persister(1000);
        for (offset, which) in (0..).zip(order) {
            let mut record = upload(which, 0, u8::try_from(offset).unwrap(), 1, 2 + i64::from(which));
            record.time = JournalTime(START_MS + i64::from(which));
            persister.persist(batch(0, [record])).await.unwrap();
        }
        let end: (OffsetDateTime, OffsetDateTime) =
            sqlx::query_as("SELECT last_seen_at, last_captured_at FROM devices")
                .fetch_one(&mut fixture.connection)
                .await
                .unwrap();
        ends.push((JournalTime::from_datetime(end.0), JournalTime::from_datetime(end.1)));
    }
    assert_eq!(ends, [(JournalTime(START_MS + 1), JournalTime(2000)); 2]);
}

/// Where a device was last, after uploads of one fix: by their journal times and the fixes' times, in minutes.
async fn last_after(fixture: &mut Fixture, fixes: &[(i64, i64)]) -> (Option<i64>, f64) {
    let mut persister = fixture.persister(1000);
    let start = fixture.next_offset(0).await;
    for (offset, (received, captured)) in (start..).zip(fixes) {
        let mut record = upload(0, offset, u8::try_from(offset).unwrap(), 1, 1);
        record.time = JournalTime(START_MS + 60_000 * received);
        let Content::Good(good) = &mut record.content else { unreachable!() };
        let Payload::Upload(upload) = &mut good.payload else { unreachable!() };
        upload.locations[0].timestamp = START_MS + 60_000 * captured;
        upload.locations[0].latitude = f64::from(i32::try_from(*captured).unwrap()) / 1e6;
        persister.persist(batch(0, [record])).await.unwrap();
    }
    let statement = "SELECT floor(extract(epoch FROM nullif(last_captured_at, '-infinity')) * 1000)::bigint, \
        last_latitude * 1e6 FROM devices";
    let (captured, latitude): (Option<i64>, f64) =
        sqlx::query_as(statement).fetch_one(&mut fixture.connection).await.unwrap();
    (captured.map(|captured| (captured - START_MS) / 60_000), latitude.round())
}

#[tokio::test]
async fn a_fix_ahead_of_its_upload_is_not_where_a_device_was_last() {
    let year = 365 * 24 * 60;
    // Five minutes are no more than clocks differ by.
    for (fixes, last) in [
        (&[(0, 5)][..], 5),
        (&[(0, year), (1, 1)], 1),
        (&[(0, 0), (1, year), (2, year + 1)], 0),
        // A backlog is older than what was ahead, and true.
        (&[(0, year), (2 * year, year / 2)], year / 2),
        (&[(2 * year, year / 2), (2 * year, 3 * year)], year / 2),
    ] {
        let known = last_after(&mut Fixture::new().await, fixes).await;
        let minutes = f64::from(i32::try_from(last).unwrap());
        assert_eq!(known, (Some(last), minutes), "{fixes:?}");
    }
    let (captured, latitude) = last_after(&mut Fixture::new().await, &[(0, 6), (9, year)]).await;
    assert!(captured.is_none() && latitude.is_nan(), "{captured:?} {latitude}");
}

#[tokio::test]
async fn a_last_fix_that_an_earlier_build_took_though_it_was_ahead_gives_way_to_a_true_one() {
    let mut fixture = Fixture::new().await;
    last_after(&mut fixture, &[(0, 0)]).await;
    let ahead = "UPDATE devices SET last_captured_at = last_seen_at + interval '1 year', last_latitude = 1";
    sqlx::raw_sql(ahead).execute(&mut fixture.connection).await.unwrap();
    assert_eq!(last_after(&mut fixture, &[(3, 2)]).await, (Some(2), 2.0));
}

#[tokio::test]
async fn a_partition_that_was_dropped_meanwhile_is_made_again() {
    let mut fixture = Fixture::new().await;
    let mut persister = fixture.persister(1000);
    persister.persist(batch(0, [upload(0, 0, 1, 1, 1)])).await.unwrap();
    for part in partitions::key_partitions(&mut fixture.connection).await.unwrap() {
        for outcome in [Expiry::Detached, Expiry::NotNow] {
            let expired =
                partitions::expire(&mut fixture.connection, &part.name, TOPIC, &[Partition(0), Partition(1)])
                    .await;
            assert_eq!(expired.unwrap(), outcome);
        }
    }
    persister.persist(batch(0, [upload(0, 1, 2, 1, 1)])).await.unwrap();
    assert_eq!(fixture.count("idempotency_keys").await, 1);
    assert_eq!(partitions::drop_detached(&mut fixture.connection).await.unwrap(), 1);
}

#[tokio::test]
async fn table_partitions_of_a_changed_width_never_overlap_and_are_kept_longer_when_asked() {
    let mut fixture = Fixture::new().await;
    let connection = &mut fixture.connection;
    let hour = Duration::from_secs(3600);
    let day_ms = 86_400_000;
    let at = |hours: i64| JournalTime(START_MS / day_ms * day_ms + hours * 3_600_000);
    let mut ensure = async |moment, width| {
        partitions::set_ttl(connection, width).await.unwrap();
        partitions::ensure(connection, Partitioned::Keys, moment, width).await.unwrap()
    };
    let narrow = ensure(at(10), hour).await;
    assert_eq!((narrow.start, narrow.end), (at(10), at(11)));
    let wide = ensure(at(12), 24 * hour).await;
    assert_eq!((wide.start, wide.end), (at(11), at(24)));
    let before = ensure(at(3), 24 * hour).await;
    assert_eq!((before.start, before.end), (at(0), at(10)));
    assert_eq!(ensure(at(10), 24 * hour).await, narrow);
    let kept: Vec<JournalTime> = partitions::key_partitions(&mut fixture.connection)
        .await
        .unwrap()
        .iter()
        .map(|partition| partition.keep_until)
        .collect();
    assert_eq!(kept, [at(34), at(35), at(48)]);
}
