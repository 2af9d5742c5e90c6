//! The time line as a picture: a bar for each fault, answers per second, and the lag, over the same seconds.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::Report;
use crate::fault::Fault;
use crate::history::Attempt;

const WIDTH: u32 = 1200;
/// Height of a fault's row, and of the two charts below them, pixels.
const ROW: u32 = 15;
const CHART: u32 = 240;
/// Where the charts begin, right of the names, pixels.
const LEFT: u32 = 210;
/// Above and below a chart, pixels.
const MARGIN: u32 = 30;

/// What the second chart counts, with its colours.
const ANSWERS: [(&str, RGBColor); 5] = [
    ("200", RGBColor(34, 139, 84)),
    ("202", RGBColor(40, 110, 200)),
    ("4xx", RGBColor(150, 90, 180)),
    ("5xx", RGBColor(220, 120, 20)),
    ("no answer", RGBColor(200, 40, 40)),
];
const LAG: RGBColor = RGBColor(90, 90, 90);
const TEXT: (&str, u32) = ("sans-serif", 12);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws it; the text is SVG.
pub(super) fn draw(report: &Report<'_>) -> anyhow::Result<String> {
    let faults = faults(report);
    let rows = u32::try_from(faults.len())? * ROW + 2 * MARGIN;
    let seconds = seconds(report);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, rows + 2 * CHART)).into_drawing_area();
        root.fill(&WHITE)?;
        let (above, below) = root.split_vertically(rows);
        let (answers, lag) = below.split_vertically(CHART);
        draw_faults(report, &faults, seconds, &above)?;
        draw_answers(report, seconds, &answers)?;
        draw_lag(report, seconds, &lag)?;
        root.present()?;
    }
    Ok(svg)
}

/// In the order in which they first came.
fn faults(report: &Report<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for episode in report.episodes {
        if !faults.contains(&episode.fault) {
            faults.push(episode.fault);
        }
    }
    faults
}

/// The length of the run.
fn seconds(report: &Report<'_>) -> f64 {
    let attempts = report.history.attempts.iter().map(|attempt| attempt.ended.as_secs_f64());
    let episodes = report.episodes.iter().map(|episode| episode.healed);
    attempts.chain(episodes).fold(1.0, f64::max)
}

fn draw_faults(report: &Report<'_>, faults: &[Fault], seconds: f64, area: &Area<'_>) -> anyhow::Result<()> {
    let rows = u32::try_from(faults.len())?;
    let mut chart = ChartBuilder::on(area)
        .caption("faults", TEXT)
        .margin_bottom(MARGIN / 3)
        .margin_right(8)
        .set_label_area_size(LabelAreaPosition::Left, LEFT)
        .build_cartesian_2d(0.0..seconds, f64::from(rows.max(1))..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&whole)
        .draw()?;
    for (row, fault) in (0_u32..).zip(faults) {
        let (top, bottom) = (f64::from(row) + 0.15, f64::from(row) + 0.85);
        let bars = report.episodes.iter().filter(|episode| episode.fault == *fault).map(|episode| {
            let colour = if episode.bite.is_ok() { RED.mix(0.7) } else { BLACK.mix(0.3) };
            // Never so short that it is not seen.
            let end = episode.healed.max(episode.began + seconds / 400.0);
            Rectangle::new([(episode.began, top), (end, bottom)], colour.filled())
        });
        chart.draw_series(bars)?;
        let (_, middle) = chart.backend_coord(&(0.0, f64::from(row) + 0.2));
        area.draw(&Text::new(fault.to_string(), (8, middle), TEXT))?;
    }
    Ok(())
}

fn draw_answers(report: &Report<'_>, seconds: f64, area: &Area<'_>) -> anyhow::Result<()> {
    let mut counts: [Vec<(f64, f64)>; ANSWERS.len()] = std::array::from_fn(|_| {
        (0..).map(f64::from).take_while(|second| *second <= seconds).map(|second| (second, 0.0)).collect()
    });
    for attempt in &report.history.attempts {
        let Some(line) = line_of(attempt) else { continue };
        let second = usize::try_from(attempt.ended.as_secs())?;
        if let Some((_, count)) = counts[line].get_mut(second) {
            *count += 1.0;
        }
    }
    let most = counts.iter().flatten().map(|(_, count)| *count).fold(10.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("answers per second", TEXT)
        .margin_right(8)
        .set_label_area_size(LabelAreaPosition::Left, LEFT)
        .set_label_area_size(LabelAreaPosition::Bottom, MARGIN)
        .build_cartesian_2d(0.0..seconds, 0.0..most)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&whole)
        .y_label_formatter(&whole)
        .draw()?;
    for ((name, colour), points) in ANSWERS.into_iter().zip(counts) {
        let series = chart.draw_series(LineSeries::new(points, &colour))?;
        series.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}

fn whole(number: &f64) -> String {
    format!("{number:.0}")
}

/// `None` for a client that hung up on purpose.
fn line_of(attempt: &Attempt) -> Option<usize> {
    match attempt.status() {
        Some(200) => Some(0),
        Some(202) => Some(1),
        Some(400..500) => Some(2),
        Some(_) => Some(3),
        None if attempt.outcome == crate::history::Outcome::Unknown => Some(4),
        None => None,
    }
}

fn draw_lag(report: &Report<'_>, seconds: f64, area: &Area<'_>) -> anyhow::Result<()> {
    let samples = report.evidence.observed.samples.iter();
    let lag = samples.filter_map(|sample| Some((sample.at.as_secs_f64(), i32::try_from(sample.lag?).ok()?)));
    let lag: Vec<(f64, f64)> = lag.map(|(at, lag)| (at, f64::from(lag))).collect();
    let most = lag.iter().map(|(_, lag)| *lag).fold(10.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("journal records not persisted", TEXT)
        .margin_right(8)
        .set_label_area_size(LabelAreaPosition::Left, LEFT)
        .set_label_area_size(LabelAreaPosition::Bottom, MARGIN)
        .build_cartesian_2d(0.0..seconds, 0.0..most)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&whole)
        .y_label_formatter(&whole)
        .x_desc("seconds")
        .draw()?;
    chart.draw_series(LineSeries::new(lag, &LAG))?;
    Ok(())
}
