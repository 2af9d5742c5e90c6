//! The points of apps. Each is an upload of one location, and its key is the point itself: account, device, time and place.

use std::fmt;

use milepost_shared::location::{Location, Upload};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};

use super::{Kind, Operation, UploadId, Variant, coordinate, marks};

/// The first capture time, milliseconds since 1970: long before those of all uploads with keys.
const CAPTURED_FROM: i64 = 800_000_000_000;
/// Apps count in seconds.
const FIX_EVERY: i64 = 1000;
/// Most fixes of an operation.
const FIXES_MAX: u8 = 64;
/// What a bad point has.
const BAD_LATITUDE_FROM: f64 = 100.0;

/// Whose a point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phone {
    /// Of the operation's account.
    First,
    /// Another one of it.
    Second,
    /// Of the other account, with the name that the first one has in its own.
    Strangers,
}

impl Phone {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::First, Self::Second, Self::Strangers];

    /// The account that it is of, if the operation is of this one.
    #[must_use]
    pub fn account(self, of_operation: usize) -> usize {
        match self {
            Self::First | Self::Second => of_operation,
            Self::Strangers => 1 - of_operation,
        }
    }

    /// What it calls itself.
    #[must_use]
    pub fn device(self, operation: u64) -> String {
        format!("phone-{operation}-{}", if self == Self::Second { 2 } else { 1 })
    }
}

/// A point of an operation. All phones have their fix of one number at the same time and place, and know other things of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// Whose.
    pub phone: Phone,
    /// Which one.
    pub fix: u8,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ".{} of phone {:?}", self.fix, self.phone)
    }
}

/// Which fixes an operation sends, by their number: these first, and those after or at the same time. The last one of the first
/// batch is in both.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Batches {
    one: std::ops::Range<u8>,
    other: std::ops::Range<u8>,
}

fn batches(seed: u64, operation: u64, kind: Kind) -> Batches {
    let mut random = super::random_of(seed, operation, 3);
    let mut few = || match random.random_range(0..10) {
        0 => random.random_range(9..=FIXES_MAX / 3),
        _ => random.random_range(2..=6_u8),
    };
    let (one, more, shared) = (few(), few(), few());
    match kind {
        Kind::Superset => Batches { one: 0..one, other: 0..one + more },
        Kind::Shared => Batches { one: 0..one + shared, other: one..one + shared + more },
        Kind::WholeFile => Batches { one: 0..one, other: 0..one },
        _ => Batches { one: 0..1, other: 0..1 },
    }
}

/// What an operation's points are sent as: these first, and those after or at the same time.
#[must_use]
pub fn sent(seed: u64, operation: &Operation) -> [Vec<UploadId>; 2] {
    let Batches { one, other } = batches(seed, operation.index, operation.kind);
    let phones = if operation.kind == Kind::Twins { &Phone::ALL[..] } else { &Phone::ALL[..1] };
    [one, other].map(|fixes| {
        let points =
            phones.iter().flat_map(|phone| fixes.clone().map(move |fix| Point { phone: *phone, fix }));
        points.map(|point| UploadId { operation: operation.index, variant: Variant::Point(point) }).collect()
    })
}

/// Whether a point breaks a rule, so that it has to be set aside: the last one of Overland's first batch, which is in both.
#[must_use]
pub fn is_bad(seed: u64, operation: u64, point: Point) -> bool {
    let kind = super::operation(seed, operation).kind;
    matches!(kind, Kind::Superset | Kind::Shared) && point.fix + 1 == batches(seed, operation, kind).one.end
}

pub(super) fn upload(seed: u64, operation: u64, point: Point) -> Upload {
    let Point { phone, fix } = point;
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x706f_696e);
    random.set_stream(operation * u64::from(FIXES_MAX) + u64::from(fix));
    let digits = marks(seed).digits;
    let (mut latitude, longitude) =
        (coordinate(&mut random, &digits, 89), coordinate(&mut random, &digits, 179));
    if is_bad(seed, operation, point) {
        latitude += BAD_LATITUDE_FROM.copysign(latitude);
    }
    let number = i64::try_from(operation).expect("a run has fewer operations than seconds");
    let captured_at = CAPTURED_FROM + (number * i64::from(FIXES_MAX) + i64::from(fix)) * FIX_EVERY;
    let mut location = Location::new(captured_at, latitude, longitude);
    // What each of the phones knows, so that the point of one is never whole with the device of another.
    for one in Phone::ALL {
        let (accuracy, altitude, bearing) = (
            random.random_range(1.0..100.0),
            random.random_range(1.0..3000.0),
            random.random_range(1.0..360.0),
        );
        if one == phone {
            (location.accuracy, location.altitude, location.bearing) =
                (Some(accuracy), Some(altitude), Some(bearing));
        }
    }
    Upload { device: phone.device(operation), locations: vec![location] }
}

/// The first phone's point that has this capture time.
pub(super) fn identify(captured_at: i64) -> Option<UploadId> {
    let since = captured_at.checked_sub(CAPTURED_FROM)?;
    let number = u64::try_from(since / FIX_EVERY).ok().filter(|_| since >= 0 && since % FIX_EVERY == 0)?;
    let fix = u8::try_from(number % u64::from(FIXES_MAX)).ok()?;
    let point = Point { phone: Phone::First, fix };
    Some(UploadId { operation: number / u64::from(FIXES_MAX), variant: Variant::Point(point) })
}

/// The point of this device, of this account if that is known, that has the time and place of `id`, the first phone's; that one if no
/// phone is meant.
#[must_use]
pub fn of_device(seed: u64, id: UploadId, device: &str, account: Option<usize>) -> UploadId {
    let Variant::Point(point) = id.variant else { return id };
    let of_operation = super::operation(seed, id.operation).account;
    let is_it = |phone: &Phone| {
        phone.device(id.operation) == device
            && account.is_none_or(|account| account == phone.account(of_operation))
    };
    let phone = Phone::ALL.into_iter().find(is_it).unwrap_or(point.phone);
    UploadId { variant: Variant::Point(Point { phone, ..point }), ..id }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::operation::{self, count};

    const SEED: u64 = 7;

    /// Operations of apps.
    fn operations() -> impl Iterator<Item = Operation> {
        (0..3000).map(|index| operation::operation(SEED, index)).filter(|one| one.kind.is_of_app())
    }

    proptest! {
        #[test]
        fn a_point_is_made_again_bit_for_bit_and_shows_by_time_device_and_account_whose_it_is(
            seed: u64, index in 0..10_000_000_u64, phone in 0..3_usize, fix in 0..FIXES_MAX,
        ) {
            let id = UploadId { operation: index, variant: Variant::Point(Point { phone: Phone::ALL[phone], fix }) };
            let made = operation::upload(seed, id);
            prop_assert_eq!(&made, &operation::upload(seed, id));
            let (first, ordinal) = operation::identify(made.locations[0].timestamp).unwrap();
            prop_assert_eq!((first.operation, ordinal), (index, 0));
            let account = Phone::ALL[phone].account(operation::operation(seed, index).account);
            prop_assert_eq!(of_device(seed, first, &made.device, Some(account)), id);
            prop_assert!(made.locations[0].latitude.to_string().contains(&marks(seed).digits));
        }
    }

    #[test]
    fn a_superset_holds_all_of_its_batch_and_more_and_batches_in_flight_share_points() {
        for operation in operations() {
            let [one, other] = sent(SEED, &operation).map(BTreeSet::from_iter);
            match operation.kind {
                Kind::Superset => assert!(one.is_subset(&other) && one.len() < other.len()),
                Kind::Shared => {
                    assert!(!one.is_disjoint(&other) && !one.is_subset(&other) && !other.is_subset(&one));
                }
                _ => assert_eq!(one, other),
            }
            assert!(other.iter().chain(&one).all(|id| id.operation == operation.index));
        }
    }

    #[test]
    fn each_batch_of_overland_has_one_bad_point_in_both_and_nothing_is_stored_of_it() {
        for operation in operations() {
            let is_overlands = matches!(operation.kind, Kind::Superset | Kind::Shared);
            for batch in sent(SEED, &operation) {
                let bad: Vec<&UploadId> = batch.iter().filter(|id| count(SEED, **id) == 0).collect();
                assert_eq!(bad.len(), usize::from(is_overlands), "{operation:?}");
                for id in &batch {
                    let latitude = operation::upload(SEED, *id).locations[0].latitude;
                    assert_eq!(latitude.abs() > 90.0, bad.contains(&id), "{id}");
                }
            }
        }
    }

    #[test]
    fn twins_have_one_time_and_place_and_nothing_else_in_common() {
        let twins = operations().find(|one| one.kind == Kind::Twins).unwrap();
        let [one, _] = sent(SEED, &twins);
        let made: Vec<Upload> = one.iter().map(|id| operation::upload(SEED, *id)).collect();
        let [first, second, strangers] = &made[..] else { panic!("{made:?}") };
        assert_eq!(first.device, strangers.device);
        assert_ne!(first.device, second.device);
        for (a, b) in [(first, second), (first, strangers), (second, strangers)] {
            let (a, b) = (&a.locations[0], &b.locations[0]);
            assert_eq!((a.timestamp, a.latitude, a.longitude), (b.timestamp, b.latitude, b.longitude));
            assert_ne!(a.accuracy, b.accuracy);
        }
    }
}
