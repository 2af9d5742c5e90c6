//! The original: what an operation sent, made again to compare with what is found in a topic or a table.

use milepost_shared::location::fields::{NUMBERS, TEXTS};
use milepost_shared::location::{Location, Upload};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::operation::{self, UploadId};

/// Which upload this is, by its first location's capture time, and what differs, bit for bit, from what the operation sent.
#[must_use]
pub fn compare(seed: u64, found: &Upload) -> (Option<UploadId>, Option<String>) {
    let first = found.locations.first().and_then(|first| operation::identify(first.timestamp));
    let Some((id, _)) = first else { return (None, Some("it is no operation's".to_owned())) };
    (Some(id), difference(&operation::upload(seed, id), found))
}

fn difference(sent: &Upload, found: &Upload) -> Option<String> {
    if found.device != sent.device {
        return Some(format!("device {} instead of {}", found.device, sent.device));
    }
    if found.locations.len() != sent.locations.len() {
        return Some(format!("{} locations instead of {}", found.locations.len(), sent.locations.len()));
    }
    let pairs = sent.locations.iter().zip(&found.locations);
    let place = pairs.into_iter().position(|(sent, found)| !same(sent, found))?;
    Some(format!("location {place} is {:?} instead of {:?}", found.locations[place], sent.locations[place]))
}

fn same(one: &Location, other: &Location) -> bool {
    let texts = TEXTS.iter().all(|text| (text.get)(one) == (text.get)(other));
    one.timestamp == other.timestamp && bits(one) == bits(other) && texts
}

/// Two equal numbers may differ in their bits: 0 and -0.
fn bits(location: &Location) -> Vec<Option<u64>> {
    NUMBERS.iter().map(|number| (number.get)(location).map(f64::to_bits)).collect()
}

/// An upload as JSON, of which nothing but the names of its fields is Milepost's own code.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JsonUpload {
    device_id: String,
    locations: Vec<Map<String, Value>>,
}

impl From<JsonUpload> for Upload {
    fn from(sent: JsonUpload) -> Self {
        Self { device: sent.device_id, locations: sent.locations.iter().map(location).collect() }
    }
}

/// What is missing has a value that no operation sends.
fn location(sent: &Map<String, Value>) -> Location {
    let timestamp = sent.get("timestamp").and_then(Value::as_i64);
    let mut location = Location::new(timestamp.unwrap_or(-1), f64::NAN, f64::NAN);
    for number in &NUMBERS {
        if let Some(value) = sent.get(number.name).and_then(Value::as_f64) {
            (number.set)(&mut location, value);
        }
    }
    for text in &TEXTS {
        if let Some(value) = sent.get(text.name).and_then(Value::as_str) {
            (text.set)(&mut location, value.to_owned());
        }
    }
    location
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Variant;

    const SEED: u64 = 7;

    fn id() -> UploadId {
        let ids = (0..).map(|operation| UploadId { operation, variant: Variant::B });
        ids.into_iter().find(|id| operation::count(SEED, *id) > 3).expect("some upload has four locations")
    }

    #[test]
    fn what_was_sent_is_recognised_in_json_too() {
        let sent = operation::upload(SEED, id());
        let sent: JsonUpload = serde_json::from_slice(&serde_json::to_vec(&sent).unwrap()).unwrap();
        assert_eq!(compare(SEED, &sent.into()), (Some(id()), None));
    }

    #[test]
    fn whatever_differs_is_named() {
        type Change = fn(&mut Upload);
        let changes: [(Change, &str); 7] = [
            (|upload| upload.device.push('x'), "device"),
            (|upload| drop(upload.locations.pop()), "locations instead of"),
            (|upload| upload.locations.swap(1, 2), "location 1"),
            (
                |upload| {
                    upload.locations[2].latitude = f64::from_bits(upload.locations[2].latitude.to_bits() + 1)
                },
                "2",
            ),
            (|upload| upload.locations[2].altitude = Some(0.0), "location 2"),
            (|upload| upload.locations[2].provider = Some("gsm".to_owned()), "location 2"),
            (|upload| upload.locations.clear(), "no operation's"),
        ];
        for (change, text) in changes {
            let mut found = operation::upload(SEED, id());
            change(&mut found);
            let (_, fault) = compare(SEED, &found);
            assert!(fault.as_ref().is_some_and(|fault| fault.contains(text)), "{text}: {fault:?}");
        }
    }
}
