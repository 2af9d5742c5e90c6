//! Values that must never be in a log line: planted in everything a test sends, and searched for at its end.

use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::Context as _;
use milepost_shared::location::{Location, Upload};

/// The first capture time of every upload made here, milliseconds since 1970.
const CAPTURED_FROM: i64 = 1_773_480_413_000;

/// What one test plants: all its coordinates share eight digits behind the point, all its keys share sixteen hex
/// digits, and its secrets are listed.
#[derive(Debug)]
pub struct Planted {
    digits: String,
    mark: String,
}

impl Planted {
    /// Marks that nothing else has.
    #[must_use]
    pub fn new() -> Self {
        Self {
            digits: format!("{:08}", rand::random_range(10_000_000..100_000_000)),
            mark: format!("{:016x}", rand::random::<u64>()),
        }
    }

    /// The marks of uploads that are made elsewhere: `digits` behind the point of every coordinate, `mark` in every key.
    #[must_use]
    pub fn with(digits: &str, mark: &str) -> Self {
        Self { digits: digits.to_owned(), mark: mark.to_owned() }
    }

    /// An idempotency key that no other call returns.
    #[must_use]
    pub fn key(&self) -> String {
        format!("key-{}-{:016x}", self.mark, rand::random::<u64>())
    }

    /// An upload of `count` locations of a new device. The coordinates have as many digits as survive a decimal.
    #[must_use]
    pub fn upload(&self, count: usize) -> Upload {
        let device = format!("device-{:016x}", rand::random::<u64>());
        let locations = (0_i64..).take(count).map(|index| self.location(index)).collect();
        Upload { device, locations }
    }

    fn location(&self, index: i64) -> Location {
        let mut location =
            Location::new(CAPTURED_FROM + index * 1000, self.coordinate(89), self.coordinate(179));
        location.accuracy = Some(rand::random_range(0.0..100.0));
        if index % 2 == 0 {
            location.altitude = Some(rand::random_range(-100.0..3000.0));
            location.bearing = Some(rand::random_range(0.0..360.0));
            location.speed = Some(rand::random_range(0.0..50.0));
            location.battery_level = Some(f64::from(rand::random_range(0..=100)));
            location.provider = Some("gps".to_owned());
            location.network_type = Some("wifi".to_owned());
        }
        location
    }

    /// Never with a last digit of 0, which would not be written back.
    fn coordinate(&self, degrees_max: i32) -> f64 {
        let degrees = rand::random_range(-degrees_max..=degrees_max);
        let last = rand::random_range(0..1000) * 10 + rand::random_range(1..10);
        format!("{degrees}.{}{last:04}", self.digits).parse().expect("these are the digits of a number")
    }

    /// The first line of a log that holds a planted value or one of `secrets`, as `FILE:LINE: what it is`.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn leak(&self, log: &Path, secrets: &[&str]) -> anyhow::Result<Option<String>> {
        let coordinate = format!(".{}", self.digits);
        let file = std::fs::File::open(log).with_context(|| format!("no log {}", log.display()))?;
        let mut line = Vec::new();
        let mut reader = BufReader::new(file);
        for number in 1.. {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let text = String::from_utf8_lossy(&line);
            let found = if text.contains(&coordinate) {
                "a coordinate"
            } else if text.contains(&self.mark) {
                "a key"
            } else if secrets.iter().any(|secret| text.contains(secret)) {
                "a secret"
            } else {
                continue;
            };
            return Ok(Some(format!("{}:{number}: {found} in {text}", log.display())));
        }
        Ok(None)
    }
}

impl Default for Planted {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_value_is_found_however_it_is_written() {
        let planted = Planted::new();
        let upload = planted.upload(1);
        let log = tempfile::NamedTempFile::new().unwrap();
        for (line, leaks) in [
            ("2026-11-24T05:52:53.968807Z INFO all is well".to_owned(), false),
            (format!("latitude is {:.12}", upload.locations[0].latitude), true),
            (serde_json::to_string(&upload).unwrap(), true),
            (format!("{upload:?}"), true),
            (format!("the key {:?}", planted.key()), true),
            ("with mp_abcdefgh_secret".to_owned(), true),
        ] {
            std::fs::write(log.path(), format!("first\n{line}\nlast\n")).unwrap();
            assert_eq!(planted.leak(log.path(), &["secret"]).unwrap().is_some(), leaks, "{line}");
        }
    }

    #[test]
    fn what_is_planted_survives_json_bit_for_bit() {
        let upload = Planted::new().upload(200);
        let text = serde_json::to_value(&upload).unwrap().to_string();
        for (read, location) in serde_json::from_str::<serde_json::Value>(&text).unwrap()["locations"]
            .as_array()
            .unwrap()
            .iter()
            .zip(&upload.locations)
        {
            assert_eq!(read["latitude"].as_f64().unwrap().to_bits(), location.latitude.to_bits());
            assert_eq!(read["longitude"].as_f64().unwrap().to_bits(), location.longitude.to_bits());
        }
    }
}
