use super::*;
use crate::phones::testing::{ARRIVAL, RULES, decoded, fault, key, one, request};
use crate::phones::{Point, Protocol, decode};

const FIX: &str = r#"{"_type":"location","topic":"owntracks/jane/pixel8","qos":1,"retained":true,"created_at":1786440000,
    "_id":"9d2f6a06","source":"gps","batt":55,"bs":1,"acc":7,"vac":2,"lat":48.2101001,"lon":16.3700002,"alt":168,"vel":36,
    "cog":287,"tst":1786439998,"m":2,"conn":"m","inregions":[],"tid":"jp","p":100.4}"#;

fn message(body: &str) -> Request<'_> {
    request(Protocol::Owntracks, "", body)
}

fn with(more: &str) -> String {
    format!(r#"{{"_type":"location","lat":48.5,"lon":16.5,"tst":1786439998{more}}}"#)
}

#[test]
fn a_location_is_read_in_the_units_of_the_app() {
    let Point { device, location, timed } = one(&message(FIX));
    assert_eq!((device.as_deref(), timed), (Some("pixel8"), true));
    assert_eq!(
        (location.timestamp, location.latitude, location.longitude),
        (1_786_439_998_000, 48.2101001, 16.3700002)
    );
    assert_eq!(
        (location.accuracy, location.altitude, location.bearing),
        (Some(7.0), Some(168.0), Some(287.0))
    );
    assert_eq!((location.speed, location.battery_level), (Some(10.0), Some(55.0)));
    assert_eq!(
        (location.provider.as_deref(), location.network_type.as_deref()),
        (Some("gps"), Some("mobile"))
    );
}

#[test]
fn the_same_fix_is_the_same_point_whatever_else_changes() {
    let again =
        FIX.replace("1786440000", "1786443600").replace("9d2f6a06", "00000000").replace("100.4", "99.1");
    let again = again.replace(r#""acc":7"#, r#""acc":70"#).replace(r#""batt":55"#, r#""batt":54"#);
    assert_eq!(key(&one(&message(&again))), key(&one(&message(FIX))));
    let later = FIX.replace("1786439998", "1786439999");
    assert_ne!(key(&one(&message(&later))), key(&one(&message(FIX))));
}

#[test]
fn minus_one_and_what_is_no_number_is_not_known() {
    for more in [
        r#","acc":-1,"alt":5,"vac":-1,"vel":-1,"cog":-1,"batt":-1"#,
        r#","acc":"x","alt":null,"vel":true,"cog":[],"batt":{"a":1}"#,
        r#","acc":1e9,"alt":1e9,"vel":1e9,"cog":361,"batt":101"#,
        r#","acc":1e999,"alt":-1e999,"vel":1e999,"cog":1e999,"batt":1e999"#,
        r#","acc":0,"conn":"TestConn","source":5"#,
    ] {
        let body = with(more);
        let location = one(&message(&body)).location;
        assert_eq!(
            location,
            milepost_shared::location::Location::new(1_786_439_998_000, 48.5, 16.5),
            "{more}"
        );
    }
}

#[test]
fn the_device_is_named_by_the_header_the_query_the_topic_or_the_tracker_id() {
    let body = with(r#","topic":"owntracks\/jane\/phone\/event","tid":"jp""#);
    let request = |query, header| Request { query, device_header: header, ..message(&body) };
    let device = |request: &Request<'_>| one(request).device.map(Cow::into_owned);
    assert_eq!(device(&request("u=jane&d=query", "header")).as_deref(), Some("header"));
    assert_eq!(device(&request("u=jane&d=my+query", "")).as_deref(), Some("my query"));
    assert_eq!(device(&request("u=jane&d=", "")).as_deref(), Some("phone"));
    for (more, name) in [
        (r#","topic":"owntracks/jane","tid":"jp""#, Some("jane")),
        (r#","topic":"owntracks","tid":"jp""#, Some("jp")),
        (r#","topic":"owntracks/jane/","tid":"jp""#, Some("jp")),
        (r#","topic":5,"tid":7"#, Some("7")),
        (r#","tid":"""#, None),
        ("", None),
    ] {
        assert_eq!(device(&message(&with(more))).as_deref(), name, "{more}");
    }
}

#[test]
fn a_bound_key_counts_before_all_names() {
    let rules = Rules { bound: Some("mine"), ..RULES };
    let request = Request { device_header: "\u{1}other", ..message(FIX) };
    let decoded = decode(&request, &rules).unwrap();
    assert_eq!(decoded.points[0].device.as_deref(), Some("mine"));
}

#[test]
fn a_bad_point_is_set_aside_with_its_reason_and_as_it_was_sent() {
    for (body, reason, field) in [
        (r#"{"_type":"location"}"#, Reason::LatitudeMissing, "lat"),
        (r#"{"_type":"location","lat":1,"tst":1}"#, Reason::LongitudeMissing, "lon"),
        (r#"{"_type":"location","lat":null,"lon":1,"tst":1}"#, Reason::LatitudeMissing, "lat"),
        (r#"{"_type":"location","lat":90.1,"lon":1,"tst":1}"#, Reason::LatitudeOutOfRange, "lat"),
        (r#"{"_type":"location","lat":1,"lon":-180.1,"tst":1}"#, Reason::LongitudeOutOfRange, "lon"),
        (r#"{"_type":"location","lat":true,"lon":1,"tst":1}"#, Reason::NotANumber, "lat"),
        (r#"{"_type":"location","lat":1e999,"lon":1,"tst":1}"#, Reason::NotANumber, "lat"),
        (r#"{"_type":"location","lat":1,"lon":"NaN","tst":1}"#, Reason::NotANumber, "lon"),
        (r#"{"_type":"location","lat":1,"lon":1,"tst":0}"#, Reason::NoTime, "tst"),
        (r#"{"_type":"location","lat":1,"lon":1,"tst":"soon"}"#, Reason::TimeUnreadable, "tst"),
        (r#"{"_type":"location","lat":1,"lon":1,"tst":[1]}"#, Reason::TimeUnreadable, "tst"),
        (r#"{"_type":"location","lat":1,"lon":1,"tst":1796083501}"#, Reason::TooFarAhead, "tst"),
        (r#"{"_type":"location","lat":1,"lon":1,"tst":1,"tid":"a\u0000"}"#, Reason::DeviceName, "tid"),
        (r#"{"_type":"encrypted","data":"AAEC"}"#, Reason::Encrypted, ""),
    ] {
        assert_eq!(fault(&message(body)), (reason, field.to_owned()), "{body}");
        assert_eq!(decoded(&message(body)).set_aside[0].raw, body);
    }
}

#[test]
fn the_android_app_leaves_out_a_coordinate_that_is_zero() {
    const NEW: &str = "Owntracks-Android/gms/420509001";
    for (user_agent, rest, place) in [
        (NEW, r#""lon":9.5"#, Some((0.0, 9.5))),
        (NEW, r#""lat":9.5"#, Some((9.5, 0.0))),
        (NEW, r#""acc":5"#, None),
        ("Owntracks-Android/oss/420506000", r#""lon":9.5"#, None),
        ("OwnTracks/26.1.1 CFNetwork/3860.400.51 Darwin/25.3.0", r#""lon":9.5"#, None),
    ] {
        let body = format!(r#"{{"_type":"location","tst":1786439998,{rest}}}"#);
        let decoded = decoded(&Request { user_agent, ..message(&body) });
        let found = decoded.points.first().map(|p| (p.location.latitude, p.location.longitude));
        assert_eq!(found, place, "{user_agent} {rest}");
        assert_eq!(decoded.set_aside.len(), usize::from(place.is_none()));
    }
}

#[test]
fn a_point_without_a_time_has_its_arrivals_and_says_so() {
    for time in ["", r#","tst":null"#, r#","tst":"""#] {
        let body = format!(r#"{{"_type":"location","lat":1,"lon":1{time}}}"#);
        let point = one(&message(&body));
        assert_eq!((point.timed, point.location.timestamp), (false, ARRIVAL), "{time}");
    }
}

#[test]
fn what_is_no_point_is_counted_by_kind() {
    for (body, record) in [
        (r#"{"_type":"transition","lat":1,"lon":1,"tst":1}"#, Record::Transition),
        (r#"{"_type":"waypoint","lat":1,"lon":1,"tst":1}"#, Record::Waypoint),
        (r#"{"_type":"waypoints","waypoints":[]}"#, Record::Waypoints),
        (r#"{"_type":"lwt","tst":1}"#, Record::Lwt),
        (r#"{"_type":"status"}"#, Record::Status),
        (r#"{"_type":"card","face":"x"}"#, Record::Card),
        (r#"{"_type":"cmd"}"#, Record::Cmd),
        (r#"{"_type":"steps"}"#, Record::Steps),
        (r#"{"_type":"dump","configuration":{"password":"p"}}"#, Record::Dump),
        (r#"{"_type":"configuration","password":"p"}"#, Record::Configuration),
        (r#"{"_type":"beacon"}"#, Record::Beacon),
        (r#"{"_type":"request"}"#, Record::Request),
        (r#"{"_type":"heartbeat"}"#, Record::Other),
        (r#"{"_type":"the client's own words"}"#, Record::Other),
        ("", Record::Empty),
        (" \n", Record::Empty),
    ] {
        let decoded = decoded(&message(body));
        assert_eq!(decoded.records, [record], "{body}");
        assert!(decoded.points.is_empty() && decoded.set_aside.is_empty(), "{body}");
    }
}

#[test]
fn what_is_no_message_is_refused() {
    let json = [
        "[]",
        "{}",
        "5",
        r#""location""#,
        "null",
        r#"{"type":"location"}"#,
        r#"{"_type":null}"#,
        r#"{"_type":""}"#,
    ];
    let other =
        ["{", "X0,542A46AA,k,30365854,7575769,26,4,7,5,872", r#"{"_type":"location"} {}"#, "lat=1&lon=1"];
    for body in json.into_iter().chain(other) {
        assert!(decode(&message(body), &RULES).is_err(), "{body}");
    }
    let latin = Request { body: b"{\"_type\":\"\xe9\"}", ..message("") };
    assert!(decode(&latin, &RULES).is_err());
}

#[test]
fn overlands_mode_counts_from_2001_until_it_counts_as_others_do() {
    for (tst, timestamp) in [("795173213", 1_773_480_413_000), ("1773480413", 1_773_480_413_000)] {
        let body = format!(
            r#"{{"_type":"location","lat":1,"lon":1,"tst":{tst},"batt":-100,"topic":"owntracks/jane-iphone"}}"#
        );
        let request = Request { user_agent: "Overland/1.4 (iPhone; iOS 18.6; Scale/3.00)", ..message(&body) };
        let point = one(&request);
        assert_eq!((point.location.timestamp, point.location.battery_level), (timestamp, None), "{tst}");
        assert_eq!(point.device.as_deref(), Some("jane-iphone"));
    }
}
