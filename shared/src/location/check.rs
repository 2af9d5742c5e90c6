//! The rules of an upload, as it is once its form is read: those of a body and of a record alike.

use std::fmt;

use super::fields::{NUMBERS, TEXT_CHARS_MAX, TEXTS, check_text};
use super::{FAULTS_MAX, Fault, Invalid, LOCATIONS_MAX, Upload};

/// What may differ between programs; everything else about an upload is fixed.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Most locations in a batch.
    pub locations_max: usize,
    /// Least `timestamp`, milliseconds since 1970: what is below was counted in seconds.
    pub timestamp_min: i64,
    /// Greatest `timestamp`, milliseconds since 1970.
    pub timestamp_max: i64,
}

impl Rules {
    /// What the tables can hold: the rules for records that a gateway has already let in.
    pub const STORABLE: Self =
        Self { locations_max: LOCATIONS_MAX, timestamp_min: 0, timestamp_max: YEAR_9999_MS };

    pub(super) fn check_timestamp(&self, millis: i64) -> Result<(), &'static str> {
        if millis < 0 {
            Err("must not be before 1970")
        } else if millis < self.timestamp_min {
            Err("looks like seconds; milliseconds are wanted")
        } else if millis > self.timestamp_max {
            Err("is too far in the future; it counts milliseconds since 1970")
        } else {
            Ok(())
        }
    }
}

/// The last millisecond of the year 9999, far inside what Postgres can hold.
const YEAR_9999_MS: i64 = 253_402_300_799_999;
/// Most characters of a device's name.
pub const DEVICE_CHARS_MAX: usize = 128;

pub(super) fn check_device(device: &str) -> Result<(), String> {
    check_text(device, DEVICE_CHARS_MAX)?;
    if device.is_empty() { Err("must not be empty".to_owned()) } else { Ok(()) }
}

/// Whether a text can name a device: 1..=128 characters, none of them a control character.
#[must_use]
pub fn is_device(text: &str) -> bool {
    check_device(text).is_ok()
}

/// Judges an upload that was read from a form with no rules of its own.
///
/// # Errors
/// [`Invalid`], naming everything that is wrong.
pub fn check(upload: &Upload, rules: Rules) -> Result<(), Invalid> {
    let max = rules.locations_max.min(LOCATIONS_MAX);
    if upload.locations.len() > max {
        return Err(Invalid::TooMany { max });
    }
    let mut faults = Faults::default();
    faults.judge(Path::Body("deviceId"), check_device(&upload.device));
    if upload.locations.is_empty() {
        faults.add(Path::Body("locations"), "must hold at least one location");
    }
    for (index, location) in upload.locations.iter().enumerate() {
        faults.judge(Path::ItemField(index, "timestamp"), rules.check_timestamp(location.timestamp));
        for number in &NUMBERS {
            if let Some(value) = (number.get)(location) {
                faults.judge(Path::ItemField(index, number.name), number.check(value));
            }
        }
        for text in &TEXTS {
            if let Some(value) = (text.get)(location) {
                faults.judge(Path::ItemField(index, text.name), check_text(value, TEXT_CHARS_MAX));
            }
        }
    }
    faults.ended()
}

/// Where a fault is; only spelled out when there is one.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    Body(&'a str),
    Item(usize),
    ItemField(usize, &'a str),
}

impl<'a> Path<'a> {
    pub(super) fn of(index: Option<usize>, name: &'a str) -> Self {
        index.map_or(Self::Body(name), |index| Self::ItemField(index, name))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(name) => f.write_str(name),
            Self::Item(index) => write!(f, "locations[{index}]"),
            Self::ItemField(index, name) => write!(f, "locations[{index}].{name}"),
        }
    }
}

#[derive(Default)]
pub(super) struct Faults {
    listed: Vec<Fault>,
    total: usize,
    /// More locations than allowed; no other fault counts then.
    pub(super) too_many: bool,
}

impl Faults {
    pub(super) fn are_none(&self) -> bool {
        self.total == 0
    }

    pub(super) fn add(&mut self, path: Path<'_>, message: impl fmt::Display) {
        self.total += 1;
        if self.listed.len() < FAULTS_MAX {
            self.listed.push(Fault { field: path.to_string(), message: message.to_string() });
        }
    }

    /// Whether it is right; notes what is wrong with it.
    pub(super) fn judge(&mut self, path: Path<'_>, verdict: Result<(), impl fmt::Display>) -> bool {
        verdict.map_err(|message| self.add(path, message)).is_ok()
    }

    /// The name is the client's own text: cut and cleaned before it is shown back.
    pub(super) fn add_unknown(&mut self, index: Option<usize>, name: &str) {
        let room = if self.listed.len() < FAULTS_MAX { 40 } else { 0 };
        let shown: String = name.chars().filter(|c| !c.is_control()).take(room).collect();
        self.add(Path::of(index, &shown), "is not a known field");
    }

    pub(super) fn ended(self) -> Result<(), Invalid> {
        if self.are_none() { Ok(()) } else { Err(Invalid::Faults { faults: self.listed, total: self.total }) }
    }
}
