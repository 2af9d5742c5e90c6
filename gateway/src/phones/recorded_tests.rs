//! Requests that real apps have sent, as others recorded them, with the points that each must give.
//!
//! The recordings are no part of the repository: they are looked for in `MILEPOST_PHONES_DIR`, or else in `shared/phones`
//! beside it. `law_tests` has cases of its own for all that is in them.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::PathBuf;

use milepost_shared::journal::key::KeyHash;
use serde_json::Value;

use super::testing::{ARRIVAL, RULES, key};
use super::{Decoded, NotThisProtocol, Point, Protocol, Reason, Request, decode};

/// Lines whose device only a record names: as another point of the same batch may come again without that record,
/// and would then be another point, no point takes its device from a neighbour.
const DEVICE_OF_A_NEIGHBOUR: [&str; 1] = ["ov-002"];

fn directory() -> Option<PathBuf> {
    let set = std::env::var_os("MILEPOST_PHONES_DIR").map(PathBuf::from);
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/phones"));
    set.or_else(|| Some(beside()).filter(|directory| directory.is_dir()))
}

fn protocol(file: &str, kind: &str) -> Protocol {
    match (file, kind) {
        ("owntracks", _) => Protocol::Owntracks,
        ("overland", _) | (_, "dawarich") => Protocol::Overland,
        ("osmand", _) | (_, "traccar-forward" | "home-assistant") => Protocol::Traccar,
        _ => Protocol::Gpslogger,
    }
}

fn lines(directory: &std::path::Path) -> Vec<(Protocol, Value)> {
    let mut lines = Vec::new();
    for file in ["owntracks", "overland", "osmand", "gpslogger", "others"] {
        let text = fs::read_to_string(directory.join(format!("{file}.jsonl"))).expect("a recording");
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            lines.push((protocol(file, line["kind"].as_str().unwrap()), line));
        }
    }
    lines
}

fn header<'a>(line: &'a Value, name: &str) -> &'a str {
    let headers = line["headers"].as_object().unwrap();
    headers
        .iter()
        .find(|(of, _)| of.eq_ignore_ascii_case(name))
        .map_or("", |(_, value)| value.as_str().unwrap())
}

fn request<'a>(protocol: Protocol, line: &'a Value) -> Request<'a> {
    let target = line["path"].as_str().unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Request {
        protocol,
        path,
        query,
        user_agent: header(line, "user-agent"),
        device_header: header(line, "x-limit-d"),
        body: line["body"].as_str().unwrap_or_default().as_bytes(),
    }
}

fn near(found: f64, wanted: f64, coordinate: bool) -> bool {
    let tolerance = if coordinate { 1e-9 } else { wanted.abs() * 1e-3 };
    (found - wanted).abs() <= tolerance
}

/// What is wrong with a point.
fn faults(point: &Point<'_>, wanted: &Value, device: &Value) -> Vec<String> {
    let location = &point.location;
    let timestamp = wanted["timestamp_ms"].as_i64();
    let time = timestamp.map_or(!point.timed && location.timestamp == ARRIVAL, |time| {
        location.timestamp == time || wanted["also"]["timestamp_ms"] == location.timestamp
    });
    let mut faults = if time { vec![] } else { vec![format!("timestamp {}", location.timestamp)] };
    for (name, found, coordinate) in [
        ("latitude", Some(location.latitude), true),
        ("longitude", Some(location.longitude), true),
        ("accuracy", location.accuracy, false),
        ("altitude", location.altitude, false),
        ("bearing", location.bearing, false),
        ("speed_mps", location.speed, false),
        ("battery_percent", location.battery_level, false),
    ] {
        let either = wanted["either_null"].as_array().is_some_and(|names| names.contains(&name.into()));
        let also = wanted["also"].get(name);
        let right =
            [Some(&wanted[name]), also].into_iter().flatten().any(|wanted| match (found, wanted.as_f64()) {
                (None, None) => true,
                (None, Some(_)) => false,
                (Some(found), wanted) => wanted.is_some_and(|wanted| near(found, wanted, coordinate)),
            });
        let unknown = either && found.is_none();
        if !(right || unknown) {
            faults.push(format!("{name} {found:?}, not {} {also:?}", wanted[name]));
        }
    }
    let device = wanted.get("device").unwrap_or(device);
    if device.as_str() != point.device.as_deref() {
        faults.push(format!("device {:?}, not {device}", point.device));
    }
    faults
}

/// What was made of a request, in the words of the recordings.
fn outcomes(decoded: &Result<Decoded<'_>, NotThisProtocol>) -> Vec<&'static str> {
    let Ok(decoded) = decoded else { return vec!["invalid"] };
    if decoded.points.is_empty() {
        let bad = decoded.set_aside.iter().any(|point| point.reason != Reason::Encrypted);
        return vec![if bad { "invalid" } else { "ignored" }];
    }
    let untimed = decoded.points.iter().all(|point| !point.timed);
    if untimed { vec!["accepted", "server_time"] } else { vec!["accepted"] }
}

fn check(line: &Value, decoded: &Result<Decoded<'_>, NotThisProtocol>) -> Vec<String> {
    let expect = &line["expect"];
    let outcomes = outcomes(decoded);
    let also = expect["also_ok"]
        .as_array()
        .is_some_and(|also| also.iter().any(|also| outcomes.iter().any(|o| also == o)));
    let wanted = if expect.get("invalid").is_some() {
        "invalid"
    } else if expect["ignored"] == true {
        "ignored"
    } else {
        "accepted"
    };
    if also && !outcomes.contains(&wanted) {
        return vec![];
    }
    if !outcomes.contains(&wanted) {
        return vec![format!("{outcomes:?}, not {wanted}")];
    }
    let (Ok(decoded), "accepted") = (decoded, wanted) else { return vec![] };
    let locations = expect["locations"].as_array().unwrap();
    let skipped = expect["skipped"].as_array().map_or(&[][..], Vec::as_slice);
    let mut found = vec![];
    // What others skip we may take where that is acceptable too.
    let most = locations.len() + if also { skipped.len() } else { 0 };
    if !(locations.len()..=most).contains(&decoded.points.len()) {
        found.push(format!("{} points, not {}", decoded.points.len(), locations.len()));
    }
    let neighbour = DEVICE_OF_A_NEIGHBOUR.iter().any(|id| line["id"] == *id);
    let device = if neighbour { &Value::Null } else { &expect["device"] };
    for (point, location) in decoded.points.iter().zip(locations) {
        found.extend(faults(point, location, device));
    }
    for skipped in skipped {
        let index = skipped["index"].as_u64().unwrap();
        let aside =
            decoded.set_aside.iter().any(|point| point.index.map(|index| index as u64) == Some(index));
        if aside != (skipped["invalid"] == true) && !also {
            found.push(format!("item {index} is {}set aside", if aside { "" } else { "not " }));
        }
    }
    found
}

#[test]
fn each_recorded_request_gives_the_points_it_must() {
    let Some(directory) = directory() else {
        eprintln!("NOT RUN: there are no recordings; set MILEPOST_PHONES_DIR to where they are");
        return;
    };
    let lines = lines(&directory);
    let mut wrong = vec![];
    let mut groups: BTreeMap<&str, HashSet<KeyHash>> = BTreeMap::new();
    for (protocol, line) in &lines {
        let decoded = decode(&request(*protocol, line), &RULES);
        let keys: HashSet<_> = decoded.iter().flat_map(|decoded| decoded.points.iter().map(key)).collect();
        let mut faults = check(line, &decoded);
        let expect = &line["expect"];
        let group = line["group"].as_str().map(|group| groups.entry(group).or_default());
        let in_group = group.map(|group| {
            group.extend(&keys);
            group.len()
        });
        // Points behind a cipher are no points to us.
        let readable = expect.get("decrypted").is_none();
        for (name, count) in [("distinct_points", Some(keys.len())), ("distinct_points_in_group", in_group)] {
            let wanted = expect.get(name).and_then(Value::as_u64);
            if readable && wanted.is_some_and(|wanted| Some(wanted) != count.map(|count| count as u64)) {
                faults.push(format!("{name}: {count:?}, not {wanted:?}"));
            }
        }
        wrong.extend(faults.into_iter().map(|fault| format!("{}: {fault}", line["id"])));
    }
    assert!(lines.len() > 100 && wrong.is_empty(), "of {} lines:\n{}", lines.len(), wrong.join("\n"));
}
