use proptest::prelude::*;

use super::*;
use crate::location::FAULTS_MAX;
use crate::location::fingerprint::Fingerprint;

const NOW_MS: i64 = 1_773_480_413_000;
const RULES: Rules = Rules { locations_max: 3, timestamp_min: 0, timestamp_max: NOW_MS + 86_400_000 };

fn faults(body: &str, shape: Shape) -> Vec<String> {
    match decode(body.as_bytes(), shape, RULES) {
        Err(Invalid::Faults { faults, total }) => {
            assert_eq!(total, faults.len());
            faults.into_iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect()
        }
        other => panic!("{body} is {other:?}"),
    }
}

/// One location with a field added or replaced.
fn with(field: &str) -> String {
    let name = field.split(':').next().unwrap();
    let base = [r#""deviceId":"d""#, r#""timestamp":5"#, r#""latitude":1"#, r#""longitude":2"#];
    let mut fields: Vec<&str> = base.into_iter().filter(|other| !other.starts_with(name)).collect();
    fields.push(field);
    format!("{{{}}}", fields.join(","))
}

fn single(body: &str) -> Upload {
    decode(body.as_bytes(), Shape::Single, RULES).unwrap()
}

#[test]
fn both_bodies_of_the_design_are_accepted() {
    let upload = single(
        r#"{"deviceId":"9774d56d682e549c","timestamp":1773480413000,"latitude":48.2081743,"longitude":16.3738189,
        "accuracy":11,"altitude":171,"bearing":143,"speed":13.9,"provider":"gps","batteryLevel":64,"networkType":"wifi"}"#,
    );
    let location = &upload.locations[0];
    assert_eq!(upload.device, "9774d56d682e549c");
    assert_eq!((location.timestamp, location.latitude, location.longitude), (NOW_MS, 48.2081743, 16.3738189));
    assert_eq!(
        (location.accuracy, location.altitude, location.bearing),
        (Some(11.0), Some(171.0), Some(143.0))
    );
    assert_eq!((location.speed, location.battery_level), (Some(13.9), Some(64.0)));
    assert_eq!((location.provider.as_deref(), location.network_type.as_deref()), (Some("gps"), Some("wifi")));

    let batch = decode(
        br#"{"deviceId":"d","locations":[{"timestamp":1,"latitude":48.2,"longitude":16.37,"accuracy":5}]}"#,
        Shape::Batch,
        RULES,
    );
    assert_eq!(batch.unwrap().locations[0].accuracy, Some(5.0));
}

#[test]
fn both_spellings_of_a_name_are_one_field() {
    let snake = with(r#""battery_level":5,"network_type":"x""#).replace("deviceId", "device_id");
    let camel = with(r#""batteryLevel":5.0,"networkType":"x""#);
    assert_eq!(single(&snake), single(&camel));
    assert_eq!(
        faults(&with(r#""batteryLevel":5,"battery_level":5"#), Shape::Single),
        ["batteryLevel: is given twice; both spellings of a name count as one field"]
    );
}

#[test]
fn a_number_out_of_range_is_named_with_its_range() {
    let cases = [
        (r#""latitude":90.000001"#, "latitude: must be between -90 and 90"),
        (r#""latitude":-91"#, "latitude: must be between -90 and 90"),
        (r#""longitude":180.1"#, "longitude: must be between -180 and 180"),
        (r#""longitude":-1e300"#, "longitude: must be between -180 and 180"),
        (r#""altitude":1e9"#, "altitude: must be between -100000 and 100000000"),
        (r#""bearing":361"#, "bearing: must be between 0 and 360"),
        (r#""speed":100000.1"#, "speed: must be between 0 and 100000"),
        (r#""batteryLevel":-1"#, "batteryLevel: must be between 0 and 100"),
        (r#""altitude":-100001"#, "altitude: must be between -100000 and 100000000"),
        (r#""batteryLevel":101"#, "batteryLevel: must be between 0 and 100"),
        (r#""accuracy":18446744073709551615"#, "accuracy: must be between 0 and 100000000"),
    ];
    for (field, fault) in cases {
        assert_eq!(faults(&with(field), Shape::Single), [fault]);
    }
}

#[test]
fn the_ends_of_each_range_are_inside() {
    for field in [
        r#""latitude":90"#,
        r#""latitude":-90.0"#,
        r#""longitude":180"#,
        r#""longitude":-180"#,
        r#""bearing":360"#,
        r#""batteryLevel":0"#,
        r#""accuracy":0"#,
    ] {
        single(&with(field));
    }
}

#[test]
fn a_wrong_type_is_named() {
    let cases = [
        (r#""latitude":"48""#, "latitude: must be a number, not a string"),
        (r#""longitude":true"#, "longitude: must be a number, not a boolean"),
        (r#""timestamp":[1]"#, "timestamp: must be a number, not an array"),
        (r#""accuracy":{}"#, "accuracy: must be a number, not an object"),
        (r#""provider":7"#, "provider: must be a string, not a number"),
        (r#""deviceId":7"#, "deviceId: must be a string, not a number"),
    ];
    for (field, fault) in cases {
        assert_eq!(faults(&with(field), Shape::Single), [fault]);
    }
}

#[test]
fn a_missing_or_null_required_field_is_named_and_a_null_optional_one_is_absent() {
    assert_eq!(
        faults("{}", Shape::Single),
        [
            "deviceId: is required",
            "timestamp: is required",
            "latitude: is required",
            "longitude: is required"
        ]
    );
    assert_eq!(faults(&with(r#""latitude":null"#), Shape::Single), ["latitude: is required"]);
    assert_eq!(faults("{}", Shape::Batch), ["deviceId: is required", "locations: is required"]);
    assert_eq!(single(&with(r#""accuracy":null"#)).locations[0].accuracy, None);
}

#[test]
fn times_before_1970_or_too_far_ahead_are_refused_and_any_age_is_accepted() {
    let late = format!(r#""timestamp":{}"#, RULES.timestamp_max + 1);
    let cases = [
        (r#""timestamp":-1"#, "timestamp: must not be before 1970"),
        (&late, "timestamp: is too far in the future; it counts milliseconds since 1970"),
        (r#""timestamp":1e18"#, "timestamp: is too far in the future; it counts milliseconds since 1970"),
        (r#""timestamp":-0.5"#, "timestamp: must not be before 1970"),
        (r#""timestamp":-1e300"#, "timestamp: must not be before 1970"),
    ];
    for (field, fault) in cases {
        assert_eq!(faults(&with(field), Shape::Single), [fault]);
    }
    for field in [r#""timestamp":0"#, r#""timestamp":1"#, r#""timestamp":1.0"#] {
        single(&with(field));
    }
}

#[test]
fn a_time_between_milliseconds_is_the_one_before() {
    for (written, timestamp) in [
        ("1773480413000.999", NOW_MS),
        ("1.773480413000999e12", NOW_MS),
        ("1773480413000.0", NOW_MS),
        ("0.9", 0),
        ("-0.0", 0),
    ] {
        let upload = single(&with(&format!(r#""timestamp":{written}"#)));
        assert_eq!(upload.locations[0].timestamp, timestamp, "{written}");
    }
}

#[test]
fn a_time_that_looks_like_seconds_is_a_fault_where_it_is_asked_for() {
    let rules = Rules { timestamp_min: 100_000_000_000, ..RULES };
    let decoded = |timestamp: &str| {
        let body = with(&format!(r#""timestamp":{timestamp}"#));
        match decode(body.as_bytes(), Shape::Single, rules) {
            Err(Invalid::Faults { faults, .. }) => Err(faults[0].message.clone()),
            decoded => Ok(decoded.unwrap().locations[0].timestamp),
        }
    };
    for seconds in ["1773480413", "1773480413.123", "0", "99999999999.9"] {
        assert_eq!(
            decoded(seconds),
            Err("looks like seconds; milliseconds are wanted".to_owned()),
            "{seconds}"
        );
    }
    assert_eq!(decoded("100000000000"), Ok(100_000_000_000));
    assert_eq!(decoded("-1"), Err("must not be before 1970".to_owned()));
}

#[test]
fn a_negative_accuracy_bearing_or_speed_is_absent_and_makes_no_other_upload() {
    let without = Fingerprint::of(&single(&with(r#""altitude":1"#)));
    for name in ["accuracy", "bearing", "speed"] {
        for value in ["-1", "-0.1", "-1e300", "-9223372036854775808"] {
            let upload = single(&with(&format!(r#""altitude":1,"{name}":{value}"#)));
            let location = &upload.locations[0];
            assert_eq!(
                (location.accuracy, location.bearing, location.speed),
                (None, None, None),
                "{name} {value}"
            );
            assert_eq!(Fingerprint::of(&upload), without);
        }
    }
}

#[test]
fn a_byte_order_mark_is_skipped_once_and_only_at_the_beginning() {
    let body = with(r#""speed":1"#);
    assert_eq!(single(&format!("\u{feff}{body}")), single(&body));
    for broken in [format!("\u{feff}\u{feff}{body}"), format!(" \u{feff}{body}"), format!("{body}\u{feff}")] {
        assert!(matches!(decode(broken.as_bytes(), Shape::Single, RULES), Err(Invalid::Syntax { .. })));
    }
}

#[test]
fn non_finite_numbers_are_not_json() {
    for number in ["NaN", "Infinity", "-Infinity", "1e999", "01", "+1", ".5"] {
        let body = with(&format!(r#""latitude":{number}"#));
        assert!(matches!(
            decode(body.as_bytes(), Shape::Single, RULES),
            Err(Invalid::Syntax { line: 1, .. })
        ));
    }
}

#[test]
fn positional_arrays_are_refused() {
    assert_eq!(faults("[5,1,2]", Shape::Single), [": must be an object, not an array"]);
    assert_eq!(
        faults(r#"{"deviceId":"d","locations":[[5,1,2]]}"#, Shape::Batch),
        ["locations[0]: must be an object, not an array"]
    );
    assert_eq!(
        faults(r#"{"deviceId":"d","locations":{"0":{}}}"#, Shape::Batch),
        ["locations: must be an array, not an object"]
    );
}

#[test]
fn duplicate_and_unknown_fields_are_named() {
    assert_eq!(
        faults(&with(r#""speed":1,"speed":1"#), Shape::Single),
        ["speed: is given twice; both spellings of a name count as one field"]
    );
    assert_eq!(faults(&with(r#""lat":1"#), Shape::Single), ["lat: is not a known field"]);
    let long = "x".repeat(1000);
    assert_eq!(
        faults(&with(&format!(r#""{long}":1"#)), Shape::Single),
        [format!("{}: is not a known field", "x".repeat(40))]
    );
    assert_eq!(
        faults(
            r#"{"deviceId":"d","locations":[{"timestamp":1,"latitude":1,"longitude":2,"x":0}],"y":0}"#,
            Shape::Batch
        ),
        ["locations[0].x: is not a known field", "y: is not a known field"]
    );
}

#[test]
fn control_characters_and_long_strings_are_refused() {
    let long_device = format!(r#""deviceId":"{}""#, "ä".repeat(129));
    let long_provider = format!(r#""provider":"{}""#, "x".repeat(65));
    let cases = [
        (r#""deviceId":"a\u0000b""#, "deviceId: must not contain control characters"),
        (r#""provider":"\u007f""#, "provider: must not contain control characters"),
        (r#""deviceId":"""#, "deviceId: must not be empty"),
        (&long_device, "deviceId: must have at most 128 characters"),
        (&long_provider, "provider: must have at most 64 characters"),
    ];
    for (field, fault) in cases {
        assert_eq!(faults(&with(field), Shape::Single), [fault]);
    }
    single(&with(&format!(r#""deviceId":"{}""#, "ä".repeat(128))));
}

#[test]
fn an_empty_batch_is_refused_and_one_with_too_many_names_the_bound() {
    assert_eq!(
        faults(r#"{"deviceId":"d","locations":[]}"#, Shape::Batch),
        ["locations: must hold at least one location"]
    );
    let batch = |n| {
        let one = r#"{"timestamp":1,"latitude":1,"longitude":2}"#;
        format!(r#"{{"deviceId":"d","locations":[{}]}}"#, vec![one; n].join(","))
    };
    assert_eq!(decode(batch(3).as_bytes(), Shape::Batch, RULES).unwrap().locations.len(), 3);
    assert_eq!(decode(batch(4).as_bytes(), Shape::Batch, RULES), Err(Invalid::TooMany { max: 3 }));
}

#[test]
fn faults_come_in_the_order_of_the_body_and_what_is_missing_at_the_end_of_its_object() {
    let body = r#"{"x":0,"locations":[{"speed":"a","latitude":"b","y":0,"timestamp":-1},[],{"latitude":91,"longitude":1,
        "timestamp":1,"latitude":1}],"deviceId":"","z":0,"locations":[]}"#;
    assert_eq!(
        faults(body, Shape::Batch),
        [
            "x: is not a known field",
            "locations[0].speed: must be a number, not a string",
            "locations[0].latitude: must be a number, not a string",
            "locations[0].y: is not a known field",
            "locations[0].timestamp: must not be before 1970",
            "locations[0].longitude: is required",
            "locations[1]: must be an object, not an array",
            "locations[2].latitude: must be between -90 and 90",
            "locations[2].latitude: is given twice; both spellings of a name count as one field",
            "deviceId: must not be empty",
            "z: is not a known field",
            "locations: is given twice; both spellings of a name count as one field",
        ]
    );
    assert_eq!(
        faults(r#"{"speed":"a","longitude":181,"deviceId":7}"#, Shape::Single),
        [
            "speed: must be a number, not a string",
            "longitude: must be between -180 and 180",
            "deviceId: must be a string, not a number",
            "timestamp: is required",
            "latitude: is required",
        ]
    );
}

#[test]
fn a_body_may_be_nested_128_deep_and_no_deeper() {
    let nested = |field: &str, levels: usize| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        format!(r#"{{"deviceId":"d","locations":[{{"{field}":{open}{close}}}]}}"#)
    };
    for field in ["speed", "x"] {
        // The body, its locations and the location are three.
        let deepest = decode(nested(field, 125).as_bytes(), Shape::Batch, RULES);
        assert!(matches!(deepest, Err(Invalid::Faults { .. })), "{deepest:?}");
        let deeper = decode(nested(field, 126).as_bytes(), Shape::Batch, RULES);
        assert!(matches!(deeper, Err(Invalid::Syntax { line: 1, .. })), "{deeper:?}");
    }
    let body = "[".repeat(100_000);
    assert!(matches!(decode(body.as_bytes(), Shape::Batch, RULES), Err(Invalid::Syntax { .. })));
}

#[test]
fn too_many_locations_are_reported_before_any_fault_and_after_any_break() {
    let many = r#"{"x":0,"locations":[0,{},{"a":1},[],7],"deviceId":7}"#;
    assert_eq!(decode(many.as_bytes(), Shape::Batch, RULES), Err(Invalid::TooMany { max: 3 }));
    let broken = many.replace(":7}", ":7");
    assert!(matches!(decode(broken.as_bytes(), Shape::Batch, RULES), Err(Invalid::Syntax { .. })));
}

#[test]
fn every_fault_is_named_up_to_the_bound_and_then_counted() {
    let body =
        r#"{"deviceId":"d","locations":[{"timestamp":1,"latitude":1,"longitude":2},{"latitude":99},7]}"#;
    assert_eq!(
        faults(body, Shape::Batch),
        [
            "locations[1].latitude: must be between -90 and 90",
            "locations[1].timestamp: is required",
            "locations[1].longitude: is required",
            "locations[2]: must be an object, not a number",
        ]
    );
    let many = format!(r#"{{"deviceId":"d","locations":[{}]}}"#, vec!["0"; 250].join(","));
    let rules = Rules { locations_max: 1000, ..RULES };
    let Err(Invalid::Faults { faults, total }) = decode(many.as_bytes(), Shape::Batch, rules) else {
        panic!("accepted")
    };
    assert_eq!((faults.len(), total), (FAULTS_MAX, 250));
}

proptest! {
    #[test]
    fn what_is_serialized_is_decoded_bit_for_bit(
        device in "[^\\p{Cc}]{1,20}",
        latitude in -90.0..=90.0f64,
        longitude in -180.0..=180.0f64,
        timestamp in 0..=RULES.timestamp_max,
        altitude in proptest::option::of(-1e5..=1e8f64),
        provider in proptest::option::of("[^\\p{Cc}]{0,20}"),
    ) {
        let location = Location { altitude, provider, ..Location::new(timestamp, latitude, longitude) };
        let upload = Upload { device, locations: vec![location] };
        let text = serde_json::to_vec(&upload).unwrap();
        let again = decode(&text, Shape::Batch, RULES).unwrap();
        prop_assert_eq!(again.locations[0].latitude.to_bits(), latitude.to_bits());
        prop_assert_eq!(again, upload);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&body, Shape::Single, RULES);
        let _ = decode(&body, Shape::Batch, RULES);
    }
}
