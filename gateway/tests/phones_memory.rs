//! What the bodies of phone apps cost in memory while they are read.
//!
//! A test program of its own, since counting replaces its allocator.

use milepost_gateway::phones::endpoints::{MEMORY_PER_BYTE, read};
use milepost_gateway::phones::{Protocol, Request, Rules, decode};
use milepost_shared::journal::account::AccountId;
use uuid::Uuid;

const BYTES_MAX: usize = 1 << 18;

fn peak(protocol: Protocol, body: &[u8]) -> usize {
    let request = Request { protocol, path: "/k", query: "", user_agent: "", device_header: "", body };
    let rules = Rules { bound: None, arrival: 1_796_083_200_000, timestamp_max: 1_796_083_500_000 };
    let whole =
        allocation_counter::measure(|| drop(read(&request, &rules, AccountId(Uuid::nil())))).bytes_max;
    let whole = usize::try_from(whole).expect("fits");
    assert!(whole <= MEMORY_PER_BYTE * body.len(), "{protocol:?}: {} to {whole}", body.len());
    let peak = allocation_counter::measure(|| drop(decode(&request, &rules))).bytes_max;
    usize::try_from(peak).expect("fits")
}

fn list(before: &str, item: &str) -> String {
    let items = vec![item; (BYTES_MAX - 100) / (item.len() + 1)].join(",");
    format!("{before}[{items}]}}")
}

#[test]
fn bodies_of_phones_are_read_within_a_bounded_multiple_of_their_size() {
    let fix = r#"{"type":"Feature","geometry":{"type":"Point","coordinates":[16.3738189,48.2081743]},"properties":{"timestamp":
        "2026-03-14T09:26:53Z","altitude":171,"speed":14,"course":143,"horizontal_accuracy":5,"device_id":"jane-iphone"}}"#;
    for (protocol, before, item, times) in [
        (Protocol::Overland, r#"{"locations":"#, fix, 3),
        (Protocol::Overland, r#"{"locations":"#, "0", 9),
        (Protocol::Overland, r#"{"locations":"#, "{}", 18),
        (Protocol::Overland, r#"{"x":"#, "{}", 1),
        (Protocol::Overland, r#"{"locations":[],"current":"#, "{}", 1),
        (Protocol::Traccar, r#"{"location":"#, r#"{"lat":1,"lon":2,"tst":3}"#, 18),
        (Protocol::Traccar, r#"{"location":"#, r#"{"lat":1,"lon":2,"tst":0}"#, 18),
        (Protocol::Gpslogger, r#"{"points":"#, "[1.0000000,2.0000000,345]", 18),
        (Protocol::Gpslogger, r#"{"points":"#, "[[[[]]]]", 18),
        (Protocol::Owntracks, r#"{"_type":"dump","x":"#, r#"{"a":1}"#, 1),
        (Protocol::Owntracks, r#"{"_type":"location","topic":"#, r#"{"a":1}"#, 1),
    ] {
        let body = list(before, item);
        let peak = peak(protocol, body.as_bytes());
        assert!(peak <= times * BYTES_MAX, "{before} {item}: {peak}");
    }
}

/// The name of a device that is around all points, as long as it may be or longer, and written with an escape.
fn around(chars: usize) -> String {
    format!(r#"{{"id":"\u0041{}","location":["#, "\u{1f4f1}".repeat(chars - 1))
}

fn distinct(bytes: usize) -> String {
    let item = |n| format!(r#"{{"lat":1,"lon":2,"tst":{n}}}"#);
    let first = 1_700_000_000;
    (first..first + bytes / (item(first).len() + 1)).map(item).collect::<Vec<_>>().join(",")
}

#[test]
fn a_name_around_many_points_takes_no_more_than_is_counted_for_it() {
    let body = format!("{}{}]}}", around(128), distinct(BYTES_MAX));
    assert!(peak(Protocol::Traccar, body.as_bytes()) > 0);
}

#[test]
fn a_long_name_around_many_points_is_not_copied_for_each_of_them() {
    let body = format!("{}{}]}}", around(BYTES_MAX / 8), distinct(BYTES_MAX / 2));
    let body = body.as_bytes();
    let request = Request {
        protocol: Protocol::Traccar,
        path: "/k",
        query: "",
        user_agent: "",
        device_header: "",
        body,
    };
    let rules = Rules { bound: None, arrival: 1_796_083_200_000, timestamp_max: 1_796_083_500_000 };
    let copied = allocation_counter::measure(|| drop(decode(&request, &rules))).bytes_total;
    let copied = usize::try_from(copied).expect("fits");
    assert!(copied < 100 * body.len(), "{} to {copied}", body.len());
}

#[test]
fn what_is_held_of_points_is_counted_with_their_texts() {
    let item = |n: i64| {
        let named = if n % 2 == 0 { r#","id":"b""# } else { "" };
        format!(r#"{{"lat":1,"lon":2,"tst":{n}{named},"provider":"{}"}}"#, "\u{1f4f1}".repeat(64))
    };
    let items: Vec<String> = (1_700_000_000..1_700_001_000).map(item).collect();
    let body = format!("{}{}]}}", around(128), items.join(","));
    let body = body.as_bytes();
    let request = Request {
        protocol: Protocol::Traccar,
        path: "/k",
        query: "",
        user_agent: "",
        device_header: "",
        body,
    };
    let rules = Rules { bound: None, arrival: 1_796_083_200_000, timestamp_max: 1_796_083_500_000 };
    let mut points = None;
    let held = allocation_counter::measure(|| {
        points = read(&request, &rules, AccountId(Uuid::nil())).ok().map(|(points, _)| points);
    });
    let held = usize::try_from(held.bytes_current).expect("nothing was there before");
    let counted = points.expect("it was read").heap_bytes();
    assert!(held <= counted + counted / 8, "{counted} of {held}");
}

#[test]
fn points_that_are_all_different_and_as_short_as_can_be_take_no_more_than_is_counted_for_them() {
    for (protocol, before, item) in [
        (Protocol::Gpslogger, r#"{"points":["#, |n| format!("[1.125,2.125,{n}]")),
        (Protocol::Traccar, r#"{"location":["#, |n| format!(r#"{{"lat":1,"lon":2,"tst":{n}}}"#)),
    ] as [(Protocol, &str, fn(usize) -> String); 2]
    {
        let first = 1_700_000_000;
        // One more than a power of two takes the most room, since room is doubled.
        for items in [BYTES_MAX / (item(first).len() + 1), (1 << 13) + 1] {
            let items: Vec<String> = (first..first + items).map(item).collect();
            assert!(peak(protocol, format!("{before}{}]}}", items.join(",")).as_bytes()) > 0);
        }
    }
}

#[test]
fn a_form_whose_bytes_are_no_text_takes_no_more_than_is_counted_for_it() {
    for (protocol, name) in
        [(Protocol::Gpslogger, "lat="), (Protocol::Gpslogger, "aid="), (Protocol::Traccar, "id=1&lat=x&x=")]
    {
        // Each byte becomes three that stand for it, and nine as a form has these.
        for length in [BYTES_MAX - 100, (BYTES_MAX * 8 / 9) + 10, (BYTES_MAX / 2) + 10] {
            let body = [name.as_bytes(), &vec![0xff; length]].concat();
            assert!(peak(protocol, &body) <= 20 * body.len(), "{name}");
        }
    }
}
