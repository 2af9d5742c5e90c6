//! The upload in the journal: the messages `Upload` and `Location` of `shared/proto/location_uploads.proto`, written and read by
//! the table of [`fields`](super::fields).
//!
//! Phones send decimals of a few digits. As an integer such a number has two to five bytes, as a double it has eight. So each
//! number has two fields: one that counts its [`parts`](Number::parts), if that is, bit for bit, what was sent, and one for
//! any other double.

use prost::DecodeError;
use prost::bytes::Buf;
use prost::encoding::{self, DecodeContext, WireType, decode_key, decode_varint};

use super::fields::{NUMBERS, Number, TEXTS, TIMESTAMP_TAG};
use super::{LOCATIONS_MAX, Location, Upload};

const DEVICE_TAG: u32 = 1;
const LOCATION_TAG: u32 = 2;
/// Added to the tag of a number: the field that holds it as a double.
pub const EXACT: u32 = 64;

/// Why bytes are no upload of this build's; names no value of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not Protobuf, or with a field of another type.
    #[error("it is not Protobuf")]
    NotProtobuf,
    /// With a field that no gateway writes into this schema. To pass it would be to store less than was sent.
    #[error("it has an unknown field {0}")]
    UnknownField(u32),
    /// More locations than any gateway takes.
    #[error("it has more than {LOCATIONS_MAX} locations")]
    TooMany,
}

/// The library's error may quote the bytes.
impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Self {
        Self::NotProtobuf
    }
}

/// Writes an upload.
#[must_use]
pub fn encode(upload: &Upload) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(upload.device.len() + 8 + 72 * upload.locations.len());
    encoding::string::encode(DEVICE_TAG, &upload.device, &mut bytes);
    let mut message = Vec::with_capacity(72);
    for location in &upload.locations {
        message.clear();
        encode_location(location, &mut message);
        encoding::bytes::encode(LOCATION_TAG, &message, &mut bytes);
    }
    bytes
}

fn encode_location(location: &Location, bytes: &mut Vec<u8>) {
    encoding::int64::encode(TIMESTAMP_TAG.into(), &location.timestamp, bytes);
    for number in &NUMBERS {
        let Some(value) = (number.get)(location) else { continue };
        match parts(number, value) {
            Some(parts) => encoding::sint64::encode(number.tag.into(), &parts, bytes),
            None => encoding::double::encode(EXACT + u32::from(number.tag), &value, bytes),
        }
    }
    for text in &TEXTS {
        if let Some(value) = (text.get)(location) {
            encoding::encode_key(text.tag.into(), WireType::LengthDelimited, bytes);
            encoding::encode_varint(value.len() as u64, bytes);
            bytes.extend_from_slice(value.as_bytes());
        }
    }
}

/// How many parts a number is, if it is a whole number of them.
fn parts(number: &Number, value: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "what does not fit is not given back by the parts")]
    let parts = (value * number.parts).round() as i64;
    (of_parts(number, parts).to_bits() == value.to_bits()).then_some(parts)
}

/// Gives a decimal back as it was read: both are the double that is nearest to it.
#[expect(clippy::cast_precision_loss, reason = "beyond 2^53 it is outside of every range")]
fn of_parts(number: &Number, parts: i64) -> f64 {
    parts as f64 / number.parts
}

/// Reads an upload. What is required and absent has a value that [`check`](super::check) refuses.
///
/// # Errors
/// [`Malformed`].
pub fn decode(mut bytes: &[u8]) -> Result<Upload, Malformed> {
    let mut upload = Upload { device: String::new(), locations: Vec::new() };
    while bytes.has_remaining() {
        let (tag, wire_type) = decode_key(&mut bytes)?;
        match tag {
            DEVICE_TAG => {
                encoding::string::merge(wire_type, &mut upload.device, &mut bytes, DecodeContext::default())?;
            }
            LOCATION_TAG => {
                let location = decode_location(delimited(wire_type, &mut bytes)?)?;
                push_within(&mut upload.locations, location)?;
            }
            unknown => return Err(Malformed::UnknownField(unknown)),
        }
    }
    Ok(upload)
}

/// Doubles the capacity when it is used up, but not beyond [`LOCATIONS_MAX`].
fn push_within(locations: &mut Vec<Location>, location: Location) -> Result<(), Malformed> {
    let count = locations.len();
    if count == LOCATIONS_MAX {
        return Err(Malformed::TooMany);
    }
    if count == locations.capacity() {
        locations.reserve_exact(count.clamp(1, LOCATIONS_MAX - count));
    }
    locations.push(location);
    Ok(())
}

/// The bytes of a field.
fn delimited<'a>(wire_type: WireType, bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    encoding::check_wire_type(WireType::LengthDelimited, wire_type)?;
    let length = usize::try_from(decode_varint(bytes)?).map_err(|_| Malformed::NotProtobuf)?;
    let (field, rest) = bytes.split_at_checked(length).ok_or(Malformed::NotProtobuf)?;
    *bytes = rest;
    Ok(field)
}

fn decode_location(mut bytes: &[u8]) -> Result<Location, Malformed> {
    let mut location = Location::new(i64::MIN, f64::NAN, f64::NAN);
    while bytes.has_remaining() {
        let (tag, wire_type) = decode_key(&mut bytes)?;
        decode_field(&mut location, tag, wire_type, &mut bytes)?;
    }
    Ok(location)
}

fn decode_field(
    location: &mut Location,
    tag: u32,
    wire_type: WireType,
    bytes: &mut &[u8],
) -> Result<(), Malformed> {
    let context = DecodeContext::default();
    let number = |tag: u32| NUMBERS.iter().find(|number| u32::from(number.tag) == tag);
    if tag == u32::from(TIMESTAMP_TAG) {
        encoding::int64::merge(wire_type, &mut location.timestamp, bytes, context)?;
    } else if let Some(number) = number(tag) {
        let mut parts = 0;
        encoding::sint64::merge(wire_type, &mut parts, bytes, context)?;
        (number.set)(location, of_parts(number, parts));
    } else if let Some(number) = tag.checked_sub(EXACT).and_then(number) {
        let mut value = 0.0;
        encoding::double::merge(wire_type, &mut value, bytes, context)?;
        (number.set)(location, value);
    } else if let Some(text) = TEXTS.iter().find(|text| u32::from(text.tag) == tag) {
        let value = std::str::from_utf8(delimited(wire_type, bytes)?).map_err(|_| Malformed::NotProtobuf)?;
        (text.set)(location, value.to_owned());
    } else {
        return Err(Malformed::UnknownField(tag));
    }
    Ok(())
}

#[cfg(test)]
#[path = "protobuf_tests.rs"]
mod tests;
