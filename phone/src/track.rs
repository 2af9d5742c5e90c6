//! The points of a GPX file.

use std::io::Read;

use gpx::Waypoint;
use serde::Serialize;
use time::OffsetDateTime;

/// One point as a phone reports it; its JSON is one location of an upload.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Point {
    /// When the point was captured, in milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp: i64,
    /// Degrees north, WGS 84; the very bits the file's text parses to.
    pub latitude: f64,
    /// Degrees east, WGS 84; the very bits the file's text parses to.
    pub longitude: f64,
    /// Metres above sea level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub altitude: Option<f64>,
    /// Metres per second. Only GPX 1.0 has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<f64>,
    /// Degrees clockwise from north. No GPX file that the `gpx` crate reads has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearing: Option<f64>,
    /// Radius in metres. No GPX file has it: a dilution of precision is not a length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// What located the phone: `gps`.
    pub provider: &'static str,
}

/// What a GPX file holds for a phone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Track {
    /// The points that have a time: tracks first, then routes, then waypoints, each in the order of the file.
    pub points: Vec<Point>,
    /// How many points have none. A location without a time cannot be uploaded, and inventing one would be a
    /// lie.
    pub without_time: usize,
}

/// Reads a GPX file, version 1.0 or 1.1.
///
/// # Errors
///
/// Whatever the `gpx` crate refuses: malformed XML, an unknown version, an element out of place, coordinates
/// that are no numbers or outside of latitude -90..=90 and longitude -180..180.
pub fn read(reader: impl Read) -> Result<Track, gpx::errors::GpxError> {
    let file = gpx::read(reader)?;
    let tracked = file.tracks.iter().flat_map(|track| &track.segments).flat_map(|segment| &segment.points);
    let routed = file.routes.iter().flat_map(|route| &route.points);

    let mut track = Track::default();
    for waypoint in tracked.chain(routed).chain(&file.waypoints) {
        match point(waypoint) {
            Some(point) => track.points.push(point),
            None => track.without_time += 1,
        }
    }
    Ok(track)
}

fn point(waypoint: &Waypoint) -> Option<Point> {
    let captured_at = OffsetDateTime::from(waypoint.time?);
    let timestamp = captured_at.unix_timestamp() * 1000 + i64::from(captured_at.millisecond());
    Some(Point {
        timestamp,
        latitude: waypoint.point().y(),
        longitude: waypoint.point().x(),
        // `NaN` and `inf` are numbers to Rust's parser, but not to JSON.
        altitude: waypoint.elevation.filter(|metres| metres.is_finite()),
        speed: waypoint.speed.filter(|speed| speed.is_finite()),
        bearing: None,
        accuracy: None,
        provider: "gps",
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_text(version: &str, inside: &str) -> Track {
        let text = format!(r#"<?xml version="1.0"?><gpx version="{version}" creator="test">{inside}</gpx>"#);
        read(text.as_bytes()).expect("the test's GPX is valid")
    }

    #[test]
    fn tracks_come_first_then_routes_then_waypoints() {
        let track = read_text(
            "1.1",
            r#"<wpt lat="4" lon="0"><time>1970-01-01T00:00:04Z</time></wpt>
               <rte><rtept lat="3" lon="0"><time>1970-01-01T00:00:03Z</time></rtept></rte>
               <trk><trkseg><trkpt lat="1" lon="0"><time>1970-01-01T00:00:01Z</time></trkpt></trkseg>
                    <trkseg><trkpt lat="2" lon="0"><time>1970-01-01T00:00:02Z</time></trkpt></trkseg></trk>"#,
        );
        let latitudes: Vec<f64> = track.points.iter().map(|point| point.latitude).collect();
        assert_eq!(latitudes, [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn points_without_a_time_are_counted_and_left_out() {
        let track = read_text(
            "1.1",
            r#"<trk><trkseg><trkpt lat="1" lon="0"/>
               <trkpt lat="2" lon="0"><time>1970-01-01T00:00:01Z</time></trkpt>
               </trkseg></trk><wpt lat="3" lon="0"/>"#,
        );
        assert_eq!(track.without_time, 2);
        assert_eq!(track.points.len(), 1);
        assert_eq!(track.points[0].latitude, 2.0);
    }

    #[test]
    fn times_become_whole_milliseconds_rounded_down_in_utc() {
        for (text, timestamp) in [
            ("2026-03-14T09:26:53Z", 1_773_480_413_000),
            ("2026-03-14T10:26:53+01:00", 1_773_480_413_000),
            ("2026-03-14T09:26:53.5899Z", 1_773_480_413_589),
            ("1969-12-31T23:59:59.9995Z", -1),
        ] {
            let track = read_text("1.1", &format!(r#"<wpt lat="1" lon="2"><time>{text}</time></wpt>"#));
            assert_eq!(track.points[0].timestamp, timestamp, "{text}");
        }
    }

    #[test]
    fn a_point_becomes_a_location_in_camel_case() {
        let track = read_text(
            "1.0",
            r#"<trk><trkseg><trkpt lat="48.2081743" lon="16.3738189"><ele>171.25</ele>
               <time>2026-03-14T09:26:53Z</time><speed>13.9</speed></trkpt></trkseg></trk>"#,
        );
        assert_eq!(
            serde_json::to_string(&track.points[0]).expect("a point is JSON"),
            r#"{"timestamp":1773480413000,"latitude":48.2081743,"longitude":16.3738189,"altitude":171.25,"#
                .to_owned()
                + r#""speed":13.9,"provider":"gps"}"#
        );
    }

    #[test]
    fn an_elevation_that_json_cannot_hold_is_left_out() {
        let inside = r#"<wpt lat="1" lon="2"><ele>NaN</ele><time>2026-03-14T09:26:53Z</time></wpt>"#;
        assert_eq!(read_text("1.1", inside).points[0].altitude, None);
    }

    #[test]
    fn what_is_not_gpx_is_an_error() {
        for text in ["", "not xml", "<gpx></gpx>", r#"<gpx version="1.1"><wpt lat="91" lon="0"/></gpx>"#] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_sample_track_has_a_point_alone_a_pause_and_points_without_a_time() {
        let track = read(include_bytes!("../sample.gpx").as_slice()).expect("the sample is GPX");
        assert_eq!(track.without_time, 3);
        assert_eq!(track.points.len(), 118);
        let uploads = crate::batch::cut("phone", &track.points, 50, std::time::Duration::from_secs(300));
        let locations: Vec<usize> = uploads.iter().map(|upload| upload.locations).collect();
        assert_eq!(locations, [50, 20, 47, 1]);
    }

    proptest! {
        #[test]
        fn coordinates_are_the_bits_the_text_parses_to_and_survive_the_body(
            latitude in r"-?[0-8]?[0-9]\.[0-9]{1,20}",
            longitude in r"-?1?[0-7]?[0-9]\.[0-9]{1,20}",
        ) {
            let point = format!(
                r#"<wpt lat="{latitude}" lon="{longitude}"><time>2026-03-14T09:26:53Z</time></wpt>"#
            );
            let point = &read_text("1.1", &point).points[0];
            let latitude: f64 = latitude.parse().expect("the strategy makes numbers");
            let longitude: f64 = longitude.parse().expect("the strategy makes numbers");
            prop_assert_eq!(point.latitude.to_bits(), latitude.to_bits());
            prop_assert_eq!(point.longitude.to_bits(), longitude.to_bits());

            let json = serde_json::to_string(point).expect("a point is JSON");
            let back: serde_json::Value = serde_json::from_str(&json).expect("the body is JSON");
            prop_assert_eq!(back["latitude"].as_f64().map(f64::to_bits), Some(latitude.to_bits()));
            prop_assert_eq!(back["longitude"].as_f64().map(f64::to_bits), Some(longitude.to_bits()));
        }
    }
}
