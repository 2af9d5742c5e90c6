//! The one way to read settings: arguments, then environment, then defaults, with every fault reported at once. A secret may also
//! come from a file.

mod secret;

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Parser};

pub use secret::Secrets;

/// Exit status for a bad configuration (`EX_CONFIG` of sysexits.h).
pub const EXIT_CONFIG: i32 = 78;

/// A program's settings: parsed field by field, then checked against each other.
pub trait Settings: Parser {
    /// Faults that no single field shows, one sentence each.
    fn faults(&self) -> Vec<String>;
}

/// Reads the settings of this process, or prints every fault and exits with 78 (0 after `--help` or `--version`).
#[must_use]
pub fn read<S: Settings>() -> S {
    parse(&std::env::args_os().collect::<Vec<_>>()).unwrap_or_else(|refused| match refused {
        Refused::Help(error) => error.exit(),
        Refused::Faults(faults) => {
            faults.iter().for_each(|fault| eprintln!("error: {fault}"));
            eprintln!("\nFor the bounds of each setting, try '--help'.");
            std::process::exit(EXIT_CONFIG)
        }
    })
}

/// Why there are no settings.
#[derive(Debug)]
pub enum Refused {
    /// `--help` or `--version` was asked for.
    Help(clap::Error),
    /// Everything that is wrong, one sentence each.
    Faults(Vec<String>),
}

/// As [`read`], from the arguments given (the first is the program's name).
///
/// # Errors
/// [`Refused`]. clap stops at the first fault, so what is at fault is taken out, and parsing is tried again.
pub fn parse<S: Settings>(arguments: &[OsString]) -> Result<S, Refused> {
    let (mut bad, mut strays) = (Vec::<String>::new(), Vec::<String>::new());
    let Secrets { mut command, mut faults } =
        Secrets::from_files(S::command(), arguments, |name| std::env::var_os(name));
    let mut arguments = arguments.to_vec();
    loop {
        let matches = command.clone().try_get_matches_from(&arguments);
        let error = match matches.and_then(|matches| S::from_arg_matches(&matches)) {
            Ok(settings) => {
                // The default of what was taken out contradicts nothing that was asked for.
                let of_bad = |fault: &String| bad.iter().any(|flag| names(fault, flag));
                faults.extend(settings.faults().into_iter().filter(|fault| !of_bad(fault)));
                return if faults.is_empty() { Ok(settings) } else { Err(Refused::Faults(faults)) };
            }
            Err(error) => error,
        };
        // The value of a mistyped flag may look like a command.
        let stray =
            |name: &&ContextValue| matches!(name, ContextValue::String(name) if strays.contains(name));
        let named = error.get(ContextKind::InvalidArg);
        let named = named.or_else(|| error.get(ContextKind::InvalidSubcommand).filter(stray));
        let Some(ContextValue::String(named)) = named else {
            return Err(match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Refused::Help(error),
                // What is missing may be what was taken out.
                ErrorKind::MissingRequiredArgument if !faults.is_empty() => Refused::Faults(faults),
                _ => Refused::Faults([faults, vec![sentence(&command, &error)]].concat()),
            });
        };
        if !strays.contains(named) {
            faults.push(sentence(&command, &error));
        }
        let flag = named.split(' ').next().unwrap_or_default().to_owned();
        match error.kind() {
            ErrorKind::ValueValidation | ErrorKind::InvalidValue if !bad.contains(&flag) => {
                take_out(&mut arguments, &flag, true);
                command = without_environment(command, &flag);
                bad.push(flag);
            }
            ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand
                if let Some(at) = take_out(&mut arguments, named, false) =>
            {
                // What follows a mistyped flag is likely its value: named with the flag, and perhaps a password.
                let next =
                    arguments.get(at).and_then(|next| next.to_str()).filter(|_| named.starts_with('-'));
                strays.extend(next.filter(|next| !next.starts_with('-')).map(str::to_owned));
            }
            _ => return Err(Refused::Faults(faults)),
        }
    }
}

/// The error without what clap puts around it, and without a value that may hold a password.
fn sentence(command: &Command, error: &clap::Error) -> String {
    let mut text = error.to_string();
    if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
        && secret::flags(command).iter().any(|flag| text.contains(&format!("'--{flag} ")))
    {
        text = text.replace(&format!("'{value}' "), "");
    }
    let text = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Takes a flag out of the command line, with its value if it `takes_value`. Returns where it was.
fn take_out(arguments: &mut Vec<OsString>, flag: &str, takes_value: bool) -> Option<usize> {
    let is_it =
        |text: &str| text.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='));
    let at = 1 + arguments.iter().skip(1).position(|argument| argument.to_str().is_some_and(is_it))?;
    let with_value = takes_value && arguments[at] == *flag && at + 1 < arguments.len();
    arguments.drain(at..=at + usize::from(with_value));
    Some(at)
}

/// The command and its subcommands, blind to the environment of a flag.
fn without_environment(command: Command, flag: &str) -> Command {
    let is_it = |arg: &Arg| arg.get_long() == flag.strip_prefix("--");
    let blind = |arg: Arg| match is_it(&arg) {
        // The default that is hidden is what a file said.
        true if arg.is_hide_default_value_set() => arg.env(None).default_value(None).required(false),
        true => arg.env(None),
        false => arg,
    };
    command.mut_args(blind).mut_subcommands(|sub| without_environment(sub, flag))
}

/// Whether a sentence names a flag's setting, such as WAIT_MAX.
fn names(sentence: &str, flag: &str) -> bool {
    let setting = flag.trim_start_matches('-').to_uppercase().replace('-', "_");
    sentence
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .any(|word| word.eq_ignore_ascii_case(&setting))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::program::settings::{DatabaseSettings, KafkaSettings, TelemetrySettings, socket_address};

    #[derive(Debug, Parser)]
    struct Example {
        #[command(flatten)]
        kafka: KafkaSettings,
        #[command(flatten)]
        database: DatabaseSettings,
        #[command(flatten)]
        telemetry: TelemetrySettings,
        #[arg(long, value_parser = socket_address)]
        listen: Option<SocketAddr>,
    }

    impl Settings for Example {
        fn faults(&self) -> Vec<String> {
            let mut faults = Vec::new();
            if self.kafka.partitions == 13 {
                faults.push("PARTITIONS must not be thirteen".to_owned());
            }
            if self.kafka.kafka_brokers == "one" && self.kafka.idempotency_ttl == Duration::from_secs(86_400)
            {
                faults.push("KAFKA_BROKERS must not be one for an IDEMPOTENCY_TTL of a day".to_owned());
            }
            faults
        }
    }

    fn parse_example(arguments: &[&str]) -> Result<Example, Refused> {
        let arguments: Vec<OsString> =
            std::iter::once(&"example").chain(arguments).map(OsString::from).collect();
        parse(&arguments)
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let Err(Refused::Faults(faults)) = parse_example(&[
            "--partitions=0",
            "--idempotency-ttl=1ms",
            "--listen=nowhere",
            "--topic-prefix=x",
        ]) else {
            panic!("accepted")
        };
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults.iter().any(|fault| fault.contains("--partitions") && fault.contains("1..=1000")));
        assert!(
            faults
                .iter()
                .any(|fault| fault.contains("--idempotency-ttl") && fault.contains("between 1s and 365days"))
        );
        assert!(faults.iter().any(|fault| fault.contains("--listen") && fault.contains("IP:PORT")));
    }

    #[test]
    fn a_url_and_a_filter_that_cannot_be_read_are_faults_too_and_no_password_is_shown() {
        for url in ["mysql://u:planted@h/d", "postgres://u:planted@h:x/d", "planted"] {
            let url = format!("--database-url={url}");
            let Err(Refused::Faults(faults)) = parse_example(&[&url, "--log=info,x=loud", "--partitions=0"])
            else {
                panic!("accepted")
            };
            assert_eq!(faults.len(), 3, "{faults:?}");
            assert!(faults.iter().any(|fault| fault.contains("--log")), "{faults:?}");
            let of_url = faults.iter().find(|fault| fault.contains("--database-url")).unwrap();
            assert!(of_url.contains("must be a PostgreSQL URL") && !of_url.contains("planted"), "{of_url}");
        }
        let example =
            parse_example(&["--database-url=postgresql://u:p%40@h/d", "--log=info,x=debug"]).unwrap();
        assert_eq!(example.database.database_url, "postgresql://u:p%40@h/d");
        assert_eq!(example.telemetry.log, "info,x=debug");
    }

    #[derive(Debug, Parser)]
    struct WithCommands {
        #[command(subcommand)]
        _command: ExampleCommand,
    }

    #[derive(Debug, clap::Subcommand)]
    enum ExampleCommand {
        One {
            #[arg(long, value_parser = socket_address)]
            listen: SocketAddr,
            #[arg(long)]
            count: u8,
        },
        Two {
            #[arg(long, value_parser = socket_address)]
            listen: SocketAddr,
        },
    }

    impl Settings for WithCommands {
        fn faults(&self) -> Vec<String> {
            Vec::new()
        }
    }

    #[test]
    fn every_fault_of_a_subcommand_is_named_at_once() {
        for (arguments, count) in [
            (&["x", "one", "--listen=nowhere", "--count=256"][..], 2),
            (&["x", "two", "--listen=nowhere"], 1),
        ] {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            assert!(
                matches!(parse::<WithCommands>(&arguments), Err(Refused::Faults(faults)) if faults.len() == count)
            );
        }
    }

    #[test]
    fn bad_values_unknown_arguments_and_contradictions_are_named_together() {
        let Err(Refused::Faults(faults)) =
            parse_example(&["--no-such", "--partitions=13", "--listen", "nowhere", "--nor-this=1"])
        else {
            panic!("accepted")
        };
        let expected = ["--no-such", "--listen", "--nor-this", "PARTITIONS must not be thirteen"];
        assert_eq!(faults.len(), expected.len(), "{faults:?}");
        for expected in expected {
            assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:?}");
        }
    }

    /// It may be a password, given to a flag that was mistyped.
    #[test]
    fn the_value_of_an_unknown_argument_is_not_shown() {
        for arguments in [
            &["--databse-url", "planted", "--partitions=0"][..],
            &["--databse-url=planted", "--partitions=0"],
        ] {
            let Err(Refused::Faults(faults)) = parse_example(arguments) else { panic!("accepted") };
            assert_eq!(faults.len(), 2, "{faults:?}");
            assert!(faults[0].contains("--databse-url") && faults[1].contains("--partitions"), "{faults:?}");
            assert!(faults.iter().all(|fault| !fault.contains("planted")), "{faults:?}");
        }
    }

    #[test]
    fn a_bad_value_contradicts_nothing() {
        // The default that stands in for it is not what was asked for.
        let Err(Refused::Faults(faults)) = parse_example(&["--idempotency-ttl=1ms", "--kafka-brokers=one"])
        else {
            panic!("accepted")
        };
        assert_eq!(faults.len(), 1, "{faults:?}");
    }

    #[test]
    fn faults_between_fields_and_unknown_arguments_are_named() {
        assert!(matches!(parse_example(&["--partitions=13"]), Err(Refused::Faults(f)) if f.len() == 1));
        assert!(
            matches!(parse_example(&["--no-such"]), Err(Refused::Faults(f)) if f[0].contains("--no-such"))
        );
        assert!(matches!(parse_example(&["--help"]), Err(Refused::Help(_))));
    }

    #[test]
    fn good_settings_are_read() {
        let example = parse_example(&["--idempotency-ttl=1m 30s"]).unwrap();
        assert_eq!(example.kafka.idempotency_ttl, Duration::from_secs(90));
    }
}
