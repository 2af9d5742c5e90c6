//! Points whose fields have plain names, in a query, a form or JSON: Traccar Client and transistorsoft's SDK, GPSLogger and
//! PhoneTrack, and what else sends to servers for these.
//!
//! Their ways overlap so much that one table of names serves them all. What differs is the unit of a speed, and what a
//! request without a place is.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::fields::{self, Field, Fields, Table, Written};
use super::point::{self, Fault, Item, Units};
use super::{Decoded, NotThisProtocol, Protocol, Reason, Record, Request, Rules, credentials, rmc, units};

/// `%STARTTIMESTAMP` and `%DATE` of GPSLogger are no times of a point, and `hdop` is no accuracy.
const POINT: Table = &[
    (Field::Items, "location"),
    (Field::Items, "locations"),
    (Field::Items, "points"),
    (Field::Items, "data"),
    (Field::Latitude, "lat"),
    (Field::Latitude, "latitude"),
    (Field::Latitude, "coords.latitude"),
    (Field::Latitude, "position.latitude"),
    (Field::Longitude, "lon"),
    (Field::Longitude, "lng"),
    (Field::Longitude, "long"),
    (Field::Longitude, "longitude"),
    (Field::Longitude, "coords.longitude"),
    (Field::Longitude, "position.longitude"),
    (Field::Time, "timestamp"),
    (Field::Time, "tst"),
    (Field::Time, "epoch"),
    (Field::Time, "datetime"),
    (Field::Time, "time"),
    (Field::Time, "timeoffset"),
    (Field::Time, "timeoff"),
    (Field::Time, "position.fixTime"),
    (Field::Accuracy, "acc"),
    (Field::Accuracy, "accuracy"),
    (Field::Accuracy, "coords.accuracy"),
    (Field::Accuracy, "position.accuracy"),
    (Field::AltitudeAccuracy, "coords.altitude_accuracy"),
    (Field::AltitudeAccuracy, "coords.altitudeAccuracy"),
    (Field::Altitude, "alt"),
    (Field::Altitude, "altitude"),
    (Field::Altitude, "coords.altitude"),
    (Field::Altitude, "position.altitude"),
    (Field::Bearing, "bearing"),
    (Field::Bearing, "bear"),
    (Field::Bearing, "heading"),
    (Field::Bearing, "dir"),
    (Field::Bearing, "direction"),
    (Field::Bearing, "course"),
    (Field::Bearing, "cog"),
    (Field::Bearing, "coords.heading"),
    (Field::Bearing, "position.course"),
    (Field::Speed, "speed"),
    (Field::Speed, "spd"),
    (Field::Speed, "vel"),
    (Field::MetresPerSecond, "coords.speed"),
    (Field::Knots, "position.speed"),
    (Field::KilometresPerHour, "spd_kph"),
    (Field::Battery, "batt"),
    (Field::Battery, "bat"),
    (Field::Battery, "battery"),
    (Field::Battery, "battery_level"),
    (Field::Battery, "batteryLevel"),
    (Field::Battery, "position.attributes.batteryLevel"),
    (Field::BatteryFraction, "battery.level"),
    (Field::Provider, "prov"),
    (Field::Provider, "provider"),
    (Field::Device, "id"),
    (Field::Device, "deviceid"),
    (Field::Device, "device_id"),
    (Field::Device, "device"),
    (Field::Device, "device.uuid"),
    (Field::Device, "device.uniqueId"),
    (Field::Device, "aid"),
    (Field::Device, "androidid"),
    (Field::Device, "tid"),
    (Field::Device, "user"),
    (Field::Device, "serial"),
    (Field::Action, "action"),
    (Field::NotificationToken, "notificationToken"),
    (Field::Rmc, "gprmc"),
];

/// A row of PhoneTrack's batches.
const ROW: Table = &[
    (Field::Latitude, "[0]"),
    (Field::Longitude, "[1]"),
    (Field::Time, "[2]"),
    (Field::Altitude, "[3]"),
    (Field::Accuracy, "[4]"),
    (Field::Battery, "[5]"),
    (Field::Speed, "[8]"),
    (Field::Bearing, "[9]"),
];

/// What may stand once beside one or more points and is of each of them.
const AROUND: [Field; 4] = [Field::Device, Field::Time, Field::Battery, Field::BatteryFraction];

pub fn decode<'a>(request: &Request<'a>, rules: &Rules<'a>) -> Result<Decoded<'a>, NotThisProtocol> {
    // No form begins like that, and apps name the wrong type of content or none.
    let is_json = request.body.trim_ascii_start().iter().take(1).any(|first| b"{[\xef".contains(first));
    if !is_json {
        return form(request, rules);
    }
    let mut decoded = json(request, rules)?;
    if decoded.points.is_empty() {
        // It is answered as success, and must not cost a point that is in the query.
        let beside = of_pairs(query(request));
        if !has_no_place(&beside) {
            decoded.add(item(request, &beside, false, rules), None, || {
                raw(query(request), request.query.len()).into()
            });
        }
    }
    Ok(decoded)
}

/// One point in the query, the body, or both; the body counts before the query.
fn form<'a>(request: &Request<'a>, rules: &Rules<'a>) -> Result<Decoded<'a>, NotThisProtocol> {
    let pairs = || query(request).chain(form_urlencoded::parse(request.body.trim_ascii()));
    let fields = of_pairs(pairs());
    let bytes = request.query.len() + request.body.len();
    if fields.is_empty() {
        return Err(NotThisProtocol);
    }
    let mut decoded = Decoded::default();
    decoded.add(item(request, &fields, false, rules), None, || raw(pairs(), bytes).into());
    Ok(decoded)
}

fn query<'a>(request: &Request<'a>) -> form_urlencoded::Parse<'a> {
    form_urlencoded::parse(request.query.as_bytes())
}

fn of_pairs<'a>(pairs: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>) -> Fields<'a> {
    let mut fields = Fields::new(POINT);
    for (name, value) in pairs {
        fields.put_pair(&name, value);
    }
    // As hardware writes it: `location=60.0,30.0`.
    let both = fields.text(Field::Items).filter(|_| has_no_place(&fields));
    if let Some((latitude, longitude)) = both.as_deref().and_then(|at| at.split_once(',')) {
        fields.put_number(Field::Latitude, &latitude);
        fields.put_number(Field::Longitude, &longitude);
    }
    if let Some(sentence) = fields.text(Field::Rmc) {
        put_rmc(&mut fields, &sentence);
    }
    fields
}

/// Neither the one nor the other.
fn has_no_place(fields: &Fields<'_>) -> bool {
    fields.get(Field::Latitude).is_none() && fields.get(Field::Longitude).is_none()
}

/// A byte that is no text becomes three that stand for it, and nine as a form has these.
const RAW_PER_BYTE: usize = 9;

/// Without what may be a key; of a request whose query and body have so many bytes together. All of the room is taken at
/// once: grown step by step it would be twice as much.
fn raw<'a>(pairs: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>, bytes: usize) -> String {
    let harmless = |(name, _): &(Cow<'_, str>, Cow<'_, str>)| !credentials::may_be_in(name);
    let mut raw = form_urlencoded::Serializer::new(String::with_capacity(RAW_PER_BYTE * bytes));
    raw.extend_pairs(pairs.filter(harmless));
    raw.finish()
}

fn put_rmc(fields: &mut Fields<'_>, sentence: &str) {
    let Some(fix) = rmc::read(sentence) else { return };
    fields.put_number(Field::Latitude, &fix.latitude);
    fields.put_number(Field::Longitude, &fix.longitude);
    let optional = [(Field::MetresPerSecond, fix.speed), (Field::Bearing, fix.bearing)];
    for (field, number) in optional {
        if let Some(number) = number {
            fields.put_number(field, &number);
        }
    }
    if let Some(time) = fix.time {
        fields.put_number(Field::Time, &time);
    }
}

/// One point or many, in an array or below one of several names, or with nothing around it.
/// A place around them counts if none of them is a point.
fn json<'a>(request: &Request<'a>, rules: &Rules<'a>) -> Result<Decoded<'a>, NotThisProtocol> {
    let root = fields::whole(request.body.trim_ascii_start()).ok_or(NotThisProtocol)?;
    let around = match root.get().as_bytes().first() {
        Some(b'[') => Fields::new(POINT),
        _ => Fields::of_json(root, POINT).filter(|fields| !fields.is_empty()).ok_or(NotThisProtocol)?,
    };
    let (items, inside) = match around.get(Field::Items) {
        Some(Written::Nested(items)) => (*items, true),
        _ => (root, false),
    };
    let mut decoded = Decoded::default();
    fields::each_item(items, |index, raw| {
        let item = json_item(request, raw, &around, inside, rules);
        decoded.add(item, index, || Cow::Borrowed(raw.get()));
    })?;
    // What is named like items may hold none, and stand beside the place of the one point.
    if inside && decoded.points.is_empty() && !has_no_place(&around) {
        decoded.add(item(request, &around, false, rules), None, || Cow::Borrowed(root.get()));
    }
    Ok(decoded)
}

fn json_item<'a>(
    request: &Request<'a>,
    raw: &'a RawValue,
    around: &Fields<'a>,
    inside: bool,
    rules: &Rules<'a>,
) -> Item<'a> {
    let table = match raw.get().as_bytes().first() {
        Some(b'{') => Some(POINT),
        Some(b'[') => Some(ROW),
        _ => None,
    };
    let Some(mut fields) = table.and_then(|table| Fields::of_json(raw, table)) else {
        return Item::bad(Fault(Reason::Undecodable, ""), device(request, around), rules);
    };
    fields.inherit(around, &AROUND);
    item(request, &fields, inside, rules)
}

/// Of fields that are `inside` of an object whose other fields are around them, or are all there is.
fn item<'a>(request: &Request<'a>, fields: &Fields<'a>, inside: bool, rules: &Rules<'a>) -> Item<'a> {
    let record = || without_place(request.protocol, fields, inside);
    if let Some(record) = has_no_place(fields).then(record).flatten() {
        return Item::Record(record);
    }
    let is_traccar = request.protocol == Protocol::Traccar;
    let in_knots = is_traccar && !inside && !request.user_agent.starts_with("OsmAnd");
    let of_app = Units {
        speed: if in_knots { units::of_knots } else { Units::SI.speed },
        // What Traccar Client 10 does not know it leaves out.
        zero_is_unknown: !request.user_agent.starts_with("ktor"),
        since_2001: false,
    };
    let is_empty = |name: &Written<'_>| matches!(name, Written::Text(name) if name.is_empty());
    let device = device(request, fields);
    if is_traccar
        && rules.bound.is_none()
        && device.is_none()
        && fields.get(Field::Device).is_some_and(is_empty)
    {
        return Item::Bad(Fault(Reason::DeviceName, fields.name(Field::Device)), None);
    }
    point::item(fields, device, of_app, rules)
}

/// What it is that has no place, if it need not have one.
fn without_place(protocol: Protocol, fields: &Fields<'_>, inside: bool) -> Option<Record> {
    match protocol {
        Protocol::Traccar if fields.get(Field::NotificationToken).is_some() => {
            Some(Record::NotificationToken)
        }
        Protocol::Traccar => {
            let named = !inside && fields.get(Field::Device).is_some();
            (named && ["id", "deviceid"].contains(&fields.name(Field::Device))).then_some(Record::Heartbeat)
        }
        // µlogger logs in and begins tracks.
        _ => fields.get(Field::Action).map(|_| Record::Other),
    }
}

fn device<'a>(request: &Request<'a>, fields: &Fields<'a>) -> Option<Cow<'a, str>> {
    let header = || Some(request.device_header).filter(|name| !name.is_empty()).map(Cow::Borrowed);
    of_path(request.path).or_else(|| fields.text(Field::Device)).or_else(header)
}

/// PhoneTrack's way: `logGet/{token}/{device}`, or `log/{app}/{token}/{device}`.
fn of_path(path: &str) -> Option<Cow<'_, str>> {
    let is_log = |part: &&str| ["log", "logGet", "logPost", "logPostMultiple"].contains(part);
    let mut parts = path.split('/').skip_while(|part| !is_log(part));
    let before = if parts.next()? == "log" { 1 } else { 0 };
    let name = parts.nth(before + 1)?;
    (!name.is_empty()).then(|| percent_encoding::percent_decode_str(name).decode_utf8_lossy())
}

#[cfg(test)]
#[path = "flat_tests.rs"]
mod tests;
