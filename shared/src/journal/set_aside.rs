//! A point that a phone's app sent and that breaks a rule. It is set aside: its app gets its success answer, and it goes the way
//! of an upload, with a key of its own, but into `dead_letters`.

use std::fmt;

use prost::Message;

use crate::location;

/// Longest name of an app, bytes.
pub const APP_BYTES_MAX: usize = 32;
/// Longest name of a reason, bytes.
pub const REASON_BYTES_MAX: usize = 64;
/// Longest path of a field, characters.
pub const FIELD_CHARS_MAX: usize = 128;
/// Most of a point that is kept, bytes.
pub const RAW_BYTES_MAX: usize = 64 << 10;

/// The apps that this build knows by name: a metric has no other labels.
pub const APPS: [&str; 4] = ["gpslogger", "overland", "owntracks", "traccar"];
/// The reasons that this build knows by name: a metric has no other labels.
pub const REASONS: [&str; 11] = [
    "device-name",
    "encrypted",
    "latitude-missing",
    "latitude-out-of-range",
    "longitude-missing",
    "longitude-out-of-range",
    "no-time",
    "not-a-number",
    "time-unreadable",
    "too-far-ahead",
    "undecodable",
];
/// Stands in a metric for what this build does not know by name.
pub const OTHER: &str = "other";

/// How the text of a [`SetAside`] begins, and that of no poison record: a regular expression as Postgres has them.
pub const TEXT_PATTERN: &str = "^[a-z0-9-]+: ";

/// The message `SetAside` of `shared/proto/location_uploads.proto`. Its text names app, reason and field, and nothing that the app
/// sent.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SetAside {
    /// The app's protocol, such as `owntracks`: letters a-z, digits and `-`.
    #[prost(string, tag = "1")]
    pub app: String,
    /// The device that the point is of, if that is known.
    #[prost(string, optional, tag = "2")]
    pub device: Option<String>,
    /// Which rule it breaks, such as `latitude-out-of-range`: letters a-z, digits and `-`.
    #[prost(string, tag = "3")]
    pub reason: String,
    /// Where in the point, by the app's own names.
    #[prost(string, optional, tag = "4")]
    pub field: Option<String>,
    /// The point as the app sent it.
    #[prost(bytes = "vec", tag = "5")]
    pub raw: Vec<u8>,
    /// How many bytes it had, if that is more than are kept.
    #[prost(uint64, optional, tag = "6")]
    pub raw_length: Option<u64>,
}

impl SetAside {
    /// A point that breaks a rule. Of what it was sent as, the first [`RAW_BYTES_MAX`] are kept.
    #[must_use]
    pub fn new(app: &str, device: Option<&str>, reason: &str, field: Option<&str>, raw: &[u8]) -> Self {
        let kept = &raw[..raw.len().min(RAW_BYTES_MAX)];
        let owned = |text: &str| text.to_owned();
        Self {
            app: owned(app),
            device: device.map(owned),
            reason: owned(reason),
            field: field.map(owned),
            raw: kept.to_vec(),
            raw_length: (kept.len() < raw.len()).then_some(raw.len() as u64),
        }
    }

    /// Reads the message back, checking that a gateway can have written it.
    ///
    /// # Errors
    /// What is wrong with it, without any value of it.
    pub fn decode_checked(bytes: &[u8]) -> Result<Self, &'static str> {
        let point = Self::decode(bytes).map_err(|_| "it is not Protobuf")?;
        // To pass over something would be to keep less than was sent.
        if point.encoded_len() != bytes.len() {
            return Err("it has an unknown field, or one twice");
        }
        point.check()?;
        Ok(point)
    }

    /// Judges all its fields.
    ///
    /// # Errors
    /// What is wrong with it, without any value of it.
    pub fn check(&self) -> Result<(), &'static str> {
        let Self { app, device, reason, field, raw, raw_length } = self;
        let is_name = |text: &str, max: usize| {
            let is_of_names = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
            (1..=max).contains(&text.len()) && text.bytes().all(is_of_names)
        };
        let is_path = |text: &String| {
            (1..=FIELD_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control)
        };
        let rules = [
            (is_name(app, APP_BYTES_MAX), "its app is no name"),
            (device.as_deref().is_none_or(location::is_device), "its device is none"),
            (is_name(reason, REASON_BYTES_MAX), "its reason is no name"),
            (field.as_ref().is_none_or(is_path), "its field is no path"),
            (raw.len() <= RAW_BYTES_MAX, "its raw point is too long"),
            (raw_length.is_none_or(|length| length > raw.len() as u64), "its raw length is none"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, fault)| Err(fault))
    }

    /// Its app and its reason as labels of a metric.
    #[must_use]
    pub fn labels(&self) -> [&'static str; 2] {
        [known(&APPS, &self.app), known(&REASONS, &self.reason)]
    }
}

fn known(names: &[&'static str], text: &str) -> &'static str {
    names.iter().find(|name| **name == text).unwrap_or(&OTHER)
}

/// As the reason of its dead letter: `owntracks: latitude-out-of-range (lat)`.
impl fmt::Display for SetAside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { app, reason, field, raw, raw_length, .. } = self;
        write!(f, "{app}: {reason}")?;
        if let Some(field) = field {
            write!(f, " ({field})")?;
        }
        match raw_length {
            Some(length) => write!(f, "; the point of {length} bytes is truncated to {}", raw.len()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point() -> SetAside {
        SetAside::new("owntracks", Some("d"), "latitude-out-of-range", Some("lat"), br#"{"lat":91}"#)
    }

    #[test]
    fn a_point_survives_its_bytes_and_says_app_reason_and_field() {
        let bare = SetAside { device: None, field: None, raw: Vec::new(), ..point() };
        for (point, text) in
            [(point(), "owntracks: latitude-out-of-range (lat)"), (bare, "owntracks: latitude-out-of-range")]
        {
            assert_eq!(SetAside::decode_checked(&point.encode_to_vec()), Ok(point.clone()));
            assert_eq!(point.to_string(), text);
        }
    }

    #[test]
    fn a_point_that_is_too_long_is_cut_and_says_so() {
        let whole = vec![b'x'; RAW_BYTES_MAX];
        let of = |raw: &[u8]| SetAside::new("overland", None, "no-time", None, raw);
        assert_eq!((of(&whole).raw_length, of(&whole).to_string()), (None, "overland: no-time".to_owned()));
        let cut = of(&[&whole[..], b"y"].concat());
        assert_eq!((&cut.raw, cut.raw_length, cut.check()), (&whole, Some(65_537), Ok(())));
        assert_eq!(cut.to_string(), "overland: no-time; the point of 65537 bytes is truncated to 65536");
    }

    #[test]
    fn every_bound_of_a_point_is_checked() {
        let longest = SetAside {
            app: "a".repeat(APP_BYTES_MAX),
            device: Some("\u{1f4cd}".repeat(128)),
            reason: "9-".repeat(REASON_BYTES_MAX / 2),
            field: Some("\u{1f4cd}".repeat(FIELD_CHARS_MAX)),
            raw: vec![b'x'; RAW_BYTES_MAX],
            raw_length: Some(RAW_BYTES_MAX as u64 + 1),
        };
        assert_eq!(SetAside::decode_checked(&longest.encode_to_vec()), Ok(longest));
        let text = |text: &str| Some(text.to_owned());
        for (broken, fault) in [
            (SetAside { app: String::new(), ..point() }, "its app is no name"),
            (SetAside { app: "a".repeat(APP_BYTES_MAX + 1), ..point() }, "its app is no name"),
            (SetAside { app: "Own Tracks".to_owned(), ..point() }, "its app is no name"),
            (SetAside { device: text(""), ..point() }, "its device is none"),
            (SetAside { device: Some("d".repeat(129)), ..point() }, "its device is none"),
            (SetAside { device: text("a\nb"), ..point() }, "its device is none"),
            (SetAside { reason: String::new(), ..point() }, "its reason is no name"),
            (SetAside { reason: "r".repeat(REASON_BYTES_MAX + 1), ..point() }, "its reason is no name"),
            (SetAside { reason: "lat 91".to_owned(), ..point() }, "its reason is no name"),
            (SetAside { field: text(""), ..point() }, "its field is no path"),
            (SetAside { field: text("a\nb"), ..point() }, "its field is no path"),
            (SetAside { field: Some("f".repeat(FIELD_CHARS_MAX + 1)), ..point() }, "its field is no path"),
            (SetAside { raw: vec![0; RAW_BYTES_MAX + 1], ..point() }, "its raw point is too long"),
            (SetAside { raw_length: Some(10), ..point() }, "its raw length is none"),
        ] {
            assert_eq!(SetAside::decode_checked(&broken.encode_to_vec()), Err(fault), "{broken}");
        }
        let bytes = point().encode_to_vec();
        for (more, fault) in [
            (&b"\x38\x01"[..], "it has an unknown field, or one twice"),
            (b"\x0a\x01a", "it has an unknown field, or one twice"),
            (b"\xff", "it is not Protobuf"),
        ] {
            assert_eq!(SetAside::decode_checked(&[&bytes[..], more].concat()), Err(fault));
        }
    }

    #[test]
    fn what_is_not_known_by_name_is_no_label() {
        assert_eq!(point().labels(), ["owntracks", "latitude-out-of-range"]);
        let unknown = SetAside { app: "owntracks2".to_owned(), reason: "lat".to_owned(), ..point() };
        assert_eq!(unknown.labels(), [OTHER, OTHER]);
    }
}
