//! Overland for iOS: <https://github.com/aaronpk/Overland-iOS#api>.

use reqwest::Method;
use serde_json::{Value, json};

use super::written::{BATTERY, iso_seconds, rounded};
use super::{Message, headers};
use crate::point::Point;
use crate::request::Request;

/// The most points of a batch, as the app has it before anybody changes it.
pub const POINTS_MAX: usize = 200;

/// What it does not know.
const UNKNOWN: i64 = -1;

/// A batch of what is in the app's queue.
pub fn request(message: &Message<'_>) -> Request {
    let features: Vec<Value> = message.points.iter().map(|point| feature(message.device, point)).collect();
    let authorization = format!("Bearer {}", message.key);
    let headers = headers([
        ("content-type", "application/json"),
        ("user-agent", "Overland/1.4 (iPhone; iOS 18.6; Scale/3.00)"),
        ("authorization", &authorization),
    ]);
    let body = json!({"locations": features}).to_string();
    Request { method: Method::POST, target: "/overland".to_owned(), headers, body: body.into() }
}

fn feature(device: &str, point: &Point) -> Value {
    let or_unknown = |number: Option<f64>| number.map_or(UNKNOWN, rounded);
    json!({
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [point.longitude, point.latitude]},
        "properties": {
            "timestamp": iso_seconds(point.timestamp),
            "altitude": point.altitude.map_or(0, rounded),
            "speed": or_unknown(point.speed),
            "course": or_unknown(point.bearing),
            "horizontal_accuracy": or_unknown(point.accuracy),
            // Below zero where the altitude is none.
            "vertical_accuracy": point.altitude.map_or(UNKNOWN, |_| 3),
            "speed_accuracy": UNKNOWN,
            "course_accuracy": UNKNOWN,
            "motion": [],
            "device_id": device,
            "wifi": "",
            "battery_state": "unplugged",
            "battery_level": f64::from(BATTERY) / 100.0,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{bare, full, message};
    use super::*;

    #[test]
    fn a_batch_is_geojson_in_whole_seconds_and_metres_with_the_place_bit_for_bit() {
        let points = [full(), bare()];
        let request = request(&message(&points));
        assert_eq!((&request.target[..], &request.method), ("/overland", &Method::POST));
        assert_eq!(request.headers["authorization"], "Bearer mp_secret");
        let body: Value = serde_json::from_slice(&request.body).expect("the body is JSON");
        let features = body["locations"].as_array().expect("a list");
        assert_eq!(features.len(), 2);
        let coordinates = &features[0]["geometry"]["coordinates"];
        assert_eq!(*coordinates, json!([16.370_197_273_792_407, 48.208_174_3]));
        assert_eq!(
            features[0]["properties"],
            json!({
                "timestamp": "2026-03-14T09:26:53Z", "altitude": 171, "speed": 14, "course": 143,
                "horizontal_accuracy": 4, "vertical_accuracy": 3, "speed_accuracy": -1, "course_accuracy": -1,
                "motion": [], "device_id": "pixel 8", "wifi": "", "battery_state": "unplugged", "battery_level": 0.64,
            })
        );
        for (name, unknown) in [
            ("altitude", 0),
            ("speed", -1),
            ("course", -1),
            ("horizontal_accuracy", -1),
            ("vertical_accuracy", -1),
        ] {
            assert_eq!(features[1]["properties"][name], unknown, "{name}");
        }
    }
}
