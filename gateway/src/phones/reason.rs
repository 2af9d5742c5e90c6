//! Why points are set aside.

/// Why a point was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// It has no latitude.
    LatitudeMissing,
    /// It has no longitude.
    LongitudeMissing,
    /// Not within -90..=90.
    LatitudeOutOfRange,
    /// Not within -180..=180.
    LongitudeOutOfRange,
    /// A coordinate is no finite number.
    NotANumber,
    /// A time is there, but it is none that can be read.
    TimeUnreadable,
    /// The time is 1970 or before, as apps write that they know none.
    NoTime,
    /// The time is too far ahead.
    TooFarAhead,
    /// The device's name is empty where the app demands one, too long, or has control characters.
    DeviceName,
    /// Only the phone and its friends can read it.
    Encrypted,
    /// It is neither an object nor what this app sends in place of one.
    Undecodable,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::LatitudeMissing,
        Self::LongitudeMissing,
        Self::LatitudeOutOfRange,
        Self::LongitudeOutOfRange,
        Self::NotANumber,
        Self::TimeUnreadable,
        Self::NoTime,
        Self::TooFarAhead,
        Self::DeviceName,
        Self::Encrypted,
        Self::Undecodable,
    ];

    /// Its name in metrics, dead letters and documents; never changed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LatitudeMissing => "latitude-missing",
            Self::LongitudeMissing => "longitude-missing",
            Self::LatitudeOutOfRange => "latitude-out-of-range",
            Self::LongitudeOutOfRange => "longitude-out-of-range",
            Self::NotANumber => "not-a-number",
            Self::TimeUnreadable => "time-unreadable",
            Self::NoTime => "no-time",
            Self::TooFarAhead => "too-far-ahead",
            Self::DeviceName => "device-name",
            Self::Encrypted => "encrypted",
            Self::Undecodable => "undecodable",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use milepost_shared::journal::set_aside::{APPS, REASONS};

    use super::*;
    use crate::phones::Protocol;

    #[test]
    fn what_the_consumer_counts_has_the_names_that_gateways_write() {
        assert_eq!(BTreeSet::from(REASONS), Reason::ALL.iter().map(|reason| reason.name()).collect());
        assert_eq!(BTreeSet::from(APPS), Protocol::ALL.iter().map(|protocol| protocol.name()).collect());
    }
}
