//! What an engineer would write instead: one transaction for each request, and no Kafka.
//!
//! It answers from the same tables, with the same validation, hashes and check of the API key. It is tuned: all keys in memory,
//! prepared statements, a connection held for the transaction only, the answer stored by the statement that claims the key.
//! It lacks facts for subscribers, acceptance while Postgres is down, and a window of 24 hours. It claims keys per calendar day,
//! since the tables' unique index holds per table partition only. Points of phone apps go into a table of its own ([`points`]).

pub mod points;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::answer;
use milepost_shared::journal::clock::{Clock, JournalTime, millis};
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::position::Position;
use milepost_shared::location::fingerprint::Fingerprint;
use milepost_shared::location::{Location, Rules, Shape, Upload, decode};
use milepost_shared::store::api_keys;
use milepost_shared::store::batch::{LocationRow, insert_locations};
use milepost_shared::store::connect::Target;
use milepost_shared::store::partitions::{Partitioned, ensure};
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgConnection, PgPool, Row as _};

const DAY: Duration = Duration::from_secs(86_400);
/// Longest wait for a connection, and longest statement.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Without a journal, a record has no position.
const NOWHERE: Position = Position::new(0, 0);

/// Everything a request needs.
struct Plain {
    pool: PgPool,
    accounts: HashMap<[u8; 32], AccountId>,
    clock: Clock,
    /// Start of the calendar day in which keys are claimed.
    day: JournalTime,
}

/// Connects, makes today's and tomorrow's table partitions, and loads the API keys.
///
/// # Errors
/// Postgres refuses.
pub async fn router(database_url: &str, connections: u32) -> anyhow::Result<Router> {
    let clock = Clock::default();
    let pool = PgPoolOptions::new()
        .min_connections(connections)
        .max_connections(connections)
        .acquire_timeout(TIMEOUT)
        // Else each request has one more round trip.
        .test_before_acquire(false)
        .connect_with(Target::new(database_url, None, "milepost-plain")?.bounded(TIMEOUT).options())
        .await?;
    let mut connection = pool.acquire().await?;
    let today = ensure(&mut connection, Partitioned::Keys, clock.now(), DAY).await?;
    for moment in [clock.now(), clock.now().plus(DAY)] {
        ensure(&mut connection, Partitioned::Locations, moment, DAY).await?;
    }
    // A benchmark has a few keys, none of them revoked.
    let keys = api_keys::Changes::all().page(&mut connection).await?;
    let accounts = keys.iter().map(|key| (key.secret_sha256.0, key.account_id)).collect();
    points::create(&mut connection).await?;
    drop(connection);
    let plain = Arc::new(Plain { pool, accounts, clock, day: today.start });
    Ok(Router::new()
        .route("/api/v1/locations", post(single))
        .route("/api/v1/locations/batch", post(batch))
        .route("/overland", post(points::overland))
        .with_state(plain))
}

async fn single(State(plain): State<Arc<Plain>>, headers: HeaderMap, body: Bytes) -> Response {
    plain.answer(Shape::Single, &headers, &body).await
}

async fn batch(State(plain): State<Arc<Plain>>, headers: HeaderMap, body: Bytes) -> Response {
    plain.answer(Shape::Batch, &headers, &body).await
}

/// What is claimed: a key, for an upload, by an account.
struct Submission {
    account: AccountId,
    key_hash: KeyHash,
    fingerprint: Fingerprint,
    upload: Upload,
}

impl Plain {
    /// Whose API key it is.
    fn account(&self, secret: &[u8]) -> Option<AccountId> {
        self.accounts.get(&<[u8; 32]>::from(Sha256::digest(secret))).copied()
    }

    async fn answer(&self, shape: Shape, headers: &HeaderMap, body: &[u8]) -> Response {
        let secret = headers.get("x-api-key").map_or(&b""[..], |value| value.as_bytes());
        let Some(account) = self.account(secret) else {
            return StatusCode::UNAUTHORIZED.into_response();
        };
        let key = headers.get("idempotency-key").and_then(|value| value.to_str().ok());
        let Some(key) = key.map(|key| key.trim_matches('"')) else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        let timestamp_max = self.clock.now_ms() + millis(DAY);
        let upload = match decode(body, shape, Rules { locations_max: 1000, timestamp_min: 0, timestamp_max })
        {
            Ok(upload) => upload,
            Err(invalid) => return (StatusCode::BAD_REQUEST, invalid.to_string()).into_response(),
        };
        let fingerprint = Fingerprint::of(&upload);
        let submission = Submission { account, key_hash: KeyHash::new(account, key), fingerprint, upload };
        match self.transaction(&submission).await {
            Ok(Some(body)) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
            Ok(None) => StatusCode::UNPROCESSABLE_ENTITY.into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }

    /// The body of the answer; `None` if the key is another upload's.
    async fn transaction(&self, submission: &Submission) -> sqlx::Result<Option<Bytes>> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        let body = answer::body(submission.upload.locations.len());
        if !self.claim(&mut transaction, submission, &body).await? {
            return self.stored(&mut transaction, submission).await;
        }
        let now = self.clock.now();
        let Upload { device, locations } = &submission.upload;
        let last = newest(locations.iter())?;
        let device_id = upsert_device(&mut transaction, submission.account, device, last, now).await?;
        let row = |(ordinal, location)| LocationRow {
            device_id,
            location,
            received_at: now,
            source: NOWHERE,
            ordinal,
        };
        let rows: Vec<LocationRow<'_>> = (0..).zip(locations).map(row).collect();
        insert_locations(&mut transaction, &rows).await?;
        transaction.commit().await?;
        Ok(Some(body))
    }

    /// False if somebody has claimed the key before.
    async fn claim(
        &self,
        connection: &mut PgConnection,
        submission: &Submission,
        body: &[u8],
    ) -> sqlx::Result<bool> {
        let claimed = sqlx::query(
            "INSERT INTO idempotency_keys (key_hash, account_id, fingerprint, response_status, response_body, \
             accepted_at, expires_at, source_partition, source_offset) VALUES ($1, $2, $3, 200, $4, $5, $6, 0, 0) \
             ON CONFLICT (key_hash, accepted_at) DO NOTHING",
        )
        .bind(&submission.key_hash.0[..])
        .bind(submission.account)
        .bind(&submission.fingerprint.0[..])
        .bind(body)
        .bind(self.day.to_datetime())
        .bind(self.day.plus(DAY).to_datetime())
        .execute(connection)
        .await?;
        Ok(claimed.rows_affected() == 1)
    }

    async fn stored(
        &self,
        connection: &mut PgConnection,
        submission: &Submission,
    ) -> sqlx::Result<Option<Bytes>> {
        let row = sqlx::query(
            "SELECT fingerprint, response_body FROM idempotency_keys WHERE key_hash = $1 AND accepted_at = $2",
        )
        .bind(&submission.key_hash.0[..])
        .bind(self.day.to_datetime())
        .fetch_one(connection)
        .await?;
        let same = row.try_get::<&[u8], _>("fingerprint")? == submission.fingerprint.0;
        let body: Vec<u8> = row.try_get("response_body")?;
        Ok(same.then(|| body.into()))
    }
}

/// The last of locations that were sent together, of which there is at least one.
fn newest<'a>(locations: impl Iterator<Item = &'a Location>) -> sqlx::Result<&'a Location> {
    locations.max_by_key(|location| location.timestamp).ok_or(sqlx::Error::RowNotFound)
}

/// Makes sure of the device, notes where it was last, and returns its id.
async fn upsert_device(
    connection: &mut PgConnection,
    account: AccountId,
    device: &str,
    last: &Location,
    now: JournalTime,
) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "INSERT INTO devices AS d (account_id, device, last_seen_at, last_captured_at, last_latitude, last_longitude) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (account_id, device) DO UPDATE SET \
         last_seen_at = greatest(d.last_seen_at, excluded.last_seen_at), \
         last_captured_at = greatest(d.last_captured_at, excluded.last_captured_at), \
         last_latitude = CASE WHEN excluded.last_captured_at > d.last_captured_at \
           THEN excluded.last_latitude ELSE d.last_latitude END, \
         last_longitude = CASE WHEN excluded.last_captured_at > d.last_captured_at \
           THEN excluded.last_longitude ELSE d.last_longitude END \
         RETURNING id",
    )
    .bind(account)
    .bind(device)
    .bind(now.to_datetime())
    .bind(JournalTime(last.timestamp).to_datetime())
    .bind(last.latitude)
    .bind(last.longitude)
    .fetch_one(connection)
    .await
}
