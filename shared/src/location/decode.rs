//! From JSON to an upload, naming every fault by its path. Nothing is built that no upload has: what a body costs is
//! bounded by [`Rules::locations_max`] and [`FAULTS_MAX`], whatever is in it.

use std::fmt;

use serde::de::{MapAccess, SeqAccess};

use super::{FAULTS_MAX, Fault, Invalid, LOCATIONS_MAX, Location, Shape, Upload};
use crate::location::json::{self, Depth, Name, Reader, Seed, Shallow, Value};

/// What may differ between programs; everything else about an upload is fixed.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Most locations in a batch.
    pub locations_max: usize,
    /// Least `timestamp`, milliseconds since 1970: what is below was counted in seconds.
    pub timestamp_min: i64,
    /// Greatest `timestamp`, milliseconds since 1970.
    pub timestamp_max: i64,
}

impl Rules {
    /// What the tables can hold: the rules for records that a gateway has already let in.
    pub const STORABLE: Self =
        Self { locations_max: LOCATIONS_MAX, timestamp_min: 0, timestamp_max: YEAR_9999_MS };
}

/// The last millisecond of the year 9999, far inside what Postgres can hold.
const YEAR_9999_MS: i64 = 253_402_300_799_999;
const DEVICE_CHARS_MAX: usize = 128;
const LABEL_CHARS_MAX: usize = 64;
/// Written by some encoders before a text; no part of it (RFC 8259 section 8.1).
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Decodes and validates a body.
///
/// # Errors
/// [`Invalid`], naming everything that is wrong.
pub fn decode(body: &[u8], shape: Shape, rules: Rules) -> Result<Upload, Invalid> {
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let fields = match shape {
        Shape::Single => SINGLE,
        Shape::Batch => BATCH,
    };
    let mut faults = Faults::default();
    let object = Object { fields, index: None, depth: Depth::MAX, rules, faults: &mut faults };
    let draft = json::read(text, object)
        .map_err(|error| Invalid::Syntax { line: error.line(), column: error.column() })?;
    match draft.and_then(|draft| draft.into_upload(shape)) {
        _ if faults.too_many => Err(Invalid::TooMany { max: rules.locations_max.min(LOCATIONS_MAX) }),
        Some(upload) if faults.total == 0 => Ok(upload),
        _ => Err(Invalid::Faults { faults: faults.listed, total: faults.total }),
    }
}

/// A field of a body or of a location.
#[derive(Debug, Clone, Copy)]
enum Field {
    Device,
    Locations,
    Timestamp,
    Latitude,
    Longitude,
    Accuracy,
    Altitude,
    Bearing,
    Speed,
    BatteryLevel,
    Provider,
    NetworkType,
}

/// Of fields, one bit for each.
type Fields = u16;

const BATCH: Fields = Field::Device.bit() | Field::Locations.bit();
const ITEM: Fields = !BATCH;
const SINGLE: Fields = ITEM | Field::Device.bit();
/// In the order in which they are missed.
const REQUIRED: [Field; 5] =
    [Field::Device, Field::Timestamp, Field::Latitude, Field::Longitude, Field::Locations];

impl Field {
    /// Both spellings of a name are one field.
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "deviceId" | "device_id" => Self::Device,
            "locations" => Self::Locations,
            "timestamp" => Self::Timestamp,
            "latitude" => Self::Latitude,
            "longitude" => Self::Longitude,
            "accuracy" => Self::Accuracy,
            "altitude" => Self::Altitude,
            "bearing" => Self::Bearing,
            "speed" => Self::Speed,
            "batteryLevel" | "battery_level" => Self::BatteryLevel,
            "provider" => Self::Provider,
            "networkType" | "network_type" => Self::NetworkType,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Device => "deviceId",
            Self::Locations => "locations",
            Self::Timestamp => "timestamp",
            Self::Latitude => "latitude",
            Self::Longitude => "longitude",
            Self::Accuracy => "accuracy",
            Self::Altitude => "altitude",
            Self::Bearing => "bearing",
            Self::Speed => "speed",
            Self::BatteryLevel => "batteryLevel",
            Self::Provider => "provider",
            Self::NetworkType => "networkType",
        }
    }

    const fn bit(self) -> Fields {
        1 << self as Fields
    }
}

/// Reads a body or one location of a batch, which has the `index`.
struct Object<'f> {
    fields: Fields,
    index: Option<usize>,
    depth: Depth,
    rules: Rules,
    faults: &'f mut Faults,
}

impl<'de> Reader<'de> for Object<'_> {
    type Output = Option<Draft>;

    fn depth(&self) -> Depth {
        self.depth
    }

    fn value(self, value: Value<'de>) -> Option<Draft> {
        let path = self.index.map_or(Path::Body(""), Path::Item);
        self.faults.add(path, format_args!("must be an object, not {}", value.kind()));
        None
    }

    fn object<A: MapAccess<'de>>(self, mut entries: A) -> Result<Option<Draft>, A::Error> {
        let Self { fields, index, depth, rules, faults } = self;
        let depth = depth.inside()?;
        let (mut draft, mut seen) = (Draft::default(), 0);
        let known = |name: &str, faults: &mut Faults| {
            let field = Field::of(name).filter(|field| fields & field.bit() != 0);
            if field.is_none() {
                faults.add_unknown(index, name);
            }
            field
        };
        while let Some(field) = entries.next_key_seed(Name(|name: &str| known(name, faults)))? {
            let Some(field) = field else {
                entries.next_value_seed(Seed(Shallow(depth)))?;
                continue;
            };
            let path = Path::of(index, field.name());
            if seen & field.bit() != 0 {
                faults.add(path, "is given twice; both spellings of a name count as one field");
                entries.next_value_seed(Seed(Shallow(depth)))?;
                continue;
            }
            seen |= field.bit();
            if let Field::Locations = field {
                let locations = Locations { depth, rules, faults };
                let read = entries.next_value_seed(Seed(locations))?;
                draft.given |= if read.given { field.bit() } else { 0 };
                draft.locations = read.locations;
            } else {
                let value = entries.next_value_seed(Seed(Shallow(depth)))?;
                draft.fill(field, &value, path, rules, faults);
            }
        }
        for field in REQUIRED {
            if fields & field.bit() & !draft.given != 0 {
                faults.add(Path::of(index, field.name()), "is required");
            }
        }
        Ok(Some(draft))
    }
}

/// Reads the locations of a batch.
struct Locations<'f> {
    depth: Depth,
    rules: Rules,
    faults: &'f mut Faults,
}

/// What `locations` were.
#[derive(Default)]
struct ReadLocations {
    given: bool,
    locations: Vec<Location>,
}

impl<'de> Reader<'de> for Locations<'_> {
    type Output = ReadLocations;

    fn depth(&self) -> Depth {
        self.depth
    }

    fn value(self, value: Value<'de>) -> ReadLocations {
        // `null` is absent, as many JSON encoders write it.
        let given = value != Value::Null;
        if given {
            let path = Path::Body(Field::Locations.name());
            self.faults.add(path, format_args!("must be an array, not {}", value.kind()));
        }
        ReadLocations { given, locations: Vec::new() }
    }

    fn array<A: SeqAccess<'de>>(self, mut items: A) -> Result<ReadLocations, A::Error> {
        let Self { depth, rules, faults } = self;
        let depth = depth.inside()?;
        let max = rules.locations_max.min(LOCATIONS_MAX);
        let mut locations = Vec::new();
        for index in 0..max {
            let object = Object { fields: ITEM, index: Some(index), depth, rules, faults };
            let Some(draft) = items.next_element_seed(Seed(object))? else {
                if index == 0 {
                    faults.add(Path::Body(Field::Locations.name()), "must hold at least one location");
                }
                return Ok(ReadLocations { given: true, locations });
            };
            let location = draft.and_then(Draft::into_location);
            // After a fault nothing is kept any more.
            match location.filter(|_| faults.total == 0) {
                Some(location) => push_within(&mut locations, location, max),
                None => locations = Vec::new(),
            }
        }
        while items.next_element_seed(Seed(Shallow(depth)))?.is_some() {
            faults.too_many = true;
            locations = Vec::new();
        }
        Ok(ReadLocations { given: true, locations })
    }
}

/// Doubles the capacity when it is used up, but not beyond `max`.
fn push_within(locations: &mut Vec<Location>, location: Location, max: usize) {
    if locations.len() == locations.capacity() {
        locations.reserve_exact(locations.len().clamp(1, max - locations.len()));
    }
    locations.push(location);
}

/// What is known of a body or a location while it is read.
#[derive(Default)]
struct Draft {
    /// The fields that were there and not `null`, at fault or not.
    given: Fields,
    device: Option<String>,
    locations: Vec<Location>,
    timestamp: Option<i64>,
    latitude: Option<f64>,
    longitude: Option<f64>,
    accuracy: Option<f64>,
    altitude: Option<f64>,
    bearing: Option<f64>,
    speed: Option<f64>,
    battery_level: Option<f64>,
    provider: Option<String>,
    network_type: Option<String>,
}

impl Draft {
    fn fill(&mut self, field: Field, value: &Value<'_>, path: Path<'_>, rules: Rules, faults: &mut Faults) {
        // `null` is absent, as many JSON encoders write it.
        if *value == Value::Null {
            return;
        }
        self.given |= field.bit();
        match field {
            Field::Device => self.device = device(value, path, faults),
            Field::Timestamp => self.timestamp = timestamp(value, path, rules, faults),
            Field::Latitude => self.latitude = number(value, path, -90.0, 90.0, faults),
            Field::Longitude => self.longitude = number(value, path, -180.0, 180.0, faults),
            Field::Accuracy => self.accuracy = magnitude(value, path, 1e8, faults),
            Field::Altitude => self.altitude = number(value, path, -1e5, 1e8, faults),
            Field::Bearing => self.bearing = magnitude(value, path, 360.0, faults),
            Field::Speed => self.speed = magnitude(value, path, 1e5, faults),
            Field::BatteryLevel => self.battery_level = number(value, path, 0.0, 100.0, faults),
            Field::Provider => self.provider = text(value, path, LABEL_CHARS_MAX, faults),
            Field::NetworkType => self.network_type = text(value, path, LABEL_CHARS_MAX, faults),
            // Read item by item, and never as a value.
            Field::Locations => {}
        }
    }

    fn into_upload(mut self, shape: Shape) -> Option<Upload> {
        let device = self.device.take()?;
        let locations = match shape {
            Shape::Single => vec![self.into_location()?],
            Shape::Batch => self.locations,
        };
        Some(Upload { device, locations })
    }

    fn into_location(self) -> Option<Location> {
        Some(Location {
            timestamp: self.timestamp?,
            latitude: self.latitude?,
            longitude: self.longitude?,
            accuracy: self.accuracy,
            altitude: self.altitude,
            bearing: self.bearing,
            speed: self.speed,
            battery_level: self.battery_level,
            provider: self.provider,
            network_type: self.network_type,
        })
    }
}

fn device(value: &Value<'_>, path: Path<'_>, faults: &mut Faults) -> Option<String> {
    let text = text(value, path, DEVICE_CHARS_MAX, faults)?;
    if text.is_empty() {
        faults.add(path, "must not be empty");
    }
    Some(text)
}

#[expect(clippy::cast_precision_loss, reason = "an integer beyond 2^53 lies outside of every range here")]
fn any_number(value: &Value<'_>, path: Path<'_>, faults: &mut Faults) -> Option<f64> {
    match value {
        Value::Integer(integer) => Some(*integer as f64),
        Value::Float(float) => Some(*float),
        other => {
            faults.add(path, format_args!("must be a number, not {}", other.kind()));
            None
        }
    }
}

fn number(value: &Value<'_>, path: Path<'_>, min: f64, max: f64, faults: &mut Faults) -> Option<f64> {
    let number = any_number(value, path, faults)?;
    if !(min..=max).contains(&number) {
        faults.add(path, format_args!("must be between {min} and {max}"));
        return None;
    }
    Some(number)
}

/// Negative is absent: it is how phones say that they do not know.
fn magnitude(value: &Value<'_>, path: Path<'_>, max: f64, faults: &mut Faults) -> Option<f64> {
    let number = any_number(value, path, faults)?;
    if number < 0.0 {
        return None;
    }
    if number > max {
        faults.add(path, format_args!("must be between 0 and {max}"));
        return None;
    }
    Some(number)
}

fn timestamp(value: &Value<'_>, path: Path<'_>, rules: Rules, faults: &mut Faults) -> Option<i64> {
    let millis = match value {
        Value::Integer(integer) => *integer,
        #[expect(
            clippy::cast_possible_truncation,
            reason = "what does not fit becomes the nearest that does"
        )]
        Value::Float(float) => float.floor() as i64,
        other => {
            faults.add(path, format_args!("must be a number, not {}", other.kind()));
            return None;
        }
    };
    let fault = if millis < 0 {
        "must not be before 1970"
    } else if millis < rules.timestamp_min {
        "looks like seconds; milliseconds are wanted"
    } else if millis > rules.timestamp_max {
        "is too far in the future; it counts milliseconds since 1970"
    } else {
        return Some(millis);
    };
    faults.add(path, fault);
    None
}

/// Control characters are refused because none belongs in a label, and Postgres cannot store U+0000.
fn text(value: &Value<'_>, path: Path<'_>, max: usize, faults: &mut Faults) -> Option<String> {
    let Value::Text(text) = value else {
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
    Some(text.as_ref().to_owned())
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
    /// More locations than allowed; no other fault counts then.
    too_many: bool,
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
        let room = if self.listed.len() < FAULTS_MAX { 40 } else { 0 };
        let shown: String = name.chars().filter(|c| !c.is_control()).take(room).collect();
        self.add(Path::of(index, &shown), "is not a known field");
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
