//! One HTTP request's worth of locations: a key and the bytes that always go with it.

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use crate::point::Point;

/// The endpoint for one location.
pub const SINGLE: &str = "/api/v1/locations";
/// The endpoint for 1..N locations of one device.
pub const BATCH: &str = "/api/v1/locations/batch";

/// An upload. The bytes are made once: every attempt sends the same ones, under the same key.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The idempotency key, unquoted.
    pub key: Uuid,
    /// The endpoint, [`SINGLE`] or [`BATCH`].
    pub path: &'static str,
    /// The JSON body.
    pub body: Bytes,
    /// How many locations the body holds: the `processedCount` that is expected.
    pub locations: usize,
}

/// The body of [`SINGLE`].
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Single<'a> {
    device_id: &'a str,
    #[serde(flatten)]
    point: &'a Point,
}

/// The body of [`BATCH`].
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Batch<'a> {
    device_id: &'a str,
    locations: &'a [Point],
}

impl Upload {
    /// An upload of `points` under a new random key. A lone point goes to the endpoint for one.
    ///
    /// # Panics
    ///
    /// Never: a point holds numbers and a fixed word, which JSON can always hold (a number that is not finite
    /// would be written as `null` and refused by the gateway).
    #[must_use]
    pub fn new(device_id: &str, points: &[Point]) -> Self {
        let (path, body) = match points {
            [point] => (SINGLE, serde_json::to_vec(&Single { device_id, point })),
            locations => (BATCH, serde_json::to_vec(&Batch { device_id, locations })),
        };
        let body: Bytes = body.expect("strings and numbers are always JSON").into();
        Self { key: Uuid::new_v4(), path, body, locations: points.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> [Point; 2] {
        let first = Point {
            timestamp: 1000,
            latitude: 1.5,
            longitude: 2.0,
            altitude: None,
            speed: None,
            bearing: None,
            accuracy: None,
            provider: "gps",
        };
        let second = Point { timestamp: 2000, latitude: 3.0, longitude: -4.25, altitude: Some(5.0), ..first };
        [first, second]
    }

    #[test]
    fn a_lone_point_goes_to_the_endpoint_for_one() {
        let upload = Upload::new("phone 7", &points()[..1]);
        assert_eq!(upload.path, "/api/v1/locations");
        assert_eq!(upload.locations, 1);
        assert_eq!(
            upload.body,
            r#"{"deviceId":"phone 7","timestamp":1000,"latitude":1.5,"longitude":2.0,"provider":"gps"}"#
        );
    }

    #[test]
    fn several_points_go_to_the_endpoint_for_batches() {
        let upload = Upload::new("phone 7", &points());
        assert_eq!(upload.path, "/api/v1/locations/batch");
        assert_eq!(upload.locations, 2);
        let body = [
            r#"{"deviceId":"phone 7","locations":["#,
            r#"{"timestamp":1000,"latitude":1.5,"longitude":2.0,"provider":"gps"},"#,
            r#"{"timestamp":2000,"latitude":3.0,"longitude":-4.25,"altitude":5.0,"provider":"gps"}]}"#,
        ];
        assert_eq!(upload.body, body.concat());
    }

    #[test]
    fn two_uploads_of_the_same_points_have_two_keys() {
        let points = points();
        assert_ne!(Upload::new("phone", &points).key, Upload::new("phone", &points).key);
    }
}
