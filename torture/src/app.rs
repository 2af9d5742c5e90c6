//! How phone apps write points: the requests that they send to the gateways' own addresses for them, with the key where each app puts
//! it. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use milepost_shared::location::{Location, Upload};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// An app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum App {
    /// Many points in a request; a retry is a superset.
    Overland,
    /// One point; a retry says another time of its making.
    Owntracks,
    /// One point; a retry is the same.
    Traccar,
    /// One point of a file whose lines are all sent again.
    Gpslogger,
}

/// A request as an app sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET` or `POST`
    pub method: &'static str,
    /// Path and query.
    pub target: String,
    /// With the credentials, if they are in a header.
    pub headers: Vec<(&'static str, String)>,
    /// Empty if there is none.
    pub body: String,
}

impl App {
    /// The body of the answer that the app takes for success (docs/phones.md).
    #[must_use]
    pub fn success(self) -> &'static str {
        match self {
            Self::Overland => r#"{"result":"ok"}"#,
            Self::Owntracks => "[]",
            Self::Traccar | Self::Gpslogger => "",
        }
    }

    /// The request that sends points, of which all but Overland send one. `made_at` is what OwnTracks says of the message,
    /// and not of the point.
    ///
    /// # Panics
    /// If there is no point.
    #[must_use]
    pub fn request(self, points: &[Upload], secret: &str, made_at: u32) -> Request {
        let Upload { device, locations } = &points[0];
        let request = match self {
            Self::Overland => {
                let features: Vec<String> = points.iter().map(feature).collect();
                let body = format!(r#"{{"locations":[{}]}}"#, features.join(","));
                Request::post("/overland", body)
                    .header("Content-Type", "application/json")
                    .header("Authorization", &format!("Bearer {secret}"))
            }
            Self::Owntracks => {
                let basic = STANDARD.encode(format!("jane:{secret}"));
                Request::post("/owntracks", message(&locations[0], made_at).to_string())
                    .header("Content-Type", "application/json; charset=utf-8")
                    .header("User-Agent", "Owntracks-Android/gms/420509001")
                    .header("Authorization", &format!("Basic {basic}"))
                    .header("X-Limit-U", "jane")
                    .header("X-Limit-D", device)
            }
            Self::Traccar => {
                let form = format!("id={device}&timestamp={}", seconds(&locations[0]));
                Request::post(&format!("/traccar/{secret}"), form + &pairs(TRACCAR, &locations[0]))
                    .header("Content-Type", "application/x-www-form-urlencoded")
                    .header("User-Agent", "ktor-client")
            }
            Self::Gpslogger => {
                let query = format!("aid={device}&time={}", written(&locations[0]));
                let target = format!("/gpslogger/{secret}?{query}{}", pairs(GPSLOGGER, &locations[0]));
                Request { method: "GET", ..Request::post(&target, String::new()) }
            }
        };
        debug_assert!(self == Self::Overland || points.len() == 1);
        request
    }
}

impl Request {
    fn post(target: &str, body: String) -> Self {
        Self { method: "POST", target: target.to_owned(), headers: Vec::new(), body }
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// As HTTP/1.1.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let Self { method, target, headers, body } = self;
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: milepost\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        text.into_bytes()
    }
}

/// A point as Overland has it, byte for byte: a bad one is set aside as it was sent.
#[must_use]
pub fn feature(point: &Upload) -> String {
    let at = &point.locations[0];
    let feature = json!({
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [at.longitude, at.latitude]},
        "properties": {
            "timestamp": written(at),
            "device_id": point.device,
            "horizontal_accuracy": at.accuracy,
            "altitude": at.altitude,
            "course": at.bearing,
        },
    });
    feature.to_string()
}

/// Device and time of a point of Overland, milliseconds since 1970.
#[must_use]
pub fn whose(feature: &[u8]) -> Option<(String, i64)> {
    let feature: Value = serde_json::from_slice(feature).ok()?;
    let property = |name: &str| feature["properties"][name].as_str();
    let at = OffsetDateTime::parse(property("timestamp")?, &Rfc3339).ok()?;
    Some((property("device_id")?.to_owned(), at.unix_timestamp().checked_mul(1000)?))
}

fn message(at: &Location, made_at: u32) -> Value {
    json!({
        "_type": "location",
        "_id": format!("{made_at:08x}"),
        "created_at": seconds(at) + i64::from(made_at % 86_400),
        "tst": seconds(at),
        "lat": at.latitude,
        "lon": at.longitude,
        "acc": at.accuracy,
        "alt": at.altitude,
        "cog": at.bearing,
        "p": 900.0 + f64::from(made_at % 1000) / 10.0,
    })
}

/// The names of a place, of its accuracy, its altitude and the bearing.
type Names = [&'static str; 5];
const TRACCAR: Names = ["lat", "lon", "accuracy", "altitude", "bearing"];
const GPSLOGGER: Names = ["lat", "lon", "acc", "alt", "dir"];

fn pairs(names: Names, at: &Location) -> String {
    let values = [Some(at.latitude), Some(at.longitude), at.accuracy, at.altitude, at.bearing];
    let known = names.iter().zip(values).filter_map(|(name, value)| Some((name, value?)));
    known.map(|(name, value)| format!("&{name}={value}")).collect()
}

fn seconds(at: &Location) -> i64 {
    at.timestamp / 1000
}

fn written(at: &Location) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds(at)).expect("no run lasts for millennia");
    time.format(&Rfc3339).expect("this form has all of a time")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{self, Kind, Operation, UploadId, point};

    const SEED: u64 = 7;
    const SECRET: &str = "mp_abcdefgh_secret";

    fn points(kind: Kind) -> Vec<Upload> {
        let mut operations = (0..).map(|index| operation::operation(SEED, index));
        let operation: Operation = operations.find(|one| one.kind == kind).expect("every kind comes");
        let [_, all] = point::sent(SEED, &operation);
        all.iter().map(|id: &UploadId| operation::upload(SEED, *id)).collect()
    }

    #[test]
    fn a_superset_holds_the_batch_byte_for_byte_and_says_whose_each_point_is() {
        let all = points(Kind::Superset);
        let request = App::Overland.request(&all, SECRET, 0);
        let first = App::Overland.request(&all[..2], SECRET, 1).body;
        assert!(request.body.starts_with(first.strip_suffix("]}").unwrap()), "{first}");
        for point in &all {
            let whose = whose(feature(point).as_bytes());
            assert_eq!(whose, Some((point.device.clone(), point.locations[0].timestamp)));
        }
        let bytes = String::from_utf8(request.bytes()).unwrap();
        assert!(
            bytes.starts_with("POST /overland HTTP/1.1\r\n") && bytes.ends_with(&request.body),
            "{bytes}"
        );
    }

    #[test]
    fn a_retry_of_owntracks_is_another_message_about_the_same_point() {
        let [one, other] =
            [1, 2].map(|made_at| App::Owntracks.request(&points(Kind::Renewed), SECRET, made_at));
        assert_ne!(one.body, other.body);
        let [mut one, mut other] =
            [one, other].map(|request| serde_json::from_str::<Value>(&request.body).unwrap());
        for message in [&mut one, &mut other] {
            for of_message in ["_id", "created_at", "p"] {
                assert!(message.as_object_mut().unwrap().remove(of_message).is_some());
            }
        }
        assert_eq!(one, other);
    }

    #[test]
    fn apps_that_offer_only_an_address_have_the_key_in_it() {
        let [line] = &points(Kind::WholeFile)[..1] else { unreachable!() };
        let request = App::Gpslogger.request(std::slice::from_ref(line), SECRET, 0);
        assert!(request.target.starts_with(&format!("/gpslogger/{SECRET}?aid=phone-")), "{request:?}");
        let request = App::Traccar.request(std::slice::from_ref(line), SECRET, 0);
        assert_eq!(request.target, format!("/traccar/{SECRET}"));
        for text in ["id=phone-", "&timestamp=8", "&lat=", "&lon=", "&accuracy=", "&altitude=", "&bearing="] {
            assert!(request.body.contains(text), "{text} in {}", request.body);
        }
    }
}
