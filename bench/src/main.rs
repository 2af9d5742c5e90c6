//! `milepost-bench`: runs the benchmark, or an opponent in it.

use std::process::ExitCode;

use clap::Parser as _;
use milepost_bench::arguments::{Arguments, OpponentArguments};
use milepost_bench::{noop, opponent, plain, run};
use tokio::signal::unix::{SignalKind, signal};

/// As the programs': what they are compared with has the same.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.opponent {
        Some(OpponentArguments::Noop) => opponent::serve(noop::router()).await.map(|()| true),
        Some(OpponentArguments::Plain { database_url, connections }) => {
            serve_plain(database_url, *connections).await.map(|()| true)
        }
        None => until_stopped(&arguments).await,
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve_plain(database_url: &str, connections: u32) -> anyhow::Result<()> {
    opponent::serve(plain::router(database_url, connections).await?).await
}

/// The servers are in sessions of their own: a Ctrl-C reaches them only by their being dropped.
async fn until_stopped(arguments: &Arguments) -> anyhow::Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = run::run(arguments) => done,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("stopped"),
        _ = terminate.recv() => anyhow::bail!("stopped"),
    }
}
