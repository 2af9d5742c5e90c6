//! OwnTracks for Android, 2.5.9: <https://owntracks.org/booklet/tech/json/>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde::Serialize;

use super::written::{BATTERY, cut, rounded, seconds};
use super::{Message, Round, headers};
use crate::request::Request;

/// Nothing reads it, but without a user the app sends no password.
const USER: &str = "milepost";

/// In the order of the app. It leaves out what is zero, which Kotlin takes for the default.
#[derive(Serialize)]
struct Location<'a> {
    _type: &'static str,
    topic: &'a str,
    qos: u8,
    retained: bool,
    created_at: i64,
    _id: String,
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    t: Option<&'static str>,
    batt: u8,
    bs: u8,
    #[serde(skip_serializing_if = "is_zero")]
    acc: i64,
    #[serde(skip_serializing_if = "is_zero")]
    lat: f64,
    #[serde(skip_serializing_if = "is_zero")]
    lon: f64,
    #[serde(skip_serializing_if = "is_zero")]
    alt: i64,
    #[serde(skip_serializing_if = "is_zero")]
    vel: i64,
    #[serde(skip_serializing_if = "is_zero")]
    cog: i64,
    tst: i64,
    m: u8,
    conn: &'static str,
    inregions: [&'static str; 0],
    tid: &'a str,
}

fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

/// A message with one point. Sent again it is a ping: the same fix in a message of its own, with the battery of now.
pub fn request(message: &Message<'_>) -> Request {
    let topic = format!("owntracks/{USER}/{}", message.device);
    let bodies = message.points.first().map(|point| Location {
        _type: "location",
        topic: &topic,
        qos: 1,
        retained: true,
        created_at: message.made_at,
        _id: format!("{:08x}", message.id),
        source: point.provider,
        t: (message.round == Round::Again).then_some("p"),
        batt: if message.round == Round::Again { BATTERY - 1 } else { BATTERY },
        bs: 1,
        acc: point.accuracy.map_or(0, rounded),
        lat: point.latitude,
        lon: point.longitude,
        alt: point.altitude.map_or(0, cut),
        vel: point.speed.map_or(0, |speed| cut(speed * 3.6)),
        cog: point.bearing.map_or(0, rounded),
        tst: seconds(point.timestamp),
        m: 1,
        conn: "m",
        inregions: [],
        tid: last_two(message.device),
    });
    let body = serde_json::to_vec(&bodies).expect("strings and numbers are always JSON");
    let authorization = format!("Basic {}", STANDARD.encode(format!("{USER}:{}", message.key)));
    let headers = headers([
        ("content-type", "application/json; charset=utf-8"),
        ("user-agent", "Owntracks-Android/gms/420509001"),
        ("x-limit-u", USER),
        ("x-limit-d", message.device),
        ("authorization", &authorization),
    ]);
    Request { method: Method::POST, target: "/owntracks".to_owned(), headers, body: body.into() }
}

/// The two letters on the map that stand for the phone.
fn last_two(device: &str) -> &str {
    device.char_indices().rev().nth(1).map_or(device, |(start, _)| &device[start..])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{bare, full, message};
    use super::*;
    use crate::point::Point;

    fn body(request: &Request) -> &str {
        std::str::from_utf8(&request.body).expect("the body is text")
    }

    #[test]
    fn a_point_is_sent_in_whole_kilometres_an_hour_and_whole_seconds() {
        let points = [full()];
        let request = request(&message(&points));
        assert_eq!(request.target, "/owntracks");
        assert_eq!(request.headers["x-limit-u"], "milepost");
        assert_eq!(request.headers["x-limit-d"], "pixel 8");
        // milepost:mp_secret
        assert_eq!(request.headers["authorization"], "Basic bWlsZXBvc3Q6bXBfc2VjcmV0");
        let wanted = [
            r#"{"_type":"location","topic":"owntracks/milepost/pixel 8","qos":1,"retained":true,"#,
            r#""created_at":1773480415,"_id":"9d2f6a04","source":"gps","batt":64,"bs":1,"acc":4,"#,
            r#""lat":48.2081743,"lon":16.370197273792407,"alt":171,"vel":50,"cog":143,"tst":1773480413,"#,
            r#""m":1,"conn":"m","inregions":[],"tid":" 8"}"#,
        ];
        assert_eq!(body(&request), wanted.concat());
    }

    #[test]
    fn what_is_not_known_and_a_coordinate_of_zero_are_left_out() {
        let points = [Point { latitude: 0.0, ..bare() }];
        let request = request(&message(&points));
        for name in ["acc", "lat", "alt", "vel", "cog"] {
            assert!(!body(&request).contains(&format!("\"{name}\":")), "{name}");
        }
        assert!(body(&request).contains("\"lon\":16.37"));
    }

    #[test]
    fn a_fix_that_is_sent_again_is_a_ping_made_later_and_else_the_same() {
        let points = [full()];
        let first = message(&points);
        let again = Message { round: Round::Again, made_at: first.made_at + 600, id: 7, ..first };
        let ping = body(&request(&first))
            .replace("1773480415", "1773481015")
            .replace("9d2f6a04", "00000007")
            .replace("\"batt\":64", "\"t\":\"p\",\"batt\":63");
        assert_eq!(body(&request(&again)), ping);
    }

    #[test]
    fn a_short_name_stands_for_itself_on_the_map() {
        assert_eq!((last_two("pixel8"), last_two("Zoë"), last_two("a"), last_two("")), ("l8", "oë", "a", ""));
    }
}
