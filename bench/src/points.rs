//! What phone apps send as they are: no client's key, and each point known by its device, time and place.
//!
//! A request is made of its number, so that no two have a point in common, except where an app would send one again.

use std::fmt::Write as _;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use milepost_shared::journal::clock::JournalTime;
use milepost_shared::location::Location;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::uploads::{self, DEVICES, TAKEN_MS};

/// Points of a batch of Overland's that holds nothing twice.
pub const BATCH: u64 = 50;
/// One request of Overland's in so many is a superset: its answer to an earlier batch was lost, so that it sends those points
/// again, and before the new ones. Mobile networks lose some percent of answers, and more would flatter who answers from memory.
pub const AGAIN_EVERY: u64 = 20;
/// Phones with Overland in the scenarios: more than there are connections, so that none has two requests under way.
pub const PHONES: u64 = 1024;
/// Lines of a file of GPSLogger's: a day of one phone.
const FILE_LINES: u64 = 2000;
/// As Overland and GPSLogger write a time.
const ISO: &[BorrowedFormatItem<'_>] =
    format_description!(version = 2, "[year]-[month]-[day]T[hour]:[minute]:[second]");
/// Where the time of a point goes.
const HERE: char = '@';

/// Requests of one app.
#[derive(Debug)]
pub struct Points {
    app: App,
    /// Points of a request that were never sent before.
    pub new: u64,
    /// Body of the answer to each.
    pub answer: &'static str,
}

/// Which app, and what is made ahead of its requests.
#[derive(Debug)]
enum App {
    /// The points of a batch of each phone, without their times.
    Overland(Vec<String>),
    Traccar,
    /// Each line of the files.
    Gpslogger(Vec<String>),
}

impl Points {
    /// Batches of [`BATCH`] points of so many phones, which send in turn, and some supersets of them.
    #[must_use]
    pub fn overland(phones: u64) -> Self {
        let app = App::Overland((0..phones).map(features).collect());
        Self { app, new: BATCH, answer: r#"{"result":"ok"}"# }
    }

    /// One point in a form, as Traccar Client 10 sends it.
    #[must_use]
    pub fn traccar() -> Self {
        Self { app: App::Traccar, new: 1, answer: "" }
    }

    /// So many lines of GPSLogger's files, one in each request; then they begin again.
    #[must_use]
    pub fn gpslogger(lines: u64) -> Self {
        Self { app: App::Gpslogger((0..lines).map(line).collect()), new: 1, answer: "" }
    }

    /// The request with this number, sent with an API key.
    ///
    /// # Panics
    /// Never: its parts are well-formed.
    #[must_use]
    pub fn request(&self, number: u64, secret: &str) -> Request<Full<Bytes>> {
        let (request, body) = match &self.app {
            App::Overland(features) => {
                let request = Request::post("/overland")
                    .header(USER_AGENT, "Overland/1.4 (iPhone; iOS 18.6; Scale/3.00)")
                    .header(CONTENT_TYPE, "application/json")
                    .header(AUTHORIZATION, format!("Bearer {secret}"));
                (request, batch(features, number))
            }
            App::Traccar => {
                let request = Request::post(format!("/traccar/{secret}"))
                    .header(USER_AGENT, "ktor-client")
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded; charset=UTF-8");
                (request, form(number))
            }
            App::Gpslogger(lines) => {
                let line = &lines[index(number, lines.len())];
                (Request::get(format!("/gpslogger/{secret}?{line}")), String::new())
            }
        };
        request.header(HOST, "milepost").body(Full::new(body.into())).expect("a request is well-formed")
    }
}

fn index(number: u64, len: usize) -> usize {
    usize::try_from(number).unwrap_or(0) % len
}

/// So many seconds after the first fix of all.
fn after(seconds: u64) -> JournalTime {
    JournalTime(TAKEN_MS + i64::try_from(seconds * 1000).unwrap_or(0))
}

fn iso(time: JournalTime) -> String {
    time.to_datetime().format(ISO).unwrap_or_default()
}

/// A walk of a phone, as Overland 1.4 on iOS writes it.
fn features(phone: u64) -> String {
    let feature = |location: &Location| {
        let Location { latitude, longitude, .. } = location;
        let [accuracy, altitude, course] =
            [location.accuracy, location.altitude, location.bearing].map(or_unknown);
        format!(
            r#"{{"type":"Feature","geometry":{{"type":"Point","coordinates":[{longitude},{latitude}]}},"properties":{{"speed":14,"battery_state":"unplugged","motion":["driving"],"timestamp":"{HERE}","horizontal_accuracy":{accuracy},"speed_accuracy":0.29999999999999999,"vertical_accuracy":8,"battery_level":0.64000000000000001,"wifi":"","course":{course},"device_id":"overland-{phone}","altitude":{altitude},"course_accuracy":3}}}}"#
        )
    };
    let walk = uploads::upload(phone, BATCH);
    walk.locations.iter().map(feature).collect::<Vec<_>>().join(",")
}

fn or_unknown(number: Option<f64>) -> f64 {
    number.unwrap_or(-1.0)
}

/// The batch that a superset holds besides its own: the one before it of the same phone.
fn again(number: u64, phones: u64) -> Option<u64> {
    (number % AGAIN_EVERY == AGAIN_EVERY - 1).then(|| number.checked_sub(phones)).flatten()
}

fn batch(features: &[String], number: u64) -> String {
    let (walk, phones) = (&features[index(number, features.len())], features.len() as u64);
    let mut body = String::with_capacity(2 * walk.len() + walk.len() / 2);
    body.push_str(r#"{"locations":["#);
    for batch in again(number, phones).into_iter().chain([number]) {
        if body.ends_with('}') {
            body.push(',');
        }
        // One a second, batch after batch.
        let mut time = after(batch / phones * BATCH);
        for (place, piece) in walk.split(HERE).enumerate() {
            if place > 0 {
                let _ = write!(body, "{}Z", iso(time));
                time.0 += 1000;
            }
            body.push_str(piece);
        }
    }
    body.push_str("]}");
    body
}

fn form(number: u64) -> String {
    let (device, location) = (number % DEVICES, &uploads::upload(number, 1).locations[0]);
    let Location { latitude, longitude, .. } = location;
    let (bearing, accuracy) = (or_unknown(location.bearing), or_unknown(location.accuracy));
    let seconds = after(number / DEVICES).0 / 1000;
    format!(
        "id=traccar-{device}&timestamp={seconds}&lat={latitude}&lon={longitude}&speed=27.02&bearing={bearing}&altitude=171.0\
         &accuracy={accuracy}&batt=64.0&charge=false"
    )
}

/// As a custom URL with `%ALL` has it.
fn line(number: u64) -> String {
    let (phone, location) = (number / FILE_LINES, &uploads::upload(number, 1).locations[0]);
    let Location { latitude, longitude, .. } = location;
    let (bearing, accuracy) = (or_unknown(location.bearing), or_unknown(location.accuracy));
    let time = after(number % FILE_LINES);
    let (text, seconds) = (iso(time), time.0 / 1000);
    format!(
        "lat={latitude}&lon={longitude}&sat=9&desc=&alt=171.0&acc={accuracy}&dir={bearing}&prov=gps&spd_kph=50.04000137329102\
         &spd=13.9&timestamp={seconds}&timeoffset={text}.000%2B00:00&time={text}.000Z&starttimestamp=1699999000&date={}\
         &batt=64.0&ischarging=false&aid=gpslogger-{phone}&ser=gpslogger-{phone}&act=&filename=track&profile=Default+Profile\
         &hdop=0.4&vdop=0.8&pdop=1.0&dist=1062&",
        &text[..10]
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use http_body_util::BodyExt as _;
    use milepost_gateway::phones::{Decoded, Protocol, Rules, decode};

    use super::*;

    /// What a point is known by.
    type Known = (String, i64, u64, u64);

    fn known(decoded: &Decoded<'_>) -> Vec<Known> {
        assert!(decoded.set_aside.is_empty() && decoded.records.is_empty());
        let known = |point: &milepost_gateway::phones::Point<'_>| {
            assert!(point.timed);
            let Location { timestamp, latitude, longitude, .. } = point.location;
            let device = point.device.as_deref().unwrap().to_owned();
            (device, timestamp, latitude.to_bits(), longitude.to_bits())
        };
        decoded.points.iter().map(known).collect()
    }

    /// The points of a request, as the gateway reads them.
    async fn sent(points: &Points, number: u64) -> Vec<Known> {
        let (parts, body) = points.request(number, "secret").into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let protocol = Protocol::ALL.into_iter().find(|one| parts.uri.path()[1..].starts_with(one.name()));
        let request = milepost_gateway::phones::Request {
            protocol: protocol.unwrap(),
            path: "",
            query: parts.uri.query().unwrap_or_default(),
            user_agent: parts.headers.get(USER_AGENT).map_or("", |value| value.to_str().unwrap()),
            device_header: "",
            body: &body,
        };
        let rules = Rules { bound: None, arrival: 0, timestamp_max: 1_790_000_000_000 };
        known(&decode(&request, &rules).unwrap_or_else(|_| panic!("{body:?}")))
    }

    #[tokio::test]
    async fn each_request_has_new_points_and_only_a_superset_has_others() {
        let requests = 200;
        for points in [Points::overland(32), Points::traccar(), Points::gpslogger(requests)] {
            let mut all = HashSet::new();
            for number in 0..requests {
                let sent = sent(&points, number).await;
                let distinct: HashSet<_> = sent.iter().cloned().collect();
                assert_eq!(distinct.len(), sent.len(), "{number}");
                let new = sent.iter().filter(|point| !all.contains(*point)).count();
                assert_eq!(new as u64, points.new, "{number}");
                all.extend(sent);
            }
        }
    }

    #[tokio::test]
    async fn a_superset_holds_a_batch_that_was_sent_before_and_one_that_follows() {
        let (phones, superset, first) = (32, 99, 67);
        let overland = Points::overland(phones);
        assert_eq!((again(superset, phones), again(first, phones)), (Some(first), None));
        let both = sent(&overland, superset).await;
        assert_eq!(both[..50], sent(&overland, first).await);
        assert_eq!(both.len(), 100);
        let devices: HashSet<_> = both.iter().map(|(device, ..)| device).collect();
        assert_eq!(devices.len(), 1);
    }

    #[tokio::test]
    async fn a_file_has_two_thousand_lines_of_one_phone_and_begins_again() {
        let points = Points::gpslogger(4000);
        let mut phones = HashSet::new();
        for number in 0..2000 {
            phones.extend(sent(&points, number).await.into_iter().map(|(phone, ..)| phone));
        }
        assert_eq!(phones, HashSet::from(["gpslogger-0".to_owned()]));
        assert_eq!(sent(&points, 4001).await, sent(&points, 1).await);
    }
}
