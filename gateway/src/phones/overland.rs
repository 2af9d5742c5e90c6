//! Overland: GeoJSON in `locations`, many in a request, with records between them that are no points.
//!
//! <https://github.com/aaronpk/Overland-iOS#api>

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::fields::{self, Field, Fields, Table, Written};
use super::point::{self, Fault, Item, Units};
use super::{Decoded, NotThisProtocol, Reason, Record, Request, Rules};

const BATCH: Table = &[
    (Field::Items, "locations"),
    (Field::Device, "device_id"),
    (Field::Current, "current"),
    (Field::Trip, "trip"),
];

const FEATURE: Table = &[
    (Field::Geometry, "geometry"),
    (Field::Latitude, "geometry.coordinates[1]"),
    (Field::Latitude, "geometry.coordinates.latitude"),
    (Field::Longitude, "geometry.coordinates[0]"),
    (Field::Longitude, "geometry.coordinates.longitude"),
    (Field::Time, "properties.timestamp"),
    (Field::Accuracy, "properties.horizontal_accuracy"),
    (Field::AltitudeAccuracy, "properties.vertical_accuracy"),
    (Field::Altitude, "properties.altitude"),
    (Field::Altitude, "geometry.coordinates[2]"),
    (Field::Bearing, "properties.course"),
    (Field::MetresPerSecond, "properties.speed"),
    (Field::BatteryFraction, "properties.battery_level"),
    (Field::Device, "properties.device_id"),
    (Field::Action, "properties.action"),
    (Field::Type, "properties.type"),
];

pub fn decode<'a>(request: &Request<'a>, rules: &Rules<'a>) -> Result<Decoded<'a>, NotThisProtocol> {
    let raw = fields::whole(request.body).ok_or(NotThisProtocol)?;
    let batch = Fields::of_json(raw, BATCH).ok_or(NotThisProtocol)?;
    let items = match batch.get(Field::Items) {
        Some(Written::Nested(items)) if items.get().starts_with('[') => items,
        _ => return Err(NotThisProtocol),
    };
    let mut decoded = Decoded::default();
    fields::each_item(items, |index, raw| {
        decoded.add(feature(raw, &batch, rules), index, || Cow::Borrowed(raw.get()));
    })?;
    for (field, record) in [(Field::Current, Record::Current), (Field::Trip, Record::Trip)] {
        decoded.records.extend(batch.get(field).map(|_| record));
    }
    Ok(decoded)
}

fn feature<'a>(raw: &'a RawValue, batch: &Fields<'a>, rules: &Rules<'a>) -> Item<'a> {
    let object = raw.get().starts_with('{');
    let Some(fields) = object.then(|| Fields::of_json(raw, FEATURE)).flatten() else {
        return Item::bad(Fault(Reason::Undecodable, ""), batch.text(Field::Device), rules);
    };
    if let Some(action) = fields.text(Field::Action) {
        return Item::Record(if action == "visit" { Record::Visit } else { Record::Action });
    }
    if fields.text(Field::Type).is_some_and(|kind| kind == "trip") {
        return Item::Record(Record::Trip);
    }
    if fields.get(Field::Geometry).is_none() {
        return Item::Record(Record::Other);
    }
    let device = fields.text(Field::Device).or_else(|| batch.text(Field::Device));
    point::item(&fields, device, Units::SI, rules)
}

#[cfg(test)]
#[path = "overland_tests.rs"]
mod tests;
