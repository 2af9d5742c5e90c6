//! Pictures of curves, as SVG.

use anyhow::anyhow;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::results::{self, path};
use crate::scenario::{Curve, KEYS_HELD, LATENCY, Report};
use crate::size::Size;

const PIXELS: (u32, u32) = (860, 480);
const FONT: (&str, u32) = ("sans-serif", 15);
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 90, 180), RGBColor(0, 160, 220), RGBColor(200, 80, 0), RGBColor(240, 160, 60)];

/// Draws what a scenario's curves show, if it has any, beside its results.
///
/// # Errors
/// The file cannot be written.
pub fn draw(size: Size, number: u8, report: &Report) -> anyhow::Result<()> {
    let svg = match number {
        _ if report.curves.is_empty() => return Ok(()),
        LATENCY => latency(&report.curves)?,
        KEYS_HELD => throughput(&report.curves)?,
        _ => return Ok(()),
    };
    let name = if number == LATENCY { "latency.svg" } else { "keys.svg" };
    results::write(&path(size, name), svg.as_bytes())
}

fn latency(curves: &[Curve]) -> anyhow::Result<String> {
    let y = (bottom(curves) * 0.8..top(curves) * 1.25).log_scale();
    chart(curves, y, "uploads a second", "latency from when it was due, ms")
}

fn throughput(curves: &[Curve]) -> anyhow::Result<String> {
    chart(curves, 0.0..top(curves) * 1.1, "million live keys in the table", "uploads a second")
}

fn points(curves: &[Curve]) -> impl Iterator<Item = (f64, f64)> + '_ {
    curves.iter().flat_map(|curve| curve.points.iter().copied())
}

fn top(curves: &[Curve]) -> f64 {
    points(curves).map(|(_, y)| y).fold(f64::MIN_POSITIVE, f64::max)
}

fn bottom(curves: &[Curve]) -> f64 {
    points(curves).map(|(_, y)| y).fold(f64::INFINITY, f64::min).max(0.001)
}

fn chart<Y>(
    curves: &[Curve],
    y: impl AsRangedCoord<CoordDescType = Y, Value = f64>,
    x_name: &str,
    y_name: &str,
) -> anyhow::Result<String>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let right = points(curves).map(|(x, _)| x).fold(0.0, f64::max) * 1.05;
    let mut svg = String::new();
    let failed = |error: DrawingAreaErrorKind<std::io::Error>| anyhow!("cannot draw: {error}");
    {
        let area = SVGBackend::with_string(&mut svg, PIXELS).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(15)
            .x_label_area_size(45)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..right, y)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc(x_name)
            .y_desc(y_name)
            .label_style(FONT)
            .draw()
            .map_err(failed)?;
        for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
            let line = LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2)).point_size(3);
            let legend = move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2));
            chart.draw_series(line).map_err(failed)?.label(&curve.name).legend(legend);
        }
        let labels = SeriesLabelPosition::UpperLeft;
        chart.configure_series_labels().position(labels).label_font(FONT).draw().map_err(failed)?;
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_names_its_curves_and_axes() {
        let curve = |name: &str, y: f64| Curve {
            name: name.to_owned(),
            points: vec![(1000.0, y), (2000.0, y * 9.0)],
        };
        let curves = [curve("Milepost, p99", 5.0), curve("plain, p99", 80.0)];
        for svg in [latency(&curves).unwrap(), throughput(&curves).unwrap()] {
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{svg}");
            for name in ["Milepost, p99", "plain, p99", "uploads a second"] {
                assert!(svg.contains(name), "{name} is not in {svg}");
            }
        }
    }
}
