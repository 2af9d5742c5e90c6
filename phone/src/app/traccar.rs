//! Traccar Client in its three ways: <https://www.traccar.org/osmand/>. All have the key in the path, since the app offers
//! no other place.

use bytes::Bytes;
use form_urlencoded::Serializer;
use reqwest::Method;
use serde_json::json;

use super::written::{BATTERY, iso_milliseconds, java, narrowed, seconds};
use super::{Message, headers, with_key};
use crate::point::Point;
use crate::request::Request;

/// Metres per second in a knot, as Traccar has it.
const KNOTS: f64 = 1.943844;

fn target(message: &Message<'_>) -> String {
    with_key("/traccar", message.key)
}

/// Version 10: a form without what is not known.
pub fn form(message: &Message<'_>) -> Request {
    let mut form = Serializer::new(String::new());
    form.append_pair("id", message.device);
    for point in message.points {
        let known = [
            ("accuracy", point.accuracy),
            ("altitude", point.altitude),
            ("speed", point.speed.map(|speed| (speed * KNOTS * 100.0).round() / 100.0)),
            ("bearing", point.bearing),
        ];
        form.append_pair("lat", &java(point.latitude));
        form.append_pair("lon", &java(point.longitude));
        form.append_pair("timestamp", &seconds(point.timestamp).to_string());
        form.extend_pairs(known.into_iter().filter_map(|(name, number)| Some((name, java(number?)))));
    }
    form.append_pair("batt", &java(BATTERY.into())).append_pair("charge", "false");
    let headers = headers([
        ("content-type", "application/x-www-form-urlencoded; charset=UTF-8"),
        ("user-agent", "ktor-client"),
    ]);
    Request { method: Method::POST, target: target(message), headers, body: form.finish().into() }
}

/// Version 9: JSON, in metres per second, with -1 for what is not known.
pub fn json(message: &Message<'_>) -> Request {
    let location = |point: &Point| {
        let or_unknown = |number: Option<f64>| number.unwrap_or(-1.0);
        let timestamp = iso_milliseconds(point.timestamp);
        json!({
            "timestamp": timestamp,
            "coords": {
                "latitude": point.latitude,
                "longitude": point.longitude,
                "accuracy": or_unknown(point.accuracy),
                "speed": or_unknown(point.speed),
                "heading": or_unknown(point.bearing),
                "altitude": point.altitude,
            },
            "is_moving": true,
            "odometer": 0,
            "battery": {"level": f64::from(BATTERY) / 100.0, "is_charging": false},
            "activity": {"type": "on_bicycle"},
            "extras": {},
            "_": format!(
                "&id={}&lat={}&lon={}&timestamp={timestamp}&",
                message.device, point.latitude, point.longitude
            ),
        })
    };
    let body = json!({"location": message.points.first().map(location), "device_id": message.device});
    let headers =
        headers([("content-type", "application/json; charset=utf-8"), ("user-agent", "okhttp/3.14.9")]);
    Request { method: Method::POST, target: target(message), headers, body: body.to_string().into() }
}

/// Version 8 and before, on Android: a query, with `0.0` for what is not known.
pub fn query(message: &Message<'_>) -> Request {
    let mut query = Serializer::new(String::new());
    query.append_pair("id", message.device);
    for point in message.points {
        query.append_pair("timestamp", &seconds(point.timestamp).to_string());
        let or_zero = |number: Option<f64>| narrowed(number.unwrap_or_default());
        query.extend_pairs(
            [
                ("lat", point.latitude),
                ("lon", point.longitude),
                ("speed", or_zero(point.speed) * KNOTS),
                ("bearing", or_zero(point.bearing)),
                ("altitude", or_zero(point.altitude)),
                ("accuracy", or_zero(point.accuracy)),
            ]
            .map(|(name, number)| (name, java(number))),
        );
    }
    query.append_pair("batt", &java(BATTERY.into()));
    let target = format!("{}?{}", target(message), query.finish());
    let headers =
        headers([("user-agent", "Dalvik/2.1.0 (Linux; U; Android 11; SM-A515F Build/RP1A.200720.012)")]);
    Request { method: Method::POST, target, headers, body: Bytes::new() }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing::{bare, full, message};
    use super::*;

    #[test]
    fn version_10_sends_a_form_in_knots_without_what_it_does_not_know() {
        let (points, unknown) = ([full()], [bare()]);
        let request = form(&message(&points));
        assert_eq!(request.target, "/traccar/mp_secret");
        let place = "id=pixel+8&lat=48.2081743&lon=16.370197273792407&timestamp=1773480413";
        let known = "accuracy=4.288&altitude=171.4&speed=27.02&bearing=143.2";
        assert_eq!(request.body, format!("{place}&{known}&batt=64.0&charge=false"));
        assert_eq!(form(&message(&unknown)).body, format!("{place}&batt=64.0&charge=false"));
    }

    #[test]
    fn version_9_sends_json_in_metres_a_second_with_milliseconds() {
        let (points, unknown) = ([full()], [bare()]);
        let request = json(&message(&points));
        assert_eq!(request.target, "/traccar/mp_secret");
        let read = |request: Request| -> Value { serde_json::from_slice(&request.body).expect("JSON") };
        let body = read(request);
        assert_eq!(body["device_id"], "pixel 8");
        assert_eq!(body["location"]["timestamp"], "2026-03-14T09:26:53.579Z");
        let coords = json!({
            "latitude": 48.208_174_3, "longitude": 16.370_197_273_792_407, "accuracy": 4.288, "speed": 13.9,
            "heading": 143.2, "altitude": 171.4,
        });
        assert_eq!(body["location"]["coords"], coords);
        assert_eq!(body["location"]["battery"]["level"], 0.64);
        let coords = read(json(&message(&unknown)))["location"]["coords"].clone();
        assert_eq!((&coords["speed"], &coords["altitude"]), (&json!(-1.0), &Value::Null));
    }

    #[test]
    fn version_8_sends_a_query_in_knots_with_zeros_for_what_it_does_not_know() {
        let (points, unknown) = ([full()], [bare()]);
        let request = query(&message(&points));
        assert!(request.body.is_empty());
        let place =
            "/traccar/mp_secret?id=pixel+8&timestamp=1773480413&lat=48.2081743&lon=16.370197273792407";
        let known = "speed=27.01943085848236&bearing=143.1999969482422&altitude=171.39999389648438&accuracy=4.288000106811523";
        assert_eq!(request.target, format!("{place}&{known}&batt=64.0"));
        let zeros = "speed=0.0&bearing=0.0&altitude=0.0&accuracy=0.0";
        assert_eq!(query(&message(&unknown)).target, format!("{place}&{zeros}&batt=64.0"));
    }
}
