//! From the fields of a point to a location that keeps all rules.

use std::borrow::Cow;

use milepost_shared::location::fields::{NUMBERS, TEXT_CHARS_MAX, check_text};
use milepost_shared::location::{Location, is_device};

use super::fields::{Field, Fields, Written};
use super::units;
use super::{Decoded, Point, Reason, Record, Rules, SetAside};

/// What numbers mean where their names do not say.
#[derive(Debug, Clone, Copy)]
pub struct Units {
    /// Metres per second, of a [`Field::Speed`].
    pub speed: fn(f64) -> f64,
    /// The app writes the text `0.0` for what it does not know.
    pub zero_is_unknown: bool,
    /// The app counts from 2001.
    pub since_2001: bool,
}

impl Units {
    /// Metres per second, and zero is zero.
    pub const SI: Self = Self { speed: |speed| speed, zero_is_unknown: false, since_2001: false };
}

/// A rule that a point breaks, and the field that does.
pub struct Fault(pub Reason, pub &'static str);

/// What an item of a request is.
pub enum Item<'a> {
    Point(Point<'a>),
    /// With its device, if that is known.
    Bad(Fault, Option<Cow<'a, str>>),
    Record(Record),
}

impl<'a> Item<'a> {
    /// A point of the bound device, or of the one named, that breaks a rule.
    pub fn bad(fault: Fault, named: Option<Cow<'a, str>>, rules: &Rules<'a>) -> Self {
        let device = rules.bound.map(Cow::Borrowed).or(named);
        Self::Bad(fault, device.filter(|name| is_device(name)))
    }
}

impl<'a> Decoded<'a> {
    /// Adds an item, which has the `index` in a batch, and was sent as `raw`.
    pub(super) fn add(&mut self, item: Item<'a>, index: Option<usize>, raw: impl FnOnce() -> Cow<'a, str>) {
        match item {
            Item::Point(point) => self.points.push(point),
            Item::Bad(Fault(reason, field), device) => {
                self.set_aside.push(SetAside { reason, device, index, field, raw: raw() });
            }
            Item::Record(record) => self.records.push(record),
        }
    }
}

/// A point of the bound device, or of the one named. What may be absent breaks no rule: if it cannot be used it is as if
/// absent.
pub fn item<'a>(
    fields: &Fields<'a>,
    named: Option<Cow<'a, str>>,
    units: Units,
    rules: &Rules<'a>,
) -> Item<'a> {
    let device = rules.bound.map(Cow::Borrowed).or(named);
    if device.as_deref().is_some_and(|name| !is_device(name)) {
        return Item::Bad(Fault(Reason::DeviceName, fields.name(Field::Device)), None);
    }
    match location(fields, units, rules) {
        Ok((location, timed)) => Item::Point(Point { device, location, timed }),
        Err(fault) => Item::Bad(fault, device),
    }
}

/// A location, and whether the app sent its time.
fn location(fields: &Fields<'_>, units: Units, rules: &Rules<'_>) -> Result<(Location, bool), Fault> {
    let latitude =
        coordinate(fields, Field::Latitude, "latitude", Reason::LatitudeMissing, Reason::LatitudeOutOfRange)?;
    let longitude = coordinate(
        fields,
        Field::Longitude,
        "longitude",
        Reason::LongitudeMissing,
        Reason::LongitudeOutOfRange,
    )?;
    let sent = time(fields, units, rules)?;
    let mut location = Location::new(sent.unwrap_or(rules.arrival), latitude, longitude);
    // No fix has a radius of nothing: it is how apps say that they know none.
    location.accuracy = optional(fields, Field::Accuracy, units, "accuracy").filter(|radius| *radius > 0.0);
    let void = number(fields, Field::AltitudeAccuracy).is_some_and(|accuracy| accuracy < 0.0);
    location.altitude = optional(fields, Field::Altitude, units, "altitude").filter(|_| !void);
    location.bearing = optional(fields, Field::Bearing, units, "bearing");
    location.speed = speed(fields, units);
    location.battery_level = battery(fields, units);
    location.provider = label(fields, Field::Provider);
    location.network_type = label(fields, Field::Network);
    Ok((location, sent.is_some()))
}

/// Whether it is in the range of the location's field of this name.
fn is_within(name: &str, value: f64) -> bool {
    let row = NUMBERS.iter().find(|number| number.name == name);
    row.is_some_and(|number| (number.min..=number.max).contains(&value))
}

fn label(fields: &Fields<'_>, field: Field) -> Option<String> {
    let text = match fields.get(field)? {
        Written::Text(text) if check_text(text, TEXT_CHARS_MAX).is_ok() => text,
        _ => return None,
    };
    Some(text.as_ref().to_owned())
}

fn coordinate(
    fields: &Fields<'_>,
    field: Field,
    name: &str,
    missing: Reason,
    out_of_range: Reason,
) -> Result<f64, Fault> {
    let fault = |reason| Fault(reason, fields.name(field));
    if fields.get(field).is_none() {
        return Err(fault(missing));
    }
    let number = number(fields, field).ok_or_else(|| fault(Reason::NotANumber))?;
    if is_within(name, number) { Ok(number) } else { Err(fault(out_of_range)) }
}

/// Milliseconds since 1970; `None` if the app sent no time.
fn time(fields: &Fields<'_>, units: Units, rules: &Rules<'_>) -> Result<Option<i64>, Fault> {
    let fault = |reason| Fault(reason, fields.name(Field::Time));
    let sent = match fields.get(Field::Time) {
        None => return Ok(None),
        Some(Written::Number(text) | Written::Text(text)) => units::time(text),
        Some(Written::Bool | Written::Nested(_)) => None,
    };
    let sent = sent.ok_or_else(|| fault(Reason::TimeUnreadable))?;
    if sent <= 0 {
        return Err(fault(Reason::NoTime));
    }
    // An app that has come to count from 1970 would be far ahead.
    let moved = sent.saturating_add(units::FROM_1970_TO_2001);
    let time = if units.since_2001 && moved <= rules.timestamp_max { moved } else { sent };
    if time > rules.timestamp_max {
        return Err(fault(Reason::TooFarAhead));
    }
    Ok(Some(time))
}

fn number(fields: &Fields<'_>, field: Field) -> Option<f64> {
    match fields.get(field)? {
        Written::Number(text) | Written::Text(text) => units::number(text),
        Written::Bool | Written::Nested(_) => None,
    }
}

fn optional(fields: &Fields<'_>, field: Field, units: Units, name: &str) -> Option<f64> {
    let is_zero = matches!(fields.get(field), Some(Written::Text(text)) if text == "0.0");
    if units.zero_is_unknown && is_zero {
        return None;
    }
    number(fields, field).filter(|number| is_within(name, *number))
}

/// In the unit of the field's name, or else in the app's.
fn speed(fields: &Fields<'_>, of_app: Units) -> Option<f64> {
    let speed = |field| optional(fields, field, of_app, "speed");
    let known = speed(Field::MetresPerSecond)
        .or_else(|| speed(Field::Knots).map(units::of_knots))
        .or_else(|| speed(Field::Speed).map(of_app.speed));
    known.or_else(|| speed(Field::KilometresPerHour).map(units::of_kmh))
}

/// A fraction has been a 32-bit number in many an app: 0.52 has become 0.51999998, so that four decimals are enough.
fn battery(fields: &Fields<'_>, units: Units) -> Option<f64> {
    let percent = |level: f64| if level <= 1.0 { (level * 1e6).round() / 1e4 } else { level };
    let level = optional(fields, Field::Battery, units, "batteryLevel");
    level.or_else(|| optional(fields, Field::BatteryFraction, units, "batteryLevel").map(percent))
}
