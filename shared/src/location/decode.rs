//! From JSON to an upload, naming every fault by its path. Nothing is built that no upload has: what a body costs is
//! bounded by [`Rules::locations_max`] and [`FAULTS_MAX`](super::FAULTS_MAX), whatever is in it.

use serde::de::{MapAccess, SeqAccess};

use super::check::{Faults, Path, Rules, check_device};
use super::fields::{NUMBERS, Presence, TEXT_CHARS_MAX, TEXTS, check_text};
use super::{Invalid, LOCATIONS_MAX, Location, Shape, Upload};
use crate::location::json::{self, Depth, Name, Reader, Seed, Shallow, Value};

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
    if faults.too_many {
        return Err(Invalid::TooMany { max: rules.locations_max.min(LOCATIONS_MAX) });
    }
    faults.ended()?;
    // What is without fault is an object with all that is required.
    let Draft { device, locations, location, .. } = draft.unwrap_or_default();
    let locations = match shape {
        Shape::Single => vec![location],
        Shape::Batch => locations,
    };
    Ok(Upload { device, locations })
}

/// A field of a body or of a location.
#[derive(Debug, Clone, Copy)]
enum Field {
    Device,
    Locations,
    Timestamp,
    /// By its place in [`NUMBERS`].
    Number(usize),
    /// By its place in [`TEXTS`].
    Text(usize),
}

/// Of fields, one bit for each.
type Fields = u32;

const BATCH: Fields = Field::Device.bit() | Field::Locations.bit();
const ITEM: Fields = !BATCH;
const SINGLE: Fields = ITEM | Field::Device.bit();

impl Field {
    /// Both spellings of a name are one field.
    fn of(name: &str) -> Option<Self> {
        match name {
            "timestamp" => return Some(Self::Timestamp),
            "deviceId" | "device_id" => return Some(Self::Device),
            "locations" => return Some(Self::Locations),
            _ => {}
        }
        let number = NUMBERS.iter().position(|number| name == number.name || name == number.other);
        let text = || TEXTS.iter().position(|text| name == text.name || name == text.other);
        number.map(Self::Number).or_else(|| text().map(Self::Text))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Device => "deviceId",
            Self::Locations => "locations",
            Self::Timestamp => "timestamp",
            Self::Number(index) => NUMBERS[index].name,
            Self::Text(index) => TEXTS[index].name,
        }
    }

    const fn bit(self) -> Fields {
        1 << match self {
            Self::Device => 0,
            Self::Locations => 1,
            Self::Timestamp => 2,
            Self::Number(index) => 3 + index,
            Self::Text(index) => 3 + NUMBERS.len() + index,
        }
    }

    /// Those that are required, in the order in which they are missed.
    fn required() -> impl Iterator<Item = Self> {
        let is_required = |index: &usize| NUMBERS[*index].presence == Presence::Required;
        let numbers = (0..NUMBERS.len()).filter(is_required).map(Self::Number);
        [Self::Device, Self::Timestamp].into_iter().chain(numbers).chain([Self::Locations])
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
        for field in Field::required() {
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
            // After a fault nothing is kept any more.
            match draft.filter(|_| faults.are_none()) {
                Some(draft) => push_within(&mut locations, draft.location, max),
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

/// What is known of a body or a location while it is read; as far as it is without fault.
#[derive(Default)]
struct Draft {
    /// The fields that were there and not `null`, at fault or not.
    given: Fields,
    device: String,
    locations: Vec<Location>,
    location: Location,
}

impl Draft {
    fn fill(&mut self, field: Field, value: &Value<'_>, path: Path<'_>, rules: Rules, faults: &mut Faults) {
        // `null` is absent, as many JSON encoders write it.
        if *value == Value::Null {
            return;
        }
        self.given |= field.bit();
        match field {
            Field::Device => {
                if let Some(device) = text(value, path, faults) {
                    faults.judge(path, check_device(device));
                    self.device = device.to_owned();
                }
            }
            Field::Timestamp => {
                if let Some(millis) = millis(value, path, faults) {
                    faults.judge(path, rules.check_timestamp(millis));
                    self.location.timestamp = millis;
                }
            }
            Field::Number(index) => {
                let number = &NUMBERS[index];
                let Some(value) = any_number(value, path, faults) else { return };
                let is_absent = value < 0.0 && number.presence == Presence::UnlessNegative;
                if !is_absent && faults.judge(path, number.check(value)) {
                    (number.set)(&mut self.location, value);
                }
            }
            Field::Text(index) => {
                let Some(text) = text(value, path, faults) else { return };
                if faults.judge(path, check_text(text, TEXT_CHARS_MAX)) {
                    (TEXTS[index].set)(&mut self.location, text.to_owned());
                }
            }
            // Read item by item, and never as a value.
            Field::Locations => {}
        }
    }
}

fn text<'v>(value: &'v Value<'_>, path: Path<'_>, faults: &mut Faults) -> Option<&'v str> {
    if let Value::Text(text) = value {
        return Some(text);
    }
    faults.add(path, format_args!("must be a string, not {}", value.kind()));
    None
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

fn millis(value: &Value<'_>, path: Path<'_>, faults: &mut Faults) -> Option<i64> {
    match value {
        Value::Integer(integer) => Some(*integer),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "what does not fit becomes the nearest that does"
        )]
        Value::Float(float) => Some(float.floor() as i64),
        other => {
            faults.add(path, format_args!("must be a number, not {}", other.kind()));
            None
        }
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
