//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::change::COMPARED;
use crate::scenario::SCENARIOS;
use crate::size::Size;

/// Measures Milepost against the limits of this machine and against the plain way to do the same.
#[derive(Debug, Parser)]
#[command(name = "milepost-bench", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// How much is measured.
    #[arg(long, value_enum, default_value_t = Size::Standard)]
    pub size: Size,

    /// Runs this scenario only; may be given again [1..=17].
    #[arg(long = "scenario", value_parser = clap::value_parser!(u8).range(1..=SCENARIOS.len() as i64))]
    pub scenarios: Vec<u8>,

    /// Database connections of plain [1..=100].
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub plain_connections: u32,

    /// Tries a setting of the gateways and consumers, as NAME=VALUE in their environment; may be given again. Nothing is
    /// written to the results then.
    #[arg(long = "try", value_name = "NAME=VALUE", value_parser = setting)]
    pub tried: Vec<(String, String)>,

    /// Partitions of each topic [1..=100]. Nothing is written to the results with another number than the default.
    #[arg(long, default_value_t = PARTITIONS, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub partitions: u16,

    /// Compares with an earlier build instead, whose programs are in this directory: `--try` counts for this build alone.
    /// For scenarios 1, 2, 3 and 6; nothing is written to the results. From `bench/run` a relative path is one of the repository.
    #[arg(long, value_name = "DIRECTORY", value_parser = directory)]
    pub before: Option<PathBuf>,

    /// Runs an opponent instead, until it is killed.
    #[command(subcommand)]
    pub opponent: Option<OpponentArguments>,
}

/// What Milepost is compared with over HTTP. It prints where it listens.
#[derive(Debug, Subcommand)]
pub enum OpponentArguments {
    /// Reads the body and answers a constant.
    Noop,
    /// One transaction for each request, and no Kafka.
    Plain {
        /// Database with Milepost's tables, as their owner.
        #[arg(long)]
        database_url: String,
        /// Database connections.
        #[arg(long)]
        connections: u32,
    },
}

/// As the programs' defaults have it.
const PARTITIONS: u16 = 6;

impl Arguments {
    /// Whether a scenario is run: all that can be, if none is named.
    #[must_use]
    pub fn chooses(&self, scenario: u8) -> bool {
        if self.scenarios.is_empty() {
            self.before.is_none() || COMPARED.contains(&scenario)
        } else {
            self.scenarios.contains(&scenario)
        }
    }

    /// Whether all is as the programs' defaults say.
    #[must_use]
    pub fn is_by_default(&self) -> bool {
        self.tried.is_empty() && self.partitions == PARTITIONS && self.before.is_none()
    }
}

/// Absolute: programs are started in directories of their own.
fn directory(text: &str) -> Result<PathBuf, String> {
    PathBuf::from(text).canonicalize().map_err(|error| error.to_string())
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
        assert!(Arguments::try_parse_from(["milepost-bench", "--scenario", "18"]).is_err());
        let chosen = Arguments::parse_from(["milepost-bench", "--scenario=3", "--scenario=1"]);
        assert_eq!(chosen.scenarios, [3, 1]);
        assert!(chosen.is_by_default());
        let trying = Arguments::parse_from(["milepost-bench", "--try", "PUBLISH_LINGER=0ms"]);
        assert_eq!(trying.tried, [("PUBLISH_LINGER".to_owned(), "0ms".to_owned())]);
        assert!(!trying.is_by_default());
    }

    #[test]
    fn what_can_be_compared_with_another_build_is_compared_with_it() {
        assert!(Arguments::try_parse_from(["milepost-bench", "--before=nowhere"]).is_err());
        let comparing = Arguments::parse_from(["milepost-bench", "--before=."]);
        assert!(!comparing.is_by_default());
        let chosen: Vec<u8> =
            SCENARIOS.map(|(number, _)| number).into_iter().filter(|n| comparing.chooses(*n)).collect();
        assert_eq!(chosen, COMPARED);
    }
}
