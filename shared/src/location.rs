//! The upload: 1..N locations of one device, and the rules a body must keep to become one.
//!
//! Validation is total here: what is an [`Upload`] can be published, persisted and emitted. The same rules read a body at
//! the gateway and a record at the consumer, so that neither has to trust the other.

mod check;
mod decode;
pub mod fields;
pub mod fingerprint;
pub mod json;
pub mod protobuf;

pub use check::{DEVICE_CHARS_MAX, Rules, check, is_device};
pub use decode::decode;
pub use fields::Location;

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
    /// The first schema of the journal that has all its fields.
    #[must_use]
    pub fn schema(&self) -> u32 {
        self.locations.iter().map(Location::schema).max().unwrap_or(1)
    }

    /// The memory it takes besides its own struct, bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let label = |label: &Option<String>| label.as_ref().map_or(0, String::capacity);
        let labels = |location: &Location| label(&location.provider) + label(&location.network_type);
        let locations = self.locations.capacity() * size_of::<Location>();
        self.device.capacity() + locations + self.locations.iter().map(labels).sum::<usize>()
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
