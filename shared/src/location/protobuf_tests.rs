use proptest::prelude::*;
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind};

use super::*;
use crate::location::{Rules, check};

/// A double of a kind that phones send, or any.
fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        (-4_000_000_000_i64..4_000_000_000, 0..8)
            .prop_map(|(digits, places)| { format!("{digits}e-{places}").parse().expect("a number") }),
        any::<f32>().prop_map(f64::from),
        any::<f64>(),
    ]
}

fn location() -> impl Strategy<Value = Location> {
    let numbers = proptest::collection::vec(proptest::option::of(value()), NUMBERS.len());
    let texts = proptest::collection::vec(proptest::option::of(".{0,9}"), TEXTS.len());
    (any::<i64>(), numbers, texts).prop_map(|(timestamp, numbers, texts)| {
        let mut location = Location::new(timestamp, 0.0, -0.0);
        let numbers = NUMBERS.iter().zip(numbers).filter_map(|(number, value)| Some((number, value?)));
        numbers.for_each(|(number, value)| (number.set)(&mut location, value));
        let texts = TEXTS.iter().zip(texts).filter_map(|(text, value)| Some((text, value?)));
        texts.for_each(|(text, value)| (text.set)(&mut location, value));
        location
    })
}

/// Bit for bit: what is no number equals itself, and 0 is not -0.
fn exact(location: &Location) -> (i64, Vec<Option<u64>>, Vec<Option<&str>>) {
    let numbers = NUMBERS.iter().map(|number| (number.get)(location).map(f64::to_bits));
    (location.timestamp, numbers.collect(), TEXTS.iter().map(|text| (text.get)(location)).collect())
}

proptest! {
    #[test]
    fn what_is_written_is_read_bit_for_bit(
        device in ".{0,20}",
        locations in proptest::collection::vec(location(), 0..5),
    ) {
        let upload = Upload { device, locations };
        let read = decode(&encode(&upload)).unwrap();
        prop_assert_eq!(&read.device, &upload.device);
        let exactly = |upload: &Upload| upload.locations.iter().map(|l| format!("{:?}", exact(l))).collect::<Vec<_>>();
        prop_assert_eq!(exactly(&read), exactly(&upload));
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }
}

#[test]
fn a_decimal_takes_few_bytes_and_any_other_number_those_of_a_double() {
    let bytes = |accuracy| {
        let location = Location { accuracy, ..Location::new(1_773_480_413_000, 48.2081743, 16.3738189) };
        let mut bytes = Vec::new();
        encode_location(&location, &mut bytes);
        bytes.len()
    };
    assert_eq!(bytes(None), 7 + 6 + 6);
    assert_eq!(bytes(Some(11.25)) - bytes(None), 1 + 3);
    assert_eq!(bytes(Some(11.2501)) - bytes(None), 2 + 8);
}

#[test]
fn what_is_required_and_absent_is_refused() {
    let upload = decode(b"\x0a\x01d\x12\0").unwrap();
    let faults = check(&upload, Rules::STORABLE).unwrap_err().to_string();
    assert!(faults.starts_with("3 faults, the first: locations[0].timestamp"), "{faults}");
}

#[test]
fn what_no_gateway_writes_is_named() {
    for (bytes, malformed) in [
        (&b"\x0a\x02d"[..], Malformed::NotProtobuf),
        (b"\x0a\x01\xff", Malformed::NotProtobuf),
        (b"\x08\x01", Malformed::NotProtobuf),
        (b"\x12\x02\x4a\x01", Malformed::NotProtobuf),
        (b"\x1a\x01d", Malformed::UnknownField(3)),
        // A field of a location that this build does not know.
        (b"\x12\x03\xf8\x01\x01", Malformed::UnknownField(31)),
    ] {
        assert_eq!(decode(bytes), Err(malformed), "{bytes:?}");
    }
    assert_eq!(decode(&b"\x12\0".repeat(LOCATIONS_MAX + 1)), Err(Malformed::TooMany));
    assert!(decode(&b"\x12\0".repeat(LOCATIONS_MAX)).is_ok());
}

#[test]
fn the_table_has_the_fields_of_the_proto_and_the_proto_no_other() {
    let files = protox::compile(["proto/location_uploads.proto"], ["."]).unwrap();
    let pool = DescriptorPool::from_file_descriptor_set(files).unwrap();
    let of = |name: &str| {
        let message = pool.get_message_by_name(name).unwrap();
        let field = |field: FieldDescriptor| (field.number(), field.name().to_owned(), field.kind());
        let mut fields: Vec<_> = message.fields().map(field).collect();
        fields.sort_by_key(|(tag, ..)| *tag);
        fields
    };
    let row = |tag: u32, name: &str, kind: Kind| (tag, name.to_owned(), kind);
    let mut table = vec![row(TIMESTAMP_TAG.into(), "timestamp", Kind::Int64)];
    for number in &NUMBERS {
        table.push(row(number.tag.into(), number.other, Kind::Sint64));
        table.push(row(EXACT + u32::from(number.tag), &format!("{}_exact", number.other), Kind::Double));
    }
    table.extend(TEXTS.iter().map(|text| row(text.tag.into(), text.other, Kind::String)));
    table.sort_by_key(|(tag, ..)| *tag);
    assert_eq!(of("milepost.Location"), table);

    let location = Kind::Message(pool.get_message_by_name("milepost.Location").unwrap());
    let upload = [row(DEVICE_TAG, "device", Kind::String), row(LOCATION_TAG, "locations", location)];
    assert_eq!(of("milepost.Upload"), upload);
}
