//! The fields of a location, once: what decoding, fingerprint, journal, facts and the columns of `locations` are made from.
//!
//! A new optional number is a field of [`Location`] and a row of [`NUMBERS`]; besides, a migration adds its column, and
//! `shared/proto/location_uploads.proto` and docs/http-api.md get a line each. Tests name what is missing.

use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// One location fix. Optional fields are absent from JSON when unknown.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Location {
    /// When the phone took the fix, milliseconds since 1970; any age is accepted.
    pub timestamp: i64,
    /// Degrees.
    pub latitude: f64,
    /// Degrees.
    pub longitude: f64,
    /// Radius of the fix in metres.
    pub accuracy: Option<f64>,
    /// Metres: above the ellipsoid if the client knows it, else above mean sea level.
    pub altitude: Option<f64>,
    /// Degrees clockwise from north.
    pub bearing: Option<f64>,
    /// Metres per second.
    pub speed: Option<f64>,
    /// Percent.
    pub battery_level: Option<f64>,
    /// What made the fix, such as `gps`.
    pub provider: Option<String>,
    /// The network at the time, such as `wifi`.
    pub network_type: Option<String>,
}

/// What the absence of a number means, and a negative one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It must be there.
    Required,
    /// It may be absent.
    Optional,
    /// It may be absent, and a negative one in JSON is: it is how phones say that they do not know.
    UnlessNegative,
}

/// A field that holds a number.
#[derive(Debug)]
pub struct Number {
    /// What it is in the journal and in the fingerprint: never changed and never used again. 1 to 63, rising with the rows.
    pub tag: u8,
    /// The first schema of the journal that has it.
    pub since: u32,
    /// Its name in JSON.
    pub name: &'static str,
    /// The other spelling that JSON may have, and its column of `locations`.
    pub other: &'static str,
    /// Whether it must be there.
    pub presence: Presence,
    /// Least value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
    /// The journal holds whole multiples of one part of so many; what is none of them takes more room there, and loses nothing.
    pub parts: f64,
    /// Reads it.
    pub get: fn(&Location) -> Option<f64>,
    /// Sets it.
    pub set: fn(&mut Location, f64),
}

/// A field that holds a text, none of which must be there.
#[derive(Debug)]
pub struct Text {
    /// As of a [`Number`].
    pub tag: u8,
    /// As of a [`Number`].
    pub since: u32,
    /// Its name in JSON.
    pub name: &'static str,
    /// The other spelling that JSON may have, and its column of `locations`.
    pub other: &'static str,
    /// Reads it.
    pub get: fn(&Location) -> Option<&str>,
    /// Sets it.
    pub set: fn(&mut Location, String),
}

/// The tag of `timestamp`, which is in a column of its own name: `captured_at`.
pub const TIMESTAMP_TAG: u8 = 1;
/// Most characters of a [`Text`].
pub const TEXT_CHARS_MAX: usize = 64;

use Presence::{Optional, Required, UnlessNegative};

/// The numbers, in the order of facts and columns.
#[rustfmt::skip]
pub static NUMBERS: [Number; 7] = [
    Number { tag: 2, since: 1, name: "latitude", other: "latitude", presence: Required, min: -90.0, max: 90.0, parts: 1e7,
        get: |l| Some(l.latitude), set: |l, value| l.latitude = value },
    Number { tag: 3, since: 1, name: "longitude", other: "longitude", presence: Required, min: -180.0, max: 180.0, parts: 1e7,
        get: |l| Some(l.longitude), set: |l, value| l.longitude = value },
    Number { tag: 4, since: 1, name: "accuracy", other: "accuracy", presence: UnlessNegative, min: 0.0, max: 1e8, parts: 1e3,
        get: |l| l.accuracy, set: |l, value| l.accuracy = Some(value) },
    Number { tag: 5, since: 1, name: "altitude", other: "altitude", presence: Optional, min: -1e5, max: 1e8, parts: 1e3,
        get: |l| l.altitude, set: |l, value| l.altitude = Some(value) },
    Number { tag: 6, since: 1, name: "bearing", other: "bearing", presence: UnlessNegative, min: 0.0, max: 360.0, parts: 1e3,
        get: |l| l.bearing, set: |l, value| l.bearing = Some(value) },
    Number { tag: 7, since: 1, name: "speed", other: "speed", presence: UnlessNegative, min: 0.0, max: 1e5, parts: 1e3,
        get: |l| l.speed, set: |l, value| l.speed = Some(value) },
    Number { tag: 8, since: 1, name: "batteryLevel", other: "battery_level", presence: Optional, min: 0.0, max: 100.0, parts: 1e2,
        get: |l| l.battery_level, set: |l, value| l.battery_level = Some(value) },
];

/// The texts, behind the numbers in facts and columns.
#[rustfmt::skip]
pub static TEXTS: [Text; 2] = [
    Text { tag: 9, since: 1, name: "provider", other: "provider",
        get: |l| l.provider.as_deref(), set: |l, text| l.provider = Some(text) },
    Text { tag: 10, since: 1, name: "networkType", other: "network_type",
        get: |l| l.network_type.as_deref(), set: |l, text| l.network_type = Some(text) },
];

impl Location {
    /// A fix without any optional field.
    #[must_use]
    pub fn new(timestamp: i64, latitude: f64, longitude: f64) -> Self {
        Self { timestamp, latitude, longitude, ..Self::default() }
    }

    /// The first schema of the journal that has all its fields.
    #[must_use]
    pub fn schema(&self) -> u32 {
        let later = NUMBERS.iter().filter(|number| number.since > 1 && (number.get)(self).is_some());
        let later = later.map(|number| number.since);
        let texts = TEXTS.iter().filter(|text| text.since > 1 && (text.get)(self).is_some());
        later.chain(texts.map(|text| text.since)).max().unwrap_or(1)
    }
}

/// As facts have it.
impl Serialize for Location {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &self.timestamp)?;
        for number in &NUMBERS {
            if let Some(value) = (number.get)(self) {
                map.serialize_entry(number.name, &value)?;
            }
        }
        for text in &TEXTS {
            if let Some(value) = (text.get)(self) {
                map.serialize_entry(text.name, value)?;
            }
        }
        map.end()
    }
}

impl Number {
    /// Why a value is none of its own; names no value.
    ///
    /// # Errors
    /// It is out of range.
    pub fn check(&self, value: f64) -> Result<(), String> {
        let Self { min, max, .. } = self;
        // Not a number is in no range.
        if (*min..=*max).contains(&value) { Ok(()) } else { Err(format!("must be between {min} and {max}")) }
    }
}

/// What is wrong with a text. Control characters are refused because none belongs in a label, and Postgres cannot store U+0000.
///
/// # Errors
/// It is too long, or not printable.
pub fn check_text(text: &str, chars_max: usize) -> Result<(), String> {
    if text.len() > chars_max && text.chars().count() > chars_max {
        return Err(format!("must have at most {chars_max} characters"));
    }
    if text.chars().any(char::is_control) {
        return Err("must not contain control characters".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const HTTP_API: &str = include_str!("../../../docs/http-api.md");

    /// A location with everything in it.
    fn full() -> Location {
        let mut location = Location::new(5, 1.0, 2.0);
        NUMBERS.iter().for_each(|number| (number.set)(&mut location, number.max));
        TEXTS.iter().for_each(|text| (text.set)(&mut location, text.name.to_owned()));
        location
    }

    #[test]
    fn each_field_is_set_and_read_by_its_row_and_by_no_other() {
        let names = NUMBERS.iter().map(|n| n.name).chain(TEXTS.iter().map(|t| t.name));
        let json = serde_json::to_value(full()).unwrap();
        for name in names.clone() {
            let value = &json[name];
            let number = NUMBERS.iter().find(|number| number.name == name);
            assert!(value.as_f64() == number.map(|number| number.max), "{name} is {value}");
            assert!(number.is_some() || value == name, "{name} is {value}");
        }
        assert_eq!(json.as_object().unwrap().len(), 1 + names.count());
    }

    #[test]
    fn tags_rise_and_fit_a_byte_with_the_bit_of_the_long_form() {
        let tags = NUMBERS.iter().map(|n| n.tag).chain(TEXTS.iter().map(|t| t.tag));
        let set: BTreeSet<u8> = tags.clone().collect();
        assert_eq!(set.len(), tags.clone().count());
        assert!(tags.clone().all(|tag| (2..64).contains(&tag)));
        assert!(NUMBERS.is_sorted_by_key(|number| number.tag) && TEXTS.is_sorted_by_key(|text| text.tag));
    }

    /// As documented: `1,000` for a thousand.
    fn with_commas(number: f64) -> String {
        let digits = format!("{number}");
        let (sign, digits) = digits.strip_prefix('-').map_or(("", &digits[..]), |digits| ("-", digits));
        let groups: Vec<&str> =
            digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap()).collect();
        format!("{sign}{}", groups.join(","))
    }

    #[test]
    fn the_document_has_a_row_with_the_range_of_each_field_and_no_other_row() {
        let table =
            HTTP_API.split_once("| field | | unit and range |").unwrap().1.split("\n\n").next().unwrap();
        let rows: Vec<Vec<&str>> =
            table.lines().skip(2).map(|line| line.split('|').map(str::trim).collect()).collect();
        let row = |name: &str| rows.iter().find(|row| row[1] == format!("`{name}`")).unwrap();
        for number in &NUMBERS {
            let (row, range) =
                (row(number.name), format!("{} to {}", with_commas(number.min), with_commas(number.max)));
            assert!(row[3].contains(&range), "{row:?} lacks {range}");
            assert_eq!(row[2] == "required", number.presence == Required, "{row:?}");
            let is_absent = row[3].contains("negative counts as absent");
            assert_eq!(is_absent, number.presence == UnlessNegative, "{row:?}");
        }
        for text in &TEXTS {
            assert!(row(text.name)[3].contains(&format!("at most {TEXT_CHARS_MAX} characters")));
        }
        assert_eq!(rows.len(), ["deviceId", "timestamp"].len() + NUMBERS.len() + TEXTS.len());
        let spellings =
            NUMBERS.iter().map(|n| (n.name, n.other)).chain(TEXTS.iter().map(|t| (t.name, t.other)));
        for (name, other) in spellings.filter(|(name, other)| name != other) {
            assert!(HTTP_API.contains(&format!("`{other}`")), "the other spelling of {name}");
        }
    }
}
