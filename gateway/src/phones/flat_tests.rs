use milepost_shared::location::Location;

use super::*;
use crate::phones::testing::{ARRIVAL, RULES, decoded, fault, key, keys, one, request};
use crate::phones::{Point, decode};

fn traccar<'a>(query: &'a str, body: &'a str) -> Request<'a> {
    request(Protocol::Traccar, query, body)
}

fn gpslogger<'a>(query: &'a str, body: &'a str) -> Request<'a> {
    request(Protocol::Gpslogger, query, body)
}

/// Device, time, latitude, longitude, speed and battery.
type Brief = (Option<String>, i64, f64, f64, Option<f64>, Option<f64>);

fn brief(point: Point<'_>) -> Brief {
    let Location { timestamp, latitude, longitude, speed, battery_level, .. } = point.location;
    (point.device.map(Cow::into_owned), timestamp, latitude, longitude, speed, battery_level)
}

fn expect(device: &str, time: i64, latitude: f64, longitude: f64, speed: f64, battery: f64) -> Brief {
    let device = Some(device.to_owned()).filter(|name| !name.is_empty());
    (device, time, latitude, longitude, Some(speed), Some(battery))
}

const QUERY: &str = "id=73920418&timestamp=1726227213&lat=48.2081743&lon=16.3738189&speed=36.0&bearing=143.2&altitude=171.4\
    &accuracy=11.128999710083008&batt=64.0&charge=true";

#[test]
fn traccar_client_of_all_versions_gives_the_same_point() {
    let template = r#"{"location":{"timestamp":"2024-09-13T11:33:33.000Z","coords":{"latitude":48.2081743,"longitude":16.3738189,
        "accuracy":5,"speed":18.52,"heading":143.2,"altitude":171.4},"is_moving":true,"battery":{"level":0.64,"is_charging":false},
        "extras":{},"_":"&id=73920418&lat=0&lon=0&"},"device_id":"73920418"}"#;
    let wanted = expect("73920418", 1_726_227_213_000, 48.2081743, 16.3738189, 18.52, 64.0);
    for request in [traccar(QUERY, ""), traccar("", QUERY), traccar("", template)] {
        assert_eq!(brief(one(&request)), wanted);
    }
    let keys =
        [traccar(QUERY, ""), traccar("", QUERY), traccar("", template)].map(|request| key(&one(&request)));
    assert!(keys[0] == keys[1] && keys[1] == keys[2]);
}

#[test]
fn both_coordinates_may_be_in_one_field() {
    let location = one(&traccar("id=1&timestamp=1377177267&location=60.5,-30.5", "")).location;
    assert_eq!(location, Location::new(1_377_177_267_000, 60.5, -30.5));
    let fault = fault(&traccar("id=1&timestamp=1377177267&location=60.5,x", ""));
    assert_eq!(fault, (Reason::NotANumber, "lon".to_owned()));
}

#[test]
fn a_field_beside_a_place_that_looks_like_one_is_none() {
    for field in ["location=Home,Vienna", "data=1,2", "points=3,4"] {
        let query = format!("id=1&timestamp=1377177267&lat=60.5&lon=-30.5&{field}");
        assert_eq!(
            one(&traccar(&query, "")).location,
            Location::new(1_377_177_267_000, 60.5, -30.5),
            "{field}"
        );
    }
}

#[test]
fn a_place_around_the_items_is_the_point_if_no_item_is_one() {
    let place = r#""lat":1,"lon":2,"tst":1773480413,"device_id":"a""#;
    let nested = r#"{"coords":{"latitude":3,"longitude":4},"timestamp":"2026-03-14T09:26:53Z"}"#;
    let items = format!(r#""location":[{nested}]"#);
    for (items, latitude, set_aside) in [
        (r#""data":[]"#, 1.0, 0),
        (r#""data":{"battery":5}"#, 1.0, 1),
        (r#""location":"at home""#, 1.0, 0),
        (&items, 3.0, 0),
    ] {
        for protocol in [Protocol::Traccar, Protocol::Gpslogger] {
            let body = format!("{{{place},{items}}}");
            let decoded = decoded(&request_of(protocol, &body));
            let found: Vec<_> =
                decoded.points.iter().map(|p| (p.location.latitude, p.device.as_deref())).collect();
            assert_eq!((found, decoded.set_aside.len()), (vec![(latitude, Some("a"))], set_aside), "{items}");
        }
    }
}

#[test]
fn a_place_in_the_query_is_the_point_if_none_is_in_the_body() {
    let query = "lat=1&lon=2&timestamp=1773480413&aid=a&token=secret";
    for (body, latitude, set_aside) in [
        ("[]", 1.0, 0),
        (r#"{"acc":5}"#, 1.0, 1),
        (r#"{"lat":5,"lon":2,"timestamp":1773480413,"aid":"a"}"#, 5.0, 0),
    ] {
        let decoded = decoded(&gpslogger(query, body));
        let found: Vec<_> =
            decoded.points.iter().map(|p| (p.location.latitude, p.device.as_deref())).collect();
        assert_eq!((found, decoded.set_aside.len()), (vec![(latitude, Some("a"))], set_aside), "{body}");
    }
    let bad = decoded(&gpslogger("lat=91&lon=2&aid=a&token=secret", "[]"));
    assert_eq!((bad.set_aside.len(), &*bad.set_aside[0].raw), (1, "lat=91&lon=2&aid=a"));
}

#[test]
fn zero_is_not_known_where_the_app_writes_that_for_it() {
    let zeros =
        "id=1&timestamp=1726227213&lat=0.0&lon=0.0&speed=0.0&bearing=0.0&altitude=0.0&accuracy=0.0&batt=0.0";
    assert_eq!(one(&traccar(zeros, "")).location, Location::new(1_726_227_213_000, 0.0, 0.0));
    let version_10 = Request { user_agent: "ktor-client", ..traccar("", zeros) };
    let location = one(&version_10).location;
    assert_eq!((location.speed, location.bearing, location.battery_level), (Some(0.0), Some(0.0), Some(0.0)));
    let json = r#"{"lat":0.0,"lon":0.0,"tst":1726227213,"vel":0,"bear":0.0}"#;
    let location = one(&gpslogger("", json)).location;
    assert_eq!((location.speed, location.bearing), (Some(0.0), Some(0.0)));
}

#[test]
fn speed_is_in_knots_for_traccar_and_in_metres_per_second_for_others() {
    let query = "id=1&timestamp=1726227213&lat=1&lon=1&speed=36";
    let speed = |request: &Request<'_>| one(request).location.speed.unwrap();
    assert!((speed(&traccar(query, "")) - 18.52).abs() < 1e-9);
    assert!((speed(&Request { user_agent: "OsmAnd+ 4.7.3", ..traccar(query, "") }) - 36.0).abs() < 1e-9);
    assert!((speed(&gpslogger(query, "")) - 36.0).abs() < 1e-9);
    let forwarded = r#"{"position":{"deviceId":1,"fixTime":"2026-03-09T16:01:50+02:00","latitude":1,"longitude":1,"speed":36,
        "attributes":{"batteryLevel":95}},"device":{"id":1,"uniqueId":"93872193"}}"#;
    let point = brief(one(&traccar("", forwarded)));
    assert_eq!(point, expect("93872193", 1_773_064_910_000, 1.0, 1.0, 18.52, 95.0));
}

#[test]
fn what_has_no_place_and_need_not_have_one_is_counted() {
    for (query, body, record) in [
        ("id=1&timestamp=1377177267&cell=257,02,16,2224", "", Record::Heartbeat),
        ("", "id=73920418&timestamp=1773484013&batt=63.0&charge=false", Record::Heartbeat),
        ("", "id=73920418&notificationToken=secret", Record::NotificationToken),
    ] {
        assert_eq!(decoded(&traccar(query, body)).records, [record], "{query}{body}");
    }
    for body in ["action=addtrack&track=Auto", "action=auth&user=jane&pass=secret"] {
        assert_eq!(decoded(&gpslogger("", body)).records, [Record::Other], "{body}");
    }
    let flat = r#"[{"id":"1","lat":1,"lon":2,"timestamp":1773480413,"speed":10.0},{"id":"1","timestamp":1773484043,"batt":63}]"#;
    let flat = decoded(&traccar("", flat));
    assert_eq!((flat.points.len(), flat.records), (1, vec![Record::Heartbeat]));
}

#[test]
fn the_sdk_sends_one_or_many_below_any_of_several_names() {
    let record = |time: &str| {
        format!(r#"{{"uuid":"u","timestamp":"{time}","coords":{{"latitude":1,"longitude":2,"speed":3}}}}"#)
    };
    let (a, b) = (record("2021-03-20T14:10:57.000Z"), record("2021-03-20T14:10:58.500Z"));
    let many = format!(r#"{{"location":[{a},{b}],"device_id":"x","auth_token":"secret"}}"#);
    let decoded_many = decoded(&traccar("", &many));
    assert_eq!(decoded_many.points[1].location.timestamp, 1_616_249_458_500);
    assert_eq!(decoded_many.points[1].device.as_deref(), Some("x"));
    let first = keys(&decoded_many)[0];
    let forms = [
        format!(r#"{{"location":{a},"device":{{"uuid":"x","model":"m"}}}}"#),
        format!(r#"{{"locations":[{a}],"device_id":"x"}}"#),
        format!(r#"{{"data":{a},"device_id":"x"}}"#),
        format!(r#"{{"device_id":"x",{}"#, &a[1..]),
        format!(r#"[{{"device_id":"x",{}]"#, &a[1..]),
    ];
    for form in forms {
        assert_eq!(keys(&decoded(&traccar("", &form))), [first], "{form}");
    }
}

#[test]
fn an_identifier_left_empty_names_no_device_but_a_bound_key_does() {
    let query = "id=&timestamp=1773480413&lat=1&lon=1";
    assert_eq!(fault(&traccar(query, "")), (Reason::DeviceName, "id".to_owned()));
    let rules = Rules { bound: Some("mine"), ..RULES };
    let decoded = decode(&traccar(query, ""), &rules).unwrap();
    assert_eq!(decoded.points[0].device.as_deref(), Some("mine"));
    assert_eq!(one(&traccar("timestamp=1773480413&lat=1&lon=1", "")).device, None);
}

#[test]
fn a_bad_point_is_set_aside_without_what_may_be_a_key() {
    let query = "id=1&lat=abc&lon=16.37&timestamp=1773480413&token=secret&API_KEY=secret&note=a%26b";
    let wrong = decoded(&traccar(query, ""));
    assert_eq!(
        (wrong.set_aside[0].reason, wrong.set_aside[0].path()),
        (Reason::NotANumber, "lat".to_owned())
    );
    assert_eq!(wrong.set_aside[0].raw, "id=1&lat=abc&lon=16.37&timestamp=1773480413&note=a%26b");
    for (query, reason, field) in [
        ("id=1&lat=48,2081743&lon=16,3738189&timestamp=1773480413", Reason::NotANumber, "lat"),
        ("id=1&lat=NaN&lon=16&timestamp=1773480413", Reason::NotANumber, "lat"),
        ("id=1&lat=1&long=181&timestamp=1773480413", Reason::LongitudeOutOfRange, "long"),
        ("id=1&lon=1.1", Reason::LatitudeMissing, "lat"),
        ("lat=41.66350528", Reason::LongitudeMissing, "lon"),
        ("lat=%LAT&lon=%LON&timestamp=%TIMESTAMP", Reason::NotANumber, "lat"),
        ("lat=1&lon=1&timestamp=%TIMESTAM", Reason::TimeUnreadable, "timestamp"),
        ("lat=1&lon=1&timestamp=20170403163800", Reason::TooFarAhead, "timestamp"),
        ("lat=1&lon=1&timestamp=3221225472", Reason::TooFarAhead, "timestamp"),
        ("lat=1&lon=1&epoch=0", Reason::NoTime, "epoch"),
    ] {
        assert_eq!(fault(&traccar(query, "")), (reason, field.to_owned()), "{query}");
    }
    let batch = r#"{"location":[{"coords":{"latitude":1,"longitude":2},"timestamp":"2021-03-20T14:10:57Z"},
        {"coords":{"latitude":1},"timestamp":"2021-03-20T14:10:57Z"},5],"auth_token":"secret"}"#;
    let batch = decoded(&traccar("", batch));
    let found: Vec<_> = batch.set_aside.iter().map(|s| (s.path(), s.reason, s.raw.as_ref())).collect();
    let raw = r#"{"coords":{"latitude":1},"timestamp":"2021-03-20T14:10:57Z"}"#;
    let wanted =
        [("[1].lon".to_owned(), Reason::LongitudeMissing, raw), ("[2]".to_owned(), Reason::Undecodable, "5")];
    assert_eq!((batch.points.len(), found), (1, wanted.to_vec()));
}

/// `%ALL` as the app fills it in.
const ALL: &str = "lat=58.80587153498083&lon=9.622563565298915&sat=0&desc=&alt=72.0&acc=7.0&dir=0.0&prov=gps\
    &spd_kph=0.2520000010728836&spd=0.07&timestamp=1742503647&timeoffset=2025-03-20T21:47:27.834%2B01:00\
    &time=2025-03-20T20:47:27.834Z&starttimestamp=1742499925&date=2025-03-20&batt=54.0&ischarging=false\
    &aid=089db14317f6a000&ser=089db14317f6a000&act=&filename=20250320&profile=Default+Profile&hdop=0.4&vdop=0.8&pdop=1.0\
    &dist=1062&";

#[test]
fn gpsloggers_fields_are_read_wherever_they_are_and_make_one_point() {
    let wanted =
        expect("089db14317f6a000", 1_742_503_647_000, 58.80587153498083, 9.622563565298915, 0.07, 54.0);
    for request in [
        gpslogger(ALL, ""),
        gpslogger("", ALL),
        gpslogger("lat=58.80587153498083&long=9.622563565298915&time=2025-03-20T20:47:27.834Z", ALL),
        gpslogger(
            &ALL.to_uppercase().replace("%2B", "%2b").replace("089DB14317F6A000", "089db14317f6a000"),
            "",
        ),
    ] {
        let point = one(&request);
        assert_eq!((point.location.bearing, point.location.altitude), (None, Some(72.0)));
        assert_eq!(brief(point), wanted);
    }
}

#[test]
fn a_days_file_sent_again_line_by_line_gives_the_same_keys() {
    let line = |second: i64| {
        let lat = 48.2 + f64::from(i32::try_from(second).unwrap()) * 7e-6;
        format!(
            "lat={lat:.6}&lon=16.300000&sat=8&alt=171.0&acc=4.0&spd=1.4&dir=90.0&timestamp={}&batt=64.0&aid=a",
            1_773_484_000 + second
        )
    };
    let keys = |seconds: std::ops::Range<i64>| -> Vec<_> {
        seconds.map(|second| key(&one(&gpslogger(&line(second), "")))).collect()
    };
    let (day, again) = (keys(0..2000), keys(0..2000));
    assert_eq!(day, again);
    assert_eq!(day.iter().collect::<std::collections::HashSet<_>>().len(), 2000);
}

#[test]
fn phonetracks_ways_are_understood() {
    let query = "lat=48.2081743&lon=16.3738189&speed=13.9&bearing=0.0&timestamp=1773480413&bat=63.0";
    let wanted = expect("jane doe", 1_773_480_413_000, 48.2081743, 16.3738189, 13.9, 63.0);
    for path in [
        "/key/log/gpslogger/token/jane%20doe",
        "/key/apps/phonetrack/logGet/token/jane%20doe",
        "/logPost/t/jane%20doe/x",
    ] {
        assert_eq!(brief(one(&Request { path, ..gpslogger(query, "") })), wanted, "{path}");
    }
    let rows = r#"{"points":[[48.2081743,16.3738189,1773480413,171.4,4.3,64,9,"PhoneTrack/1.1.9",13.9,143.2],
        [48.2091743,16.3748189,1773480443,null,12.0,64,null,"PhoneTrack/1.1.9",null,null],[1],{"lat":1},[91,1,1773480443]]}"#;
    let rows = decoded(&Request { path: "/key/logPostMultiple/token/jane", ..gpslogger("", rows) });
    let faults: Vec<_> = rows.set_aside.iter().map(|s| (s.path(), s.reason)).collect();
    let wanted = [
        ("[2].[1]".to_owned(), Reason::LongitudeMissing),
        ("[3].lon".to_owned(), Reason::LongitudeMissing),
        ("[4].[0]".to_owned(), Reason::LatitudeOutOfRange),
    ];
    assert_eq!(faults, wanted);
    let points: Vec<_> = rows.points.into_iter().map(brief).collect();
    assert_eq!(points[0], expect("jane", 1_773_480_413_000, 48.2081743, 16.3738189, 13.9, 64.0));
    assert_eq!((points[1].1, points[1].4), (1_773_480_443_000, None));
}

#[test]
fn a_sentence_of_nmea_is_a_point() {
    let rmc =
        "id=99&dev=99&batt=64&alt=171.4&gprmc=$GPRMC,192429,A,5121.47965,N,011.71463,W,10.0,90.5,050316,,*02";
    let point = one(&gpslogger(rmc, ""));
    assert_eq!(point.location.altitude, Some(171.4));
    let (device, time, latitude, longitude, speed, battery) = brief(point);
    assert_eq!((device.as_deref(), time, battery), (Some("99"), 1_457_205_869_000, Some(64.0)));
    assert_eq!((latitude, longitude), (51.3579942, -0.1952438));
    assert!((speed.unwrap() - 5.144_444).abs() < 1e-5);
    let void = "id=jane&gprmc=$GPRMC,092653,V,,,,,,,140326,,*2D";
    assert_eq!(fault(&gpslogger(void, "")), (Reason::LatitudeMissing, "lat".to_owned()));
}

#[test]
fn templates_in_json_are_understood() {
    let strings = r#"{"_type":"location","acc":"4.288","alt":"0.0","batt":"64.0","lat":"48.5","lon":"16.5","tst":"1773480413","vel":"13.9"}"#;
    let request = Request { device_header: "my-android-phone", ..gpslogger("", strings) };
    let point = one(&request);
    assert_eq!((point.location.accuracy, point.location.altitude), (Some(4.288), None));
    assert_eq!(brief(point), expect("my-android-phone", 1_773_480_413_000, 48.5, 16.5, 13.9, 64.0));
    let around = r#"{"device_id":"jane","timestamp":"2026-03-14T10:27:53.000001+01:00","battery":{"level":64},
        "location":{"latitude":48.5,"longitude":16.5,"accuracy":0,"speed":2}}"#;
    for protocol in [Protocol::Traccar, Protocol::Gpslogger] {
        let wanted = expect("jane", 1_773_480_473_000, 48.5, 16.5, 2.0, 64.0);
        assert_eq!(brief(one(&request_of(protocol, around))), wanted);
    }
}

fn request_of(protocol: Protocol, body: &str) -> Request<'_> {
    request(protocol, "", body)
}

#[test]
fn a_point_without_a_time_has_its_arrivals_and_says_so() {
    for query in [
        "lat=1&lon=1&date=2016-03-05",
        "lat=1&lon=1&stst=1495884681&starttimestamp=1",
        "lat=1&lon=1&timestamp=",
    ] {
        let point = one(&gpslogger(query, ""));
        assert_eq!((point.timed, point.location.timestamp), (false, ARRIVAL), "{query}");
    }
}

#[test]
fn what_names_nothing_of_a_point_is_refused() {
    for protocol in [Protocol::Traccar, Protocol::Gpslogger] {
        for (query, body) in [
            ("", ""),
            ("", " \n"),
            ("x=1&y=2", ""),
            ("", "not an object"),
            ("", r#""not an object""#),
            ("", "{}"),
            ("", r#"{"location":{"coords":{"latitude":48.2081743,"longitude":"#),
            ("", r#"{"lat":%LAT}"#),
            ("", "[1,2"),
            ("lat=1&lon=1", r#"{"x":1}"#),
        ] {
            assert!(decode(&request(protocol, query, body), &RULES).is_err(), "{protocol:?} {query} {body}");
        }
    }
}

#[test]
fn an_empty_batch_is_a_batch() {
    for body in [r#"{"points":[]}"#, r#"{"location":[]}"#, "[]"] {
        let decoded = decoded(&gpslogger("", body));
        assert!(decoded.points.is_empty() && decoded.set_aside.is_empty() && decoded.records.is_empty());
    }
}
