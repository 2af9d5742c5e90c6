//! Makes an accepted upload of what was sent: decompressed, validated, keyed, fingerprinted. Pure, except for the random key
//! of an upload without one; nothing is stored.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use http::{HeaderMap, HeaderName};
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::clock::{Clock, millis};
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::record;
use milepost_shared::location::fingerprint::Fingerprint;
use milepost_shared::location::{self, LOCATIONS_MAX, Rules, Shape, Upload};
use milepost_shared::program::settings::duration;

use crate::admission::body::Held;
use crate::admission::coding::Codings;
use crate::admission::parse::Parsers;
use crate::answer::outcome::Accepted;
use crate::http::problem::Problem;
use crate::native::problem::invalid_upload;

const DAY: Duration = Duration::from_secs(86_400);
/// The header that links an upload to its sender's trace.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What an upload may hold.
#[derive(Debug, Clone, Args)]
pub struct DecodeSettings {
    /// Most locations of one upload; past it 413 [1..=10000].
    #[arg(long, env, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=LOCATIONS_MAX as i64))]
    pub locations_max: u32,

    /// Least time of a location, milliseconds since 1970: what is below is taken for seconds and refused. 0 takes any
    /// [0..=100000000000].
    #[arg(long, env, default_value_t = 100_000_000_000, value_parser = clap::value_parser!(i64).range(0..=100_000_000_000))]
    pub timestamp_min: i64,

    /// How far a location's time may be ahead of the gateway's clock [0s..=3650d].
    #[arg(long, env, default_value = "24h", value_parser = duration(Duration::ZERO, 3650 * DAY))]
    pub timestamp_ahead_max: Duration,
}

/// What every upload is judged by.
#[derive(Debug, Clone)]
pub struct Acceptance {
    settings: DecodeSettings,
    parsers: Parsers,
    clock: Clock,
}

/// What was sent, without its body.
#[derive(Debug)]
pub struct Sent<'a> {
    /// Who sent it.
    pub account: AccountId,
    /// The device that the sender's key is bound to: the upload is this one's, whatever the body says.
    pub device: Option<Arc<str>>,
    /// The client's key.
    pub key: Option<&'a str>,
    /// Which of the two kinds of body it has to be.
    pub shape: Shape,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// How the body is compressed.
    pub codings: Codings,
    /// How long the client will wait.
    pub patience: Duration,
}

impl Acceptance {
    /// Judges by these settings and this clock.
    #[must_use]
    pub fn new(settings: &DecodeSettings, parsers: Parsers, clock: Clock) -> Self {
        Self { settings: settings.clone(), parsers, clock }
    }

    /// Accepts an upload. The memory counted for its body is then counted for the upload.
    ///
    /// # Errors
    /// [`invalid_upload`], naming every fault, or what [`Parsers::parse`] says.
    pub async fn accept(&self, held: Held, sent: Sent<'_>) -> Result<(Accepted, Held), Problem> {
        let (rules, shape, device) = (self.rules(), sent.shape, sent.device);
        let read = move |body: &[u8]| read(body, shape, rules, device.as_deref());
        let parsing = self.parsers.parse(held, sent.codings, read);
        let ((upload, fingerprint), mut held) = parsing.await?;
        held.replace(upload.heap_bytes())?;
        // Not a hash of anything: no client's key can be equal to it.
        let key_hash =
            sent.key.map_or_else(|| KeyHash(rand::random()), |key| KeyHash::new(sent.account, key));
        let accepted = Accepted {
            account: sent.account,
            key_hash,
            has_key: sent.key.is_some(),
            fingerprint,
            upload,
            traceparent: traceparent(sent.headers),
            patience: sent.patience,
        };
        Ok((accepted, held))
    }

    fn rules(&self) -> Rules {
        Rules {
            locations_max: usize::try_from(self.settings.locations_max).unwrap_or(usize::MAX),
            timestamp_min: self.settings.timestamp_min,
            timestamp_max: self.clock.now_ms().saturating_add(millis(self.settings.timestamp_ahead_max)),
        }
    }
}

fn read(
    body: &[u8],
    shape: Shape,
    rules: Rules,
    device: Option<&str>,
) -> Result<(Upload, Fingerprint), Problem> {
    let mut upload = location::decode(body, shape, rules).map_err(|invalid| invalid_upload(&invalid))?;
    if let Some(device) = device {
        device.clone_into(&mut upload.device);
    }
    let fingerprint = Fingerprint::of(&upload);
    Ok((upload, fingerprint))
}

/// The request's `traceparent`, if it is valid (W3C Trace Context, version 00). An invalid one starts no
/// trace, and is no fault of the upload.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let text = values.next()?.to_str().ok().filter(|_| values.next().is_none())?;
    record::is_traceparent(text).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use milepost_shared::location::Invalid;

    use uuid::Uuid;

    use super::*;
    use crate::admission::body::Bodies;
    use crate::http::problem::OVERLOAD;
    use crate::testing::settings;

    const ACCOUNT: AccountId = AccountId(Uuid::from_u128(1));
    const NOW_MS: i64 = 1_773_480_413_000;

    fn acceptance() -> Acceptance {
        let clock = Clock::new(NOW_MS - Clock::new(0).now_ms());
        let hour = Duration::from_secs(3600);
        let settings = DecodeSettings { locations_max: 2, timestamp_min: 2, timestamp_ahead_max: hour };
        Acceptance { settings, parsers: Parsers::new(1 << 20), clock }
    }

    fn sent<'a>(shape: Shape, key: Option<&'a str>, headers: &'a HeaderMap) -> Sent<'a> {
        let (patience, codings) = (Duration::from_secs(1), Codings::of(headers).unwrap());
        Sent { account: ACCOUNT, device: None, key, shape, headers, codings, patience }
    }

    async fn accept(shape: Shape, key: Option<&str>, body: &str) -> Result<Accepted, Problem> {
        let (bodies, headers) = (Bodies::new(&settings(&[]).bodies), HeaderMap::new());
        let held = bodies.read(body.to_owned().into()).await?;
        acceptance().accept(held, sent(shape, key, &headers)).await.map(|(accepted, _)| accepted)
    }

    fn batch(timestamps: &[i64]) -> String {
        let location = |t: &i64| format!(r#"{{"timestamp":{t},"latitude":1,"longitude":2}}"#);
        let locations: Vec<String> = timestamps.iter().map(location).collect();
        format!(r#"{{"deviceId":"d","locations":[{}]}}"#, locations.join(","))
    }

    #[tokio::test]
    async fn an_upload_is_keyed_and_fingerprinted() {
        let accepted = accept(Shape::Batch, Some("k"), &batch(&[5])).await.unwrap();
        assert!(accepted.has_key);
        assert_eq!(accepted.key_hash, KeyHash::new(ACCOUNT, "k"));
        assert_eq!(accepted.fingerprint, Fingerprint::of(&accepted.upload));
        let single = r#"{"device_id":"d","timestamp":5.0,"latitude":1.0,"longitude":2}"#;
        assert_eq!(accept(Shape::Single, None, single).await.unwrap().fingerprint, accepted.fingerprint);
    }

    #[tokio::test]
    async fn two_uploads_without_a_key_have_nothing_in_common() {
        let one = accept(Shape::Batch, None, &batch(&[5])).await.unwrap();
        let other = accept(Shape::Batch, None, &batch(&[5])).await.unwrap();
        assert_ne!(one.key_hash, other.key_hash);
    }

    #[tokio::test]
    async fn the_settings_bound_number_and_time_of_locations() {
        let too_many = accept(Shape::Batch, None, &batch(&[3, 4, 5])).await.unwrap_err();
        assert_eq!(too_many, invalid_upload(&Invalid::TooMany { max: 2 }));
        assert!(accept(Shape::Batch, None, &batch(&[NOW_MS + 3_590_000])).await.is_ok());
        let ahead = accept(Shape::Batch, None, &batch(&[5, NOW_MS + 3_660_000])).await.unwrap_err();
        assert_eq!(ahead.members.unwrap()["faults"][0]["field"], "locations[1].timestamp");
        let seconds = accept(Shape::Batch, None, &batch(&[2, 1])).await.unwrap_err();
        let fault = &seconds.members.unwrap()["faults"][0];
        assert_eq!(fault["message"], "looks like seconds; milliseconds are wanted");
    }

    #[tokio::test]
    async fn a_short_body_is_read_at_once_and_a_long_one_holds_nobody_up() {
        let (bodies, headers) = (Bodies::new(&settings(&[]).bodies), HeaderMap::new());
        let mut compressed = HeaderMap::new();
        compressed.insert("content-encoding", HeaderValue::from_static("zstd"));
        let short = batch(&[NOW_MS]);
        let long = short.replace("]}", &format!("]{}}}", " ".repeat(1 << 19)));
        for (body, headers, at_once) in [
            (short.clone().into_bytes(), &headers, true),
            (long.clone().into_bytes(), &headers, false),
            (zstd::stream::encode_all(short.as_bytes(), 3).unwrap(), &compressed, true),
            (zstd::stream::encode_all(long.as_bytes(), 3).unwrap(), &compressed, false),
        ] {
            let held = bodies.read(body.into()).await.unwrap();
            let acceptance = acceptance();
            let mut accepting = std::pin::pin!(acceptance.accept(held, sent(Shape::Batch, None, headers)));
            let polled = futures::poll!(accepting.as_mut());
            assert_eq!(polled.is_ready(), at_once);
            let accepted = match polled {
                std::task::Poll::Ready(accepted) => accepted,
                std::task::Poll::Pending => accepting.await,
            };
            assert_eq!(accepted.unwrap().0.upload.locations.len(), 1);
        }
    }

    #[tokio::test]
    async fn what_a_bound_key_sends_is_its_devices_and_has_the_fingerprint_of_that() {
        let headers = HeaderMap::new();
        let accept = async |device: Option<Arc<str>>, body: String| {
            let held = Bodies::new(&settings(&[]).bodies).read(body.into()).await.unwrap();
            let sent = Sent { device, ..sent(Shape::Batch, Some("key"), &headers) };
            acceptance().accept(held, sent).await.map(|(accepted, _)| accepted)
        };
        let body = batch(&[NOW_MS]);
        let named = |device: &str| body.replacen("\"d\"", &format!("\"{device}\""), 1);
        assert_ne!(named("pixel8"), body);
        let plain = accept(None, named("pixel8")).await.unwrap();
        for other in ["d", "somebody else’s", "pixel8"] {
            let bound = accept(Some("pixel8".into()), named(other)).await.unwrap();
            assert_eq!((bound.upload.device.as_str(), bound.fingerprint), ("pixel8", plain.fingerprint));
            assert_eq!((bound.upload, bound.key_hash), (plain.upload.clone(), plain.key_hash));
        }
        assert!(accept(Some("pixel8".into()), named("")).await.is_err(), "the body keeps its rules");
    }

    #[tokio::test]
    async fn memory_counts_while_a_long_body_is_read_and_then_only_what_is_left() {
        let bodies = Bodies::new(&settings(&["--body-memory-kib=8192"]).bodies);
        let headers = HeaderMap::new();
        let long = |bytes: usize| {
            let body = batch(&[NOW_MS]).replace("]}", &format!("]{}}}", " ".repeat(bytes)));
            axum::body::Body::from(body)
        };
        let first = bodies.read(long(1_000_000)).await.unwrap();
        let second = bodies.read(long(1_000_000)).await.unwrap();
        let acceptance = acceptance();
        let refused = acceptance.accept(second, sent(Shape::Batch, None, &headers)).await;
        assert_eq!(refused.map(drop), Err(OVERLOAD));
        let (_accepted, held) = acceptance.accept(first, sent(Shape::Batch, None, &headers)).await.unwrap();
        let again = bodies.read(long(1_000_000)).await.unwrap();
        assert!(acceptance.accept(again, sent(Shape::Batch, None, &headers)).await.is_ok());
        drop(held);
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
