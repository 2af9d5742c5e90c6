//! Numbers and times as apps write them.

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

const SECONDS: &[BorrowedFormatItem<'_>] =
    format_description!(version = 2, "[year]-[month]-[day]T[hour]:[minute]:[second]Z");
const MILLISECONDS: &[BorrowedFormatItem<'_>] =
    format_description!(version = 2, "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// The level of the phone's battery, percent: a GPX file knows none.
pub const BATTERY: u8 = 64;

/// Whole seconds since 1970 of milliseconds: what apps that count seconds leave of a time.
pub const fn seconds(timestamp: i64) -> i64 {
    timestamp.div_euclid(1000)
}

/// Date and time in UTC, to the second.
pub fn iso_seconds(timestamp: i64) -> String {
    iso(timestamp, SECONDS)
}

/// Date and time in UTC, to the millisecond.
pub fn iso_milliseconds(timestamp: i64) -> String {
    iso(timestamp, MILLISECONDS)
}

fn iso(timestamp: i64, format: &[BorrowedFormatItem<'_>]) -> String {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(timestamp) * 1_000_000);
    moment.ok().and_then(|moment| moment.format(format).ok()).unwrap_or_default()
}

/// A number as Java and Kotlin write it: always with a fraction, and with an exponent if it is small or large.
pub fn java(number: f64) -> String {
    let magnitude = number.abs();
    if number == 0.0 || (1e-3..1e7).contains(&magnitude) {
        return format!("{number:?}");
    }
    let text = format!("{number:E}");
    match text.split_once('E') {
        Some((digits, exponent)) if !digits.contains('.') => format!("{digits}.0E{exponent}"),
        _ => text,
    }
}

/// What a number of 32 bits makes of it, as Android keeps accuracies, speeds and bearings.
#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
pub fn narrowed(number: f64) -> f64 {
    f64::from(number as f32)
}

/// A number of 32 bits as Java writes it: with no more digits than tell it from its neighbours.
#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
pub fn java_narrow(number: f64) -> String {
    format!("{:?}", number as f32)
}

/// What is left of a number without its fraction.
#[expect(clippy::cast_possible_truncation, reason = "what does not fit becomes the nearest that does")]
pub const fn cut(number: f64) -> i64 {
    number as i64
}

/// The nearest whole number.
pub fn rounded(number: f64) -> i64 {
    cut(number.round())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_java_does() {
        for (number, text) in [
            (0.0, "0.0"),
            (48.208_174_3, "48.2081743"),
            (16.370_197_273_792_407, "16.370197273792407"),
            (-0.001, "-0.001"),
            (-1.5e-4, "-1.5E-4"),
            (1e-4, "1.0E-4"),
            (1e7, "1.0E7"),
            (171.0, "171.0"),
        ] {
            assert_eq!(java(number), text);
            assert_eq!(text.parse(), Ok(number));
        }
        assert_eq!(java(narrowed(4.288)), "4.288000106811523");
        assert_eq!(java_narrow(13.9), "13.9");
    }

    #[test]
    fn times_are_cut_to_what_is_written() {
        let timestamp = 1_773_480_413_579;
        assert_eq!(seconds(timestamp), 1_773_480_413);
        assert_eq!(iso_seconds(timestamp), "2026-03-14T09:26:53Z");
        assert_eq!(iso_milliseconds(timestamp), "2026-03-14T09:26:53.579Z");
        assert_eq!(iso_milliseconds(1_773_480_413_005), "2026-03-14T09:26:53.005Z");
    }

    #[test]
    fn whole_numbers_are_cut_or_rounded() {
        assert_eq!((cut(50.04), cut(-1.9), rounded(13.5), rounded(-0.5)), (50, -1, 14, -1));
    }
}
