//! What is in the tables, read by their owner.

use futures::TryStreamExt as _;
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::position::Position;
use milepost_shared::location::fields::{NUMBERS, TEXTS};
use milepost_shared::location::{Location, Upload};
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row as _};
use time::OffsetDateTime;

/// An upload as its rows hold it: bit for bit, in the order of the ordinals.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The account.
    pub account: AccountId,
    /// The record it came with.
    pub source: Position,
    /// Journal time of that record.
    pub received_at: JournalTime,
    /// Device and locations.
    pub upload: Upload,
}

/// A row of `idempotency_keys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// SHA-256, hex.
    pub key_hash: String,
    /// The account.
    pub account: AccountId,
    /// SHA-256, hex.
    pub fingerprint: String,
    /// HTTP status of the answer.
    pub status: i16,
    /// Body of the answer.
    pub body: Vec<u8>,
    /// Start of the window.
    pub accepted_at: JournalTime,
    /// End of the window.
    pub expires_at: JournalTime,
    /// The record that claimed it.
    pub source: Position,
}

/// A row of `dead_letters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it stood in the journal.
    pub position: Position,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value.
    pub value: Option<Vec<u8>>,
    /// Why it is here.
    pub reason: String,
    /// Whose point was set aside.
    pub account: Option<AccountId>,
    /// The device whose point was set aside.
    pub device: Option<String>,
}

/// A row of `partition_progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgressRow {
    /// Of the journal.
    pub partition: i32,
    /// The first record not persisted.
    pub next_offset: i64,
    /// The first record not emitted.
    pub emitted_offset: i64,
}

/// The tables of one database.
#[derive(Debug, Clone)]
pub struct Tables {
    /// The owner's connections, for statements of a test's own.
    pub pool: PgPool,
}

impl Tables {
    /// All uploads, in the order of the journal; each row of `locations` is in exactly one.
    ///
    /// # Errors
    /// The database cannot be read, or the ordinals of an upload are not 0, 1, 2 and so on: a location is there twice or
    /// missing.
    pub async fn stored(&self) -> anyhow::Result<Vec<Stored>> {
        let mut all = Vec::new();
        self.each_stored(|stored, ordinals| {
            let whole = ordinals.iter().zip(0..).all(|(ordinal, expected)| *ordinal == expected);
            anyhow::ensure!(whole, "a location of {:?} is there twice or gone: {ordinals:?}", stored.source);
            all.push(stored);
            Ok(())
        })
        .await?;
        Ok(all)
    }

    /// The same, one after the other, with the ordinals of the locations, whatever they are.
    ///
    /// # Errors
    /// The database cannot be read, or `each` fails.
    pub async fn each_stored(
        &self,
        mut each: impl FnMut(Stored, Vec<i32>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut rows = sqlx::query(
            "SELECT d.account_id, d.device, l.* FROM locations l JOIN devices d ON d.id = l.device_id \
             ORDER BY l.source_partition, l.source_offset, l.ordinal, l.captured_at",
        )
        .fetch(&self.pool);
        let mut gathered: Option<(Stored, Vec<i32>)> = None;
        while let Some(row) = rows.try_next().await? {
            let source = source(&row)?;
            if let Some((stored, ordinals)) = gathered.take_if(|(stored, _)| stored.source != source) {
                each(stored, ordinals)?;
            }
            if gathered.is_none() {
                let upload = Upload { device: row.try_get("device")?, locations: Vec::new() };
                let received_at = moment(&row, "received_at")?;
                let stored = Stored { account: row.try_get("account_id")?, source, received_at, upload };
                gathered = Some((stored, Vec::new()));
            }
            let Some((stored, ordinals)) = &mut gathered else { continue };
            stored.upload.locations.push(location(&row)?);
            ordinals.push(row.try_get("ordinal")?);
        }
        if let Some((stored, ordinals)) = gathered {
            each(stored, ordinals)?;
        }
        Ok(())
    }

    /// All keys, in the order of the journal.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn keys(&self) -> anyhow::Result<Vec<KeyRow>> {
        let rows = sqlx::query("SELECT * FROM idempotency_keys ORDER BY source_partition, source_offset");
        let rows = rows.fetch_all(&self.pool).await?;
        let key = |row: &PgRow| {
            Ok(KeyRow {
                key_hash: hex::encode(row.try_get::<Vec<u8>, _>("key_hash")?),
                account: row.try_get("account_id")?,
                fingerprint: hex::encode(row.try_get::<Vec<u8>, _>("fingerprint")?),
                status: row.try_get("response_status")?,
                body: row.try_get("response_body")?,
                accepted_at: moment(row, "accepted_at")?,
                expires_at: moment(row, "expires_at")?,
                source: source(row)?,
            })
        };
        rows.iter().map(key).collect()
    }

    /// All dead letters, in the order of the journal.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn dead_letters(&self) -> anyhow::Result<Vec<DeadLetter>> {
        let rows = sqlx::query("SELECT * FROM dead_letters ORDER BY partition, \"offset\"");
        let letter = |row: &PgRow| {
            Ok(DeadLetter {
                position: Position::new(row.try_get("partition")?, row.try_get("offset")?),
                key: row.try_get("record_key")?,
                value: row.try_get("record_value")?,
                reason: row.try_get("reason")?,
                account: row.try_get("account_id")?,
                device: row.try_get("device")?,
            })
        };
        rows.fetch_all(&self.pool).await?.iter().map(letter).collect()
    }

    /// How far each partition of the journal that has begun is persisted.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn progress(&self) -> anyhow::Result<Vec<ProgressRow>> {
        let rows = sqlx::query("SELECT * FROM partition_progress ORDER BY topic, partition");
        let progress = |row: &PgRow| {
            Ok(ProgressRow {
                partition: row.try_get("partition")?,
                next_offset: row.try_get("next_offset")?,
                emitted_offset: row.try_get("emitted_offset")?,
            })
        };
        rows.fetch_all(&self.pool).await?.iter().map(progress).collect()
    }

    /// Runs statements, as one text.
    ///
    /// # Errors
    /// One of them fails.
    pub async fn execute(&self, statements: &str) -> anyhow::Result<()> {
        sqlx::raw_sql(statements).execute(&self.pool).await?;
        Ok(())
    }

    /// The one number that a query returns.
    ///
    /// # Errors
    /// It fails, or returns something else.
    pub async fn number(&self, query: &str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(query).fetch_one(&self.pool).await?)
    }
}

fn source(row: &PgRow) -> anyhow::Result<Position> {
    Ok(Position::new(row.try_get("source_partition")?, row.try_get("source_offset")?))
}

fn moment(row: &PgRow, column: &str) -> anyhow::Result<JournalTime> {
    Ok(JournalTime::from_datetime(row.try_get::<OffsetDateTime, _>(column)?))
}

fn location(row: &PgRow) -> anyhow::Result<Location> {
    let mut location = Location::new(moment(row, "captured_at")?.0, 0.0, 0.0);
    for number in &NUMBERS {
        if let Some(value) = row.try_get(number.other)? {
            (number.set)(&mut location, value);
        }
    }
    for text in &TEXTS {
        if let Some(value) = row.try_get(text.other)? {
            (text.set)(&mut location, value);
        }
    }
    Ok(location)
}
