//! `milepost-phone`: plays a GPX file against Milepost. See `--help` and the library's documentation.

mod arguments;

use std::fs::File;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use indicatif::{ProgressBar, ProgressStyle};
use milepost_phone::batch::Cut;
use milepost_phone::track::{LISTED_MAX, Survey, Track};
use milepost_phone::{Event, Installed, Outcome, Phone, Summary};

use crate::arguments::Arguments;

/// Something failed.
const FAILED: u8 = 1;
/// `EX_CONFIG` of `sysexits.h`: bad arguments.
const BAD_ARGUMENTS: u8 = 78;
/// How far a point may be ahead of the clock: as gateways have it by themselves.
const AHEAD_MAX: Duration = Duration::from_secs(86_400);
/// What a shell reports for a program ended by Ctrl-C.
const INTERRUPTED: u8 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Fails only when nobody is left to read it. Help and version are no errors and go to standard
            // output.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { BAD_ARGUMENTS } else { 0 });
        }
    };
    let checked = arguments.read_api_key().and_then(|()| arguments.check());
    let phone = match checked.and_then(|()| Phone::new(arguments.settings())) {
        Ok(phone) => phone,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(BAD_ARGUMENTS);
        }
    };
    match run(&arguments, &phone).await {
        Ok(summary) if summary.unfinished > 0 => ExitCode::from(INTERRUPTED),
        Ok(summary) if summary.failures.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(FAILED),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(FAILED)
        }
    }
}

async fn run(arguments: &Arguments, phone: &Phone) -> anyhow::Result<Summary> {
    let name = arguments.gpx.display();
    // A file of its own for each time: they share no place in it.
    let open = || File::open(&arguments.gpx);
    let cut = Cut { size: arguments.batch_size, gap: *arguments.batch_gap };
    let mut track = Track::survey(open, cut, latest()).with_context(|| format!("{name} is not sent"))?;
    let found = track.found().clone();
    report(&name.to_string(), &found);

    let interrupted = AtomicBool::new(false);
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            // No handler could be set: the signal ends the program its own way.
            std::future::pending().await
        }
        interrupted.store(true, Ordering::Relaxed);
    };
    let (twice, device_id) = (arguments.twice, &arguments.device_id);
    let (summary, table, json);
    if let Some(app) = arguments.app {
        let bar = progress_bar((found.points * if twice { 2 } else { 1 }) as u64, "points");
        let installed = Installed { app, device_id, gathering: arguments.batch_size };
        let show = |event: Event<'_>| show(&bar, event, |outcome| outcome.locations);
        summary = phone.play_app(installed, &mut track, twice, interrupt, show).await;
        bar.finish_and_clear();
        (table, json) = (summary.app_table(&found), summary.app_json(&found));
    } else {
        let uploads = track.uploads(device_id);
        let bar = progress_bar(uploads.len() as u64, "uploads");
        summary = phone.play_until(uploads, twice, interrupt, |event| show(&bar, event, |_| 1)).await;
        bar.finish_and_clear();
        (table, json) = (summary.table(&found), summary.json(&found));
    }

    if arguments.json {
        println!("{json}");
    } else {
        println!("{table}");
    }
    let is_explained = summary.unfinished == 0 || interrupted.load(Ordering::Relaxed);
    ensure!(is_explained, "{name} was changed while it was read");
    Ok(summary)
}

/// The latest time of a point that a gateway takes, in milliseconds since 1970, as far as is known here.
fn latest() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the phone has no other clock, and this one is read once")]
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from((since_1970 + AHEAD_MAX).as_millis()).unwrap_or(i64::MAX)
}

/// Says what of a file is not sent, on standard error.
fn report(name: &str, found: &Survey) {
    for bad in &found.bad_listed {
        eprintln!("{name}: a point is left out: {bad}");
    }
    if found.bad > LISTED_MAX {
        eprintln!("{name}: and {} more such points", found.bad - LISTED_MAX);
    }
    if found.without_time > 0 {
        eprintln!("{} points of {name} have no time and are left out", found.without_time);
    }
    if let Some(line) = found.cut_off {
        eprintln!("{name}: warning: the file is cut off at line {line}; its whole points are sent");
    }
    if found.points == 0 {
        eprintln!("{name}: there is no point that can be sent");
    }
}

/// Drawn on standard error, and only when that is a terminal.
fn progress_bar(length: u64, unit: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(&format!("{{bar:30}} {{pos}}/{{len}} {unit} {{wide_msg}}"));
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn show(bar: &ProgressBar, event: Event<'_>, progress: impl Fn(&Outcome) -> u64) {
    match event {
        Event::Pausing { reason, pause } => bar.set_message(format!("{reason}; next try in {pause:.1?}")),
        Event::Finished(outcome) => {
            bar.inc(progress(outcome));
            bar.set_message("");
        }
    }
}
