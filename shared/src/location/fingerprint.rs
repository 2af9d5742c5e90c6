//! The fingerprint: whether two uploads under one key are the same upload.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::journal::key::{NotAHash, parse_hash};
use crate::location::{Location, Upload};

/// Version of the canonical form, part of what is hashed. It is published with the record and compared as bytes, so a
/// new form turns retries across the upgrade into conflicts: change it only together with a period that accepts both.
const VERSION: u8 = 1;

/// SHA-256 of the decoded upload in canonical form. White space, field order, spelling of names, `5` against `5.0`,
/// chunking and compression are gone by then; every value counts bit by bit. The endpoint does not count: a single
/// location and a batch of one are the same upload.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Takes the fingerprint of an upload.
    #[must_use]
    pub fn of(upload: &Upload) -> Self {
        let (mut hash, mut canonical) = (Sha256::new(), Vec::with_capacity(256));
        canonical.push(VERSION);
        push_text(&mut canonical, Some(&upload.device));
        canonical.extend_from_slice(&(upload.locations.len() as u64).to_be_bytes());
        for location in &upload.locations {
            push_location(&mut canonical, location);
            hash.update(&canonical);
            canonical.clear();
        }
        hash.update(&canonical);
        Self(hash.finalize().into())
    }
}

fn push_location(canonical: &mut Vec<u8>, location: &Location) {
    let Location {
        timestamp,
        latitude,
        longitude,
        accuracy,
        altitude,
        bearing,
        speed,
        battery_level,
        provider,
        network_type,
    } = location;
    canonical.extend_from_slice(&timestamp.to_be_bytes());
    canonical.extend_from_slice(&latitude.to_bits().to_be_bytes());
    canonical.extend_from_slice(&longitude.to_bits().to_be_bytes());
    for number in [accuracy, altitude, bearing, speed, battery_level] {
        match number {
            None => canonical.push(0),
            Some(number) => {
                canonical.push(1);
                canonical.extend_from_slice(&number.to_bits().to_be_bytes());
            }
        }
    }
    push_text(canonical, provider.as_deref());
    push_text(canonical, network_type.as_deref());
}

/// Absent and empty differ; the length keeps neighbours apart.
fn push_text(canonical: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => canonical.push(0),
        Some(text) => {
            canonical.push(1);
            canonical.extend_from_slice(&(text.len() as u64).to_be_bytes());
            canonical.extend_from_slice(text.as_bytes());
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(hex::Buffer::<32>::new().format(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        parse_hash(text.as_bytes()).map(Self)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload() -> Upload {
        Upload {
            device: "phone".to_owned(),
            locations: vec![Location::new(1, 48.25, 16.5), Location::new(2, 48.5, 16.75)],
        }
    }

    #[test]
    fn every_field_counts() {
        let mut changed = Vec::new();
        let mut change = |edit: fn(&mut Upload)| {
            let mut copy = upload();
            edit(&mut copy);
            changed.push(Fingerprint::of(&copy));
        };
        change(|_| {});
        change(|u| u.device.push('x'));
        change(|u| u.locations.swap(0, 1));
        change(|u| drop(u.locations.pop()));
        change(|u| u.locations[1].timestamp = 3);
        change(|u| u.locations[1].latitude = 48.500_000_000_000_01);
        change(|u| u.locations[1].longitude = -16.75);
        change(|u| u.locations[1].accuracy = Some(0.0));
        change(|u| u.locations[1].altitude = Some(0.0));
        change(|u| u.locations[1].bearing = Some(0.0));
        change(|u| u.locations[1].speed = Some(0.0));
        change(|u| u.locations[1].battery_level = Some(0.0));
        change(|u| u.locations[1].provider = Some(String::new()));
        change(|u| u.locations[1].network_type = Some(String::new()));
        for (i, fingerprint) in changed.iter().enumerate() {
            assert!(!changed[..i].contains(fingerprint), "change {i} is not seen");
        }
    }

    #[test]
    fn the_form_never_changes_for_uploads_already_out_there() {
        assert_eq!(
            Fingerprint::of(&upload()).to_string(),
            "da410fc65b8a8f5221890e5e80d79182197940e3eeb5a62f1d457b9bb2302b65"
        );
    }
}
