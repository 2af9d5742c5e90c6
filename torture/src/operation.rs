//! Operations: what one client wants to get done, with all its retries. Pure: everything about operation `index` of a run is made
//! again from the run's seed, so whatever is found in a table, a topic or a log can be recognised as lost, doubled, torn or
//! invented.

pub mod point;

use std::fmt;

use milepost_shared::location::{Location, Upload};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};

use self::point::Point;

/// The first capture time, milliseconds since 1970. Every location has a capture time of its own, counted from here.
const CAPTURED_FROM: i64 = 1_700_000_000_000;
/// Most locations of an upload.
pub const LOCATIONS_MAX: usize = 200;
/// Capture times kept for the locations of one upload.
const TIMES_PER_UPLOAD: i64 = 256;
/// Copies of a hot operation that are sent at once.
pub const HOT_COPIES: usize = 50;

/// What kind of operation it is. The names are those of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An upload, retried until its answer is final, then sometimes once more.
    Plain,
    /// An upload without a key, sent once: it must be stored at most once, and once if it was answered 2xx.
    Keyless,
    /// After the final answer another body is sent under the same key: 422.
    Conflict,
    /// Two bodies race for one key on the two gateways.
    Race,
    /// The same key in both accounts, with bodies of their own.
    Strangers,
    /// The client hangs up at some byte of its request, then retries.
    HangUp,
    /// When the window is over, the same upload is sent again, as a new one.
    Reuse,
    /// `Prefer: respond-async`, then GET of the `Location`, also by the other account.
    Status,
    /// [`HOT_COPIES`] copies at once over both gateways.
    Hot,
    /// A body with a fault: 400, and nothing stored.
    Malformed,
    /// Overland: a batch whose answer is lost, then a superset of it until that is taken. One of its points is a bad one.
    Superset,
    /// Overland: two batches in flight at once to both gateways, which share some points, among them a bad one.
    Shared,
    /// GPSLogger: a file line by line over both gateways, and all of it again; now and then once more after the window.
    WholeFile,
    /// OwnTracks: a fix that is sent again with another `created_at`.
    Renewed,
    /// Traccar Client: one time and place, of two devices of an account, and of one device name in both accounts.
    Twins,
}

impl Kind {
    /// All of them, with how many of 1000 operations are of that kind.
    pub const ALL: [(Self, u32); 15] = [
        (Self::Plain, 518),
        (Self::Keyless, 80),
        (Self::Conflict, 50),
        (Self::Race, 40),
        (Self::Strangers, 40),
        (Self::HangUp, 50),
        (Self::Reuse, 100),
        (Self::Status, 30),
        (Self::Hot, 2),
        (Self::Malformed, 18),
        (Self::Superset, 12),
        (Self::Shared, 12),
        (Self::WholeFile, 12),
        (Self::Renewed, 20),
        (Self::Twins, 16),
    ];

    /// Whether a phone app sends it: points without a key, each an upload of its own.
    #[must_use]
    pub fn is_of_app(self) -> bool {
        matches!(self, Self::Superset | Self::Shared | Self::WholeFile | Self::Renewed | Self::Twins)
    }
}

/// Which of an operation's uploads: of two bodies, or of the points of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// The first.
    A,
    /// Another upload, under the same key.
    B,
    /// An upload of one location, whose key is the point itself.
    Point(Point),
}

impl Variant {
    /// The other upload under the same key; a point has none.
    #[must_use]
    pub fn other(self) -> Option<Self> {
        match self {
            Self::A => Some(Self::B),
            Self::B => Some(Self::A),
            Self::Point(_) => None,
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::A => f.write_str("A"),
            Self::B => f.write_str("B"),
            Self::Point(point) => point.fmt(f),
        }
    }
}

/// Names one upload of a run: everything about it is a function of this and the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId {
    /// The operation.
    pub operation: u64,
    /// Which of its uploads.
    pub variant: Variant,
}

impl UploadId {
    /// What it claims.
    #[must_use]
    pub fn key(self) -> Key {
        let point = match self.variant {
            Variant::Point(point) => Some(point),
            Variant::A | Variant::B => None,
        };
        Key { operation: self.operation, point }
    }

    /// Whether it is a point of an app.
    #[must_use]
    pub fn is_point(self) -> bool {
        self.key().point.is_some()
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.operation, self.variant)
    }
}

/// What is claimed in an account for the time of a window: an operation's key, or a point, which is its own key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The operation.
    pub operation: u64,
    /// Which of its points, if it has points.
    pub point: Option<Point>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation {}", self.operation)?;
        self.point.map_or(Ok(()), |point| point.fmt(f))
    }
}

/// One client's operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Its number in the run, from 0.
    pub index: u64,
    /// What it is about.
    pub kind: Kind,
    /// The account that sends it, 0 or 1; in [`Kind::Strangers`] body A is sent by this one and body B by the other, and in
    /// [`Kind::Twins`] the phone of [`point::Phone::Strangers`] is the other's.
    pub account: usize,
    /// The gateway it turns to first, 0 or 1. Half of the retries go to the other one.
    pub gateway: usize,
    /// Its idempotency key; `None` for [`Kind::Keyless`] and for what apps send.
    pub key: Option<String>,
}

/// What a run plants in everything it sends: no log may hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// Eight digits behind the point of every coordinate.
    pub digits: String,
    /// Sixteen hex digits in every key.
    pub key: String,
}

/// The marks of a run.
#[must_use]
pub fn marks(seed: u64) -> Marks {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x6d61_726b);
    Marks {
        digits: format!("{:08}", random.random_range(10_000_000..100_000_000)),
        key: format!("{:016x}", random.random::<u64>()),
    }
}

/// The operation `index` of a run.
#[must_use]
pub fn operation(seed: u64, index: u64) -> Operation {
    let mut random = random_of(seed, index, 0);
    let mut at = random.random_range(0..1000);
    let mut kind = Kind::Plain;
    for (one, share) in Kind::ALL {
        if at < share {
            kind = one;
            break;
        }
        at -= share;
    }
    let key = format!("k-{}-{index}-{:08x}", marks(seed).key, random.random::<u32>());
    Operation {
        index,
        kind,
        account: random.random_range(0..2),
        gateway: random.random_range(0..2),
        key: (kind != Kind::Keyless && !kind.is_of_app()).then_some(key),
    }
}

/// The upload that `id` names.
#[must_use]
pub fn upload(seed: u64, id: UploadId) -> Upload {
    let number = match id.variant {
        Variant::A => 1,
        Variant::B => 2,
        Variant::Point(point) => return point::upload(seed, id.operation, point),
    };
    let mut random = random_of(seed, id.operation, number);
    let count = draw_count(&mut random);
    let digits = marks(seed).digits;
    let locations =
        (0_i64..).take(count).map(|ordinal| location(&mut random, &digits, id, ordinal)).collect();
    Upload { device: format!("device-{}-{number}", id.operation), locations }
}

/// How many locations are stored of the upload that `id` names: none of a bad point.
#[must_use]
pub fn count(seed: u64, id: UploadId) -> usize {
    match id.variant {
        Variant::A => draw_count(&mut random_of(seed, id.operation, 1)),
        Variant::B => draw_count(&mut random_of(seed, id.operation, 2)),
        Variant::Point(point) => usize::from(!point::is_bad(seed, id.operation, point)),
    }
}

/// The first thing drawn of an upload.
fn draw_count(random: &mut ChaCha8Rng) -> usize {
    match random.random_range(0..100) {
        0..55 => 1,
        55..85 => random.random_range(2..=10),
        85..98 => random.random_range(11..=50),
        _ => random.random_range(51..=LOCATIONS_MAX),
    }
}

fn location(random: &mut ChaCha8Rng, digits: &str, id: UploadId, ordinal: i64) -> Location {
    let (latitude, longitude) = (coordinate(random, digits, 89), coordinate(random, digits, 179));
    let mut location = Location::new(captured_at(id, ordinal), latitude, longitude);
    location.accuracy = Some(random.random_range(0.0..100.0));
    if ordinal % 3 == 0 {
        location.speed = Some(random.random_range(0.0..50.0));
        location.provider = Some("gps".to_owned());
    }
    location
}

/// Never with a last digit of 0, which would not be written back.
fn coordinate(random: &mut ChaCha8Rng, digits: &str, degrees_max: i32) -> f64 {
    let degrees = random.random_range(-degrees_max..=degrees_max);
    let last = random.random_range(0..1000) * 10 + random.random_range(1..10);
    format!("{degrees}.{digits}{last:04}").parse().expect("these are the digits of a number")
}

fn captured_at(id: UploadId, ordinal: i64) -> i64 {
    let operation = i64::try_from(id.operation).expect("a run has fewer operations than milliseconds");
    CAPTURED_FROM + (operation * 2 + i64::from(id.variant == Variant::B)) * TIMES_PER_UPLOAD + ordinal
}

/// The upload that a capture time belongs to, and the location's place in it; `None` if no operation has it. Of a point it does
/// not say the phone: [`point::Phone::First`] stands for all.
#[must_use]
pub fn identify(captured_at: i64) -> Option<(UploadId, usize)> {
    if captured_at < CAPTURED_FROM {
        return Some((point::identify(captured_at)?, 0));
    }
    let since = u64::try_from(captured_at - CAPTURED_FROM).ok()?;
    let per_upload = TIMES_PER_UPLOAD.unsigned_abs();
    let (number, ordinal) = (since / per_upload, since % per_upload);
    let variant = if number % 2 == 0 { Variant::A } else { Variant::B };
    Some((UploadId { operation: number / 2, variant }, usize::try_from(ordinal).ok()?))
}

fn random_of(seed: u64, operation: u64, stream: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(operation * 4 + stream);
    random
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_upload_is_made_again_bit_for_bit_and_each_location_shows_whose_it_is(
            seed: u64, operation in 0..10_000_000u64, b: bool,
        ) {
            let id = UploadId { operation, variant: if b { Variant::B } else { Variant::A } };
            let made = upload(seed, id);
            prop_assert_eq!(&made, &upload(seed, id));
            prop_assert!((1..=LOCATIONS_MAX).contains(&made.locations.len()));
            prop_assert_eq!(made.locations.len(), count(seed, id));
            for (ordinal, location) in made.locations.iter().enumerate() {
                prop_assert_eq!(identify(location.timestamp), Some((id, ordinal)));
                prop_assert!(location.latitude.to_string().contains(&marks(seed).digits));
            }
        }
    }

    #[test]
    fn every_kind_of_operation_comes_and_keys_differ() {
        assert_eq!(Kind::ALL.iter().map(|(_, share)| share).sum::<u32>(), 1000);
        let operations: Vec<Operation> = (0..5000).map(|index| operation(7, index)).collect();
        let kinds: BTreeSet<Kind> = operations.iter().map(|operation| operation.kind).collect();
        assert_eq!(kinds.len(), Kind::ALL.len());
        let keys: BTreeSet<&String> =
            operations.iter().filter_map(|operation| operation.key.as_ref()).collect();
        let has_key = |operation: &&Operation| operation.kind != Kind::Keyless && !operation.kind.is_of_app();
        assert_eq!(keys.len(), operations.iter().filter(has_key).count());
        assert!(keys.iter().all(|key| key.contains(&marks(7).key)));
    }
}
