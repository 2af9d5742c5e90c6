//! The one way to read settings: arguments, then environment, then defaults, with every fault reported at once.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};

/// Exit status for a bad configuration (`EX_CONFIG` of sysexits.h).
pub const EXIT_CONFIG: i32 = 78;

/// A program's settings: parsed field by field, then checked against each other.
pub trait Settings: Parser + CommandFactory {
    /// Faults that no single field shows, one sentence each.
    fn faults(&self) -> Vec<String>;
}

/// Reads the settings of this process, or prints every fault and exits with 78 (0 after `--help` or `--version`).
#[must_use]
pub fn read<S: Settings>() -> S {
    match parse::<S>(&std::env::args_os().collect::<Vec<_>>()) {
        Ok(settings) => settings,
        Err(Refused::Told(error)) => error.exit(),
        Err(Refused::Faults(faults)) => {
            for fault in &faults {
                eprintln!("error: {fault}");
            }
            eprintln!("\nFor the bounds of each setting, try '--help'.");
            std::process::exit(EXIT_CONFIG);
        }
    }
}

/// Why there are no settings.
#[derive(Debug)]
pub enum Refused {
    /// `--help` or `--version` was asked for.
    Told(clap::Error),
    /// Everything that is wrong, one sentence each.
    Faults(Vec<String>),
}

/// As [`read`], from the arguments given (the first is the program's name).
///
/// # Errors
/// [`Refused`], with every fault rather than the first.
pub fn parse<S: Settings>(arguments: &[OsString]) -> Result<S, Refused> {
    let mut command = S::command();
    let mut arguments = arguments.to_vec();
    let (mut faults, mut bad, mut strays) = (Vec::new(), Vec::<String>::new(), Vec::<String>::new());
    // clap stops at the first fault. So what is at fault is taken out, which leaves its default, and parsing is tried
    // again: it ends, since each round takes something out.
    loop {
        let error = match command.clone().try_get_matches_from(&arguments) {
            Ok(matches) => match S::from_arg_matches(&matches) {
                Ok(settings) => {
                    // A default contradicts nothing that was asked for.
                    let contradictions = settings.faults().into_iter();
                    faults
                        .extend(contradictions.filter(|fault| !bad.iter().any(|named| names(fault, named))));
                    return if faults.is_empty() { Ok(settings) } else { Err(Refused::Faults(faults)) };
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        let named = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(named)) => named.as_str(),
            _ => "",
        };
        let taken_out = match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return Err(Refused::Told(error)),
            ErrorKind::MissingRequiredArgument if only_what_was_bad_is_missing(&error, &bad) => {
                return Err(Refused::Faults(faults));
            }
            ErrorKind::UnknownArgument => {
                if !strays.iter().any(|stray| stray == named) {
                    faults.push(sentence(&error));
                }
                let at = take_out(&mut arguments, named, false);
                // What follows a mistyped flag is likely its value: told with the flag, and perhaps a password.
                let next = at.filter(|_| named.starts_with('-')).and_then(|at| arguments.get(at)?.to_str());
                strays.extend(next.filter(|next| !next.starts_with('-')).map(str::to_owned));
                at.is_some()
            }
            ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
                faults.push(sentence(&error));
                bad.push(named.to_owned());
                take_out(&mut arguments, flag(named), true).is_some() || hide_environment(&mut command, named)
            }
            _ => {
                faults.push(sentence(&error));
                false
            }
        };
        if !taken_out {
            return Err(Refused::Faults(faults));
        }
    }
}

/// The error without what clap puts around it, and without a value that may hold a password.
fn sentence(error: &clap::Error) -> String {
    let mut text = error.to_string();
    if let Some(ContextValue::String(named)) = error.get(ContextKind::InvalidArg)
        && named.starts_with("--database-url")
        && let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
    {
        text = text.replace(&format!("'{value}' "), "");
    }
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let text = text.split("\n\nUsage:").next().unwrap_or(text);
    let text = text.split("\n\nFor more information").next().unwrap_or(text);
    // A tip such as "a similar argument exists" is clap's guess.
    let text = text.split("\n\n  tip:").next().unwrap_or(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Takes an argument, such as `--partitions`, out of the command line, with its value if it `takes_value`. Returns where it
/// was.
fn take_out(arguments: &mut Vec<OsString>, name: &str, takes_value: bool) -> Option<usize> {
    let given = |argument: &OsString| {
        argument.to_str().is_some_and(|text| {
            text.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        })
    };
    let at = 1 + arguments.iter().skip(1).position(given)?;
    let with_value = takes_value && arguments[at] == *name && at + 1 < arguments.len();
    arguments.drain(at..=at + usize::from(with_value));
    Some(at)
}

/// Makes the command blind to the environment of an argument, spelled out as in `--partitions <PARTITIONS>`.
fn hide_environment(command: &mut clap::Command, named: &str) -> bool {
    let mut built = command.clone();
    built.build();
    let hidden = without_environment(command.clone(), &built, named);
    let found = hidden.is_some();
    if let Some(hidden) = hidden {
        *command = hidden;
    }
    found
}

/// The command blind to an argument's environment; `None` if neither it nor one of its subcommands has such an argument
/// with an environment.
///
/// Only a built command's arguments can be spelled out, and only an unbuilt command can be changed.
fn without_environment(
    mut command: clap::Command,
    built: &clap::Command,
    named: &str,
) -> Option<clap::Command> {
    if let Some(arg) = built.get_arguments().find(|arg| arg.to_string() == named) {
        arg.get_env()?;
        return Some(command.mut_arg(arg.get_id(), |arg| arg.env(None)));
    }
    let mut found = false;
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        let Some(built) = built.find_subcommand(&name) else { continue };
        command = command.mut_subcommand(&name, |sub| {
            let changed = without_environment(sub.clone(), built, named);
            found |= changed.is_some();
            changed.unwrap_or(sub)
        });
    }
    found.then_some(command)
}

/// Whether what is missing had a value, which was told to be bad.
fn only_what_was_bad_is_missing(error: &clap::Error, bad: &[String]) -> bool {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(missing)) => missing.iter().all(|named| bad.contains(named)),
        _ => false,
    }
}

/// Whether a sentence names a setting, spelled out as in `--wait-max <WAIT_MAX>`, by its environment's name.
fn names(sentence: &str, named: &str) -> bool {
    let setting = flag(named).trim_start_matches('-').to_uppercase().replace('-', "_");
    sentence
        .split(|character: char| !character.is_ascii_alphanumeric() && character != '_')
        .any(|word| word.eq_ignore_ascii_case(&setting))
}

fn flag(named: &str) -> &str {
    named.split(' ').next().unwrap_or(named)
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
    fn a_url_and_a_filter_that_cannot_be_read_are_faults_too_and_no_password_is_told() {
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
    fn the_value_of_an_unknown_argument_is_not_told() {
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
        assert!(matches!(parse_example(&["--help"]), Err(Refused::Told(_))));
    }

    #[test]
    fn good_settings_are_read() {
        let example = parse_example(&["--idempotency-ttl=1m 30s"]).unwrap();
        assert_eq!(example.kafka.idempotency_ttl, Duration::from_secs(90));
    }
}
