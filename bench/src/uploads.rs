//! What is sent: uploads made before anything is measured, the same for everybody who is compared.

use bytes::Bytes;
use milepost_shared::journal::answer;
use milepost_shared::location::{Location, Shape, Upload};
use milepost_tests::Post;

/// How many devices send.
pub const DEVICES: u64 = 4096;
/// When the phones took their fixes, milliseconds since 1970: any age is accepted.
pub const TAKEN_MS: i64 = 1_700_000_000_000;

/// One upload of each device.
#[derive(Debug)]
pub struct Uploads {
    /// Path of their URL.
    pub path: &'static str,
    /// What path and body say.
    pub shape: Shape,
    /// Locations of each.
    pub locations: u64,
    /// Body of the answer to each.
    pub answer: Bytes,
    bodies: Vec<Bytes>,
}

impl Uploads {
    /// Uploads of one location each, to `/api/v1/locations`.
    #[must_use]
    pub fn singles() -> Self {
        Self::new(Shape::Single, 1)
    }

    /// Uploads of `count` locations each, to `/api/v1/locations/batch`.
    #[must_use]
    pub fn batches(locations: u64) -> Self {
        Self::new(Shape::Batch, locations)
    }

    fn new(shape: Shape, locations: u64) -> Self {
        let post = |number| match shape {
            Shape::Single => Post::single(&upload(number, locations)),
            Shape::Batch => Post::batch(&upload(number, locations)),
        };
        let count = usize::try_from(locations).unwrap_or(usize::MAX);
        Self {
            path: post(0).path,
            shape,
            locations,
            answer: answer::body(count),
            bodies: (0..DEVICES).map(|number| post(number).body.into()).collect(),
        }
    }

    /// The body of the upload with this number; numbers beyond the devices begin again.
    #[must_use]
    pub fn body(&self, number: u64) -> Bytes {
        let index = usize::try_from(number % DEVICES).unwrap_or(0);
        self.bodies[index].clone()
    }

    /// Bytes of an average body.
    #[must_use]
    pub fn body_bytes(&self) -> f64 {
        self.bodies.iter().map(|body| body.len() as f64).sum::<f64>() / DEVICES as f64
    }

    /// The upload with this number, as it is once decoded.
    #[must_use]
    pub fn upload(&self, number: u64) -> Upload {
        upload(number, self.locations)
    }
}

/// A walk of one device, a fix every ten seconds, with every field that phones send.
#[must_use]
pub fn upload(number: u64, locations: u64) -> Upload {
    let device = number % DEVICES;
    let fix = |step: u64| {
        let (device, step) = (device as f64, step as f64);
        #[expect(clippy::cast_possible_truncation, reason = "some hours in milliseconds")]
        let timestamp = TAKEN_MS + (step * 10_000.0) as i64;
        Location {
            accuracy: Some(5.0 + device % 30.0),
            altitude: Some(171.0),
            bearing: Some((device + step * 7.0) % 360.0),
            speed: Some(13.9),
            battery_level: Some(64.0),
            provider: Some("gps".to_owned()),
            network_type: Some("wifi".to_owned()),
            ..Location::new(timestamp, 48.208_174_3 + device * 1e-5, 16.373_818_9 + step * 1e-4)
        }
    };
    Upload { device: format!("{device:016x}"), locations: (0..locations).map(fix).collect() }
}

#[cfg(test)]
mod tests {
    use milepost_shared::location::{Rules, decode};

    use super::*;

    #[test]
    fn every_body_is_the_upload_it_stands_for() {
        for uploads in [Uploads::singles(), Uploads::batches(50)] {
            for number in [0, 1, DEVICES - 1, DEVICES + 5] {
                let decoded = decode(&uploads.body(number), uploads.shape, Rules::STORABLE).unwrap();
                assert_eq!(decoded, uploads.upload(number));
                assert_eq!(decoded.locations.len() as u64, uploads.locations);
            }
        }
    }

    #[test]
    fn devices_differ_and_begin_again() {
        let uploads = Uploads::singles();
        assert_ne!(uploads.body(0), uploads.body(1));
        assert_eq!(uploads.body(3), uploads.body(DEVICES + 3));
    }
}
