//! Makes an accepted upload of what was sent: validated, keyed, fingerprinted. Pure but for the random key of
//! an upload without one; nothing is stored.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use milepost_shared::clock::{Clock, millis};
use milepost_shared::fingerprint::Fingerprint;
use milepost_shared::journal;
use milepost_shared::key::KeyHash;
use milepost_shared::planted::{Planted, PlantedBug};
use milepost_shared::upload::{self, Rules, Shape};
use uuid::Uuid;

use crate::outcome::Accepted;
use crate::problem::Problem;
use crate::settings::UploadSettings;

/// The header that links an upload to its sender's trace.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What every upload is judged by.
#[derive(Debug, Clone)]
pub struct Acceptance {
    locations_max: usize,
    timestamp_min: i64,
    timestamp_ahead_max: Duration,
    clock: Clock,
    planted: Planted,
}

/// What was sent, as far as it is read already.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    /// Who sent it.
    pub account: Uuid,
    /// The client's key.
    pub key: Option<&'a str>,
    /// Which of the two bodies it has to be.
    pub shape: Shape,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// The whole body.
    pub body: &'a [u8],
    /// How long the client will wait.
    pub patience: Duration,
}

impl Acceptance {
    /// Judges by these settings and this clock.
    #[must_use]
    pub fn new(settings: &UploadSettings, clock: Clock, planted: Planted) -> Self {
        Self {
            locations_max: usize::try_from(settings.locations_max).unwrap_or(usize::MAX),
            timestamp_min: settings.timestamp_min,
            timestamp_ahead_max: settings.timestamp_ahead_max,
            clock,
            planted,
        }
    }

    /// Accepts an upload.
    ///
    /// # Errors
    /// [`Problem::InvalidUpload`], naming every fault.
    pub fn accept(&self, sent: Sent<'_>) -> Result<Accepted, Problem> {
        let rules = Rules {
            locations_max: self.locations_max,
            timestamp_min: self.timestamp_min,
            timestamp_max: self.clock.now_ms().saturating_add(millis(self.timestamp_ahead_max)),
        };
        let upload = upload::decode(sent.body, sent.shape, rules).map_err(Problem::InvalidUpload)?;
        let account =
            if self.planted.is(PlantedBug::KeyHashWithoutAccount) { Uuid::nil() } else { sent.account };
        // Not a hash of anything: no client's key can be equal to it.
        let key_hash = sent.key.map_or_else(|| KeyHash(rand::random()), |key| KeyHash::new(account, key));
        Ok(Accepted {
            account: sent.account,
            key_hash,
            has_key: sent.key.is_some(),
            fingerprint: Fingerprint::of(&upload),
            upload,
            traceparent: traceparent(sent.headers),
            patience: sent.patience,
        })
    }
}

/// The request's `traceparent`, if it is valid (W3C Trace Context, version 00). An invalid one starts no
/// trace, and is no fault of the upload.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let text = values.next()?.to_str().ok().filter(|_| values.next().is_none())?;
    journal::is_traceparent(text).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use milepost_shared::upload::Invalid;

    use super::*;

    const ACCOUNT: Uuid = Uuid::from_u128(1);
    const NOW_MS: i64 = 1_773_480_413_000;

    fn acceptance() -> Acceptance {
        let clock = Clock::new(NOW_MS - Clock::new(0).now_ms());
        Acceptance {
            locations_max: 2,
            timestamp_min: 2,
            timestamp_ahead_max: Duration::from_secs(3600),
            clock,
            planted: Planted::default(),
        }
    }

    fn accept(shape: Shape, key: Option<&str>, body: &str) -> Result<Accepted, Problem> {
        let headers = HeaderMap::new();
        let patience = Duration::from_secs(1);
        let body = body.as_bytes();
        acceptance().accept(Sent { account: ACCOUNT, key, shape, headers: &headers, body, patience })
    }

    fn batch(timestamps: &[i64]) -> String {
        let location = |t: &i64| format!(r#"{{"timestamp":{t},"latitude":1,"longitude":2}}"#);
        let locations: Vec<String> = timestamps.iter().map(location).collect();
        format!(r#"{{"deviceId":"d","locations":[{}]}}"#, locations.join(","))
    }

    #[test]
    fn an_upload_is_keyed_and_fingerprinted() {
        let accepted = accept(Shape::Batch, Some("k"), &batch(&[5])).unwrap();
        assert!(accepted.has_key);
        assert_eq!(accepted.key_hash, KeyHash::new(ACCOUNT, "k"));
        assert_eq!(accepted.fingerprint, Fingerprint::of(&accepted.upload));
        let single = r#"{"device_id":"d","timestamp":5.0,"latitude":1.0,"longitude":2}"#;
        assert_eq!(accept(Shape::Single, None, single).unwrap().fingerprint, accepted.fingerprint);
    }

    #[test]
    fn two_uploads_without_a_key_have_nothing_in_common() {
        let hashes = [0, 1].map(|_| accept(Shape::Batch, None, &batch(&[5])).unwrap().key_hash);
        assert_ne!(hashes[0], hashes[1]);
    }

    #[test]
    fn the_settings_bound_number_and_time_of_locations() {
        let too_many = accept(Shape::Batch, None, &batch(&[3, 4, 5])).unwrap_err();
        assert_eq!(too_many, Problem::InvalidUpload(Invalid::TooMany { max: 2 }));
        assert!(accept(Shape::Batch, None, &batch(&[NOW_MS + 3_590_000])).is_ok());
        let ahead = accept(Shape::Batch, None, &batch(&[5, NOW_MS + 3_660_000])).unwrap_err();
        let Problem::InvalidUpload(Invalid::Faults { faults, .. }) = ahead else { panic!("{ahead:?}") };
        assert_eq!(faults[0].field, "locations[1].timestamp");
        let seconds = accept(Shape::Batch, None, &batch(&[2, 1])).unwrap_err();
        let Problem::InvalidUpload(Invalid::Faults { faults, .. }) = seconds else { panic!("{seconds:?}") };
        assert_eq!(faults[0].message, "looks like seconds; milliseconds are wanted");
    }

    #[test]
    fn a_traceparent_is_handed_on_only_if_it_is_one() {
        let parsed = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("traceparent", HeaderValue::from_str(value).unwrap());
            }
            traceparent(&headers)
        };
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(parsed(&[valid]).as_deref(), Some(valid));
        assert_eq!(parsed(&[]), None);
        assert_eq!(parsed(&[valid, valid]), None);
        for invalid in [
            "",
            "00",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b-001",
        ] {
            assert_eq!(parsed(&[invalid]), None, "{invalid}");
        }
    }
}
