//! The fingerprint: whether two uploads under one key are the same upload.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::location::fields::{NUMBERS, TEXTS};
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
        push_text(&mut canonical, &upload.device);
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

/// The time, then the tag and the value of each field that is there, then a zero: a field that is absent leaves no trace, so
/// that a new one changes no old fingerprint.
fn push_location(canonical: &mut Vec<u8>, location: &Location) {
    canonical.extend_from_slice(&location.timestamp.to_be_bytes());
    for number in &NUMBERS {
        if let Some(value) = (number.get)(location) {
            canonical.push(number.tag);
            canonical.extend_from_slice(&value.to_bits().to_be_bytes());
        }
    }
    for text in &TEXTS {
        if let Some(value) = (text.get)(location) {
            canonical.push(text.tag);
            push_text(canonical, value);
        }
    }
    canonical.push(0);
}

/// The length keeps neighbours apart.
fn push_text(canonical: &mut Vec<u8>, text: &str) {
    canonical.extend_from_slice(&(text.len() as u64).to_be_bytes());
    canonical.extend_from_slice(text.as_bytes());
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
        for number in &NUMBERS {
            let mut copy = upload();
            (number.set)(&mut copy.locations[1], 0.0);
            changed.push(Fingerprint::of(&copy));
        }
        for text in &TEXTS {
            let mut copy = upload();
            (text.set)(&mut copy.locations[1], String::new());
            changed.push(Fingerprint::of(&copy));
        }
        for (i, fingerprint) in changed.iter().enumerate() {
            assert!(!changed[..i].contains(fingerprint), "change {i} is not seen");
        }
    }

    #[test]
    fn the_form_never_changes_for_uploads_already_out_there() {
        assert_eq!(
            Fingerprint::of(&upload()).to_string(),
            "ed054e76766d0aafb71c2cca62595bc63f7d9a04e3690b5ae989a81ac0add6de"
        );
    }
}
