//! The command line.

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
    }
}
