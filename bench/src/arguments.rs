//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::scenario::SCENARIOS;
use crate::size::Size;

/// Measures Milepost against the limits of this machine and against the plain way to do the same.
#[derive(Debug, Parser)]
#[command(name = "milepost-bench", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// How much is measured.
    #[arg(long, value_enum, default_value_t = Size::Standard)]
    pub size: Size,

    /// Runs this scenario only; may be given again [1..=14].
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
    /// For scenarios 1, 2 and 6; nothing is written to the results.
    #[arg(long, value_name = "DIRECTORY")]
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
    /// Whether all is as the programs' defaults say.
    #[must_use]
    pub fn is_by_default(&self) -> bool {
        self.tried.is_empty() && self.partitions == PARTITIONS && self.before.is_none()
    }
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
        assert!(Arguments::try_parse_from(["milepost-bench", "--scenario", "15"]).is_err());
        let chosen = Arguments::parse_from(["milepost-bench", "--scenario=3", "--scenario=1"]);
        assert_eq!(chosen.scenarios, [3, 1]);
        assert!(chosen.is_by_default());
        let trying = Arguments::parse_from(["milepost-bench", "--try", "PUBLISH_LINGER=0ms"]);
        assert_eq!(trying.tried, [("PUBLISH_LINGER".to_owned(), "0ms".to_owned())]);
        assert!(!trying.is_by_default());
        assert!(!Arguments::parse_from(["milepost-bench", "--before=target"]).is_by_default());
    }
}
