//! The points of a phone app, as *plain* takes them: a unique index on what a point is known by, and `ON CONFLICT DO NOTHING`.
//!
//! A row is a point's key and its location at once, which is less than Milepost stores. Bodies are decoded by the gateway's own
//! decoder.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use milepost_gateway::phones::endpoints::DEVICE;
use milepost_gateway::phones::{Protocol, Request, Rules, decode};
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::clock::{JournalTime, millis};
use milepost_shared::journal::key::KeyHash;
use milepost_shared::location::Location;
use milepost_shared::location::fields::{NUMBERS, TEXTS};
use milepost_tests::Tables;
use sqlx::{Connection as _, Executor as _, PgConnection};

use super::{DAY, Plain, newest, upsert_device};

/// The columns of `locations`, but for those that say where in the journal a row is from.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS points (key_hash bytea PRIMARY KEY, device_id bigint NOT NULL, \
    captured_at timestamptz NOT NULL, latitude float8 NOT NULL, longitude float8 NOT NULL, accuracy float8, altitude float8, \
    bearing float8, speed float8, battery_level float8, provider text, network_type text, received_at timestamptz NOT NULL); \
    CREATE INDEX IF NOT EXISTS points_device_captured ON points (device_id, captured_at)";

/// Makes the table.
pub(super) async fn create(connection: &mut PgConnection) -> sqlx::Result<()> {
    connection.execute(TABLE).await.map(drop)
}

/// How many points are stored.
///
/// # Errors
/// Postgres cannot be asked, or has no such table.
pub async fn count(tables: &Tables) -> anyhow::Result<u64> {
    Ok(u64::try_from(tables.number("SELECT count(*) FROM points").await?)?)
}

/// A point to be stored, unless it is.
struct Row {
    key_hash: KeyHash,
    location: Location,
}

pub(super) async fn overland(State(plain): State<Arc<Plain>>, headers: HeaderMap, body: Bytes) -> Response {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let Some(account) = plain.account(bearer.unwrap_or_default()) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let arrival = plain.clock.now_ms();
    let rules = Rules { bound: None, arrival, timestamp_max: arrival + millis(DAY) };
    let request = Request {
        protocol: Protocol::Overland,
        path: "",
        query: "",
        user_agent: "",
        device_header: "",
        body: &body,
    };
    let decoded = match decode(&request, &rules) {
        // It has no place for what breaks a rule, and none is sent.
        Ok(decoded) if decoded.set_aside.is_empty() => decoded,
        _ => return StatusCode::BAD_REQUEST.into_response(),
    };
    let mut devices: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for point in decoded.points {
        let device = point.device.as_deref().unwrap_or(DEVICE);
        let Location { timestamp, latitude, longitude, .. } = point.location;
        let key_hash = KeyHash::of_point(account, device, timestamp, latitude, longitude);
        let row = Row { key_hash, location: point.location };
        match devices.get_mut(device) {
            Some(rows) => rows.push(row),
            None => drop(devices.insert(device.to_owned(), vec![row])),
        }
    }
    match plain.store(account, &devices).await {
        Ok(()) => ([(CONTENT_TYPE, "application/json")], r#"{"result":"ok"}"#).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

impl Plain {
    async fn store(&self, account: AccountId, devices: &BTreeMap<String, Vec<Row>>) -> sqlx::Result<()> {
        let now = self.clock.now();
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        // In the order of their names: two transactions never wait for each other in a circle.
        for (device, rows) in devices {
            let last = newest(rows.iter().map(|row| &row.location))?;
            let device_id = upsert_device(&mut transaction, account, device, last, now).await?;
            insert(&mut transaction, device_id, rows, now).await?;
        }
        transaction.commit().await
    }
}

async fn insert(
    connection: &mut PgConnection,
    device_id: i64,
    rows: &[Row],
    now: JournalTime,
) -> sqlx::Result<()> {
    let time = |row: &Row| JournalTime(row.location.timestamp).to_datetime();
    // In the order of `NUMBERS` and `TEXTS`.
    let mut insert = sqlx::query(
        "INSERT INTO points (device_id, received_at, key_hash, captured_at, latitude, longitude, accuracy, altitude, \
           bearing, speed, battery_level, provider, network_type) \
         SELECT $1::bigint, $2::timestamptz, * FROM unnest($3::bytea[], $4::timestamptz[], $5::float8[], $6::float8[], $7::float8[], \
           $8::float8[], $9::float8[], $10::float8[], $11::float8[], $12::text[], $13::text[]) \
         ON CONFLICT DO NOTHING",
    )
    .bind(device_id)
    .bind(now.to_datetime())
    .bind(rows.iter().map(|row| &row.key_hash.0[..]).collect::<Vec<_>>())
    .bind(rows.iter().map(time).collect::<Vec<_>>());
    for number in &NUMBERS {
        insert = insert.bind(rows.iter().map(|row| (number.get)(&row.location)).collect::<Vec<_>>());
    }
    for text in &TEXTS {
        insert = insert.bind(rows.iter().map(|row| (text.get)(&row.location)).collect::<Vec<_>>());
    }
    insert.execute(connection).await.map(drop)
}
