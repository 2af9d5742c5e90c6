//! What the worst bodies cost in memory while they are read: a small multiple of their own bytes.
//!
//! A test program of its own, since counting replaces its allocator.

use milepost_shared::journal::record::JournalRecord;
use milepost_shared::location::{Invalid, Rules, Shape, decode};

/// Most memory for each byte of a body, the body itself besides.
const PER_BYTE_MAX: u64 = 7;
/// What any body may cost besides: its faults, and room for as many locations as a gateway takes by default.
const CONSTANT: u64 = 256 << 10;
/// The same where ten times as many are taken.
const CONSTANT_AT_MOST: u64 = 1 << 20;
const BYTES: usize = 256 << 10;

fn peak<T>(read: impl FnOnce() -> T) -> u64 {
    let mut result = None;
    let peak = allocation_counter::measure(|| result = Some(read())).bytes_max;
    drop(result);
    peak
}

/// A batch of so many of these.
fn batch(item: &str, count: usize) -> String {
    format!(r#"{{"deviceId":"d","locations":[{}]}}"#, vec![item; count].join(","))
}

/// A batch of as many of these as fit.
fn flood(item: &str) -> String {
    batch(item, BYTES / (item.len() + 1))
}

/// A single location with as many of these fields as fit.
fn fields(field: &str) -> String {
    let base = r#""deviceId":"d","timestamp":1773480413000,"latitude":1,"longitude":2"#;
    format!("{{{base},{}}}", vec![field; BYTES / (field.len() + 1)].join(","))
}

fn nested(open: &str, close: &str, depth: usize) -> String {
    let one = format!("{}0{}", open.repeat(depth), close.repeat(depth));
    flood(&one)
}

const MINIMAL: &str = r#"{"timestamp":1,"latitude":1,"longitude":2}"#;

fn worst(locations_max: usize) -> Vec<(&'static str, Shape, String)> {
    let labels = r#"{"timestamp":1,"latitude":1,"longitude":2,"provider":"x","networkType":"y"}"#;
    let digits = "9".repeat(BYTES - 100);
    vec![
        ("empty objects", Shape::Batch, flood("{}")),
        ("empty arrays", Shape::Batch, flood("[]")),
        ("integers", Shape::Batch, flood("0")),
        ("one-character strings", Shape::Batch, flood(r#""x""#)),
        ("escaped strings", Shape::Batch, flood(r#""\u0041""#)),
        ("arrays nested deeply", Shape::Batch, nested("[", "]", 100)),
        ("objects nested deeply", Shape::Batch, nested("{\"\":", "}", 100)),
        ("nested without end", Shape::Batch, "[".repeat(BYTES)),
        ("empty objects in a field", Shape::Single, format!(r#"{{"x":[{}0]}}"#, "{},".repeat(BYTES / 3))),
        ("duplicate fields", Shape::Single, fields(r#""speed":1"#)),
        ("unknown fields", Shape::Single, fields(r#""x":1"#)),
        ("escaped names", Shape::Single, fields(r#""\n":1"#)),
        ("faults", Shape::Batch, batch(r#"{"a":1,"b":2}"#, locations_max)),
        ("a long number", Shape::Single, format!(r#"{{"latitude":{digits}}}"#)),
        ("a long fraction", Shape::Single, format!(r#"{{"latitude":0.{digits}}}"#)),
        ("a long exponent", Shape::Single, format!(r#"{{"latitude":1e-{digits}}}"#)),
        ("a long string", Shape::Single, format!(r#"{{"deviceId":"{digits}"}}"#)),
        ("a long escaped string", Shape::Single, format!(r#"{{"deviceId":"\n{digits}"}}"#)),
        ("a long name", Shape::Single, format!(r#"{{"\n{digits}":1}}"#)),
        ("the most of the smallest locations", Shape::Batch, batch(MINIMAL, locations_max)),
        ("room just doubled", Shape::Batch, batch(MINIMAL, 4097)),
        ("room just doubled for the last time", Shape::Batch, batch(MINIMAL, 8193)),
        ("the most of the smallest labels", Shape::Batch, batch(labels, locations_max)),
    ]
}

#[test]
fn no_body_takes_more_than_a_small_multiple_of_its_bytes() {
    for (locations_max, constant) in [(1000, CONSTANT), (10_000, CONSTANT_AT_MOST)] {
        let rules = Rules { locations_max, ..Rules::STORABLE };
        for (name, shape, body) in worst(locations_max) {
            let peak = peak(|| decode(body.as_bytes(), shape, rules));
            let bound = PER_BYTE_MAX * body.len() as u64 + constant;
            assert!(peak <= bound, "{name}: {peak} bytes for {}", body.len());
        }
    }
}

#[test]
fn what_is_refused_for_its_number_takes_no_memory_to_speak_of() {
    for item in ["{}", "[]", "0", r#""x""#, MINIMAL] {
        let body = flood(item);
        let rules = Rules { locations_max: 1000, ..Rules::STORABLE };
        let peak = peak(|| {
            assert_eq!(decode(body.as_bytes(), Shape::Batch, rules), Err(Invalid::TooMany { max: 1000 }));
        });
        assert!(peak <= CONSTANT, "{item}: {peak}");
    }
}

/// A field of bytes.
fn field(tag: u32, bytes: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, &mut field);
    prost::encoding::encode_varint(bytes.len() as u64, &mut field);
    [&field, bytes].concat()
}

/// A record with this for an upload, and this behind it.
fn record(upload: &[u8], behind: &[u8]) -> Vec<u8> {
    let start = [&b"\x0d\x01\0\0\0"[..], &field(2, &[1; 16]), &field(3, &[1; 32])].concat();
    [&start, &field(4, upload), behind].concat()
}

/// As many of these as fit.
fn flooded(bytes: &[u8]) -> Vec<u8> {
    bytes.repeat(BYTES / bytes.len())
}

/// What somebody else wrote to the journal is read within the same bounds, but for the room that the most locations take.
#[test]
fn no_record_takes_more_than_a_small_multiple_of_its_bytes() {
    const CONSTANT_OF_RECORDS: u64 = 4 << 20;
    let smallest = field(2, b"\x08\x01\x10\0\x18\0");
    let labelled = field(2, b"\x08\x01\x10\0\x18\0\x4a\x01x\x52\x01y");
    let device = field(1, b"d");
    let with_device = |locations: Vec<u8>| record(&[&device[..], &locations].concat(), b"");
    let cases = [
        ("nothing", Vec::new()),
        ("groups nested deeply", flooded(b"\xa3\x06")),
        ("unknown fields", record(&device, &flooded(b"\x78\x01"))),
        ("a long unknown field", record(&device, &field(100, &[0; BYTES]))),
        ("a long account", record(&device, &field(2, &[0; BYTES]))),
        ("a long device", record(&field(1, &[b'x'; BYTES]), b"")),
        ("one device after the other", record(&flooded(&field(1, &[b'x'; 128])), b"")),
        ("one upload after the other", record(&device, &flooded(&field(4, &device)))),
        ("empty locations", with_device(flooded(b"\x12\0"))),
        ("the most empty locations", with_device(b"\x12\0".repeat(10_000))),
        ("the most of the smallest locations", with_device(smallest.repeat(10_000))),
        ("room just doubled for the last time", with_device(smallest.repeat(8193))),
        ("the most of the smallest labels", with_device(labelled.repeat(10_000))),
        ("one number after the other", with_device(field(2, &flooded(b"\x38\x01")))),
        ("one label after the other", with_device(field(2, &flooded(b"\x4a\x01x")))),
    ];
    let hash = "0".repeat(64);
    for (name, value) in cases {
        let peak = peak(|| JournalRecord::decode(Some(hash.as_bytes()), Some(&value)));
        let bound = PER_BYTE_MAX * value.len() as u64 + CONSTANT_OF_RECORDS;
        assert!(peak <= bound, "{name}: {peak} bytes for {}", value.len());
    }
}
