use super::*;
use crate::phones::testing::{ARRIVAL, RULES, decoded, keys, one, request};
use crate::phones::{Point, Protocol, decode};

/// A fix in the second of the day that is its number.
fn fix(second: usize) -> String {
    let time = format!("2026-03-15T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60);
    let longitude = 16.0 + f64::from(u32::try_from(second).unwrap()) / 1e4;
    let place = format!(r#""geometry":{{"type":"Point","coordinates":[{longitude},48.2000001]}}"#);
    let measured = r#""altitude":171,"speed":9,"course":70,"horizontal_accuracy":5,"vertical_accuracy":3"#;
    let phone = r#""motion":["driving"],"device_id":"jane","wifi":"","battery_state":"unplugged","battery_level":0.29"#;
    format!(r#"{{"type":"Feature",{place},"properties":{{"timestamp":"{time}",{measured},{phone}}}}}"#)
}

fn batch(items: &[String]) -> String {
    format!(r#"{{"locations":[{}]}}"#, items.join(","))
}

fn sent(body: &str) -> Request<'_> {
    request(Protocol::Overland, "", body)
}

#[test]
fn a_fix_is_read_in_the_units_of_the_app() {
    let body = batch(&[fix(0)]);
    let Point { device, location, timed } = one(&sent(&body));
    assert_eq!((device.as_deref(), timed), (Some("jane"), true));
    assert_eq!(
        (location.timestamp, location.latitude, location.longitude),
        (1_773_532_800_000, 48.2000001, 16.0)
    );
    assert_eq!(
        (location.accuracy, location.altitude, location.bearing),
        (Some(5.0), Some(171.0), Some(70.0))
    );
    assert_eq!((location.speed, location.battery_level), (Some(9.0), Some(29.0)));
}

#[test]
fn a_batch_that_has_grown_holds_the_points_of_the_one_before() {
    let fixes: Vec<String> = (0..120).map(fix).collect();
    let (first, grown) = (batch(&fixes[..50]), batch(&fixes));
    let (first, grown) = (keys(&decoded(&sent(&first))), keys(&decoded(&sent(&grown))));
    assert_eq!((first.len(), grown.len()), (50, 120));
    assert_eq!(first, grown[..50]);
    let distinct: std::collections::HashSet<_> = grown.iter().collect();
    assert_eq!(distinct.len(), 120);
}

#[test]
fn two_thousand_points_are_no_more_than_usual() {
    let body = batch(&(0..2000).map(fix).collect::<Vec<_>>());
    assert_eq!(decoded(&sent(&body)).points.len(), 2000);
}

#[test]
fn bad_points_among_good_ones_are_set_aside_and_spoil_none() {
    let mut items: Vec<String> = (0..1000).map(fix).collect();
    let bad = [
        (3, fix(3).replace("48.2000001", "196.4"), Reason::LatitudeOutOfRange, "[3].geometry.coordinates[1]"),
        (5, fix(5).replace(",48.2000001", ""), Reason::LatitudeMissing, "[5].geometry.coordinates[1]"),
        (100, fix(100).replace("2026", "3026"), Reason::TooFarAhead, "[100].properties.timestamp"),
        (
            101,
            fix(101).replace("2026-03-15T", "yesterday "),
            Reason::TimeUnreadable,
            "[101].properties.timestamp",
        ),
        (500, fix(500).replace("16.05", "\"x\""), Reason::NotANumber, "[500].geometry.coordinates[0]"),
        (998, fix(998).replace("jane", &"j".repeat(129)), Reason::DeviceName, "[998].properties.device_id"),
        (999, "[1]".to_owned(), Reason::Undecodable, "[999]"),
    ];
    for (index, item, _, _) in &bad {
        items[*index].clone_from(item);
    }
    let body = batch(&items);
    let decoded = decoded(&sent(&body));
    assert_eq!((decoded.points.len(), decoded.records.len()), (993, 0));
    let found: Vec<_> =
        decoded.set_aside.iter().map(|s| (s.index.unwrap(), s.raw.to_string(), s.reason, s.path())).collect();
    let wanted: Vec<_> = bad.map(|(index, item, reason, path)| (index, item, reason, path.to_owned())).into();
    assert_eq!(found, wanted);
}

#[test]
fn records_between_points_and_beside_them_are_counted() {
    let record = |properties: &str| {
        format!(
            r#"{{"type":"Feature","geometry":{{"coordinates":[0,0]}},"properties":{{"timestamp":"2026-03-15T00:00:00Z",{properties}}}}}"#
        )
    };
    let items = [
        record(r#""action":"visit","arrival_date":null"#),
        fix(0),
        record(r#""action":"will_terminate""#),
        record(r#""type":"trip","mode":"walk""#),
        r#"{"properties":{"timestamp":null}}"#.to_owned(),
    ];
    let body = batch(&items);
    let body = format!(r#"{},"trip":{{"mode":"walk"}},"current":{}}}"#, &body[..body.len() - 1], fix(9));
    let decoded = decoded(&sent(&body));
    assert_eq!((decoded.points.len(), decoded.set_aside.len()), (1, 0));
    let wanted = [Record::Visit, Record::Action, Record::Trip, Record::Other, Record::Current, Record::Trip];
    assert_eq!(decoded.records, wanted);
}

#[test]
fn an_empty_batch_is_a_batch() {
    for body in [r#"{"locations":[]}"#, "\u{feff}{\"locations\":[ ],\"device_id\":\"colota\"}"] {
        let decoded = decoded(&sent(body));
        assert!(decoded.points.is_empty() && decoded.set_aside.is_empty() && decoded.records.is_empty());
    }
}

#[test]
fn what_is_no_batch_is_refused() {
    for body in [
        "",
        "{",
        "{}",
        "[]",
        r#""locations""#,
        r#"{"locations":null}"#,
        r#"{"locations":{}}"#,
        r#"{"locations":"[]"}"#,
        r#"{"locations":[]} {}"#,
        r#"{"locations":[{"type":"Feature","geometry":{"type":"Point","coordinates":[16.37,48.2"#,
        r#"{"locations":[NaN]}"#,
    ] {
        assert!(decode(&sent(body), &RULES).is_err(), "{body}");
    }
}

#[test]
fn more_items_than_could_be_points_are_no_batch() {
    let short = |count: usize| batch(&vec!["0".to_owned(); count]);
    assert_eq!(decoded(&sent(&short(64))).set_aside.len(), 64);
    assert!(decode(&sent(&short(1000)), &RULES).is_err());
}

#[test]
fn a_void_altitude_and_what_is_minus_one_are_not_known() {
    let item = r#"{"geometry":{"coordinates":[1,2]},"properties":{"timestamp":"2026-03-15T00:00:00Z","altitude":5,
        "vertical_accuracy":-1,"speed":-1,"course":-1,"horizontal_accuracy":-1,"battery_level":-1,"device_id":""}}"#;
    let body = batch(&[item.to_owned()]);
    let point = one(&sent(&body));
    assert_eq!(point.device, None);
    assert_eq!(point.location, milepost_shared::location::Location::new(1_773_532_800_000, 2.0, 1.0));
}

#[test]
fn other_writers_of_the_format_are_understood() {
    let body = r#"{"device_id":"around","locations":[
        {"geometry":{"coordinates":[1,2,42.5]},"properties":{"timestamp":"1483290001.250"}},
        {"geometry":{"coordinates":{"latitude":2,"longitude":1}},"properties":{"timestamp":1750000000123.456,"device_id":"own"}},
        {"geometry":{"coordinates":[1,2]}}]}"#;
    let decoded = decoded(&sent(body));
    let found: Vec<_> = decoded
        .points
        .iter()
        .map(|p| (p.device.as_deref().unwrap(), p.location.timestamp, p.location.altitude, p.timed))
        .collect();
    let wanted = [
        ("around", 1_483_290_001_250, Some(42.5), true),
        ("own", 1_750_000_000_123, None, true),
        ("around", ARRIVAL, None, false),
    ];
    assert_eq!(found, wanted);
}
