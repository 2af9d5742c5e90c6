//! The results of a size, kept in the repository, so that the next run can say what has moved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::scenario::Report;
use crate::size::Size;

/// From so many rounds on their spread counts, and how far a figure of fewer has to move: two quick runs of one build
/// differed by up to a third in most figures.
const SPREAD_ROUNDS_MIN: usize = 3;
const FAR: f64 = 1.5;
/// Digits that are kept of a number.
const DIGITS: i32 = 4;

/// The results of a run, or of several in part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// What the last run was on.
    pub machine: Option<Machine>,
    /// By the scenario's number.
    pub scenarios: BTreeMap<u8, Report>,
}

impl Results {
    /// Those in the repository; none if nothing was measured yet.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(size: Size) -> anyhow::Result<Self> {
        let path = path(size, "json");
        if !path.exists() {
            return Ok(Self::default());
        }
        serde_json::from_slice(&std::fs::read(&path)?)
            .with_context(|| format!("cannot read {}", path.display()))
    }

    /// Puts them into the repository.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, size: Size) -> anyhow::Result<()> {
        let mut json = serde_json::to_vec_pretty(&self.rounded())?;
        json.push(b'\n');
        write(&path(size, "json"), &json)
    }

    fn rounded(&self) -> Self {
        let mut results = self.clone();
        for report in results.scenarios.values_mut() {
            report.figures.iter_mut().flat_map(|figure| &mut figure.rounds).for_each(round);
            for (x, y) in report.curves.iter_mut().flat_map(|curve| &mut curve.points) {
                round(x);
                round(y);
            }
        }
        results
    }

    /// The figures that have moved since by more than both rounds differ among themselves, a sentence each. Two rounds say
    /// little about how rounds differ: then by half as well.
    #[must_use]
    pub fn moved(&self, since: &Self) -> Vec<String> {
        let mut moved = Vec::new();
        for (number, report) in &self.scenarios {
            let earlier = since.scenarios.get(number).map_or(&[][..], |report| &report.figures);
            for figure in &report.figures {
                let Some(before) = earlier.iter().find(|before| before.name == figure.name) else { continue };
                let (was, is) = (before.spread(), figure.spread());
                let few = figure.rounds.len().min(before.rounds.len()) < SPREAD_ROUNDS_MIN;
                let times = (is.median / was.median).max(was.median / is.median);
                if is.has_moved(&was) && (!few || times >= FAR) {
                    moved.push(format!(
                        "scenario {number}, {}: {:.2} {} instead of {:.2}",
                        figure.name, is.median, figure.of, was.median
                    ));
                }
            }
        }
        moved
    }
}

fn round(number: &mut f64) {
    if number.is_normal() {
        #[expect(clippy::cast_possible_truncation, reason = "a logarithm is small")]
        let magnitude = number.abs().log10().floor() as i32;
        let factor = 10_f64.powi(DIGITS - 1 - magnitude);
        *number = (*number * factor).round() / factor;
    }
}

/// A file of a size's results.
#[must_use]
pub fn path(size: Size, extension: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results").join(size.name()).with_extension(extension)
}

/// Writes a file of results.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Figure;

    fn results(rounds: &[f64]) -> Results {
        let figure = Figure::new("uploads", "of plain", rounds.to_vec());
        Results { scenarios: BTreeMap::from([(1, Report::of(vec![figure]))]), ..Results::default() }
    }

    #[test]
    fn only_what_moved_by_more_than_its_rounds_is_reported() {
        let before = results(&[2.0, 2.1, 2.2]);
        assert_eq!(results(&[2.1, 2.15, 2.3]).moved(&before), Vec::<String>::new());
        let moved = results(&[1.0, 1.1, 1.2]).moved(&before);
        assert_eq!(moved, ["scenario 1, uploads: 1.10 of plain instead of 2.10"]);
        assert!(results(&[1.0]).moved(&Results::default()).is_empty(), "nothing to compare with");
    }

    #[test]
    fn a_figure_of_few_rounds_moves_only_by_half() {
        let before = results(&[2.0, 2.1]);
        for (rounds, moved) in [([2.9, 3.0], 0), ([3.1, 3.2], 1), ([1.5, 1.6], 0), ([1.2, 1.3], 1)] {
            assert_eq!(results(&rounds).moved(&before).len(), moved, "{rounds:?}");
        }
    }

    #[test]
    fn numbers_keep_four_digits_in_the_file() {
        for (number, kept) in [(1234.56, 1235.0), (0.001_234_56, 0.001_235), (9.999_96, 10.0), (0.0, 0.0)] {
            let results = results(&[number]).rounded();
            assert!((results.scenarios[&1].figures[0].rounds[0] - kept).abs() < 1e-9);
        }
    }

    #[test]
    fn results_survive_their_file() {
        let results = results(&[1.25]);
        let json = serde_json::to_string(&results).unwrap();
        assert_eq!(serde_json::from_str::<Results>(&json).unwrap(), results);
    }
}
