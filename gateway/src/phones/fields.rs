//! What an app says of a point, by the names the app has for it, and as it was written.
//!
//! A protocol is mostly its [`Table`]. A name may lead into objects and arrays: `coords.latitude`, `geometry.coordinates[1]`.
//! Nothing is kept but what a table names, so that what a body costs is bounded by its text.

use std::borrow::Cow;
use std::fmt;

use milepost_shared::location::json::Name;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::NotThisProtocol;

/// What a field is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Latitude,
    Longitude,
    Time,
    Accuracy,
    /// Negative where the altitude is void.
    AltitudeAccuracy,
    Altitude,
    Bearing,
    /// In the unit of the protocol.
    Speed,
    MetresPerSecond,
    Knots,
    KilometresPerHour,
    /// Percent.
    Battery,
    /// 1.0 is full; above it is percent, as templates for this form have it.
    BatteryFraction,
    Provider,
    Network,
    /// Of MQTT, whose last part is the device.
    Topic,
    Device,
    /// The kind of message or record.
    Type,
    Action,
    NotificationToken,
    /// The points of a batch, or the one point.
    Items,
    Current,
    Trip,
    Geometry,
    /// A sentence of NMEA 0183 with all of it.
    Rmc,
}

impl Field {
    const COUNT: usize = Self::Rmc as usize + 1;
}

/// Names, each with what it is to us; of two for one field the one before counts.
pub type Table = &'static [(Field, &'static str)];

/// A value, as it was written. `null` is absent.
#[derive(Clone)]
pub enum Written<'a> {
    /// A JSON number.
    Number(Cow<'a, str>),
    /// A JSON string, or a value of a form.
    Text(Cow<'a, str>),
    /// `true` or `false`
    Bool,
    /// An array or an object.
    Nested(&'a RawValue),
}

/// The most of a text or number that is kept, bytes. What is longer breaks every rule, also when it is cut: no name may have as many
/// characters, and no number or time as many bytes. What is around a batch is looked at for each of its points.
const WRITTEN_BYTES_MAX: usize = 1024;

impl<'a> Written<'a> {
    fn cut(self) -> Self {
        let cut = |text: Cow<'a, str>| match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[..text.floor_char_boundary(WRITTEN_BYTES_MAX)]),
            Cow::Owned(text) if text.len() <= WRITTEN_BYTES_MAX => Cow::Owned(text),
            Cow::Owned(text) => Cow::Owned(text[..text.floor_char_boundary(WRITTEN_BYTES_MAX)].to_owned()),
        };
        match self {
            Self::Number(text) => Self::Number(cut(text)),
            Self::Text(text) => Self::Text(cut(text)),
            Self::Bool | Self::Nested(_) => self,
        }
    }
}

/// The fields of one point, or of what is around the points.
pub struct Fields<'a> {
    table: Table,
    values: [Option<Named<'a>>; Field::COUNT],
}

/// A value with the name that it was under, and that name's row of the table.
#[derive(Clone)]
struct Named<'a> {
    row: usize,
    name: &'static str,
    value: Written<'a>,
}

impl<'a> Fields<'a> {
    pub fn new(table: Table) -> Self {
        Self { table, values: [const { None }; Field::COUNT] }
    }

    /// Of JSON; `None` if it is neither an object nor an array, or has names that are no text.
    pub fn of_json(raw: &'a RawValue, table: Table) -> Option<Self> {
        let mut fields = Self::new(table);
        fields.read(raw, "").ok()?;
        Some(fields)
    }

    /// What was written under any name of the field.
    pub fn get(&self, field: Field) -> Option<&Written<'a>> {
        self.values[field as usize].as_ref().map(|named| &named.value)
    }

    /// A text that is not empty, or a number as one.
    pub fn text(&self, field: Field) -> Option<Cow<'a, str>> {
        match self.get(field)? {
            Written::Text(text) | Written::Number(text) if !text.is_empty() => Some(text.clone()),
            _ => None,
        }
    }

    /// The app's name of a field: the one that was used, or the one to use.
    pub fn name(&self, field: Field) -> &'static str {
        let used = self.values[field as usize].as_ref().map(|named| named.name);
        let first = || self.table.iter().find(|(of, _)| *of == field).map(|(_, name)| *name);
        used.or_else(first).unwrap_or("")
    }

    /// Whether nothing that the table names was there.
    pub fn is_empty(&self) -> bool {
        self.values.iter().all(Option::is_none)
    }

    /// Takes a name and value of a query or a form.
    pub fn put_pair(&mut self, name: &str, value: Cow<'a, str>) {
        if let Some(row) = self.place("", name).leaf {
            self.put(row, Written::Text(value));
        }
    }

    /// Sets a field to a number that was worked out.
    pub fn put_number(&mut self, field: Field, number: &impl ToString) {
        let value = Written::Number(number.to_string().into());
        self.values[field as usize] = Some(Named { row: 0, name: self.name(field), value });
    }

    /// Takes what is around the points where this one says nothing of it.
    pub fn inherit(&mut self, around: &Self, fields: &[Field]) {
        for field in fields.iter().map(|field| *field as usize) {
            if self.values[field].is_none() {
                self.values[field] = around.values[field].clone();
            }
        }
    }

    fn put(&mut self, row: usize, value: Written<'a>) {
        let value = value.cut();
        let (field, name) = self.table[row];
        // Templates write nothing for what is not known. Only of a device's name it may matter.
        if field != Field::Device && matches!(&value, Written::Text(text) if text.trim_ascii().is_empty()) {
            return;
        }
        let slot = &mut self.values[field as usize];
        // Apps write their device's name under several names, of which some are empty.
        let void = |value: &Written<'_>| field == Field::Device && is_no_name(value);
        let stays = |old: &Named<'_>| !void(&old.value) && (old.row < row || void(&value));
        if !slot.as_ref().is_some_and(stays) {
            *slot = Some(Named { row, name, value });
        }
    }

    /// Reads an object or an array that stands under `prefix`.
    fn read(&mut self, raw: &'a RawValue, prefix: &'static str) -> Result<(), serde_json::Error> {
        serde_json::Deserializer::from_str(raw.get()).deserialize_any(Walk { fields: self, prefix })
    }

    fn take(&mut self, place: Place, raw: &'a RawValue) -> Result<(), serde_json::Error> {
        if let (Some(row), Some(value)) = (place.leaf, written(raw)) {
            self.put(row, value);
        }
        match place.inner {
            Some(prefix) if raw.get().starts_with(['{', '[']) => self.read(raw, prefix),
            _ => Ok(()),
        }
    }

    /// Where a segment under `prefix` leads. Case does not matter: in queries users choose it.
    fn place(&self, prefix: &str, segment: &str) -> Place {
        let mut place = Place::default();
        let start = if prefix.is_empty() { 0 } else { prefix.len() + 1 };
        let end = start + segment.len();
        for (row, (_, name)) in self.table.iter().enumerate() {
            // Most names are distinguished by what is before and behind the segment, without comparing any text.
            let is_at =
                |at: usize, signs: &[u8]| name.as_bytes().get(at).is_none_or(|sign| signs.contains(sign));
            let is_whole = is_at(end, b".[") && (start == 0 || is_at(start - 1, b"."));
            let Some(own) = name.get(start..end).filter(|_| is_whole) else { continue };
            if !(own.eq_ignore_ascii_case(segment) && name.starts_with(prefix)) {
                continue;
            }
            if name.len() == end {
                place.leaf = place.leaf.or(Some(row));
            } else {
                place.inner = name.get(..end);
            }
        }
        place
    }

    /// The row of an element of the array under `prefix`.
    fn element(&self, prefix: &str, index: usize) -> Option<usize> {
        let is_it = |name: &str| {
            let (before, inside) = name.strip_suffix(']')?.rsplit_once('[')?;
            (inside.parse() == Ok(index) && before == prefix).then_some(())
        };
        self.table.iter().position(|(_, name)| is_it(name).is_some())
    }
}

/// Whether it cannot name a device.
fn is_no_name(value: &Written<'_>) -> bool {
    !matches!(value, Written::Text(text) | Written::Number(text) if !text.is_empty())
}

/// Where a name leads: to a value, into an object or an array, or both.
#[derive(Clone, Copy, Default)]
struct Place {
    leaf: Option<usize>,
    inner: Option<&'static str>,
}

struct Walk<'f, 'a> {
    fields: &'f mut Fields<'a>,
    prefix: &'static str,
}

impl<'a> Visitor<'a> for Walk<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut entries: A) -> Result<(), A::Error> {
        let Self { fields, prefix } = self;
        while let Some(place) = entries.next_key_seed(Name(|name: &str| fields.place(prefix, name)))? {
            if place.leaf.is_none() && place.inner.is_none() {
                entries.next_value::<IgnoredAny>()?;
            } else {
                fields.take(place, entries.next_value()?).map_err(serde::de::Error::custom)?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { fields, prefix } = self;
        let mut index = 0;
        while let Some(raw) = items.next_element::<&RawValue>()? {
            if let (Some(row), Some(value)) = (fields.element(prefix, index), written(raw)) {
                fields.put(row, value);
            }
            index += 1;
        }
        Ok(())
    }
}

/// A value as it was written; `null` is none, and neither is a text that is not Unicode.
fn written(raw: &RawValue) -> Option<Written<'_>> {
    let text = raw.get();
    match text.as_bytes().first()? {
        b'n' => None,
        b't' | b'f' => Some(Written::Bool),
        b'{' | b'[' => Some(Written::Nested(raw)),
        b'"' if !text.contains('\\') => Some(Written::Text(text.get(1..text.len() - 1)?.into())),
        b'"' => serde_json::from_str::<String>(text).ok().map(|text| Written::Text(text.into())),
        _ => Some(Written::Number(text.into())),
    }
}

/// The whole of a body, if it is JSON.
pub fn whole(body: &[u8]) -> Option<&RawValue> {
    let text = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    serde_json::from_slice(text).ok()
}

/// The bytes of the shortest point that an app could send, and how many shorter items may be among them for all that: what
/// a body costs in memory and dead letters is bounded by its size, whatever is in it.
const ITEM_BYTES_MIN: usize = 24;
const SHORT_ITEMS_MAX: usize = 64;

/// Calls for each element of an array, with its place, or for what is no array, without one.
///
/// # Errors
/// There are more than there could be points.
pub fn each_item<'a>(
    raw: &'a RawValue,
    each: impl FnMut(Option<usize>, &'a RawValue),
) -> Result<(), NotThisProtocol> {
    let text = raw.get();
    let mut each = Each { each, max: SHORT_ITEMS_MAX + text.len() / ITEM_BYTES_MIN };
    if text.starts_with('[') {
        // It was read as JSON before: only too many items are an error.
        return serde_json::Deserializer::from_str(text).deserialize_seq(each).map_err(|_| NotThisProtocol);
    }
    (each.each)(None, raw);
    Ok(())
}

struct Each<F> {
    each: F,
    max: usize,
}

impl<'a, F: FnMut(Option<usize>, &'a RawValue)> Visitor<'a> for Each<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(item) = items.next_element()? {
            if index == self.max {
                return Err(serde::de::Error::custom("too many items"));
            }
            (self.each)(Some(index), item);
            index += 1;
        }
        Ok(())
    }
}
