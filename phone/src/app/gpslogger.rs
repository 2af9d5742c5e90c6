//! GPSLogger with a custom URL: <https://gpslogger.app/>. The user writes the URL; this one is that of `docs/phones.md`.

use bytes::Bytes;
use form_urlencoded::byte_serialize;
use reqwest::Method;

use super::written::{BATTERY, iso_milliseconds, java, java_narrow, narrowed};
use super::{Message, headers, with_key};
use crate::request::Request;

/// How often it sends a fix before it is lost. The file has it.
pub const ATTEMPTS: u32 = 3;

/// A fix, or a line of the file, in the query. What is not known is `0.0`.
pub fn request(message: &Message<'_>) -> Request {
    let mut target = with_key("/gpslogger", message.key);
    for point in message.points {
        let number = |number: Option<f64>| number.unwrap_or_default();
        let device: String = byte_serialize(message.device.as_bytes()).collect();
        target += &format!(
            "?lat={}&lon={}&time={}&acc={}&alt={}&spd={}&dir={}&batt={}&prov={}&aid={device}",
            java(point.latitude),
            java(point.longitude),
            iso_milliseconds(point.timestamp),
            java(narrowed(number(point.accuracy))),
            java(number(point.altitude)),
            java_narrow(number(point.speed)),
            java_narrow(number(point.bearing)),
            java(BATTERY.into()),
            point.provider,
        );
    }
    Request {
        method: Method::GET,
        target,
        headers: headers([("user-agent", "okhttp/4.12.0")]),
        body: Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{bare, full, message};
    use super::super::{GivesUp, Round};
    use super::*;
    use crate::App;

    #[test]
    fn a_line_is_a_query_with_milliseconds_and_zeros_for_what_is_not_known() {
        let (points, unknown) = ([full()], [bare()]);
        let place =
            "/gpslogger/mp_secret?lat=48.2081743&lon=16.370197273792407&time=2026-03-14T09:26:53.579Z";
        let known = "acc=4.288000106811523&alt=171.4&spd=13.9&dir=143.2";
        let rest = "batt=64.0&prov=gps&aid=pixel+8";
        assert_eq!(request(&message(&points)).target, format!("{place}&{known}&{rest}"));
        let zeros = "acc=0.0&alt=0.0&spd=0.0&dir=0.0";
        assert_eq!(request(&message(&unknown)).target, format!("{place}&{zeros}&{rest}"));
    }

    #[test]
    fn a_line_of_the_file_is_the_same_request_as_its_fix_was() {
        let points = [full()];
        let first = message(&points);
        let again = Message { round: Round::Again, made_at: first.made_at + 3600, id: 1, ..first };
        assert_eq!(request(&again).target, request(&first).target);
        assert_eq!(App::Gpslogger.gives_up(Round::First), GivesUp::Point { attempts: 3 });
        assert_eq!(App::Gpslogger.gives_up(Round::Again), GivesUp::File);
    }
}
