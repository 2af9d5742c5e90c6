//! The journal: one partition of `location-uploads`. Its records have the same key, or they are points of phone apps.

use std::time::Duration;

use milepost_consumer::persist::decide::Claim;
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::answer::KeyState;
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::position::{Offset, Partition, Position};
use milepost_shared::location::fingerprint::Fingerprint;
use uuid::Uuid;

use crate::planted::PlantedBug;
use crate::point::{Fix, Point};

/// How long a key is remembered, in ticks of the model's clock, which are milliseconds to the code that is called.
pub const TTL: Duration = Duration::from_millis(2);
/// The one key.
pub const KEY: KeyHash = KeyHash([7; 32]);
/// Whose it all is.
pub const ACCOUNT: AccountId = AccountId(Uuid::nil());
/// The partition of the journal it falls into.
pub const PARTITION: Partition = Partition(0);

/// One of the two uploads that phones send under the key, or a point without a client's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Upload {
    /// Of one location.
    A,
    /// Of two locations.
    B,
    /// Of one location too.
    Point(Fix),
}

impl Upload {
    /// What it is keyed by.
    #[must_use]
    pub fn key(self, planted: Option<PlantedBug>) -> KeyHash {
        match self {
            Self::A | Self::B => KEY,
            Self::Point(fix) => fix.key(planted),
        }
    }

    /// Tells uploads under a key apart.
    #[must_use]
    pub fn fingerprint(self, planted: Option<PlantedBug>) -> Fingerprint {
        match self {
            Self::A => Fingerprint([0; 32]),
            Self::B => Fingerprint([1; 32]),
            Self::Point(_) => Fingerprint(self.key(planted).0),
        }
    }

    /// What is promised to be stored once in a window, by a number: uploads by their key, and points by what they are, however
    /// a planted bug may call them.
    #[must_use]
    pub fn once(self) -> usize {
        match self {
            Self::A | Self::B => 0,
            Self::Point(fix) => 1 + fix.point as usize,
        }
    }

    /// How many locations it has, so that the two answers differ.
    #[must_use]
    pub fn locations(self) -> usize {
        match self {
            Self::A | Self::Point(_) => 1,
            Self::B => 2,
        }
    }

    /// The promised body of its answer.
    #[must_use]
    pub fn body(self) -> &'static [u8] {
        match self {
            Self::A | Self::Point(_) => br#"{"success":true,"processedCount":1}"#,
            Self::B => br#"{"success":true,"processedCount":2}"#,
        }
    }
}

/// A record, as it lies in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    /// What was uploaded.
    pub upload: Upload,
    /// When the broker appended it.
    pub time: JournalTime,
}

/// The records, by offset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Journal(Vec<Record>);

impl Journal {
    /// Appends a record.
    pub fn append(&mut self, upload: Upload, time: JournalTime) {
        self.0.push(Record { upload, time });
    }

    /// The offset after the last record.
    #[must_use]
    pub fn end(&self) -> i64 {
        i64::try_from(self.0.len()).unwrap_or(i64::MAX)
    }

    /// How often an upload was appended.
    #[must_use]
    pub fn copies(&self, upload: Upload) -> usize {
        self.0.iter().filter(|record| record.upload == upload).count()
    }

    /// Whether it holds a point, from whichever app.
    #[must_use]
    pub fn has(&self, point: Point) -> bool {
        self.0.iter().any(|record| matches!(record.upload, Upload::Point(fix) if fix.point == point))
    }

    /// All records with their offsets.
    pub fn records(&self) -> impl Iterator<Item = (i64, Record)> {
        (0..).zip(self.0.iter().copied())
    }

    /// The record at an offset below the end.
    #[must_use]
    pub fn record(&self, offset: i64) -> Record {
        usize::try_from(offset).map(|offset| self.0[offset]).expect("offsets begin at 0")
    }

    /// The first offset that is stamped later than a moment.
    #[must_use]
    pub fn stamped_later(&self, moment: JournalTime) -> Option<i64> {
        self.records().find(|(_, record)| record.time > moment).map(|(offset, _)| offset)
    }

    /// The key of a window, which is that of the record it was opened by.
    #[must_use]
    pub fn key_of(&self, window: &KeyState, planted: Option<PlantedBug>) -> KeyHash {
        self.record(window.source.offset.0).upload.key(planted)
    }

    /// What the record at an offset asks for.
    #[must_use]
    pub fn claim(&self, offset: i64, planted: Option<PlantedBug>) -> Claim {
        let Record { upload, time } = self.record(offset);
        Claim {
            key_hash: upload.key(planted),
            account: ACCOUNT,
            fingerprint: upload.fingerprint(planted),
            locations: upload.locations(),
            position: at(offset),
            time,
        }
    }

    /// Each record's offset with that of the record whose upload answers it, by the promise alone: a record outside of
    /// any window opens one, and the records of a window are answered by the one that opened it. Properties compare with
    /// this; it calls nothing of what they check.
    pub fn promised(&self) -> impl Iterator<Item = (i64, i64)> {
        let mut windows = [None::<(i64, JournalTime)>; 1 + Point::ALL.len()];
        self.records().map(move |(offset, record)| {
            let window = &mut windows[record.upload.once()];
            let open = window.filter(|(_, opened)| record.time < opened.plus(TTL));
            let (opener, _) = *window.insert(open.unwrap_or((offset, record.time)));
            (offset, opener)
        })
    }

    /// The records that open a window, which are those to persist.
    pub fn openers(&self) -> impl Iterator<Item = i64> {
        self.promised().filter(|(offset, opener)| offset == opener).map(|(offset, _)| offset)
    }
}

/// A position in the one partition.
#[must_use]
pub fn at(offset: i64) -> Position {
    Position { partition: PARTITION, offset: Offset(offset) }
}
