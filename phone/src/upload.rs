//! One HTTP request's worth of locations: a key and the bytes that always go with it.

use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::point::Point;

/// The endpoint for one location.
pub const SINGLE: &str = "/api/v1/locations";
/// The endpoint for 1..N locations of one device.
pub const BATCH: &str = "/api/v1/locations/batch";

/// The rule by which keys are made, part of what is hashed. A new rule needs a new name: a key never stands for other
/// bytes.
const KEY_RULE: &str = "milepost-phone 1";

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
    /// An upload of `points`. A lone point goes to the endpoint for one.
    ///
    /// Its key follows from the body, and so from the device and the points: whoever cuts the same file again, after a
    /// crash say, sends the same upload under the same key, and Milepost stores it once.
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
        Self { key: key(&body), path, body, locations: points.len() }
    }
}

/// The first 122 bits of a SHA-256, as a UUID of version 8 (RFC 9562).
fn key(body: &[u8]) -> Uuid {
    let hash = Sha256::new().chain_update(KEY_RULE).chain_update(body).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    Uuid::new_v8(bytes)
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
    fn a_key_follows_from_the_device_and_every_value_of_every_point() {
        let points = points();
        let key = Upload::new("phone", &points).key;
        assert_eq!(Upload::new("phone", &points).key, key);
        let changes: [fn(&mut [Point; 2]); 6] = [
            |points| points[0].timestamp += 1,
            |points| points[0].latitude = points[0].latitude.next_up(),
            |points| points[1].longitude = 4.25,
            |points| points[1].altitude = None,
            |points| points[1].speed = Some(0.0),
            |points| points.swap(0, 1),
        ];
        let mut keys = vec![key, Upload::new("phone 2", &points).key, Upload::new("phone", &points[..1]).key];
        for change in changes {
            let mut points = points.clone();
            change(&mut points);
            keys.push(Upload::new("phone", &points).key);
        }
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{index}");
        }
    }

    #[test]
    fn the_rule_of_keys_never_changes_for_uploads_already_out_there() {
        let key = Upload::new("phone 7", &points()).key;
        assert_eq!(key.to_string(), "0973856a-d99f-843f-8f90-497e00bf17de");
        assert_eq!(key.get_version_num(), 8);
    }
}
