//! The table of ratios: for the terminal, and as Markdown for the documents.

use std::fmt::Write as _;

use comfy_table::{ContentArrangement, Table, presets};

use crate::figure::Figure;
use crate::results::Results;
use crate::scenario::SCENARIOS;

/// All figures in a table, then the notes and the machine.
#[must_use]
pub fn render(results: &Results) -> String {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["", "scenario", "figure", "median", "spread", "must", "reached", "absolute"]);
    let mut notes = String::new();
    for (number, name) in SCENARIOS {
        let Some(report) = results.scenarios.get(&number) else { continue };
        for (index, figure) in report.figures.iter().enumerate() {
            let (number, name) = if index == 0 { (number.to_string(), name) } else { (String::new(), "") };
            table.add_row([vec![number, name.to_owned()], cells(figure)].concat());
        }
        for note in &report.notes {
            let _ = writeln!(notes, "- Scenario {number}: {note}");
        }
    }
    let machine = results.machine.as_ref().map(|machine| format!("\nMachine: {machine}.\n"));
    format!("{table}\n\n{notes}{}", machine.unwrap_or_default())
}

fn cells(figure: &Figure) -> Vec<String> {
    let spread = figure.spread();
    let reached = figure.reached().map_or("", |reached| if reached { "yes" } else { "no" });
    vec![
        figure.name.clone(),
        format!("{} {}", short(spread.median), figure.of),
        format!("{} to {}", short(spread.low), short(spread.high)),
        figure.must.map(|bound| bound.to_string()).unwrap_or_default(),
        reached.to_owned(),
        figure.beside.clone(),
    ]
}

/// Three digits, or all before the point.
fn short(number: f64) -> String {
    let decimals = if number.abs() >= 100.0 {
        0
    } else if number.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{number:.decimals$}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::figure::Bound;
    use crate::scenario::Report;

    #[test]
    fn the_table_shows_what_was_reached() {
        let rounds = vec![1.5, 2.5, 123.4];
        let figures = vec![
            Figure::new("uploads", "of plain", rounds.clone())
                .must(Bound::AtLeast(2.0))
                .beside("5/s against 2/s"),
            Figure::new("p99", "of plain", rounds).must(Bound::AtMost(1.0)),
        ];
        let report = Report { notes: vec!["It rained.".to_owned()], ..Report::of(figures) };
        let results = Results { scenarios: BTreeMap::from([(1, report)]), machine: None };
        let table = render(&results);
        for part in [
            "| 2.50 of plain |",
            "| 1.50 to 123 |",
            "| ≥ 2 ",
            "| yes ",
            "| no ",
            "5/s against 2/s",
            "1: It rained.",
        ] {
            assert!(table.contains(part), "{part} is not in {table}");
        }
    }
}
