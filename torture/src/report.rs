//! The report of a run: a table for the terminal, and a page with a picture of its time line, to keep.

mod timeline;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::check::{self, Verdict};
use crate::evidence::Evidence;
use crate::fault::{Episode, Fault, NoBite};
use crate::history::{Attempt, History, Outcome};

/// Everything a report is made of.
#[derive(Debug)]
pub struct Report<'a> {
    /// The plan's name.
    pub plan: &'a str,
    /// The run's seed.
    pub seed: u64,
    /// The command that repeats the run.
    pub command: &'a str,
    /// What the clients saw.
    pub history: &'a History,
    /// What the system left behind.
    pub evidence: &'a Evidence,
    /// What it suffered.
    pub episodes: &'a [Episode],
    /// What the checkers found.
    pub verdicts: &'a [Verdict],
}

impl Report<'_> {
    /// For the terminal: a line for each checker, the first violations, and the verdict.
    #[must_use]
    pub fn terminal(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY).set_header(["checker", "", "examined", "violations"]);
        for verdict in self.verdicts {
            let number = |number: u64| Cell::new(number).set_alignment(CellAlignment::Right);
            let (name, judgement) = (verdict.checker.to_string(), verdict.judgement().to_string());
            table.add_row([name.into(), judgement.into(), number(verdict.examined), number(verdict.total)]);
        }
        let mut text = format!("{table}\n");
        for verdict in self.verdicts.iter().filter(|verdict| verdict.total > 0) {
            for violation in verdict.violations.iter().take(3) {
                text += &format!("{}: {violation}\n", verdict.checker);
            }
        }
        text + &format!("{}\nverdict: {}\nagain: {}\n", self.figures(), self.judgement(), self.command)
    }

    fn judgement(&self) -> String {
        check::judgement(self.verdicts).to_string()
    }

    fn figures(&self) -> String {
        let history = self.history;
        let locations = self.evidence.stored.len();
        let bit = self.episodes.iter().filter(|episode| episode.bite.is_ok()).count();
        let stall = match longest_stall(history) {
            Some((from, stall)) => format!("{stall:.1?} from {:.0} s", from.as_secs_f64()),
            None => "all of it".to_owned(),
        };
        format!(
            "{} operations, {} attempts, {} journal records, {locations} uploads stored, {} faults of which {bit} were seen to \
             bite; the longest time without a 200 was {stall}",
            history.operations,
            history.attempts.len(),
            self.evidence.journal.len(),
            self.episodes.len(),
        )
    }

    /// Writes `report.md` and `timeline.svg` into a directory of the run's own below `reports`. Returns the page's path.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write(&self, reports: &Path) -> anyhow::Result<PathBuf> {
        let directory = reports.join(format!("{}-{}", self.plan, self.seed));
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        std::fs::write(directory.join("timeline.svg"), timeline::draw(self)?)?;
        let page = directory.join("report.md");
        std::fs::write(&page, self.page()?)?;
        Ok(page)
    }

    fn page(&self) -> anyhow::Result<String> {
        let mut page = format!("# Torture: plan {}, seed {}\n\n", self.plan, self.seed);
        writeln!(page, "**Verdict: {}.** {}.\n", self.judgement(), self.figures())?;
        writeln!(page, "Again: `{}`\n\n![Faults, answers and lag](timeline.svg)\n", self.command)?;
        self.write_checkers(&mut page)?;
        self.write_answers(&mut page)?;
        self.write_faults(&mut page)?;
        for verdict in self.verdicts.iter().filter(|verdict| !verdict.notes.is_empty()) {
            writeln!(page, "## Figures: {}\n", verdict.checker)?;
            verdict.notes.iter().try_for_each(|note| writeln!(page, "- {note}"))?;
            page.push('\n');
        }
        Ok(page)
    }

    fn write_checkers(&self, page: &mut String) -> anyhow::Result<()> {
        writeln!(page, "## Checkers\n\n| checker | | examined | violations |\n|---|---|--:|--:|")?;
        for verdict in self.verdicts {
            let Verdict { checker, examined, total, .. } = verdict;
            writeln!(page, "| {checker} | {} | {examined} | {total} |", verdict.judgement())?;
        }
        page.push('\n');
        for verdict in self.verdicts.iter().filter(|verdict| verdict.total > 0) {
            let Verdict { checker, violations, total, .. } = verdict;
            writeln!(page, "### {checker}: {total}, the first {}\n", violations.len())?;
            violations.iter().try_for_each(|violation| writeln!(page, "- {violation}"))?;
            page.push('\n');
        }
        Ok(())
    }

    fn write_answers(&self, page: &mut String) -> anyhow::Result<()> {
        let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
        for attempt in &self.history.attempts {
            *counts.entry((format!("{:?}", attempt.ask), outcome(attempt))).or_default() += 1;
        }
        writeln!(page, "## Answers\n\n| asked for | answer | count |\n|---|---|--:|")?;
        for ((ask, outcome), count) in counts {
            writeln!(page, "| {ask} | {outcome} | {count} |")?;
        }
        page.push('\n');
        Ok(())
    }

    fn write_faults(&self, page: &mut String) -> anyhow::Result<()> {
        let mut faults: BTreeMap<Fault, Vec<&Episode>> = BTreeMap::new();
        for episode in self.episodes {
            faults.entry(episode.fault).or_default().push(episode);
        }
        writeln!(page, "## Faults\n\n| fault | times | seen to bite | for instance |\n|---|--:|--:|---|")?;
        for (fault, episodes) in faults {
            let bites: Vec<&String> =
                episodes.iter().filter_map(|episode| episode.bite.as_ref().ok()).collect();
            let instance = match (bites.first(), &episodes[0].bite) {
                (Some(bite), _) => (*bite).clone(),
                (None, Err(NoBite::Skipped(reason))) => format!("skipped: {reason}"),
                (None, Err(NoBite::Unseen(reason))) => format!("not seen: {reason}"),
                (None, Ok(_)) => String::new(),
            };
            let instance = instance.replace('|', "/").replace('\n', " ");
            writeln!(page, "| {fault} | {} | {} | {instance} |", episodes.len(), bites.len())?;
        }
        page.push('\n');
        Ok(())
    }
}

fn outcome(attempt: &Attempt) -> String {
    match &attempt.outcome {
        Outcome::Answer { status, replayed: true, .. } => format!("{status}, replayed"),
        Outcome::Answer { status, .. } => status.to_string(),
        Outcome::HungUp { .. } => "hung up".to_owned(),
        Outcome::Unknown => "none".to_owned(),
    }
}

/// The longest time in which no 200 came, since when and how long; `None` if none ever came.
fn longest_stall(history: &History) -> Option<(Duration, Duration)> {
    let answered = history.attempts.iter().filter(|attempt| attempt.status() == Some(200));
    let mut moments: Vec<Duration> = answered.map(|attempt| attempt.ended).collect();
    moments.sort_unstable();
    let first = moments.first().copied()?;
    let pairs = moments.windows(2).map(|pair| (pair[0], pair[1] - pair[0]));
    Some(pairs.max_by_key(|(_, stall)| *stall).unwrap_or((first, Duration::ZERO)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Checker;
    use crate::check::testing::Run;

    #[test]
    fn a_report_has_the_verdict_what_was_found_and_how_to_run_it_again() {
        let mut run = Run::innocent();
        run.evidence.stored.remove(3);
        let verdicts = check::all(&run.history, &run.evidence, &run.episodes, &run.demands);
        let report = Report {
            plan: "smoke",
            seed: 19,
            command: "make torture PLAN=smoke SEED=19",
            history: &run.history,
            evidence: &run.evidence,
            episodes: &run.episodes,
            verdicts: &verdicts,
        };
        let directory = tempfile::tempdir().unwrap();
        let path = report.write(directory.path()).unwrap();
        assert_eq!(path, directory.path().join("smoke-19/report.md"));
        let page = std::fs::read_to_string(&path).unwrap();
        for text in [&page, &report.terminal()] {
            for checker in Checker::ALL {
                assert!(text.contains(&checker.to_string()), "{checker}");
            }
            assert!(text.contains("BROKEN") && text.contains(report.command), "{text}");
            assert!(
                verdicts.iter().flat_map(|verdict| verdict.violations.first()).all(|one| text.contains(one))
            );
        }
        assert!(page.contains("| kill consumer | 1 | 1 | it was gone |"), "{page}");
        let picture = std::fs::read_to_string(path.with_file_name("timeline.svg")).unwrap();
        for text in ["kill consumer", "poison records", "answers per second", "journal records not persisted"]
        {
            assert!(picture.contains(text), "{text}");
        }
    }

    #[test]
    fn the_longest_stall_is_between_two_answers() {
        let run = Run::innocent();
        let mut history = run.history;
        assert!(longest_stall(&history).unwrap().1 < Duration::from_secs(8));
        let (from, to) = (Duration::from_secs(20), Duration::from_secs(30));
        history.attempts.retain(|attempt| attempt.ended < from || attempt.ended > to);
        let (since, stall) = longest_stall(&history).unwrap();
        assert!(since < from && stall > to - from);
        history.attempts.clear();
        assert_eq!(longest_stall(&history), None);
    }
}
