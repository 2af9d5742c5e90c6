//! The body of `main`: what every program that runs until a signal does around its work.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::program::open_files::{self, OpenFiles};
use crate::program::pages::{self, Readiness};
use crate::program::settings::{EXIT_CONFIG, TelemetrySettings};
use crate::program::start::BadConfiguration;
use crate::program::{shutdown, telemetry};

/// At the end a blocking Kafka request may be under way; it holds nothing that matters any more.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(1);

/// What a program is besides its work.
#[derive(Debug)]
pub struct Program {
    /// Address of the operators' pages.
    pub ops_listen: SocketAddr,
    /// Logs and metrics.
    pub telemetry: TelemetrySettings,
    /// How many files and connections it opens.
    pub open_files: OpenFiles,
    /// Dependencies without which it is not ready. They are down until the work reports otherwise.
    pub required: &'static [&'static str],
}

impl Program {
    /// Runs the work, which ends by itself after the first signal has cancelled its token, between logs, metrics and the
    /// operators' pages. The status is 0, or 78 after [`BadConfiguration`], or 1 after any other error.
    pub fn run<W>(self, work: impl FnOnce(Readiness, CancellationToken) -> W) -> ExitCode
    where
        W: Future<Output = anyhow::Result<()>>,
    {
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("error: cannot start: {error}");
                return ExitCode::FAILURE;
            }
        };
        let done = runtime.block_on(self.around(work));
        runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
        match done {
            Ok(()) => {
                tracing::info!("stopped");
                ExitCode::SUCCESS
            }
            Err(error) => {
                let is_bad = error.is::<BadConfiguration>();
                let why = if is_bad { "bad configuration" } else { "stopped by an error" };
                tracing::error!(error = format!("{error:#}"), "{why}");
                eprintln!("error: {error:#}");
                if is_bad {
                    ExitCode::from(u8::try_from(EXIT_CONFIG).unwrap_or(1))
                } else {
                    ExitCode::FAILURE
                }
            }
        }
    }

    async fn around<W>(self, work: impl FnOnce(Readiness, CancellationToken) -> W) -> anyhow::Result<()>
    where
        W: Future<Output = anyhow::Result<()>>,
    {
        let metrics = telemetry::start(&self.telemetry)?;
        open_files::raise(self.open_files);
        let stop = shutdown::on_signal()?;
        let readiness = Readiness::default();
        for name in self.required {
            readiness.register(name, true);
        }
        let listener = pages::bind(self.ops_listen).await?;
        let end = CancellationToken::new();
        let pages = tokio::spawn(pages::serve(listener, readiness.clone(), metrics, end.clone()));
        let done = Box::pin(work(readiness, stop)).await;
        end.cancel();
        pages.await.context("operator pages")??;
        done
    }
}
