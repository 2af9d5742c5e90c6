//! The statements of a batch's transaction, in their order: the fence, which also reads the keys, then keys and devices,
//! locations, and dead letters. Every upload of the batch waits for each round trip, so what can be one statement is
//! one (decision 10).
//!
//! Two transactions never wait for each other in a circle: devices go in sorted, and equal keys are of one journal partition,
//! which the fence gives to one transaction at a time. Keys are sorted for their index.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use time::OffsetDateTime;

use crate::journal::account::AccountId;
use crate::journal::answer::KeyState;
use crate::journal::clock::JournalTime;
use crate::journal::key::KeyHash;
use crate::journal::position::{NextOffset, Partition, Position};
use crate::location::Location;
use crate::location::fields::{NUMBERS, TEXTS};
use crate::location::fingerprint::Fingerprint;

/// Reads one row of `idempotency_keys`.
///
/// # Errors
/// [`sqlx::Error::Decode`] for values that no build writes.
pub(crate) fn key_row(row: &PgRow) -> sqlx::Result<(KeyHash, KeyState)> {
    let body: &[u8] = row.try_get("response_body")?;
    let status: i16 = row.try_get("response_status")?;
    let state = KeyState {
        account: row.try_get("account_id")?,
        fingerprint: Fingerprint(hash(row, "fingerprint")?),
        status: u16::try_from(status).map_err(|error| sqlx::Error::Decode(error.into()))?,
        body: Bytes::copy_from_slice(body),
        accepted_at: moment(row, "accepted_at")?,
        expires_at: moment(row, "expires_at")?,
        source: Position {
            partition: row.try_get("source_partition")?,
            offset: row.try_get("source_offset")?,
        },
    };
    if !state.is_sound() {
        return Err(sqlx::Error::Decode("an answer that no consumer writes".into()));
    }
    Ok((KeyHash(hash(row, "key_hash")?), state))
}

fn hash(row: &PgRow, column: &str) -> sqlx::Result<[u8; 32]> {
    let bytes: &[u8] = row.try_get(column)?;
    bytes.try_into().map_err(|_| sqlx::Error::Decode(format!("{column} is not 32 bytes").into()))
}

/// Years beyond 9999, and infinity, make `OffsetDateTime` panic: they are read as a limit that no answer has.
fn moment(row: &PgRow, column: &str) -> sqlx::Result<JournalTime> {
    /// The year 2000, from which Postgres counts microseconds.
    const EPOCH_MS: i64 = 946_684_800_000;
    let value = row.try_get_raw(column)?;
    let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
    let bytes = bytes.try_into().map_err(|_| sqlx::Error::Decode("not a moment in binary form".into()))?;
    Ok(JournalTime(i64::from_be_bytes(bytes).div_euclid(1000).saturating_add(EPOCH_MS)))
}

/// One step of the fence: a partition moves from `expected` to `next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// Partition of the journal.
    pub partition: Partition,
    /// What `next_offset` must be.
    pub expected: NextOffset,
    /// What it becomes.
    pub next: NextOffset,
    /// Greatest journal time in between.
    pub time: JournalTime,
}

/// What [`fence`] has found.
#[derive(Debug)]
pub struct Fence {
    /// The partitions whose progress was not the expected one. If there are any, the transaction must roll back.
    pub refused: Vec<Partition>,
    /// Every row of the keys, all windows that are still in the table.
    pub windows: Vec<(KeyHash, KeyState)>,
    /// The keys with a row that no build writes: what they stand for is unknown.
    pub unreadable: Vec<KeyHash>,
}

/// The fence: compares and sets the progress of all partitions of a batch, and so locks them until the transaction ends.
/// Reads the rows of the batch's keys as well.
///
/// Both see one snapshot, which is taken before the locks are. That is early enough: a partition is moved only if the
/// snapshot, and then its row as locked, have the expected offset; and whoever committed that offset committed its keys
/// with it. (An operator could set a partition back in between; that is for stopped consumers only.)
///
/// # Errors
/// The database refuses.
pub async fn fence(
    connection: &mut PgConnection,
    topic: &str,
    advances: &[Advance],
    keys: &[KeyHash],
) -> sqlx::Result<Fence> {
    let rows = sqlx::query(
        "WITH moved AS ( \
           UPDATE partition_progress p SET next_offset = a.next, log_time = greatest(p.log_time, a.log_time) \
           FROM unnest($2::int[], $3::bigint[], $4::bigint[], $5::timestamptz[]) \
                AS a (partition, expected, next, log_time) \
           WHERE p.topic = $1 AND p.partition = a.partition AND p.next_offset = a.expected \
           RETURNING p.partition) \
         SELECT key_hash, account_id, fingerprint, response_status, response_body, accepted_at, expires_at, \
                source_partition, source_offset, NULL AS moved FROM idempotency_keys WHERE key_hash = ANY($6) \
         UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, partition FROM moved",
    )
    .bind(topic)
    .bind(advances.iter().map(|advance| advance.partition).collect::<Vec<_>>())
    .bind(advances.iter().map(|advance| advance.expected).collect::<Vec<_>>())
    .bind(advances.iter().map(|advance| advance.next).collect::<Vec<_>>())
    .bind(advances.iter().map(|advance| advance.time.to_datetime()).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| &key.0[..]).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let mut moved: HashSet<Partition> = HashSet::new();
    let (mut windows, mut unreadable) = (Vec::new(), Vec::new());
    for row in &rows {
        match row.try_get("moved")? {
            Some(partition) => drop(moved.insert(partition)),
            None => match key_row(row) {
                Ok(window) => windows.push(window),
                Err(sqlx::Error::Decode(_)) => unreadable.push(KeyHash(hash(row, "key_hash")?)),
                Err(other) => return Err(other),
            },
        }
    }
    let refused = advances.iter().map(|advance| advance.partition).filter(|p| !moved.contains(p)).collect();
    Ok(Fence { refused, windows, unreadable })
}

/// Which of the accounts exist.
///
/// # Errors
/// The database cannot be asked.
pub async fn known_accounts(
    connection: &mut PgConnection,
    accounts: &[AccountId],
) -> sqlx::Result<HashSet<AccountId>> {
    let known: Vec<AccountId> = sqlx::query_scalar("SELECT id FROM accounts WHERE id = ANY($1)")
        .bind(accounts)
        .fetch_all(connection)
        .await?;
    Ok(known.into_iter().collect())
}

/// A device as the client names it, within an account.
pub type DeviceName<'a> = (AccountId, &'a str);

/// How far a fix may be ahead of its upload's journal time and still be where a device was last: clocks differ by minutes, and
/// the fix of a phone that is a year ahead would stay the last one for a year.
pub const FIX_AHEAD_MAX: Duration = Duration::from_secs(300);

/// A device's last sighting in a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sighting {
    /// Journal time of its newest upload.
    pub seen_at: JournalTime,
    /// (Captured time, latitude, longitude) of the greatest such triple, so that order does not matter, of the fixes that are
    /// not ahead of their uploads.
    pub last: Option<(i64, f64, f64)>,
}

impl Sighting {
    /// From one location of an upload.
    #[must_use]
    pub fn new(seen_at: JournalTime, location: &Location) -> Self {
        let is_ahead = JournalTime(location.timestamp) > seen_at.plus(FIX_AHEAD_MAX);
        let last = (!is_ahead).then_some((location.timestamp, location.latitude, location.longitude));
        Self { seen_at, last }
    }

    /// What both together say, in whichever order they came.
    #[must_use]
    pub fn merged(&self, other: &Self) -> Self {
        let last = if other.last > self.last { other.last } else { self.last };
        Self { seen_at: self.seen_at.max(other.seen_at), last }
    }
}

/// Inserts keys, which the caller has sorted; they are final from the start. Makes sure the devices exist, and notes where they
/// were last. Returns the devices' ids.
///
/// A device of which no fix counts has been at no place (NaN) at no time (`-infinity`). Builds before this one let a fix that is
/// ahead ([`FIX_AHEAD_MAX`]) become the last: it gives way to whatever comes.
///
/// # Errors
/// The database refuses.
pub async fn insert_keys_and_devices<'a>(
    connection: &mut PgConnection,
    keys: &[(KeyHash, &KeyState)],
    devices: &BTreeMap<DeviceName<'a>, Sighting>,
) -> sqlx::Result<BTreeMap<DeviceName<'a>, i64>> {
    let states = || keys.iter().map(|(_, state)| *state);
    let column =
        |time: fn(&KeyState) -> JournalTime| states().map(|s| time(s).to_datetime()).collect::<Vec<_>>();
    let last = || devices.values().map(|sighting| sighting.last);
    let rows = sqlx::query(
        "WITH keys AS ( \
           INSERT INTO idempotency_keys (key_hash, account_id, fingerprint, response_status, response_body, \
             accepted_at, expires_at, source_partition, source_offset) \
           SELECT * FROM unnest($1::bytea[], $2::uuid[], $3::bytea[], $4::smallint[], $5::bytea[], \
             $6::timestamptz[], $7::timestamptz[], $8::int[], $9::bigint[])) \
         INSERT INTO devices AS d (account_id, device, last_seen_at, last_captured_at, last_latitude, last_longitude) \
         SELECT account_id, device, seen_at, coalesce(captured_at, '-infinity'), coalesce(latitude, 'NaN'), \
           coalesce(longitude, 'NaN') \
         FROM unnest($10::uuid[], $11::text[], $12::timestamptz[], $13::timestamptz[], $14::float8[], $15::float8[]) \
           AS s (account_id, device, seen_at, captured_at, latitude, longitude) \
         ON CONFLICT (account_id, device) DO UPDATE SET \
           last_seen_at = greatest(d.last_seen_at, excluded.last_seen_at), \
           last_captured_at = CASE WHEN (excluded.last_captured_at, excluded.last_latitude, excluded.last_longitude) \
             > (CASE WHEN d.last_captured_at > greatest(d.last_seen_at, excluded.last_seen_at) + interval '5 minutes' \
                THEN '-infinity' ELSE d.last_captured_at END, d.last_latitude, d.last_longitude) \
             THEN excluded.last_captured_at ELSE d.last_captured_at END, \
           last_latitude = CASE WHEN (excluded.last_captured_at, excluded.last_latitude, excluded.last_longitude) \
             > (CASE WHEN d.last_captured_at > greatest(d.last_seen_at, excluded.last_seen_at) + interval '5 minutes' \
                THEN '-infinity' ELSE d.last_captured_at END, d.last_latitude, d.last_longitude) \
             THEN excluded.last_latitude ELSE d.last_latitude END, \
           last_longitude = CASE WHEN (excluded.last_captured_at, excluded.last_latitude, excluded.last_longitude) \
             > (CASE WHEN d.last_captured_at > greatest(d.last_seen_at, excluded.last_seen_at) + interval '5 minutes' \
                THEN '-infinity' ELSE d.last_captured_at END, d.last_latitude, d.last_longitude) \
             THEN excluded.last_longitude ELSE d.last_longitude END \
         RETURNING account_id, device, id",
    )
    .bind(keys.iter().map(|(key, _)| &key.0[..]).collect::<Vec<_>>())
    .bind(states().map(|state| state.account).collect::<Vec<_>>())
    .bind(states().map(|state| &state.fingerprint.0[..]).collect::<Vec<_>>())
    .bind(states().map(|state| i16::try_from(state.status).unwrap_or(i16::MAX)).collect::<Vec<_>>())
    .bind(states().map(|state| &state.body[..]).collect::<Vec<_>>())
    .bind(column(|state| state.accepted_at))
    .bind(column(|state| state.expires_at))
    .bind(states().map(|state| state.source.partition).collect::<Vec<_>>())
    .bind(states().map(|state| state.source.offset).collect::<Vec<_>>())
    .bind(devices.keys().map(|(account, _)| *account).collect::<Vec<_>>())
    .bind(devices.keys().map(|(_, device)| *device).collect::<Vec<_>>())
    .bind(devices.values().map(|s| s.seen_at.to_datetime()).collect::<Vec<_>>())
    .bind(last().map(|last| last.map(|(time, ..)| JournalTime(time).to_datetime())).collect::<Vec<_>>())
    .bind(last().map(|last| last.map(|(_, latitude, _)| latitude)).collect::<Vec<_>>())
    .bind(last().map(|last| last.map(|(.., longitude)| longitude)).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let ids: HashMap<(AccountId, String), i64> = rows
        .iter()
        .map(|row| Ok(((row.try_get("account_id")?, row.try_get("device")?), row.try_get("id")?)))
        .collect::<sqlx::Result<_>>()?;
    devices
        .keys()
        .map(|(account, device)| {
            let id = ids.get(&(*account, (*device).to_owned())).ok_or(sqlx::Error::RowNotFound)?;
            Ok(((*account, *device), *id))
        })
        .collect()
}

/// One row for `locations`.
#[derive(Debug, Clone, Copy)]
pub struct LocationRow<'a> {
    /// Of the device.
    pub device_id: i64,
    /// The location as sent.
    pub location: &'a Location,
    /// Journal time of its upload.
    pub received_at: JournalTime,
    /// The upload's record.
    pub source: Position,
    /// Its place in the upload, from 0.
    pub ordinal: i32,
}

/// The columns of `locations` that [`LocationRow`] fills, in its order.
pub(super) fn location_columns() -> String {
    let names = NUMBERS.iter().map(|number| number.other).chain(TEXTS.iter().map(|text| text.other));
    let fields = names.collect::<Vec<_>>().join(", ");
    format!("device_id, captured_at, {fields}, received_at, source_partition, source_offset, ordinal")
}

pub(super) static INSERT_LOCATIONS: LazyLock<String> = LazyLock::new(|| {
    let types = ["bigint", "timestamptz"].into_iter().chain(NUMBERS.iter().map(|_| "float8"));
    let types = types.chain(TEXTS.iter().map(|_| "text")).chain(["timestamptz", "int", "bigint", "int"]);
    let arrays: Vec<String> = (1..).zip(types).map(|(place, of)| format!("${place}::{of}[]")).collect();
    let (columns, arrays) = (location_columns(), arrays.join(", "));
    format!("INSERT INTO locations ({columns}) SELECT * FROM unnest({arrays})")
});

/// Inserts locations by INSERT .. SELECT FROM unnest: quicker than COPY for small batches.
///
/// # Errors
/// The database refuses.
pub async fn insert_locations(connection: &mut PgConnection, rows: &[LocationRow<'_>]) -> sqlx::Result<()> {
    let time = |time: i64| JournalTime(time).to_datetime();
    let mut insert = sqlx::query(&INSERT_LOCATIONS)
        .bind(rows.iter().map(|row| row.device_id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| time(row.location.timestamp)).collect::<Vec<OffsetDateTime>>());
    for number in &NUMBERS {
        insert = insert.bind(rows.iter().map(|row| (number.get)(row.location)).collect::<Vec<_>>());
    }
    for text in &TEXTS {
        insert = insert.bind(rows.iter().map(|row| (text.get)(row.location)).collect::<Vec<_>>());
    }
    insert
        .bind(rows.iter().map(|row| row.received_at.to_datetime()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.source.partition).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.source.offset).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.ordinal).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// Most bytes of a dead letter's key, and of its value: four times the largest record of a correctly configured topic. Postgres
/// accepts statements of at most 1 GB, and needs several times as much memory.
pub const DEAD_LETTER_BYTES_MAX: usize = 16 << 20;

/// A record that can never be persisted as locations.
#[derive(Debug, Clone)]
pub struct DeadLetter<'a> {
    /// Where it stands in the journal.
    pub position: Position,
    /// When the broker appended it.
    pub time: JournalTime,
    /// Its Kafka key.
    pub key: Option<Cow<'a, [u8]>>,
    /// Its Kafka value, or the point that was set aside in it.
    pub value: Option<&'a [u8]>,
    /// Why.
    pub reason: Cow<'a, str>,
    /// Whose point was set aside; of poison it is not known.
    pub account: Option<AccountId>,
    /// The device whose point was set aside, if that is known.
    pub device: Option<&'a str>,
}

/// Inserts dead letters. Those that are there already stay as they are: the progress may have been moved back. One at the same
/// offset with another time is of a journal that was there before.
///
/// # Errors
/// The database refuses.
pub async fn insert_dead_letters(
    connection: &mut PgConnection,
    topic: &str,
    letters: &[DeadLetter<'_>],
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO dead_letters (topic, partition, \"offset\", journal_time, record_key, record_value, reason, \
           account_id, device) \
         SELECT $1, * FROM unnest($2::int[], $3::bigint[], $4::timestamptz[], $5::bytea[], $6::bytea[], $7::text[], \
           $8::uuid[], $9::text[]) \
         ON CONFLICT DO NOTHING",
    )
    .bind(topic)
    .bind(letters.iter().map(|letter| letter.position.partition).collect::<Vec<_>>())
    .bind(letters.iter().map(|letter| letter.position.offset).collect::<Vec<_>>())
    .bind(letters.iter().map(|letter| letter.time.to_datetime()).collect::<Vec<_>>())
    .bind(letters.iter().map(|letter| letter.key.as_deref()).collect::<Vec<_>>())
    .bind(letters.iter().map(|letter| letter.value).collect::<Vec<_>>())
    .bind(letters.iter().map(|letter| &*letter.reason).collect::<Vec<_>>())
    .bind(letters.iter().map(|letter| letter.account).collect::<Vec<_>>())
    .bind(letters.iter().map(|letter| letter.device).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
