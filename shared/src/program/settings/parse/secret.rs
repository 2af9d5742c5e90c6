//! Secrets from files: for a setting whose value `--help` hides, `NAME_FILE` names a file that holds it, as Docker and Kubernetes
//! mount it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use clap::{Arg, Command};

/// Longest secret that is read from a file, bytes.
const BYTES_MAX: u64 = 64 * 1024;

/// A command that knows the secrets that are in files, and what is wrong with the others.
#[derive(Debug)]
pub struct Secrets {
    /// The command.
    pub command: Command,
    /// One sentence each; no secret in it.
    pub faults: Vec<String>,
}

impl Secrets {
    /// Reads the files that the environment names for those settings that the arguments' command has. An argument on the command
    /// line has precedence, as it has over the environment.
    #[must_use]
    pub fn from_files(
        command: Command,
        arguments: &[OsString],
        environment: impl Fn(&str) -> Option<OsString> + Copy,
    ) -> Self {
        let mut faults = Vec::new();
        let words = arguments.iter().skip(1);
        let command = with_files(command, words, environment, &mut faults);
        Self { command, faults }
    }
}

/// Goes from the command to the subcommand that the arguments name.
fn with_files<'a>(
    command: Command,
    mut words: impl Iterator<Item = &'a OsString>,
    environment: impl Fn(&str) -> Option<OsString> + Copy,
    faults: &mut Vec<String>,
) -> Command {
    let mut read = |arg: Arg| match from_file(&arg, environment) {
        None => arg,
        // Taken for a default: only the process itself sees it, and not in its help.
        Some(Ok(secret)) => arg.env(None).required(false).default_value(secret).hide_default_value(true),
        Some(Err(fault)) => {
            faults.push(fault);
            // What is missing may be what could not be read.
            arg.env(None).required(false)
        }
    };
    let command = command.mut_args(&mut read);
    let named =
        words.next().and_then(|word| command.find_subcommand(word)).map(|named| named.get_name().to_owned());
    match named {
        Some(named) => command.mut_subcommand(named, |sub| with_files(sub, words, environment, faults)),
        None => command,
    }
}

/// The secret of a setting, if a file is named for it.
fn from_file(arg: &Arg, environment: impl Fn(&str) -> Option<OsString>) -> Option<Result<String, String>> {
    let name = arg.get_env().and_then(OsStr::to_str).filter(|_| arg.is_hide_env_values_set())?;
    let variable = format!("{name}_FILE");
    let file = environment(&variable)?;
    if environment(name).is_some() {
        return Some(Err(format!("{name} and {variable} must not both be set")));
    }
    Some(read(Path::new(&file)).map_err(|why| format!("{variable}: the file {} {why}", printable(&file))))
}

/// Without the newline that an editor puts at the end.
fn read(file: &Path) -> Result<String, String> {
    let mut text = Vec::new();
    let read = File::open(file).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut text));
    let bytes = read.map_err(|error| format!("cannot be read: {}", error.kind()))?;
    if bytes as u64 > BYTES_MAX {
        return Err(format!("has more than {BYTES_MAX} bytes"));
    }
    let text = String::from_utf8(text).map_err(|_| "is not text".to_owned())?;
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.is_empty() {
        return Err("is empty".to_owned());
    }
    Ok(secret.to_owned())
}

fn printable(file: &OsStr) -> String {
    file.to_string_lossy().chars().filter(|char| !char.is_control()).collect()
}

/// The flags of the settings whose values are not to be shown.
pub(super) fn flags(command: &Command) -> Vec<String> {
    let secret = command.get_arguments().filter(|arg| arg.is_hide_env_values_set());
    let own = secret.filter_map(|arg| arg.get_long().map(str::to_owned));
    own.chain(command.get_subcommands().flat_map(flags)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let secret = |name: &'static str, variable: &'static str| {
            Arg::new(name).long(name).env(variable).hide_env_values(true)
        };
        let open = Arg::new("open").long("open").env("MILEPOST_TEST_OPEN");
        let sub = Command::new("sub").arg(secret("inner", "MILEPOST_TEST_INNER").required(true));
        Command::new("test").arg(secret("outer", "MILEPOST_TEST_OUTER")).arg(open).subcommand(sub)
    }

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        /// A file, and the variable that names it.
        fn with(&self, variable: &'static str, content: &str) -> (&'static str, OsString) {
            let file = self.0.path().join(variable);
            std::fs::write(&file, content).unwrap();
            (variable, file.into())
        }
    }

    fn read(arguments: &[&str], environment: &[(&'static str, OsString)]) -> (Vec<String>, Option<String>) {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let variable = |name: &str| Some(environment.iter().find(|(known, _)| *known == name)?.1.clone());
        let Secrets { command, faults } = Secrets::from_files(command(), &arguments, variable);
        let matches = command.try_get_matches_from(&arguments).unwrap();
        let matches = matches.subcommand().map_or(matches.clone(), |(_, sub)| sub.clone());
        let value = ["outer", "inner", "open"]
            .iter()
            .find_map(|name| matches.try_get_one::<String>(name).ok().flatten().cloned());
        (faults, value)
    }

    #[test]
    fn a_secret_comes_from_the_file_without_its_last_newline() {
        let files = Files::new();
        for (content, secret) in [("s", "s"), ("s\n", "s"), ("s\r\n", "s"), (" s \n\n", " s \n")] {
            let environment = [files.with("MILEPOST_TEST_OUTER_FILE", content)];
            assert_eq!(read(&["test"], &environment), (vec![], Some(secret.to_owned())));
        }
        let environment = [files.with("MILEPOST_TEST_INNER_FILE", "inner")];
        assert_eq!(read(&["test", "sub"], &environment), (vec![], Some("inner".to_owned())));
        assert_eq!(read(&["test", "sub", "--inner=flag"], &environment), (vec![], Some("flag".to_owned())));
    }

    #[test]
    fn what_cannot_be_used_is_named_by_its_setting_and_never_shown() {
        let files = Files::new();
        let file = files.with("MILEPOST_TEST_OUTER_FILE", "planted");
        let both = [file, ("MILEPOST_TEST_OUTER", "planted".into())];
        let missing = [("MILEPOST_TEST_OUTER_FILE", OsString::from("/nowhere/at/all"))];
        let endless = [("MILEPOST_TEST_OUTER_FILE", OsString::from("/dev/zero"))];
        let empty = [files.with("MILEPOST_TEST_OUTER_FILE", "\n")];
        for (environment, wanted) in [
            (&both[..], "MILEPOST_TEST_OUTER and MILEPOST_TEST_OUTER_FILE must not both be set"),
            (&missing[..], "/nowhere/at/all cannot be read: entity not found"),
            (&endless[..], "has more than 65536 bytes"),
            (&empty[..], "is empty"),
        ] {
            let (faults, value) = read(&["test"], environment);
            assert_eq!((faults.len(), value), (1, None), "{faults:?}");
            assert!(
                faults[0].contains("MILEPOST_TEST_OUTER_FILE") && faults[0].contains(wanted),
                "{faults:?}"
            );
            assert!(!faults[0].contains("planted"), "{faults:?}");
        }
    }

    #[test]
    fn a_file_for_what_is_no_secret_or_of_another_command_is_not_read() {
        let missing = |variable| [(variable, OsString::from("/nowhere"))];
        assert_eq!(read(&["test"], &missing("MILEPOST_TEST_OPEN_FILE")), (vec![], None));
        assert_eq!(read(&["test"], &missing("MILEPOST_TEST_INNER_FILE")), (vec![], None));
    }
}
