//! Takes points that came without a client's key: each is an upload of one location, known by what it is.
//!
//! The points of a request are taken when each of them is in the journal or known: from the cache, from the journal's
//! acknowledgement a short while ago, or from the table, which is asked once for all the rest. Nobody waits for the consumer:
//! all a point can become is stored once, and who sends points understands no other answer than that they are safe.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use metrics::{Counter, counter};
use milepost_shared::journal::account::AccountId;
use milepost_shared::journal::key::KeyHash;
use milepost_shared::journal::record::{JournalRecord, Payload};
use milepost_shared::journal::set_aside::SetAside;
use milepost_shared::location::fields::TEXTS;
use milepost_shared::location::fingerprint::Fingerprint;
use milepost_shared::location::{Location, Upload};
use milepost_shared::program::crash::CrashPoint;

use crate::answer::flight::Finder;
use crate::answer::matching;
use crate::answer::outcome::Unavailable;
use crate::answer::safety::{self, Awaited, Known};

/// Most points of one request that are on their way to the journal at once, and at most which part of all uploads that may be:
/// else a long batch would be past the bound for ever.
const AT_ONCE_MAX: u32 = 2000;
const AT_ONCE_PART: u32 = 2;
/// What an `Arc` takes besides what is in it.
const ARC_BYTES: usize = 2 * size_of::<usize>();

/// What one request holds for the journal: points, and those that were set aside, each once.
pub struct Points {
    account: AccountId,
    points: Vec<Point>,
    seen: HashSet<KeyHash>,
    repeated: u64,
    /// Bytes of their devices and texts.
    text_bytes: usize,
}

struct Point {
    key_hash: KeyHash,
    what: What,
}

enum What {
    Good { device: Arc<str>, location: Location },
    SetAside(Box<SetAside>),
}

impl Points {
    /// None yet, and no more than `most`.
    #[must_use]
    pub fn of(account: AccountId, most: usize) -> Self {
        let (points, seen) = (Vec::with_capacity(most), HashSet::with_capacity(most));
        Self { account, points, seen, repeated: 0, text_bytes: 0 }
    }

    /// Adds a point of a device, which keeps all rules. If the same one is there, that one stays.
    pub fn add(&mut self, device: &str, location: Location) {
        let Location { timestamp, latitude, longitude, .. } = location;
        let key_hash = KeyHash::of_point(self.account, device, timestamp, latitude, longitude);
        let before = match self.points.last() {
            Some(Point { what: What::Good { device: before, .. }, .. }) if **before == *device => {
                Some(before)
            }
            _ => None,
        };
        let named = if before.is_none() { device.len() + ARC_BYTES } else { 0 };
        let texts = TEXTS.iter().filter_map(|text| (text.get)(&location));
        self.text_bytes += named + texts.map(str::len).sum::<usize>();
        let device = before.map_or_else(|| Arc::from(device), Arc::clone);
        self.push(key_hash, What::Good { device, location });
    }

    /// Adds a point that breaks a rule, known by its app, its device if that is known, its reason and what was sent.
    pub fn add_set_aside(
        &mut self,
        app: &str,
        device: Option<&str>,
        reason: &str,
        field: Option<&str>,
        raw: &str,
    ) {
        let key_hash = KeyHash::of_set_aside(self.account, app, device, reason, raw);
        let point = SetAside::new(app, device, reason, field, raw.as_bytes());
        self.push(key_hash, What::SetAside(Box::new(point)));
    }

    fn push(&mut self, key_hash: KeyHash, what: What) {
        if self.seen.insert(key_hash) {
            self.points.push(Point { key_hash, what });
        } else {
            self.repeated += 1;
        }
    }

    /// About the memory they take, bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let raw = |point: &Point| match &point.what {
            What::Good { .. } => 0,
            What::SetAside(point) => size_of::<SetAside>() + point.raw.len(),
        };
        let raw: usize = self.points.iter().map(raw).sum();
        raw + self.text_bytes
            + self.points.capacity() * size_of::<Point>()
            + self.seen.capacity() * size_of::<KeyHash>()
    }
}

impl Point {
    /// Its record. The fingerprint is of what it is known by, which is what its key is of: the same point with another
    /// accuracy is a copy, and never a conflict.
    fn record(self, account: AccountId) -> JournalRecord {
        let Self { key_hash, what } = self;
        let payload = match what {
            What::Good { device, location } => {
                Upload { device: device.as_ref().to_owned(), locations: vec![location] }.into()
            }
            What::SetAside(point) => Payload::SetAside(*point),
        };
        JournalRecord { key_hash, account, fingerprint: Fingerprint(key_hash.0), payload }
    }
}

/// How many points of one request may be on their way to the journal at once, if so many uploads may.
pub(crate) fn at_once(publish_in_flight: u32) -> usize {
    let points = (publish_in_flight / AT_ONCE_PART).clamp(1, AT_ONCE_MAX);
    usize::try_from(points).unwrap_or(1)
}

/// What became of the points of one app.
pub struct PointMetrics {
    repeated: Counter,
    cache: Counter,
    recent: Counter,
    table: Counter,
    published: Counter,
    unavailable: Counter,
}

impl PointMetrics {
    /// The series of an app, which exist from now on.
    #[must_use]
    pub fn new(app: &'static str) -> Self {
        let series = |outcome: &'static str| {
            let counter = counter!("milepost_gateway_points_total", "app" => app, "outcome" => outcome);
            counter.absolute(0);
            counter
        };
        Self {
            repeated: series("repeated"),
            cache: series("cache"),
            recent: series("recent"),
            table: series("table"),
            published: series("published"),
            unavailable: series("unavailable"),
        }
    }

    fn of(&self, known: Known) -> &Counter {
        match known {
            Known::Cache => &self.cache,
            Known::Recent => &self.recent,
            Known::Table => &self.table,
        }
    }
}

impl Finder {
    /// Brings the points of a request into the journal, unless they are known.
    ///
    /// # Errors
    /// [`Unavailable`]: some of them may not be in the journal. To send all of them again is safe.
    pub async fn take(&self, points: Points, metrics: &PointMetrics) -> Result<(), Unavailable> {
        let Points { account, mut points, repeated, .. } = points;
        metrics.repeated.increment(repeated);
        let now = self.journal_clock.now();
        points.retain(|point| {
            let cached = self.cache.get(point.key_hash);
            let known = safety::by_memory(cached.as_ref(), || self.recent.has(point.key_hash), now);
            known.inspect(|known| metrics.of(*known).increment(1)).is_none()
        });
        let newest = self.lookup.newest_of(points.iter().map(|point| point.key_hash).collect()).await;
        points.retain(|point| {
            let newest = newest.get(&point.key_hash);
            if let Some(state) = newest {
                self.cache.insert(point.key_hash, state);
            }
            let known = safety::by_table(newest, now);
            known.inspect(|known| metrics.of(*known).increment(1)).is_none()
        });
        self.crash.point(CrashPoint::Accepted);
        let mut awaited = Awaited::new(points.len());
        let publishing = points.into_iter().map(|point| self.publish_point(account, point));
        let mut publishing = stream::iter(publishing).buffer_unordered(self.points_at_once);
        while awaited.end().is_none()
            && let Some(published) = publishing.next().await
        {
            metrics.published.increment(u64::from(published.is_ok()));
            awaited.hear(published);
        }
        // What is still on its way may arrive; the retry will show.
        metrics.unavailable.increment(awaited.left());
        awaited.end().unwrap_or(Err(Unavailable::Journal))?;
        self.crash.point(CrashPoint::Answered);
        Ok(())
    }

    async fn publish_point(&self, account: AccountId, point: Point) -> Result<(), Unavailable> {
        let key_hash = point.key_hash;
        let published = self.publisher.publish_value(key_hash, point.record(account).encode(), None).await?;
        self.crash.point(CrashPoint::Published);
        if published.time != matching::UNKNOWN_TIME {
            self.journal_clock.saw(published.time);
        }
        self.recent.insert(key_hash);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: AccountId = AccountId(uuid::Uuid::from_u128(1));

    /// The records of points, as the consumer reads them.
    fn records(points: Points) -> Vec<JournalRecord> {
        let read = |point: Point| {
            let record = point.record(ACCOUNT);
            let key = record.key_hash.to_string();
            JournalRecord::decode(Some(key.as_bytes()), Some(&record.encode())).unwrap()
        };
        points.points.into_iter().map(read).collect()
    }

    fn points(points: &[(&str, &Location)]) -> Points {
        let mut all = Points::of(ACCOUNT, points.len());
        points.iter().for_each(|(device, location)| all.add(device, (*location).clone()));
        all
    }

    #[test]
    fn a_point_is_there_once_and_the_first_one_stays() {
        let first = Location { accuracy: Some(5.0), ..Location::new(9, 1.0, 2.0) };
        let again = Location { accuracy: Some(7.0), ..first.clone() };
        let other = Location::new(10, 1.0, 2.0);
        let points = points(&[("a", &first), ("a", &again), ("b", &first), ("a", &other), ("a", &other)]);
        assert_eq!(points.repeated, 2);
        let records = records(points);
        let stored: Vec<_> = records.iter().map(|record| record.upload().unwrap()).collect();
        let wanted = [("a", &first), ("b", &first), ("a", &other)];
        let upload = |(device, location): (&str, &Location)| Upload {
            device: device.to_owned(),
            locations: vec![location.clone()],
        };
        assert_eq!(stored, wanted.map(upload).iter().collect::<Vec<_>>());
    }

    #[test]
    fn the_same_point_with_anything_else_about_it_is_a_copy_and_no_conflict() {
        let bare = Location::new(9, 0.0, 2.0);
        let full = Location {
            accuracy: Some(5.0),
            battery_level: Some(50.0),
            provider: Some("gps".to_owned()),
            ..Location::new(9, -0.0, 2.0)
        };
        let [one, other] = [bare, full].map(|location| records(points(&[("a", &location)])).remove(0));
        assert_eq!((one.key_hash, one.fingerprint), (other.key_hash, other.fingerprint));
        assert_eq!(one.key_hash, KeyHash::of_point(ACCOUNT, "a", 9, 0.0, 2.0));
        assert_eq!(other.payload.locations()[0].accuracy, Some(5.0));
    }

    #[test]
    fn a_bad_point_is_the_same_wherever_it_stands_in_its_batch() {
        let mut all = Points::of(ACCOUNT, 3);
        all.add_set_aside("overland", Some("a"), "no-time", Some("[3].properties.timestamp"), "{}");
        all.add_set_aside("overland", Some("a"), "no-time", Some("[0].properties.timestamp"), "{}");
        all.add_set_aside("overland", None, "not-a-number", None, "{}");
        assert_eq!(all.repeated, 1);
        let records = records(all);
        let texts: Vec<_> = records.iter().map(|record| record.set_aside().unwrap().to_string()).collect();
        assert_eq!(texts, ["overland: no-time ([3].properties.timestamp)", "overland: not-a-number"]);
        let devices = records.iter().map(|record| record.set_aside().unwrap().device.as_deref());
        assert_eq!(devices.collect::<Vec<_>>(), [Some("a"), None]);
    }

    #[test]
    fn what_two_devices_sent_alike_is_a_bad_point_of_each() {
        let mut all = Points::of(ACCOUNT, 3);
        for device in [Some("a"), Some("b"), None] {
            all.add_set_aside("gpslogger", device, "not-a-number", Some("lat"), "lat=%25LAT&lon=%25LON");
        }
        assert_eq!(all.repeated, 0);
        let records = records(all);
        let devices = records.iter().map(|record| record.set_aside().unwrap().device.as_deref());
        assert_eq!(devices.collect::<Vec<_>>(), [Some("a"), Some("b"), None]);
    }
}
