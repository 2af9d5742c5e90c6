//! One point of a GPX file: what is read of it, and when that is a location Milepost takes. Pure.

use std::ops::RangeInclusive;

use serde::Serialize;
use time::format_description::well_known::{Iso8601, Rfc3339};
use time::{OffsetDateTime, PrimitiveDateTime};

/// The least `timestamp` that Milepost takes, in milliseconds: 3 March 1973. What is below was meant in seconds, or
/// comes from a clock that was never set.
pub const TIMESTAMP_MIN: i64 = 100_000_000_000;

/// The altitudes that Milepost takes, in metres.
const ALTITUDES: RangeInclusive<f64> = -1e5..=1e8;

/// The longest text of a number or a time, in bytes, without the white space around it.
const VALUE_BYTES_MAX: usize = 64;

/// One point as a phone reports it; its JSON is one location of an upload.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Point {
    /// When the point was captured, in milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp: i64,
    /// Degrees north, WGS 84; the very bits the file's text parses to.
    pub latitude: f64,
    /// Degrees east, WGS 84; the very bits the file's text parses to.
    pub longitude: f64,
    /// Radius in metres.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Metres above the ellipsoid if the file has `ele` and `geoidheight`; else `ele`, above mean sea level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub altitude: Option<f64>,
    /// Degrees clockwise from north.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearing: Option<f64>,
    /// Metres per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<f64>,
    /// What located the phone: `gps`.
    pub provider: &'static str,
}

/// What is read of a point.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Field {
    /// `time`.
    Time,
    /// `ele`, above mean sea level.
    Elevation,
    /// `geoidheight`: mean sea level above the ellipsoid.
    GeoidHeight,
    /// `speed`, in metres per second: of GPX 1.0, OsmAnd, Garmin and Apple Health.
    Speed,
    /// `course`: of GPX 1.0, Garmin and Apple Health.
    Course,
    /// `bearing`, for want of a course.
    Bearing,
    /// `accuracy` and its other names, such as Apple Health's `hAcc`.
    Accuracy,
    /// `vAcc`: below zero, the elevation is none.
    VerticalAccuracy,
    /// `hdop`: no length, but in files of OsmAnd, which writes its accuracy there.
    Dilution,
}

impl Field {
    /// The field of an element, by its name without a prefix. Prefixes are the writer's choice, and no two common
    /// extensions mean different things by one of these names.
    #[must_use]
    pub fn named(name: &str, is_in_extension: bool) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "speed" => Some(Self::Speed),
            "course" | "cog" => Some(Self::Course),
            "bearing" => Some(Self::Bearing),
            "accuracy" | "hacc" | "accuracy_horizontal" | "horizontal_accuracy" | "horizontalaccuracy" => {
                Some(Self::Accuracy)
            }
            "vacc" | "accuracy_vertical" | "vertical_accuracy" | "verticalaccuracy" => {
                Some(Self::VerticalAccuracy)
            }
            "geoidheight" => Some(Self::GeoidHeight),
            "time" if !is_in_extension => Some(Self::Time),
            "ele" if !is_in_extension => Some(Self::Elevation),
            "hdop" if !is_in_extension => Some(Self::Dilution),
            _ => None,
        }
    }
}

/// Why a point cannot be sent. Values are not quoted: coordinates are private.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Flaw {
    /// No `lat`, or it is no number in its range.
    #[error("its latitude is no number from -90 to 90")]
    Latitude,
    /// No `lon`, or it is no number in its range.
    #[error("its longitude is no number from -180 to 180")]
    Longitude,
    /// `time` holds something else.
    #[error("its time is no date and time")]
    Time,
    /// Before [`TIMESTAMP_MIN`].
    #[error("its time is before 1973, as of a clock that was never set")]
    Early,
    /// Later than may be.
    #[error("its time is more than 24 h ahead of this clock")]
    Ahead,
    /// A point within another.
    #[error("it stands within another point")]
    Nested,
}

/// The values of a point, as far as they are read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values {
    latitude: Option<f64>,
    longitude: Option<f64>,
    /// Absent, or not readable.
    time: Option<Option<i64>>,
    elevation: Option<f64>,
    geoid_height: Option<f64>,
    speed: Option<f64>,
    course: Option<f64>,
    bearing: Option<f64>,
    accuracy: Option<f64>,
    vertical_accuracy: Option<f64>,
    dilution: Option<f64>,
}

impl Values {
    /// Takes the value of an attribute of the point.
    pub fn put_attribute(&mut self, name: &str, text: &str) {
        match name {
            "lat" => self.latitude = number(text).filter(|degrees| (-90.0..=90.0).contains(degrees)),
            "lon" => self.longitude = number(text).filter(|degrees| (-180.0..=180.0).contains(degrees)),
            _ => {}
        }
    }

    /// Takes the text of a field. The first that can be used counts; what Milepost would refuse, or take for absent,
    /// is absent: a point is worth sending without its speed.
    pub fn put(&mut self, field: Field, text: &str) {
        let (slot, range) = match field {
            Field::Time => {
                if self.time.is_none() && !text.trim_ascii().is_empty() {
                    self.time = Some(millis(text));
                }
                return;
            }
            Field::Elevation => (&mut self.elevation, ALTITUDES),
            Field::GeoidHeight => (&mut self.geoid_height, -1e3..=1e3),
            Field::Speed => (&mut self.speed, 0.0..=1e5),
            Field::Course => (&mut self.course, 0.0..=360.0),
            Field::Bearing => (&mut self.bearing, 0.0..=360.0),
            Field::Accuracy => (&mut self.accuracy, 0.0..=1e8),
            Field::VerticalAccuracy => (&mut self.vertical_accuracy, -1e8..=1e8),
            Field::Dilution => (&mut self.dilution, 0.0..=1e8),
        };
        *slot = slot.or_else(|| number(text).filter(|number| range.contains(number)));
    }

    /// The point; nothing if it has no time. `dilution_is_accuracy` in files of OsmAnd.
    ///
    /// # Errors
    ///
    /// The first flaw.
    pub fn point(&self, dilution_is_accuracy: bool) -> Result<Option<Point>, Flaw> {
        let latitude = self.latitude.ok_or(Flaw::Latitude)?;
        let longitude = self.longitude.ok_or(Flaw::Longitude)?;
        let Some(time) = self.time else { return Ok(None) };
        let timestamp = time.ok_or(Flaw::Time)?;
        if timestamp < TIMESTAMP_MIN {
            return Err(Flaw::Early);
        }
        Ok(Some(Point {
            timestamp,
            latitude,
            longitude,
            accuracy: self.accuracy.or(self.dilution.filter(|_| dilution_is_accuracy)),
            altitude: self.altitude(),
            bearing: self.course.or(self.bearing),
            speed: self.speed,
            provider: "gps",
        }))
    }

    fn altitude(&self) -> Option<f64> {
        // Apple's mark for an altitude that is none; the elevation beside it is 0.
        if self.vertical_accuracy.is_some_and(|metres| metres < 0.0) {
            return None;
        }
        let altitude = self.elevation.map(|metres| self.geoid_height.map_or(metres, |geoid| metres + geoid));
        altitude.filter(|metres| ALTITUDES.contains(metres))
    }
}

/// A number with white space around it. `NaN` and `inf` are numbers to Rust's parser, but not to JSON.
fn number(text: &str) -> Option<f64> {
    let text = text.trim_ascii();
    let number: f64 = text.get(..VALUE_BYTES_MAX).map_or(text, |_| "").parse().ok()?;
    number.is_finite().then_some(number)
}

/// A time in milliseconds since 1970, rounded down. Without a zone it is in UTC, as GPX wants it.
fn millis(text: &str) -> Option<i64> {
    let mut text = text.trim_ascii().to_owned();
    if text.len() > VALUE_BYTES_MAX {
        return None;
    }
    if text.as_bytes().get(10) == Some(&b' ') {
        text.replace_range(10..11, "T");
    }
    let moment = OffsetDateTime::parse(&text, &Rfc3339)
        .or_else(|_| OffsetDateTime::parse(&text, &Iso8601::PARSING))
        .or_else(|_| PrimitiveDateTime::parse(&text, &Iso8601::PARSING).map(PrimitiveDateTime::assume_utc))
        .ok()?;
    i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000_000)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A point at a place and a time, with more fields.
    fn point(fields: &[(Field, &str)]) -> Result<Option<Point>, Flaw> {
        let mut values = Values::default();
        values.put_attribute("lat", "48.2081743");
        values.put_attribute("lon", "16.3738189");
        for (field, text) in fields {
            values.put(*field, text);
        }
        values.put(Field::Time, "2026-03-14T09:26:53Z");
        values.point(false)
    }

    fn sent(fields: &[(Field, &str)]) -> Point {
        point(fields).expect("the point is good").expect("the point has a time")
    }

    #[test]
    fn times_become_whole_milliseconds_rounded_down_in_utc() {
        for (text, timestamp) in [
            ("2026-03-14T09:26:53Z", 1_773_480_413_000),
            ("  2026-03-14T09:26:53Z\n", 1_773_480_413_000),
            ("2026-03-14T10:26:53+01:00", 1_773_480_413_000),
            ("2026-03-14T10:26:53+0100", 1_773_480_413_000),
            ("2026-03-14T10:26:53+01", 1_773_480_413_000),
            ("2026-03-14T09:26:53", 1_773_480_413_000),
            ("2026-03-14 09:26:53Z", 1_773_480_413_000),
            ("2026-03-14t09:26:53z", 1_773_480_413_000),
            ("2026-03-14T09:26:53.5899Z", 1_773_480_413_589),
            ("2026-03-14T09:26:53.123456789Z", 1_773_480_413_123),
            ("2026-03-14T09:26:53,5Z", 1_773_480_413_500),
            ("2016-12-31T23:59:60Z", 1_483_228_799_999),
            ("1969-12-31T23:59:59.9995Z", -1),
            ("1970-01-01T00:00:00Z", 0),
        ] {
            assert_eq!(millis(text), Some(timestamp), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_and_time_is_none() {
        let long = format!("2026-03-14T09:26:53.{}Z", "0".repeat(64));
        for text in [
            "",
            "yesterday",
            "2026-03-14",
            "0000-00-00T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "1773480413",
            &long,
        ] {
            assert_eq!(millis(text), None, "{text}");
        }
    }

    #[test]
    fn a_number_may_have_white_space_around_it_and_has_to_be_finite() {
        for (text, value) in [
            (" 171.25\n", Some(171.25)),
            ("-1.5E-4", Some(-1.5e-4)),
            ("+5", Some(5.0)),
            ("NaN", None),
            ("inf", None),
            ("1e999", None),
            ("171,25", None),
            ("12 m", None),
            ("", None),
            (&"1".repeat(65), None),
        ] {
            assert_eq!(number(text), value, "{text}");
        }
        assert_eq!(number(&"1".repeat(63)).map(f64::is_finite), Some(true));
    }

    #[test]
    fn a_point_becomes_a_location_in_camel_case() {
        let point = sent(&[(Field::Elevation, "171.25"), (Field::Speed, "13.9")]);
        assert_eq!(
            serde_json::to_string(&point).expect("a point is JSON"),
            r#"{"timestamp":1773480413000,"latitude":48.2081743,"longitude":16.3738189,"altitude":171.25,"#
                .to_owned()
                + r#""speed":13.9,"provider":"gps"}"#
        );
    }

    #[test]
    fn what_milepost_would_refuse_or_take_for_absent_is_absent() {
        for (field, texts) in [
            (Field::Elevation, ["NaN", "-100001", "", "high"]),
            (Field::Speed, ["-1", "100001", "", "fast"]),
            (Field::Course, ["-1", "360.5", "", "north"]),
            (Field::Bearing, ["-1", "360.5", "", "north"]),
            (Field::Accuracy, ["-1", "1e9", "", "good"]),
        ] {
            for text in texts {
                assert_eq!(sent(&[(field, text)]), sent(&[]), "{field:?} {text}");
            }
        }
        assert_eq!(sent(&[(Field::Speed, "-1"), (Field::Speed, "2")]).speed, Some(2.0));
        assert_eq!(sent(&[(Field::Course, "360"), (Field::Course, "2")]).bearing, Some(360.0));
    }

    #[test]
    fn the_height_of_the_geoid_makes_an_elevation_an_altitude_above_the_ellipsoid() {
        for (fields, altitude) in [
            (vec![(Field::Elevation, "100")], Some(100.0)),
            (vec![(Field::Elevation, "100"), (Field::GeoidHeight, "45.5")], Some(145.5)),
            (vec![(Field::GeoidHeight, "-20"), (Field::Elevation, "100")], Some(80.0)),
            (vec![(Field::Elevation, "100"), (Field::GeoidHeight, "null")], Some(100.0)),
            (vec![(Field::GeoidHeight, "45.5")], None),
            // Each is good, and what they make would be refused.
            (vec![(Field::Elevation, "-99999"), (Field::GeoidHeight, "-30")], None),
            (vec![(Field::Elevation, "-99999"), (Field::GeoidHeight, "-1")], Some(-1e5)),
            (vec![(Field::Elevation, "1e8"), (Field::GeoidHeight, "0.5")], None),
            (vec![(Field::Elevation, "0"), (Field::VerticalAccuracy, "-1")], None),
            (vec![(Field::Elevation, "7"), (Field::VerticalAccuracy, "3")], Some(7.0)),
        ] {
            assert_eq!(sent(&fields).altitude, altitude, "{fields:?}");
        }
    }

    #[test]
    fn a_course_counts_before_a_bearing() {
        assert_eq!(sent(&[(Field::Bearing, "1"), (Field::Course, "2")]).bearing, Some(2.0));
        assert_eq!(sent(&[(Field::Bearing, "1"), (Field::Course, "-1")]).bearing, Some(1.0));
    }

    #[test]
    fn a_dilution_is_an_accuracy_only_where_that_is_known() {
        let mut values = Values::default();
        values.put_attribute("lat", "1");
        values.put_attribute("lon", "2");
        values.put(Field::Time, "2026-03-14T09:26:53Z");
        values.put(Field::Dilution, "3.5");
        let accuracy = |is_accuracy| values.point(is_accuracy).expect("good").expect("timed").accuracy;
        assert_eq!((accuracy(true), accuracy(false)), (Some(3.5), None));
    }

    #[test]
    fn a_point_has_a_place_on_earth_and_a_time_since_1973() {
        let at = |latitude: &str, longitude: &str, time: &str| {
            let mut values = Values::default();
            values.put_attribute("lat", latitude);
            values.put_attribute("lon", longitude);
            values.put(Field::Time, time);
            values.point(false).map(|point| point.is_some())
        };
        let time = "1973-03-03T09:46:40Z";
        for (latitude, longitude, time, found) in [
            ("90", "180", time, Ok(true)),
            (" -90 ", "-180", time, Ok(true)),
            ("1", "2", " \n", Ok(false)),
            ("90.1", "180", time, Err(Flaw::Latitude)),
            ("", "180", time, Err(Flaw::Latitude)),
            ("NaN", "180", time, Err(Flaw::Latitude)),
            ("1", "180.1", time, Err(Flaw::Longitude)),
            ("1", "2", "now", Err(Flaw::Time)),
            ("1", "2", "1973-03-03T09:46:39.999Z", Err(Flaw::Early)),
            ("1", "2", "1970-01-01T00:00:00Z", Err(Flaw::Early)),
            ("1", "2", "0000-00-00T00:00:00Z", Err(Flaw::Time)),
        ] {
            assert_eq!(at(latitude, longitude, time), found, "{latitude} {longitude} {time}");
        }
        assert_eq!(Values::default().point(false), Err(Flaw::Latitude));
    }
}
