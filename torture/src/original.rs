//! The original: what an operation sent, made again to compare with what is found in a topic or a table.

use milepost_shared::location::fields::{NUMBERS, TEXTS};
use milepost_shared::location::{Location, Upload};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::app;
use crate::operation::{self, UploadId, point};

/// How it is said why a bad point was set aside: its app, and the rule that it breaks.
const SET_ASIDE: &str = "overland: latitude-out-of-range (";

/// Which upload of an account this is, by its first location's capture time and, of a point, its device; and what differs, bit for
/// bit, from what the operation sent.
#[must_use]
pub fn compare(seed: u64, account: Option<usize>, found: &Upload) -> (Option<UploadId>, Option<String>) {
    let first = found.locations.first().and_then(|first| operation::identify(first.timestamp));
    let Some((id, _)) = first else { return (None, Some("it is no operation's".to_owned())) };
    let id = point::of_device(seed, id, &found.device, account);
    let is_bad = operation::count(seed, id) == 0;
    let fault = is_bad.then(|| "it breaks a rule, and was to be set aside".to_owned());
    (Some(id), fault.or_else(|| difference(&operation::upload(seed, id), found)))
}

/// Which bad point this is, of an account if that is known, set aside for a `reason`; `None` if it is not, byte for byte, what an
/// operation sent and had to be set aside.
#[must_use]
pub fn set_aside(seed: u64, account: Option<usize>, reason: &str, raw: &[u8]) -> Option<UploadId> {
    let (device, captured_at) = app::whose(raw)?;
    let (id, _) = operation::identify(captured_at)?;
    let id = point::of_device(seed, id, &device, account);
    let is_as_sent = operation::count(seed, id) == 0
        && reason.starts_with(SET_ASIDE)
        && raw == app::feature(&operation::upload(seed, id)).as_bytes();
    is_as_sent.then_some(id)
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
    use crate::operation::{Kind, Variant};

    const SEED: u64 = 7;

    /// The account of an operation of a kind, and the points that it sends.
    fn points(kind: Kind) -> (usize, Vec<UploadId>) {
        let mut operations = (0..).map(|index| operation::operation(SEED, index));
        let operation = operations.find(|one| one.kind == kind).expect("every kind comes");
        let [points, _] = point::sent(SEED, &operation);
        (operation.account, points)
    }

    #[test]
    fn a_point_under_another_device_or_account_is_torn_from_its_own_or_is_one_that_nobody_sent() {
        let (account, twins) = points(Kind::Twins);
        let [first, second, strangers] = twins[..] else { panic!("{twins:?}") };
        let made = |id| operation::upload(SEED, id);
        for (id, of) in [(first, account), (second, account), (strangers, 1 - account)] {
            assert_eq!(compare(SEED, Some(of), &made(id)), (Some(id), None));
        }
        let (id, fault) = compare(SEED, Some(1 - account), &made(first));
        assert!(id == Some(strangers) && fault.is_some(), "{id:?}: {fault:?}");
        let moved = Upload { device: made(second).device, ..made(first) };
        let (id, fault) = compare(SEED, Some(account), &moved);
        assert!(id == Some(second) && fault.is_some(), "{id:?}: {fault:?}");
        for (device, of) in [("another", Some(account)), (&made(second).device, Some(1 - account))] {
            let found = Upload { device: device.to_owned(), ..made(first) };
            assert!(compare(SEED, of, &found).1.unwrap().starts_with("device "));
        }
    }

    #[test]
    fn a_bad_point_is_recognised_by_what_was_set_aside_and_by_nothing_less() {
        let (account, points) = points(Kind::Superset);
        let bad = points.into_iter().find(|id| operation::count(SEED, *id) == 0).unwrap();
        let upload = operation::upload(SEED, bad);
        let raw = app::feature(&upload);
        let reason = "overland: latitude-out-of-range ([3].geometry.coordinates[1])";
        let of = |account, reason, raw: &str| set_aside(SEED, account, reason, raw.as_bytes());
        assert_eq!(of(Some(account), reason, &raw), Some(bad));
        assert_eq!(of(None, reason, &raw), Some(bad));
        assert_eq!(of(Some(account), "owntracks: latitude-out-of-range (lat)", &raw), None);
        assert_eq!(of(Some(account), "overland: no-time", &raw), None);
        assert_eq!(of(Some(account), reason, &raw.replace("Point", "point")), None);
        assert_eq!(of(Some(account), reason, "{}"), None);
        assert!(compare(SEED, Some(account), &upload).1.unwrap().contains("set aside"));
    }

    fn id() -> UploadId {
        let ids = (0..).map(|operation| UploadId { operation, variant: Variant::B });
        ids.into_iter().find(|id| operation::count(SEED, *id) > 3).expect("some upload has four locations")
    }

    #[test]
    fn what_was_sent_is_recognised_in_json_too() {
        let sent = operation::upload(SEED, id());
        let sent: JsonUpload = serde_json::from_slice(&serde_json::to_vec(&sent).unwrap()).unwrap();
        assert_eq!(compare(SEED, None, &sent.into()), (Some(id()), None));
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
            let (_, fault) = compare(SEED, None, &found);
            assert!(fault.as_ref().is_some_and(|fault| fault.contains(text)), "{text}: {fault:?}");
        }
    }
}
