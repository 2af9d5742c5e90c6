//! Points and messages for tests of what apps send.

use super::{Message, Round};
use crate::point::Point;

/// With all that a GPX file can say of a point.
pub fn full() -> Point {
    Point {
        timestamp: 1_773_480_413_579,
        latitude: 48.208_174_3,
        longitude: 16.370_197_273_792_407,
        accuracy: Some(4.288),
        altitude: Some(171.4),
        bearing: Some(143.2),
        speed: Some(13.9),
        provider: "gps",
    }
}

/// With a place and a time only.
pub fn bare() -> Point {
    Point { accuracy: None, altitude: None, bearing: None, speed: None, ..full() }
}

/// A message of the first round.
pub const fn message(points: &[Point]) -> Message<'_> {
    Message {
        key: "mp_secret",
        device: "pixel 8",
        points,
        round: Round::First,
        made_at: 1_773_480_415,
        id: 0x9d2f_6a04,
    }
}
