//! QR codes for a terminal: two modules a character.

use anyhow::Context as _;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// Black on white, and then the terminal's own colours again.
const COLOURS: (&str, &str) = ("\x1b[30;107m", "\x1b[0m");

/// The lines of a code. Without colours it can be scanned where text is dark on light.
///
/// # Errors
/// The text is too long for a code.
pub fn lines(text: &str, coloured: bool) -> anyhow::Result<Vec<String>> {
    let code =
        QrCode::with_error_correction_level(text, EcLevel::L).context("it does not fit in a QR code")?;
    let rendered = code.render::<Dense1x2>().quiet_zone(true).build();
    let (before, after) = if coloured { COLOURS } else { ("", "") };
    Ok(rendered.lines().map(|line| format!("{before}{line}{after}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a camera reads off those lines.
    fn read(lines: &[String]) -> String {
        const SCALE: usize = 4;
        let rows: Vec<Vec<char>> = lines.iter().map(|line| line.chars().collect()).collect();
        let dark = |x: usize, y: usize| match rows[y / 2][x] {
            '█' => true,
            '▀' => y.is_multiple_of(2),
            '▄' => !y.is_multiple_of(2),
            _ => false,
        };
        let (width, height) = (rows[0].len() * SCALE, rows.len() * 2 * SCALE);
        let pixel = |x: usize, y: usize| if dark(x / SCALE, y / SCALE) { 0 } else { 255 };
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, pixel);
        let grids = image.detect_grids();
        grids[0].decode().expect("it can be read").1
    }

    #[test]
    fn a_code_is_read_as_its_text_and_fits_a_terminal() {
        let link = format!("owntracks:///config?inline={}", "eyJfdHlwZSI6".repeat(22));
        for text in ["https://h.example/traccar/mp_x?id=Zo%C3%AB", &link] {
            let lines = lines(text, false).unwrap();
            assert_eq!(read(&lines), text);
            assert!(lines.iter().all(|line| line.chars().count() <= 80));
        }
    }

    #[test]
    fn colours_are_around_each_line_and_what_is_too_long_is_refused() {
        let (plain, coloured) = (lines("x", false).unwrap(), lines("x", true).unwrap());
        let wanted: Vec<String> = plain.iter().map(|line| format!("\x1b[30;107m{line}\x1b[0m")).collect();
        assert_eq!(coloured, wanted);
        assert!(lines(&"x".repeat(3000), false).is_err());
    }
}
