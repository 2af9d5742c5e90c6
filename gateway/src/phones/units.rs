//! Numbers and times as apps write them.

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::parsing::Parsed;
use time::{PrimitiveDateTime, UtcOffset};

/// From 1970 to 2001, where Apple's clock begins, milliseconds.
pub const FROM_1970_TO_2001: i64 = 978_307_200_000;

/// From here on a number counts milliseconds: as seconds it would be the year 2286, and as milliseconds less is April 1970.
const MILLISECONDS_FROM: u64 = 10_000_000_000;

/// The longest number or time that is read, bytes. No app writes one that is longer, and what comes here may have been cut.
const READ_BYTES_MAX: usize = 256;

/// ISO 8601 as apps write it: `T` or a blank, seconds with or without a fraction, any offset with or without a colon, or none.
/// A `+` that was not encoded in a query has become a blank.
const DATE_TIME: &[BorrowedFormatItem<'_>] = format_description!(
    version = 2,
    "[year]-[month]-[day][first [T] [t] [ ]][hour]:[minute][optional [:[second][optional [.[subsecond]]]]]"
);

/// Metres per second, of kilometres per hour.
#[must_use]
pub fn of_kmh(speed: f64) -> f64 {
    speed / 3.6
}

/// Metres per second, of knots.
#[must_use]
pub fn of_knots(speed: f64) -> f64 {
    speed * 1852.0 / 3600.0
}

/// A finite number, in at most 256 bytes.
#[must_use]
pub fn number(text: &str) -> Option<f64> {
    if text.len() > READ_BYTES_MAX {
        return None;
    }
    text.trim_ascii().parse().ok().filter(|number: &f64| number.is_finite())
}

/// Milliseconds since 1970 of seconds or milliseconds since then, or of a date and time; a part of a millisecond is dropped.
/// In at most 256 bytes.
#[must_use]
pub fn time(text: &str) -> Option<i64> {
    if text.len() > READ_BYTES_MAX {
        return None;
    }
    let text = text.trim_ascii();
    if let Ok(whole) = text.parse::<i64>() {
        let milliseconds = whole.unsigned_abs() >= MILLISECONDS_FROM;
        return Some(if milliseconds { whole } else { whole * 1000 });
    }
    number(text).map_or_else(|| date_time(text), |number| Some(epoch(number)))
}

/// Of a number with a fraction. To whole microseconds first, since `1.579 * 1000.0` is less than 1579.
#[expect(clippy::cast_possible_truncation, reason = "what does not fit becomes the nearest that does")]
fn epoch(number: f64) -> i64 {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let milliseconds = number.abs() >= MILLISECONDS_FROM as f64;
    let micros = (if milliseconds { number * 1e3 } else { number * 1e6 }).round();
    (micros / 1e3).floor() as i64
}

/// Without an offset it is UTC.
fn date_time(text: &str) -> Option<i64> {
    let mut parsed = Parsed::new();
    let rest = parsed.parse_items(text.as_bytes(), DATE_TIME).ok()?;
    let local: PrimitiveDateTime = parsed.try_into().ok()?;
    let nanos = local.assume_offset(offset(rest)?).unix_timestamp_nanos();
    i64::try_from(nanos.div_euclid(1_000_000)).ok()
}

/// `Z`, `+02:00`, `-0700`, `+02`, or nothing; blanks may stand before it.
fn offset(text: &[u8]) -> Option<UtcOffset> {
    let behind = text.trim_ascii_start();
    // A blank right before digits was a `+`.
    let text = if behind.first().is_some_and(u8::is_ascii_digit) { text } else { behind };
    let digits = |text: &[u8]| -> Option<i8> { std::str::from_utf8(text).ok()?.parse().ok() };
    let two = |text: &[u8]| text.iter().all(u8::is_ascii_digit).then(|| digits(text)).flatten();
    let (sign, rest) = match text {
        [] | b"Z" | b"z" => return Some(UtcOffset::UTC),
        [b'+' | b' ', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match rest {
        [_, _] => (rest, &b"00"[..]),
        [_, _, b':', minutes @ ..] | [_, _, minutes @ ..] if minutes.len() == 2 => (&rest[..2], minutes),
        _ => return None,
    };
    UtcOffset::from_hms(sign * two(hours)?, sign * two(minutes)?, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_every_form_that_apps_write() {
        for (text, ms) in [
            ("1497349316", 1_497_349_316_000),
            ("1442068686579", 1_442_068_686_579),
            ("1483290001.250", 1_483_290_001_250),
            ("1773480413.579", 1_773_480_413_579),
            ("1750000000123.456789", 1_750_000_000_123),
            ("1750000000123.9", 1_750_000_000_123),
            (" 1 ", 1000),
            ("0", 0),
            ("-5", -5000),
            ("2015-10-01T08:00:00-0700", 1_443_711_600_000),
            ("2021-06-01T12:00:00Z", 1_622_548_800_000),
            ("2025-03-17T19:44:37.983722+01:00", 1_742_237_077_983),
            ("2026-03-14T10:27:53.000001+01:00", 1_773_480_473_000),
            ("2016-05-02T20:14:19.349 03:00", 1_462_209_259_349),
            ("2016-01-15 21:41:18.000", 1_452_894_078_000),
            ("2026-03-14 10:26:53 +0100", 1_773_480_413_000),
            ("2026-03-14 09:26:53.579  Z", 1_773_480_413_579),
            ("2026-03-14T09:26", 1_773_480_360_000),
            ("2026-03-14T09:26:53-02", 1_773_487_613_000),
            ("1969-12-31T23:59:59.9999Z", -1),
        ] {
            assert_eq!(time(text), Some(ms), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "x",
            "%TIMESTAM",
            "not-a-date",
            "NaN",
            "inf",
            "2016-03-05",
            "2016-13-05T00:00:00Z",
            "2016-02-30T00:00:00Z",
            "2016-03-05T25:00:00Z",
            "2016-03-05T00:00:00Zx",
            "2016-03-05T00:00:00+1",
            "2016-03-05T00:00:00 + 01",
            "2016-03-05T00:00:00+0x00",
            "2016-03-05T00:00:00+99:00",
            "2016-03-05T00:00:00+--00",
            "2016-03-05T00:00:00.Z",
            "99999-01-01T00:00:00Z",
        ] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn a_number_is_finite() {
        assert_eq!(number("-1.5E-4"), Some(-1.5e-4));
        assert_eq!(number("004.5"), Some(4.5));
        for text in ["", "abc", "NaN", "inf", "1e999", "48,2", "0x1", "1 2"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_too_long_for_a_number_or_a_time_is_none_whatever_its_beginning_says() {
        let zeros = "0".repeat(300);
        for text in
            [format!("1{zeros}e-300"), format!("48.2{zeros}"), format!("2026-03-14T09:26:53.{zeros}+05:00")]
        {
            assert_eq!((number(&text), time(&text)), (None, None), "{text}");
        }
    }
}
