//! The sentence RMC of NMEA 0183, which OpenGTS servers get: `$GPRMC,192429,A,5121.4796,N,00011.7146,W,0.0,0.0,050316,,*02`.

use super::units;

/// What it says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rmc {
    /// Degrees.
    pub latitude: f64,
    /// Degrees.
    pub longitude: f64,
    /// Metres per second.
    pub speed: Option<f64>,
    /// Degrees.
    pub bearing: Option<f64>,
    /// Milliseconds since 1970.
    pub time: Option<i64>,
}

/// Reads one; `None` without a fix. The sum at its end is not checked: apps get it wrong.
#[must_use]
pub fn read(sentence: &str) -> Option<Rmc> {
    let mut parts = sentence.split(',');
    let mut next = || parts.next();
    let (_, clock, status) = (next()?, next()?, next()?);
    let latitude = degrees(next()?, next()?, ["N", "S"])?;
    let longitude = degrees(next()?, next()?, ["E", "W"])?;
    let (knots, bearing, date) = (next()?, next()?, next()?);
    (status == "A").then(|| Rmc {
        latitude,
        longitude,
        speed: units::number(knots).map(units::of_knots),
        bearing: units::number(bearing),
        time: time(date, clock),
    })
}

/// Of degrees times a hundred, and minutes. As a number: GPSLogger leaves out zeros before it. Seven decimals are finer than
/// what is written.
fn degrees(text: &str, half: &str, [positive, negative]: [&str; 2]) -> Option<f64> {
    let number = units::number(text).filter(|number| *number >= 0.0)?;
    let degrees = (number / 100.0).floor();
    let value = degrees + (number - degrees * 100.0) / 60.0;
    let value = (value * 1e7).round() / 1e7;
    if half == positive { Some(value) } else { (half == negative).then_some(-value) }
}

/// Of `ddmmyy` and `hhmmss`, which may have a fraction.
fn time(date: &str, clock: &str) -> Option<i64> {
    if !(date.len() == 6 && date.is_ascii() && clock.len() >= 6 && clock.is_ascii()) {
        return None;
    }
    let (day, month, year) = (&date[..2], &date[2..4], &date[4..]);
    let (hour, minute, second) = (&clock[..2], &clock[2..4], &clock[4..]);
    units::time(&format!("20{year}-{month}-{day}T{hour}:{minute}:{second}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fix_is_read_as_a_number_of_degrees_and_minutes() {
        let rmc = read("$GPRMC,192429,A,5121.47965,N,011.71463,W,10.0,90.5,050316,,*02").unwrap();
        assert_eq!((rmc.latitude, rmc.longitude), (51.3579942, -0.1952438));
        assert!((rmc.speed.unwrap() - 5.144_444).abs() < 1e-5, "{rmc:?}");
        assert_eq!((rmc.bearing, rmc.time), (Some(90.5), Some(1_457_205_869_000)));
    }

    #[test]
    fn without_a_fix_there_is_nothing() {
        for sentence in [
            "",
            "$GPRMC",
            "$GPRMC,092653,V,,,,,,,140326,,*2D",
            "$GPRMC,092653,V,4812.49,N,01622.43,E,0.0,0.0,140326,,*2D",
            "$GPRMC,092653,A,4812.49,X,01622.43,E,0.0,0.0,140326,,*2D",
            "$GPRMC,092653,A,-12.49,N,01622.43,E,0.0,0.0,140326,,*2D",
        ] {
            assert_eq!(read(sentence), None, "{sentence}");
        }
        let odd = read("$GPRMC,x,A,4812.49,N,01622.43,E,,,\u{e9}\u{e9}\u{e9},,*2D").unwrap();
        assert_eq!((odd.speed, odd.bearing, odd.time), (None, None, None));
    }
}
