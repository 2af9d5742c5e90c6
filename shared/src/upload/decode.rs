//! From JSON to an upload, naming every fault by its path.

use std::fmt;

use super::{FAULTS_MAX, Fault, Invalid, LOCATIONS_MAX, Location, Shape, Upload};
use crate::json::Json;

/// What may differ between programs; everything else about an upload is fixed.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Most locations in a batch.
    pub locations_max: usize,
    /// Greatest `timestamp`, milliseconds since 1970.
    pub timestamp_max: i64,
}

impl Rules {
    /// What the tables can hold: the rules for records that a gateway has already let in.
    pub const STORABLE: Self = Self { locations_max: LOCATIONS_MAX, timestamp_max: YEAR_9999_MS };
}

/// The last millisecond of the year 9999, far inside what Postgres can hold.
const YEAR_9999_MS: i64 = 253_402_300_799_999;
const DEVICE_CHARS_MAX: usize = 128;
const LABEL_CHARS_MAX: usize = 64;

/// Decodes and validates a body.
///
/// # Errors
/// [`Invalid`], naming everything that is wrong.
pub fn decode(body: &[u8], shape: Shape, rules: Rules) -> Result<Upload, Invalid> {
    let json =
        Json::parse(body).map_err(|error| Invalid::Syntax { line: error.line(), column: error.column() })?;
    decode_json(&json, shape, rules)
}

/// As [`decode`], for JSON that is already parsed.
///
/// # Errors
/// [`Invalid`], naming everything that is wrong.
pub fn decode_json(json: &Json<'_>, shape: Shape, rules: Rules) -> Result<Upload, Invalid> {
    let mut faults = Faults::default();
    let Json::Object(fields) = json else {
        faults.add(Path::Body(""), format_args!("must be an object, not {}", json.kind()));
        return Err(faults.into_invalid());
    };
    let upload = match shape {
        Shape::Single => single(fields, rules, &mut faults),
        Shape::Batch => batch(fields, rules, &mut faults)?,
    };
    match upload {
        Some(upload) if faults.total == 0 => Ok(upload),
        _ => Err(faults.into_invalid()),
    }
}

type Fields<'a> = [(std::borrow::Cow<'a, str>, Json<'a>)];

fn single(fields: &Fields<'_>, rules: Rules, faults: &mut Faults) -> Option<Upload> {
    let mut device = None;
    let mut location = Slots::default();
    for (name, value) in fields {
        match name.as_ref() {
            "deviceId" | "device_id" => fill(&mut device, value, Path::Body("deviceId"), faults),
            _ => location.fill(name, value, None, faults),
        }
    }
    let device = device_text(device, faults);
    let location = location.validate(None, rules, faults);
    Some(Upload { device: device?, locations: vec![location?] })
}

fn batch(fields: &Fields<'_>, rules: Rules, faults: &mut Faults) -> Result<Option<Upload>, Invalid> {
    let mut device = None;
    let mut locations = None;
    for (name, value) in fields {
        match name.as_ref() {
            "deviceId" | "device_id" => fill(&mut device, value, Path::Body("deviceId"), faults),
            "locations" => fill(&mut locations, value, Path::Body("locations"), faults),
            _ => faults.add_unknown(None, name),
        }
    }
    let device = device_text(device, faults);
    let path = Path::Body("locations");
    let items = match locations {
        None => {
            faults.add(path, "is required");
            return Ok(None);
        }
        Some(Json::Array(items)) => items,
        Some(other) => {
            faults.add(path, format_args!("must be an array, not {}", other.kind()));
            return Ok(None);
        }
    };
    if items.is_empty() {
        faults.add(path, "must hold at least one location");
    }
    let max = rules.locations_max.min(LOCATIONS_MAX);
    if items.len() > max {
        return Err(Invalid::TooMany { max });
    }
    let mut decoded = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        decoded.extend(batch_item(index, item, rules, faults));
    }
    Ok(device.map(|device| Upload { device, locations: decoded }))
}

fn batch_item(index: usize, item: &Json<'_>, rules: Rules, faults: &mut Faults) -> Option<Location> {
    let Json::Object(fields) = item else {
        faults.add(Path::Item(index), format_args!("must be an object, not {}", item.kind()));
        return None;
    };
    let mut slots = Slots::default();
    for (name, value) in fields {
        slots.fill(name, value, Some(index), faults);
    }
    slots.validate(Some(index), rules, faults)
}

fn device_text(value: Option<&Json<'_>>, faults: &mut Faults) -> Option<String> {
    let path = Path::Body("deviceId");
    let text = required(text(value, path, DEVICE_CHARS_MAX, faults), value, path, faults)?;
    if text.is_empty() {
        faults.add(path, "must not be empty");
    }
    Some(text)
}

/// The values found for the fields of one location, before they are judged.
#[derive(Default)]
struct Slots<'a> {
    timestamp: Option<&'a Json<'a>>,
    latitude: Option<&'a Json<'a>>,
    longitude: Option<&'a Json<'a>>,
    accuracy: Option<&'a Json<'a>>,
    altitude: Option<&'a Json<'a>>,
    bearing: Option<&'a Json<'a>>,
    speed: Option<&'a Json<'a>>,
    battery_level: Option<&'a Json<'a>>,
    provider: Option<&'a Json<'a>>,
    network_type: Option<&'a Json<'a>>,
}

impl<'a> Slots<'a> {
    fn fill(&mut self, name: &str, value: &'a Json<'a>, index: Option<usize>, faults: &mut Faults) {
        let (slot, name) = match name {
            "timestamp" => (&mut self.timestamp, "timestamp"),
            "latitude" => (&mut self.latitude, "latitude"),
            "longitude" => (&mut self.longitude, "longitude"),
            "accuracy" => (&mut self.accuracy, "accuracy"),
            "altitude" => (&mut self.altitude, "altitude"),
            "bearing" => (&mut self.bearing, "bearing"),
            "speed" => (&mut self.speed, "speed"),
            "batteryLevel" | "battery_level" => (&mut self.battery_level, "batteryLevel"),
            "provider" => (&mut self.provider, "provider"),
            "networkType" | "network_type" => (&mut self.network_type, "networkType"),
            _ => return faults.add_unknown(index, name),
        };
        fill(slot, value, Path::of(index, name), faults);
    }

    fn validate(self, index: Option<usize>, rules: Rules, faults: &mut Faults) -> Option<Location> {
        let path = |name| Path::of(index, name);
        let number = |value, name, min, max, faults: &mut Faults| number(value, path(name), min, max, faults);
        let needed = |value, name, min, max, faults: &mut Faults| {
            required(number(value, name, min, max, faults), value, path(name), faults)
        };
        let timestamp = timestamp(self.timestamp, path("timestamp"), rules.timestamp_max, faults);
        let latitude = needed(self.latitude, "latitude", -90.0, 90.0, faults);
        let longitude = needed(self.longitude, "longitude", -180.0, 180.0, faults);
        let accuracy = number(self.accuracy, "accuracy", 0.0, 1e8, faults);
        let altitude = number(self.altitude, "altitude", -1e5, 1e8, faults);
        let bearing = number(self.bearing, "bearing", 0.0, 360.0, faults);
        let speed = number(self.speed, "speed", 0.0, 1e5, faults);
        let battery_level = number(self.battery_level, "batteryLevel", 0.0, 100.0, faults);
        let provider = text(self.provider, path("provider"), LABEL_CHARS_MAX, faults);
        let network_type = text(self.network_type, path("networkType"), LABEL_CHARS_MAX, faults);
        Some(Location {
            timestamp: timestamp?,
            latitude: latitude?,
            longitude: longitude?,
            accuracy,
            altitude,
            bearing,
            speed,
            battery_level,
            provider,
            network_type,
        })
    }
}

fn fill<'a>(slot: &mut Option<&'a Json<'a>>, value: &'a Json<'a>, path: Path<'_>, faults: &mut Faults) {
    if slot.replace(value).is_some() {
        faults.add(path, "is given twice; both spellings of a name count as one field");
    }
}

/// `null` is absent, as many JSON encoders write it.
fn present<'a>(value: Option<&'a Json<'a>>) -> Option<&'a Json<'a>> {
    value.filter(|value| **value != Json::Null)
}

fn required<T>(
    decoded: Option<T>,
    value: Option<&Json<'_>>,
    path: Path<'_>,
    faults: &mut Faults,
) -> Option<T> {
    if present(value).is_none() {
        faults.add(path, "is required");
    }
    decoded
}

#[expect(clippy::cast_precision_loss, reason = "an integer beyond 2^53 lies outside of every range here")]
fn number(value: Option<&Json<'_>>, path: Path<'_>, min: f64, max: f64, faults: &mut Faults) -> Option<f64> {
    let number = match present(value)? {
        Json::Integer(integer) => *integer as f64,
        Json::Float(float) => *float,
        other => {
            faults.add(path, format_args!("must be a number, not {}", other.kind()));
            return None;
        }
    };
    if !(min..=max).contains(&number) {
        faults.add(path, format_args!("must be between {min} and {max}"));
        return None;
    }
    Some(number)
}

fn timestamp(value: Option<&Json<'_>>, path: Path<'_>, max: i64, faults: &mut Faults) -> Option<i64> {
    let millis = match present(value) {
        None => {
            faults.add(path, "is required");
            return None;
        }
        Some(Json::Integer(integer)) => *integer,
        #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^53 is exact")]
        Some(Json::Float(float)) if float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0 => {
            *float as i64
        }
        Some(Json::Float(_)) => {
            faults.add(path, "must be a whole number of milliseconds since 1970");
            return None;
        }
        Some(other) => {
            faults.add(path, format_args!("must be a number, not {}", other.kind()));
            return None;
        }
    };
    if millis < 0 {
        faults.add(path, "must not be before 1970");
        return None;
    }
    if millis > max {
        faults.add(path, "is too far in the future; it counts milliseconds since 1970");
        return None;
    }
    Some(millis)
}

/// Control characters are refused because none belongs in a label, and Postgres cannot store U+0000.
fn text(value: Option<&Json<'_>>, path: Path<'_>, max: usize, faults: &mut Faults) -> Option<String> {
    let value = present(value)?;
    let Some(text) = value.as_text() else {
        faults.add(path, format_args!("must be a string, not {}", value.kind()));
        return None;
    };
    if text.chars().count() > max {
        faults.add(path, format_args!("must have at most {max} characters"));
        return None;
    }
    if text.chars().any(char::is_control) {
        faults.add(path, "must not contain control characters");
        return None;
    }
    Some(text.to_owned())
}

/// Where a fault is; only spelled out when there is one.
#[derive(Clone, Copy)]
enum Path<'a> {
    Body(&'a str),
    Item(usize),
    ItemField(usize, &'a str),
}

impl<'a> Path<'a> {
    fn of(index: Option<usize>, name: &'a str) -> Self {
        index.map_or(Self::Body(name), |index| Self::ItemField(index, name))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(name) => f.write_str(name),
            Self::Item(index) => write!(f, "locations[{index}]"),
            Self::ItemField(index, name) => write!(f, "locations[{index}].{name}"),
        }
    }
}

#[derive(Default)]
struct Faults {
    listed: Vec<Fault>,
    total: usize,
}

impl Faults {
    fn add(&mut self, path: Path<'_>, message: impl fmt::Display) {
        self.total += 1;
        if self.listed.len() < FAULTS_MAX {
            self.listed.push(Fault { field: path.to_string(), message: message.to_string() });
        }
    }

    /// The name is the client's own text: cut and cleaned before it is shown back.
    fn add_unknown(&mut self, index: Option<usize>, name: &str) {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(40).collect();
        self.add(Path::of(index, &shown), "is not a known field");
    }

    fn into_invalid(self) -> Invalid {
        Invalid::Faults { faults: self.listed, total: self.total }
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
