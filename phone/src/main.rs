//! `milepost-phone`: plays a GPX file against Milepost. See `--help` and the library's documentation.

mod arguments;

use std::fs::File;
use std::io::BufReader;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use indicatif::{ProgressBar, ProgressStyle};
use milepost_phone::{Phone, Progress, Summary, batch, track};

use crate::arguments::Arguments;

/// Something failed.
const FAILED: u8 = 1;
/// `EX_CONFIG` of `sysexits.h`: bad arguments.
const BAD_ARGUMENTS: u8 = 78;
/// What a shell reports for a program ended by Ctrl-C.
const INTERRUPTED: u8 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Fails only when nobody is left to read it. Help and version are no errors and go to standard
            // output.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { BAD_ARGUMENTS } else { 0 });
        }
    };
    let phone = match arguments.check().and_then(|()| Phone::new(arguments.settings())) {
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
    let file = File::open(&arguments.gpx).with_context(|| format!("cannot open {name}"))?;
    let track = track::read(BufReader::new(file)).with_context(|| format!("{name} is not GPX"))?;
    if track.without_time > 0 {
        eprintln!("{} points of {name} have no time and are left out", track.without_time);
    }
    let uploads = batch::cut(&arguments.device_id, &track.points, arguments.batch_size, *arguments.batch_gap);

    let bar = progress_bar(uploads.len() as u64);
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            // No handler could be set: the signal ends the program its own way.
            std::future::pending().await
        }
    };
    let summary =
        phone.play_until(&uploads, arguments.twice, interrupt, |progress| show(&bar, progress)).await;
    bar.finish_and_clear();

    if arguments.json {
        println!("{}", summary.json(track.without_time));
    } else {
        println!("{}", summary.table(track.without_time));
    }
    Ok(summary)
}

/// Drawn on standard error, and only when that is a terminal.
fn progress_bar(uploads: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} uploads {wide_msg}");
    ProgressBar::new(uploads).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn show(bar: &ProgressBar, progress: Progress<'_>) {
    match progress {
        Progress::Pausing { reason, pause } => bar.set_message(format!("{reason}; next try in {pause:.1?}")),
        Progress::Finished(_) => {
            bar.inc(1);
            bar.set_message("");
        }
    }
}
