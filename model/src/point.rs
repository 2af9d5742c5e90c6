//! The points that two phone apps send: uploads without a client's key.

use std::sync::LazyLock;

use milepost_shared::journal::key::KeyHash;

use crate::journal::ACCOUNT;
use crate::planted::PlantedBug;

/// A point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// Both apps send it.
    Shared,
    /// Only the first app sends it.
    First,
    /// Only the second app sends it. It is at the same time and place as the one before, and of another device.
    Second,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Shared, Self::First, Self::Second];

    fn key(self, device: &str) -> KeyHash {
        let timestamp = if self == Self::Shared { 1 } else { 2 };
        KeyHash::of_point(ACCOUNT, device, timestamp, 48.2, 16.4)
    }

    fn device(self) -> &'static str {
        if self == Self::Second { "watch" } else { "pixel8" }
    }
}

/// One of the two apps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum App {
    /// Has the shared point and the first one's.
    One,
    /// Has the shared point and the second one's.
    Two,
}

impl App {
    /// Both.
    pub const ALL: [Self; 2] = [Self::One, Self::Two];

    /// What it has to send, oldest first.
    #[must_use]
    pub fn points(self) -> [Point; 2] {
        match self {
            Self::One => [Point::Shared, Point::First],
            Self::Two => [Point::Shared, Point::Second],
        }
    }
}

/// A point as an app sends it: the apps do not agree about the accuracy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fix {
    /// The point.
    pub point: Point,
    /// Whose accuracy it has.
    pub app: App,
}

impl Fix {
    /// The key: the point itself.
    #[must_use]
    pub fn key(self, planted: Option<PlantedBug>) -> KeyHash {
        static SOUND: LazyLock<[KeyHash; 3]> =
            LazyLock::new(|| Point::ALL.map(|point| point.key(point.device())));
        match planted {
            Some(PlantedBug::PointWithoutDevice) => self.point.key(""),
            Some(PlantedBug::PointWithAccuracy) => {
                self.point.key(&format!("{} {:?}", self.point.device(), self.app))
            }
            _ => SOUND[self.point as usize],
        }
    }
}
