//! docs/configuration.md: its tables say what `--help` says, and the bounds in them are the ones that hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::process::{Command, Output};

use milepost_shared::program::settings::EXIT_CONFIG;
use milepost_tests::Services;

const CONFIGURATION: &str = include_str!("../../../docs/configuration.md");
/// What else reads the environment, by its heading in the document: `${NAME:-default}`, or `${NAME:?why}` if required.
const SCRIPTS: [(&str, &[&str]); 2] = [
    (
        "## The scripts",
        &[
            include_str!("../../../services/settings.sh"),
            include_str!("../../../services/postgres"),
            include_str!("../../../services/run"),
        ],
    ),
    ("## docker compose", &[include_str!("../../../docker-compose.yml")]),
];
const PROGRAMS: [&str; 4] = ["milepost-gateway", "milepost-consumer", "milepost-admin", "milepost-phone"];

/// A setting: a row of the document, but for its last cell, which is the document's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Setting {
    environment: String,
    flag: String,
    default: String,
    help: String,
}

/// As the document has it, so that a failure shows what to write there.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { environment, flag, default, help } = self;
        let code = |text: &str| match text {
            "" | "required" => text.to_owned(),
            other => format!("`{other}`"),
        };
        write!(f, "| {} | `{flag}` | {} | {help} |", code(environment), code(default))
    }
}

/// Settings by the command that reads them, such as `milepost-admin topics create`.
type Commands = BTreeMap<String, BTreeSet<Setting>>;

/// Runs a command to its end with nothing in its environment.
fn run(command: &str, arguments: &[String]) -> Output {
    let mut words = command.split(' ');
    let binary =
        Services::shared().expect("the tests' servers").bin_dir.join(words.next().unwrap_or_default());
    let mut process = Command::new(&binary);
    // So wide that no help text is broken.
    process.args(words).args(arguments).env_clear().env("COLUMNS", "10000");
    process.output().unwrap_or_else(|error| panic!("{} is not built: {error}", binary.display()))
}

fn help(command: &str) -> String {
    let output = run(command, &["--help".to_owned()]);
    assert!(output.status.success(), "{command} --help");
    String::from_utf8(output.stdout).expect("help is text")
}

/// The settings of a command, or of its subcommands.
fn find(command: String, found: &mut Commands) {
    let help = help(&command);
    let Some((_, subcommands)) = help.split_once("\nCommands:\n") else {
        found.insert(command, settings(&help));
        return;
    };
    let own = settings(&help);
    if !own.is_empty() {
        found.insert(command.clone(), own);
    }
    for line in subcommands.lines().take_while(|line| !line.is_empty()) {
        match line.split_whitespace().next() {
            Some("help") | None => {}
            Some(name) => find(format!("{command} {name}"), found),
        }
    }
}

fn settings(help: &str) -> BTreeSet<Setting> {
    let (_, help) = help.split_once("Usage: ").expect("help shows the usage");
    let (usage, help) = help.split_once('\n').expect("options follow");
    let mut blocks: Vec<String> = Vec::new();
    for line in help.lines().map(str::trim) {
        if ["--", "-h", "-V", "<"].iter().any(|beginning| line.starts_with(beginning)) {
            blocks.push(String::new());
        }
        if let Some(block) = blocks.last_mut().filter(|_| line != "Options:") {
            block.push_str(line);
            block.push(' ');
        }
    }
    blocks.iter().filter_map(|block| setting(usage, block)).collect()
}

/// A setting out of its block, such as `--partitions <PARTITIONS> Partitions of .. [env: PARTITIONS=] [default: 6]`.
fn setting(usage: &str, block: &str) -> Option<Setting> {
    let (flag, text) = block.split_once(' ')?;
    if flag.starts_with("-h") || flag.starts_with("-V") {
        return None;
    }
    let mut text = text.trim_start();
    if let Some(("", rest)) = text.split_once('<') {
        text = rest.split_once('>')?.1;
    }
    let mut text = text.to_owned();
    let environment = take(&mut text, "[env: ").unwrap_or_default().trim_end_matches('=').to_owned();
    let default = take(&mut text, "[default: ").unwrap_or_else(|| {
        let required = usage.split_whitespace().any(|word| word == flag);
        if required { "required".to_owned() } else { String::new() }
    });
    let help = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let help = help.replace(" Possible values: - ", "; ").replace(" - ", "; ");
    Some(Setting { environment, flag: flag.to_owned(), default, help })
}

fn take(text: &mut String, beginning: &str) -> Option<String> {
    let begin = text.find(beginning)?;
    let end = begin + text[begin..].find(']')?;
    let taken = text[begin + beginning.len()..end].to_owned();
    text.replace_range(begin..=end, "");
    Some(taken)
}

/// The rows of a table, without its head, as cells.
fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    let cells =
        |line: &'static str| -> Vec<&str> { line.trim_matches('|').split('|').map(str::trim).collect() };
    table.lines().filter(|line| line.starts_with('|')).skip(2).map(cells)
}

/// The settings of the document: the tables below a line `Read by` and the commands.
fn documented() -> Commands {
    let mut commands = Commands::new();
    let mut readers: Vec<&str> = Vec::new();
    for paragraph in CONFIGURATION.split("\n\n") {
        if paragraph.starts_with('#') {
            readers.clear();
        } else if let Some(list) = paragraph.strip_prefix("Read by ") {
            readers = list.split('`').skip(1).step_by(2).collect();
        } else if !readers.is_empty() {
            for row in rows(paragraph) {
                let [environment, flag, default, help, _when] = row[..] else { panic!("{row:?}") };
                let [environment, flag, default] =
                    [environment, flag, default].map(|cell| cell.replace('`', ""));
                let setting = Setting { environment, flag, default, help: help.to_owned() };
                for reader in &readers {
                    let is_new = commands.entry((*reader).to_owned()).or_default().insert(setting.clone());
                    assert!(is_new, "{reader} has two rows for {}", setting.flag);
                }
            }
        }
    }
    commands
}

#[test]
fn the_document_of_settings_and_the_help_of_every_command_say_the_same() {
    let mut existing = Commands::new();
    PROGRAMS.iter().for_each(|program| find((*program).to_owned(), &mut existing));
    let documented = documented();
    assert_eq!(
        documented.keys().collect::<Vec<_>>(),
        existing.keys().collect::<Vec<_>>(),
        "the commands documented, and those that exist"
    );
    for (command, settings) in &existing {
        let written = &documented[command];
        let lines =
            |settings: Vec<&Setting>| settings.iter().map(|one| format!("{one}\n")).collect::<String>();
        let missing = lines(settings.difference(written).collect());
        let invented = lines(written.difference(settings).collect());
        assert!(
            missing.is_empty() && invented.is_empty(),
            "{command}\n-- the help says, and the document does not:\n{missing}\
             -- the document says, and the help does not:\n{invented}"
        );
    }
}

/// The bounds that a help text names, as `[1s..=365d]` or as `1 to 10000`: the least value and the greatest.
fn bounds(help: &str) -> Option<(&str, &str)> {
    if let Some((before, after)) = help.split_once("..=") {
        let (min, max) = (before.rsplit_once('[')?.1, after.split_once(']')?.0);
        return max.bytes().all(|b| b.is_ascii_alphanumeric()).then_some((min, max));
    }
    let words: Vec<&str> = help.split([' ', ',', '.']).collect();
    let pair = words.windows(3).find(|three| {
        three[1] == "to"
            && [three[0], three[2]].iter().all(|word| word.starts_with(|c: char| c.is_ascii_digit()))
    })?;
    Some((pair[0], pair[2]))
}

/// A number and its unit, which is empty for a count.
fn number(text: &str) -> (u64, &str) {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (text[..digits].parse().expect("a bound is a number"), &text[digits..])
}

/// Whether a default is a count or a duration.
fn is_quantity(default: &str) -> bool {
    default.starts_with(|c: char| c.is_ascii_digit()) && default.chars().all(|c| c.is_ascii_alphanumeric())
}

/// The greatest value below a bound; `None` below nothing.
fn below(min: &str) -> Option<String> {
    let (count, unit) = number(min);
    let count = count.checked_sub(1)?;
    Some(match unit {
        "" => count.to_string(),
        "ms" => format!("{count}ms 999us"),
        "s" => format!("{count}s 999ms"),
        other => panic!("a least value in {other}"),
    })
}

/// The least value above a bound.
fn above(max: &str) -> String {
    match number(max) {
        (count, "") => (count + 1).to_string(),
        _ => format!("{max} 1ms"),
    }
}

/// Those of the options that a command refuses, all at once.
fn refused<'a>(command: &str, options: &BTreeMap<&'a str, String>) -> Vec<&'a str> {
    let mut arguments: Vec<String> = options.iter().map(|(flag, value)| format!("{flag}={value}")).collect();
    // One fault is certain, so that no program starts.
    if command == "milepost-phone" {
        arguments.extend(["--url=http://a", "--api-key=a", "--device-id=", "a.gpx"].map(str::to_owned));
    } else {
        arguments.push("--no-such-option".to_owned());
    }
    let output = run(command, &arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(EXIT_CONFIG), "{command} {arguments:?}: {stderr}");
    let names = |flag: &str| stderr.split_whitespace().any(|word| word.trim_matches('\'') == flag);
    options.keys().copied().filter(|flag| names(flag)).collect()
}

#[test]
fn every_bound_in_the_document_holds_and_is_the_last_value_that_is_accepted() {
    let mut checked = 0;
    for (command, settings) in documented() {
        let is_unbounded = |one: &&Setting| bounds(&one.help).is_none() && !one.help.contains("any duration");
        let unbounded: Vec<&Setting> =
            settings.iter().filter(|one| is_quantity(&one.default)).filter(is_unbounded).collect();
        assert!(unbounded.is_empty(), "{command} does not state the bounds of {unbounded:?}");
        let bounded: BTreeMap<&str, (&str, &str)> =
            settings.iter().filter_map(|one| Some((one.flag.as_str(), bounds(&one.help)?))).collect();
        checked += bounded.len();
        let edge = |value: &dyn Fn((&str, &str)) -> Option<String>| -> BTreeMap<&str, String> {
            bounded.iter().filter_map(|(flag, bounds)| Some((*flag, value(*bounds)?))).collect()
        };
        for inside in [edge(&|(min, _)| Some(min.to_owned())), edge(&|(_, max)| Some(max.to_owned()))] {
            assert_eq!(refused(&command, &inside), Vec::<&str>::new(), "{command}: {inside:?}");
        }
        for outside in [edge(&|(min, _)| below(min)), edge(&|(_, max)| Some(above(max)))] {
            let all: Vec<&str> = outside.keys().copied().collect();
            assert_eq!(refused(&command, &outside), all, "{command}: {outside:?}");
        }
    }
    assert!(checked > 50, "the bounds are not read");
}

/// The variables that a script takes from its environment, with their defaults.
fn variables(script: &'static str) -> impl Iterator<Item = (String, String)> {
    script.split("${").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once(':')?;
        if !name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') {
            return None;
        }
        let default = match rest.strip_prefix('-') {
            Some(default) => default.split_once('}')?.0,
            None => "required",
        };
        Some((name.to_owned(), default.to_owned()))
    })
}

#[test]
fn the_file_with_the_passwords_of_docker_compose_gets_into_no_commit_and_no_image() {
    for ignored in [include_str!("../../../.gitignore"), include_str!("../../../.dockerignore")] {
        assert!(ignored.lines().any(|line| line == "**/.env"), "{ignored}");
        assert!(ignored.lines().any(|line| line == "**/.env.*"), "{ignored}");
    }
}

#[test]
fn the_health_checks_of_docker_compose_are_the_programs_own_and_need_no_shell() {
    let compose = include_str!("../../../docker-compose.yml");
    for program in ["milepost-gateway", "milepost-consumer"] {
        let probe = format!("test: [CMD, {program}, healthcheck]");
        assert_eq!(compose.lines().filter(|line| line.trim() == probe).count(), 1, "{probe}");
    }
    assert!(!compose.contains("curl"));
}

#[test]
fn the_document_names_what_the_scripts_and_docker_compose_take_from_the_environment() {
    for (heading, scripts) in SCRIPTS {
        let section = CONFIGURATION.split_once(heading).expect("the section is there").1;
        let section = section.split("\n## ").next().unwrap_or_default();
        let written: BTreeSet<(String, String)> =
            rows(section).map(|row| (row[0].replace('`', ""), row[1].replace('`', ""))).collect();
        let read: BTreeSet<(String, String)> = scripts.iter().copied().flat_map(variables).collect();
        assert_eq!(written, read, "{heading}");
        assert!(read.len() > 5, "the scripts are not read");
    }
}
