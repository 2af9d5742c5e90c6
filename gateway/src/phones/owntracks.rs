//! OwnTracks in HTTP mode: one message a request, of which `_type` names the kind.
//!
//! <https://owntracks.org/booklet/tech/json/>; Overland's OwnTracks mode counts time from 2001.

use std::borrow::Cow;

use super::fields::{self, Field, Fields, Table};
use super::point::{self, Fault, Item, Units};
use super::units;
use super::{Decoded, NotThisProtocol, Reason, Record, Request, Rules, answer};

const MESSAGE: Table = &[
    (Field::Type, "_type"),
    (Field::Latitude, "lat"),
    (Field::Longitude, "lon"),
    (Field::Time, "tst"),
    (Field::Accuracy, "acc"),
    (Field::AltitudeAccuracy, "vac"),
    (Field::Altitude, "alt"),
    (Field::Bearing, "cog"),
    (Field::Speed, "vel"),
    (Field::Battery, "batt"),
    (Field::Provider, "source"),
    (Field::Network, "conn"),
    (Field::Topic, "topic"),
    (Field::Device, "tid"),
];

pub fn decode<'a>(request: &Request<'a>, rules: &Rules<'a>) -> Result<Decoded<'a>, NotThisProtocol> {
    let mut decoded = Decoded::default();
    if request.body.trim_ascii().is_empty() {
        decoded.records.push(Record::Empty);
        return Ok(decoded);
    }
    let raw = fields::whole(request.body).ok_or(NotThisProtocol)?;
    let mut fields = Fields::of_json(raw, MESSAGE).ok_or(NotThisProtocol)?;
    leave_no_zero_out(request, &mut fields);
    let item = match fields.text(Field::Type).ok_or(NotThisProtocol)?.as_ref() {
        "location" => location(request, &fields, rules),
        "encrypted" => Item::bad(Fault(Reason::Encrypted, ""), device(request, &fields), rules),
        other => Item::Record(Record::of_owntracks(other)),
    };
    decoded.add(item, None, || Cow::Borrowed(raw.get()));
    Ok(decoded)
}

fn location<'a>(request: &Request<'a>, fields: &Fields<'a>, rules: &Rules<'a>) -> Item<'a> {
    let since_2001 = answer::is_overland(request.user_agent);
    let units = Units { speed: units::of_kmh, zero_is_unknown: false, since_2001 };
    let mut item = point::item(fields, device(request, fields), units, rules);
    if let Item::Point(point) = &mut item {
        let letter = point.location.network_type.take();
        point.location.network_type = letter.and_then(|letter| network(&letter)).map(str::to_owned);
    }
    item
}

/// Since this version code, 2.5.7, the Android app leaves out what is zero: on the equator its latitude.
const ANDROID_WITHOUT_ZEROS: u32 = 420_507_000;

/// Puts back the one coordinate that was zero. Without both it is no fix.
fn leave_no_zero_out(request: &Request<'_>, fields: &mut Fields<'_>) {
    let app = request.user_agent.strip_prefix("Owntracks-Android/").and_then(|rest| rest.rsplit('/').next());
    let version: Option<u32> = app.and_then(|code| code.parse().ok());
    if version.is_none_or(|code| code < ANDROID_WITHOUT_ZEROS) {
        return;
    }
    let absent = |field| fields.get(field).is_none();
    match (absent(Field::Latitude), absent(Field::Longitude)) {
        (true, false) => fields.put_number(Field::Latitude, &0.0),
        (false, true) => fields.put_number(Field::Longitude, &0.0),
        _ => {}
    }
}

/// The header, the query, the topic `owntracks/user/device`, or the two letters that stand for the phone on a map.
fn device<'a>(request: &Request<'a>, fields: &Fields<'a>) -> Option<Cow<'a, str>> {
    let query = || form_urlencoded::parse(request.query.as_bytes()).find(|(name, _)| name == "d");
    let header = Some(Cow::Borrowed(request.device_header));
    let given = |name: &Cow<'_, str>| !name.is_empty();
    let query = || query().map(|(_, device)| device).filter(given);
    let topic = || fields.text(Field::Topic).and_then(of_topic).filter(given);
    header.filter(given).or_else(query).or_else(topic).or_else(|| fields.text(Field::Device))
}

/// The third part, or the second where there are but two.
fn of_topic(topic: Cow<'_, str>) -> Option<Cow<'_, str>> {
    fn part(topic: &str) -> Option<&str> {
        let (_, rest) = topic.split_once('/')?;
        Some(rest.split_once('/').map_or(rest, |(_, device)| device.split('/').next().unwrap_or(device)))
    }
    match topic {
        Cow::Borrowed(topic) => part(topic).map(Cow::Borrowed),
        Cow::Owned(topic) => part(&topic).map(|device| Cow::Owned(device.to_owned())),
    }
}

fn network(letter: &str) -> Option<&'static str> {
    Some(match letter {
        "w" => "wifi",
        "m" => "mobile",
        "o" => "offline",
        _ => return None,
    })
}

#[cfg(test)]
#[path = "owntracks_tests.rs"]
mod tests;
