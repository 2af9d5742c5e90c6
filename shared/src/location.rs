//! The upload: 1..N locations of one device, and the rules a body must keep to become one.
//!
//! Validation is total here: what is an [`Upload`] can be published, persisted and emitted. The same rules read a body at
//! the gateway and a record at the consumer, so that neither has to trust the other.

mod decode;
pub mod fingerprint;
pub mod json;

pub use decode::{Rules, decode};

use serde::Serialize;

/// One device's locations, in the order sent.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Upload {
    /// The client's name for the device, `deviceId`: 1..=128 characters, none of them a control character.
    #[serde(rename = "deviceId")]
    pub device: String,
    /// At least one.
    pub locations: Vec<Location>,
}

impl Upload {
    /// The memory it takes besides its own struct, bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let label = |label: &Option<String>| label.as_ref().map_or(0, String::capacity);
        let labels = |location: &Location| label(&location.provider) + label(&location.network_type);
        let locations = self.locations.capacity() * size_of::<Location>();
        self.device.capacity() + locations + self.locations.iter().map(labels).sum::<usize>()
    }
}

/// One location fix. Optional fields are absent from JSON when unknown.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Location {
    /// When the phone took the fix, milliseconds since 1970; any age is accepted.
    pub timestamp: i64,
    /// Degrees, -90..=90.
    pub latitude: f64,
    /// Degrees, -180..=180.
    pub longitude: f64,
    /// Radius of the fix in metres, 0..=100,000,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Metres, -100,000..=100,000,000: above the ellipsoid if the client knows it, else above mean sea level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub altitude: Option<f64>,
    /// Degrees clockwise from north, 0..=360.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearing: Option<f64>,
    /// Metres per second, 0..=100,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<f64>,
    /// Percent, 0..=100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub battery_level: Option<f64>,
    /// What made the fix, such as `gps`; at most 64 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The network at the time, such as `wifi`; at most 64 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_type: Option<String>,
}

impl Location {
    /// A fix without any optional field.
    #[must_use]
    pub fn new(timestamp: i64, latitude: f64, longitude: f64) -> Self {
        Self {
            timestamp,
            latitude,
            longitude,
            accuracy: None,
            altitude: None,
            bearing: None,
            speed: None,
            battery_level: None,
            provider: None,
            network_type: None,
        }
    }
}

/// Most locations of one upload, whatever a gateway is set to: the journal's record size depends on it.
pub const LOCATIONS_MAX: usize = 10_000;

/// Which of the two bodies is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `POST /api/v1/locations`: the fields of one location beside `deviceId`.
    Single,
    /// `POST /api/v1/locations/batch`: `deviceId` and `locations`.
    Batch,
}

/// One thing wrong with a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The field, such as `locations[3].latitude`; empty for the body itself.
    pub field: String,
    /// What is wrong and what is allowed. Never quotes the value.
    pub message: String,
}

/// Why a body is no upload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not JSON at all, or nested too deeply. Lines and columns count from 1.
    #[error("not valid JSON at line {line}, column {column}")]
    Syntax {
        /// Line of the first fault.
        line: usize,
        /// Column of the first fault.
        column: usize,
    },
    /// More locations than allowed.
    #[error("more than {max} locations")]
    TooMany {
        /// The greatest number allowed.
        max: usize,
    },
    /// JSON that breaks rules; at least one fault.
    #[error("{total} faults, the first: {} {}", faults[0].field, faults[0].message)]
    Faults {
        /// The first [`FAULTS_MAX`] faults in the order of the body.
        faults: Vec<Fault>,
        /// How many there are in all.
        total: usize,
    },
}

/// Most faults listed in one answer; the rest are counted.
pub const FAULTS_MAX: usize = 100;
