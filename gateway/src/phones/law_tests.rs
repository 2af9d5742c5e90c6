//! What holds for all that could be sent.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::testing::{ARRIVAL, RULES, request};
use super::{Decoded, Protocol, Request, decode};

/// Values as apps write them, and as they do not.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => (-200.0..=200.0f64).prop_map(|number| json!(number)),
        2 => (1_500_000_000..=1_800_000_000i64).prop_map(|time| json!(time)),
        1 => Just(json!("2026-03-14T09:26:53Z")),
        1 => any::<String>().prop_map(|text| json!(text)),
        1 => any::<bool>().prop_map(|flag| json!(flag)),
        1 => Just(Value::Null),
        1 => Just(json!([[], {}, {"a": [1]}])),
        1 => Just(json!(0)),
    ]
}

/// Names that mean something, and one that does not.
fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "_type",
        "lat",
        "lon",
        "tst",
        "acc",
        "tid",
        "timestamp",
        "latitude",
        "longitude",
        "device_id",
        "id",
        "action",
        "type",
        "speed",
        "batt",
        "battery",
        "x",
    ])
}

fn object() -> impl Strategy<Value = Value> {
    prop::collection::vec((name(), value()), 0..6)
        .prop_map(|pairs| pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Value>())
}

/// An item of any protocol that has batches.
fn item() -> impl Strategy<Value = Value> {
    prop_oneof![
        object(),
        value(),
        (object(), value(), value()).prop_map(|(properties, longitude, latitude)| {
            json!({"properties": properties, "geometry": {"coordinates": [longitude, latitude]}})
        }),
        object().prop_map(|coords| json!({"coords": coords, "timestamp": "2026-03-14T09:26:53Z"})),
        prop::collection::vec(value(), 0..11).prop_map(Value::from),
    ]
}

fn items(decoded: &Decoded<'_>) -> usize {
    decoded.points.len() + decoded.set_aside.len() + decoded.records.len()
}

/// All points keep the rules that an upload must keep.
fn is_valid(decoded: &Decoded<'_>) -> bool {
    decoded.points.iter().all(|point| {
        let location = &point.location;
        let within =
            |value: Option<f64>, min: f64, max: f64| value.is_none_or(|value| (min..=max).contains(&value));
        let labels = [&location.provider, &location.network_type];
        (1..=ARRIVAL + 300_000).contains(&location.timestamp)
            && within(Some(location.latitude), -90.0, 90.0)
            && within(Some(location.longitude), -180.0, 180.0)
            && within(location.accuracy, 0.0, 1e8)
            && within(location.altitude, -1e5, 1e8)
            && within(location.bearing, 0.0, 360.0)
            && within(location.speed, 0.0, 1e5)
            && within(location.battery_level, 0.0, 100.0)
            && labels.into_iter().flatten().all(|label| label.chars().count() <= 64)
            && point.device.as_ref().is_none_or(|name| (1..=128).contains(&name.chars().count()))
    })
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..200), text: String) {
        for protocol in Protocol::ALL {
            let request = Request { path: &text, query: &text, body: &body, ..request(protocol, "", "") };
            let _ = decode(&request, &RULES);
            let _ = super::credentials::find(protocol, &text, &text, &text);
            let _ = super::answer::success(&request);
        }
    }

    #[test]
    fn no_json_makes_a_decoder_panic_or_give_a_point_that_breaks_a_rule(root in item()) {
        let body = root.to_string();
        for protocol in Protocol::ALL {
            if let Ok(decoded) = decode(&request(protocol, "", &body), &RULES) {
                prop_assert!(is_valid(&decoded));
            }
        }
    }

    #[test]
    fn each_item_is_a_point_or_set_aside_or_a_record(batch in prop::collection::vec(item(), 0..20)) {
        for (protocol, list) in [
            (Protocol::Overland, "locations"), (Protocol::Traccar, "location"), (Protocol::Gpslogger, "points"),
        ] {
            let body = json!({ list: batch }).to_string();
            let decoded = decode(&request(protocol, "", &body), &RULES).unwrap();
            prop_assert_eq!(items(&decoded), batch.len());
            prop_assert!(is_valid(&decoded));
            for aside in &decoded.set_aside {
                let sent = &batch[aside.index.unwrap()];
                prop_assert_eq!(&serde_json::from_str::<Value>(&aside.raw).unwrap(), sent);
            }
        }
    }

    #[test]
    fn each_form_is_one_item_or_none_of_the_protocol(pairs in prop::collection::vec((name(), "\\PC{0,12}"), 0..8)) {
        let mut form = form_urlencoded::Serializer::new(String::new());
        let form = form.extend_pairs(&pairs).finish();
        for protocol in [Protocol::Traccar, Protocol::Gpslogger] {
            for request in [request(protocol, &form, ""), request(protocol, "", &form)] {
                if let Ok(decoded) = decode(&request, &RULES) {
                    prop_assert_eq!(items(&decoded), 1);
                    prop_assert!(is_valid(&decoded));
                }
            }
        }
    }

    #[test]
    fn a_point_keeps_its_place_and_time_bit_for_bit(
        latitude in -90.0..=90.0f64, longitude in -180.0..=180.0f64, time in 10_000_000_000..=ARRIVAL,
    ) {
        let geo = json!({"locations": [{"geometry": {"coordinates": [longitude, latitude]}, "properties": {"timestamp": time}}]});
        let flat = json!({"location": {"coords": {"latitude": latitude, "longitude": longitude}, "timestamp": time}});
        let form = format!("lat={latitude}&lon={longitude}&timestamp={time}");
        let message = json!({"_type": "location", "lat": latitude, "lon": longitude, "tst": time});
        for (protocol, body) in [
            (Protocol::Overland, geo.to_string()), (Protocol::Traccar, flat.to_string()), (Protocol::Gpslogger, form),
            (Protocol::Owntracks, message.to_string()),
        ] {
            let decoded = decode(&request(protocol, "", &body), &RULES).unwrap();
            let location = &decoded.points[0].location;
            let found = (location.timestamp, location.latitude.to_bits(), location.longitude.to_bits());
            prop_assert_eq!(found, (time, latitude.to_bits(), longitude.to_bits()));
        }
    }
}

#[test]
fn nesting_of_any_depth_is_read_without_recursion() {
    for (open, close) in [
        ("[", "]"),
        (r#"{"coords":"#, "}"),
        (r#"{"location":"#, "}"),
        (r#"{"geometry":{"coordinates":"#, "}}"),
    ] {
        let deep = format!("{}0{}", open.repeat(20_000), close.repeat(20_000));
        let bodies = [format!(r#"{{"locations":[{deep}],"_type":"location"}}"#), deep];
        for body in bodies {
            for protocol in Protocol::ALL {
                if let Ok(decoded) = decode(&request(protocol, "", &body), &RULES) {
                    assert!(decoded.points.is_empty());
                }
            }
        }
    }
}
